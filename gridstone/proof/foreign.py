"""Kernels of others: is any callable that claims to be a spec's kernel right, even if it was made to look right?

The verdict is computed with NumPy from bytes, after the last call. `docs/correctness.md` says what that can see, and
what no check within one process can.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from gridstone.ir.dtype import DType, Values, decode
from gridstone.ir.errors import MismatchError, SpecError
from gridstone.ir.spec import Spec
from gridstone.ir.text import parse_spec, print_spec
from gridstone.proof.compare import Verdict, compare
from gridstone.proof.draws import Draw, draws
from gridstone.proof.isolated import Isolated
from gridstone.proof.place import Adapt
from gridstone.proof.watch import Watch, Way

CALLS = 24  # of one check, all of them judged
EXCHANGE = "dense"  # the storage of a packed weight where a spec names none


@dataclass(frozen=True, slots=True)
class Ruling:
    """What was found of a candidate. It is true when the candidate was right.

    Args:
        spec: Text of what it had to compute.
        seed: Of everything that was drawn; `check(..., seed=...)` draws the same again.
        cases: Calls whose output was compared.
        problem: What is wrong, with the call; empty when nothing is.
        worst_element, worst_rms: Largest ratios of error to bound over the calls that were compared.
        error: What the candidate raised, or None.
    """

    spec: str
    seed: int
    cases: int
    problem: str
    worst_element: float
    worst_rms: float
    error: BaseException | None = field(default=None, repr=False, compare=False)

    @property
    def right(self) -> bool:
        """Whether every output was within tolerance, and nothing else was wrong."""
        return not self.problem

    def __bool__(self) -> bool:
        return self.right

    def __str__(self) -> str:
        if self.problem:
            return f"wrong: {self.spec}: {self.problem}; seed={self.seed} draws this again"
        worst = f"at most {self.worst_element:.2f} of an element's bound and {self.worst_rms:.2f} of the norm's"
        return f"right: {self.spec} in {self.cases} calls, {worst} (seed={self.seed})"

    def raise_if_wrong(self) -> Ruling:
        """Return this ruling, or raise it.

        Raises:
            MismatchError: The candidate is wrong; what it raised itself is the cause.
        """
        if self.problem:
            raise MismatchError(f"{self.spec}: {self.problem}", f"seed={self.seed} draws this again") from self.error
        return self


def check(
    candidate: Callable[..., object] | str,
    spec: Spec | str,
    *,
    out: bool = False,
    weights: str | Adapt = "packed",
    device: torch.device | str = "cpu",
    calls: int = CALLS,
    rows: tuple[int, ...] = (),
    seed: int | None = None,
) -> Ruling:
    """Check any callable that claims to compute a spec, such as another library's kernel or a generated one.

    Args:
        candidate: Called as `candidate(*tensors) -> Tensor` with the spec's inputs and then its epilogues' operands, in
            order. As text, `module:function`, it is imported and called in a process of its own, out of reach of the
            verdict.
        spec: What it claims to compute, or its text; symbolic extents get several values.
        out: Call it as `candidate(*tensors, out=tensor)` instead; it writes there, and returns that or None.
        weights: How it takes a quantised weight: `packed`, the uint8 buffer of the spec's storage (`dense` when it
            names none); `decoded`, an (N, K) tensor in the activations' dtype; or a function of (`Quantized`, `Format`)
            that makes what the candidate takes, called before each call (as text too, where the candidate is text).
        device: Where its tensors are.
        calls: How many calls are judged.
        rows: What symbolic extents are, in turn; drawn when empty.
        seed: Of everything that is drawn; fresh from the system when omitted.

    Raises:
        SpecError: The spec is malformed, or the arguments do not fit.

    >>> print(check(lambda x, w: x @ w.T, "gemm[x: f32(M,64), w: f32(48,64)]").cases)
    24
    >>> check(lambda x, w: x @ w.T * 1.01, "gemm[x: f32(M,64), w: f32(48,64)]").right
    False
    """
    if calls < 1:
        raise SpecError(f"{calls} calls check nothing", "give at least 1")
    wanted = (parse_spec(spec) if isinstance(spec, str) else spec).with_storage(EXCHANGE)
    chosen = secrets.randbits(32) if seed is None else seed
    planned = draws(wanted, calls, rows, np.random.default_rng(chosen))
    way = Way(out, weights, torch.device(device))
    outputs: list[bytes] = []
    problem, error = "", None
    with Isolated(candidate, way) if isinstance(candidate, str) else Watch(candidate, way) as watch:
        for draw in planned:
            seen = watch.call(draw.spec, draw.operands().tensors)
            if seen.problem:
                problem, error = _in_call(len(outputs), draw, planned, seen.problem), seen.error
                break
            outputs.append(seen.output)
        verdicts = _verdicts(planned, outputs)
        problem = next((v.problem for v in verdicts if v.problem), "") or problem or watch.close()
    element = max((v.worst_element for v in verdicts), default=0.0)
    rms = max((v.worst_rms for v in verdicts), default=0.0)
    return Ruling(print_spec(wanted), chosen, len(outputs), problem, element, rms, error)


def _verdicts(planned: tuple[Draw, ...], outputs: list[bytes]) -> list[Verdict]:
    """Compare the outputs of the calls that were made; the same operands have one reference, and one right answer."""
    found: dict[int, Verdict] = {}
    answered = dict.fromkeys(planned[: len(outputs)])
    for draw in answered:
        values = draw.operands().values
        want, bound = draw.spec.op.reference(draw.spec, values), draw.spec.op.tolerance(draw.spec, values)
        mine = [at for at, other in enumerate(planned[: len(outputs)]) if other == draw]
        for at in mine:
            got = _values(outputs[at], draw.spec.output.dtype, want.shape)
            verdict = compare(got, want, bound, draw.spec.output.dtype)
            if verdict.right and draw.spec.numerics.ordered and outputs[at] != outputs[mine[0]]:
                text = f"not the bits of call {mine[0] + 1}, which had the same operands, though the spec is ordered"
                verdict = Verdict(text, verdict.worst_element, verdict.worst_rms)
            problem = _in_call(at, draw, planned, verdict.problem) if verdict.problem else ""
            found[at] = Verdict(problem, verdict.worst_element, verdict.worst_rms)
    return [found[at] for at in sorted(found)]


def _values(output: bytes, dtype: DType, shape: tuple[int, ...]) -> Values:
    return decode(dtype, np.frombuffer(output, dtype.numpy)).reshape(shape)


def _in_call(at: int, draw: Draw, planned: tuple[Draw, ...], problem: str) -> str:
    symbolic = {one.spec for one in planned}
    shape = f"{draw.spec.output}, " if len(symbolic) > 1 else ""
    return f"call {at + 1} of {len(planned)} ({shape}{draw}): {problem}"
