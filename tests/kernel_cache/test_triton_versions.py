"""Another release of Triton builds what this one builds; GRIDSTONE_TRITON_PYTHON names a Python that has it."""

from __future__ import annotations

import os
import struct

import pytest

from gridstone.ir.errors import BuildError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.artefact import unpack
from gridstone.kernel_cache.toolchain_triton import TritonToolchain, build_with
from gridstone.lower.target import TARGETS, Language
from gridstone.proof.cubin import broken_promises, read_report
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named

OTHER = os.environ.get("GRIDSTONE_TRITON_PYTHON", "")
NAMED = pytest.mark.skipif(not OTHER, reason="GRIDSTONE_TRITON_PYTHON names no Python with another Triton")
TARGETS_HERE = [target for target in TARGETS.values() if target.language is Language.TRITON]
SPECS = (
    "gemm[x: bf16(1,4096), w: int4:g128:bf16(14336,4096)]",
    "gemm[x: f16(16,4096), w: uint4:g128:zero(14336,4096)] + bias + silu",
    "gemm[x: bf16(64,4096), w: int8:channel(4096,4096)] + residual",
    "gemm[x: bf16(256,4096), w: uint8:g128:zero(14336,4096)]",
    "gemm[x: f32(33,160), w: uint4:g32:zero(75,160)] + bias",
)
PARAMETER, SIZED = 0x17, 4  # EIATTR_KPARAM_INFO and the format of attributes that bring their size


def emitted(recipe, text, target):
    found, spec = recipe_named(recipe), parse_spec(text).with_storage(target.storage)
    return emit(found, spec, found.space.default(spec, target), target)


def parameters(cubin, entry):
    """Count the parameters of a kernel by its section of attributes, as the driver does."""
    (start,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", cubin, start + at * size) for at in range(count)]
    text = headers[names][4]
    wanted = f".nv.info.{entry}".encode()
    offset, length = next(
        (header[4], header[5]) for header in headers if cubin[text + header[0] :].split(b"\0", 1)[0] == wanted
    )
    found, at = 0, offset
    while at < offset + length:
        form, attribute, more = struct.unpack_from("<BBH", cubin, at)
        found += attribute == PARAMETER
        at += 4 + (more if form == SIZED else 0)
    return found


def assert_launched_as_it_says(blob, source, target):
    artefact = unpack(blob)
    assert (artefact.entry, artefact.threads) == (source.entry, source.launch.grid.threads)
    assert len(source.params) + artefact.scratch_pointers == parameters(artefact.cubin, artefact.entry)
    assert 0 < artefact.shared_bytes <= target.l1_bytes
    report = read_report(artefact, target)
    assert report.static_shared == 0, "all of it is asked for at the launch"
    assert report.occupancy.blocks > 0
    return report


@pytest.mark.skipif(TritonToolchain().missing() is not None, reason="no Triton")
def test_this_triton():
    """What is asked of another one holds for this one."""
    target = TARGETS["triton:sm_90"]
    source = emitted("gemm.triton.small", SPECS[1], target)
    assert_launched_as_it_says(TritonToolchain().build(source, target), source, target)


@NAMED
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS_HERE, ids=str)
@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize("recipe", ["gemm.triton.small", "gemm.triton.large"])
def test_another_triton(recipe, text, target):
    source = emitted(recipe, text, target)
    report = assert_launched_as_it_says(build_with(OTHER, source, target), source, target)
    promises = recipe_named(recipe).promises if "f32(" not in text else ()
    assert not broken_promises(report, promises), f"{source.origin.schedule}\n{report}"
    assert report.spills == 0


def test_a_python_that_is_not_there_is_a_build_error():
    target = TARGETS["triton:sm_90"]
    with pytest.raises(BuildError, match="the process that builds Triton kernels could not be started"):
        build_with("/no/such/python", emitted("gemm.triton.small", SPECS[0], target), target)
