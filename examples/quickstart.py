"""Quantise two layers, compile them, and look at what runs."""

import torch

import gridstone

model = torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 1024)).eval()
x = torch.randn(4, 1024)
with torch.inference_mode():
    gridstone.quantize_model(model, "int4", group_size=64)  # an eighth of the bytes, plus scales
    print(gridstone.tune(model, x, budget="10s"))  # once per machine: the winners are recorded
    fast = gridstone.compile(model)
    print(fast(x).shape, gridstone.explain(model, x))
