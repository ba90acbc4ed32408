"""Throughput: models run over the same batches in turn, and what they reach in sentences per second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gridstone.cli.minilm import Batch, embed

Embed = Callable[..., object]
ROUNDS = 11
FEWEST = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """What one way to run the model reached.

    Args:
        name: For the table.
        samples: Seconds of one pass over all batches, by round; none when it failed.
        sentences: Of one pass.
        warm_up: Seconds of the first pass, compilation included.
        failure: Why there are no samples.
    """

    name: str
    samples: tuple[float, ...]
    sentences: int
    warm_up: float
    failure: str = ""

    @property
    def rate(self) -> float | None:
        """Median sentences per second."""
        return self.sentences / statistics.median(self.samples) if self.samples else None


def contest(runners: Sequence[tuple[str, Embed]], batches: Sequence[Batch], seconds: float) -> tuple[Pace, ...]:
    """Warm every runner up, then let them take turns.

    Args:
        runners: Names, and callables of a batch's tensors; one that fails is left out with its reason.
        batches: Of every pass.
        seconds: After this long no round begins, though there are a few in any case.
    """
    warm: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name, run in runners:
        start = time.perf_counter()
        try:
            embed(run, batches)
        except Exception as error:  # whatever a compiler raises is the reason why it does not take part
            failures[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        warm[name] = time.perf_counter() - start
    running = [(name, run) for name, run in runners if name not in failures]
    samples: dict[str, list[float]] = {name: [] for name, _ in runners}
    end = time.perf_counter() + seconds
    for number in range(ROUNDS):
        if number >= FEWEST and time.perf_counter() >= end:
            break
        for name, run in running:
            start = time.perf_counter()
            embed(run, batches)
            samples[name].append(time.perf_counter() - start)
    count = sum(len(batch["input_ids"]) for batch in batches)
    return tuple(Pace(name, tuple(samples[name]), count, warm[name], failures.get(name, "")) for name, _ in runners)
