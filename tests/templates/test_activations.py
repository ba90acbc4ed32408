"""The contract of the emitted activations: within 2^-21 max(1, |x|) over float32, on every vocabulary."""

from __future__ import annotations

import ctypes
import functools

import numpy as np
import pytest

from gridstone.ir.epilogue import ACTIVATION_ERROR, ACTIVATIONS
from gridstone.kernel_cache.make import build
from gridstone.lower.target import Language, parse_target
from gridstone.templates.render import environment
from gridstone.templates.source import Launch, Origin, Source
from tests.templates.gemm_kernels import HERE

HARNESS = """
//% include "lib/cpp/vocabulary.h"

//% include "lib/cpp/activation.h"

//% for name in names
extern "C" __attribute__((visibility("default"))) void run_$(name)(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += LANES) narrow(y + i, $(name)(widen(x + i)));
}
//% endfor
"""


@functools.cache
def library(target: str) -> ctypes.CDLL:
    on = parse_target(target)
    constants = "constexpr int BITS = 4, BIAS = 8;\nconstexpr bool ZERO = false;\n"  # what decoders are written in
    text = constants + environment(Language.CPP).from_string(HARNESS).render(
        vocabulary=on.arch, names=list(ACTIVATIONS)
    )
    origin = Origin("tests.activations", "", "", "", target)
    return ctypes.CDLL(str(build(Source(text, Language.CPP, "run_relu", (), Launch("", True), origin), on)))


@functools.cache
def grid() -> np.ndarray:
    """float32 numbers of every magnitude and sign, dense where the activations bend, with the extremes."""
    bits = np.arange(0, 1 << 32, 19_997, dtype=np.uint64).astype(np.uint32)
    bent = np.linspace(-20, 20, 200_001)
    edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3.4028235e38, -3.4028235e38, 1e-45, -1e-45, 1.1754944e-38,
                      88.72284, -88.72284, 103.97, -103.97, 87.33655, -87.33655, 5.0, -5.0, 14.0, -14.0, 16.0, -16.0])  # fmt: skip  # noqa: E501
    with np.errstate(invalid="ignore"):
        values = np.concatenate([bits.view(np.float32), bent.astype(np.float32), edges.astype(np.float32)])
    return np.concatenate([values, np.zeros(-len(values) % 64, np.float32)])


def evaluate(target: str, name: str, x: np.ndarray) -> np.ndarray:
    y = np.full_like(x, np.nan)
    entry = getattr(library(target), f"run_{name}")
    entry(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_int64(len(x)))
    return y


def excess(name: str, x: np.ndarray, y: np.ndarray) -> float:
    """Largest error as a share of the contract; infinite when NaN or infinity stand elsewhere than in the reference."""
    with np.errstate(over="ignore", invalid="ignore"):
        want = ACTIVATIONS[name][0](x.astype(np.float64))
        got, size = y.astype(np.float64), np.maximum(1.0, np.abs(x.astype(np.float64)))
    odd = ~np.isfinite(want)
    if not (np.isnan(got) == np.isnan(want)).all() or not np.array_equal(got[odd], want[odd], equal_nan=True):
        return np.inf
    return float((np.abs(got[~odd] - want[~odd]) / (ACTIVATION_ERROR * size[~odd])).max())


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("target", HERE)
def test_an_activation_keeps_its_contract(target, name):
    """Breaks when a coefficient, a clamp or the treatment of NaN is wrong."""
    x = grid()
    assert excess(name, x, evaluate(target, name, x)) <= 1.0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_check_sees_what_the_contract_forbids(name):
    """Negative control: the bound is tight enough to tell an approximation that is a little off."""
    x = grid()
    y = evaluate(HERE[-1], name, x)
    with np.errstate(all="ignore"):
        assert excess(name, x, np.roll(y, 1)) > 1
        assert excess(name, x, np.where(np.isnan(y), 0, y)) > 1
        assert excess(name, x, y * np.float32(1 + 2.0**-19)) > 1
        assert excess(name, x, np.where(np.abs(x) < 1, y + np.float32(2.0**-20), y)) > 1
