"""What the worker of `bench.gpu` does: judge a kernel, time one, time the library, measure the card."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.gpu_measure import measure_ceilings, time_kernel, time_library
from bench.gpu_requests import Built, Ceilings, Judge, Library, Measure, Request, Time
from bench.gpu_worker import Stopped
from gridstone.ir.spec import Spec
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.driver_cuda import live_driver
from gridstone.kernel_cache.launch_cuda import bind
from gridstone.kernel_cache.toolchain import Call
from gridstone.proof.on_gpu import on_gpu
from gridstone.tuner.exam import Case, prepare, sit

SEEDS = (1, 2)  # of a problem's operands: its own rows, and fewer, ragged ones
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}

Binder = Callable[[Built, Spec], Call]


def launched(kernel: Built, spec: Spec) -> Call:
    """Return the kernel as a function of tensors of this machine's GPU."""
    return bind(kernel.artefact, kernel.source, spec, live_driver())


def is_usable() -> bool:
    """Return whether the GPU's context still works: an address that is not a kernel's takes it along."""
    try:
        torch.cuda.synchronize()
        return torch.zeros(1, device="cuda").item() == 0.0
    except RuntimeError:
        return False


class Runner:
    """Answers requests on one device.

    Args:
        device: Where operands go.
        binder: Makes a kernel callable there.
        usable: Whether the device still works after a failure.
    """

    def __init__(self, device: str = "cuda", binder: Binder = launched, usable: Callable[[], bool] = is_usable) -> None:
        self._device, self._binder, self._usable = torch.device(device), binder, usable
        self._problem = ""
        self._cases: tuple[Case, ...] = ()

    def __call__(self, request: Request) -> tuple[float, ...] | Ceilings:
        """Do what is asked; Stopped when the device does not work any more."""
        try:
            return self._answer(request)
        except Exception as error:
            if not self._usable():
                raise Stopped(f"it ended the GPU's context: {type(error).__name__}: {error}") from error
            raise

    def _answer(self, request: Request) -> tuple[float, ...] | Ceilings:
        match request:
            case Judge(kernel):
                if kernel.spec != self._problem:  # kernels come problem by problem
                    self._cases, self._problem = (), ""
                    self._cases, self._problem = prepare(parse_spec(kernel.spec), SEEDS), kernel.spec
                found = sit(on_gpu(self._binder(kernel, parse_spec(kernel.spec)), self._device), self._cases)
                return found.worst_element, found.worst_rms
            case Time(kernel):
                spec = parse_spec(kernel.spec)
                return time_kernel(self._binder(kernel, spec), spec)
            case Library(n, k, m, dtype):
                return time_library(n, k, m, DTYPES[dtype])
            case Measure():
                return measure_ceilings()


def runner() -> Runner:
    """Return what answers on this machine's GPU."""
    return Runner()
