"""The program of the process that examines mutants: a line of JSON in, a line of JSON out, until its input ends.

A mutant of C++ or CUDA runs in a fork of this process, where it may write anywhere, crash or hang: each starts from the
same clean memory, at once. That is safe here and nowhere else: this process never starts a thread, so no lock is held
and OpenMP has not begun. Triton is interpreted in a process of its own anyway.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from gridstone.kernel_cache.nvrtc import find_nvrtc
from gridstone.lower.target import Language
from gridstone.proof.fuzz.case import Case
from gridstone.proof.fuzz.inputs import draw_inputs
from gridstone.proof.interpret import Interpreter
from tests.mutation.examine import BUILD_S, CHECK_S, Result, Verdict, examine
from tests.mutation.kernels import SUBJECTS, Subject, calls
from tests.mutation.machine_code import Code, build
from tests.mutation.processor_time import processor_seconds

_LOOK_S = 0.5  # between two looks at a child that is silent
_IDLE = 20  # times its patience, after which a child that computes nothing counts as hanging
_LIBC, _DIES_WITH_PARENT = ctypes.CDLL(None), 1
_BY_NAME = {subject.name: subject for subject in SUBJECTS}


def forked(
    work: Callable[[Callable[[dict[str, Any]], None]], None], patience: float
) -> tuple[list[dict[str, Any]], str]:
    """Run work in a fork, and return what it said and how it ended badly; empty when it did not.

    Args:
        work: Called with what sends a message; one with `patience` says how many the next may take.
        patience: Seconds of processor time until the first.
    """
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reads)
            _LIBC.prctl(_DIES_WITH_PARENT, signal.SIGKILL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            nowhere = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nowhere, descriptor)
            with os.fdopen(writes, "w") as out:

                def send(message: dict[str, Any]) -> None:
                    out.write(json.dumps(message) + "\n")
                    out.flush()

                try:
                    work(send)
                except Exception:
                    send({"error": traceback.format_exc(limit=-4)})
        finally:
            os._exit(0)
    os.close(writes)
    said, how = _heard(reads, child, patience)
    os.close(reads)
    return said, how


def _heard(reads: int, child: int, patience: float) -> tuple[list[dict[str, Any]], str]:
    """Hear a child out, or end it when it computes too long without a word, or does nothing for very long."""
    said: list[dict[str, Any]] = []
    rest, hangs = b"", False
    computed, looks = processor_seconds(child), 0  # looks and no clock: a machine that sleeps is no mutant that hangs
    while True:
        if not select.select([reads], [], [], _LOOK_S)[0]:
            looks += 1
            if looks * _LOOK_S < _IDLE * patience and processor_seconds(child) - computed < patience:
                continue
            hangs = True
            os.kill(child, signal.SIGKILL)
            break
        computed, looks = processor_seconds(child), 0
        piece = os.read(reads, 1 << 16)
        if not piece:
            break
        *lines, rest = (rest + piece).split(b"\n")
        said += [json.loads(line) for line in lines]
        patience = float(said[-1].get("patience", patience)) if said else patience
    _, status = os.waitpid(child, 0)
    if hangs:
        return said, f"hangs for {patience:g} s"
    if os.WIFSIGNALED(status):
        return said, f"crashes with {signal.Signals(os.WTERMSIG(status)).name}"
    return said, ""


@functools.cache
def original(name: str) -> Code:
    """Return the machine code of a kernel as it is emitted."""
    subject = _BY_NAME[name]
    said, how = forked(lambda send: send(asdict(build(subject.source, subject.kernel.target)[1])), BUILD_S)
    if not said or "error" in said[-1]:
        raise RuntimeError(f"{name} cannot be built: {how or said}")
    return Code(**said[-1])


@functools.cache
def _warm(name: str) -> None:
    """Draw the fixed calls' inputs, so that forks find their weights packed."""
    kernel = _BY_NAME[name].kernel
    for call in calls(kernel):
        draw_inputs(Case(kernel, call))


def judged(subject: Subject, text: str, code: Code | None, by: Interpreter) -> Verdict:
    """Examine a text, in a fork where it might do harm."""
    if subject.kernel.target.language is Language.TRITON:
        return examine(subject, text, code, lambda *_: None, by)
    start = time.monotonic()

    def work(send: Callable[[dict[str, Any]], None]) -> None:
        verdict = examine(
            subject, text, code, lambda check, what, most: send({"check": check, "what": what, "patience": most})
        )
        send({"verdict": verdict.json()})

    said, how = forked(work, BUILD_S)
    if said and "verdict" in said[-1]:
        found = said[-1]["verdict"]
        return Verdict(Result(found["result"]), found["by"], found["why"], found["seconds"])
    if said and "error" in said[-1]:
        raise RuntimeError(said[-1]["error"])
    last = said[-1] if said else {"check": "build", "what": ""}
    seconds = time.monotonic() - start
    if last["check"] == "build":
        return Verdict(Result.STILLBORN, "", f"the compiler {how or 'ends without a word'}", seconds)
    return Verdict(Result.KILLED, last["check"], f"{last['what']}: {how or 'ends without a word'}", seconds)


def main() -> None:
    """Answer requests: `{"subject": name, "text": text, "always": whether to judge it even if nothing changed}`."""
    torch.set_num_threads(1)
    find_nvrtc()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed is no reply
    by = Interpreter(timeout_s=_IDLE * CHECK_S)
    for line in sys.stdin:
        request = json.loads(line)
        subject = _BY_NAME[request["subject"]]
        try:
            _warm(subject.name)
            code = None if request.get("always") else original(subject.name)
            answer = judged(subject, request["text"], code, by).json()
        except Exception as error:  # the parent must know, and the next mutant have its turn
            answer = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()
    by.close()


if __name__ == "__main__":
    main()
