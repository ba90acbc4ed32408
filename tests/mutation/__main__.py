"""`python -m tests.mutation`: plant every bug of the list, and see that each is caught."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
from pathlib import Path

from tests.mutation.gate import FalseAlarm, Options, as_json, run_gate, table
from tests.mutation.planted import PLANTED, fits_here
from tests.mutation.trial import CAP_S


def main() -> int:
    """Run the gate; exit status 0 when every bug was caught and nothing right was called wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a bug's name, or a pattern")
    parser.add_argument("--jobs", type=int, default=2, help="bugs tried at once")
    parser.add_argument("--cap", type=float, default=CAP_S, help="seconds of all checks of one bug")
    parser.add_argument("--json", action="store_true", help="write the table as JSON")
    parser.add_argument("--list", action="store_true", help="only name the bugs")
    parser.add_argument("--no-fuzz", action="store_true", help="tests alone")
    parser.add_argument("--no-variants", action="store_true", help="judge no correct variants")
    asked = parser.parse_args()
    bugs = [bug for bug in PLANTED if not asked.only or any(fnmatch.fnmatchcase(bug.name, one) for one in asked.only)]
    for bug in (bug for bug in bugs if not fits_here(bug)):
        print(f"left out: {bug.name} needs {bug.needs or 'Triton'}, which does not run here", file=sys.stderr)
    bugs = [bug for bug in bugs if fits_here(bug)]
    if asked.list or not bugs:
        print("\n".join(f"{bug.language:6}  {bug.klass}: {bug.name}" for bug in bugs) or "no bug has such a name")
        return int(not bugs)
    options = Options(asked.jobs, asked.cap, not asked.no_fuzz, not asked.no_variants and not asked.only)
    try:
        with tempfile.TemporaryDirectory(prefix="gridstone-mutation-") as folder:
            report = run_gate(bugs, Path(folder), options, lambda line: print(line, file=sys.stderr, flush=True))
    except FalseAlarm as alarm:
        print(f"false alarm: {alarm}", file=sys.stderr)
        return 1
    print(as_json(report) if asked.json else f"\n{table(report)}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
