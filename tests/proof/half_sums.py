"""Sums over K in float16 accumulators, as kernels make them, and operands to sum, by a draw that stays the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gridstone.ir.dtype import Values, round_to
from gridstone.ir.format import Quantized, dequantize
from gridstone.ir.spec import Spec
from gridstone.ir.text import parse_spec
from gridstone.proof.compare import Verdict, compare

HALF = np.float16
K = 14336
QUANTISED, PLAIN = "gemm[x: {0}(8,14336), w: int4:g128(32,14336)]", "gemm[x: {0}(8,14336), w: {0}(32,14336)]"


def in_turn(terms: np.ndarray) -> np.ndarray:
    """Add one after the other, each sum rounded to float16."""
    return np.cumsum(terms.astype(HALF), axis=-1, dtype=HALF)[..., -1]


def in_pairs(terms: np.ndarray) -> np.ndarray:
    """Add neighbours, then neighbours of these, each sum rounded to float16."""
    sums = terms.astype(HALF)
    while sums.shape[-1] > 1:
        if sums.shape[-1] % 2:
            sums = np.concatenate([sums, np.zeros((*sums.shape[:-1], 1), HALF)], -1)
        sums = sums[..., ::2] + sums[..., 1::2]
    return sums[..., 0]


def blocks(terms: np.ndarray, size: int) -> np.ndarray:
    return terms.reshape(*terms.shape[:-1], -1, size)


def widely(sums: np.ndarray) -> np.ndarray:
    """Add in float32."""
    return sums.astype(np.float32).sum(-1, dtype=np.float32)


HOW: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "one term after the other": in_turn,
    "16 terms at once, as tensor cores do": lambda p: in_turn(blocks(p, 16).sum(-1)),
    "runs of 128, added in float16": lambda p: in_turn(in_turn(blocks(p, 128))),
    "runs of 512, added in float32": lambda p: widely(in_turn(blocks(p, 512))),
    "runs of 128, added in float32": lambda p: widely(in_turn(blocks(p, 128))),
    "runs of 32, added in float32": lambda p: widely(in_turn(blocks(p, 32))),
    "in pairs": in_pairs,
    "float32": widely,
}
CASES = (
    (QUANTISED, "f16", False), (QUANTISED, "f16", True), (QUANTISED, "bf16", False), (QUANTISED, "bf16", True),
    (PLAIN, "f16", False), (PLAIN, "f16", True), (PLAIN, "bf16", False), (PLAIN, "bf16", True),
)  # fmt: skip


def drawn(text: str, dtype: str, hill: bool) -> tuple[Spec, dict[str, Values]]:
    """Normal values, or sums that climb over half of K and come back, as `draws.hill` makes them."""
    spec, rng = parse_spec(text.format(dtype)), np.random.default_rng(1)
    kind, fmt = spec.input("x").dtype, spec.input("w").format
    x = round_to(kind, rng.standard_normal((8, K)))
    if fmt is None:
        w = round_to(kind, rng.standard_normal((32, K)))
    else:
        codes = rng.integers(0, 16, (32, K)).astype(np.uint8)
        scales = round_to(fmt.scale, rng.uniform(0.5, 1.5, (32, fmt.groups(K))) / (8 * K**0.5))
        w = dequantize(fmt, Quantized(np.minimum(codes, np.uint8(8)) if hill else codes, scales, None))
    if hill:
        x, w = np.abs(x), np.abs(w)
        x[:, K // 2 :] *= -1.0
    return spec, {"x": x, "w": w}


def verdicts(text: str, dtype: str, hill: bool) -> dict[str, Verdict]:
    """What is said of each way to sum."""
    spec, values = drawn(text, dtype, hill)
    want, bound = spec.op.reference(spec, values), spec.op.tolerance(spec, values)
    terms = values["x"][:, None] * round_to(spec.input("x").dtype, values["w"])[None]
    made = {name: round_to(spec.output.dtype, how(terms).astype(np.float64)) for name, how in HOW.items()}
    return {name: compare(y, want, bound, spec.output.dtype) for name, y in made.items()}


def table() -> list[str]:
    """Return the rows of the table in docs/tolerance.md: the larger ratio of error to bound, bold where refused."""
    columns = [verdicts(*case) for case in CASES]
    rows: list[str] = []
    for name in HOW:
        cells = [(max(v[name].worst_element, v[name].worst_rms), v[name].right) for v in columns]
        shown = [(f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}", right) for ratio, right in cells]
        rows.append(f"| {name} | " + " | ".join(text if right else f"**{text}**" for text, right in shown) + " |")
    return rows


if __name__ == "__main__":
    print("\n".join(table()))
