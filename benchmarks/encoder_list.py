"""Encoders of every make, the smallest of each family, with what makes them narrow where a test has no time."""

from __future__ import annotations

from typing import Any

_NARROW_VIT = {"embed_dim": 96}
_NARROW_SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 24}

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
    "tu-convnext_base.clip_laion2b": {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)},
    "tu-hrnet_w18_small": {},
    "tu-regnetx_002": {},
    "tu-regnety_002": {},
    "tu-repvgg_a0": {},
    "tu-ghostnet_050": {},
    "tu-hgnetv2_b0": {},
    "tu-mambaout_femto": {},
    "tu-starnet_s1": {},
    # timm's with stages and attention
    "tu-swin_tiny_patch4_window7_224": _NARROW_SWIN,
    "tu-swinv2_tiny_window8_256": _NARROW_SWIN,
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
    "tu-sam2_hiera_tiny": {},
    # timm's plain ones
    "tu-vit_tiny_patch16_224": {},
    "tu-deit3_small_patch16_224": _NARROW_VIT,
    "tu-eva02_tiny_patch14_224": {},
    "tu-vit_small_patch14_dinov2": _NARROW_VIT,
    "tu-vit_base_patch16_siglip_224": _NARROW_VIT,
    "tu-vit_base_patch16_clip_224": _NARROW_VIT,
    "tu-vit_base_patch32_224": _NARROW_VIT,
    "tu-vit_small_patch8_224": _NARROW_VIT,
    "tu-vit_small_patch16_dinov3": _NARROW_VIT,
    "tu-vit_small_patch14_reg4_dinov2": _NARROW_VIT,
    "tu-deit_tiny_distilled_patch16_224": {},
    "tu-flexivit_small": _NARROW_VIT,
    "tu-vit_tiny_r_s16_p8_224": {},
    # as smp's DPT has them
    "dpt:vit_tiny_patch16_224": {},
    # the image towers of open_clip
    "clip:RN50": {},
    "clip:ViT-B-16": {},
}
"""Names of encoders that a model takes, and options of timm that narrow them."""

REFUSED = (
    "tu-beit_base_patch16_224",
    "tu-cait_xxs24_224",
    "tu-coat_tiny",
    "tu-efficientformerv2_s0",
    "tu-efficientvit_m0",
    "tu-gcvit_xxtiny",
    "tu-hiera_tiny_224",
    "tu-levit_128s",
    "tu-mixer_s16_224",
    "tu-nest_tiny",
    "tu-pit_ti_224",
    "tu-xcit_nano_12_p16_224",
    "clip:ViT-B-16-SigLIP",
)
"""Names of encoders without maps at strides 4 to 32, or for images of one size, which are refused."""
