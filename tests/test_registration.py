from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

import mtaclip_plugin as mta
from tests.test_model import NAMES, SMALL

DECODER = {name: value for name, value in SMALL.items() if not name.startswith("encoder")} | {"text_encoder": None}
ARCHITECTURES = sorted(
    name
    for name, architecture in smp.MODEL_ARCHITECTURES_MAPPING.items()
    if architecture.__module__.startswith("segmentation_models_pytorch.") and name != "dpt"
)
DPT = {"encoder_name": "tu-vit_tiny_patch16_224", "embed_dim": 48, "img_size": 128}


def create(architecture: str, **options: Any) -> nn.Module:
    defaults = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 3}
    return smp.create_model(architecture, **(defaults | options)).eval()


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        *((architecture, {"in_channels": 4}) for architecture in ARCHITECTURES),
        ("unet", {"encoder_depth": 3, "decoder_channels": (16, 16, 16)}),
        ("deeplabv3plus", {"encoder_output_stride": 8}),
        ("fpn", {"encoder_name": "resnet18", "decoder_use_batchnorm": True}),
        ("segformer", {"encoder_name": "mit_b0"}),
        ("pspnet", {"encoder_name": "tu-resnet10t", "output_stride": 16, "psp_use_batchnorm": True}),
        ("upernet", {"encoder_name": "tu-convnext_atto", "drop_path_rate": 0.5}),
        ("unet", {"encoder_name": "tu-swin_tiny_patch4_window7_224", "strict_img_size": False, "depths": (1, 1, 1, 1)}),
        ("dpt", DPT | {"in_channels": 4, "dynamic_img_size": True}),
        ("dpt", DPT | {"encoder_depth": 2, "encoder_output_indices": [0, 4], "decoder_intermediate_channels": (8, 8)}),
    ],
)
def test_swapping_keeps_the_encoder(architecture: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = create(architecture, **options)
    encoder, weights = model.encoder, {name: value.clone() for name, value in model.encoder.state_dict().items()}
    square = torch.randn(1, options.get("in_channels", 3), 128, 128)
    before = model(square)

    swapped = mta.swap_decoder(model, class_names=NAMES, **DECODER)
    assert swapped.encoder is encoder and model.encoder is encoder
    assert torch.equal(model(square), before)
    image = torch.randn(1, options.get("in_channels", 3), 128, 160)
    logits = swapped(image)
    assert logits.shape == (1, 3, 128, 160) and logits.isfinite().all()
    for name, value in swapped.encoder.state_dict().items():
        assert torch.equal(value, weights[name]), name

    swapped.save_pretrained(tmp_path)
    assert torch.equal(smp.from_pretrained(tmp_path)(image), logits)


def test_a_dilated_encoder_gets_its_strides_made() -> None:
    swapped = mta.swap_decoder(create("deeplabv3", encoder_output_stride=8), **DECODER)
    features = swapped.encoder(torch.randn(1, 3, 64, 64))
    assert features[-1].shape == (1, 512, 8, 8)
    assert [tuple(m.shape[1:]) for m in swapped.decoder.pyramid(features)] == [
        (64, 16, 16), (512, 8, 8), (64, 4, 4), (64, 2, 2),
    ]  # fmt: skip


def test_classes_channels_and_head_are_read_off_the_model() -> None:
    model = create("unet", in_channels=2, classes=5, aux_params={"classes": 7})
    logits, labels = mta.swap_decoder(model, **DECODER)(torch.randn(1, 2, 32, 32))
    assert logits.shape == (1, 5, 32, 32) and labels.shape == (1, 7)
    named = mta.swap_decoder(model, class_names=NAMES, aux_params=None, **DECODER)
    assert named(torch.randn(1, 2, 32, 32)).shape == (1, 3, 32, 32)
    assert named.config["classes"] == 3 and named.config["class_names"] == NAMES


def test_text_reaches_the_new_decoder() -> None:
    options = DECODER | {"text_encoder": "tiny-flat", "text_pretrained": None}
    swapped = mta.swap_decoder(create("unet"), class_names=NAMES, **options)
    torch.testing.assert_close(swapped.text_embeddings, swapped.prompts())
    assert swapped(torch.randn(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_a_frozen_encoder_stays_frozen() -> None:
    model = create("upernet", encoder_name="tu-convnext_atto", drop_path_rate=0.5)
    model.freeze_encoder()
    model.train()
    swapped = mta.swap_decoder(model, **DECODER)
    assert swapped._is_encoder_frozen and swapped.training
    assert not any(parameter.requires_grad for parameter in swapped.encoder.parameters())
    assert not any(module.training for module in swapped.train().encoder.modules())
    swapped.unfreeze_encoder()
    assert all(parameter.requires_grad for parameter in swapped.encoder.parameters())
    assert all(module.training for module in swapped.encoder.modules())


def test_a_partly_frozen_encoder_stays_so() -> None:
    model = create("unet").train()
    model.encoder.layer1.requires_grad_(False)
    swapped = mta.swap_decoder(model, **DECODER)
    assert swapped.training and swapped.encoder.training and not swapped._is_encoder_frozen
    frozen = {name for name, parameter in swapped.encoder.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"layer1.{name}" for name, _ in model.encoder.layer1.named_parameters()}


def test_the_dtype_is_the_encoder_s() -> None:
    swapped = mta.swap_decoder(create("unet").double(), **DECODER)
    assert {parameter.dtype for parameter in swapped.parameters()} == {torch.float64}
    assert swapped(torch.randn(1, 3, 32, 32, dtype=torch.float64)).isfinite().all()


def test_swapping_again() -> None:
    first = mta.swap_decoder(create("unet"), class_names=NAMES, **DECODER)
    second = mta.swap_decoder(first, class_names=NAMES, **DECODER | {"pixel_decoder": "fpn"})
    assert second.encoder is first.encoder and second.config["pixel_decoder"] == "fpn"


class Recipe(smp.Unet):
    def __init__(self, width: int) -> None:
        super().__init__("resnet18", encoder_weights=None, decoder_channels=[width] * 5)


def test_models_that_can_not_be_swapped() -> None:
    with pytest.raises(ValueError, match="got Sequential"):
        mta.swap_decoder(nn.Sequential(create("unet")), **DECODER)
    with pytest.raises(ValueError, match="Recipe does not record its encoder_name"):
        mta.swap_decoder(Recipe(16), **DECODER)
    model = create("unet")
    model.encoder.layer1 = nn.Conv2d(64, 64, 1)
    with pytest.raises(ValueError, match=r"not the one that its configuration describes \(encoder_name='resnet18'\)"):
        mta.swap_decoder(model, **DECODER)
    model = create("unet")
    model.encoder.make_dilated(16)
    with pytest.raises(ValueError, match="not the one that its configuration describes"):
        mta.swap_decoder(model, **DECODER)
    eva = {"encoder_name": "tu-eva02_tiny_patch14_224", "embed_dim": 48}
    with pytest.raises(ValueError, match=r"'eva02_tiny_patch14_224' .* build its DPT with dynamic_img_size=True"):
        mta.swap_decoder(create("dpt", encoder_depth=4, **eva), **DECODER)


def test_options_of_the_encoder_are_not_taken() -> None:
    with pytest.raises(TypeError, match="encoder_weights"):
        mta.swap_decoder(create("unet"), encoder_weights="imagenet", **DECODER)
