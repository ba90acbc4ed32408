"""gridstone fuzz: run random cases of everything that can be wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridstone.cli.console import Json as JsonValue
from gridstone.cli.console import put, put_json, put_table, say
from gridstone.cli.options import Json
from gridstone.ir.errors import GridstoneError

if TYPE_CHECKING:
    from gridstone.proof.fuzz.campaign import Campaign
    from gridstone.proof.fuzz.crew import Crew
    from gridstone.proof.fuzz.subject import Finding, Subject, Wanted

FOUND = 1  # exit status when something is wrong
INTERRUPTED = 130
REGRESSIONS = Path("tests/regressions")
WORKER = ("-m", "gridstone.cli.fuzz_worker")
# Shares of the time. C++ is what runs on the machine at hand; the others stand in for a GPU.
WEIGHTS = {"cpp": 12.0, "library": 0.5, "triton": 2.0, "cuda": 2.0, "programs": 1.5}
WEIGHT = 0.3  # of each of the others, which run thousands of cases a second

Several = list[str] | None


def fuzz(
    minutes: Annotated[float, typer.Option("--minutes", min=0.0, help="How long.")] = 10.0,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Of everything drawn; drawn too when omitted.")
    ] = None,
    subject: Annotated[Several, typer.Option("--subject", help="Only this, as cpp or layout; repeatable.")] = None,
    op: Annotated[Several, typer.Option("--op", help="Only kernels of this op, as gemm; repeatable.")] = None,
    target: Annotated[
        Several, typer.Option("--target", help="Only this target, as cpp:avx2, or language, as cuda.")
    ] = None,
    formats: Annotated[
        Several, typer.Option("--format", help="Only this format, as int4:g128, or code, as int4.")
    ] = None,
    case: Annotated[
        Several, typer.Option("--case", help="Run this case and nothing else, as a failure prints it.")
    ] = None,
    replay: Annotated[list[Path] | None, typer.Option("--replay", help="Run the case of this file.")] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Folder for what is found; tests/regressions where there is one.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="Processes; 0 for one for each core.")] = 0,
    as_json: Json = False,
) -> None:
    """Run random cases until the time is over; exit with 1 when one is wrong. Ctrl-C keeps what was found."""
    from gridstone.cli.fuzz_worker import FUZZED  # torch
    from gridstone.kernel_cache.host import usable_cores
    from gridstone.proof.fuzz.campaign import Campaign
    from gridstone.proof.fuzz.crew import Crew
    from gridstone.proof.fuzz.saved import read_case
    from gridstone.proof.fuzz.subject import Wanted

    given = [*(case or ()), *(read_case(path) for path in replay or ())]
    if given:
        _run_again(given, as_json)
        return
    chosen = chosen_subjects(FUZZED, subject or (), restricted=bool(op or target or formats))
    wanted = checked(Wanted(tuple(op or ()), tuple(target or ()), tuple(formats or ())), chosen)
    seed = time.time_ns() % (1 << 31) if seed is None else seed
    campaign = Campaign({one.name: WEIGHTS.get(one.name, WEIGHT) for one in chosen}, seed, wanted)
    say(f"fuzzing {', '.join(campaign.weights)} for {minutes:g} min with --seed {seed}")
    crew = Crew(WORKER, jobs or usable_cores())
    interrupted = False
    try:
        crew.wait()
        with _progress(minutes * 60) as show:
            campaign.run(crew, minutes * 60, show, lambda finding: say(f"wrong: kept in {_save(finding, save)}"))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        crew.close()
    places = [_save(finding, save) for finding in campaign.findings]
    if as_json:
        put_json(campaign_json(campaign, places, interrupted))
    else:
        put_campaign(campaign, places)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if campaign.findings:
        raise typer.Exit(FOUND)


def chosen_subjects(known: Sequence[Subject], names: Sequence[str], restricted: bool) -> list[Subject]:
    """Return the subjects to explore, and say which cannot run here.

    Args:
        known: All there are.
        names: Those asked for; none means all.
        restricted: Whether ops, targets or formats are chosen, which only kernels have.

    Raises:
        GridstoneError: Unknown name, or one that was asked for cannot run here.
    """
    from gridstone.proof.fuzz.kernels import KernelSubject
    from gridstone.proof.fuzz.subject import subject_named

    found = [subject_named(name, known) for name in dict.fromkeys(names)] or list(known)
    if restricted:
        found = [one for one in found if isinstance(one, KernelSubject)]
    able = []
    for one in found:
        missing = one.missing()
        if not missing:
            able.append(one)
        elif names:
            raise GridstoneError(f"{one.name} cannot be fuzzed here: {missing}")
        else:
            say(f"{one.name} is not fuzzed: {missing}")
    if not able:
        raise GridstoneError("nothing is left to fuzz", "leave --subject, --op, --target and --format out")
    return able


def checked(wanted: Wanted, chosen: list[Subject]) -> Wanted:
    """Return what is wanted, and drop the subjects that it leaves without work.

    Raises:
        GridstoneError: Unknown op, target or format, or nothing fits all that is asked for.
    """
    from gridstone.ir.errors import nearest
    from gridstone.ir.format import CODES, parse_format
    from gridstone.lower.target import TARGETS, Language, parse_target
    from gridstone.proof.fuzz.kernels import KernelSubject
    from gridstone.templates.registry import RECIPES

    ops = {recipe.op for recipe in RECIPES}
    for name in wanted.ops:
        if name not in ops:
            raise GridstoneError(f"no kernels of {name!r} are emitted", nearest(name, ops))
    for name in wanted.targets:
        if name not in [language.value for language in Language]:
            parse_target(name)
    for name in wanted.formats:
        if name not in CODES:
            parse_format(name)
    if wanted.targets:
        kept = [one for one in chosen if isinstance(one, KernelSubject) and one.targets(wanted)]
        if not kept:
            raise GridstoneError(f"nothing runs here for {', '.join(wanted.targets)} of {', '.join(TARGETS)}")
        chosen[:] = kept
    return wanted


def _run_again(cases: Sequence[str], as_json: bool) -> None:
    """Run cases in a process that may die of them; exit with 1 when one is wrong."""
    from gridstone.proof.fuzz.crew import Crew
    from gridstone.proof.fuzz.subject import split_case

    split = [split_case(text) for text in cases]
    crew = Crew(WORKER, 1)
    try:
        answers = [answered(crew, {"problem": name, "case": case}) for name, case in split]
    finally:
        crew.close()
    results = list(zip(cases, answers, strict=True))
    if as_json:
        put_json([{"case": case, "right": not problem, "problem": problem} for case, problem in results])
    else:
        for case, problem in results:
            put(f"{case}\n    {problem or 'right'}")
    if any(problem for _, problem in results):
        raise typer.Exit(FOUND)


def answered(crew: Crew, request: dict[str, str]) -> str:
    """Return a worker's verdict on one case: what is wrong, or empty.

    Raises:
        GridstoneError: The text is no case.
    """
    from gridstone.proof.fuzz.crew import Died

    crew.ask(next(crew.idle()), request)
    while True:
        for _, answer in crew.answers(1.0):
            if isinstance(answer, Died):
                return answer.how
            if "error" in answer:
                raise GridstoneError(answer["error"])
            return answer["problem"]


def _save(finding: Finding, folder: Path | None) -> str:
    from gridstone.kernel_cache.settings import read_settings
    from gridstone.proof.fuzz.saved import save

    place = folder or (REGRESSIONS if REGRESSIONS.is_dir() else read_settings().cache_dir / "fuzz" / "found")
    return str(save(finding, place))


@contextmanager
def _progress(seconds: float) -> Iterator[Callable[[Campaign], None]]:
    """Show on stderr what runs and how long it still takes."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("fuzz", markup=False), BarColumn(bar_width=12), TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[state]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=seconds, state="")

        def show(campaign: Campaign) -> None:
            counts = " ".join(f"{name} {tally.cases}" for name, tally in campaign.tallies.items() if tally.cases)
            found = f"  {len(campaign.findings)} wrong" if campaign.findings else ""
            bar.update(task, completed=min(campaign.seconds, seconds), state=counts + found)

        yield show


