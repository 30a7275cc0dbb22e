"""Bands of rows against the whole image at once, for predictions of any shape."""

from __future__ import annotations

from unittest.mock import patch

import torch
from hypothesis import given
from hypothesis import strategies as st

from mtaclip_plugin import MaskPrediction
from mtaclip_plugin.inference import bands, scores_to_logits, semantic_labels, semantic_logits, semantic_scores
from tests.fuzz.models import seeds
from tests.fuzz.outcomes import outcome


@st.composite
def predictions(draw: st.DrawFn) -> MaskPrediction:
    batch, queries, classes, channels = (draw(st.integers(1, 4)) for _ in range(4))
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    prompts = draw(st.integers(0, 2))
    dtype = draw(st.sampled_from((torch.float32, torch.float64, torch.bfloat16, torch.float16)))
    scale = draw(st.sampled_from((0.0, 1e-3, 1.0, 50.0)))
    generator = torch.Generator().manual_seed(draw(seeds))

    def values(*shape: int) -> torch.Tensor:
        return (scale * torch.randn(*shape, generator=generator)).to(dtype)

    return MaskPrediction(
        class_logits=values(batch, queries, classes + 1),
        mask_embed=values(batch, queries, channels),
        mask_features=values(batch, channels, rows, columns),
        text_logits=values(batch, queries, prompts, classes + 1) if prompts else None,
        image_size=(draw(st.integers(1, 4 * rows)), draw(st.integers(1, 4 * columns))),
        padded_size=(4 * rows, 4 * columns),
    )


@given(predictions(), st.sampled_from(("learned", "text", "ensemble")), st.integers(1, 5000))
def test_bands_give_what_the_whole_image_gives(prediction, classification, band_bytes) -> None:
    valid = classification == "learned" or prediction.text_logits is not None
    arguments = (prediction, classification)
    with outcome(ValueError, valid=valid):
        with patch("mtaclip_plugin.inference.scores.in_one_piece", lambda *_: True):
            whole = semantic_scores(*arguments)
        with patch.object(bands, "BAND_BYTES", band_bytes):
            scores, logits, labels = (f(*arguments) for f in (semantic_scores, semantic_logits, semantic_labels))
        batch, _, columns = prediction.class_logits.shape
        assert whole.shape == (batch, columns - 1, *prediction.image_size) and whole.isfinite().all()
        torch.testing.assert_close(scores, whole, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits, scores_to_logits(scores), atol=1e-5, rtol=1e-4)
        assert labels.shape == (batch, *prediction.image_size) and labels.dtype == torch.int64
        if columns > 2:
            # Two classes may have scores that are equal but for rounding: then either is right.
            torch.testing.assert_close(scores.gather(1, labels[:, None])[:, 0], scores.amax(1), atol=1e-5, rtol=1e-4)
        else:
            near = (scores[:, 0] - 0.5).abs() < 1e-5
            assert ((labels == (scores[:, 0] > 0.5)) | near).all()
