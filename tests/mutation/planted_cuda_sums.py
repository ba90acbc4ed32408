"""Bugs planted in what the CUDA kernels compute: order, barriers, sums, decoding, epilogues."""

from __future__ import annotations

from tests.mutation.cuda_recipes import ANY, LIB, MAINS, PROBLEM, REDUCE, STAGES, SUMS, of_each
from tests.mutation.plant import Planted

EPILOGUES = "tests/templates/test_epilogue_values.py::test_"
ERF = "return 0.5f * x * erfcf(x * -0.70710678f);"
TANH = "return x / (1.f + expf(x * (x * x * -0.0713548128f - 1.59576912f)));"
SYNC = "__syncthreads();"

ORDER = (
    *of_each(
        "sums that start anywhere", "uninitialised accumulator", MAINS,
        {
            "gemv": ("acc[TILES_N][SUMS] = {};", "acc[TILES_N][SUMS];"),
            "mma": ("acc[TILES_N][TILES_M][4] = {};", "acc[TILES_N][TILES_M][4];"),
            "wgmma": ("Sums acc = {};", "Sums acc;"),
        },
        ANY,
    ),
    *of_each(
        "a group's sums are kept", "uninitialised accumulator", SUMS,
        {"wgmma": ("!GROUPED || (k + tile * 16) % FLUSH_K != 0", "1")},
        ANY,
    ),
    *of_each(
        "no barrier behind a stage", "missing barrier", MAINS,
        {
            "gemv": (f"  ptx::cp_async_wait<0>();\n  {SYNC}\n", "  ptx::cp_async_wait<0>();\n"),
            "mma": (f"{SYNC}  // the stage has come", "// the stage has come"),
        },
        ANY,
    ),
    *of_each(
        "no barrier before the ticket", "missing barrier", REDUCE,
        {"mma": (f"{SYNC}\n    if (t == 0) before", "if (t == 0) before")},
        ANY,
    ),
    *of_each(
        "no fence between what is stored and what is multiplied", "missing barrier", SUMS,
        {"wgmma": ("ptx::fence_proxy_async();  // wgmma reads", "// wgmma reads")},
        ANY,
    ),
    *of_each(
        "no wait for what is copied", "missing wait",
        {"gemv": MAINS["gemv"], "mma": MAINS["mma"], "wgmma": SUMS["wgmma"]},
        {
            "gemv": ("ptx::cp_async_wait<0>();", ""),
            "mma": ("ptx::cp_async_wait<STAGES - 2>();", ""),
            "wgmma": ("ptx::cp_async_wait<AHEAD - 1>();", ""),
        },
        ANY,
    ),
    *of_each(
        "no wait for what is multiplied", "missing wait", SUMS,
        {"wgmma": ("  ptx::wgmma_wait<1>();", "")},
        ANY,
    ),
    *of_each(
        "one stage too few", "too few pipeline stages", {"mma": MAINS["mma"], "wgmma": STAGES["wgmma"]},
        {
            "mma": ("const int next = step + STAGES - 1;", "const int next = step + STAGES;"),
            "wgmma": ("AHEAD = STAGES - 2;", "AHEAD = STAGES - 1;"),
        },
        ANY,
    ),
    *of_each(
        "parts of K are added twice", "split-K added twice", REDUCE,
        {"gemv": ("+= parts[s * BLOCK_M * BLOCK_N + i];", "+= 2.f * parts[s * BLOCK_M * BLOCK_N + i];")},
        f"{ANY}[1-bf16]",
    ),
    *of_each(
        "a step is taken by both blocks that share K", "split-K added twice", MAINS,
        {"wgmma": ("STEPS * split / SPLITS,", "STEPS * split / SPLITS - split,")},
        f"{ANY}[1-bf16]",
    ),
    *of_each(
        "sums are added as blocks come", "order of the sums", REDUCE,
        {
            "gemv": (
                "v += parts[s * BLOCK_M * BLOCK_N + i];",
                "v += parts[(s + split) % SPLITS * BLOCK_M * BLOCK_N + i];",
            ),
        },
        "ordered_sums_are_the_same_bits_in_any_order_of_threads_and_blocks",
    ),
    *of_each(
        "tickets are left behind", "workspace not left zero", REDUCE,
        {"mma": ("if (t == 0) tickets[tile] = 0;", "")},
        f"{ANY}[1-bf16]",
    ),
    *of_each(
        "sums are left behind", "workspace not left zero", REDUCE,
        {"gemv": ("      parts[i] = 0.f;\n", "")},
        "sums_in_no_order_are_right",
    ),
    *of_each(
        "sums start at one", "wrong identity of a sum", REDUCE,
        {"mma": ("float v = 0.f;", "float v = 1.f;")},
        ANY,
    ),
    *(
        Planted(
            f"cuda {recipe}: sums are kept in float16", "float16 accumulation", "cuda", SUMS[recipe],
            f"{acc} += {term};", f"{acc} = ptx::cvt_f32_f16(ptx::cvt_f16_f32({acc} + {term}));",
            (f"tests/templates/test_long_sums.py::test_sums_are_kept_in_float32[gemm.cuda.{recipe}]",),
        )
        for recipe, acc, term in (
            ("gemv", "acc[i][s]", "widen(((const S*)(shared + S_AT))[at + i * 16 + s / (SUMS / 2) * 8]) * part[i][s]"),
            ("mma", "acc[i][j][e]", "(e < 2 ? upper : lower) * part[i][j][e]"),
            ("wgmma", "acc[i][e]", "scale[i][e / 2 % 2] * part[i][e]"),
        )
    ),
)  # fmt: skip

