"""torch's fused attention and encoder layers with quantised linear layers give what the unfused ones give."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import gridstone
from gridstone.runtime.tensors import QuantTensor

E, HEADS, LENGTH = 32, 4, 7
X = torch.randn(3, LENGTH, E, generator=torch.Generator().manual_seed(1))
PADDING = torch.arange(LENGTH) >= torch.tensor([[5], [7], [3]])
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
BIASED = torch.randn(LENGTH, LENGTH, generator=torch.Generator().manual_seed(2))


def quantized(module):
    return gridstone.quantize_model(module.eval(), "int8", group_size=32)


def decoded(module):
    module = copy.deepcopy(module)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            assert isinstance(layer.weight, QuantTensor)
            layer.weight = nn.Parameter(layer.weight.dequantize())
    return module


@contextmanager
def unfused():
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of nested tensors and of mixed kinds of masks
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(("norm_first", "activation"), [(False, "relu"), (True, "gelu")])
@pytest.mark.parametrize(
    "masks",
    [{}, {"src_key_padding_mask": PADDING}, {"mask": CAUSAL}, {"mask": BIASED},
     {"mask": CAUSAL, "src_key_padding_mask": PADDING}],
    ids=lambda masks: " ".join(masks) or "no mask",
)  # fmt: skip
def test_encoder(masks, norm_first, activation, mode):
    """A padding mask alone makes the encoder hand its layers nested tensors."""
    layer = nn.TransformerEncoderLayer(E, HEADS, 64, batch_first=True, norm_first=norm_first, activation=activation)
    model = quantized(nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first))
    reference = decoded(model)
    with mode():
        got = model(X, **masks)
        with unfused():
            want = reference(X, **masks)
    kept = ~PADDING if "src_key_padding_mask" in masks else torch.ones_like(PADDING)
    assert got.shape == want.shape
    torch.testing.assert_close(got[kept], want[kept], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "options",
    [{}, {"need_weights": False}, {"average_attn_weights": False}, {"key_padding_mask": PADDING}, {"attn_mask": CAUSAL}],  # noqa: E501
    ids=str,
)  # fmt: skip
def test_attention(options, mode):
    model = quantized(nn.MultiheadAttention(E, HEADS, batch_first=True))
    reference = decoded(model)
    with mode():
        got = model(X, X, X, **options)
        with unfused():
            want = reference(X, X, X, **options)
    for mine, right in zip(got, want, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=2e-5)


def test_a_quantised_input_projection():
    model = nn.MultiheadAttention(E, HEADS, batch_first=True).eval()
    packed = gridstone.quantize(model.in_proj_weight.data, "int8", group_size=32)
    reference = copy.deepcopy(model)
    reference.in_proj_weight = nn.Parameter(packed.dequantize())
    model.in_proj_weight = nn.Parameter(packed, requires_grad=False)
    with torch.no_grad():
        torch.testing.assert_close(model(X, X, X)[0], reference(X, X, X)[0], rtol=1e-5, atol=2e-5)
