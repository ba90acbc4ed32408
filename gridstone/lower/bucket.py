"""Buckets of M: one tuned choice serves every M up to the bucket's own value."""

from __future__ import annotations

from dataclasses import replace

from gridstone.ir.errors import SpecError
from gridstone.ir.spec import Operand, Spec, make_spec
from gridstone.ir.tensor import Dim

ROWS = "M"  # the symbol that stands for the number of activation rows
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def bucket(rows: int) -> int:
    """Return the bucket of a row count: the smallest not below it, or the largest there is.

    >>> [bucket(m) for m in (0, 1, 3, 16, 17, 5000)]
    [1, 1, 4, 16, 32, 1024]
    """
    if rows > BUCKETS[-1]:
        return BUCKETS[-1]
    return 1 << max(rows - 1, 0).bit_length()


def problem(spec: Spec, rows: int) -> Spec:
    """Return the static spec that is tuned for a row count: M bound to its bucket.

    Raises:
        SpecError: The spec has a symbolic extent other than M.
    """
    others = [dim.name for dim in spec.dims if dim.name != ROWS]
    if others:
        raise SpecError(f"only {ROWS} may be symbolic here, not {', '.join(others)}", "bind them first")
    return spec.bind(**{ROWS: bucket(rows)}) if spec.dims else spec


def generalize(spec: Spec) -> Spec:
    """Return the spec that a kernel is emitted for: the first operand's rows are symbolic, since kernels take any M.

    Specs that differ in M alone share one artefact this way.
    """
    first = spec.inputs[0]
    if isinstance(first.type.shape[0], Dim):
        return spec
    rows = replace(first.type, shape=(Dim(ROWS), *first.type.shape[1:]))
    return make_spec(spec.op, (Operand(first.name, rows), *spec.inputs[1:]), spec.epilogue, spec.numerics)


def looked_up(spec: Spec) -> Spec:
    """Return the problem whose choice serves a static spec: its rows are their bucket's.

    >>> from gridstone.ir.text import parse_spec, print_spec
    >>> print_spec(looked_up(parse_spec("gemm[x: f32(33,64), w: int4:g32(64,64)]")))
    'gemm[x: f32(64,64), w: int4:g32(64,64)] -> f32(64,64)'
    """
    return problem(generalize(spec), spec.inputs[0].type.static(0))
