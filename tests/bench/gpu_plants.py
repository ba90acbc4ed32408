"""Answers in place of a GPU's, for the worker of `bench.gpu`: what each does is told by the rows of the problem."""

from __future__ import annotations

import os
import time

from bench.gpu_requests import Ceilings, Judge, Library, Measure, Request, Time
from bench.gpu_worker import Stopped


def troubled():
    def answer(request: Request):
        match request:
            case Measure():
                return Ceilings(4e12, 8e14)
            case Library():
                return (8e-6, 8e-6, 9e-6)
            case Judge(kernel) | Time(kernel):
                rows = int(kernel.spec.split("(")[1].split(",")[0])
        match rows:
            case 1:
                os._exit(3)
            case 5:
                time.sleep(3600)
            case 16:
                raise Stopped("it ended the GPU's context: an illegal memory access was encountered")
            case 33:
                raise ValueError("33 is odd")
        return (4e-6, 4e-6, 5e-6) if isinstance(request, Time) else (0.25, 0.125)

    return answer


def unable():
    raise ImportError("no CuPy here")


def never():
    raise AssertionError("nothing is asked of this worker")
