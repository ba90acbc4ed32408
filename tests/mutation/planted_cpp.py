"""Bugs planted in the C++ kernels: templates of gemv, direct and blocked, and what they include."""

from __future__ import annotations

from tests.mutation.plant import Planted

TESTS = "tests/templates/test_gemm_kernels.py::test_"
ROWS = f"{TESTS}one_kernel_takes_any_number_of_rows"
STORED = "tests/templates/test_epilogue_values.py::test_a_store_rounds_to_nearest_even"
WIDE = "tests/templates/test_large_offsets.py::test_"
LIB, GEMM = "templates/lib/cpp", "templates/gemm"
BF16 = "cpp:avx512_bf16"

BUGS = (
    # ---- tails ------------------------------------------------------------------------------------------------------
    Planted(
        "cpp: rows of the last tile are left out", "tail mask of M", "cpp", f"{LIB}/gemm_rows.h", "rest(m % tiles)",
        "rest(0)", (ROWS,),
    ),
    Planted(
        "cpp gemv: three rows are taken for four", "tail mask of M", "cpp", f"{GEMM}/gemv.cpp.j2",
        "case 3: rows_of<3>", "case 3: rows_of<4>", (f"{ROWS}[bf16-gemm.cpp.gemv]",),
    ),
    Planted(
        "cpp: whole vectors are stored behind N", "tail mask of N", "cpp", f"{LIB}/gemm_finish.h",
        "if (left >= BLOCK_N) {", "if (left > 0) {", (f"{TESTS}n_that_no_vector_or_block_divides",),
    ),
    Planted(
        "cpp: whole vectors of the bias are read behind N", "tail mask of N", "cpp", f"{LIB}/gemm_finish.h",
        "count >= LANES ? widen(from)", "count > 0 ? widen(from)",
        ("tests/templates/test_guard_pages.py::test_nothing_behind_an_operand_is_touched[gemm.cpp.gemv-bf16]",),
    ),
    Planted(
        "cpp: whole words of x are read behind K", "tail mask of K", "cpp", f"{LIB}/gemm_problem.h",
        "if (k + WORD_K > K) {", "if (k >= K) {", (f"{TESTS}k_that_no_word_or_slab_divides",),
    ),
    Planted(
        "cpp: a step of x is read behind K", "tail mask of K", "cpp", f"{LIB}/avx512_bf16.h",
        "return k < size ? bf16_bits(widen1(row + k)) : 0u;", "return bf16_bits(widen1(row + k));",
        (f"{TESTS}k_that_no_word_or_slab_divides",), needs=BF16,
    ),
    Planted(
        "cpp: an element of x is read behind K", "tail mask of K", "cpp", f"{LIB}/fp32.h",
        "return k < size ? widen1(row + k) : 0.f;", "return widen1(row + k);", (f"{ROWS}[f32-gemm.cpp.direct]", ROWS),
    ),
    # ---- bounds -----------------------------------------------------------------------------------------------------
    Planted(
        "cpp gemv: parts of K leave out a slab", "off-by-one bound", "cpp", f"{GEMM}/gemv.cpp.j2",
        "SLABS * part / K_SPLITS,", "SLABS * part / K_SPLITS + (part > 0),",
        (f"{TESTS}bits_do_not_depend_on_the_thread_count[gemm.cpp.gemv-4]",),
    ),
    Planted(
        "cpp: a thread leaves its last block out", "off-by-one bound", "cpp", f"{LIB}/gemm_problem.h",
        "const int64_t mine = fixed * (t + 1) / count;", "const int64_t mine = fixed * (t + 1) / count - 1;",
        (f"{TESTS}bits_do_not_depend_on_the_thread_count",),
    ),
    Planted(
        "cpp: the last slab is taken for a whole one", "off-by-one bound", "cpp", f"{LIB}/gemm_problem.h",
        "return (int)((left < SLAB_K ? left : SLAB_K) / WORD_K);", "return (int)(SLAB_K / WORD_K);",
        ("tests/templates/test_guard_pages.py::test_nothing_behind_an_operand_is_touched[gemm.cpp.direct-f32]",),
    ),
    # ---- strides and places ------------------------------------------------------------------------------------------
    Planted(
        "cpp: rows of x are taken for contiguous", "wrong stride", "cpp", f"{LIB}/gemm_problem.h",
        "a.x + (row + r) * a.ldx", "a.x + (row + r) * K", (f"{TESTS}strided_operands",),
    ),
    Planted(
        "cpp: strides of y and residual change places", "wrong stride", "cpp", f"{LIB}/gemm_finish.h",
        "a.residual + (row0 + m) * a.ldr + n0", "a.residual + (row0 + m) * a.ldy + n0",
        ("tests/kernel_cache/test_signature.py::test_outputs_that_fit_are_written",),
    ),
    Planted(
        "cpp: rows of y are taken for contiguous", "wrong stride", "cpp", f"{LIB}/gemm_finish.h",
        "Y* to = a.y + (row0 + m) * a.ldy + n0;", "Y* to = a.y + (row0 + m) * N + n0;",
        ("tests/kernel_cache/test_signature.py::test_outputs_that_fit_are_written",),
    ),
    Planted(
        "cpp: x is packed row by row instead of step by step", "transposed operand", "cpp", f"{LIB}/gemm_problem.h",
        "Step* at = to + i * STEPS * rows + r;", "Step* at = to + (i * rows + r) * STEPS; const int rows = 1;",
        (ROWS,),
    ),
    Planted(
        "cpp: the panel is [n][step]", "transposed operand", "cpp", f"{LIB}/gemm_tile.h",
        "if (FROM == DECODE_AND_KEEP) w[s * NV + v] = b[v];", "if (FROM == DECODE_AND_KEEP) w[v * STEPS + s] = b[v];",
        (f"{ROWS}[bf16-gemm.cpp.blocked]", f"{ROWS}[f32-gemm.cpp.blocked]"),
    ),
    Planted(
        "cpp: each block of n takes the bias of the first", "broadcast of the bias", "cpp", f"{LIB}/gemm_finish.h",
        "const B* from = a.bias + n0 + v * LANES;", "const B* from = a.bias + v * LANES;", (ROWS,),
    ),
    Planted(
        "cpp: a row of x is found in 32 bits", "32-bit offset", "cpp", f"{LIB}/gemm_problem.h",
        "a.x + (row + r) * a.ldx", "a.x + (int)((row + r) * a.ldx)", (f"{WIDE}rows_far_apart[gemm.cpp.gemv]",),
    ),
    Planted(
        "cpp: a row of the residual is found in 32 bits", "32-bit offset", "cpp", f"{LIB}/gemm_finish.h",
        "a.residual + (row0 + m) * a.ldr + n0", "a.residual + (int)((row0 + m) * a.ldr) + n0",
        (f"{WIDE}rows_far_apart[gemm.cpp.gemv]",),
    ),
    Planted(
        "cpp: a row of y is found in 32 bits", "32-bit offset", "cpp", f"{LIB}/gemm_finish.h",
        "Y* to = a.y + (row0 + m) * a.ldy + n0;", "Y* to = a.y + (int)((row0 + m) * a.ldy) + n0;",
        (f"{WIDE}rows_far_apart[gemm.cpp.gemv]",),
    ),
    Planted(
        "cpp direct: a block of the weight is found in 32 bits", "32-bit offset", "cpp", f"{GEMM}/direct.cpp.j2",
        "a.w + block * BLOCK_BYTES", "a.w + (int)(block * BLOCK_BYTES)",
        (f"{WIDE}a_weight_of_more_than_two_gigabytes[gemm.cpp.direct]",),
    ),
    Planted(
        "cpp gemv: a block of the weight is found in 32 bits", "32-bit offset", "cpp", f"{GEMM}/gemv.cpp.j2",
        "a.w + block * BLOCK_BYTES", "a.w + (int)(block * BLOCK_BYTES)",
        (f"{WIDE}a_weight_of_more_than_two_gigabytes[gemm.cpp.gemv]",),
    ),
    Planted(
        "cpp: loads of x are aligned", "alignment taken for granted", "cpp", f"{LIB}/base.h",
        "INLINE V load(const void* p) { V v; memcpy(&v, p, sizeof v); return v; }",
        "INLINE V load(const void* p) { return *(const V*)p; }",
        ("tests/kernel_cache/test_signature.py::test_outputs_that_fit_are_written", f"{TESTS}strided_operands"),
    ),
    # ---- sums -------------------------------------------------------------------------------------------------------
    Planted(
        "cpp gemv: sums that start anywhere", "uninitialised accumulator", "cpp", f"{GEMM}/gemv.cpp.j2",
        "memset(c, 0, ROWS * BLOCK_N * sizeof(float));", "", (f"{ROWS}[bf16-gemm.cpp.gemv]", ROWS),
    ),
    Planted(
        "cpp direct: sums that start anywhere", "uninitialised accumulator", "cpp", f"{GEMM}/direct.cpp.j2",
        "memset(c, 0, (row1 - row0) * BLOCK_N * sizeof(float));", "", (f"{ROWS}[bf16-gemm.cpp.direct]", ROWS),
    ),
    Planted(
        "cpp blocked: sums that start anywhere", "uninitialised accumulator", "cpp", f"{GEMM}/blocked.cpp.j2",
        "memset(c, 0, (row1 - row0) * BLOCK_N * sizeof(float));", "", (f"{ROWS}[bf16-gemm.cpp.blocked]", ROWS),
    ),
    Planted(
        "cpp: sums start at one", "wrong identity of a sum", "cpp", f"{LIB}/gemm_tile.h", "acc[p][m][v] = vf{};",
        "acc[p][m][v] = splat(1.f);", (ROWS,),
    ),
    Planted(
        "cpp gemv: split-K adds the first part twice", "split-K added twice", "cpp", f"{GEMM}/gemv.cpp.j2",
        "for (int part = 1; part < K_SPLITS; ++part)", "for (int part = 0; part < K_SPLITS; ++part)",
        (f"{TESTS}bits_do_not_depend_on_the_thread_count[gemm.cpp.gemv-4]",),
    ),
    Planted(
        "cpp: sums keep the bits of a float16", "float16 accumulation", "cpp", f"{LIB}/gemm_tile.h",
        "store(to, SCALED ? fma(sum, scale, load<vf>(to)) : load<vf>(to) + sum);",
        "store(to, (vf)((vu)(SCALED ? fma(sum, scale, load<vf>(to)) : load<vf>(to) + sum) & 0xffffe000u));",
        ("tests/templates/test_long_sums.py::test_sums_are_kept_in_float32[gemm.cpp.direct]",),
    ),
    Planted(
        "cpp: x is packed while others already read it", "missing barrier", "cpp", f"{LIB}/gemm_entry.h",
        "#pragma omp barrier\n", "",
        (f"{TESTS}two_python_threads_at_once", f"{TESTS}bits_do_not_depend_on_the_thread_count"),
    ),
    Planted(
        "cpp gemv: parts are added before they are there", "missing barrier", "cpp", f"{GEMM}/gemv.cpp.j2",
        "#pragma omp barrier\n", "",
        (f"{TESTS}bits_do_not_depend_on_the_thread_count[gemm.cpp.gemv-4]", f"{TESTS}two_python_threads_at_once"),
    ),
    Planted(
        "cpp: the threads of a call share their scratch", "scratch shared by two threads", "cpp",
        f"{LIB}/gemm_entry.h", "packed_bytes(m) + t * THREAD_BYTES", "packed_bytes(m) + 0 * t * THREAD_BYTES",
        (f"{TESTS}bits_do_not_depend_on_the_thread_count",),
    ),
    # ---- decoding ----------------------------------------------------------------------------------------------------
    Planted(
        "cpp: scales are left out", "dropped scale", "cpp", f"{LIB}/gemm_tile.h",
        "SCALED ? fma(sum, scale, load<vf>(to)) : load<vf>(to) + sum", "load<vf>(to) + sum", (ROWS,),
    ),
    Planted(
        "cpp blocked: panels are not scaled", "dropped scale", "cpp", f"{GEMM}/blocked.cpp.j2",
        "scaled(decode(word, t, zero), scale)", "decode(word, t, zero)", (f"{TESTS}every_value_of_every_field",),
    ),
    Planted(
        "cpp blocked: scaled panels are scaled once more", "scale applied twice", "cpp", f"{GEMM}/blocked.cpp.j2",
        "tile_of<PANEL, false>(count);", "tile_of<PANEL, true>(count);", (f"{TESTS}every_value_of_every_field",),
    ),
    Planted(
        "cpp bf16: zero points are left out", "dropped zero point", "cpp", f"{LIB}/avx512_bf16.h",
        "return permute_halves(table, ((word >> 4 * step) & 0x000f000fu) + z);",
        "return permute_halves(table, ((word >> 4 * step) & 0x000f000fu) + 0x00100010u);",
        (f"{TESTS}bits_do_not_depend_on_the_thread_count",), needs=BF16,
    ),
    Planted(
        "cpp: zero points are left out", "dropped zero point", "cpp", f"{LIB}/fp32.h",
        "return ZERO ? (vi)widen_u(z) : vi{} + BIAS;", "return vi{} + BIAS;",
        (f"{ROWS}[f32-gemm.cpp.direct]", f"{TESTS}every_decoder_of_the_narrower_targets"),
    ),
    Planted(
        "cpp bf16: a zero point is one too small", "zero point off by one", "cpp", f"{LIB}/avx512_bf16.h",
        "(16u - widen_u(z)) * 0x00010001u", "(17u - widen_u(z)) * 0x00010001u",
        (f"{TESTS}bits_do_not_depend_on_the_thread_count",), needs=BF16,
    ),
    Planted(
        "cpp generic: signed codes are one too large", "zero point off by one", "cpp", f"{LIB}/fp32.h",
        "(float)((1 << (23 - 4 * q)) + BIAS)", "(float)((1 << (23 - 4 * q)) + BIAS - 1)",
        (f"{TESTS}every_decoder_of_the_narrower_targets",),
    ),
    Planted(
        "cpp blocked: a panel has the scales of its first group", "wrong group at a boundary", "cpp",
        f"{GEMM}/blocked.cpp.j2", "(int)((GROUP_K < SLAB_K ? GROUP_K : SLAB_K) / WORD_K)", "(int)(SLAB_K / WORD_K)",
        (f"{TESTS}every_value_of_every_field",),
    ),
    Planted(
        "cpp: a slab takes the group before", "wrong group at a boundary", "cpp", f"{LIB}/gemm_problem.h",
        "return {group + k % GROUP_K / WORD_K * WORD_BYTES, group};",
        "return {group + k % GROUP_K / WORD_K * WORD_BYTES, k ? group - GROUP_BYTES : group};",
        (f"{TESTS}bits_do_not_depend_on_the_thread_count",),
    ),
    Planted(
        "cpp: codes of a word in k order", "nibble order", "cpp", f"{LIB}/fp32.h",
        "return 2 * (p % (16 / BITS)) + p / (16 / BITS);", "return p;", (f"{ROWS}[f32-gemm.cpp.direct]",),
    ),
    Planted(
        "cpp bf16: the two of a pair change places", "nibble order", "cpp", f"{LIB}/avx512_bf16.h",
        "bf16_bits(widen1(p)) | bf16_bits(widen1(p + 1)) << 16",
        "bf16_bits(widen1(p + 1)) | bf16_bits(widen1(p)) << 16", (f"{TESTS}every_value_of_every_field",), needs=BF16,
    ),
    # ---- operands and epilogues --------------------------------------------------------------------------------------
    Planted(
        "cpp: a padded x is padded in place", "input mutation", "cpp", f"{LIB}/gemm_problem.h",
        "const int words = slab_words(s);\n",
        "const int words = slab_words(s);\n  ((X*)a.x)[(row + rows - 1) * a.ldx] = X();\n", (ROWS,),
    ),
    Planted(
        "cpp: epilogues from the last to the first", "order of the epilogues", "cpp", f"{LIB}/gemm_finish.h",
        "//% for step in steps\n", "//% for step in steps|reverse\n", (f"{TESTS}epilogues_in_other_orders",),
    ),
    Planted(
        "cpp: gelu is gelu_tanh", "activation of another variant", "cpp", f"{LIB}/activation.h",
        "  const vf tail = normal_tail(at_most(splat(16.f), abs(x)));  // Phi(-16) is zero in float32\n  "
        "return x * select(x < 0.f, tail, 1.f - tail);",
        "  return x / (1.f + exp(x * fma(x * x, splat(-7.135481283e-02f), splat(-1.595769122f))));",
        ("tests/templates/test_activations.py::test_an_activation_keeps_its_contract[cpp:generic-gelu]", ROWS),
    ),
    Planted(
        "cpp: gelu_tanh is gelu by a sigmoid", "activation of another variant", "cpp", f"{LIB}/activation.h",
        "x * fma(x * x, splat(-7.135481283e-02f), splat(-1.595769122f))", "x * splat(-1.702f)",
        ("tests/templates/test_activations.py::test_an_activation_keeps_its_contract[cpp:generic-gelu_tanh]", ROWS),
    ),
    Planted(
        "cpp: relu makes zero of NaN", "NaN and infinity", "cpp", f"{LIB}/activation.h", "at_least(vf{}, x); }",
        "at_least(x, vf{}); }", (f"{TESTS}nan_and_infinity_stand_where_the_reference_has_them",),
    ),
    Planted(
        "cpp generic: float16 has no infinity", "NaN and infinity", "cpp", f"{LIB}/base.h",
        "  r = (vu)select((vi)(m >= 0x477ff000u), splat_bits(0x7c00u), (vf)r);  // 65520 and above: infinity\n", "",
        (f"{STORED}[gemm.cpp.direct-cpp:generic-f16]",),
    ),
    Planted(
        "cpp generic: bfloat16 is cut off", "wrong rounding", "cpp", f"{LIB}/base.h",
        "vu even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;", "vu even = u >> 16;",
        (f"{STORED}[gemm.cpp.direct-cpp:generic-bf16]",),
    ),
    Planted(
        "cpp generic: float16 is cut off", "wrong rounding", "cpp", f"{LIB}/base.h",
        "(m - 0x38000000u + 0xfffu + ((m >> 13) & 1u)) >> 13", "(m - 0x38000000u) >> 13",
        (f"{STORED}[gemm.cpp.direct-cpp:generic-f16]",),
    ),
    Planted(
        "cpp: float16 is rounded to zero", "wrong rounding", "cpp", f"{LIB}/base.h",
        "(__m512)a, _MM_FROUND_TO_NEAREST_INT", "(__m512)a, _MM_FROUND_TO_ZERO",
        (f"{STORED}[gemm.cpp.direct-cpp:avx512-f16]",),
        needs="cpp:avx512",
    ),
    Planted(
        "cpp bf16: x is cut off to bfloat16", "wrong rounding", "cpp", f"{LIB}/base.h",
        "return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;\n}", "return u >> 16;\n}",
        ("tests/templates/test_epilogue_values.py::test_x_is_rounded_to_nearest[gemm.cpp.direct-bf16-8]",), needs=BF16,
    ),
    Planted(
        "cpp: factors keep one digit", "constant folded scalar", "cpp", "lower/passes.py",
        'steps.append(f"a * {float(factor)!r}{suffix}")', 'steps.append(f"a * {float(factor):.0e}{suffix}")',
        (f"{TESTS}decoders_and_drawn_formats", f"{TESTS}constant_factors"),
    ),
    Planted(
        "cpp: N is rounded up to blocks", "hard-coded shape", "cpp", "lower/passes.py",
        "return Extents(w.static(0), w.static(1))",
        "return Extents(-(-w.static(0) // BLOCK_N) * BLOCK_N, w.static(1))",
        (f"{TESTS}n_that_no_vector_or_block_divides",),
    ),
)  # fmt: skip
