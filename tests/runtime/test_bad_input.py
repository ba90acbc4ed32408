"""Bad input gets an error that names value and remedy; a bad machine gets a fall-back with one warning."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F

import gridstone
from gridstone.ir.errors import FormatError, GridstoneError, SpecError
from gridstone.runtime.dispatch import DISPATCHER
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
        (lambda: gridstone.quantize(torch.full((8, 64), 6e4) * 100, "int4:g32"), FormatError, r"a scale of .* overflows f16 .use f32 scales"),  # noqa: E501
    ],
)  # fmt: skip
def test_bad_weights(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_found(value):
    raw = torch.randn(8, 64)
    raw[3, 17] = value
    with pytest.raises(FormatError, match=rf"weight\[3, 17\] is {value}: NaN and infinite weights .*nan_to_num"):
        gridstone.quantize(raw, "int4", group_size=32)


def test_a_quantised_weight_is_not_quantised_again(w):
    with pytest.raises(FormatError, match=r"already quantised .int4:g32:f32"):
        gridstone.quantize(w, "int8")


def test_unknown_names(w):
    for call, message in (
        (lambda: gridstone.linear(X, w, activation="gello"), "unknown activation 'gello' .did you mean gelu"),
        (lambda: gridstone.linear(X, w, numerics="exakt"), "unknown numerics class 'exakt' .did you mean exact"),
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


def test_a_malformed_key_is_refused(w):
    for key in ("", "nonsense", "f32(48,64)||exact", f"{w.key}||exact|cached"):
        with pytest.raises(GridstoneError):
            torch.ops.gridstone.linear(X, w.packed, None, None, key)


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
