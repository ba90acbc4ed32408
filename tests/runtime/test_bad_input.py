"""Bad input gets an error that names value and remedy; a bad machine gets a fall-back with one warning."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gridstone
from gridstone.ir.epilogue import ACTIVATIONS
from gridstone.ir.errors import FormatError, GridstoneError, SpecError
from gridstone.ir.text import parse_type
from gridstone.kernel_cache.make import default_store, verify_cache
from gridstone.lower.target import TARGETS
from gridstone.runtime.dispatch import DISPATCHER
from gridstone.runtime.linear_key import TUNE, LinearKey, numerics_named, parse_key
from tests.runtime.reference import assert_linear

N, K = 48, 64


@pytest.fixture(scope="module")
def w():
    return gridstone.quantize(torch.randn(N, K, generator=torch.Generator().manual_seed(0)), "int4", group_size=32)


X = torch.randn(5, K, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gridstone.quantize(torch.randn(8, 100), "int4"), FormatError, r"K=100 is not a multiple of the group size 128 .*use group -1"),  # noqa: E501
        (lambda: gridstone.quantize(torch.randn(8, 96), "int4"), FormatError, r"K=96 .*use a group of 16 or 32, or -1"),
        (lambda: gridstone.quantize(torch.randn(8, 64), "int4", group_size=20), FormatError, "group size 20 is not supported .use one of 16, 32"),  # noqa: E501
        (lambda: gridstone.quantize(torch.randn(8, 64), "int44"), FormatError, "unknown format 'int44' .did you mean int4"),  # noqa: E501
        (lambda: gridstone.quantize(torch.randn(8, 64), "int4:g32:f8"), FormatError, "unknown part 'f8' of format 'int4:g32:f8' .known: g128"),  # noqa: E501
        (lambda: gridstone.quantize(torch.randn(0, 64), "int4", group_size=32), FormatError, r"shape \(0, 64\) has no elements .give N and K"),  # noqa: E501
        (lambda: gridstone.quantize(torch.randn(8, 0), "int4"), FormatError, r"shape \(8, 0\) has no elements"),
        (lambda: gridstone.quantize(torch.randn(64), "int4"), FormatError, r"shape \(64,\) is not a matrix .flatten"),
        (lambda: gridstone.quantize(torch.ones(8, 64, dtype=torch.int32), "int4"), FormatError, "weights of torch.int32 .*cast to float32"),  # noqa: E501
        (lambda: gridstone.quantize(torch.randn(8, 64), "uint4", group_size=32), FormatError, "holds no negative weights .use uint4:g32:f32:zero"),  # noqa: E501
        (lambda: gridstone.quantize(torch.full((8, 64), 6e4) * 100, "int4:g32"), FormatError, r"a scale of .* overflows f16 .use f32 scales .int4:g32:f32."),  # noqa: E501
        (lambda: gridstone.quantize(torch.full((8, 64), 1e-8), "int4:g32"), FormatError, r"a scale of 1.429e-09 underflows f16 .use f32 scales .int4:g32:f32., or scale the weight"),  # noqa: E501
        (lambda: gridstone.quantize(torch.full((8, 64), 1e-43), "int8:g32:f32:zero"), FormatError, r"a scale of .* underflows f32 .scale the weight.$"),  # noqa: E501
        (lambda: gridstone.quantize(torch.full((8, 64), 65504.0).half(), "int4:g32"), FormatError, r"a weight near 65504 would decode to 65520, which is infinite in torch.float16 .scale the weight, or cast it to float32"),  # noqa: E501
        (lambda: gridstone.quantize(torch.ones(8, 64), "int4:g32", group_size=64), FormatError, r"format 'int4:g32' and group_size=64 do not agree .leave one of them out"),  # noqa: E501
        (lambda: gridstone.quantize(torch.ones(8, 64), "int4", group_size=32.0), FormatError, r"group_size=32.0 is not an integer .use 16, 32, 64, 128, 256, or -1"),  # noqa: E501
        (lambda: gridstone.quantize(torch.ones(8, 64), "int4", group_size=-1.0), FormatError, "group_size=-1.0 is not an integer"),  # noqa: E501
        (lambda: gridstone.quantize(torch.ones(8, 64), "int4", group_size=True), FormatError, "group_size=True is not an integer"),  # noqa: E501
        (lambda: gridstone.quantize(torch.ones(8, 64), 4), FormatError, "the format is 4, not a text .write one such as 'int4:g128'"),  # noqa: E501
        (lambda: gridstone.quantize([[1.0]], "int4"), FormatError, r"the weight is a list, not a tensor .pass torch.as_tensor"),  # noqa: E501
        (lambda: gridstone.quantize(torch.ones(8, 64, device="meta"), "int4"), FormatError, "weight on meta has no values to round .load it first"),  # noqa: E501
        (lambda: gridstone.quantize(torch.ones(8, 64).to_sparse(), "int4"), FormatError, r"sparse_coo weight on cpu .* .call .to_dense\(\) first"),  # noqa: E501
    ],
)  # fmt: skip
def test_bad_weights(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("group", [np.int64(32), np.int32(32), torch.tensor(32), 32])
def test_a_group_size_is_any_kind_of_integer(group):
    assert gridstone.quantize(torch.ones(8, 64), "int4", group_size=group).format == "int4:g32:f32"
    assert gridstone.quantize(torch.ones(8, 64), "int4:g32", group_size=group).format == "int4:g32"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_found(value):
    raw = torch.randn(8, 64)
    raw[3, 17] = value
    with pytest.raises(FormatError, match=rf"weight\[3, 17\] is {value}: NaN and infinite weights .*nan_to_num"):
        gridstone.quantize(raw, "int4", group_size=32)


def test_a_quantised_weight_is_not_quantised_again(w):
    with pytest.raises(FormatError, match=r"already quantised .int4:g32:f32"):
        gridstone.quantize(w, "int8")


def test_scales_that_float16_cannot_hold_are_float32_ones():
    """Where nobody chose their dtype; small weights of a float16 model are nothing unusual."""
    small = torch.randn(8, 64).half() * 0.002
    assert gridstone.quantize(small, "int8", group_size=32).format == "int8:g32:f32"
    with pytest.raises(FormatError, match=r"underflows f16 .use f32 scales"):
        gridstone.quantize(small, "int8:f16", group_size=32)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool])
def test_a_bias_that_torch_would_not_add_is_refused(w, dtype):
    """Breaks when the library drops an imaginary part, or computes what a plain weight refuses."""
    with pytest.raises(SpecError, match=rf"a bias of {dtype} cannot be added .*(take its .real part|bias.to)"):
        gridstone.linear(X, w, torch.ones(w.shape[0], dtype=dtype))
    if dtype.is_complex:
        with pytest.raises(SpecError, match=r"a residual of torch.complex64 cannot be added"):
            gridstone.linear(X, w, residual=torch.ones(X.shape[0], w.shape[0], dtype=dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: torch.nested.nested_tensor([x, x[:1]]), r"x is a nested tensor .pass its .values"),
        (lambda x: x.to_sparse(), r"x is a tensor of layout torch.sparse_coo, .*call x.to_dense"),
        (lambda x: x.to_mkldnn(), r"x is a tensor of layout torch._mkldnn, .*call x.to_dense"),
    ],
)
def test_activations_whose_memory_is_not_their_values(w, change, message):
    with pytest.raises(SpecError, match=message):
        gridstone.linear(change(X), w)


def test_elements_of_a_quantised_weight_are_not_applied_to(w):
    """torch's own would crash the process."""
    with pytest.raises(FormatError, match=r"cannot be changed element by element .change .dequantize"):
        w.apply_(lambda value: value)


