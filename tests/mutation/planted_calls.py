"""Bugs planted between a call and its kernel: dispatch, tuning records, launch, the library."""

from __future__ import annotations

from tests.mutation.plant import Planted

DISPATCH = "tests/runtime/test_dispatch.py::test_"
KEYS = "tests/runtime/test_dispatch_keys.py::test_"
BOUND_ONCE = f"{DISPATCH}a_problem_is_bound_once"
KERNELS = "tests/templates/test_gemm_kernels.py::test_"
TWO_THREADS = f"{KERNELS}two_python_threads_at_once"
SIGNATURE = "tests/kernel_cache/test_signature.py::test_"
LAUNCH = "tests/kernel_cache/test_launch_cuda.py::test_"
PATTERNS = "tests/runtime/test_patterns.py::test_"
COMPILE = "tests/runtime/test_compile.py::test_"
QUANT = "tests/runtime/test_quant_tensor.py::test_"


def planted(name: str, klass: str, file: str, old: str, new: str, *tests: str, count: int = 1) -> Planted:
    return Planted(name, klass, "python", file, old, new, tests, count)


AT = "runtime/dispatch.py"
DISPATCHED = (
    planted(
        "dispatch: x's dtype is no part of the key", "cache-key collision", AT, "            x.dtype,\n", "",
        f"{KEYS}calls_that_differ_in_one_thing_are_each_right",
    ),
    planted(
        "dispatch: the bias is no part of the key", "cache-key collision", AT,
        "            bias.dtype if bias is not None else None,\n", "", f"{KEYS}what_is_added_is_part_of_the_problem",
    ),
    planted(
        "dispatch: the residual is no part of the key", "cache-key collision", AT,
        "            residual.dtype if residual is not None else None,\n", "",
        f"{KEYS}what_is_added_is_part_of_the_problem",
    ),
    planted(
        "dispatch: the activation is no part of the key", "cache-key collision", AT,
        "        slot = (\n            key,\n", '        slot = (\n            key.split("|")[0],\n',
        f"{KEYS}calls_that_differ_in_one_thing_are_each_right",
    ),
    planted(
        "dispatch: threads are no part of the key", "cache-key collision", AT,
        "            torch.get_num_threads(),\n        )\n", "        )\n",
        f"{DISPATCH}the_thread_count_is_part_of_the_problem",
    ),
    planted(
        "dispatch: a choice forgets its target", "cache-key collision", AT, "on {key.target}, tune={key.tune},",
        "tune={key.tune},", f"{KEYS}target_and_policy_of_a_call_are_part_of_the_problem",
    ),
    planted(
        "dispatch: a choice forgets its tuning policy", "cache-key collision", AT, "on {key.target}, tune={key.tune},",
        "on {key.target},", f"{KEYS}target_and_policy_of_a_call_are_part_of_the_problem",
    ),
    planted(
        "dispatch: rows are those of the next bucket", "off-by-one bound", AT,
        "1 << (rows - 1).bit_length() if 0 < rows", "1 << rows.bit_length() if 0 < rows", BOUND_ONCE,
    ),
    planted(
        "dispatch: no rows choose for two", "zero extents", AT, "if 0 < rows <= _TOP else min(rows, _TOP)",
        "if rows <= _TOP else min(rows, _TOP)", f"{DISPATCH}no_rows_do_not_choose_for_two",
    ),
    planted(
        "dispatch: the first result is given again", "stale output", AT, "            y = bound.call(flat, packed)\n",
        '            y = vars(self).setdefault("given", {}).setdefault((slot, rows), bound.call(flat, packed))\n',
        f"{KEYS}results_of_two_calls_are_two_tensors",
    ),
    planted(
        "dispatch: a residual of one row fits all", "broadcast of the bias", AT,
        "residual.shape[:-1] != x.shape[:-1] or not residual.is_cpu", "not residual.is_cpu",
        "tests/runtime/test_bad_input.py::test_a_residual_of_another_shape_is_refused",
    ),
    planted(
        "dispatch: a packed buffer may have strides", "strided taken for contiguous", AT,
        "packed.dtype == torch.uint8 and packed.is_contiguous()", "packed.dtype == torch.uint8",
        "tests/runtime/test_bad_input.py::test_a_packed_buffer_of_another_kind_is_refused",
    ),
    planted(
        "dispatch: a loser's record is used", "stale record", AT, 'if record.status != "winner" or (', "if (",
        f"{DISPATCH}a_record_that_does_not_apply_is_passed_over",
    ),
    planted(
        "dispatch: another target's record is used", "cache-key collision", AT,
        'or (target != "auto" and record.target not in (target, str(LIBRARY)))', "",
        f"{KEYS}target_and_policy_of_a_call_are_part_of_the_problem",
    ),
    planted(
        "dispatch: stale records are used", "stale record", AT, "        if not past:\n            return record",
        "        if True:\n            return record", f"{DISPATCH}a_stale_record_is_named_not_used_and_searched_anew",
    ),
    planted(
        "dispatch: a record serves every dtype", "cache-key collision", AT,
        "default_book().get(print_spec(spec), device, threads)",
        'default_book().get(print_spec(spec).replace("bf16", "f32"), device, threads)',
        f"{KEYS}a_record_of_another_dtype_serves_no_call_for_this_one",
    ),
    planted(
        "staleness: a changed recipe does not count", "stale record", "kernel_cache/staleness.py",
        "if current != record.recipe_hash:", "if not current:",
        f"{DISPATCH}a_stale_record_is_named_not_used_and_searched_anew",
    ),
    planted(
        "staleness: another compiler does not count", "stale record", "kernel_cache/staleness.py",
        "if name in now and release(text) != release(now[name]):",
        "if name == \"torch\" and name in now and release(text) != release(now[name]):",
        f"{DISPATCH}a_stale_record_is_named_not_used_and_searched_anew",
    ),
    planted(
        "records: threads are no part of a problem's name", "cache-key collision", "kernel_cache/records.py",
        "sha256(json.dumps([spec, device, threads]).encode())", "sha256(json.dumps([spec, device]).encode())",
        "tests/kernel_cache/test_records.py::test_problems_do_not_mix",
    ),
    planted(
        "bucket: a row more is one bucket less", "off-by-one bound", "lower/bucket.py",
        "return 1 << max(rows - 1, 0).bit_length()", "return 1 << max(rows.bit_length() - 1, 0)",
        "tests/lower/test_bucket.py",
    ),
    planted(
        "linear: numerics are forgotten", "cache-key collision", "runtime/functional.py",
        "return run_linear(x, w.packed, bias, residual, w.call_key(name, numerics))",
        'return run_linear(x, w.packed, bias, residual, w.call_key(name, "exact"))',
        f"{COMPILE}numerics_and_residual_of_an_explicit_call_are_kept",
    ),
    planted(
        "a weight's key forgets the activation", "cache-key collision", "runtime/tensors.py",
        'key = self.calls[activation, numerics] = f"{self.key}|{activation}|{numerics}"',
        "key = self.calls[activation, numerics] = next((k for (_, n), k in self.calls.items() if n == "
        'numerics), f"{self.key}|{activation}|{numerics}")',
        f"{DISPATCH}a_problem_is_bound_once", f"{QUANT}products",
    ),
)  # fmt: skip

