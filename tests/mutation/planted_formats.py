"""Bugs planted in what numbers mean and where their bits lie: formats, storages, quantisers, texts, and the checks."""

from __future__ import annotations

from tests.mutation.plant import Planted

PACKS = "tests/ir/test_storage.py::test_every_format_packs_as_the_words_say_and_unpacks_to_itself"
PLANES = "tests/ir/test_storage.py::test_fields_do_not_overlap_and_lie_inside"
PADDING = "tests/ir/test_storage.py::test_padding_decodes_to_zero"
HALF_A_STEP = "tests/runtime/test_quant_tensor.py::test_quantising_errs_by_half_a_step_at_most"
TEXT = "tests/ir/test_text.py::test_"
JUDGE = "tests/proof/test_judge.py::test_"
OPS = "tests/ir/test_ops.py"
DTYPE = "tests/ir/test_dtype.py::TestEveryPattern::"


def planted(name: str, klass: str, file: str, old: str, new: str, *tests: str, count: int = 1) -> Planted:
    return Planted(name, klass, "python", file, old, new, tests, count)


STORAGE, DECODE = "ir/storage.py", "kernel_cache/decode.py"

PACKER = (
    planted(
        "mma16: rows and k of a register change places", "nibble order", STORAGE,
        "pair, rows8, k8 = (WORD // 2, width, 2 * width)", "pair, rows8, k8 = (WORD // 2, 2 * width, width)", PACKS,
    ),
    planted(
        "lane16: codes of a word in k order", "nibble order", STORAGE,
        "((WORD // 2, width), BLOCK_N * WORD, group_bits)", "((width, 2 * width), BLOCK_N * WORD, group_bits)", PACKS,
    ),
    planted(
        "lane16: the last plane is shifted like the first", "shift of a plane", STORAGE,
        "base, shift = base + words * BLOCK_N * WORD, shift + width",
        "base, shift = base + words * BLOCK_N * WORD, width", PLANES,
    ),
    planted(
        "mma16: the last plane is shifted like the first", "shift of a plane", STORAGE,
        "base, shift = base + blocks * chunks * CHUNK_BITS, shift + width",
        "base, shift = base + blocks * chunks * CHUNK_BITS, width", PLANES,
    ),
    planted(
        "codes behind K are zero", "wrong padding value", STORAGE,
        "_padded(parts.codes, place.rows, place.columns, place.format.code.bias)",
        "_padded(parts.codes, place.rows, place.columns, 0)", PADDING,
    ),
    planted(
        "codes behind K are no zero points", "wrong padding value", STORAGE,
        "codes[: place.n, place.k :] = parts.zeros[:, -1:]", "codes[: place.n, place.k :] += 0", PADDING,
    ),
    planted(
        "padded rows have the scale of the last", "wrong padding value", STORAGE,
        "_scatter(place.scales, _padded(as_bits, place.rows, groups, 0), words)",
        "_scatter(place.scales, _padded(as_bits, place.rows, groups, int(as_bits[-1, -1])), words)", PADDING,
    ),
    planted(
        "the upper bit of a field is left out", "dropped upper bits", STORAGE,
        "part = (source >> np.uint32(move.element_shift)) & np.uint32((1 << move.width) - 1)",
        "part = (source >> np.uint32(move.element_shift)) & np.uint32((1 << max(1, move.width - 1)) - 1)", PACKS,
    ),
    planted(
        "a field that straddles words loses its rest", "dropped upper bits", STORAGE,
        "        if first < field.width:\n", "        if first < field.width and bit < 16:\n", PACKS,
    ),
    planted(
        "scales lie a group apart in bytes", "wrong stride", STORAGE, "Layout((rows, groups), (width, rows * width))",
        "Layout((rows, groups), (width, (rows - 1) * width))", PACKS,
        "tests/ir/test_storage.py::test_fields_do_not_overlap_and_lie_inside",
    ),
    planted(
        "moves transpose the elements", "transposed operand", STORAGE,
        "for mode, unit in zip((0, 1), (columns, 1), strict=True):",
        "for mode, unit in zip((0, 1), (1, columns), strict=True):", PACKS,
    ),
    planted(
        "K is padded to half a chunk", "off-by-one bound", STORAGE,
        "_round_up(k, max(chunk_k(width) for width in widths))",
        "_round_up(k, min(chunk_k(width) for width in widths))", PACKS,
    ),
    planted(
        "decode: signed codes are one too large", "zero point off by one", DECODE,
        "grouped.sub_(place.format.code.bias)", "grouped.sub_(place.format.code.bias - 1)", HALF_A_STEP,
    ),
    planted(
        "decode: zero points are left out", "dropped zero point", DECODE,
        "grouped.sub_(_gather(place.zeros, words, place.rows, groups).unsqueeze(-1))",
        "grouped.sub_(place.format.code.bias)", HALF_A_STEP,
    ),
    planted(
        "decode: every row has the scale of its first group", "wrong group at a boundary", DECODE,
        "values.mul_(scales.to(wide).unsqueeze(-1))", "values.mul_(scales.to(wide)[:, :1].unsqueeze(-1))", HALF_A_STEP,
    ),
    planted(
        "decode: bits of the neighbours stay", "dropped upper bits", DECODE,
        "part = part & ((1 << move.width) - 1) if move.width < 32 else part",
        "part = part & ((2 << move.width) - 1) if move.width < 32 else part", HALF_A_STEP,
    ),
    planted(
        "decode: a buffer's words begin with its memory", "alignment taken for granted", DECODE,
        "words.as_strided(move.extents, move.word_strides, words.storage_offset() + move.word)",
        "words.as_strided(move.extents, move.word_strides, move.word)",
        "tests/kernel_cache/test_toolchain_library.py::test_panels_give_what_the_whole_gives",
    ),
    planted(
        "a format's signed values are one too large", "zero point off by one", "ir/format.py",
        "np.full((n, 1), fmt.code.bias) if parts.zeros", "np.full((n, 1), fmt.code.bias - 1) if parts.zeros",
        "tests/ir/test_format.py::test_every_code_means_its_integer",
    ),
    planted(
        "groups of a row take turns", "wrong group at a boundary", "ir/format.py",
        "* np.repeat(parts.scales, spread, axis=1)", "* np.tile(parts.scales, spread)",
        "tests/ir/test_format.py::test_a_value_is_code_less_zero_point_times_the_scale_of_its_group",
    ),
)  # fmt: skip

