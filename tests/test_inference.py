from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mtaclip_plugin.inference import class_probabilities, scores_to_logits, semantic_scores
from mtaclip_plugin.structures import MaskPrediction


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
