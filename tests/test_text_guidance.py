"""Masks of text queries, pixels against text, and centred text, in whole models."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.export import Dim

import mtaclip_plugin as mta
from mtaclip_plugin.decoder.pixel_text import PixelAlignmentHead
from tests.test_model import NAMES, build

ALL: dict[str, Any] = {"text_masks": 1.0, "pixel_scores": 1.0, "center_text": True}
OTHERS = ["zebra", "cat", "road", "wooden fence"]
MULTIPLES_OF_32 = {0: Dim("batch"), 2: 32 * Dim("rows", max=8), 3: 32 * Dim("columns", max=8)}


def bank(rows: int = 3, prompts: int | None = None) -> dict[str, Any]:
    shape = (rows, 24) if prompts is None else (prompts, rows + 1, 24)
    return {"text_encoder": "bank", "text_embeddings": torch.randn(shape)}


def test_off_there_is_nothing_of_it() -> None:
    model = build()
    prediction = model(torch.randn(2, 3, 32, 32), return_masks=True)
    assert prediction.text_mask_embed is None and prediction.pixel_logits is None
    assert prediction.text_mask_logits is None and model.text_centering is None and model.decoder.pixel_head is None
    assert not any("pixel" in name.split(".")[1] for name, _ in model.decoder.mask_text_decoder.named_parameters())


def test_what_is_added_leaves_the_rest_as_it_is_to_the_bit() -> None:
    plain = build(**bank()).eval()
    full = build(**bank(), text_masks=1.0, pixel_scores=1.0)
    state = full.state_dict() | plain.state_dict()
    full.load_state_dict(state)
    full.eval()
    image = torch.randn(2, 3, 50, 70)
    ours, theirs = full(image, return_masks=True), plain(image, return_masks=True)
    for layer, other in zip(ours.layers, theirs.layers, strict=True):
        for name in ("class_logits", "mask_embed", "mask_features", "text_logits"):
            assert torch.equal(getattr(layer, name), getattr(other, name)), name
    assert all(layer.text_mask_embed.shape == (2, 3, 64) for layer in ours.layers)
    assert ours.pixel_logits.shape == (2, 3, 16, 24) and ours.layers[0].pixel_logits is None


@pytest.mark.parametrize("source", [{}, bank(), bank(prompts=2)])
def test_gradients_reach_what_makes_them(source: dict[str, Any]) -> None:
    model = build(**ALL, **source)
    loss = mta.MTACLIPLoss(num_points=50, text_mask_weight=1.0, pixel_weight=1.0)
    target = torch.randint(0, 3, (2, 64, 64))
    loss(model(torch.randn(2, 3, 64, 64), return_masks=True), target).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert model.decoder.pixel_head.projection.weight.grad.any()


@pytest.mark.parametrize("source", [{}, bank()])
def test_permuted_names_give_permuted_scores_of_every_source(source: dict[str, Any]) -> None:
    model = build(**ALL, **source, classification="text").eval()
    image, order = torch.randn(1, 3, 64, 64), [2, 0, 1]
    prediction, logits = model(image, return_masks=True), model(image)
    model.set_class_names([NAMES[k] for k in order])
    permuted = model(image, return_masks=True)
    torch.testing.assert_close(permuted.text_mask_embed, prediction.text_mask_embed[:, order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(permuted.pixel_logits, prediction.pixel_logits[:, order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(image), logits[:, order], atol=1e-4, rtol=1e-4)


def test_names_that_come_later_have_masks_and_pixels_at_once() -> None:
    model = build(**ALL).eval()
    image, mean = torch.randn(1, 3, 64, 64), model.text_centering.mean.clone()
    model.set_class_names(OTHERS)
    prediction = model(image, return_masks=True)
    assert prediction.text_mask_embed.shape == (1, 4, 64) and prediction.pixel_logits.shape == (1, 4, 16, 16)
    assert torch.equal(model.text_centering.mean, mean)
    built = build(**ALL, class_names=OTHERS, classes=4, untrained_names=["zebra", "road", "wooden fence"])
    state = built.state_dict() | {name: value for name, value in model.state_dict().items() if "class_head" not in name}
    built.load_state_dict(state)
    torch.testing.assert_close(built.eval()(image), model(image), atol=1e-5, rtol=1e-5)


def test_pixel_logits_are_scaled_cosines() -> None:
    head = PixelAlignmentHead(8, 6)
    features, text = torch.randn(2, 8, 3, 4), torch.randn(2, 5, 6)
    logits = head(features, text)
    assert logits.shape == (2, 4, 3, 4)
    pixel = head.projection.weight[:, :, 0, 0] @ features[1, :, 2, 3] + head.projection.bias
    expected = torch.exp(torch.tensor(3.4)) * nn.functional.cosine_similarity(pixel, text[:, 2].mean(0), dim=0)
    torch.testing.assert_close(logits[1, 2, 2, 3], expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(features, text).dtype == torch.float32


def test_pixels_are_compared_as_if_they_were_made_as_wide_as_text() -> None:
    head = PixelAlignmentHead(8, 40).double()
    features, text = torch.randn(2, 8, 3, 4).double(), torch.randn(2, 5, 40).double()
    wanted = [features.requires_grad_(), text.requires_grad_(), *head.parameters()]

    wide = nn.functional.normalize(head.projection(features), dim=1)
    classes = nn.functional.normalize(text[:, :-1].mean(0), dim=-1)
    expected = head.log_scale.exp() * torch.einsum("bthw,kt->bkhw", wide, classes)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * weights).sum(), wanted)
    logits = head(features, text)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(torch.autograd.grad((logits * weights).sum(), wanted), gradients)


def test_text_is_centred_on_the_mean_of_its_names() -> None:
    model = build(**bank(prompts=2), center_text=True)
    text = model.prompts()
    expected = nn.functional.normalize(text - text[:, :3].mean(1, keepdim=True), dim=-1)
    torch.testing.assert_close(model._text_to_read(model._current_text()), expected)
    torch.testing.assert_close(model.eval()._text_to_read(model._current_text()), expected)
    model.text_centering.mean.zero_()
    model.train()(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(model.text_centering.mean, text[:, :3].mean(1, keepdim=True))


def test_the_mean_is_in_the_checkpoint_and_later_names_take_it(tmp_path: Path) -> None:
    model = build(**ALL)
    with torch.no_grad():
        model.prompts.contexts.mul_(3)
    model(torch.randn(2, 3, 32, 32))  # a step of training keeps the mean of its text
    mean, image = model.text_centering.mean.clone(), torch.randn(1, 3, 50, 70)
    expected = model.eval()(image)
    model.bake_text()
    assert torch.equal(model.eval()(image), expected)
    model.save_pretrained(tmp_path)
    loaded = smp.from_pretrained(tmp_path)
    assert torch.equal(loaded(image), expected) and torch.equal(loaded.text_centering.mean, mean)
    loaded.set_text_embeddings(torch.randn(2, 5, 24), OTHERS)
    assert torch.equal(loaded.text_centering.mean, mean)
    text = loaded.prompts()
    torch.testing.assert_close(
        loaded._text_to_read(loaded._current_text()), nn.functional.normalize(text - mean, dim=-1)
    )


def test_scoring_is_saved_with_the_model(tmp_path: Path) -> None:
    model = build(**ALL).eval()
    model.set_class_names([*NAMES, "zebra"])
    before = model(torch.zeros(1, 3, 32, 32))
    model.scoring = replace(model.scoring, classification="per_name", calibration=0.4, trained_text=0.2, text_masks=0.5)
    assert model.classification == "per_name" and model.current_scoring().untrained == (3,)
    assert model.train().current_scoring().untrained == ()
    model.eval().save_pretrained(tmp_path)
    loaded = smp.from_pretrained(tmp_path)
    image = torch.randn(1, 3, 50, 70)
    assert loaded.scoring == model.scoring and torch.equal(loaded(image), model(image))
    assert not torch.equal(model(torch.zeros(1, 3, 32, 32)), before)


@pytest.mark.parametrize(
    "later",
    [
        {"pixel_scores": 0.0, "text_masks": 0.0},
        {"pixel_scores": 0.0, "classification": "pixels", "score_join": "product"},
        {"query_scores": 0.0},
    ],
)
def test_a_model_is_saved_with_what_it_was_built_with(tmp_path: Path, later: dict[str, Any]) -> None:
    model = build(**ALL).eval()
    built, image = model.scoring, torch.randn(1, 3, 50, 70)
    before = model(image)
    model.scoring = replace(built, **later)
    after = model(image)
    assert not torch.equal(after, before)
    for turn in ("once", "twice"):
        model.save_pretrained(tmp_path / turn)
        model = smp.from_pretrained(tmp_path / turn)
        assert torch.equal(model(image), after)
    model.scoring = built  # nothing was lost on the way
    assert torch.equal(model(image), before)


def test_training_is_named_as_chosen_whatever_was_never_trained() -> None:
    model = build().eval()
    model.set_class_names(OTHERS)
    assert model.current_scoring().classification == "text" and model.classification == "learned"
    model.classification = "per_name"
    assert model.current_scoring().classification == "per_name"
    pixels = build(**ALL, classification="pixels", untrained_names=[NAMES[0]]).eval()
    assert pixels.current_scoring() == replace(pixels.scoring, untrained=(0,))
    assert model.train().current_scoring() == model.scoring


@pytest.mark.parametrize(
    "options",
    [
        ALL,
        ALL | {"classification": "per_name", "calibration": 0.3, "untrained_names": ["dog"]},
        ALL | {"classification": "pixels", "score_join": "product", "untrained_names": ["dog"]},
    ],
)
def test_exporting_with_dynamic_sizes(options: dict[str, Any]) -> None:
    model = build(**options).eval()
    image = torch.randn(2, 3, 64, 96)
    exported = torch.export.export(model, (image,), dynamic_shapes=(MULTIPLES_OF_32,), strict=True).module()
    for shape in ((2, 3, 64, 96), (1, 3, 160, 64)):
        image = torch.randn(shape)
        with torch.inference_mode():
            torch.testing.assert_close(exported(image), model(image), atol=1e-4, rtol=1e-4)


def test_compiling_in_one_graph() -> None:
    model = build(**ALL).eval()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    with torch.inference_mode():
        image = torch.randn(2, 3, 60, 90)
        torch.testing.assert_close(compiled(image), model(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"score_join": "product", "query_scores": 0.5, "classification": "pixels"}])
def test_onnx(tmp_path: Path, onnxruntime: ModuleType, options: dict[str, Any]) -> None:
    model = build(**ALL, **options, pixel_decoder="fpn").eval()
    image, path = torch.randn(2, 3, 64, 96), tmp_path / "model.onnx"
    torch.onnx.export(model, (image,), path, dynamo=True, dynamic_shapes=(MULTIPLES_OF_32,), external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image = torch.randn(1, 3, 160, 64)
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(logits, model(image).numpy(), atol=1e-3, rtol=1e-3)


def test_labels_are_those_of_the_logits() -> None:
    model, images = build(**ALL, classification="text"), torch.randn(2, 3, 50, 70)
    assert torch.equal(model.predict_labels(images), model.predict(images).argmax(1))


def test_a_copy_with_other_names_leaves_the_model_alone() -> None:
    model = build(**ALL).eval()
    image = torch.randn(1, 3, 32, 32)
    expected = model(image)
    copy.deepcopy(model).set_class_names(OTHERS)
    assert torch.equal(model(image), expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text_masks": 1.0, "text_encoder": None}, "text_masks=1.0 needs text, but text_encoder is None"),
        ({"pixel_scores": 1.0, "text_encoder": None}, "pixel_scores=1.0 needs text"),
        ({"center_text": True, "text_encoder": None}, "center_text=True needs text"),
        ({"predict_pixels": True, "text_encoder": None}, "predict_pixels=True needs text"),
        ({"predict_pixels": True, "classes": 1, "class_names": ["cat"]}, "pixels are compared with classes"),
        ({"predict_text_masks": True, "text_encoder": None}, "predict_text_masks=True needs text"),
        (
            {"pixel_scores": 1.0, "classes": 1, "class_names": ["cat"]},
            "pixels are compared with classes",
        ),
        ({"center_text": True, "classes": 1, "class_names": ["cat"]}, "center_text takes off what class names have"),
        ({"score_join": "product", "classes": 1, "class_names": ["cat"]}, "score_join='product' compares classes"),
        ({"score_join": "or"}, "score_join must be one of"),
        ({"query_scores": 0.0}, "are all 0"),
        ({"trained_text": -1.0}, "trained_text must be a share"),
    ],
)
def test_bad_arguments(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(**options)


@pytest.mark.parametrize("option", ["text_masks", "pixel_scores"])
def test_a_model_built_without_can_not_be_asked_for_it(option: str) -> None:
    model = build()
    with pytest.raises(ValueError, match=f"built without .*; build it with {option} above 0"):
        model.scoring = replace(model.scoring, **{option: 1.0})
    assert model.config[option] == 0
