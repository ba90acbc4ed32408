"""The CUDA recipes that bugs are planted in: gemv, mma and wgmma, their files and their tests."""

from __future__ import annotations

from tests.mutation.plant import Planted

GEMV = "tests/templates/test_cuda_gemv.py::test_"
MMA = "tests/templates/test_cuda_mma.py::test_"
WGMMA = "tests/templates/test_cuda_wgmma.py::test_"
LIB, GEMM = "templates/lib/cuda", "templates/gemm"
ANY = "one_kernel_takes_any_number_of_rows"
OF = {"gemv": GEMV, "mma": MMA, "wgmma": WGMMA}
STAGE = {"gemv": "gemv_stage.cuh", "mma": "gemm_stage.cuh", "wgmma": "gemm_bulk_stage.cuh"}


def of_each(
    name: str, klass: str, file: dict[str, str] | str, edits: dict[str, tuple[str, str]], *tests: str
) -> tuple[Planted, ...]:
    """Return one bug for each recipe that has an edit; tests are named by what follows `test_`."""
    return tuple(
        Planted(
            f"cuda {recipe}: {name}", klass, "cuda", file if isinstance(file, str) else file[recipe], old, new,
            tuple(OF[recipe] + test for test in tests),
        )
        for recipe, (old, new) in edits.items()
    )  # fmt: skip


STAGES = {recipe: f"{LIB}/{file}" for recipe, file in STAGE.items()}
MAINS = {"gemv": f"{GEMM}/gemv.cu.j2", "mma": f"{GEMM}/mma.cu.j2", "wgmma": f"{GEMM}/wgmma.cu.j2"}
SUMS = {"gemv": f"{GEMM}/gemv.cu.j2", "mma": f"{GEMM}/mma.cu.j2", "wgmma": f"{LIB}/gemm_warpgroup.cuh"}
REDUCE, PROBLEM = f"{LIB}/gemm_reduce.cuh", f"{LIB}/gemm_problem.cuh"