CPP, CUDA = "kernel_cache/launch_cpp.py", "kernel_cache/launch_cuda.py"
SPLIT = f"{LAUNCH}what_is_launched_computes_the_product"
LAUNCHED = (
    planted(
        "launch: a strided row is taken for contiguous", "strided taken for contiguous", CPP,
        "if tensors[at].stride(-1) != 1 and tensors[at].shape[-1] > 1:", "if tensors[at].dim() > 2:",
        f"{KERNELS}strided_operands",
    ),
    planted(
        "launch: rows are taken for contiguous", "wrong stride", CPP, "return lambda tensors: tensors[at].stride(0)",
        "return lambda tensors: tensors[at].shape[1]", f"{KERNELS}strided_operands",
    ),
    planted(
        "launch: the output is the one of the last call", "stale output", CPP,
        "y = empty((rows, columns), dtype=dtype, device=CPU) if out is None else out",
        "y = sizes.setdefault((rows, -1), empty((rows, columns), dtype=dtype, device=CPU)) if out is "
        "None else out",
        TWO_THREADS,
    ),
    planted(
        "launch: scratch is kept for the next call", "scratch shared by two threads", CPP,
        "scratch = empty(size, dtype=torch.uint8, device=CPU)",
        "scratch = sizes.setdefault((rows, -threads), empty(size, dtype=torch.uint8, device=CPU))", TWO_THREADS,
    ),
    planted(
        "launch: no rows are launched", "zero extents", CPP, "if rows == 0:", "if rows < 0:", f"{KERNELS}no_rows",
    ),
    planted(
        "launch: all memory is where programs make it by default", "hard-coded shape", CPP,
        "scratch = empty(size, dtype=torch.uint8, device=CPU)", "scratch = empty(size, dtype=torch.uint8)",
        f"{SIGNATURE}another_default_device_is_not_the_kernel_s",
    ),
    planted(
        "launch: the rows of the first call are those of all", "hard-coded shape", CPP,
        "            return lambda tensors: tensors[at].shape[0]",
        "            known: list[int] = []\n            return lambda tensors: "
        "(known.append(tensors[at].shape[0]), known[0])[1]",
        f"{KERNELS}two_python_threads_at_once", f"{KERNELS}one_kernel_takes_any_number_of_rows",
    ),
    planted(
        "launch on a GPU: a strided row is taken for contiguous", "strided taken for contiguous", CUDA,
        "if tensors[at].stride(-1) != 1 and tensors[at].shape[-1] > 1:", "if tensors[at].dim() > 2:",
        f"{LAUNCH}rows_that_are_not_contiguous_are_copied_first",
    ),
    planted(
        "launch on a GPU: rows are taken for contiguous", "wrong stride", CUDA,
        "return lambda tensors: tensors[at].stride(0)", "return lambda tensors: tensors[at].shape[1]",
        f"{LAUNCH}arguments_are_addresses_rows_and_strides_in_elements",
    ),
    planted(
        "launch on a GPU: weights may lie anywhere", "alignment taken for granted", CUDA,
        "    if tensor.data_ptr() % ALIGNMENT:\n", "    if tensor.data_ptr() % 4:\n",
        f"{LAUNCH}a_packed_weight_at_an_odd_place_is_refused",
    ),
    planted(
        "launch on a GPU: the last rows of a tall x are left out", "tail mask of M", CUDA,
        "for first in range(0, rows, most_rows):", "for first in range(0, max(rows - most_rows, 1), most_rows):",
        f"{LAUNCH}rows_beyond_one_grid_are_cut_into_launches",
    ),
    planted(
        "launch on a GPU: sums begin where tickets do", "workspace not left zero", CUDA,
        "arguments[tickets_at], arguments[parts_at] = zeroed, zeroed + head * WORD",
        "arguments[tickets_at], arguments[parts_at] = zeroed, zeroed", SPLIT,
    ),
    planted(
        "launch on a GPU: a captured call's scratch is not cleared", "workspace not left zero", CUDA,
        "scratch.append(torch.zeros(count, dtype=torch.int32, device=device))",
        "scratch.append(torch.empty(count, dtype=torch.int32, device=device).fill_(7))",
        "tests/kernel_cache/test_captured_scratch.py",
    ),
    planted(
        "launch on a GPU: streams share their scratch", "scratch shared by two threads", "kernel_cache/driver_cuda.py",
        "self._kept[device, stream] = address, size",
        "self._kept[device, stream] = self._kept[device, 2] = address, size",
        f"{LAUNCH}zeroed_words_grow_and_are_kept",
    ),
    planted(
        "signature: an output may lie over an operand", "aliasing", "kernel_cache/signature.py",
        "    if a1 <= b0 or b1 <= a0:\n        return False\n", "    return False\n",
        f"{SIGNATURE}an_output_that_does_not_fit_is_refused",
    ),
    planted(
        "signature: rows of an output may overlap", "aliasing", "kernel_cache/signature.py",
        "        _check_rows(out)\n", "        pass\n", f"{SIGNATURE}an_output_that_does_not_fit_is_refused",
    ),
    planted(
        "signature: columns beside an operand are refused", "aliasing", "kernel_cache/signature.py",
        "return not (wide <= start and start + other <= pitch)",
        "return not (wide <= start and start + other < pitch)", f"{SIGNATURE}outputs_that_fit_are_written",
    ),
    planted(
        "signature: an operand may have other rows", "wrong extents", "kernel_cache/signature.py",
        "extents.setdefault(extent.name, found) == found and", "",
        f"{SIGNATURE}an_operand_that_does_not_fit_is_refused",
    ),
    planted(
        "library: panels begin a row late", "off-by-one bound", "kernel_cache/library_gemm.py",
        "first = start // BLOCK_N * block_bytes", "first = (start + BLOCK_N) // BLOCK_N * block_bytes if start else 0",
        "tests/kernel_cache/test_toolchain_library.py",
    ),
    planted(
        "library: the residual is added to in place", "input mutation", "kernel_cache/library_gemm.py",
        "y = y + operands[step.operand]",
        "y = operands[step.operand].add_(y) if operands[step.operand].shape == y.shape else y + "
        "operands[step.operand]",
        "tests/proof/test_judge.py::test_a_right_candidate_is_right",
    ),
    planted(
        "library: gelu is gelu_tanh", "activation of another variant", "kernel_cache/library_gemm.py",
        '"gelu": F.gelu,', '"gelu": lambda y: F.gelu(y, approximate="tanh"),',
        "tests/kernel_cache/test_toolchain_library.py", "tests/tuner/test_exam.py",
    ),
    planted(
        "library: factors are forgotten", "constant folded scalar", "kernel_cache/library_gemm.py", "y = y * factor",
        "y = y * 1.0", "tests/kernel_cache/test_toolchain_library.py",
    ),
)  # fmt: skip

BUGS = (*DISPATCHED, *LAUNCHED)
