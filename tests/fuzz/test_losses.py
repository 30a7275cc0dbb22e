"""Label maps, options and predictions of any kind through the criterion."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtaclip_plugin import MaskPrediction, MTACLIPLoss
from mtaclip_plugin.structures import full_precision
from tests.fuzz.models import seeds
from tests.fuzz.outcomes import outcome

pytestmark = pytest.mark.filterwarnings("ignore:an image holds")

INT64 = torch.iinfo(torch.int64)
INFINITE, NAN = float("inf"), float("nan")


@st.composite
def predictions(draw: st.DrawFn, scales: tuple[float, ...] = (0.0, 1.0, 1000.0)) -> MaskPrediction:
    """Predictions of one to three layers, of which every tensor wants a gradient."""
    batch, queries, classes, channels = (draw(st.integers(1, 4)) for _ in range(4))
    height, width = draw(st.integers(1, 33)), draw(st.integers(1, 33))
    padded = (32 * -(-height // 32), 32 * -(-width // 32))
    prompts = draw(st.integers(0, 2))
    dtype = draw(st.sampled_from((torch.float32, torch.float64, torch.bfloat16, torch.float16)))
    scale = draw(st.sampled_from(scales))
    generator = torch.Generator().manual_seed(draw(seeds))

    def values(*shape: int) -> torch.Tensor:
        return (scale * torch.randn(*shape, generator=generator)).to(dtype).requires_grad_()

    features = values(batch, channels, padded[0] // 4, padded[1] // 4)
    layers: list[MaskPrediction] = []
    for _ in range(draw(st.integers(1, 3))):
        layers.append(
            MaskPrediction(
                class_logits=values(batch, queries, classes + 1),
                mask_embed=values(batch, queries, channels),
                mask_features=features,
                text_logits=values(batch, queries, prompts, classes + 1) if prompts else None,
                image_size=(height, width),
                padded_size=padded,
                auxiliary=tuple(layers),
            )
        )
    return layers[-1]


def labels_of(prediction: MaskPrediction, seed: int, ignored: float, ignore_index: int = 255) -> torch.Tensor:
    """A label map with this share of ignored pixels."""
    batch, _, columns = prediction.class_logits.shape
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, columns - 1, (batch, *prediction.image_size), generator=generator)
    return labels.masked_fill(torch.rand(labels.shape, generator=generator) < ignored, ignore_index)


def leaves(prediction: MaskPrediction) -> list[torch.Tensor]:
    tensors = [prediction.mask_features]
    for layer in prediction.layers:
        tensors += [t for t in (layer.class_logits, layer.mask_embed, layer.text_logits) if t is not None]
    return tensors


VALID_OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "num_points": st.integers(1, 30),
    "oversample_ratio": st.floats(1, 5),
    "importance_ratio": st.floats(0, 1),
    "contrastive_mode": st.sampled_from(("mixneg", "separateneg", "allpos")),
    "ignored_pixels": st.sampled_from(("excluded", "background")),
    "mask_normalizer": st.sampled_from(("masks", "class_weights")),
    "supervise_initial": st.booleans(),
    "no_object_weight": st.sampled_from((0.0, 0.1, 1.0)),
    "class_weight": st.sampled_from((0.0, 2.0)),
    "dice_weight": st.sampled_from((0.0, 5.0)),
}
WRONG_OPTIONS: dict[str, tuple[Any, ...]] = {
    "num_points": (0, -3),
    "oversample_ratio": (0.99, -1.0, NAN, INFINITE),
    "importance_ratio": (-0.1, 1.1, NAN),
    "contrastive_mode": ("", None),
    "ignored_pixels": ("", None),
    "mask_normalizer": ("", None),
    "class_weight": (-1.0, NAN, INFINITE),
    "mask_weight": (-1.0, NAN, INFINITE),
    "dice_weight": (-1.0, NAN, INFINITE),
    "contrastive_weight": (-1.0, NAN, INFINITE),
    "no_object_weight": (-1.0, NAN, INFINITE),
    "absent_mask_weight": (-1.0, NAN, INFINITE, 1.0),  # the last for want of the assignment "by_class"
    "class_weights": ((-1.0,), (NAN,), (INFINITE,)),
}


@given(
    st.data(),
    predictions(),
    st.fixed_dictionaries({}, optional=VALID_OPTIONS),
    st.sampled_from((0.0, 0.5, 1.0)),
    seeds,
)
def test_any_valid_target_gives_finite_losses_and_gradients(data, prediction, options, ignored, seed) -> None:
    queries, classes = prediction.class_logits.shape[1], prediction.class_logits.shape[2] - 1
    if queries >= classes and data.draw(st.booleans()):
        options |= {"assignment": "by_class", "absent_mask_weight": 5.0, "importance_ratio": 0.75}
    ignore_index = data.draw(st.sampled_from((255, -1, -100, 10**6, INT64.max, INT64.min, 2**60 + 1)))
    weights = data.draw(st.none() | st.lists(st.sampled_from((0.0, 1.0, 3.0)), min_size=classes, max_size=classes))
    criterion = MTACLIPLoss(**({"num_points": 9} | options), ignore_index=ignore_index, class_weights=weights)
    with outcome(ValueError, valid=True):
        loss = criterion(prediction, labels_of(prediction, seed, ignored, ignore_index))
        assert loss.shape == () and loss.isfinite() and loss >= 0
        loss.backward()
        for tensor in leaves(prediction):
            assert tensor.grad is None or tensor.grad.isfinite().all()


@given(
    st.data(),
    predictions(),
    st.sampled_from(("id", "dtype", "batch", "height", "width", "dimensions")),
    st.integers(INT64.min, INT64.max) | st.integers(-2, 300),
    seeds,
)
def test_targets_of_any_kind(data, prediction, wrong, label, seed) -> None:
    classes = prediction.class_logits.shape[2] - 1
    target, valid = labels_of(prediction, seed, 0.3), False
    if wrong == "id":
        target[-1, -1, -1] = label
        valid = 0 <= label < classes or label == 255
    elif wrong == "dtype":
        dtype = data.draw(st.sampled_from((torch.uint8, torch.int32, torch.float32, torch.bool, torch.int64)))
        target = target.to(dtype)
        valid = dtype == torch.int64
    elif wrong == "dimensions":
        target = data.draw(st.sampled_from((target[:, None], target[0], target.flatten(), target.sum(), target[:0])))
    else:
        axis = ("batch", "height", "width").index(wrong)
        length = data.draw(st.integers(0, 3))
        target = target.narrow(axis, 0, min(length, target.shape[axis]))
        valid = target.shape == (len(prediction.class_logits), *prediction.image_size)
    with outcome(ValueError, valid=valid):
        assert MTACLIPLoss(num_points=9)(prediction, target).isfinite()


@given(
    predictions(scales=(1.0,)),
    st.sampled_from(("class_logits", "mask_embed", "mask_features", "text_logits")),
    st.sampled_from((NAN, INFINITE, -INFINITE)),
    seeds,
)
def test_numbers_that_are_none_crash_nothing_and_are_not_hidden(prediction, name, value, seed) -> None:
    tensor = getattr(prediction, name)
    if tensor is not None:
        tensor.data.flatten()[0] = value
    with outcome(ValueError, valid=True):
        loss = MTACLIPLoss(num_points=9)(prediction, labels_of(prediction, seed, 0.3))
        assert loss.dtype == full_precision(prediction.class_logits).dtype
        if tensor is None:
            assert loss.isfinite()
        elif value is NAN and name.endswith("_logits"):  # a mask that is none may belong to an unmatched query
            assert loss.isnan()


@given(st.data(), st.sampled_from(sorted(WRONG_OPTIONS)))
def test_wrong_options(data, name) -> None:
    value = data.draw(st.sampled_from(WRONG_OPTIONS[name]))
    with outcome(ValueError, valid=False):
        MTACLIPLoss(**{name: value})
