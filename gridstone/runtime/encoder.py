"""torch's fused self-attention and encoder layer, taken apart so that their linear layers may be quantised.

In evaluation without gradients `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` each call one ATen operator
with all their weights. What follows computes the same out of `F.linear`, attention and norms: the formulas of
`torch.nn.functional.multi_head_attention_forward` and of `nn.TransformerEncoderLayer.forward`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

Maybe = torch.Tensor | None
KEY_PADDING = 1  # mask_type of a (batch, keys) mask; 0 is (queries, keys), 2 is (batch, heads, queries, keys)


def encoder_layer(
    func: Any,
    src: torch.Tensor,
    embed_dim: int,
    heads: int,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    out_weight: torch.Tensor,
    out_bias: torch.Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: torch.Tensor,
    norm_bias_1: torch.Tensor,
    norm_weight_2: torch.Tensor,
    norm_bias_2: torch.Tensor,
    up_weight: torch.Tensor,
    up_bias: torch.Tensor,
    down_weight: torch.Tensor,
    down_bias: torch.Tensor,
    mask: Maybe = None,
    mask_type: int | None = None,
) -> torch.Tensor:
    """Compute `aten::_transformer_encoder_layer_fwd`; src is (batch, length, embed_dim), or nested."""
    x, mask, mask_type, valid = _padded(src, mask, mask_type)

    def attend(x: torch.Tensor) -> torch.Tensor:
        q, k, v = _heads(F.linear(x, qkv_weight, qkv_bias), heads)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=_additive(mask, mask_type, q))
        return F.linear(_joined(y), out_weight, out_bias)

    def feed(x: torch.Tensor) -> torch.Tensor:
        hidden = F.linear(x, up_weight, up_bias)
        return F.linear(F.gelu(hidden) if use_gelu else F.relu(hidden), down_weight, down_bias)

    def norm_1(x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (embed_dim,), norm_weight_1, norm_bias_1, eps)

    def norm_2(x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (embed_dim,), norm_weight_2, norm_bias_2, eps)

    # Added in place, as torch does: the sum lies in memory as the product does, not as x.
    if norm_first:
        x = attend(norm_1(x)).add_(x)
        x = feed(norm_2(x)).add_(x)
    else:
        x = norm_1(attend(x).add_(x))
        x = norm_2(feed(x).add_(x))
    return _unpadded(x, valid)


def self_attention(
    func: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    embed_dim: int,
    heads: int,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    out_weight: torch.Tensor,
    out_bias: torch.Tensor,
    mask: Maybe = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[torch.Tensor, Maybe]:
    """Compute `aten::_native_multi_head_attention`, which torch calls with one tensor as query, key and value."""
    x, mask, mask_type, valid = _padded(query, mask, mask_type)
    q, k, v = _heads(F.linear(x, qkv_weight, qkv_bias), heads)
    additive = _additive(mask, mask_type, q)
    weights: Maybe = None
    if need_weights:
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
        weights = torch.softmax(scores if additive is None else scores + additive, dim=-1)
        y = weights @ v
        weights = weights.mean(dim=1) if average_attn_weights else weights
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=additive)
    y = F.linear(_joined(y), out_weight, out_bias)
    return _unpadded(y, valid), weights


def _padded(x: torch.Tensor, mask: Maybe, mask_type: int | None) -> tuple[torch.Tensor, Maybe, int | None, Maybe]:
    """Return a nested x padded, with the mask of its padding and the places that hold values; a plain x as it is."""
    if not x.is_nested:
        return x, mask, mask_type, None
    assert mask is None, "torch gives a nested tensor no mask"
    lengths = torch.tensor([part.shape[0] for part in x.unbind()], device=x.device)
    x = torch.nested.to_padded_tensor(x, 0.0)
    valid = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
    return x, ~valid, KEY_PADDING, valid


def _unpadded(x: torch.Tensor, valid: Maybe) -> torch.Tensor:
    if valid is None:
        return x
    return torch._nested_tensor_from_mask(x, valid, mask_check=False)  # pyright: ignore[reportPrivateImportUsage]


def _heads(qkv: torch.Tensor, heads: int) -> tuple[torch.Tensor, ...]:
    """Return q, k and v as (batch, heads, length, width) of a (batch, length, 3 * embed_dim)."""
    batch, length, width = qkv.shape
    return tuple(qkv.view(batch, length, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0))


def _joined(y: torch.Tensor) -> torch.Tensor:
    return y.transpose(1, 2).flatten(2)


def _additive(mask: Maybe, mask_type: int | None, q: torch.Tensor) -> Maybe:
    """Return what is added to the scores: a boolean mask's True hides a key, a float one is added as it is."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(mask, float("-inf"))
    return mask[:, None, None, :] if mask_type == KEY_PADDING else mask
