"""Training and prediction are one graph each to a compiler, whatever the text comes from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.test_model import build

BANK = torch.randn(2, 4, 24, generator=torch.Generator().manual_seed(0))
TEXTS: dict[str, dict[str, Any]] = {
    "none": {"text_encoder": None},
    "bank": {"text_encoder": "bank", "text_embeddings": BANK},
    "centred bank": {"text_encoder": "bank", "text_embeddings": BANK, "center_text": True},
    **{name: {"text_encoder": name} for name in ("tiny-wide", "tiny-bidirectional", "coca_tiny")},
}


@pytest.mark.parametrize("text", TEXTS)
def test_training_and_prediction_are_one_graph_each(text: str) -> None:
    model = build(
        decoder_layers=1, **TEXTS[text]
    ).double()  # in float32 a rounded cell of a mask lets a token see other cells
    images = torch.randn(2, 3, 50, 64, dtype=torch.float64)
    torch.compiler.reset()
    expected = model(images, return_masks=True)
    found = torch.compile(model, fullgraph=True, backend="eager")(images, return_masks=True)
    assert len(found.layers) == len(expected.layers)
    for one, other in zip(found.layers, expected.layers, strict=True):
        torch.testing.assert_close(one.mask_logits, other.mask_logits)
        torch.testing.assert_close(one.class_logits, other.class_logits)
        torch.testing.assert_close(one.text_logits, other.text_logits)
    compiled = torch.compile(model.predict_labels, fullgraph=True, backend="eager")
    assert torch.equal(compiled(images), model.predict_labels(images))


@pytest.mark.parametrize("text", ["tiny-wide", "tiny-bidirectional"])
def test_a_compiled_model_takes_other_names(text: str) -> None:
    model = build(pixel_decoder="fpn", decoder_layers=1, classification="text", **TEXTS[text]).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    images = torch.randn(1, 3, 32, 64)
    torch.compiler.reset()
    with torch.no_grad():
        for names in (None, ["box", "light"], ["box", "sky"], ["a", "b", "c", "d"]):
            if names is not None:
                model.set_class_names(names)
            torch.testing.assert_close(compiled(images), model(images), atol=1e-5, rtol=1e-5)
