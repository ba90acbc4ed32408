"""gridstone cache: look at, check and clean the kernel cache."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from gridstone.cli.console import Json as JsonValue
from gridstone.cli.console import microseconds, put, put_json, put_table
from gridstone.cli.options import Json, RecipeName, ScheduleText, SpecText, TargetName

if TYPE_CHECKING:
    from gridstone.kernel_cache.records import Record
    from gridstone.lower.target import Target

app = typer.Typer(
    help="Look at, check and clean the kernel cache (GRIDSTONE_CACHE_DIR).",
    rich_markup_mode=None,
    no_args_is_help=False,
)


@app.callback(invoke_without_command=True)
def root(context: typer.Context, as_json: Json = False) -> None:
    """Without a command, print what `info` prints."""
    if context.invoked_subcommand is None:
        info(as_json)
    elif as_json:
        context.default_map = {context.invoked_subcommand: {"as_json": True}}


@app.command()
def info(as_json: Json = False) -> None:
    """Print where the cache lies and how much it holds."""
    from gridstone.kernel_cache.make import default_book, default_store  # torch

    store, records = default_store(), list(default_book().all())
    usage = store.usage()
    winners = sum(record.status == "winner" for record in records)
    if as_json:
        put_json(
            {
                "folder": str(store.root), "entries": usage.entries, "blobs": usage.blobs, "bytes": usage.size,
                "limit_bytes": store.limit_bytes, "quarantined": usage.quarantined, "records": len(records),
                "winners": winners,
            }
        )  # fmt: skip
        return
    rows = [
        ("folder", str(store.root)),
        ("artefacts", f"{usage.entries}, {usage.size / 2**20:.1f} MiB of {store.limit_bytes / 2**20:.0f} MiB"),
        ("quarantined", str(usage.quarantined)),
        ("tuning records", f"{len(records)}, {winners} of them winners"),
    ]
    put_table("Kernel cache", ("", ""), rows)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", min=0, help="Artefacts to show; 0 for all.")] = 40,
    as_json: Json = False,
) -> None:
    """List artefacts, most recently used first, and the winners among the tuning records."""
    from gridstone.kernel_cache.make import default_book, default_store  # torch

    artefacts = [
        (entry.key.digest[:12], fields.get("target", ""), entry.size, _header(fields.get("text", ""), "spec"),
         _header(fields.get("text", ""), "schedule"))
        for entry in default_store().entries()
        for fields in (dict(entry.fields),)
    ]  # fmt: skip
    winners = [record for record in default_book().all() if record.status == "winner"]
    if as_json:
        names = ("key", "target", "bytes", "spec", "schedule")
        listed: list[JsonValue] = [dict(zip(names, row, strict=True)) for row in artefacts]
        put_json({"artefacts": listed, "winners": [_plain(record) for record in winners]})
        return
    some = artefacts[: limit or None]
    shown = [(key, target, str(size), spec, schedule) for key, target, size, spec, schedule in some]
    head = f"{len(artefacts)} artefacts" + (f", the last {len(some)} used" if len(some) < len(artefacts) else "")
    put_table(head, ("key", "target", ">bytes", "spec", "schedule"), shown)
    rows = [
        (
            r.spec,
            f"{r.recipe} {r.schedule}" + f" ({r.reason})" * bool(r.reason),
            str(r.environment.threads),
            microseconds(r.median),
            r.environment.device,
        )
        for r in winners
    ]
    put_table(f"{len(rows)} winners", ("problem", "winner", ">threads", ">median", "device"), rows)


@app.command()
def verify(as_json: Json = False) -> None:
    """Check every artefact against its hash; exit 1 when something is damaged or no kernel. Changes nothing."""
    from gridstone.kernel_cache.make import verify_cache  # torch

    problems = verify_cache()
    if as_json:
        put_json({"problems": list(problems)})
    else:
        put("\n".join([*problems, f"{len(problems)} problems"]))
    if problems:
        raise typer.Exit(1)


@app.command()
def prune(as_json: Json = False) -> None:
    """Remove leftovers, then the least recently used artefacts until the limit is kept."""
    from gridstone.kernel_cache.make import default_store  # torch

    freed = default_store().prune()
    if as_json:
        put_json({"freed_bytes": freed})
    else:
        put(f"freed {freed} bytes")


@app.command()
def clear(as_json: Json = False) -> None:
    """Remove all artefacts. Tuning records stay: they are small, and cost hours to find again."""
    from gridstone.kernel_cache.make import default_store  # torch

    store = default_store()
    gone = store.clear()
    if as_json:
        put_json({"removed": gone})
    else:
        put(f"removed {gone} artefacts from {store.root}; tuning records stay in its folder records")


@app.command("explain-miss")
def explain_miss(
    spec: SpecText,
    target: TargetName = "auto",
    schedule: ScheduleText = "",
    recipe: RecipeName = "",
    as_json: Json = False,
) -> None:
    """Say why a kernel is not in the cache: the first field that differs from the nearest kept artefact.

    With a number for M it also says whether the problem's tuning record is stale, and why.
    """
    from gridstone.cli.emit import emitted_for
    from gridstone.kernel_cache.make import artefact_key, default_store  # torch

    emitted = emitted_for(spec, target, schedule, recipe)
    key = artefact_key(emitted.source, emitted.target)
    text = "\n".join(filter(None, (default_store().explain_miss(key), _stale_record(spec, emitted.target))))
    if as_json:
        put_json({"key": key.digest, "explanation": text})
    else:
        put(text)


def _stale_record(spec: str, target: Target) -> str:
    """Say that the problem's tuning record is stale; nothing when it is not, or M is a symbol."""
    import torch

    from gridstone.ir.text import parse_spec
    from gridstone.lower.bucket import looked_up
    from gridstone.runtime.dispatch import find_record

    wanted = parse_spec(spec).with_storage(target.storage)
    return "" if wanted.dims else find_record(looked_up(wanted), torch.get_num_threads(), str(target))[1]


def _header(text: str, name: str) -> str:
    """Return a line of an emitted source's header."""
    found = re.search(rf"^// {name} +(.*)$", text, re.MULTILINE)
    return found[1] if found else ""


def _plain(record: Record) -> dict[str, JsonValue]:
    return {
        "spec": record.spec, "target": record.target, "recipe": record.recipe, "schedule": record.schedule,
        "median_seconds": record.median, "threads": record.environment.threads, "device": record.environment.device,
        "created": record.environment.created, "reason": record.reason, "budget_seconds": record.budget,
    }  # fmt: skip
