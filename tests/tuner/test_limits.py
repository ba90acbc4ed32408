"""The reading and multiplying that limits are measured by: that every byte is read and every product is done."""

import numpy as np
import pytest
import torch

from gridstone.tuner import limits
from gridstone.tuner.limits import HUGE_PAGE, LINE, WAYS, Way, arena, read, read_figures

PAGE = 4096


def total(buffer):
    return int(np.bitwise_xor.reduce(buffer.numpy()[: buffer.numel() // 8 * 8].view(np.uint64)))


@pytest.fixture(scope="module")
def odd():
    """A number of lines that neither threads nor streams divide; and a few bytes more."""
    return torch.randint(0, 256, (1009 * LINE + 24,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_reads_every_line_once(way, odd):
    for lines in (0, 1, 7, 64, 1009):
        part = odd[: lines * LINE]
        assert [read(part, threads, way) for threads in (1, 2, 3)] == [total(part)] * 3


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_byte_that_is_skipped_shows(way, odd):
    """The negative control: breaks when a load is elided or a sum is dropped."""
    for at in (0, 500 * LINE + 9, 1009 * LINE - 1):
        changed = odd.clone()
        changed[at] ^= 0xFF
        assert read(changed, 2, way) == read(odd, 2, way) ^ 0xFF << at % 8 * 8


@pytest.mark.parametrize("threads", [1, 2])
def test_every_product_is_done(threads):
    library = limits._library()
    assert library.gs_f32_peak(1000, threads) == 1000 * limits.CHAINS * threads
    if limits.host_target().bf16_flops:
        assert library.gs_bf16_peak(1000, threads) == 1000 * limits.CHAINS * threads


def test_an_arena_is_resident_and_its_pages_are_as_asked():
    for huge in (True, False):
        memory = arena(2 * HUGE_PAGE + PAGE, huge=huge)
        assert (memory.numel(), memory.data_ptr() % HUGE_PAGE) == (2 * HUGE_PAGE + PAGE, 0)
        assert int(memory.min()) == 1


def test_ways_take_turns_and_are_timed_over_the_whole_buffer():
    now = iter(range(100))
    ways = (Way(1, 0), Way(4, 1024))
    figures = read_figures(torch.ones(128, dtype=torch.uint8), 1, 3, ways, lambda: float(next(now)))
    assert figures == {way: [128.0] * 3 for way in ways}


def test_the_best_ways_are_kept_and_the_best_of_them_is_the_limit(monkeypatch):
    speeds = {way: [float(at), 1.0] for at, way in enumerate(WAYS)}
    monkeypatch.setattr(limits, "read_figures", lambda *rest: speeds)
    monkeypatch.setattr(limits, "arena", lambda: torch.ones(LINE, dtype=torch.uint8))
    kept = limits.fastest_ways.__wrapped__(1)
    assert kept == WAYS[: -limits.KEPT - 1 : -1]
    pieces, clock = [], iter([0.0, 4.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(limits, "fastest_ways", lambda threads: kept)
    monkeypatch.setattr(
        limits, "read", lambda piece, threads, way: pieces.append((piece.data_ptr(), piece.numel(), way))
    )
    monkeypatch.setattr(limits.time, "perf_counter", lambda: next(clock))
    buffer = torch.ones(limits.KEPT * LINE + 5, dtype=torch.uint8)
    assert limits.read_bandwidth(buffer, 1) == LINE
    assert pieces == [(buffer.data_ptr() + at * LINE, LINE, way) for at, way in enumerate(kept)]
