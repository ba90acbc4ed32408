"""Bugs planted in the Triton kernels: templates of small and large, and what they include."""

from __future__ import annotations

from tests.mutation.plant import Planted

TESTS = "tests/templates/test_triton.py::test_"
RIGHT, SPLIT = f"{TESTS}kernels_are_right", f"{TESTS}programs_that_share_k"
LAYOUTS = "tests/templates/test_triton_operands.py::test_"
VALUES = "tests/templates/test_epilogue_values.py::test_"
OFFSETS = "tests/templates/test_large_offsets.py::test_"
LIB, GEMM = "templates/lib/triton", "templates/gemm"
SUM, DECODE, SMALL, LARGE = f"{LIB}/gemm_sum.py.j2", f"{LIB}/decode.py.j2", f"{GEMM}/small.py.j2", f"{GEMM}/large.py.j2"
ACTIVATION = f"{LIB}/activation.py.j2"
LOAD_X = "v = tl.load(at, mask=(rows < m)[:, None] & (columns < K)[None, :], other=0.0)"
INSIDE = "inside = (n < N)[:, None] & (rows < m)[None, :]"
BIAS = "bias = tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[:, None]"


def planted(name: str, klass: str, file: str, old: str, new: str, *tests: str, count: int = 1) -> Planted:
    return Planted(f"triton: {name}", klass, "triton", file, old, new, tests, count)