def test_unknown_names(w):
    for call, message in (
        (lambda: gridstone.linear(X, w, activation="gello"), "unknown activation 'gello' .did you mean gelu"),
        (lambda: gridstone.linear(X, w, numerics="exakt"), "unknown numerics class 'exakt' .did you mean exact"),
        (lambda: gridstone.linear(X, w, numerics=None), "numerics=None is not the name of a class .use exact or bf16"),
        (lambda: gridstone.linear(X, w, activation=F.gelu), "unknown activation <.*gelu.*name one of gelu, .*or None"),
        (
            lambda: gridstone.compile(lambda x: x, target="cpp:avx521"),
            "unknown target 'cpp:avx521' .did you mean .*cpp:avx512",
        ),
        (lambda: gridstone.compile(lambda x: x, tune="cache"), "unknown tuning policy 'cache' .did you mean cached"),
        (
            lambda: gridstone.compile(lambda x: x, rest="inducktor"),
            "unknown backend 'inducktor' .*did you mean inductor",
        ),
    ):
        with pytest.raises(SpecError, match=message):
            call()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.uint8, torch.bool])
def test_integer_activations_are_refused(w, dtype):
    for call in (lambda x: gridstone.linear(x, w), lambda x: F.linear(x, w), lambda x: x @ w.t()):
        with pytest.raises(SpecError, match=r"floating-point activations.*cast x to f32, bf16 or f16"):
            call(torch.ones(5, K).to(dtype))


