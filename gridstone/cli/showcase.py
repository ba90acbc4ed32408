"""The demo's work: quantise a real transformer, tune its layers on this CPU, and show what that gained and cost."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

import gridstone
from gridstone.cli.footprint import Footprint, Witness, footprint
from gridstone.cli.layers import MIB, LayerTimes, measure_layer
from gridstone.cli.minilm import Batch, Embedder, batches_of, embed, load_embedder
from gridstone.cli.throughput import Embed, Pace, contest
from gridstone.ir.errors import GridstoneError
from gridstone.ir.spec import Spec
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.host import usable_cores
from gridstone.kernel_cache.make import TOOLCHAINS, default_store
from gridstone.lower.bucket import bucket
from gridstone.lower.target import Language
from gridstone.runtime.explain import explain
from gridstone.runtime.tensors import QuantTensor
from gridstone.runtime.tune import Listener, Tuning, problems_of, run_tunings, targets_named

FORMAT = "uint4:g32:f32:zero"
LANGUAGE_MODEL = "gemm[x: bf16(1,4096), w: int4:g128(14336,4096)]"
LANGUAGE_MODEL_BYTES = 272 * MIB  # that its weights rotate over, in each of the contestants
LANGUAGE_MODEL_SHARE = 0.2  # of the budget
LAYER_SECONDS = 1.5
PASSES_SECONDS = 10.0
BUSY = 0.5  # load for each core from which times are noisy
MEAN_COSINE, LEAST_COSINE, SAME_WEIGHTS = 0.97, 0.95, 1e-3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, kept or not."""

    name: str
    found: str
    promised: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Showcase:
    """Everything that the demo shows.

    Args:
        sentences, batches: How many; (sentences, tokens) of each batch.
        threads: Of all kernels.
        compiler: Why there is none, or empty.
        before, after: Bytes held by the model.
        checks: Agreement and memory.
        tunings: Of every distinct layer problem, the language model's last.
        layers, language_model: Times.
        paces: End to end.
        builds: Kernels compiled by this run, tuning included.
        seconds: That everything took.
    """

    sentences: int
    batches: tuple[tuple[int, int], ...]
    threads: int
    compiler: str
    before: Footprint
    after: Footprint
    checks: tuple[Check, ...]
    tunings: tuple[Tuning, ...]
    layers: tuple[LayerTimes, ...]
    language_model: LayerTimes | None
    paces: tuple[Pace, ...]
    builds: int
    seconds: float

    @property
    def searches(self) -> int:
        """Problems that had to be searched."""
        return sum(not one.tuned.reused for one in self.tunings)

    @property
    def holds(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)


def run_showcase(
    sentences: Sequence[str],
    *,
    budget: float,
    say: Say,
    progress: Listener | None = None,
    compile_baseline: bool = True,
    language_model: bool = True,
) -> Showcase:
    """Run the demo.

    Args:
        sentences: To embed.
        budget: Seconds of tuning at most.
        say: Told what happens next.
        progress: Told how tuning goes.
        compile_baseline: Whether `torch.compile` of the float32 model takes part, and Inductor compiles what Gridstone
            leaves; without it that part runs eagerly.
        language_model: Whether the row of a language model's layer is measured.
    """
    start, threads, store = time.monotonic(), torch.get_num_threads(), default_store()
    builds = store.counters().builds
    compiler = TOOLCHAINS[Language.CPP].missing() or ""
    load, cores = os.getloadavg()[0], usable_cores()
    if load > BUSY * cores:
        say(f"the load is {load:.1f} on {cores} cores: other programs make what is measured slow and noisy")
    say("loading all-MiniLM-L6-v2")
    batches, plain, model = batches_of(sentences), load_embedder(), load_embedder()
    witness, before = Witness(model), footprint(model)
    say(f"quantising its linear layers to {FORMAT}")
    gridstone.quantize_model(model, FORMAT)
    left, after = witness.survivors(), footprint(model)
    tunings: tuple[Tuning, ...] = ()
    problems: tuple[Spec, ...] = ()
    if not compiler:
        problems, tunings = _tuned(model, batches, budget, say, progress, language_model)
    else:
        say(f"nothing is tuned and the library does all the work: {compiler}")
    inductor = compile_baseline and not compiler
    compiled = gridstone.compile(model, dynamic=True, rest="inductor" if inductor else "eager")
    say("embedding with each model; the first pass of a compiled one takes up to a minute")
    wanted, decoded = embed(plain, batches), embed(_decoded(plain, model), batches)
    runners: list[tuple[str, Embed]] = [("PyTorch eager, float32", plain), ("Gridstone", compiled)]
    if inductor:
        runners.insert(1, ("torch.compile, float32", torch.compile(_copy(plain), dynamic=True)))
    paces = contest(runners, batches, min(PASSES_SECONDS, budget))
    got = _embedded(compiled, batches, paces)
    checks = agreement(got, wanted, decoded)
    copies = witness.copies([plain])
    checks.append(Check("float copies of quantised weights", str(left + copies), "0", left + copies == 0))
    layers: list[LayerTimes] = []
    for at, problem in enumerate(problems):
        say(f"measuring layer {at + 1} of {len(problems)}")
        layers.append(measure_layer(problem, threads=threads, seconds=min(LAYER_SECONDS, budget / 8)))
    row = _language_model_row(threads, say) if language_model and not compiler else None
    return Showcase(
        len(sentences),
        tuple((int(b["input_ids"].shape[0]), int(b["input_ids"].shape[1])) for b in batches),
        threads, compiler, before, after, tuple(checks), tunings, tuple(layers), row, paces,
        store.counters().builds - builds, time.monotonic() - start,
    )  # fmt: skip


