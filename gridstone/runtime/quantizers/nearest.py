"""Rounding to nearest: each group's range is mapped onto the code's, each weight to the nearest code."""

from __future__ import annotations

import torch

from gridstone.ir.errors import FormatError
from gridstone.ir.format import Format, Quantized


def quantize_nearest(w: torch.Tensor, fmt: Format) -> Quantized:
    """Quantise a matrix by rounding to nearest.

    Args:
        w: (N, K), any floating dtype, finite.
        fmt: With zero points, a group's [min(w, 0), max(w, 0)] spans all codes, so that zero stays exact; without,
            the scale is the smallest that clips nothing.

    Raises:
        FormatError: A weight is NaN or infinite, a scale overflows the format's scale dtype, or a format without
            sign and zero points is asked to hold negative weights.
    """
    n, k = w.shape
    fmt.check(n, k)
    values = w.detach().to(device="cpu", dtype=torch.float32)
    _refuse_non_finite(values)
    groups = values.reshape(n, fmt.groups(k), -1)
    low, high = groups.amin(-1).clamp(max=0.0), groups.amax(-1).clamp(min=0.0)
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
    kind = getattr(torch, fmt.scale.torch)
    scales = span.to(kind).to(torch.float32)
    # A scale that was rounded down would clip: take the next one above.
    scales = torch.where(scales < span, (span * (1.0 + fmt.scale.unit_roundoff)).to(kind).to(torch.float32), scales)
    smallest = torch.finfo(kind).smallest_normal
    if bool(((span > 0) & (scales < smallest)).any()):
        least = float(span[span > 0].min())
        raise FormatError(
            f"a scale of {least:.4g} underflows {fmt.scale}", "use f32 scales (:f32), or scale the weight"
        )
    if not bool(torch.isfinite(scales).all()):
        raise FormatError(f"a scale of {float(span.max()):.4g} overflows {fmt.scale}", "use f32 scales (:f32)")
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    zeros = None
    offset: torch.Tensor | int = code.bias
    if fmt.zero:
        zeros = torch.round(-low / scales).clamp(0, (1 << code.bits) - 1)
        offset = zeros.unsqueeze(-1)
    codes = (torch.round(groups / scales.unsqueeze(-1)) + offset).clamp(0, (1 << code.bits) - 1)
    return Quantized(
        codes.to(torch.uint8).reshape(n, k).numpy(),
        scales.to(torch.float64).numpy(),
        None if zeros is None else zeros.to(torch.uint8).numpy(),
    )


def _refuse_non_finite(values: torch.Tensor) -> None:
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        row, column = (int(i) for i in (~finite).nonzero()[0])
        raise FormatError(
            f"weight[{row}, {column}] is {float(values[row, column])}: NaN and infinite weights cannot be quantised",
            "find out where it comes from, or replace it first (torch.nan_to_num)",
        )