def test_autocast_casts_no_integers(w):
    """torch's does not either: a wrong input must not become a right one by switching autocast on."""
    with torch.autocast("cpu", torch.bfloat16):
        for call in (lambda x: gridstone.linear(x, w), lambda x: F.linear(x, w)):
            with pytest.raises(SpecError, match=r"floating-point activations.*cast x to f32, bf16 or f16"):
                call(torch.ones(5, K, dtype=torch.int64))
        assert gridstone.linear(X.double(), w).dtype == torch.float64
        assert gridstone.linear(X, w, torch.randn(N), residual=torch.randn(5, N)).dtype == torch.bfloat16


@pytest.mark.parametrize("autocast", [True, False])
def test_operands_that_are_no_tensors_are_refused(w, autocast):
    for call, message in (
        (lambda: gridstone.linear([[1.0] * K], w), r"x is a list, not a tensor .pass torch.as_tensor\(x\)"),
        (lambda: gridstone.linear(X.numpy(), w), "x is a ndarray, not a tensor"),
        (lambda: gridstone.linear(None, w), "x is a NoneType, not a tensor"),
        (lambda: gridstone.linear(X, w, np.ones(N)), r"bias is a ndarray, not a tensor .pass torch.as_tensor\(bias\)"),
        (lambda: gridstone.linear(X, w, residual=1.0), "residual is a float, not a tensor"),
    ):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), pytest.raises(SpecError, match=message):
            call()


def test_complex_activations_are_refused(w):
    with pytest.raises(GridstoneError, match=r"complex|c64"):
        gridstone.linear(torch.ones(5, K, dtype=torch.complex64), w)


@pytest.mark.parametrize("shape", [(5, K - 1), (5, K + 32), (K,) * 2 + (1,), (5, 0), (1,)])
def test_x_of_another_k_is_refused(w, shape):
    for call in (lambda x: gridstone.linear(x, w), lambda x: F.linear(x, w), lambda x: x @ w.t()):
        with pytest.raises(GridstoneError, match="K=64"):
            call(torch.randn(*shape))
    gridstone.linear(X, w)  # now bound: the check must not hang on the first call
    with pytest.raises(SpecError, match=r"x of shape .* does not fit a weight with K=64 .check the last extent"):
        gridstone.linear(torch.randn(*shape), w)


def test_a_scalar_x_is_refused(w):
    with pytest.raises(GridstoneError, match="K=64"):
        gridstone.linear(torch.tensor(1.0), w)


@pytest.mark.parametrize("shape", [(N - 1,), (N + 1,), (1,), (1, N), (5, N), ()], ids=str)
def test_a_bias_of_another_shape_is_refused(w, shape):
    with pytest.raises(SpecError, match=r"bias of shape .* does not fit N=48"):
        gridstone.linear(X, w, torch.randn(shape))


@pytest.mark.parametrize("shape", [(5, N - 1), (4, N), (1, N), (N,), (5, 1), (1, 5, N), ()], ids=str)
def test_a_residual_of_another_shape_is_refused(w, shape):
    with pytest.raises(
        SpecError, match=r"residual of shape .* is not the output's \(5, 48\) on the CPU .expand or move it first"
    ):
        gridstone.linear(X, w, residual=torch.randn(shape))


def test_a_transposed_weight_is_refused_by_name(w):
    with pytest.raises(SpecError, match=r"the transpose of a quantised matrix, \(64, 48\) .pass w.t\(\)"):
        gridstone.linear(X, w.t())


def test_mixed_devices_are_refused(w):
    gridstone.linear(X, w)
    with pytest.raises(SpecError, match=r"x is on meta, the weight on cpu .move both to one device"):
        gridstone.linear(X.to("meta"), w)
    with pytest.raises(SpecError, match="x is on cpu, the weight on meta"):
        gridstone.linear(X, w.to("meta"))
    for x, weight in ((X.to("meta"), w), (X, w.to("meta"))):
        with pytest.raises(SpecError, match=f"x is on {x.device}, the weight on {weight.device}"):
            F.linear(x, weight)
    assert F.linear(X.to("meta"), w.to("meta")).shape == (5, N)
    with pytest.raises(SpecError, match=r"bias of shape \(48,\) on meta"):
        gridstone.linear(X, w, torch.randn(N, device="meta"))
    with pytest.raises(SpecError, match=r"residual .* on meta .*expand or move it"):
        gridstone.linear(X, w, residual=torch.randn(5, N, device="meta"))
    with pytest.raises(SpecError, match=r"no recipe runs on meta yet .move model and inputs to the CPU"):
        gridstone.linear(X.to("meta"), w.to("meta"))