VALUES = (
    *of_each(
        "scales are left out", "dropped scale", SUMS,
        {
            "gemv": ("widen(((const S*)(shared + S_AT))[at + i * 16 + s / (SUMS / 2) * 8]) * part", "part"),
            "mma": ("(e < 2 ? upper : lower) * part", "part"),
            "wgmma": ("scale[i][e / 2 % 2] * part", "part"),
        },
        ANY,
    ),
    *of_each(
        "scales of a row are left out", "dropped scale", REDUCE,
        {"mma": ("if (!GROUPED) v *=", "if (GROUPED) v *=")},
        ANY,
    ),
    *of_each(
        "zero points are left out", "dropped zero point", SUMS,
        {
            "gemv": ("Decoder::zero(shared[Z_AT + at + i * 16 + h * 8])", "Decoder::zero(0)"),
            "mma": ("Decoder::zero(stage[Z_AT + row + i * 16 + h * 8])", "Decoder::zero(0)"),
            "wgmma": ("Decoder::zero(stage[Z_AT + group_at(k) + own_row() + i * 64 + h * 8])", "Decoder::zero(0)"),
        },
        "every_decoder", ANY,
    ),
    *of_each(
        "a zero point is one too large", "zero point off by one", f"{LIB}/decode.cuh",
        {"mma": ("return {(0x6400u | z) * 0x10001u,", "return {((0x6400u | z) + 1) * 0x10001u,")},
        ANY,
    ),
    *of_each(
        "a zero point is one too large", "zero point off by one", f"{LIB}/exact.cuh",
        {"gemv": ("one_at(i) | z << 4 * i", "one_at(i) | (z + 1) << 4 * i")},
        f"{ANY}[1-f32]",
    ),
    *of_each(
        "a group begins a tile too early", "wrong group at a boundary",
        {"gemv": MAINS["gemv"], "mma": MAINS["mma"], "wgmma": STAGES["wgmma"]},
        {
            "gemv": ("? k / GROUP_K * BLOCK_N : 0)", "? (k + 16) / GROUP_K * BLOCK_N : 0)"),
            "mma": ("? k / GROUP_K : 0)", "? (k + 16) / GROUP_K : 0)"),
            "wgmma": ("? k / GROUP_K * BLOCK_N : 0;", "? (k + CHUNK_K) / GROUP_K * BLOCK_N : 0;"),
        },
        ANY,
    ),
    *of_each(
        "codes of another byte", "nibble order", f"{LIB}/decode.cuh",
        {
            "mma": ("far = q[0] >> 8;", "far = q[0] >> 4;"),
            "wgmma": ("r[1] = ptx::fma_f16x2(high(near)", "r[1] = ptx::fma_f16x2(high(far)"),
        },
        ANY,
    ),
    *of_each(
        "codes of the other half word", "nibble order", f"{LIB}/exact.cuh",
        {"gemv": ("e % 2 ? q[0] >> 16 : q[0]", "e % 2 ? q[0] : q[0] >> 16")},
        f"{ANY}[1-f32]",
    ),
    *of_each(
        "x is cleared behind the last use", "input mutation", PROBLEM,
        {
            "mma": (
                "  narrow(c.y + row * c.ldy + n, a);",
                "  narrow(c.y + row * c.ldy + n, a);\n  ((X*)c.x)[row * c.ldx] = X();",
            ),
        },
        ANY,
    ),
    *of_each(
        "epilogues from the last to the first", "order of the epilogues", PROBLEM,
        {"mma": ("//% for step in steps\n", "//% for step in steps|reverse\n")},
        ANY, "every_epilogue",
    ),
    Planted(
        "cuda mma: gelu is gelu_tanh", "activation of another variant", "cuda", f"{LIB}/activation.cuh", ERF, TANH,
        (f"{EPILOGUES}activations_keep_their_contract[gemm.cuda.mma-gelu]",),
    ),
    Planted(
        "cuda gemv: gelu_tanh is gelu", "activation of another variant", "cuda", f"{LIB}/activation.cuh", TANH, ERF,
        (f"{EPILOGUES}activations_keep_their_contract[gemm.cuda.gemv-gelu_tanh]",),
    ),
    Planted(
        "cuda mma: relu makes zero of NaN", "NaN and infinity", "cuda", f"{LIB}/activation.cuh",
        "return x < 0.f ? 0.f : x;", "return x > 0.f ? x : 0.f;",
        (f"{EPILOGUES}activations_keep_their_contract[gemm.cuda.mma-relu]",),
    ),
    Planted(
        "cuda gemv: bfloat16 is cut off", "wrong rounding", "cuda", f"{LIB}/numbers.cuh",
        "to->bits = ptx::cvt_bf16_f32(a); }", "to->bits = (uint16_t)(__float_as_uint(a) >> 16); }",
        (f"{EPILOGUES}a_store_rounds_to_nearest_even[gemm.cuda.gemv--bf16]",),
    ),
    Planted(
        "cuda mma: float16 is rounded by way of bfloat16", "wrong rounding", "cuda", f"{LIB}/numbers.cuh",
        "to->bits = ptx::cvt_f16_f32(a); }", "to->bits = ptx::cvt_f16_f32(ptx::cvt_f32_bf16(ptx::cvt_bf16_f32(a))); }",
        (f"{EPILOGUES}a_store_rounds_to_nearest_even[gemm.cuda.mma--f16]",),
    ),
    *of_each(
        "factors keep one digit", "constant folded scalar", "lower/passes.py",
        {"mma": ('steps.append(f"a * {float(factor)!r}{suffix}")', 'steps.append(f"a * {float(factor):.0e}{suffix}")')},
        "every_epilogue",
    ),
    *of_each(
        "N is rounded up to tiles", "hard-coded shape", "lower/passes.py",
        {
            "mma": (
                "return Extents(w.static(0), w.static(1))", "return Extents(-(-w.static(0) // 16) * 16, w.static(1))",
            ),
        },
        ANY,
    ),
    *of_each(
        "the last block of n is not launched", "hard-coded shape", "lower/passes_gpu.py",
        {"mma": ("blocks_n=-(-n // block_n)", "blocks_n=max(1, n // block_n)")},
        ANY,
    ),
    *of_each(
        "shared memory has no room for scales", "too few pipeline stages", "lower/passes_gpu.py",
        {"mma": ("* 2 + scales + zeros", "* 2 + zeros")},
        ANY,
    ),
)  # fmt: skip

BUGS = (*ORDER, *VALUES)
