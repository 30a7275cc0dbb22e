"""The image tower of an open_clip model as an encoder, so that one CLIP serves both sides as in the paper."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from segmentation_models_pytorch.encoders._utils import patch_first_conv
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from mtaclip_plugin.encoders.plain_vit import PlainViT


class ClipEncoder(nn.Module):
    """Maps of an open_clip image tower, of which only the parts that they are made of are kept.

    Args:
        visual: the image tower, a ``ModifiedResNet`` or a ``VisionTransformer``.
        in_channels: image channels C; the first convolution is adapted to them.
        depth: stages of a ``ModifiedResNet``, 3 to 5; a ``VisionTransformer`` has none.

    Attributes:
        image_mean: (3) mean of the images that the tower was trained with, saved with the weights.
        image_std: (3) their standard deviation.

    Raises:
        ValueError: for a tower of timm.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, visual: Any, *, in_channels: int, depth: int) -> None:
        super().__init__()
        if isinstance(visual, TimmModel):
            architecture = visual.trunk.pretrained_cfg["architecture"]
            raise ValueError(
                f"the image tower of this open_clip model is timm's {architecture}; choose encoder_name="
                f"'tu-{architecture}', or text_encoder='RN50' or 'ViT-B-16', whose towers are open_clip's own"
            )
        if in_channels != 3:
            patch_first_conv(visual, in_channels)
        self.register_buffer("image_mean", torch.tensor(visual.image_mean))
        self.register_buffer("image_std", torch.tensor(visual.image_std))
        self.body = (
            _ResNetMaps(visual, depth)
            if isinstance(visual, ModifiedResNet)
            else PlainViT(_ViTTokens(visual), visual.patch_size[0])
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) to themselves and the tower's maps."""
        return self.body(image)


class _ResNetMaps(nn.Module):
    def __init__(self, visual: ModifiedResNet, depth: int) -> None:
        super().__init__()
        parts = dict(visual.named_children())
        del parts["attnpool"]
        stages = [parts.pop(f"layer{number}") for number in range(1, 5)]
        stem = nn.Sequential(*parts.values())  # three convolutions and a pooling, in the order that they run in
        self.stages = nn.ModuleList([stem, *stages][:depth])

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [image]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


class _ViTTokens(nn.Module):
    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__()
        self.grid_size = visual.grid_size
        self.conv1 = visual.conv1
        self.class_embedding = visual.class_embedding
        self.positional_embedding = visual.positional_embedding
        self.ln_pre = visual.ln_pre
        self.transformer = visual.transformer
        # CoCa's last norm is behind its pooling, and of another width.
        self.ln_post = visual.ln_post if visual.attn_pool is None else nn.Identity()

    def no_weight_decay(self) -> set[str]:
        """As timm's models say it."""
        return {"positional_embedding", "class_embedding"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters belong to which block, as timm's models say it."""
        blocks = [(r"^transformer\.resblocks\.(\d+)", None), (r"^ln_post", (99999,))]
        return {"stem": r"^conv1|class_embedding|positional_embedding|ln_pre", "blocks": blocks}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether activations are computed again in the backward pass, as in timm's models."""
        self.transformer.grad_checkpointing = enable

    def forward(self, image: Tensor) -> Tensor:
        patches = self.conv1(image)
        grid = patches.shape[-2:]
        class_token = self.class_embedding.expand(patches.shape[0], 1, -1)  # len() would fix the batch of an export
        tokens = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], 1)
        positions = resample_abs_pos_embed(self.positional_embedding[None], list(grid), list(self.grid_size))
        tokens = self.ln_post(self.transformer(self.ln_pre(tokens + positions)))
        return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