@pytest.mark.parametrize(
    "spoil", [lambda p: p[:-1], lambda p: torch.cat([p, p[:64]]), lambda p: p[:0]], ids=["short", "long", "empty"]
)
def test_a_packed_buffer_of_another_size_is_refused(w, spoil):
    """A kernel would read beyond it."""
    for _ in range(2):  # before and after the problem is bound
        with pytest.raises(FormatError, match=r"a packed buffer of \d+ bytes, not 2560 .re-pack the weight"):
            torch.ops.gridstone.linear(X, spoil(w.packed), None, None, f"{w.key}||exact")
        torch.ops.gridstone.linear(X, w.packed, None, None, f"{w.key}||exact")


@pytest.mark.parametrize(
    "spoil",
    [lambda p: p.to(torch.int32), lambda p: p.float(), lambda p: torch.stack([p, p], -1)[:, 0]],
    ids=["int32", "float", "strided"],
)
def test_a_packed_buffer_of_another_kind_is_refused(w, spoil):
    """Elements of the right number are not bytes of the right number, nor do strided ones lie where a kernel reads."""
    for _ in range(2):
        with pytest.raises(FormatError, match="packed buffer"):
            torch.ops.gridstone.linear(X, spoil(w.packed), None, None, f"{w.key}||exact")
        torch.ops.gridstone.linear(X, w.packed, None, None, f"{w.key}||exact")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("", "malformed key '' .write weight.activation.numerics"),
        ("nonsense", "malformed key 'nonsense'"),
        ("{w}||exact|cached", "malformed key"),
        ("f32(48,64)||exact", r"f32\(48,64\) is not a packed matrix .write for example int4:g128"),
        ("int4:g32:f32(48,64)||exact", "is not a packed matrix"),
        ("int4:g32:f32@lane16(48)||exact", "is not a packed matrix"),
        ("int4:g32:f32@lane16(M,64)||exact", "is symbolic"),
        ("int4:g32:f32@lane99(48,64)||exact", "unknown storage 'lane99'"),
        ("{w}|gelo|exact", "unknown activation 'gelo' .did you mean gelu"),
        ("{w}||exakt", "unknown numerics class 'exakt' .did you mean exact"),
        ("{w}||exact|sometimes|auto", "unknown tuning policy 'sometimes' .known: cached, now, off"),
        ("{w}||exact|cached|cpp:avx1024", "unknown target 'cpp:avx1024' .did you mean .*cpp:avx512"),
    ],
)
def test_the_key_of_a_foreign_program_is_refused(w, key, told):
    """A program that was exported elsewhere carries its keys as text: none may be taken for something else."""
    key = key.format(w=w.key)
    for ask in (lambda: torch.ops.gridstone.linear(X, w.packed, None, None, key), lambda: parse_key(key)):
        with pytest.raises(SpecError, match=told) as failure:
            ask()
        assert repr(key) in str(failure.value)
        assert "malformed" in told or "has to be exported again" in str(failure.value)


def test_every_key_that_is_written_is_read(w):
    weight = parse_type(w.key)
    for activation in ("", *ACTIVATIONS):
        for tune in TUNE:
            for target in ("auto", *TARGETS):
                key = LinearKey(weight, activation, numerics_named("bf16 ordered"), tune, target)
                assert parse_key(str(key)) == key


def test_views_work(w):
    wide = torch.randn(11, 2 * K + 3)
    for x in (
        wide[1::2, 3 : 3 + K],
        wide[2:7, K : 2 * K],
        wide.t()[3 : 3 + K].t(),
        X.expand(3, 5, K),
        X[:1].expand(9, K),
    ):
        assert_linear(gridstone.linear(x, w), x, w)
        assert_linear(F.linear(x, w), x, w)


def test_no_rows(w):
    for shape in ((0, K), (2, 0, K), (0, 3, K)):
        x = torch.randn(shape)
        for y in (
            gridstone.linear(x, w),
            F.linear(x, w),
            x @ w.t(),
            gridstone.linear(x, w, torch.randn(N), activation="gelu"),
        ):
            assert y.shape == (*shape[:-1], N)
    y = gridstone.linear(torch.randn(0, K), w, residual=torch.randn(0, N))
    assert y.shape == (0, N)


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "gridstone" and r.levelno >= logging.WARNING]