NEAREST = "runtime/quantizers/nearest.py"
QUANTISER = (
    planted(
        "quantiser: the largest code is not used", "quantiser off by one", NEAREST,
        "+ offset).clamp(0, (1 << code.bits) - 1)", "+ offset).clamp(0, (1 << code.bits) - 2)", HALF_A_STEP,
    ),
    planted(
        "quantiser: a step too many", "quantiser off by one", NEAREST,
        "span = (high - low) / float((1 << code.bits) - 1)", "span = (high - low) / float(1 << code.bits)",
        HALF_A_STEP,
    ),
    planted(
        "quantiser: codes are cut off", "wrong rounding", NEAREST,
        "(torch.round(groups / scales.float().unsqueeze(-1)) + offset)",
        "(torch.floor(groups / scales.float().unsqueeze(-1)) + offset)", HALF_A_STEP,
    ),
    planted(
        "quantiser: zero points are cut off", "zero point off by one", NEAREST, "zeros = torch.round(-low / scales)",
        "zeros = torch.floor(-low / scales)", HALF_A_STEP,
    ),
    planted(
        "quantiser: scales are rounded down", "wrong rounding", NEAREST, "scales = torch.where(scales < span,",
        "scales = torch.where(scales < 0 * span,",
        "tests/runtime/test_program_meaning.py::test_bf16_scales_keep_half_a_step",
    ),
    planted(
        "quantiser: NaN becomes a code", "NaN and infinity", NEAREST, "    if not bool(finite.all()):\n",
        "    if not bool(finite.any()):\n",
        "tests/runtime/test_bad_input.py::test_weights_that_are_not_finite_are_found",
    ),
    planted(
        "quantiser: the weight is rounded in place", "input mutation", NEAREST,
        "values = w.detach().to(device=\"cpu\", dtype=torch.float32)\n",
        "values = w.detach().to(device=\"cpu\", dtype=torch.float32).nan_to_num_().clamp_(-2.0, 2.0)\n",
        "tests/runtime/test_operands_unchanged.py::test_quantising_leaves_the_weight",
    ),
    planted(
        "numbers are cut off", "wrong rounding", "ir/dtype.py",
        "rounded = np.ldexp(np.rint(np.ldexp(exact, -step)), step)",
        "rounded = np.ldexp(np.trunc(np.ldexp(exact, -step)), step)",
        f"{DTYPE}test_ties_go_to_even_and_the_rest_to_the_nearest",
    ),
    planted(
        "the largest number is an infinity", "off-by-one bound", "ir/dtype.py",
        "np.where(np.abs(rounded) > to.largest,", "np.where(np.abs(rounded) >= to.largest,",
        f"{DTYPE}test_encoding_gives_the_bits_back",
    ),
    planted(
        "-0.0 becomes 0.0", "NaN and infinity", "ir/dtype.py",
        "rounded = np.where(np.isfinite(exact), rounded, exact)",
        "rounded = np.where(np.isfinite(exact), rounded + 0.0, exact)", f"{DTYPE}test_encoding_gives_the_bits_back",
    ),
)  # fmt: skip

