"""Small CUDA kernels for the tests of the machine that executes them on a CPU."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from gridstone.proof.execute import Argument, Fault, Shape, execute
from gridstone.proof.program import Program, program

built = functools.cache(program)


def launch(
    kernel: Program,
    *arguments: Argument,
    grid: int | tuple[int, int, int] = 1,
    block: int | tuple[int, int, int] = 32,
    shared: int = 0,
    seed: int = 0,
) -> tuple[Fault, ...]:
    """Execute with extents in x where one number is given."""
    grid = (grid, 1, 1) if isinstance(grid, int) else grid
    block = (block, 1, 1) if isinstance(block, int) else block
    return execute(kernel, Shape(grid, block, shared), arguments, seed)


def one_text(params: str, names: str, bodies: Mapping[str, str], declarations: str = "") -> str:
    """Return one kernel that runs the body whose number it is given: one build for many bodies.

    Args:
        params: Parameters of every body, in C++.
        names: Their names, separated by commas.
        bodies: Statements by name.
        declarations: At the top of the file.
    """
    lines = ['#include "ptx.cuh"', declarations]
    for name, body in bodies.items():
        lines += [f"__device__ void {name}({params}) {{", body.strip("\n"), "}"]
    lines.append(f'extern "C" __global__ void kernel({params}, int64_t which) {{')
    lines += [f"  if (which == {number}) {name}({names});" for number, name in enumerate(bodies)]
    return "\n".join([*lines, "}", ""])
