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

from mtaclip_plugin.encoders.plain_vit import PlainViT, map_at_stride_16


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

    @property
    def cell_size(self) -> int:
        """Side in pixels of a cell of what ``unpooled`` gives."""
        return self.body.patch_size if isinstance(self.body, PlainViT) else 32

    def unpooled(self, image: Tensor) -> Tensor:
        """What the tower's own pooling starts from, where all stages were kept.

        Args:
            image: (B, C, H, W), sides multiples of ``cell_size``.

        Returns:
            The last map (B, width, H/32, W/32) of a ``ModifiedResNet``; the tokens (B, 1 + cells, width) that the
            last block of a ``VisionTransformer`` gets, the class token first.
        """
        if isinstance(self.body, PlainViT):
            tokens: Any = self.body.body
            return tokens.before_last_block(image)[0]
        return self.body(image)[-1]

    def maps_and_unpooled(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """``forward`` and ``unpooled`` of the same images in one pass."""
        if not isinstance(self.body, PlainViT):
            maps = self.body(image)
            return maps, maps[-1]
        body: Any = self.body.body
        unpooled: list[Tensor] = []

        def tokens_of(image: Tensor) -> Tensor:
            tokens, grid = body.before_last_block(image)
            unpooled.append(tokens)
            return body.as_map(body.transformer.resblocks[-1](tokens), grid)

        return [image, map_at_stride_16(tokens_of, self.body.patch_size, image)], unpooled[0]


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
        tokens, grid = self.embed(image)
        return self.as_map(self.transformer(tokens), grid)

    def embed(self, image: Tensor) -> tuple[Tensor, torch.Size]:
        """The tokens (B, 1 + h·w, width) of images, the class token first, and their grid (h, w)."""
        patches = self.conv1(image)
        grid = patches.shape[-2:]
        class_token = self.class_embedding.expand(patches.shape[0], 1, -1)  # len() would fix the batch of an export
        tokens = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], 1)
        positions = resample_abs_pos_embed(self.positional_embedding[None], list(grid), list(self.grid_size))
        return self.ln_pre(tokens + positions), grid

    def before_last_block(self, image: Tensor) -> tuple[Tensor, torch.Size]:
        """The tokens (B, 1 + h·w, width) that the last block gets, and their grid."""
        tokens, grid = self.embed(image)
        for block in self.transformer.resblocks[:-1]:
            tokens = block(tokens)
        return tokens, grid

    def as_map(self, tokens: Tensor, grid: torch.Size) -> Tensor:
        """What the last block gives as a map (B, width, h, w)."""
        return self.ln_post(tokens)[:, 1:].transpose(1, 2).unflatten(2, grid)