def put_campaign(campaign: Campaign, places: Sequence[str]) -> None:
    """Print what ran, by row, and each finding with its repro."""
    rows = []
    for name, tally in campaign.tallies.items():
        rate = f"{tally.cases / tally.seconds:.1f}" if tally.seconds else "-"
        kernels = str(len(tally.kernels)) if tally.kernels else "-"
        rows.append((name, "", str(tally.cases), kernels, f"{tally.seconds:.0f}", rate))
        rows += [("", row, str(count), "", "", "") for row, count in sorted(tally.rows.items())]
    total = sum(tally.cases for tally in campaign.tallies.values())
    title = f"{total} cases in {campaign.seconds:.0f} s, seed {campaign.seed}"
    put_table(title, ("subject", "row", ">cases", ">kernels", ">worker s", ">cases/s"), rows)
    for finding, place in zip(campaign.findings, places, strict=True):
        put(f"\nwrong: {finding.problem}\n  {finding.repro}\n  kept in {place} ({finding.steps} simpler cases tried)")
    put(f"\n{len(campaign.findings) or 'nothing'} wrong")


def campaign_json(campaign: Campaign, places: Sequence[str], interrupted: bool) -> dict[str, JsonValue]:
    """Return a campaign as plain values; times in seconds."""
    return {
        "seed": campaign.seed,
        "seconds": campaign.seconds,
        "interrupted": interrupted,
        "subjects": {
            name: {
                "cases": tally.cases,
                "kernels": len(tally.kernels),
                "worker_seconds": tally.seconds,
                "rows": dict(sorted(tally.rows.items())),
            }
            for name, tally in campaign.tallies.items()
        },
        "findings": [
            {
                "subject": finding.subject,
                "case": finding.case,
                "problem": finding.problem,
                "found_as": finding.first,
                "repro": finding.repro,
                "file": place,
            }
            for finding, place in zip(campaign.findings, places, strict=True)
        ],
    }
