from __future__ import annotations

from typing import Any

import pytest
import segmentation_models_pytorch as smp
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from mtaclip_plugin import Preprocessing, preprocessing

IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def small_model(name: str, **options: Any) -> smp.base.SegmentationModel:
    options = {"encoder_weights": None, "text_encoder": None, "decoder_channels": 64, "pixel_decoder": "fpn"} | options
    return smp.create_model("mtaclip", encoder_name=name, classes=2, decoder_layers=1, **options)


def test_clip_has_its_own() -> None:
    model = small_model(
        "clip", text_encoder="tiny-flat", text_pretrained=None, class_names=["cat", "dog"], context_length=2
    )
    assert preprocessing(model).mean == pytest.approx(OPENAI_DATASET_MEAN, abs=1e-7)
    assert preprocessing(model).std == pytest.approx(OPENAI_DATASET_STD, abs=1e-7)


def test_timm_knows_its_encoders() -> None:
    half = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert preprocessing(small_model("tu-vit_base_patch16_siglip_224", embed_dim=96)) == half
    assert preprocessing(small_model("tu-resnet10t")) == IMAGENET


def test_smp_knows_the_weights_of_its_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("resnet18")
    assert preprocessing(model) == IMAGENET
    model.config["encoder_weights"] = "ssl"
    with pytest.raises(ConnectionError, match="of the weights 'ssl' of encoder 'resnet18' could not be fetched"):
        preprocessing(model)
    asked = []
    monkeypatch.setattr(
        smp.encoders,
        "get_preprocessing_params",
        lambda *names: asked.append(names) or {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    )
    assert preprocessing(model) == Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert asked == [("resnet18", "ssl")]


def test_a_model_may_have_been_told() -> None:
    half = [0.5, 0.4, 0.3]
    assert preprocessing(small_model("resnet18", image_mean=half)) == Preprocessing((0.5, 0.4, 0.3), IMAGENET.std)
    both = small_model("resnet18", image_mean=half, image_std=(0.1, 0.2, 0.3))
    both.config["encoder_weights"] = "ssl"  # is not looked up
    assert preprocessing(both) == Preprocessing((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    for options in ({"image_mean": [0.5]}, {"image_std": [0.1, 0.0, 0.1]}, {"image_mean": [0.0, 0.0, float("nan")]}):
        with pytest.raises(ValueError, match="must be three finite numbers, a standard deviation above 0, got"):
            small_model("resnet18", **options)


def test_other_models_of_smp() -> None:
    assert preprocessing(smp.Unet("resnet18", encoder_weights=None)) == IMAGENET


def test_nothing_is_known_of_other_channels() -> None:
    with pytest.raises(ValueError, match="known for three channels, the model takes 4"):
        preprocessing(small_model("resnet18", in_channels=4))
