"""Scratch of a launch that is captured in a CUDA graph: the call's own, and zero, since kernels count on it."""

from __future__ import annotations

import ctypes

import pytest
import torch

from gridstone.kernel_cache.launch_cuda import bind
from gridstone.templates.source import ParamKind
from tests.kernel_cache.test_launch_cuda import BARE, Recorder, artefact_of, emitted, operands_of


class Reader(Recorder):
    """A driver that reads the words that it is given for tickets."""

    def __init__(self, source):
        super().__init__()
        self.at = next(at for at, param in enumerate(source.params) if param.kind is ParamKind.TICKETS)
        self.words = []

    def launch(self, *given):
        super().launch(*given)
        self.words.append(list((ctypes.c_int32 * 8).from_address(self.asked[-1].arguments[self.at])))


@pytest.mark.parametrize("captured", [True, False])
def test_tickets_are_zero(captured):
    """Breaks when a graph's own scratch holds what its memory held before."""
    spec, source = emitted(BARE, 2, "false")
    driver = Reader(source)
    driver.captured = captured
    call = bind(artefact_of(source), source, spec, driver)
    dirty = [torch.full((4096,), 7, dtype=torch.int32) for _ in range(8)]
    del dirty  # what an allocator hands out next is not zero by chance
    for _ in range(3):
        call(*operands_of(spec, 8))
    assert driver.words == [[0] * 8] * 3
