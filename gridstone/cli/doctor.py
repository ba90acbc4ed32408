"""gridstone doctor: what this machine can build, run and measure, and what to install for the rest."""

from __future__ import annotations

import typer

from gridstone.cli.console import put, put_json, put_table
from gridstone.cli.options import Json


def doctor(as_json: Json = False) -> None:
    """Say what this machine can build, run and measure; exit 0 when kernels can be built and run."""
    from gridstone.cli.machine import examine  # torch, where it is installed

    findings = examine()
    works = all(finding.fine for finding in findings if finding.needed)
    if as_json:
        put_json(
            {
                "works": works,
                "findings": [
                    {"name": f.name, "value": f.value, "fine": f.fine, "needed": f.needed, "remedy": f.remedy}
                    for f in findings
                ],
            }
        )
    else:
        marks = {(True, True): "ok", (True, False): "ok", (False, True): "MISSING", (False, False): "-"}
        rows = [(marks[f.fine, f.needed], f.name, f.value, "" if f.fine else f.remedy) for f in findings]
        put_table("This machine", ("", "what", "found", "to do"), rows)
        put("Kernels can be built and run here." if works else "Kernels cannot be built or run here yet.")
    if not works:
        raise typer.Exit(1)
