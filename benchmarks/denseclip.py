"""Text aligned with *pixels*, the way of DenseCLIP: a peer for the trainer, as the architecture "denseclip".

Rao, Zhao, Chen, Tang, Zhu, Huang, Zhou, Lu: "DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting",
CVPR 2022. Of it this is the score map and its auxiliary loss, on smp's FPN. In place of learned prompts it has a bank
of text embeddings, as "mtaclip" can have: the same text, aligned with pixels here and with masks there. So it can be
given other names, too: those the score map alone can tell, at its stride of 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationHead, SegmentationModel
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from torch import Tensor, nn

from mtaclip_plugin.text import check_class_names, load_embeddings
from mtaclip_plugin.text.bank import check_bank_shape
from trainers.engine.criteria import Part, PixelCriterion, mean_cross_entropy, register_criterion
from trainers.engine.forward import Forward

TEMPERATURE = 0.07
"""What cosines are divided by to be the auxiliary logits."""
SCORE_MAP_WEIGHT = 0.4
"""Weight of the cross-entropy of the auxiliary logits."""


class TextSimilarity(nn.Module):
    """Cosines of each position of a map with the text of each class.

    Args:
        bank: text embeddings (K, T), or (P, K+1, T) with "none" last. Of several prompts a class gets the mean of their
            directions, and "none" is left out.
    """

    embeddings: Tensor

    def __init__(self, bank: Tensor) -> None:
        super().__init__()
        directions = F.normalize(bank.detach(), dim=-1)
        if bank.ndim == 3:
            directions = F.normalize(directions[:, :-1].mean(0), dim=-1)
        self.register_buffer("embeddings", directions)

    def forward(self, features: Tensor) -> Tensor:
        """A map (B, T, h, w) to its score map (B, K, h, w), numbers from -1 to 1."""
        # The temperature makes much of differences that half precision does not have.
        with torch.autocast(features.device.type, enabled=False):
            features = F.normalize(features.to(self.embeddings.dtype), dim=1)
            return torch.einsum("bthw,kt->bkhw", features, self.embeddings)


class DenseCLIP(SegmentationModel):
    """smp's FPN, whose deepest map comes with the cosines of its positions with the text of each class.

    Args:
        encoder_name: an encoder of smp with maps at strides 4 to 32, or a timm model as ``tu-NAME``.
        encoder_weights: name of pretrained weights; ``None`` for random ones.
        in_channels: image channels.
        classes: K.
        class_names: K names in the order of the label ids, as the rows of the text embeddings are.
        text_embeddings: a tensor, an array, or a ``.npy`` or ``.safetensors`` file, of shape (K, T), or (P, K+1, T)
            with "none" last. ``save_pretrained`` does not keep a tensor: pass it to ``smp.from_pretrained`` again.

    Attributes:
        class_names: the names that it knows now; ``None`` if there are none.
        trained_names: those that its head was made for.

    Raises:
        ValueError: for no text embeddings, or ones that do not suit K classes.
        FileNotFoundError: if there is no such file of text embeddings.

    Example:
        >>> import torch
        >>> from benchmarks.denseclip import DenseCLIP
        >>> model = DenseCLIP("resnet18", encoder_weights=None, classes=2, text_embeddings=torch.eye(2))
        >>> model(torch.rand(2, 3, 64, 96)).shape
        torch.Size([2, 2, 64, 96])
    """

    _is_torch_scriptable = False

    @supports_config_loading
    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_weights: str | None = "imagenet",
        in_channels: int = 3,
        classes: int = 1,
        class_names: Sequence[str] | None = None,
        text_embeddings: Tensor | np.ndarray | str | Path | None = None,
    ) -> None:
        super().__init__()
        if text_embeddings is None:
            raise ValueError("DenseCLIP needs text_embeddings=, a tensor or a .npy or .safetensors file")
        bank = load_embeddings(text_embeddings)
        *_, text_channels = check_bank_shape(bank.shape, classes)
        self.class_names = self.trained_names = None if class_names is None else check_class_names(class_names, classes)
        self.encoder = smp.encoders.get_encoder(encoder_name, in_channels=in_channels, depth=5, weights=encoder_weights)
        *shallower, deepest = self.encoder.out_channels
        self.projection = nn.Conv2d(deepest, text_channels, kernel_size=1)
        self.prompts = TextSimilarity(bank)
        self.decoder = FPNDecoder([*shallower, deepest + classes])
        self.segmentation_head = SegmentationHead(self.decoder.out_channels, classes, kernel_size=1, upsampling=4)
        self.classification_head = None
        self.name = f"denseclip-{encoder_name}"
        self.initialize()

    def set_text_embeddings(
        self, source: Tensor | np.ndarray | str | Path, class_names: Sequence[str] | None = None
    ) -> None:
        """Puts other text in the place of the present one; with other names, the score map alone says what is where.

        Args:
            source: see ``text_embeddings``.
            class_names: its names, if other than the present ones. They are not saved with the model.

        Raises:
            ValueError: if the model has no names to compare with, or the text suits neither it nor the names.
            FileNotFoundError: if there is no such file.
        """
        names = self.class_names if class_names is None else class_names
        if names is None or self.trained_names is None:
            raise ValueError("the model's classes have no names to compare with; build it with class_names=[...]")
        names, bank = check_class_names(names, len(names)), load_embeddings(source)
        *_, text_channels = check_bank_shape(bank.shape, len(names))
        if text_channels != self.projection.out_channels:
            raise ValueError(
                f"the text embeddings have T={text_channels} numbers each, the model takes "
                f"T={self.projection.out_channels}"
            )
        self.prompts = TextSimilarity(bank.to(self.prompts.embeddings))
        self.class_names = names

    def forward(self, x: Tensor, return_auxiliary: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Segments images whose sides are multiples of the encoder's stride.

        Args:
            x: (B, C, H, W) normalised images.
            return_auxiliary: whether to return what the score map alone says, too.

        Returns:
            (B, K, H, W) logits; with ``return_auxiliary`` a pair of these and the score map, over the temperature and
            resized to (B, K, H, W).

        Raises:
            RuntimeError: from smp, for images of other sides.
        """
        if not (torch.jit.is_tracing() or torch.compiler.is_compiling()):  # type: ignore[attr-defined]
            self.check_input_shape(x)
        *shallower, deepest = self.encoder(x)
        scores = self.prompts(self.projection(deepest))
        if self.class_names != self.trained_names:
            auxiliary = _auxiliary_logits(scores, x)
            return (auxiliary, auxiliary) if return_auxiliary else auxiliary
        logits: Tensor = self.segmentation_head(self.decoder([*shallower, torch.cat([deepest, scores], dim=1)]))
        if not return_auxiliary:
            return logits
        return logits, _auxiliary_logits(scores, x)


def _auxiliary_logits(scores: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(scores / TEMPERATURE, size=images.shape[-2:], mode="bilinear")


class DenseCLIPCriterion(PixelCriterion):
    """Cross-entropy + dice on the logits (B, K, H, W), and cross-entropy on those of the score map."""

    def forward(self, model: Forward, part: Part) -> dict[str, Tensor]:
        """The terms of `PixelCriterion`, and "score_map" (mean over the labelled pixels; 0 if there is none)."""
        logits, auxiliary = model(part.images, return_auxiliary=True)
        return self.terms(logits, part) | {"score_map": SCORE_MAP_WEIGHT * mean_cross_entropy(auxiliary, part)}


def register() -> None:
    """Makes ``smp.create_model("denseclip")``, ``smp.DenseCLIP`` and the trainer's "denseclip" work; idempotent."""
    smp.MODEL_ARCHITECTURES_MAPPING["denseclip"] = DenseCLIP
    smp.DenseCLIP = DenseCLIP
    register_criterion("denseclip", lambda **_: DenseCLIPCriterion())


register()
