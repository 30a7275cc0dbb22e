"""Encoders of every make, the smallest of each family and narrower where timm takes a width."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtaclip_plugin import MTACLIP
from mtaclip_plugin.encoders import build_encoder, find_maps

NARROW = {"embed_dim": 96}
NARROW_CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}

ENCODERS: dict[str, dict[str, Any]] = {
    # smp's own
    "resnet18": {},
    "mit_b0": {},
    "resnext50_32x4d": {},
    "se_resnet50": {},
    "densenet121": {},
    "dpn68": {},
    "vgg11": {},
    "xception": {},
    "inceptionv4": {},
    "efficientnet-b0": {},
    "mobilenet_v2": {},
    "mobileone_s0": {},
    # timm's convolutional ones
    "tu-resnet10t": {},
    "tu-mobilenetv3_small_050": {},
    "tu-convnext_atto": {},
    "tu-resnext26ts": {},
    "tu-resnet50_clip": {},
    "tu-efficientnet_b0": {},
    "tu-mobilenetv4_conv_small_050": {},
    "tu-convnextv2_atto": {},
    "tu-convnext_base.clip_laion2b": NARROW_CONVNEXT,
    "tu-hrnet_w18_small": {},
    "tu-regnetx_002": {},
    "tu-regnety_002": {},
    "tu-repvgg_a0": {},
    "tu-ghostnet_050": {},
    "tu-hgnetv2_b0": {},
    "tu-mambaout_femto": {},
    "tu-starnet_s1": {},
    # timm's with stages and attention
    "tu-swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1), "embed_dim": 24},
    "tu-swinv2_tiny_window8_256": {"depths": (1, 1, 1, 1), "embed_dim": 24},
    "tu-maxvit_rmlp_pico_rw_256": {},
    "tu-pvt_v2_b0": {},
    "tu-edgenext_xx_small": {},
    "tu-efficientvit_b0": {},
    "tu-fastvit_t8": {},
    "tu-tiny_vit_5m_224": {},
    "tu-repvit_m0_9": {},
    "tu-poolformer_s12": {},
    "tu-focalnet_tiny_srf": {},
    "tu-davit_tiny": {"depths": (1, 1, 1, 1), "embed_dims": (24, 48, 96, 192)},
    # timm's plain ones
    "tu-vit_tiny_patch16_224": {},
    "tu-deit3_small_patch16_224": NARROW,
    "tu-eva02_tiny_patch14_224": {},
    "tu-vit_small_patch14_dinov2": NARROW,
    "tu-vit_base_patch16_siglip_224": NARROW,
    "tu-vit_base_patch16_clip_224": NARROW,
    "tu-vit_base_patch32_224": NARROW,
    "tu-vit_small_patch8_224": NARROW,
    "tu-vit_small_patch16_dinov3": NARROW,
    "tu-vit_small_patch14_reg4_dinov2": NARROW,
    "tu-deit_tiny_distilled_patch16_224": {},
    "tu-flexivit_small": NARROW,
    "tu-vit_tiny_r_s16_p8_224": {},
}


@pytest.mark.parametrize("in_channels", [1, 4])
@pytest.mark.parametrize(("name", "options"), ENCODERS.items(), ids=ENCODERS)
def test_every_make_segments_images_of_any_size(name: str, options: dict[str, Any], in_channels: int) -> None:
    model = MTACLIP(
        name,
        encoder_weights=None,
        in_channels=in_channels,
        classes=2,
        text_encoder=None,
        decoder_channels=64,
        pixel_decoder="fpn",
        decoder_layers=1,
        decoder_ffn=64,
        num_heads=2,
        num_queries=4,
        **options,
    ).eval()
    images = torch.rand(1, in_channels, 50, 70, requires_grad=True)
    logits = model(images)
    assert logits.shape == (1, 2, 50, 70)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert logits.isfinite().all() and gradient.isfinite().all()
    assert gradient.abs().amax((0, 2, 3)).all()  # every channel counts

    multiple = model._size_multiple
    with torch.no_grad():
        pyramid = model.decoder.pyramid(model.encoder(torch.rand(1, in_channels, multiple, 2 * multiple)))
    assert [m.shape[-2:] for m in pyramid] == [(multiple // s, 2 * multiple // s) for s in (4, 8, 16, 32)]
    assert tuple(m.shape[1] for m in pyramid) == model.decoder.pyramid.channels


@pytest.mark.parametrize("name", ["tu-efficientformerv2_s0", "tu-hiera_tiny_224"])
def test_encoders_of_one_size_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"takes no image whose sides are multiples of .*such as 'resnet50'"):
        find_maps(build_encoder(name, weights=None), 3)
