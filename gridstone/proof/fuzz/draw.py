"""Random kernels and calls of them: shapes on and beside every edge, formats, epilogues, schedules, views, values."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence

from gridstone.ir.dtype import DType, bf16, f16, f32
from gridstone.ir.epilogue import ACTIVATIONS, Activation, Bias, Cast, Epilogue, Residual, Scale
from gridstone.ir.errors import GridstoneError
from gridstone.ir.format import CHANNEL, CODES, GROUPS, SCALES, Code, Format
from gridstone.ir.ops.gemm import Gemm
from gridstone.ir.spec import Numerics, NumericsClass, Operand, Spec, make_spec
from gridstone.ir.tensor import Dim, TensorType, quantized
from gridstone.lower.bucket import ROWS
from gridstone.lower.schedule import Schedule, Value
from gridstone.lower.target import TARGETS, Language, Target
from gridstone.proof.fuzz.case import Call, KernelCase
from gridstone.proof.fuzz.inputs import SCALES as SCALE_KINDS
from gridstone.proof.fuzz.inputs import VALUES
from gridstone.proof.fuzz.subject import Wanted
from gridstone.templates.recipe import Recipe
from gridstone.templates.registry import RECIPES, refusal

FLOATS = (f32, bf16, f16)
# Ones, primes, and tiles with their neighbours: of vectors, of blocks of rows, of packed blocks.
EDGES = (1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 70, 96, 127, 128, 129, 130, 191, 200, 257)
ROW_EDGES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 63, 64, 65, 79, 80)
MANY_ROWS = (127, 128, 129, 193, 256, 257)
GAPS = (0, 0, 0, 1, 3, 8, 16, 61)
OFFSETS = (0, 0, 0, 1, 2, 3, 7, 8, 15)
# Most rows, N and K: what an interpreter or an emulator takes tens of milliseconds for, and a CPU less.
_MOST = {
    Language.CPP: (257, 257, 2048),
    Language.LIBRARY: (257, 257, 2048),
    Language.CUDA: (80, 200, 1024),
    Language.TRITON: (80, 130, 512),
}
_PATIENCE = 300  # specs drawn before a recipe counts as having none that is wanted
_COMMON = ("int4", "uint4", "int8", "uint8")  # the other codes are drawn less often
_NUMERICS = (NumericsClass.EXACT, NumericsClass.EXACT, NumericsClass.BF16, NumericsClass.BF16, NumericsClass.TF32)


def rows_of(languages: Sequence[Language], wanted: Wanted) -> tuple[Recipe[Schedule], ...]:
    """Return the wanted recipes of some languages: the rows of the registry that are to be covered."""
    return tuple(recipe for recipe in RECIPES if recipe.language in languages and wanted.takes_op(recipe.op))


def draw_kernel(
    rng: random.Random, recipe: Recipe[Schedule], targets: Sequence[Target], wanted: Wanted
) -> KernelCase | None:
    """Draw a kernel of a recipe, or None when nothing of it is wanted."""
    able = [target for target in targets if target.language is recipe.language]
    if not able:
        return None
    for _ in range(_PATIENCE):
        target = rng.choice(able)
        _, most_n, most_k = _MOST[target.language]
        spec = _spec(rng, wanted, most_n, most_k)
        if spec is None or refusal(recipe, spec.with_storage(target.storage), target) is not None:
            continue
        resolved = spec.with_storage(target.storage)
        schedule = draw_schedule(rng, recipe, resolved, target)
        if schedule is not None:
            return KernelCase(resolved, recipe, schedule, target)
    return None


def draw_schedule(rng: random.Random, recipe: Recipe[Schedule], spec: Spec, target: Target) -> Schedule | None:
    """Draw a feasible schedule: mostly any, sometimes the default for some number of rows; None when there is none."""
    if rng.random() < 0.2:
        return recipe.space.default(spec.bind(**{ROWS: rng.choice(ROW_EDGES)}), target)

    def shuffled(values: tuple[Value, ...]) -> list[Value]:
        return rng.sample(values, len(values))

    return next(recipe.space.feasible(spec, target, shuffled), None)


def _spec(rng: random.Random, wanted: Wanted, most_n: int, most_k: int) -> Spec | None:
    x = rng.choice(FLOATS)
    fmt = None if rng.random() < 0.05 else _format(rng)
    if wanted.formats and (fmt is None or not wanted.takes_format(fmt.name)):
        return None
    n = rng.choice([edge for edge in EDGES if edge <= most_n])
    if fmt is None or fmt.group == CHANNEL:
        k = rng.choice((*EDGES, 250, 500))
    else:
        k = fmt.group * min(rng.randint(1, 9), max(1, most_k // fmt.group))
    weight = TensorType(x, (n, k)) if fmt is None else quantized(fmt, (n, k))
    numerics = Numerics(rng.choice(_NUMERICS), rng.random() < 0.2)
    inputs = (Operand("x", TensorType(x, (Dim(ROWS), k))), Operand("w", weight))
    try:
        return make_spec(Gemm(), inputs, _epilogues(rng), numerics)
    except GridstoneError:  # such as a class that this dtype does not have
        return None


def _format(rng: random.Random) -> Format:
    code: Code = CODES[rng.choice(_COMMON)] if rng.random() < 0.8 else rng.choice(list(CODES.values()))
    scale: DType = SCALES[rng.choice(list(SCALES))]
    return Format(code, rng.choice((*GROUPS, CHANNEL)), scale, rng.random() < 0.5)


def _epilogues(rng: random.Random) -> tuple[Epilogue, ...]:
    steps: list[Epilogue] = [
        step
        for step, chance in (
            (Bias(rng.choice(FLOATS)), 0.4),
            (Residual(rng.choice(FLOATS)), 0.3),
            (Scale(rng.choice((0.5, -1.25, 3.0, 2.0**-20, 0.0))), 0.2),
            (Activation(rng.choice(list(ACTIVATIONS))), 0.4),
            (Activation(rng.choice(list(ACTIVATIONS))), 0.1),
        )
        if rng.random() < chance
    ]
    rng.shuffle(steps)
    return (*steps, Cast(rng.choice(FLOATS))) if rng.random() < 0.2 else tuple(steps)


def draw_calls(rng: random.Random, kernel: KernelCase, count: int) -> Iterator[Call]:
    """Draw calls of a kernel: zero rows once in a while, one row, tiles and their neighbours, now and then many."""
    on_cpu = not kernel.target.sms
    seed, most = rng.randrange(1 << 30), _MOST[kernel.target.language][0]
    tiles = [
        value
        for field in dataclasses.fields(kernel.schedule)
        if type(value := getattr(kernel.schedule, field.name)) is int and 1 < value <= 64
    ]
    edges = [max(1, tile * times + by) for tile in tiles for times in (1, 2) for by in (-1, 0, 1)]
    names = {operand.name for operand in (*kernel.spec.inputs, *kernel.spec.extra_operands)}
    # torch's gelu of infinity is NaN where it is vectorised and infinity where it is not.
    infinities = kernel.target.language is not Language.LIBRARY or Activation("gelu") not in kernel.spec.epilogue
    for at in range(count):
        pool = edges if edges and rng.random() < 0.3 else ROW_EDGES
        rows = rng.choice(MANY_ROWS if on_cpu and rng.random() < 0.04 else pool) if rng.random() > 0.01 else 0
        special = rng.random() < 0.15
        values = "normal" if rng.random() < 0.4 else rng.choice(VALUES)
        scales = "normal" if rng.random() < 0.6 else rng.choice(SCALE_KINDS)
        if kernel.spec.input("w").format is None:
            scales = "normal"
        elif values == "hill":
            scales = "positive"
        yield Call(
            M=min(rows, most),
            values=values,
            scales=scales,
            seed=seed + at,
            nan=rng.randint(0, 2) if special else 0,
            inf=rng.randint(0, 2) if special and infinities else 0,
            x_gap=rng.choice(GAPS),
            residual_gap=rng.choice(GAPS) if "residual" in names else 0,
            out_gap=rng.choice(GAPS),
            x_offset=rng.choice(OFFSETS),
            residual_offset=rng.choice(OFFSETS) if "residual" in names else 0,
            bias_offset=rng.choice(OFFSETS) if "bias" in names else 0,
            w_offset=rng.choice((0, 0, 0, 16, 48)),
            out_offset=rng.choice(OFFSETS),
            transposed=on_cpu and rng.random() < 0.05,
            threads=rng.choice((1, 1, 2, 3)) if on_cpu else 1,
            order=0 if on_cpu else rng.randrange(1 << 16),
            asm=kernel.target.language is Language.TRITON and rng.random() < 0.3,
        )


def targets_of(languages: Sequence[Language], wanted: Wanted) -> tuple[Target, ...]:
    """Return the wanted targets of some languages, whether they run here or not."""
    return tuple(t for name, t in TARGETS.items() if t.language in languages and wanted.takes_target(name))
