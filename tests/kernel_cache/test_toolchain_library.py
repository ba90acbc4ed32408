"""The library call and the decoder that it shares with dequantize: right for every spec, in panels too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gridstone.ir.errors import BuildError
from gridstone.ir.format import CODES, Format, dequantize
from gridstone.ir.ops.attention import Attention
from gridstone.ir.ops.gemm import Gemm
from gridstone.ir.storage import pack, storage
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache import library_gemm
from gridstone.kernel_cache.decode import decode_storage
from gridstone.kernel_cache.library_gemm import panel_rows
from gridstone.kernel_cache.toolchain_library import LibraryToolchain, library_call
from gridstone.lower.target import parse_target
from gridstone.proof.judge import check
from gridstone.proof.operands import draw_operands, draw_quantized
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named

TORCH = parse_target("library:torch")


@pytest.mark.parametrize("text", list(Gemm().samples()))
def test_it_is_right_for_every_sample(text):
    """It is what every kernel falls back to, and what every tuning has to beat."""
    spec = parse_spec(text).with_storage("lane16")
    for m in (0, 1, 5, 33):
        check(library_call(spec.bind(M=m)), spec.bind(M=m), (m,))


@pytest.mark.parametrize(
    "text", ["gemm[x: bf16(M,96), w: uint4:g32:zero(300,96)] + bias", "gemm[x: f32(M,77), w: int3:channel(200,77)]"]
)
def test_panels_give_what_the_whole_gives(monkeypatch, text):
    """Breaks when a panel's rows, bytes or columns are cut wrongly."""
    spec = parse_spec(text).with_storage("lane16").bind(M=7)
    operands = draw_operands(spec, 3)
    whole = library_call(spec)(*operands.tensors)
    monkeypatch.setattr(library_gemm, "PANEL_BYTES", 96 * 12 * 64)
    w = spec.input("w")
    assert panel_rows(storage("lane16", w.format, w.static(0), w.static(1)), 4) < w.static(0)
    check(library_call(spec), spec, (3, 4))
    assert torch.allclose(library_call(spec)(*operands.tensors).float(), whole.float(), rtol=0.02, atol=0.02)


def test_a_storage_without_blocks_is_not_cut(monkeypatch):
    monkeypatch.setattr(library_gemm, "PANEL_BYTES", 1)
    spec = parse_spec("gemm[x: f32(3,96), w: int4:g32@dense(300,96)]")
    with pytest.raises(BuildError, match=r"storage 'dense' cannot be decoded in panels .re-pack the weight as lane16"):
        library_call(spec)(*draw_operands(spec, 1).tensors)


def test_an_op_without_a_library_call_is_refused_by_name():
    spec = parse_spec(next(iter(Attention().samples())))
    with pytest.raises(BuildError, match=r"no library call for attention .add it to LIBRARY_CALLS"):
        library_call(spec)


@pytest.mark.parametrize("shift", [1, 2, 4])
def test_a_packed_buffer_may_begin_anywhere(shift):
    """A slice of a file in memory begins where it begins."""
    spec = parse_spec("gemm[x: f32(3,96), w: int4:g32@lane16(48,96)]")
    x, w = draw_operands(spec, 1).tensors
    inside = torch.zeros(w.numel() + shift, dtype=torch.uint8)[shift:]
    inside.copy_(w)
    assert torch.equal(library_call(spec)(x, inside), library_call(spec)(x, w))


def test_a_panel_is_whole_blocks_within_its_limit():
    for k in (64, 4096, 100_000, 10_000_000):
        place = storage("lane16", Format(CODES["int4"], -1), 640, k)
        rows = panel_rows(place, 4)
        assert rows % 64 == 0
        assert rows == 64 or rows * place.columns * 12 <= library_gemm.PANEL_BYTES


def test_nothing_is_built():
    recipe = recipe_named("gemm.library.torch")
    spec = parse_spec("gemm[x: f32(M,64), w: int8:g32(48,64)]")
    source = emit(recipe, spec, recipe.space.default(spec, TORCH), TORCH)
    assert source.text == ""
    assert LibraryToolchain().missing() is None
    with pytest.raises(BuildError, match=r"gemm\.library\.torch is a library call"):
        LibraryToolchain().build(source, TORCH)


@pytest.mark.parametrize("place", ["lane16", "dense"])
@pytest.mark.parametrize("code", list(CODES))
def test_decoding_is_the_format_s_definition(place, code):
    """Every width, group, scale dtype and zero point, bit for bit in float64 and rounded once below it."""
    rng = np.random.default_rng(len(code) + ord(code[-1]))
    for group, n, k in ((16, 33, 48), (32, 65, 96), (-1, 70, 77), (128, 3, 256)):
        for scale in ("f16", "bf16", "f32"):
            for zero in (False, True):
                fmt = Format(
                    CODES[code], group, parse_spec(f"gemm[x: {scale}(1,1), w: {scale}(1,1)]").inputs[0].type.dtype, zero
                )
                at = storage(place, fmt, n, k)
                parts = draw_quantized(rng, fmt, n, k)
                buffer, want = torch.from_numpy(pack(at, parts)), dequantize(fmt, parts)
                assert np.array_equal(decode_storage(at, buffer, torch.float64).numpy(), want)
                single = decode_storage(at, buffer, torch.float32)
                assert np.array_equal(single.numpy(), want.astype(np.float32))
                assert torch.equal(decode_storage(at, buffer, torch.bfloat16), single.to(torch.bfloat16))
