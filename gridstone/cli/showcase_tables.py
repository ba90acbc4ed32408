"""The demo's results as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from gridstone.cli.console import Json, microseconds, put_table
from gridstone.cli.layers import LayerTimes, as_plain, epilogue_text
from gridstone.cli.showcase import FORMAT, MIB, Showcase
from gridstone.cli.tune import put_tunings, tuning_json

LAYER_COLUMNS = (
    "layer N x K", "epilogue", ">M", ">library f32", ">library bf16", ">default", ">tuned", ">vs f32", ">vs faster",
    ">of roofline", "tuned schedule",
)  # fmt: skip


def put_layers(title: str, layers: Sequence[LayerTimes]) -> None:
    """Print a table of layers."""
    rows: list[tuple[str, ...]] = []
    for one in layers:
        x, w = one.spec.input("x"), one.spec.input("w")
        ours, f32 = one.seconds(one.best), one.seconds("library f32")
        rows.append(
            (
                f"{w.static(0)} x {w.static(1)}",
                epilogue_text(one.spec),
                str(x.static(0)),
                microseconds(f32),
                microseconds(one.seconds("library bf16")),
                microseconds(one.seconds("default")),
                microseconds(one.seconds("tuned")),
                _times(f32 / ours if ours and f32 else None),
                _times(one.ratio),
                _percent(one.share(one.best)),
                next((c.note.split(" ", 1)[1] for c in one.contestants if c.name == "tuned"), "no record"),
            )
        )
    note = "`vs` is the library's time by the tuned kernel's; roofline: bandwidth and peak measured in the same rounds"
    put_table(title, LAYER_COLUMNS, rows, note)


def put_tables(shown: Showcase) -> None:
    """Print all of the demo's tables."""
    if shown.tunings:
        put_tunings(f"Tuning, {shown.threads} threads", list(shown.tunings))
    if shown.layers:
        put_layers(f"Layers of all-MiniLM-L6-v2 in {FORMAT}, operands rotated beyond the caches", shown.layers)
    row = shown.language_model
    if row is not None:
        title = f"A language model's layer, int4 g128, bf16, one token, weights rotated over {row.rotated // MIB} MiB"
        put_layers(title, [row])
    before, after = shown.before, shown.after
    put_table(
        "Weights held in memory",
        ("", ">float32", ">quantised", ">ratio"),
        [
            ("linear layers", _mib(before.linear), _mib(after.linear), _times(before.linear / after.linear)),
            ("whole model (embeddings stay float32)", _mib(before.total), _mib(after.total),
             _times(before.total / after.total)),
        ],
    )  # fmt: skip
    verdicts = [(c.name, c.found, c.promised, "PASS" if c.holds else "FAIL") for c in shown.checks]
    put_table("Agreement", ("", ">found", ">promised", ""), verdicts)
    eager = shown.paces[0].rate
    paces = [
        (p.name, f"{p.rate:.1f}" if p.rate else "-", _times(p.rate / eager if p.rate and eager else None),
         f"{p.warm_up:.1f} s", p.failure)
        for p in shown.paces
    ]  # fmt: skip
    shapes = ", ".join(f"{rows} x {tokens}" for rows, tokens in shown.batches)
    title = f"End to end: {shown.sentences} sentences in batches of {shapes} tokens"
    put_table(title, ("", ">sentences/s", ">vs eager", ">first pass", ""), paces)


def summary(shown: Showcase) -> str:
    """Return one line on what was reused."""
    if shown.compiler:
        return f"no kernel was built: {shown.compiler}"
    count, reused = len(shown.tunings), len(shown.tunings) - shown.searches
    head = f"{reused} of {count} tuning records reused, {shown.searches} searches, {shown.builds} kernels compiled"
    if not shown.searches and not shown.builds:
        head = f"everything was reused: {head}"
    tuning = sum(one.tuned.seconds for one in shown.tunings)
    return f"{head}; {tuning:.0f} s of tuning, {shown.seconds:.0f} s in all"


def as_json(shown: Showcase) -> dict[str, Json]:
    """Return plain values."""
    return {
        "sentences": shown.sentences,
        "batches": [list(shape) for shape in shown.batches],
        "threads": shown.threads,
        "compiler_missing": shown.compiler,
        "weights": {
            "linear_bytes": [shown.before.linear, shown.after.linear],
            "total_bytes": [shown.before.total, shown.after.total],
        },
        "checks": [{"name": c.name, "found": c.found, "promised": c.promised, "holds": c.holds} for c in shown.checks],
        "tunings": [tuning_json(one) for one in shown.tunings],
        "layers": [as_plain(one) for one in shown.layers],
        "language_model": as_plain(shown.language_model) if shown.language_model else None,
        "end_to_end": [
            {"name": p.name, "sentences_per_second": p.rate, "samples": list(p.samples), "failure": p.failure}
            for p in shown.paces
        ],
        "searches": shown.searches,
        "builds": shown.builds,
        "reused": not shown.searches and not shown.builds and not shown.compiler,
        "holds": shown.holds,
        "seconds": shown.seconds,
    }


def _times(ratio: float | None) -> str:
    return f"{ratio:.2f}x" if ratio is not None else "-"


def _percent(share: float | None) -> str:
    return f"{share * 100:.0f} %" if share is not None else "-"


def _mib(size: int) -> str:
    return f"{size / MIB:.2f} MiB"