TEXTS = (
    planted(
        "a spec's text leaves out its numerics", "text drops a field", "ir/text.py",
        'tail = "" if spec.numerics == EXACT else f"; {spec.numerics}"',
        'tail = "" if not spec.numerics.ordered else f"; {spec.numerics}"', f"{TEXT}any_spec_reads_back_as_itself",
    ),
    planted(
        "a spec's text leaves out the bias's dtype", "text drops a field", "ir/text.py",
        'return step.operand if of == output else f"{step.operand}:{of}"', "return step.operand",
        f"{TEXT}any_spec_reads_back_as_itself",
    ),
    planted(
        "a spec's text rounds its factors", "text drops a field", "ir/text.py", 'return f"scale({float(factor)!r})"',
        'return f"scale({float(factor):g})"', f"{TEXT}any_spec_reads_back_as_itself",
    ),
    planted(
        "a type's text leaves out its storage", "text drops a field", "ir/tensor.py",
        'place = f"@{self.storage}" if self.storage else ""', 'place = ""', f"{TEXT}any_type_reads_back_as_itself",
    ),
    planted(
        "a format's text leaves out its zero points", "text drops a field", "ir/format.py", "        if self.zero:\n",
        "        if self.zero and self.scale != f16:\n",
        "tests/ir/test_format.py::test_every_format_reads_back_its_own_text",
    ),
    planted(
        "a schedule's text leaves out its last field", "text drops a field", "lower/schedule.py",
        "for f in dataclasses.fields(schedule))", "for f in dataclasses.fields(schedule)[:-1])",
        "tests/lower/test_schedule.py::test_every_schedule_reads_back_what_it_prints",
    ),
)  # fmt: skip

