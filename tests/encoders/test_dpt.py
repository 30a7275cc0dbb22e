from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from timm.layers.norm import LayerNorm2d
from torch import nn
from torch.export import Dim

import mtaclip_plugin as mta
from mtaclip_plugin.encoders import build_encoder, find_maps
from mtaclip_plugin.encoders.dpt import encode
from tests.test_registration import DECODER, DPT


def create_dpt(name: str = "vit_tiny_patch16_224", **options: Any) -> smp.DPT:
    return smp.DPT(f"tu-{name}", encoder_weights=None, embed_dim=48, **options).eval()


@pytest.mark.parametrize(("indices", "block"), [(None, 11), ([0, 1, 2, 7], 7), ([-4, -3, -2, -1], 11)])
def test_the_deepest_map_of_a_dpt_is_used(indices: list[int] | None, block: int) -> None:
    dpt = create_dpt(img_size=64, encoder_output_indices=indices)
    image = torch.rand(2, 3, 64, 64)
    expected = dpt.encoder.model.forward_intermediates(image, indices=[block], intermediates_only=True)[0]
    swapped = mta.swap_decoder(dpt, **DECODER)
    image_again, tokens = encode(swapped.encoder, image)
    assert image_again is image
    torch.testing.assert_close(tokens, expected)
    rebuilt = build_encoder(
        swapped.config["encoder_name"],
        weights=None,
        **{name: swapped.config[name] for name in ("output_indices", "embed_dim", "img_size")},
    ).eval()
    rebuilt.load_state_dict(dpt.encoder.state_dict())
    torch.testing.assert_close(encode(rebuilt, image)[1], expected)


@pytest.mark.parametrize(
    ("name", "dynamic"),
    [
        ("vit_tiny_patch16_224", False),
        ("vit_small_patch14_dinov2", False),
        ("vit_small_patch14_dinov2", True),
        ("vit_small_patch32_224", False),
        ("deit_tiny_distilled_patch16_224", False),
        ("deit3_small_patch16_224", False),
        ("vit_base_patch16_siglip_224", False),
        ("eva02_tiny_patch14_224", True),
        ("vit_tiny_r_s16_p8_224", True),
    ],
)
def test_images_of_any_size(name: str, dynamic: bool, tmp_path: Path) -> None:
    dpt = create_dpt(name, dynamic_img_size=dynamic)
    swapped = mta.swap_decoder(dpt, **DECODER)
    assert swapped.encoder is dpt.encoder
    images = torch.rand(1, 3, 50, 70)
    logits = swapped(images)
    assert logits.shape == (1, 1, 50, 70) and logits.isfinite().all()
    maps = find_maps(dpt.encoder, 3)
    assert (maps.indices, maps.channels, maps.strides, maps.size_multiple) == ((1,), (48,), (16,), 32)
    assert encode(dpt.encoder, torch.rand(1, 3, 64, 96))[1].shape == (1, 48, 4, 6)
    assert maps.unnormed and [type(norm) for norm in swapped.decoder.pyramid.norms] == [LayerNorm2d]
    swapped.save_pretrained(tmp_path)
    loaded = smp.from_pretrained(tmp_path)
    assert torch.equal(loaded(images), logits)
    again = mta.swap_decoder(loaded, **DECODER)
    assert again.encoder is loaded.encoder and again.config["encoder_name"] == f"dpt:{name}"


def test_a_map_is_the_same_as_of_a_model_built_for_any_size() -> None:
    options = {"embed_dim": 48, "img_size": 64}
    dynamic = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **options).eval()
    dpt = create_dpt(img_size=64)
    dpt.encoder.model.load_state_dict(dynamic.state_dict())
    mta.swap_decoder(dpt, **DECODER)
    image = torch.rand(1, 3, 96, 160)
    expected = dynamic.forward_intermediates(image, indices=1, intermediates_only=True)[0]
    assert torch.equal(encode(dpt.encoder, image)[1], expected)


def test_a_frozen_encoder_stays_frozen_and_only_head_and_last_norm_are_not_trained() -> None:
    dpt = create_dpt(img_size=64)
    dpt.freeze_encoder()
    swapped = mta.swap_decoder(dpt.train(), **DECODER)
    assert swapped._is_encoder_frozen and not swapped.encoder.training
    swapped.unfreeze_encoder()
    swapped(torch.rand(2, 3, 64, 96), return_masks=True).mask_logits.sum().backward()
    unused = {name for name, parameter in swapped.encoder.named_parameters() if parameter.grad is None}
    assert unused == {f"model.{name}" for name in ("norm.weight", "norm.bias", "head.weight", "head.bias")}


def test_image_level_labels_are_read_off_the_map() -> None:
    dpt = create_dpt(img_size=64, aux_params={"classes": 7})
    logits, labels = mta.swap_decoder(dpt, **DECODER)(torch.rand(2, 3, 32, 96))
    assert logits.shape == (2, 1, 32, 96) and labels.shape == (2, 7)


def test_it_is_an_encoder_of_its_own_name() -> None:
    model = mta.MTACLIP("dpt:vit_tiny_patch16_224", encoder_weights=None, **DPT_OPTIONS, **DECODER)
    assert isinstance(model.encoder, smp.encoders.TimmViTEncoder)
    assert model(torch.rand(1, 3, 50, 70)).shape == (1, 1, 50, 70)
    assert mta.preprocessing(model).mean == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"timm has no model 'vit_teeny.*did you mean 'dpt:vit_"):
        build_encoder("dpt:vit_teeny_patch16_224")
    with pytest.raises(ConnectionError, match="of encoder 'dpt:vit_tiny_patch16_224' could not be fetched"):
        build_encoder("dpt:vit_tiny_patch16_224")


DPT_OPTIONS = {name: value for name, value in DPT.items() if name != "encoder_name"}


class Maps(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return encode(self.encoder, image)[1]


@pytest.mark.parametrize("patch_size", [14, 16])
def test_exporting_with_dynamic_sizes(patch_size: int) -> None:
    dpt = create_dpt(img_size=4 * patch_size, patch_size=patch_size)
    maps = Maps(mta.swap_decoder(dpt, **DECODER).encoder).eval()
    sizes = {2: 32 * Dim("height", min=1, max=16), 3: 32 * Dim("width", min=1, max=16)}
    exported = torch.export.export(maps, (torch.rand(2, 3, 64, 96),), dynamic_shapes=(sizes,), strict=True).module()
    image = torch.rand(2, 3, 160, 64)
    torch.testing.assert_close(exported(image), maps(image), atol=1e-5, rtol=1e-5)
