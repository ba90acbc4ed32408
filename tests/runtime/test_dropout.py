"""Dropout behind a layer: nothing outside training, and in training what the program asked for."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import gridstone

W = gridstone.quantize(torch.randn(48, 64, generator=torch.Generator().manual_seed(0)), "int4", group_size=32)
X = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))


def test_dropout_in_training_is_kept():
    """Breaks when a call that drops elements is skipped as one that drops none, and relu is fused across it."""
    torch._dynamo.reset()
    layer = gridstone.compile(lambda x: F.relu(F.dropout(F.linear(x, W), 0.5, training=True)), rest="eager")
    torch.manual_seed(3)
    y, whole = layer(X), F.relu(2 * F.linear(X, W.dequantize()))
    positive = whole > 0
    assert 0.2 < float((y[positive] == 0).float().mean()) < 0.8
    torch.testing.assert_close(y[y != 0], whole[y != 0])
    torch._dynamo.reset()