def _tuned(
    model: Embedder, batches: Sequence[Batch], budget: float, say: Say, progress: Listener | None, language_model: bool
) -> tuple[tuple[Spec, ...], tuple[Tuning, ...]]:
    """Capture the model, and tune every distinct layer for the rows of these batches."""
    say("capturing the model")
    targets = targets_named("auto")
    matched = explain(model, **batches[0]).matched
    rows = sorted({bucket(int(batch["input_ids"].numel())) for batch in batches})
    problems = problems_of([part.spec for part, _ in matched], rows, targets[0])
    end, special_seconds = time.monotonic() + budget, budget * LANGUAGE_MODEL_SHARE * language_model
    found: list[Tuning] = []
    if language_model:  # first, so that what it takes beyond its share is taken off the others'
        special = problems_of([LANGUAGE_MODEL], (), targets[0])
        found.extend(run_tunings(special, targets, seconds=special_seconds, progress=progress))
    # What is stated is the same in the next run with this budget, so that it searches nothing again.
    left, stated = max(0.0, end - time.monotonic()), budget - special_seconds
    found.extend(run_tunings(problems, targets, seconds=left, stated=stated, progress=progress))
    return problems, tuple(found)


def _language_model_row(threads: int, say: Say) -> LayerTimes:
    say("measuring a language model's layer, whose weights do not fit the cache")
    spec = parse_spec(LANGUAGE_MODEL)
    return measure_layer(spec, threads=threads, seconds=2 * LAYER_SECONDS, at_least=LANGUAGE_MODEL_BYTES)


def _copy(model: Embedder) -> Embedder:
    """Return a model with the same weights, not copied, for a compiler of its own."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def _decoded(plain: Embedder, quantised: Embedder) -> Embedder:
    """Return a float32 model with the decoded weights of a quantised one."""
    model = _copy(plain)
    layers = dict(quantised.named_modules())
    for name, layer in model.named_modules():
        weight = getattr(layers[name], "weight", None)
        if isinstance(layer, torch.nn.Linear) and isinstance(weight, QuantTensor):
            layer.weight = torch.nn.Parameter(weight.dequantize(torch.float32), requires_grad=False)
    return model


def _embedded(compiled: Embedder, batches: Sequence[Batch], paces: Sequence[Pace]) -> torch.Tensor:
    failure = next(pace.failure for pace in paces if pace.name == "Gridstone")
    if failure:
        raise GridstoneError(f"the compiled model failed: {failure}", "run it with --debug")
    return embed(compiled, batches)


def agreement(got: torch.Tensor, wanted: torch.Tensor, decoded: torch.Tensor) -> list[Check]:
    """Compare embeddings: with the float32 model's, and with those of the same decoded weights in plain PyTorch."""
    finite = bool(torch.isfinite(got).all())
    cosine = torch.nn.functional.cosine_similarity(got.double(), wanted.double(), dim=1)
    mean, least = float(cosine.mean()), float(cosine.min())
    apart = float((got - decoded).abs().max())
    return [
        Check("mean cosine with the float32 model", f"{mean:.4f}", f">= {MEAN_COSINE}", finite and mean >= MEAN_COSINE),
        Check("least cosine", f"{least:.4f}", f">= {LEAST_COSINE}", finite and least >= LEAST_COSINE),
        Check(
            "largest difference to the same weights in PyTorch", f"{apart:.1e}", f"<= {SAME_WEIGHTS:g}",
            finite and apart <= SAME_WEIGHTS,
        ),
    ]  # fmt: skip
