"""The smallest models, built once a kind."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st

from mtaclip_plugin import MTACLIP

SMALLEST: dict[str, Any] = {
    "encoder_name": "tu-test_resnet",
    "encoder_weights": None,
    "num_queries": 3,
    "num_prompts": 2,
    "context_length": 2,
    "decoder_channels": 64,
    "pixel_decoder_layers": 1,
    "pixel_decoder_ffn": 16,
    "decoder_layers": 1,
    "decoder_ffn": 16,
    "num_heads": 2,
    "text_pretrained": None,
}
TEXT_SIZE = 6
KINDS = ("none", "bank", "tower")
"""What gives the text."""

kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**31 - 1)


def build(kind: str = "none", classes: int = 3, **options: Any) -> MTACLIP:
    """A model with the classes "0", "1", ..."""
    text: dict[str, Any] = {"text_encoder": None}
    if kind == "bank":
        text = {"text_encoder": "bank", "text_embeddings": torch.ones(max(classes, 0), TEXT_SIZE)}
    elif kind == "tower":
        text = {"text_encoder": "tiny-flat"}
    names = [str(number) for number in range(classes)]
    return MTACLIP(**(SMALLEST | {"classes": classes, "class_names": names} | text | options))


@cache
def shared(kind: str, classes: int, channels: int, pixel_decoder: str, dtype: torch.dtype) -> MTACLIP:
    """One that all cases of its kind use: nothing of it may be changed."""
    torch.manual_seed(0)
    return build(kind, classes, in_channels=channels, pixel_decoder=pixel_decoder).to(dtype)
