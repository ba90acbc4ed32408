"""What a mutant is put through: it is built, told from the original by its code, and judged until a check objects.

| check | of | what it sees |
|---|---|---|
| `calls` | all | fixed calls, against the float64 reference: C++ between walls, CUDA executed, Triton interpreted |
| `probes` | CUDA with tensor cores | operands of products that hold another place's element |
| `sanitizer` | C++, CUDA | calls as a program under AddressSanitizer and UBSan |
| `order` | Triton | barriers between accesses to shared scratch, read off the text |
| `promises` | CUDA, Triton | what the recipe promises of the machine code |
| `traffic` | CUDA, Triton | as many accesses to each operand, of as many bytes, as the original: a detour costs time |
| `drawn` | all | random calls |
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path

from gridstone.ir.errors import BuildError
from gridstone.kernel_cache.artefact import unpack
from gridstone.lower.target import Language
from gridstone.proof.cubin import broken_promises, read_report
from gridstone.proof.emulate import emulated, probe_faults
from gridstone.proof.execute import Traffic
from gridstone.proof.fuzz.case import Call, Case, KernelCase
from gridstone.proof.fuzz.inputs import draw_inputs
from gridstone.proof.fuzz.kernels import problem
from gridstone.proof.interpret import Interpreter, interpreted
from gridstone.proof.program import program
from gridstone.templates.emit import emit
from gridstone.templates.source import Source
from tests.mutation.bounded import Argument, Walled, arguments
from tests.mutation.kernels import Subject, calls, drawn
from tests.mutation.machine_code import Code, build
from tests.mutation.processor_time import processor_seconds
from tests.mutation.sanitized_cpp import build_program, fault
from tests.mutation.scratch_order import missing_barrier

CAP_S = 20.0  # of all checks of one mutant, in processor time, as the others
CHECK_S = 10.0  # of one check: what takes longer hangs, since none takes a second
BUILD_S = 100.0
DRAWN = {Language.CPP: 150, Language.CUDA: 16, Language.TRITON: 6}
TENSOR_CORES = ("gemm.cuda.mma", "gemm.cuda.wgmma")
PROBED_ROWS = 17
TRAFFIC_CALLS = 5


class Result(Enum):
    """What became of a mutant."""

    STILLBORN = "stillborn"  # a compiler refuses it
    SAME = "same"  # its machine code is the original's
    KILLED = "killed"
    SURVIVED = "survived"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant, and how.

    Args:
        result: What.
        by: The check that killed it; empty for none.
        why: What that check said.
        seconds: All of it took.
    """

    result: Result
    by: str = ""
    why: str = ""
    seconds: float = 0.0

    def json(self) -> dict[str, object]:
        """Return plain values."""
        return asdict(self) | {"result": self.result.value}


Say = Callable[[str, str, float], None]  # (check, what exactly, seconds until it counts as hanging)
Step = tuple[str, str, Callable[[], str]]  # (check, what exactly, what returns a problem)


def examine(subject: Subject, text: str, original: Code | None, say: Say, by: Interpreter | None = None) -> Verdict:
    """Build a text and judge it until a check objects or the time is up.

    Args:
        subject: The kernel whose text it was.
        text: The text to judge.
        original: The original's machine code; None to judge a text whatever it is.
        say: Told what comes next.
        by: Triton's interpreter.
    """
    start = time.monotonic()

    def verdict(result: Result, by: str = "", why: str = "") -> Verdict:
        return Verdict(result, by, " ".join(why.split())[:400], time.monotonic() - start)

    kernel, source = subject.kernel, replace(subject.source, text=text)
    try:
        say("build", str(kernel.target), BUILD_S)
        blob, code = build(source, kernel.target)
        if original is not None and code.same(original):
            return verdict(Result.SAME)
        with tempfile.TemporaryDirectory(prefix="gridstone-mutant-") as folder:
            began = processor_seconds(os.getpid())
            for check, what, run in _steps(kernel, source, blob, Path(folder), say, by):
                say(check, what, CHECK_S)
                found = run()
                if found:
                    return verdict(Result.KILLED, check, f"{what}: {found}")
                if processor_seconds(os.getpid()) - began > CAP_S:
                    return verdict(Result.SURVIVED, why=f"the time was up after {check} {what}")
    except BuildError as error:
        return verdict(Result.STILLBORN, why=str(error))
    return verdict(Result.SURVIVED)


def traffic(kernel: KernelCase, source: Source, call: Call, by: Interpreter | None) -> Traffic:
    """Return what a call of a GPU's kernel reads and writes."""
    case, found = Case(kernel, call), dict[str, tuple[int, int]]()
    if kernel.target.language is Language.CUDA:
        run = emulated(source, case.static, seed=call.order, report=lambda _: None, count=found.update)
    else:
        run = interpreted(source, case.static, seed=call.order, asm=call.asm, by=by, count=found.update)
    inputs = draw_inputs(case)
    run(*inputs.operands.tensors, out=inputs.output)
    return found


@functools.cache
def _original(kernel: KernelCase, call: Call) -> Traffic:
    return traffic(kernel, emit(kernel.recipe, kernel.spec, kernel.schedule, kernel.target), call, None)


