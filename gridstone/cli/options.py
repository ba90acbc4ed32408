"""Options that several commands take, spelled once."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]
SpecText = Annotated[
    str, typer.Argument(metavar="SPEC", help="For example 'gemm[x: f32(M,384), w: int4:g32(384,384)]'.")
]
TargetName = Annotated[str, typer.Option("--target", help="auto, or one of the targets that `gridstone doctor` lists.")]
ScheduleText = Annotated[str, typer.Option("--schedule", help="Such as 'direct(m_r=12)'; omitted fields are default.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="Such as gemm.cpp.direct; the default's when omitted.")]
Rows = Annotated[str, typer.Option("--m", help="Rows of x where M is symbolic: one number, or several as 1,4,16.")]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Of the kernels; 0 for torch's own number.")]
Budget = Annotated[str, typer.Option("--budget", help="Time for all of it, such as 60s or 2m.")]