COMPARE, JUDGED, OPERANDS = "proof/compare.py", "proof/judge.py", "proof/operands.py"
CHECKS = (
    planted(
        "every seed draws the same operands", "one seed for all", OPERANDS, "rng = np.random.default_rng(seed)",
        "rng = np.random.default_rng(0)", f"{JUDGE}a_stale_output_is_caught",
    ),
    planted(
        "every operand is drawn from the seed anew", "one seed for all", OPERANDS,
        "exact = draw_values(rng, operand.type.dtype, shape, kind)",
        "exact = draw_values(np.random.default_rng(seed), operand.type.dtype, shape, kind)",
        "tests/proof/test_operands.py::test_no_operand_has_the_values_of_another",
    ),
    planted(
        "the exam's second case is the first", "one seed for all", "tuner/exam.py",
        "rng = np.random.default_rng(seed)", "rng = np.random.default_rng(1)",
        "tests/tuner/test_exam.py::test_cases_share_the_weight_and_nothing_else",
    ),
    planted(
        "an infinity more is not seen", "blind check", COMPARE,
        "infinite = np.where(np.isinf(got), got, 0.0) != np.where(np.isinf(stored), stored, 0.0)",
        "infinite = np.isinf(stored) & ~np.isinf(got)",
        "tests/proof/test_compare.py::test_a_single_special_value_is_seen_with_its_place",
    ),
    planted(
        "NaN more is not seen", "blind check", COMPARE, "wrong = np.isnan(got) != np.isnan(want)",
        "wrong = np.isnan(want) & ~np.isnan(got)", f"{JUDGE}a_misbehaving_candidate_is_caught",
    ),
    planted(
        "the norm is not looked at", "blind check", COMPARE, "if not worst_rms <= 1.0:", "if not worst_rms <= 1e9:",
        "tests/proof/test_compare.py::test_a_small_systematic_error_is_seen_in_the_norm",
    ),
    planted(
        "changed operands are not seen", "blind check", JUDGED, "if not torch.equal(_bits(old), _bits(new)):",
        "if not torch.equal(old, old):", f"{JUDGE}a_misbehaving_candidate_is_caught",
    ),
    planted(
        "the output is not poisoned", "blind check", "proof/poison.py", "whole.view(torch.uint8).fill_(POISON)",
        "whole.zero_()", f"{JUDGE}a_misbehaving_candidate_is_caught",
    ),
    planted(
        "an element's bound is a hundred times as wide", "blind check", "ir/rounding.py", "DEVIATIONS = 8.0",
        "DEVIATIONS = 800.0", f"{OPS}::TestControls::test_zeros_a_shift_and_a_lost_factor_fail",
    ),
    planted(
        "an activation may miss by a thousandth", "blind check", "ir/epilogue.py", "ACTIVATION_ERROR = 2.0**-21",
        "ACTIVATION_ERROR = 2.0**-10",
        "tests/templates/test_activations.py::test_the_check_sees_what_the_contract_forbids",
    ),
    planted(
        "relu's definition makes zero of NaN", "NaN and infinity", "ir/epilogue.py",
        "np.where(np.isnan(x), x, np.maximum(x, 0.0))", "np.where(x > 0.0, x, 0.0)",
        "tests/templates/test_activations.py::test_an_activation_keeps_its_contract[cpp:generic-relu]",
    ),
    planted(
        "gelu's definition is gelu_tanh", "activation of another variant", "ir/epilogue.py", '"gelu": (_gelu, 1.13)',
        '"gelu": (_gelu_tanh, 1.13)', f"{OPS}::TestEpilogues::test_activations_are_torchs",
    ),
    planted(
        "the residual is added first of all", "order of the epilogues", "ir/epilogue.py",
        "    for step in steps:\n        match step:\n            case Bias() | Residual():\n               "
        " y = y + operands[step.operand]",
        "    for step in sorted(steps, key=lambda step: not isinstance(step, Residual)):\n        match "
        "step:\n            case Bias() | Residual():\n                y = y + operands[step.operand]",
        "tests/templates/test_gemm_kernels.py::test_epilogues_in_other_orders",
    ),
)  # fmt: skip

BUGS = (*PACKER, *QUANTISER, *TEXTS, *CHECKS)
