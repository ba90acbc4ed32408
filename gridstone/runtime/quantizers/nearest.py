"""Rounding to nearest: each group's range is mapped onto the code's, each weight to the nearest code."""

from __future__ import annotations

from dataclasses import replace

import torch

from gridstone.ir.dtype import f32
from gridstone.ir.errors import FormatError
from gridstone.ir.format import Format, Quantized


def quantize_nearest(w: torch.Tensor, fmt: Format) -> Quantized:
    """Quantise a matrix by rounding to nearest.

    Args:
        w: (N, K), any floating dtype, finite.
        fmt: With zero points, a group's [min(w, 0), max(w, 0)] spans all codes, so that zero stays exact; without,
            the scale is the smallest that clips nothing.

    Raises:
        FormatError: A weight is NaN or infinite, a scale leaves the range of the format's scale dtype, a rounded
            weight that of the weight's own, or a format without sign and zero points is asked to hold negative weights.
    """
    n, k = w.shape
    fmt.check(n, k)
    refuse_non_finite(w)
    values = w.detach().to(device="cpu", dtype=torch.float32)
    groups = values.reshape(n, fmt.groups(k), -1)
    # In float64 from here to the scales: the span of float32 weights may lie outside of float32, at either end.
    low, high = groups.amin(-1).double().clamp(max=0.0), groups.amax(-1).double().clamp(min=0.0)
    code = fmt.code
    if fmt.zero:
        span = (high - low) / float((1 << code.bits) - 1)
    elif code.low == 0:
        if bool((low < 0).any()):
            raise FormatError(f"{fmt} holds no negative weights", f"use {fmt}:zero or a signed code")
        span = high / code.high
    else:
        if code.high == 0 and bool((high > 0).any()):
            raise FormatError(f"{fmt} holds no positive weights: its values are -1 and 0", "use int2, or uint1:zero")
        above = high / code.high if code.high else torch.zeros_like(high)
        span = torch.maximum(above, low / code.low)
    # Where float32 holds the span it is rounded to that, so that a decoded weight is quantised to itself.
    narrow = span.float()
    held = torch.isfinite(narrow) & (narrow >= torch.finfo(torch.float32).tiny)
    span = torch.where(held, narrow.double(), span)
    kind = getattr(torch, fmt.scale.torch)
    scales = span.to(kind).double()
    # A scale that was rounded down would clip: take the next one above.
    scales = torch.where(scales < span, (span * (1.0 + fmt.scale.unit_roundoff)).to(kind).double(), scales)
    smallest = torch.finfo(kind).smallest_normal
    if bool(((span > 0) & (scales < smallest)).any()):
        least = float(span[span > 0].min())
        raise FormatError(f"a scale of {least:.4g} underflows {fmt.scale}", _wider(fmt, span))
    if not bool(torch.isfinite(scales).all()):
        raise FormatError(f"a scale of {float(span.max()):.4g} overflows {fmt.scale}", _wider(fmt, span))
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    zeros = None
    offset: torch.Tensor | int = code.bias
    if fmt.zero:
        zeros = torch.round(-low / scales).clamp(0, (1 << code.bits) - 1).float()
        offset = zeros.unsqueeze(-1)
    codes = (torch.round(groups / scales.float().unsqueeze(-1)) + offset).clamp(0, (1 << code.bits) - 1)
    centre = code.bias if zeros is None else zeros
    furthest = torch.maximum(codes.amax(-1) - centre, centre - codes.amin(-1)) * scales
    if bool(torch.isinf(furthest.to(w.dtype)).any()):
        raise FormatError(
            f"a weight near {float(values.abs().max()):.6g} would decode to {float(furthest.max()):.6g}, "
            f"which is infinite in {w.dtype}",
            "scale the weight, or cast it to float32 first",
        )
    return Quantized(
        codes.to(torch.uint8).reshape(n, k).numpy(),
        scales.numpy(),
        None if zeros is None else zeros.to(torch.uint8).numpy(),
    )


def _wider(fmt: Format, span: torch.Tensor) -> str:
    """Return what to do about scales that leave their dtype: float32 ones, where those hold them all."""
    range_of = torch.finfo(torch.float32)
    if fmt.scale != f32 and float(span[span > 0].min()) >= range_of.tiny and float(span.max()) <= range_of.max:
        return f"use f32 scales ({replace(fmt, scale=f32)}), or scale the weight"
    return "scale the weight"


def refuse_non_finite(w: torch.Tensor) -> None:
    """Raise FormatError, naming the first of them, if a weight is NaN or infinite."""
    finite = torch.isfinite(w.detach())
    if not bool(finite.all()):
        row, column = (int(i) for i in (~finite).nonzero()[0])
        raise FormatError(
            f"weight[{row}, {column}] is {float(w[row, column])}: NaN and infinite weights cannot be quantised",
            "find out where it comes from, or replace it first (torch.nan_to_num)",
        )
