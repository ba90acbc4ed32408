"""Kernels as subjects: every language that can run here, against the float64 reference.

C++ runs as it is; Triton under its interpreter; CUDA by the executor, which also reports races, bounds, uninitialised
reads and missing waits. What is asked of a call: the output within `tolerance()`, NaN and infinities exactly where the
reference has them, nothing written beside the output, operands unchanged, and the same bits from a second call.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from gridstone.ir.errors import GridstoneError
from gridstone.kernel_cache.host import LIBRARY, runs_here
from gridstone.kernel_cache.make import TOOLCHAINS, kernel_of
from gridstone.lower.target import Language, Target
from gridstone.proof.compare import compare
from gridstone.proof.emulate import emulated
from gridstone.proof.fuzz.case import Call, Case, KernelCase, parse_case
from gridstone.proof.fuzz.draw import draw_calls, draw_kernel, rows_of, targets_of
from gridstone.proof.fuzz.inputs import Inputs, draw_inputs
from gridstone.proof.fuzz.simplify import simpler_cases
from gridstone.proof.fuzz.subject import Event, Failed, Ran, Trying, Wanted
from gridstone.proof.interpret import interpreted
from gridstone.proof.operands import to_values
from gridstone.proof.poison import POISON
from gridstone.proof.program import program
from gridstone.templates.emit import emit
from gridstone.templates.source import Source

Candidate = Callable[..., torch.Tensor]


def source_of(kernel: KernelCase) -> Source:
    """Emit a kernel."""
    return emit(kernel.recipe, kernel.spec, kernel.schedule, kernel.target)


@dataclass(frozen=True, slots=True)
class Built:
    """A kernel that can be called.

    Args:
        source: Its text.
        candidate: From a case of it to what `problem` calls.
    """

    source: Source
    candidate: Callable[[Case], Candidate]

    @property
    def mark(self) -> str:
        """Hash of what was built."""
        origin = self.source.origin
        return hashlib.sha256(f"{origin.target} {origin.spec} {self.source.text}".encode()).hexdigest()[:16]


def build(kernel: KernelCase, source: Source | None = None) -> Built:
    """Build a kernel, once for all of its calls.

    Args:
        kernel: What to build.
        source: Its text where that is not as emitted, such as one with a planted fault.

    Raises:
        GridstoneError: It cannot be lowered or built.
    """
    text = source or source_of(kernel)
    match kernel.target.language:
        case Language.CPP | Language.LIBRARY:
            callee = kernel_of(text, kernel.spec, kernel.target)
            return Built(text, lambda case: _threaded(callee, case.call.threads))
        case Language.CUDA:
            return Built(text, lambda case: _executed(text, case))
        case Language.TRITON:
            return Built(text, lambda case: interpreted(text, case.static, seed=case.call.order, asm=case.call.asm))


def _executed(text: Source, case: Case) -> Candidate:
    built = program(text.text, text.entry, sanitized=case.call.sanitized)
    return emulated(text, case.static, seed=case.call.order, built=built)


def _threaded(callee: Candidate, threads: int) -> Candidate:
    def call(*tensors: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return callee(*tensors, out=out)
        finally:
            torch.set_num_threads(before)

    return call


def problem(case: Case, candidate: Candidate, repeat: Candidate | None = None) -> str:
    """Call a kernel on the inputs of a case; return what is wrong, empty when it is right.

    Args:
        case: The call.
        candidate: From `build(...).candidate(case)`, or anything that is called likewise.
        repeat: Called a second time, and must give the same bits; None where the order of sums is not fixed.
    """
    inputs = draw_inputs(case)
    before = [_bits(memory).clone() for memory in inputs.memory]
    try:
        candidate(*inputs.operands.tensors, out=inputs.output)
        first = _bits(inputs.around).clone()
        problem = inputs.damage() or _changed(inputs, before)
        got = to_values(inputs.output)
        if repeat is not None and not problem:
            inputs.around.view(torch.uint8).fill_(POISON)
            repeat(*inputs.operands.tensors, out=inputs.output)
            same = torch.equal(first, _bits(inputs.around))
            problem = "" if same else "a second call gives other bits"
    except GridstoneError as error:
        return _said(error)
    if problem:
        return problem
    want = case.static.op.reference(case.static, inputs.operands.values)
    bound = case.static.op.tolerance(case.static, inputs.operands.values)
    return compare(got, want, bound, case.static.output.dtype).problem


def _changed(inputs: Inputs, before: Sequence[torch.Tensor]) -> str:
    for name, old, new in zip(inputs.operands.values, before, inputs.memory, strict=True):
        if not torch.equal(old, _bits(new)):
            return f"operand {name} was changed"
    return ""


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.uint8) if tensor.numel() else tensor


@dataclass(frozen=True, slots=True)
class KernelSubject:
    """The kernels of one language.

    Args:
        name: Of the subject.
        language: Of the kernels.
        calls: How many are made of one kernel: more where building takes long.
    """

    name: str
    language: Language
    calls: int

    def missing(self) -> str:
        """Return why none can run here; empty when they can."""
        if self.language is Language.TRITON and importlib.util.find_spec("triton") is None:
            return "no triton (pip install 'gridstone[triton]')"
        chain = TOOLCHAINS[Language.CPP if self.language is Language.CUDA else self.language]
        return "" if self.language is Language.TRITON else chain.missing() or ""

    def targets(self, wanted: Wanted) -> tuple[Target, ...]:
        """Return the wanted targets whose kernels can run here, or stand in for a GPU's."""
        if self.language is Language.LIBRARY:
            return (LIBRARY,) if wanted.takes_target(str(LIBRARY)) else ()
        found = targets_of((self.language,), wanted)
        return tuple(target for target in found if target.sms or runs_here(target))

    def explore(self, seed: int, wanted: Wanted) -> Iterator[Event]:
        """Draw a kernel, build it, and call it; its rows of the registry come in turn with the seed."""
        rng = random.Random(seed)
        rows = rows_of((self.language,), wanted)
        targets = self.targets(wanted)
        if not rows or not targets:
            return
        kernel = draw_kernel(rng, rows[seed % len(rows)], targets, wanted)
        if kernel is None:
            return
        first = Case(kernel, Call())
        yield Trying(str(first))
        try:
            built = build(kernel)
        except Exception as error:  # whatever it is, a feasible schedule was not built
            yield Failed(str(first), _said(error))
            return
        for call in draw_calls(rng, kernel, self.calls):
            case = Case(kernel, call)
            yield Trying(str(case))
            found = _tried(case, built)
            if found:
                yield Failed(str(case), found)
                return
            yield Ran(1, kernel.recipe.name, built.mark)

    def problem(self, case: str) -> str:
        """Build a case's kernel and call it."""
        parsed = parse_case(case)
        try:
            built = build(parsed.kernel)
        except GridstoneError as error:
            return _said(error)
        return _tried(parsed, built)

    def simpler(self, case: str) -> Iterator[str]:
        """Yield cases with less in them."""
        yield from map(str, simpler_cases(parse_case(case)))


def _tried(case: Case, built: Built) -> str:
    """Run a case; anything that is raised is what is wrong with it. The second call comes in another order."""
    later = Case(case.kernel, replace(case.call, order=case.call.order + 1))
    try:
        return problem(
            case, built.candidate(case), built.candidate(later) if built.source.launch.deterministic else None
        )
    except Exception as error:  # whatever it is, a legal call raised it
        return _said(error)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


SUBJECTS = (
    KernelSubject("cpp", Language.CPP, 64),
    KernelSubject("library", Language.LIBRARY, 16),
    KernelSubject("triton", Language.TRITON, 8),
    KernelSubject("cuda", Language.CUDA, 24),
)
