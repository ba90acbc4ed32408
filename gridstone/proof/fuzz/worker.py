"""A worker of the fuzzer: a process that runs cases and may die of one.

It reads requests from stdin and answers on stdout, a line of JSON each. What kernels or libraries print goes to stderr.

    {"ready": true}                                                  one answer, once everything is imported
    {"explore": "cpp", "seed": 7, "seconds": 5.0, "wanted": {...}}   trying..., ran..., failed..., then done
    {"problem": "cpp", "case": "..."}                                one answer
    {"simpler": "cpp", "case": "..."}                                one answer
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from gridstone.ir.errors import GridstoneError
from gridstone.proof.fuzz.subject import Failed, Ran, Subject, Trying, Wanted, subject_named

MOST_SIMPLER = 400  # cases that one answer lists

Answer = dict[str, Any]  # a line of JSON
Send = Callable[[Answer], None]


def serve(subjects: Sequence[Subject]) -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(answer: Answer) -> None:
        answers.write(json.dumps(answer) + "\n")

    for line in sys.stdin:
        request = json.loads(line)
        try:
            respond(request, subjects, send)
        except GridstoneError as error:
            send({"error": str(error)})


def respond(request: Answer, subjects: Sequence[Subject], send: Send) -> None:
    """Answer one request.

    Raises:
        GridstoneError: A case is not the subject's.
    """
    if "ready" in request:
        send(request)
    elif "explore" in request:
        _explore(subject_named(request["explore"], subjects), request, send)
    elif "problem" in request:
        send({"problem": subject_named(request["problem"], subjects).problem(request["case"])})
    else:
        simpler = subject_named(request["simpler"], subjects).simpler(request["case"])
        send({"simpler": [case for _, case in zip(range(MOST_SIMPLER), simpler, strict=False)]})


def _explore(subject: Subject, request: Answer, send: Send) -> None:
    restricted = Wanted(*(tuple(request["wanted"][name]) for name in ("ops", "targets", "formats")))
    end = time.monotonic() + request["seconds"]
    events = subject.explore(request["seed"], restricted)
    for event in events:
        match event:
            case Trying(case):
                send({"trying": case})
            case Ran(cases, row, kernel):
                send({"ran": cases, "row": row, "kernel": kernel})
            case Failed(case, problem):
                send({"failed": case, "problem": problem})
        if isinstance(event, Ran) and time.monotonic() > end:
            break
    send({"done": True})