BUGS = (
    # ---- tails ------------------------------------------------------------------------------------------------------
    planted(
        "x is read behind M", "tail mask of M", SUM, LOAD_X, LOAD_X.replace("(rows < m)[:, None] & ", ""), RIGHT,
    ),
    planted(
        "y is written behind M", "tail mask of M", SUM, INSIDE, "inside = (n < N)[:, None] & (rows >= 0)[None, :]",
        RIGHT,
    ),
    planted(
        "y is written behind N", "tail mask of N", SUM, INSIDE, "inside = (n >= 0)[:, None] & (rows < m)[None, :]",
        RIGHT,
    ),
    planted(
        "the bias is read behind N", "tail mask of N", SUM, BIAS, BIAS.replace(", mask=n < N, other=0.0", ""), RIGHT,
    ),
    planted(
        "x is read behind K", "tail mask of K", SUM, LOAD_X, LOAD_X.replace(" & (columns < K)[None, :]", ""), RIGHT,
    ),
    planted(
        "what lies behind K is NaN", "NaN and infinity", SUM, LOAD_X,
        LOAD_X.replace("other=0.0", 'other=float("nan")'), RIGHT,
    ),
    planted(
        "a step that is not whole is left out", "off-by-one bound", f"{LIB}/gemm_problem.py.j2",
        "(PADDED_K + BLOCK_K - 1) // BLOCK_K", "max(1, PADDED_K.value // BLOCK_K.value)",
        f"{LAYOUTS}a_step_that_is_not_whole",
    ),
    planted(
        "small: the last part of K is left out", "off-by-one bound", SMALL, "range(SPLITS)", "range(SPLITS - 1)",
        SPLIT,
    ),
    planted(
        "large: blocks of m beyond the grid", "off-by-one bound", LARGE,
        "height = tl.minimum(tl.num_programs(1) - first, GROUP_M)", "height = GROUP_M", RIGHT,
        f"{LAYOUTS}blocks_that_are_no_multiple_of_a_group",
    ),
    # ---- strides and places ------------------------------------------------------------------------------------------
    planted(
        "rows of x are taken for contiguous", "wrong stride", SUM, "at = x + (rows * ldx)[:, None]",
        "at = x + (rows * K)[:, None]", f"{TESTS}rows_that_are_not_aligned_take_the_other_loop",
    ),
    planted(
        "strides of y and residual change places", "wrong stride", SUM, "(rows * ldr)[None, :]",
        "(rows * ldy)[None, :]", f"{LAYOUTS}rows_of_residual_and_y_may_lie_apart",
    ),
    planted(
        "rows of y are taken for contiguous", "wrong stride", SUM, "(rows * ldy)[None, :], a.to",
        "(rows * N)[None, :], a.to", f"{LAYOUTS}rows_of_residual_and_y_may_lie_apart",
    ),
    planted(
        "y is written [n][row]", "transposed operand", SUM, "tl.store(y + n[:, None] + (rows * ldy)[None, :]",
        "tl.store(y + (n * ldy)[:, None] + rows[None, :]", RIGHT,
    ),
    planted(
        "pairs and rows of a tile change places", "transposed operand", DECODE, "(1, 5, 2, 0, 4, 6, 3, 7)",
        "(1, 5, 2, 0, 4, 7, 3, 6)", RIGHT,
    ),
    planted(
        "the bias is one of rows", "broadcast of the bias", SUM, BIAS,
        "bias = tl.load(bias + rows, mask=rows < m, other=0.0).to(tl.float32)[None, :]", RIGHT,
    ),
    planted(
        "a row of x is found in 32 bits", "32-bit offset", SUM, "at = x + (rows * ldx)[:, None]",
        "at = x + (rows * ldx).to(tl.int32)[:, None]", f"{OFFSETS}triton_rows_far_apart",
    ),
    planted(
        "a row of the residual is found in 32 bits", "32-bit offset", SUM, "(rows * ldr)[None, :]",
        "(rows * ldr).to(tl.int32)[None, :]", f"{OFFSETS}triton_rows_far_apart",
    ),
    planted(
        "a row of y is found in 32 bits", "32-bit offset", SUM, "(rows * ldy)[None, :], a.to",
        "(rows * ldy).to(tl.int32)[None, :], a.to", f"{OFFSETS}triton_rows_far_apart",
    ),
    planted(
        "a chunk of the weight is found in 32 bits", "32-bit offset", SUM,
        "start = (k // CHUNK_K).to(tl.int64) * (PADDED_N * 8)",
        "start = ((k // CHUNK_K) * (PADDED_N * 8)).to(tl.int32)",
        f"{OFFSETS}triton_a_weight_of_more_than_two_gigabytes",
    ),
    planted(
        "rows of x are taken for aligned", "alignment taken for granted", SUM,
        "(x.to(tl.int64) | ldx * X_BYTES) % 16 == 0", "ldx * X_BYTES % 16 == 0",
        f"{TESTS}rows_that_are_not_aligned_take_the_other_loop",
    ),
    planted(
        "the second half of a high tile is the first", "hard-coded shape", SUM, "ldy, n0, m0 + ROWS // 2, m)",
        "ldy, n0, m0, m)", RIGHT,
    ),
    # ---- sums -------------------------------------------------------------------------------------------------------
    planted(
        "small: parts that nobody stored", "uninitialised accumulator", SMALL,
        "        tl.store(parts + split * SIZE + at, acc)\n",
        "        if split > 0:\n            tl.store(parts + split * SIZE + at, acc)\n", SPLIT,
    ),
    planted(
        "small: the last program adds its own part twice", "split-K added twice", SMALL,
        "            acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)\n            for", "            for", SPLIT,
    ),
    planted(
        "small: parts of K overlap", "split-K added twice", SUM, "(split + 1) * STEPS // SPLITS",
        "((split + 1) * STEPS + SPLITS - 1) // SPLITS", SPLIT,
    ),
    planted(
        "small: sums are added as programs come", "order of the sums", SMALL, "parts + s * SIZE + at, cache",
        "parts + (s + split) % SPLITS * SIZE + at, cache",
        f"{LAYOUTS}ordered_sums_are_the_same_bits_in_any_order_of_programs",
    ),
    planted(
        "small: tickets are left behind", "workspace not left zero", SMALL,
        "        tl.store(tickets + parts_tile, 0)\n", "", SPLIT,
    ),
    planted(
        "small: sums are left behind", "workspace not left zero", SMALL,
        "            tl.store(parts + at, tl.zeros((BLOCK_N, BLOCK_M), tl.float32))\n", "", SPLIT,
    ),
    planted(
        "sums start at one", "wrong identity of a sum", SUM, "acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)",
        "acc = tl.full((BLOCK_N, BLOCK_M), 1.0, tl.float32)", RIGHT,
    ),
    planted(
        "sums are kept in float16", "float16 accumulation", SUM,
        "acc += scale * tl.dot(u, v, input_precision=PRECISION)",
        "acc = (acc + scale * tl.dot(u, v, input_precision=PRECISION)).to(tl.float16).to(tl.float32)",
        "tests/templates/test_long_sums.py::test_sums_are_kept_in_float32[gemm.triton.small]",
    ),
    planted(
        "the scales of a step are those of the one before", "too few pipeline stages", SUM,
        "load_scales(w, n0, after)", "load_scales(w, n0, k)", RIGHT,
    ),
    # ---- decoding ----------------------------------------------------------------------------------------------------
    planted(
        "scales are left out", "dropped scale", SUM, "acc += scale * tl.dot", "acc += tl.dot", RIGHT,
    ),
    planted(
        "scales of a row are left out", "dropped scale", SUM, "if not GROUPED:\n            a *=",
        "if GROUPED and False:\n            a *=", RIGHT,
    ),
    planted(
        "zero points are left out", "dropped zero point", SUM, "    if ZERO:\n", "    if ZERO and False:\n", RIGHT,
    ),
    planted(
        "a zero point is one too large", "zero point off by one", DECODE, "& MASK) - zero).to(A)",
        "& MASK) - zero - 1).to(A)", RIGHT,
    ),
    planted(
        "a zero point of PTX is one too large", "zero point off by one", DECODE, "one = (upper | 0x6400) * 0x10001",
        "one = ((upper | 0x6400) + 1) * 0x10001", RIGHT,
    ),
    planted(
        "a step takes the groups before its own", "wrong group at a boundary", SUM, "tl.minimum(k // GROUP_K +",
        "tl.maximum(k // GROUP_K - 1, 0) + tl.minimum(", RIGHT,
    ),
    planted(
        "halves of a step's groups change places", "wrong group at a boundary", SUM,
        "low, high = tl.split(tl.permute(tl.reshape(v", "high, low = tl.split(tl.permute(tl.reshape(v", RIGHT,
    ),
    planted(
        "k and row of a nibble change places", "nibble order", DECODE, "tl.join(tl.join(a, b), tl.join(c, d))",
        "tl.join(tl.join(a, c), tl.join(b, d))", RIGHT,
    ),
    planted(
        "nibbles of PTX are those of the next byte", "nibble order", DECODE, "shr.u32 far, $8, 8;",
        "shr.u32 far, $8, 4;", RIGHT,
    ),
    # ---- operands and epilogues --------------------------------------------------------------------------------------
    planted(
        "x is cleared behind the last use", "input mutation", SMALL, "    if SPLITS == 1:\n",
        "    tl.store(x, 0.0)\n    if SPLITS == 1:\n", RIGHT,
    ),
    planted(
        "epilogues from the last to the first", "order of the epilogues", SUM, "#% for step in steps\n",
        "#% for step in steps|reverse\n", RIGHT,
    ),
    planted(
        "gelu is gelu_tanh", "activation of another variant", ACTIVATION,
        "return 0.5 * x * (1.0 + tl.erf(x * 0.70710678))",
        "return x / (1.0 + tl.exp(x * (x * x * -0.0713548128 - 1.59576912)))",
        f"{VALUES}activations_keep_their_contract[gemm.triton.small-gelu]",
    ),
    planted(
        "gelu_tanh is gelu", "activation of another variant", ACTIVATION,
        "return x / (1.0 + tl.exp(x * (x * x * -0.0713548128 - 1.59576912)))",
        "return 0.5 * x * (1.0 + tl.erf(x * 0.70710678))",
        f"{VALUES}activations_keep_their_contract[gemm.triton.large-gelu_tanh]",
    ),
    planted(
        "relu makes zero of NaN", "NaN and infinity", ACTIVATION, "return tl.where(x < 0.0, 0.0, x)",
        "return tl.where(x > 0.0, x, 0.0)", f"{LAYOUTS}what_is_not_finite_stays_in_its_row",
    ),
    planted(
        "y is cut off to bfloat16", "wrong rounding", SUM, "a.to(tl.$(y_type)), mask=inside)",
        "(a.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True).to(tl.$(y_type)), mask=inside)",
        f"{VALUES}a_store_rounds_to_nearest_even[gemm.triton.small--bf16]",
    ),
    planted(
        "x is cut off to tf32", "wrong rounding", SUM, "(v.to(tl.int32, bitcast=True) + 0x1000) & -0x2000",
        "v.to(tl.int32, bitcast=True) & -0x2000", f"{VALUES}x_is_rounded_to_nearest[gemm.triton.small-tf32-11]",
    ),
    planted(
        "factors keep one digit", "constant folded scalar", "lower/passes.py",
        'steps.append(f"a * {float(factor)!r}{suffix}")', 'steps.append(f"a * {float(factor):.0e}{suffix}")',
        f"{LAYOUTS}factors_are_what_they_are",
    ),
    planted(
        "N is rounded up to tiles", "hard-coded shape", "lower/passes.py", "return Extents(w.static(0), w.static(1))",
        "return Extents(-(-w.static(0) // 16) * 16, w.static(1))", RIGHT,
    ),
)  # fmt: skip
