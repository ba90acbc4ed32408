"""Facts of the GPU at hand: which targets it runs. Imports neither torch nor CuPy until it is asked."""

from __future__ import annotations

import importlib.util
import re

from gridstone.lower.target import Language, Target


def runs_on_gpu(target: Target) -> bool:
    """Return whether code for a GPU's target runs on this machine: there are a GPU for it, torch and CuPy."""
    return not why_not_here(target)


def why_not_here(target: Target) -> str:
    """Return why code for a GPU's target does not run on this machine; empty when it does."""
    try:
        import torch  # noqa: PLC0415 - a machine without torch emits kernels too
    except ImportError:
        return "torch is not installed"
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU"
    if getattr(torch.version, "hip", None):  # whose compute capability is another maker's number
        return "this torch is built for AMD's GPUs"
    capability = torch.cuda.get_device_capability()
    if not fits(target, capability):
        return f"{torch.cuda.get_device_name()} is of compute capability {capability[0]}.{capability[1]}"
    return (
        "" if importlib.util.find_spec("cupy") else f"CuPy, which launches kernels, is not installed; {cupy_remedy()}"
    )


def gpu_name() -> str:
    """Return what the driver calls torch's current GPU; empty where there is none."""
    try:
        import torch  # noqa: PLC0415
    except ImportError:
        return ""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def fits(target: Target, capability: tuple[int, int]) -> bool:
    """Return whether machine code of a target runs on a GPU of this compute capability.

    Code runs on later GPUs of its own generation, and what has an `a` behind its number on that very one: from 9.0 on
    that is all of Triton's, which takes `sm_100` for `sm_100a`.
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#binary-compatibility

    >>> from gridstone.lower.target import parse_target
    >>> [fits(parse_target(f"cuda:{arch}"), (8, 9)) for arch in ("sm_80", "sm_89", "sm_90", "sm_90a")]
    [True, True, False, False]
    >>> [fits(parse_target("triton:sm_100"), (10, minor)) for minor in (0, 3)]
    [True, False]
    """
    found = re.fullmatch(r"sm_(\d+)(\d)(a?)", target.arch)
    if found is None:
        return False
    of = int(found[1]), int(found[2])
    if found[3] or (target.language is Language.TRITON and of >= (9, 0)):
        return capability == of
    return capability[0] == of[0] and capability[1] >= of[1]


def cupy_remedy() -> str:
    """Return how to install CuPy for the CUDA that torch was built with."""
    try:
        import torch  # noqa: PLC0415
    except ImportError:
        return "pip install 'gridstone[cuda13]'"
    version = torch.version.cuda or ""
    return f"pip install 'gridstone[{'cuda12' if version.startswith('12') else 'cuda13'}]'"
