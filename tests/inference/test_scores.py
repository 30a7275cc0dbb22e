from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mtaclip_plugin import MTACLIP
from mtaclip_plugin.inference import (
    bands,
    class_probabilities,
    scores,
    scores_to_logits,
    semantic_labels,
    semantic_logits,
    semantic_scores,
)
from mtaclip_plugin.structures import MaskPrediction
from trainers.engine.forward import Forward


def prediction(classes: int = 3, text: bool = True) -> MaskPrediction:
    return MaskPrediction(
        class_logits=torch.randn(2, 5, classes + 1),
        mask_embed=torch.randn(2, 5, 8),
        mask_features=torch.randn(2, 8, 4, 6),
        text_logits=torch.randn(2, 5, 2, classes + 1) if text else None,
        image_size=(13, 20),
        padded_size=(16, 24),
    )


def test_scores_equal_the_formula_pixel_by_pixel() -> None:
    output = prediction()
    scores = semantic_scores(output)
    masks = F.interpolate(output.mask_logits, size=(16, 24), mode="bilinear", align_corners=False)
    assert scores.shape == (2, 3, 13, 20)
    for image, k, row, column in [(0, 0, 0, 0), (1, 2, 12, 19), (0, 1, 7, 3)]:
        expected = sum(
            output.class_logits[image, q].softmax(-1)[k] * masks[image, q, row, column].sigmoid() for q in range(5)
        )
        torch.testing.assert_close(scores[image, k, row, column], expected)


def test_classifications() -> None:
    output = prediction()
    learned, text, ensemble = (class_probabilities(output, c) for c in ("learned", "text", "ensemble"))
    torch.testing.assert_close(learned, output.class_logits.softmax(-1))
    torch.testing.assert_close(text, output.text_logits.max(2).values.softmax(-1))
    product = (learned * text).sqrt()
    torch.testing.assert_close(ensemble, product / product.sum(-1, keepdim=True))
    with pytest.raises(ValueError, match="classification='text' needs text"):
        class_probabilities(prediction(text=False), "text")


def test_logits_are_read_right_by_a_softmax() -> None:
    scores = torch.rand(2, 3, 4, 4)
    scores[0, :, 0, 0] = torch.tensor([0.0, 0.0, 0.5])
    logits = scores_to_logits(scores)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.softmax(1), scores / scores.sum(1, keepdim=True))


def test_a_single_class_is_read_right_by_a_sigmoid() -> None:
    scores = torch.tensor([0.0, 0.25, 0.5, 1.7], requires_grad=True)
    logits = scores_to_logits(scores.view(1, 1, 2, 2)).flatten()
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.sigmoid(), scores / (scores + 0.5))
    (gradient,) = torch.autograd.grad(logits.sum(), scores)
    assert gradient[1:].all()


def test_autocast_does_not_round_scores() -> None:
    output = prediction()
    with torch.autocast("cpu", torch.bfloat16):
        scores = semantic_scores(output)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, semantic_scores(output), atol=0.02, rtol=0.02)


def large_prediction(classes: int = 7, image_size: tuple[int, int] = (61, 50)) -> MaskPrediction:
    return MaskPrediction(
        class_logits=torch.randn(2, 9, classes + 1),
        mask_embed=torch.randn(2, 9, 8),
        mask_features=torch.randn(2, 8, 16, 16),
        text_logits=None,
        image_size=image_size,
        padded_size=(64, 64),
    )


@pytest.mark.parametrize("band_bytes", [1, 20_000, 60_000, 10**9])
@pytest.mark.parametrize("image_size", [(61, 50), (64, 64), (1, 3), (33, 64)])
def test_bands_of_rows_give_the_scores_and_the_labels_of_the_whole(
    band_bytes: int, image_size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "BAND_BYTES", band_bytes)
    output = large_prediction(image_size=image_size)
    with monkeypatch.context() as patched:
        patched.setattr(scores, "in_one_piece", lambda *_: True)
        whole, labels = semantic_scores(output), semantic_labels(output)
    torch.testing.assert_close(semantic_scores(output), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(semantic_logits(output), scores_to_logits(whole), atol=1e-5, rtol=1e-5)
    assert torch.equal(semantic_labels(output), labels) and torch.equal(labels, whole.argmax(1))


def test_labels_of_a_single_class_are_those_of_its_logit() -> None:
    output = large_prediction(classes=1)
    output.class_logits[..., -1] += 2
    labels = semantic_labels(output)
    assert labels.shape == (2, 61, 50) and labels.dtype == torch.int64 and labels.unique().tolist() == [0, 1]
    assert torch.equal(labels, (scores_to_logits(semantic_scores(output))[:, 0] > 0).long())


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_masks_of_a_band_are_those_of_the_whole_to_the_bit(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_BYTES", rows * 4 * 2 * (9 + 7) * 4 * 64)
    output = large_prediction()
    masks = bands.full_maps(output.mask_logits, output)
    parts = list(bands.map_bands(output.mask_logits, output, num_classes=7))
    assert len(parts) == -(-16 // rows) and max(part.shape[2] for _, part in parts) == min(4 * rows, 61)
    assert torch.equal(torch.cat([part for _, part in parts], 2), masks)


def test_gradients_reach_the_scores() -> None:
    output = large_prediction()
    output.mask_embed.requires_grad_()
    semantic_scores(output).sum().backward()
    assert output.mask_embed.grad is not None and output.mask_embed.grad.all()


class Largest(TorchDispatchMode):
    """The most numbers of any tensor that an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        made = [leaf.numel() for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        self.numbers = max([self.numbers, *made])
        return output


def test_neither_all_masks_nor_all_scores_are_ever_made_for_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_BYTES", 20_000)
    output, pixels = large_prediction(), 2 * 61 * 50
    with Largest() as largest:
        semantic_labels(output)
    assert largest.numbers < 3 * pixels  # of 7 classes and 9 queries
    with Largest() as largest, torch.no_grad():
        semantic_logits(output)
    assert largest.numbers == 7 * pixels


@pytest.mark.parametrize("classes", [1, 4])
def test_trainers_predict_the_class_of_the_highest_logit(classes: int) -> None:
    options = {"pixel_decoder": "fpn", "decoder_layers": 1, "decoder_channels": 64, "text_encoder": None}
    model = MTACLIP("resnet18", encoder_weights=None, classes=classes, **options)
    mean = std = (0.5, 0.5, 0.5)
    forward = Forward(model, mean=mean, std=std, device=torch.device("cpu"), precision="float32")
    images = torch.rand(2, 3, 50, 70)
    labels = forward.predict_labels(images)
    assert labels.shape == (2, 50, 70) and labels.dtype == torch.int64
    assert torch.equal(labels, model.predict((images - 0.5) / 0.5).argmax(1))
