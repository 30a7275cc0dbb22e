"""What scores are summed of, and what names masks where some names were never trained."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mtaclip_plugin.inference import (
    ScoreJoin,
    Scoring,
    bands,
    class_probabilities,
    scores,
    scores_to_logits,
    semantic_labels,
    semantic_logits,
    semantic_scores,
)
from mtaclip_plugin.structures import MaskPrediction


def prediction(classes: int = 3) -> MaskPrediction:
    return MaskPrediction(
        class_logits=torch.randn(2, 5, classes + 1),
        mask_embed=torch.randn(2, 5, 8),
        mask_features=torch.randn(2, 8, 8, 8),
        text_logits=torch.randn(2, 5, 2, classes + 1),
        image_size=(29, 30),
        padded_size=(32, 32),
        text_mask_embed=torch.randn(2, classes, 8),
        pixel_logits=torch.randn(2, classes, 8, 8),
    )


SCORINGS = [
    Scoring(text_masks=0.5),
    Scoring(pixel_scores=2.0),
    Scoring(query_scores=0.5, text_masks=1.0, pixel_scores=1.0, classification="text"),
    Scoring(query_scores=0.0, text_masks=1.0),
    Scoring(query_scores=0.0, text_masks=1.0, pixel_scores=0.5, calibration=1.0, untrained=(1,)),
    Scoring(classification="per_name", trained_text=0.3, untrained_text=0.8, untrained=(0, 2), calibration=0.5),
    Scoring(score_join="product", query_scores=0.5, pixel_scores=1.0, classification="text"),
    Scoring(score_join="product", text_masks=0.25, pixel_scores=2.0, calibration=1.0, untrained=(1,)),
    Scoring(score_join="product", query_scores=0.0, text_masks=0.3, pixel_scores=1.0),
    Scoring(score_join="product", query_scores=0.0, pixel_scores=0.5),
    Scoring(classification="pixels"),
    Scoring(score_join="product", pixel_scores=1.0, classification="pixels", calibration=1.0, untrained=(1,)),
]


@pytest.mark.parametrize("scoring", SCORINGS)
def test_scores_equal_the_formula_pixel_by_pixel(scoring: Scoring) -> None:
    output = prediction()
    found = semantic_scores(output, scoring)

    def full(maps: torch.Tensor) -> torch.Tensor:
        return F.interpolate(maps, size=(32, 32), mode="bilinear", align_corners=False)[..., :29, :30]

    named = class_probabilities(output, scoring)
    masks, text_masks = full(output.mask_logits).sigmoid(), full(output.text_mask_logits).sigmoid()
    pixels = full(output.pixel_logits).softmax(1)
    for image, k, row, column in [(0, 0, 0, 0), (1, 2, 28, 29), (0, 1, 7, 3)]:
        queries = sum(named[image, q, k] * masks[image, q, row, column] for q in range(5))
        if scoring.text_masks or scoring.pixel_scores:
            queries = min(queries, torch.tensor(1.0))
        sources = [
            (scoring.query_scores, queries),
            (scoring.text_masks, text_masks[image, k, row, column]),
            (scoring.pixel_scores, pixels[image, k, row, column]),
        ]
        if scoring.score_join == "product" and sum(weight > 0 for weight, _ in sources) > 1:
            expected = math.prod(float(source) ** weight for weight, source in sources)
            expected = torch.tensor(expected)
        else:
            expected = sum(weight * source for weight, source in sources)
        if scoring.untrained and k not in scoring.untrained:
            expected = expected * math.exp(-scoring.calibration)
        torch.testing.assert_close(found[image, k, row, column], expected)


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("band_bytes", [1, 20_000, 10**9])
def test_bands_give_the_whole(scoring: Scoring, band_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_BYTES", band_bytes)
    output = prediction()
    with monkeypatch.context() as patched:
        patched.setattr(scores, "in_one_piece", lambda *_: True)
        whole, labels = semantic_scores(output, scoring), semantic_labels(output, scoring)
    torch.testing.assert_close(semantic_scores(output, scoring), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(semantic_logits(output, scoring), scores_to_logits(whole), atol=1e-5, rtol=1e-5)
    assert torch.equal(semantic_labels(output, scoring), labels) and torch.equal(labels, whole.argmax(1))


def test_in_a_product_a_source_that_has_not_seen_a_class_leaves_it_to_the_others() -> None:
    # The queries say class 0 everywhere, and are as good as sure; the pixels say class 1, and know of no other.
    output = replace(
        prediction(classes=2),
        class_logits=torch.tensor([30.0, -30.0, -30.0]).expand(2, 5, 3),
        mask_embed=torch.zeros(2, 5, 8),
        pixel_logits=torch.tensor([-30.0, 30.0]).view(1, 2, 1, 1).expand(2, 2, 8, 8),
    )
    for power, expected in ((0.5, [1e-3, 1e-3**0.5]), (2.0, [1e-3, 1e-3**2.0])):
        found = semantic_scores(output, Scoring(score_join="product", query_scores=power, pixel_scores=1.0))
        torch.testing.assert_close(found[1, :, 3, 4], torch.tensor(expected))


def test_the_paper_s_way_adds_nothing_to_the_bit() -> None:
    output = prediction()
    bare = replace(output, text_mask_embed=None, pixel_logits=None)
    assert torch.equal(semantic_scores(output), semantic_scores(bare, Scoring()))
    assert torch.equal(semantic_labels(output), semantic_labels(bare, "learned"))


def test_a_calibration_is_taken_off_the_logits_of_trained_names() -> None:
    output, plain = prediction(), Scoring(classification="text", untrained=(2,))
    difference = semantic_logits(output, plain) - semantic_logits(output, replace(plain, calibration=0.7))
    torch.testing.assert_close(difference[:, :2], torch.full_like(difference[:, :2], 0.7), atol=1e-5, rtol=0)
    assert not difference[:, 2].any()
    everything_trained = replace(plain, untrained=(), calibration=0.7)
    assert torch.equal(semantic_logits(output, everything_trained), semantic_logits(output, plain))


def test_names_by_hand() -> None:
    # One mask and one prompt. Learned says 0.8 of class 0 and 0.2 of none; text says 0.5, 0.25, 0.25.
    output = replace(
        prediction(classes=2),
        class_logits=torch.tensor([0.8, 1e6, 0.2]).log().view(1, 1, 3),
        text_logits=torch.tensor([0.5, 0.25, 0.25]).log().view(1, 1, 1, 3),
    )
    switch = class_probabilities(output, Scoring(classification="per_name", untrained=(1,)))
    torch.testing.assert_close(switch.flatten(), torch.tensor([0.8, 0.25, 0.2]) / 1.25)
    shares = Scoring(classification="per_name", trained_text=0.5, untrained_text=0.5, untrained=(1,))
    expected = torch.tensor([(0.8 * 0.5) ** 0.5, 0.25**0.5, (0.2 * 0.25) ** 0.5])
    torch.testing.assert_close(class_probabilities(output, shares).flatten(), expected / expected.sum())


def test_pixels_name_masks_by_hand() -> None:
    # Two pixels, and two masks of 0.75 and 0.25, and of 0 and 1, of them. The first pixel says 0.9 of class 0, the
    # second 0.2. Text says of the first mask that it is none with 0.5, of the second that it is something.
    pixels = torch.tensor([[[0.9, 0.2]], [[0.1, 0.8]]]).log()
    output = replace(
        prediction(classes=2),
        mask_embed=torch.tensor([[[math.log(3), -math.log(3)], [-60.0, 60.0]]]),
        mask_features=torch.eye(2).view(1, 2, 1, 2),
        text_logits=torch.tensor([[0.0, 0.0, math.log(2)], [0.0, 0.0, -60.0]]).view(1, 2, 1, 3),
        pixel_logits=pixels[None],
        image_size=(4, 8),
        padded_size=(4, 8),
    )
    found = class_probabilities(output, "pixels")
    mean = 0.75 * 0.9 + 0.25 * 0.2
    expected = torch.tensor([[[mean / 2, (1 - mean) / 2, 0.5], [0.2, 0.8, 0.0]]])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_padding_has_no_part_in_naming_by_pixels() -> None:
    output = replace(prediction(), image_size=(17, 10))  # cells of which the last rows and columns are padding
    spoilt = replace(output, mask_features=output.mask_features.clone(), pixel_logits=output.pixel_logits.clone())
    for maps in (spoilt.mask_features, spoilt.pixel_logits):
        maps[..., 5:, :], maps[..., 3:] = torch.randn(8), 9.0
    found = class_probabilities(spoilt, "pixels")
    assert torch.equal(found, class_probabilities(output, "pixels"))
    spoilt.pixel_logits[:, 0, 4, 2] += 5  # the last of the image
    assert not torch.allclose(class_probabilities(spoilt, "pixels"), found)


def test_masks_that_are_nowhere_are_named_by_pixels_too() -> None:
    output = replace(prediction(), mask_embed=torch.full((2, 5, 8), -1e4), mask_features=torch.ones(2, 8, 8, 8))
    found = class_probabilities(output, "pixels")
    assert found.isfinite().all() and (found.sum(-1) <= 1 + 1e-5).all()


def test_naming_by_pixels_needs_them() -> None:
    with pytest.raises(ValueError, match="classification='pixels' needs pixels; build the model with pixel_scores"):
        class_probabilities(replace(prediction(), pixel_logits=None), "pixels")


def test_rows_of_untrained_names_are_never_read() -> None:
    output, scoring = prediction(), Scoring(classification="per_name", trained_text=0.4, untrained=(1,))
    spoilt = output.class_logits.clone()
    spoilt[..., 1] = torch.nan
    found = class_probabilities(replace(output, class_logits=spoilt), scoring)
    assert torch.equal(found, class_probabilities(output, scoring)) and found.isfinite().all()


def test_per_name_without_untrained_names_is_between_learned_and_text() -> None:
    output = prediction()
    for share, way in ((0.0, "learned"), (1.0, "text"), (0.5, "ensemble")):
        found = class_probabilities(output, Scoring(classification="per_name", trained_text=share))
        torch.testing.assert_close(found, class_probabilities(output, way))


@pytest.mark.parametrize("join", ["sum", "product"])
def test_gradients_reach_all_sources(join: ScoreJoin) -> None:
    output = prediction()
    tensors = [output.class_logits, output.mask_embed, output.text_mask_embed, output.pixel_logits]
    for tensor in tensors:
        tensor.requires_grad_()
    scoring = Scoring(score_join=join, text_masks=1.0, pixel_scores=1.0, query_scores=0.01)
    (semantic_scores(output, scoring).log() * torch.randn(2, 3, 29, 30)).sum().backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in tensors)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"query_scores": 0.0}, "are all 0: nothing gives a score"),
        ({"text_masks": -1.0}, "text_masks must be a finite weight"),
        ({"pixel_scores": math.nan}, "pixel_scores must be a finite weight"),
        ({"calibration": -0.1}, "calibration must be a finite weight"),
        ({"trained_text": 1.5}, r"trained_text must be a share in \[0, 1\], got 1.5"),
        ({"score_join": "mean"}, "score_join must be one of 'sum', 'product'"),
        (
            {"classification": "words"},
            "classification must be one of 'learned', 'text', 'ensemble', 'per_name', 'pixels'",
        ),
    ],
)
def test_values_that_give_no_score(options, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        Scoring(**options)


@pytest.mark.parametrize("option", ["text_masks", "pixel_scores"])
def test_what_a_prediction_lacks_is_named(option: str) -> None:
    bare = replace(prediction(), text_mask_embed=None, pixel_logits=None)
    with pytest.raises(ValueError, match=f"nothing that {option}=1.0 could weigh; build the model with {option}"):
        semantic_scores(bare, Scoring(**{option: 1.0}))
