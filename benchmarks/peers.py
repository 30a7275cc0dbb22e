"""One training step, and one image to its label map, of this project's model and of its peers, on the same work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from benchmarks.official_flow import official_loss
from mtaclip_plugin import MTACLIP, MTACLIPLoss

TEXT_CHANNELS = 1024
"""T of CLIP's RN50, the paper's."""
NUM_PROMPTS = 3


@dataclass(frozen=True)
class Scene:
    """Random images with blocks of random classes.

    Attributes:
        images: (B, 3, H, W).
        target: (B, H, W) int64.
        num_classes: K.
    """

    images: Tensor
    target: Tensor
    num_classes: int

    @classmethod
    def random(cls, *, batch: int, side: int, num_classes: int, masks: int = 16, device: str = "cpu") -> Scene:
        """Images of ``masks`` square blocks, a square number, each of a class of its own."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch, 3, side, side, generator=generator)
        blocks = round(masks**0.5)
        rows = [torch.randperm(num_classes, generator=generator)[:masks] for _ in range(batch)]
        cells = torch.stack(rows).view(batch, blocks, blocks)
        target = cells.repeat_interleave(side // blocks, 1).repeat_interleave(side // blocks, 2)
        return cls(images.to(device), target.to(device), num_classes)


@dataclass(frozen=True)
class Contender:
    """A model with the loss of one training step; ``loss`` leaves the backward pass to the caller."""

    model: nn.Module
    loss: Callable[[], Tensor]

    def step(self, *, bf16: bool = False) -> None:
        """Forward, loss and backward, with gradients made anew."""
        self.model.zero_grad(set_to_none=True)
        with torch.autocast(next(self.model.parameters()).device.type, torch.bfloat16, enabled=bf16):
            loss = self.loss()
        loss.backward()


def build_mtaclip(
    num_classes: int, *, text_encoder: str | None = "bank", encoder_name: str = "resnet50", **others: object
) -> MTACLIP:
    """The paper's model, with ready text embeddings, a tower of open_clip with random weights, or no text.

    Args:
        num_classes: K.
        text_encoder: of the model.
        encoder_name: of the model.
        **others: options of the model, e.g. fewer layers.
    """
    options: dict[str, object] = {"text_encoder": text_encoder, **others}
    if text_encoder is not None:
        options["class_names"] = [f"class {number}" for number in range(num_classes)]
    if text_encoder == "bank":
        generator = torch.Generator().manual_seed(0)
        options["text_embeddings"] = torch.randn(NUM_PROMPTS, num_classes + 1, TEXT_CHANNELS, generator=generator)
    elif text_encoder is not None:
        options |= {"text_pretrained": None, "num_prompts": NUM_PROMPTS}
    torch.manual_seed(0)
    return smp.create_model("mtaclip", encoder_name=encoder_name, encoder_weights=None, classes=num_classes, **options)


def mtaclip(scene: Scene, *, text_encoder: str | None = "bank") -> Contender:
    """This project's model as it is."""
    model, criterion = (
        build_mtaclip(scene.num_classes, text_encoder=text_encoder).to(scene.images.device),
        MTACLIPLoss(),
    )
    return Contender(model, lambda: criterion(model(scene.images, return_masks=True), scene.target))


class _OfficialStep(nn.Module):
    """A module as a whole, since what counts memory takes modules that are called on their own for whole steps."""

    def __init__(self, model: MTACLIP, criterion: MTACLIPLoss) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        return official_loss(self.model, self.criterion, images, target)


def official(scene: Scene) -> Contender:
    """The same model with the official data flow."""
    model, criterion = build_mtaclip(scene.num_classes).to(scene.images.device), MTACLIPLoss()
    step = _OfficialStep(model, criterion)
    return Contender(step, lambda: step(scene.images, scene.target))


def bare_encoder(scene: Scene) -> Contender:
    """The encoder alone, its four maps averaged in place of a loss."""
    encoder = smp.encoders.get_encoder("resnet50", weights=None).to(scene.images.device)
    return Contender(encoder, lambda: torch.stack([features.mean() for features in encoder(scene.images)[2:]]).sum())


def has_transformers() -> bool:
    """Whether the package of the peer is installed."""
    return find_spec("transformers") is not None


def build_mask2former(num_classes: int) -> nn.Module:
    """Transformers' Mask2Former with a ResNet-50 and random weights."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig

    stages = [f"stage{number}" for number in range(1, 5)]
    backbone = ResNetConfig.from_dict({"out_features": stages})
    config = Mask2FormerConfig.from_dict({"num_queries": 100, "num_labels": num_classes})
    config.backbone_config = backbone
    torch.manual_seed(0)
    model: nn.Module = Mask2FormerForUniversalSegmentation(config)
    return model


def mask2former(scene: Scene) -> Contender:
    """Transformers' Mask2Former, which has no text."""
    model = build_mask2former(scene.num_classes).to(scene.images.device).train()
    classes = [labels.unique() for labels in scene.target]
    masks = [(labels == ids[:, None, None]).float() for labels, ids in zip(scene.target, classes, strict=True)]
    return Contender(model, lambda: model(pixel_values=scene.images, mask_labels=masks, class_labels=classes).loss)
