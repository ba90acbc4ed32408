"""Bugs planted in what the CUDA kernels read and write: tails, strides, offsets, alignment."""

from __future__ import annotations

from tests.mutation.cuda_recipes import ANY, MAINS, OF, PROBLEM, REDUCE, STAGES, of_each
from tests.mutation.plant import Planted

OFFSETS = "tests/templates/test_large_offsets.py::test_"

TAILS = (
    *of_each(
        "x is read behind M", "tail mask of M", STAGES,
        dict.fromkeys(OF, ("m0 + row < c.m && k < K", "k < K")),
        ANY,
    ),
    *of_each(
        "x is read behind K", "tail mask of K", STAGES,
        {
            "gemv": ("min(K - k, PIECE) : 0", "PIECE : 0"),
            "mma": ("min(K - k, 8) : 0", "8 : 0"),
            "wgmma": ("min(K - k, 8) : 0", "8 : 0"),
        },
        "n_and_k_that_no_tile_divides", ANY,
    ),
    *of_each(
        "y is written behind M", "tail mask of M", REDUCE,
        {"mma": ("m0 + i / BLOCK_N >= c.m || ", "")},
        ANY,
    ),
    *of_each(
        "y is written behind N", "tail mask of N", REDUCE,
        dict.fromkeys(OF, (" || n >= N", "")),
        ANY,
    ),
    *of_each(
        "one row of y too many", "off-by-one bound", REDUCE,
        {"gemv": ("m0 + i / BLOCK_N >= c.m", "m0 + i / BLOCK_N > c.m")},
        ANY,
    ),
    *of_each(
        "one column of y too many", "off-by-one bound", REDUCE,
        {"wgmma": ("n >= N", "n > N")},
        ANY,
    ),
    *of_each(
        "a step that is not whole is left out", "off-by-one bound", STAGES,
        {
            "gemv": ("(CHUNKS + LOADS - 1) / LOADS, MOST", "CHUNKS / LOADS, MOST"),
            "mma": ("(PADDED_K + BLOCK_K - 1) / BLOCK_K", "PADDED_K / BLOCK_K"),
        },
        ANY, "n_and_k_that_no_tile_divides",
    ),
)  # fmt: skip

PLACES = (
    *of_each(
        "rows of x are taken for contiguous", "wrong stride", STAGES,
        dict.fromkeys(OF, ("(m0 + row) * c.ldx + k", "(m0 + row) * K + k")),
        "rows_of_x_may_begin_anywhere",
    ),
    *of_each(
        "strides of y and residual change places", "wrong stride", PROBLEM,
        {"gemv": ("row * c.ldr + n", "row * c.ldy + n")},
        "rows_of_x_may_begin_anywhere",
    ),
    *of_each(
        "rows of y are taken for contiguous", "wrong stride", PROBLEM,
        {"mma": ("c.y + row * c.ldy + n", "c.y + row * N + n")},
        "rows_of_y_may_lie_apart",
    ),
    *of_each(
        "sums lie [n][row]", "transposed operand", MAINS,
        {
            "gemv": (
                "sums[(warp_k * BLOCK_M + token) * BLOCK_N + n] = v",
                "sums[(warp_k * BLOCK_N + n) * BLOCK_M + token] = v",
            ),
            "mma": ("sums[(warp_k * BLOCK_M + row) * BLOCK_N + n]", "sums[(warp_k * BLOCK_N + n) * BLOCK_M + row]"),
            "wgmma": ("sums[row * BLOCK_N + n]", "sums[n * BLOCK_M + row]"),
        },
        ANY,
    ),
    *of_each(
        "the bias is one of rows", "broadcast of the bias", PROBLEM,
        {"mma": ("c.bias[n]", "c.bias[row]")},
        ANY,
    ),
    *(
        Planted(
            f"cuda {recipe}: a row of x is found in 32 bits", "32-bit offset", "cuda", STAGES[recipe],
            "c.x + (m0 + row) * c.ldx + k", "c.x + (int)((m0 + row) * c.ldx) + k",
            (f"{OFFSETS}cuda_rows_far_apart[{recipe}]",),
        )
        for recipe in OF
    ),
    Planted(
        "cuda: a row of the residual is found in 32 bits", "32-bit offset", "cuda", PROBLEM,
        "c.residual[row * c.ldr + n]", "c.residual[(int)(row * c.ldr) + n]", (f"{OFFSETS}cuda_rows_far_apart[mma]",),
    ),
    Planted(
        "cuda mma: a chunk of the weight is found in 32 bits", "32-bit offset", "cuda", STAGES["mma"],
        "((int64_t)k * (PADDED_N / 16) + n) * 512", "(k * (PADDED_N / 16) + n) * 512",
        (f"{OFFSETS}cuda_a_weight_of_more_than_two_gigabytes[mma]",),
    ),
    Planted(
        "cuda gemv: a chunk of the weight is found in 32 bits", "32-bit offset", "cuda", MAINS["gemv"],
        "constexpr int64_t CHUNK_BYTES = (int64_t)PADDED_N / 16 * 512;",
        "constexpr int CHUNK_BYTES = PADDED_N / 16 * 512;",
        (f"{OFFSETS}cuda_a_weight_of_more_than_two_gigabytes[gemv]",),
    ),
    Planted(
        "cuda wgmma: a chunk of the weight is found in 32 bits", "32-bit offset", "cuda", STAGES["wgmma"],
        "((int64_t)(k0 / CHUNK_K + i) * (PADDED_N / 16) + n0 / 16) * 512",
        "((k0 / CHUNK_K + i) * (PADDED_N / 16) + n0 / 16) * 512",
        (f"{OFFSETS}cuda_a_weight_of_more_than_two_gigabytes[wgmma]",),
    ),
    *of_each(
        "rows of x are taken for aligned", "alignment taken for granted",
        {"gemv": STAGES["gemv"], "mma": MAINS["mma"], "wgmma": MAINS["wgmma"]},
        {
            "gemv": ("((uint64_t)c.x | (uint64_t)c.ldx * sizeof(X)) % 16 == 0", "true"),
            "mma": ("((uint64_t)x | (uint64_t)ldx * sizeof(X)) % 16 == 0", "true"),
            "wgmma": ("((uint64_t)x | (uint64_t)ldx * sizeof(X)) % 16 == 0", "(uint64_t)ldx * sizeof(X) % 16 == 0"),
        },
        "rows_of_x_may_begin_anywhere", ANY,
    ),
    *of_each(
        "x is permuted on one side only", "transposed operand", STAGES,
        {"mma": ("X_AT + x_place(row, k - k0)", "X_AT + (row * (BLOCK_K / 8) + (k - k0) / 8) * 16")},
        ANY,
    ),
)  # fmt: skip

BUGS = (*TAILS, *PLACES)
