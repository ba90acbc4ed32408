"""The demo's results as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from gridstone.cli.console import Json, microseconds, put, put_table
from gridstone.cli.layers import LayerTimes, as_plain, epilogue_text
from gridstone.cli.showcase import FORMAT, MIB, Showcase
from gridstone.cli.tune import choice_text, is_late, put_tunings, tuning_json

LAYER_COLUMNS = (
    "N x K", "epilogue", ">M", ">library f32", ">bf16", ">default", ">tuned", ">vs f32", ">vs best", ">roofline",
)  # fmt: skip
OTHER_CLASS = """\
* the library is faster in bf16, where it rounds weights and activations to 8 significant bits (numerics class bf16).
  This layer keeps float32 (class exact), so what it replaces is the library's float32 call."""
SLOWER = """\
+ slower than the library call of the same class on plain weights, which hold several times the bytes. With many rows
  arithmetic is the limit, smaller weights do not help, and decoding them comes on top; with few rows it is the other
  way round. Nothing faster is recorded here for packed weights. `gridstone tune` with a longer --budget searches on
  where a search was short of time, and with --again everywhere."""
COLUMNS = """\
library: torch's own call on plain weights. default, tuned: ours on packed weights, with the default schedule and with
the one that tuning chose. vs f32, vs best: the library's float32 time, and the better of its two, divided by ours.
roofline: the least time that bandwidth and peak, measured in the same rounds, allow, divided by ours."""
NOISY = "Above 100 %: the machine was slower while its limits were measured. Measure again when it is idle."
MARKS = {"": " ", "same": "+", "bf16": "*"}
ABOVE = 1.05  # a share beyond this is noise rather than rounding


def put_layers(title: str, layers: Sequence[LayerTimes]) -> None:
    """Print a table of layers."""
    rows: list[tuple[str, ...]] = []
    for one in layers:
        ours, f32 = one.seconds(one.best), one.seconds("library f32")
        rows.append(
            (
                *_layer_name(one),
                microseconds(f32),
                microseconds(one.seconds("library bf16")),
                microseconds(one.seconds("default")),
                microseconds(one.seconds("tuned")),
                _times(f32 / ours if ours and f32 else None),
                _times(one.ratio) + MARKS[one.beaten_by],
                _percent(one.share(one.best)),
            )
        )
    put_table(title, LAYER_COLUMNS, rows)


def layer_notes(layers: Sequence[LayerTimes]) -> str:
    """Return what tables of these layers need to be understood."""
    beaten = {one.beaten_by for one in layers}
    noisy = any((one.share(one.best) or 0.0) > ABOVE for one in layers)
    return "\n".join(
        [COLUMNS, *[OTHER_CLASS] * ("bf16" in beaten), *[SLOWER] * ("same" in beaten), *[NOISY] * noisy, ""]
    )


def schedules_text(layers: Sequence[LayerTimes]) -> str:
    """Return the schedules that were timed, a line for each."""
    lines: list[str] = []
    for one in layers:
        name, _, rows = _layer_name(one)
        notes = {c.name: choice_text(*c.note.split(" ", 1)) for c in one.contestants if c.name in ("default", "tuned")}
        if one.is_default:
            notes = {"tuned = default": notes["default"]}
        lines.extend(f"{name}, M={rows}, {kind}: {text}" for kind, text in notes.items())
        if one.seconds("tuned") is None:
            lines.append(f"{name}, M={rows}: not tuned (gridstone tune)")
    return "\n".join(lines)


def _layer_name(one: LayerTimes) -> tuple[str, str, str]:
    x, w = one.spec.input("x"), one.spec.input("w")
    return f"{w.static(0)} x {w.static(1)}", epilogue_text(one.spec).replace(" + ", "+"), str(x.static(0))


def put_tables(shown: Showcase) -> None:
    """Print all of the demo's tables."""
    if shown.tunings:
        put_tunings(f"Tuning, {shown.threads} threads", list(shown.tunings))
    if shown.layers:
        what = f"4-bit weights with zero points, a scale for each 32 ({FORMAT})"
        put_layers(f"Layers of all-MiniLM-L6-v2: {what}; operands rotated beyond the caches", shown.layers)
    row = shown.language_model
    if row is not None:
        title = f"A language model's layer, int4 g128, bf16, one token, weights rotated over {row.rotated // MIB} MiB"
        put_layers(title, [row])
    if shown.layers or row is not None:
        put(layer_notes([*shown.layers, *filter(None, [row])]))
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
    failed = any(p.failure for p in shown.paces)
    paces = [
        (p.name, f"{p.rate:.1f}" if p.rate else "-", _times(p.rate / eager if p.rate and eager else None),
         f"{p.warm_up:.1f} s", *[p.failure] * failed)
        for p in shown.paces
    ]  # fmt: skip
    shapes = ", ".join(f"{rows} x {tokens}" for rows, tokens in shown.batches)
    title = f"End to end: {shown.sentences} sentences in batches of {shapes} tokens"
    columns = ("", ">sentences/s", ">vs eager", ">first pass", *["failure"] * failed)
    put_table(title, columns, paces, "The first pass includes what is compiled then." + _slower_overall(shown))


def _slower_overall(shown: Showcase) -> str:
    rates = {pace.name: pace.rate for pace in shown.paces}
    ours, eager = rates.get("Gridstone"), shown.paces[0].rate
    if ours is None or eager is None or ours >= eager:
        return ""
    rows = [sentences * tokens for sentences, tokens in shown.batches]
    saved = shown.before.linear / shown.after.linear
    return f"""
Gridstone is slower than PyTorch on these batches of {min(rows)} to {max(rows)} tokens: see the marked layers. It holds
{saved:.1f} times fewer bytes of weights, which pays where few rows meet large layers, as in a language model's."""


def summary(shown: Showcase) -> str:
    """Return what was reused, what the next run will do, and whether the promises hold."""
    broken = [check.name for check in shown.checks if not check.holds]
    verdict = f"NOT HELD: {', '.join(broken)}" if broken else "everything promised above holds"
    if shown.compiler:
        return f"no kernel was built: {shown.compiler}\n{verdict}"
    count, reused = len(shown.tunings), len(shown.tunings) - shown.searches
    head = f"{reused} of {count} tuning records reused, {shown.searches} searches, {shown.builds} kernels compiled"
    if not shown.searches and not shown.builds:
        head = f"everything was reused: {head}"
    tuning = sum(one.tuned.seconds for one in shown.tunings)
    late = sum(is_late(one.tuned) for one in shown.tunings)
    lines = [f"{head}; {tuning:.0f} s of tuning, {shown.seconds:.0f} s in all"]
    if late:
        lines.append(f"{late} problems got no time and run their default schedule: the next run tunes them")
    elif shown.searches:
        lines.append("what was found is recorded: the next run with this budget searches and compiles nothing")
    return "\n".join([*lines, verdict])


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