def _detours(kernel: KernelCase, source: Source, by: Interpreter | None) -> Iterator[Step]:
    def detour(call: Call) -> str:
        now, was = traffic(kernel, source, call, by), _original(kernel, call)
        return "; ".join(
            f"{name}: {now[name][0]} accesses of {now[name][1]} bytes, not {was[name][0]} of {was[name][1]}"
            for name in was
            if now[name] != was[name]
        )

    for call in calls(kernel)[:TRAFFIC_CALLS]:
        yield "traffic", str(call), lambda call=call: detour(call)


def _steps(
    kernel: KernelCase, source: Source, blob: bytes, folder: Path, say: Say, by: Interpreter | None
) -> Iterator[Step]:
    match kernel.target.language:
        case Language.CPP:
            yield from _cpp(kernel, source, blob, folder, say)
        case Language.CUDA:
            yield from _cuda(kernel, source, blob, say)
        case _:
            yield from _triton(kernel, source, blob, by)


def _judged(case: Case, run: Callable[[Call], Callable[..., object]], again: Call | None) -> str:
    """Return what is wrong with a call; what is raised is wrong too."""
    try:
        return problem(case, run(case.call), run(again) if again else None)  # type: ignore[arg-type]
    except Exception as error:  # whatever it is, a legal call raised it
        return f"{type(error).__name__}: {error}"


def _called(
    check: str, kernel: KernelCase, wanted: tuple[Call, ...], run: Callable[[Case, Call], Callable[..., object]],
    again: Callable[[Call], Call | None],
) -> Iterator[Step]:  # fmt: skip
    for call in wanted:
        case = Case(kernel, call)
        yield check, str(call), lambda case=case: _judged(case, functools.partial(run, case), again(case.call))


def _cpp(kernel: KernelCase, source: Source, blob: bytes, folder: Path, say: Say) -> Iterator[Step]:
    library = folder / "kernel.so"
    library.write_bytes(blob)

    def between_walls(library: Path) -> Callable[[Case, Call], Callable[..., object]]:
        walled = Walled(library, source, kernel.spec)
        # The second call has the operands at the other wall, and another number of threads.
        return lambda _, call: walled.candidate(call.threads % 8, call.threads < 8)

    def again(call: Call) -> Call:
        return replace(call, threads=8 + call.threads % 3 + 1)

    yield from _called("calls", kernel, calls(kernel), between_walls(library), again)
    yield from _called("drawn", kernel, drawn(kernel, DRAWN[Language.CPP]), between_walls(library), again)
    say("sanitizer", "build", BUILD_S)
    made = build_program(source, kernel.target, folder)
    yield "sanitizer", "", lambda: fault(made, [_arguments(source, Case(kernel, call)) for call in calls(kernel)])


def _arguments(source: Source, case: Case) -> tuple[int, int, list[Argument]]:
    inputs, threads = draw_inputs(case), case.call.threads
    return case.call.M, threads, arguments(source, case.static, inputs.operands.tensors, inputs.output, threads)


def _cuda(kernel: KernelCase, source: Source, blob: bytes, say: Say) -> Iterator[Step]:
    say("calls", "build", BUILD_S)
    built = program(source.text, source.entry)

    def run(case: Case, call: Call) -> Callable[..., object]:
        made = program(source.text, source.entry, sanitized=True) if call.sanitized else built
        return emulated(source, case.static, seed=call.order, built=made)

    def again(call: Call) -> Call | None:
        return replace(call, order=call.order + 1) if source.launch.deterministic and not call.sanitized else None

    fixed = calls(kernel)
    yield from _called("calls", kernel, fixed, run, again)
    if kernel.recipe.name in TENSOR_CORES:
        static = Case(kernel, Call(M=PROBED_ROWS)).static
        yield "probes", "", lambda: "; ".join(map(str, probe_faults(source, static, built=built)))
    yield from _promises(kernel, blob)
    yield from _detours(kernel, source, None)
    yield from _called("drawn", kernel, drawn(kernel, DRAWN[Language.CUDA]), run, again)
    say("sanitizer", "build", BUILD_S)
    program(source.text, source.entry, sanitized=True)
    yield from _called("sanitizer", kernel, tuple(replace(call, sanitized=True) for call in fixed[:2]), run, again)


def _triton(kernel: KernelCase, source: Source, blob: bytes, by: Interpreter | None) -> Iterator[Step]:
    def run(case: Case, call: Call) -> Callable[..., object]:
        return interpreted(source, case.static, seed=call.order, asm=call.asm, by=by)

    fixed = calls(kernel)
    first = fixed[0]
    yield "order", "", lambda: missing_barrier(source.text, source.entry)
    yield from _promises(kernel, blob)
    yield from _called(
        "calls", kernel, fixed, run,
        lambda call: replace(call, order=call.order + 1) if call == first and source.launch.deterministic else None,
    )  # fmt: skip
    yield from _detours(kernel, source, by)
    yield from _called("drawn", kernel, drawn(kernel, DRAWN[Language.TRITON]), run, lambda _: None)


def _promises(kernel: KernelCase, blob: bytes) -> Iterator[Step]:
    def broken() -> str:
        return "; ".join(broken_promises(read_report(unpack(blob), kernel.target), kernel.recipe.promises))

    yield "promises", "", broken
