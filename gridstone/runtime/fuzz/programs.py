"""The subject: random programs around linear layers on quantised weights, compiled and in eager mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gridstone.kernel_cache.host import host_target
from gridstone.kernel_cache.make import TOOLCHAINS
from gridstone.lower.target import Language
from gridstone.proof.fuzz.subject import Event, Failed, Ran, Trying, Wanted
from gridstone.runtime.fuzz.check import problem_of
from gridstone.runtime.fuzz.draw import draw_program
from gridstone.runtime.fuzz.parse import parse_program
from gridstone.runtime.fuzz.program import Program
from gridstone.runtime.fuzz.simpler import simpler_programs

CASES = 12  # of one call of `explore`


@dataclass(frozen=True, slots=True)
class Programs:
    """Programs around linear layers: compiled must equal eager."""

    @property
    def name(self) -> str:
        """Word for the command line."""
        return "programs"

    def missing(self) -> str:
        """Return why programs cannot be compiled here."""
        return TOOLCHAINS[Language.CPP].missing() or ""

    def explore(self, seed: int, wanted: Wanted) -> Iterator[Event]:
        """Draw programs and run them."""
        if not (wanted.takes_op("gemm") and wanted.takes_target(str(host_target()))):
            return
        rng = np.random.default_rng(seed)
        for _ in range(CASES):
            program = draw_program(rng, wanted)
            yield Trying(str(program))
            problem = problem_of(program)
            yield Failed(str(program), problem) if problem else Ran(1, row_of(program))

    def problem(self, case: str) -> str:
        """Run one program; return what is wrong."""
        return problem_of(parse_program(case))

    def simpler(self, case: str) -> Iterator[str]:
        """Yield simpler programs."""
        return map(str, simpler_programs(parse_program(case)))


def row_of(program: Program) -> str:
    """Return what a program covers, for a table."""
    call = program.call
    how = "torch.export" if call.by == "export" else f"rest={call.rest}"
    return f"{how}, gradients" if call.backward else how


PROGRAMS = Programs()