def run_everywhere(w):
    """Several rows, so that several recipes and bindings are asked for."""
    for m in (1, 2, 5, 40, 300, 1):
        x = torch.randn(m, K)
        assert_linear(gridstone.linear(x, w), x, w)
        assert_linear(F.linear(x, w), x, w)


WRITES = 'while [ "$1" != -o ]; do shift; done; '


@pytest.mark.parametrize("writes", ["", WRITES + ': > "$2"', WRITES + 'echo rubbish > "$2"'])
def test_a_compiler_that_writes_no_kernel_costs_one_warning_and_spoils_nothing(
    w, empty_cache, monkeypatch, caplog, tmp_path, writes
):
    """It says that all is well. Breaks when what it wrote is kept, and a repaired compiler is never asked again."""
    script = tmp_path / "cxx"
    script.write_text(f"#!/bin/sh\ncase $1 in --version) echo fake 1; exit;; esac\n{writes}\n")
    script.chmod(0o755)
    monkeypatch.setenv("GRIDSTONE_CXX", str(script))
    with caplog.at_level(logging.WARNING, "gridstone"):
        run_everywhere(w)
    (found,) = warnings_of(caplog)
    assert "runs through the library instead of cpp:" in found
    assert f"the compiler '{script}' (fake 1) exits with 0, but" in found
    assert "point GRIDSTONE_CXX at another C++17 compiler" in found
    assert default_store().entries() == ()
    assert verify_cache() == []
    monkeypatch.delenv("GRIDSTONE_CXX")
    DISPATCHER.clear()
    run_everywhere(w)
    assert all(c.recipe.startswith("gemm.cpp") for c in DISPATCHER.chosen())


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("GRIDSTONE_CXX", "'unclosed", "is not a command: No closing quotation"),
        ("GRIDSTONE_CACHE_DIR", "~no_such_user_/x", "set it to the path of a folder"),
        ("GRIDSTONE_CACHE_LIMIT", "enormous", "is not a size, so the limit is 2 GiB"),
    ],
)
def test_a_malformed_setting_costs_one_warning_and_no_call(w, empty_cache, monkeypatch, caplog, variable, value, told):
    monkeypatch.setenv(variable, value)
    with caplog.at_level(logging.WARNING, "gridstone"):
        run_everywhere(w)
    (found,) = warnings_of(caplog)
    assert f"{variable}={value!r}" in found
    assert told in found


@pytest.mark.parametrize("compiler", ["missing", "exits 1", "refuses"])
def test_without_a_working_compiler_the_library_runs_with_one_warning(
    w, empty_cache, monkeypatch, caplog, tmp_path, compiler
):
    bodies = {
        "exits 1": "exit 1",
        "refuses": 'case "$1" in --version) echo fake 1;; *) echo planted >&2; exit 1;; esac',
    }
    script = tmp_path / "cxx"
    if compiler != "missing":
        script.write_text(f"#!/bin/sh\n{bodies[compiler]}\n")
        script.chmod(0o755)
    monkeypatch.setenv("GRIDSTONE_CXX", "/nonexistent" if compiler == "missing" else str(script))
    with caplog.at_level(logging.WARNING, "gridstone"):
        run_everywhere(w)
    assert {c.recipe for c in DISPATCHER.chosen()} == {"gemm.library.torch"}
    assert all("planted" in c.why or "does not run" in c.why for c in DISPATCHER.chosen())
    found = warnings_of(caplog)
    assert len(found) == 1, found
    assert "runs through the library instead of cpp:" in found[0]
    assert ("planted" if compiler == "refuses" else "does not run; unset GRIDSTONE_CXX") in found[0]


def test_an_unwritable_cache_still_runs_kernels(w, tmp_path, monkeypatch, dispatcher, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRIDSTONE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING, "gridstone"):
        run_everywhere(w)
    assert all(c.recipe.startswith("gemm.cpp") for c in DISPATCHER.chosen())
    assert len(warnings_of(caplog)) == 1


def test_float64_runs_through_the_library_with_a_reason(w, dispatcher, caplog):
    x = torch.randn(5, K, dtype=torch.float64)
    with caplog.at_level(logging.WARNING, "gridstone"):
        assert_linear(gridstone.linear(x, w), x, w)
    (found,) = warnings_of(caplog)
    assert "x is f64; the C++ recipes read f32, bf16, f16" in found
