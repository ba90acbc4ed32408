"""What the compiler made of every GPU recipe's default schedules, as a table in Markdown that a page can hold."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from bench.gpu_jobs import CHAINS, Job, Ready, able, build_each
from gridstone.ir.errors import BuildError
from gridstone.ir.text import parse_spec
from gridstone.lower.target import TARGETS, Language, Target
from gridstone.proof.cubin import broken_promises, read_report
from gridstone.templates.registry import default_recipe

PROBLEM = "gemm[x: bf16({m},4096), w: int4:g128(14336,4096)]"
ROWS = (1, 16, 64, 256)
HEAD = (
    "| recipe | target | M | registers | spills | shared KiB | blocks an SM | occupancy | bound by | tensor cores | promises |",  # noqa: E501
    "|---|---|---|---|---|---|---|---|---|---|---|",
)


# What stands around the table in a page.
START, END = "<!-- python -m bench.gpu --table -->", "<!-- end of the table -->"


def table(only: str = "") -> list[str]:
    """Return the lines; a row for each recipe, target and number of rows whose default it is, or could be."""
    ready = build_each(jobs_of(only), lambda: True)
    made = [CHAINS[language].identity(target)[0][1] for language, target in _compilers().items()]
    about = f"Defaults of `{PROBLEM.format(m='M')}`, built by {' and '.join(made)}. A star marks the recipe"
    return [about, "that is used when nothing was tuned.", "", *HEAD, *map(_row, sorted(ready, key=_order))]


def replaced(page: str, lines: Sequence[str]) -> str:
    """Return a page with its table replaced.

    Raises:
        ValueError: The page has no place for one.

    >>> replaced(f"a {START} old {END} b", ["new"]) == f"a {START}\\n\\nnew\\n\\n{END} b"
    True
    """
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"the page has no table between {START} and {END}")
    return "".join([before, START, "\n\n", "\n".join(lines), "\n\n", END, after])


def _compilers() -> dict[Language, Target]:
    """Return a target of each GPU language."""
    return {target.language: target for target in TARGETS.values() if target.sms}


def jobs_of(only: str) -> Iterator[Job]:
    """Yield the rows, as what is to be built."""
    for target, m in itertools.product((target for target in TARGETS.values() if target.sms), ROWS):
        spec = parse_spec(PROBLEM.format(m=m)).with_storage(target.storage)
        for recipe, start in able(spec, target):
            if only in recipe.name:
                yield Job(spec, recipe, start, target)


def _order(one: Ready) -> tuple[str, str, int]:
    return one.job.recipe.name, str(one.job.target), one.job.spec.input("x").static(0)


def _row(one: Ready) -> str:
    job = one.job
    is_default = default_recipe(job.spec, job.target) is job.recipe
    m = f"{job.spec.input('x').static(0)}{' *' if is_default else ''}"
    try:
        if one.artefact is None:
            raise BuildError(one.error)
        report = read_report(one.artefact, job.target)
    except BuildError as error:
        cells = [error.problem.splitlines()[0], *["-"] * 7]
    else:
        broken = broken_promises(report, job.recipe.promises)
        kept = "; ".join(broken) or ("kept" if job.recipe.promises else "none made")
        held = report.occupancy
        shared = (report.dynamic_shared + report.static_shared) / 1024
        cells = [str(report.registers), str(report.spills), f"{shared:.1f}", str(held.blocks), f"{held.share:.0%}",
                 held.bound_by, str(report.tensor_cores), kept]  # fmt: skip
    return "| " + " | ".join([job.recipe.name, str(job.target), m, *cells]) + " |"
