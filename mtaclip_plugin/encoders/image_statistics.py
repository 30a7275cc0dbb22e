"""Mean and standard deviation of the images that an encoder's weights were trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import segmentation_models_pytorch as smp
import timm
from segmentation_models_pytorch.base import SegmentationModel
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from mtaclip_plugin.encoders.clip import ClipEncoder
from mtaclip_plugin.encoders.names import timm_name

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """What images in [0, 1] are normalised with: ``(image - mean) / std``.

    Attributes:
        mean: of red, green and blue.
        std: of red, green and blue.

    Example:
        >>> import torch, mtaclip_plugin as mta
        >>> colours = mta.Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> image = torch.ones(3, 2, 2)
        >>> ((image - torch.tensor(colours.mean).view(3, 1, 1)) / torch.tensor(colours.std).view(3, 1, 1)).max()
        tensor(2.)
    """

    mean: Colour
    std: Colour


def preprocessing(model: SegmentationModel) -> Preprocessing:
    """What the images of a model's encoder are to be normalised with.

    That is what the model was built with as ``image_mean`` and ``image_std``, and otherwise what the weights were
    trained with: as open_clip says for ``"clip"``, timm for its models, and smp for its own ones where the model's
    configuration names weights; ImageNet's otherwise.

    Args:
        model: an ``MTACLIP`` or another model of smp, with three input channels.

    Raises:
        ValueError: if the model takes other than three channels: nothing is known of them.
        ConnectionError: if smp's parameters could not be fetched.

    Example:
        >>> import mtaclip_plugin as mta
        >>> model = mta.MTACLIP("tu-resnet18", encoder_weights=None, classes=3, text_encoder=None)
        >>> mta.preprocessing(model)
        Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    """
    config: dict[str, Any] = model.config
    if config["in_channels"] != 3:
        raise ValueError(
            f"mean and standard deviation are known for three channels, the model takes {config['in_channels']}; "
            "take those of your own images"
        )
    mean, std = config.get("image_mean"), config.get("image_std")
    if mean is not None and std is not None:
        return _preprocessing(mean, std)
    weights = _of_weights(model.encoder, config)
    return _preprocessing(mean or weights.mean, std or weights.std)


def _of_weights(encoder: nn.Module, config: dict[str, Any]) -> Preprocessing:
    if isinstance(encoder, ClipEncoder):
        return _preprocessing(encoder.image_mean.tolist(), encoder.image_std.tolist())
    name, weights = config["encoder_name"], config["encoder_weights"]
    if (architecture := timm_name(name)) is not None:
        settings = timm.get_pretrained_cfg(architecture)
        if settings is not None:
            return _preprocessing(settings.mean, settings.std)
    elif weights is not None:
        try:
            parameters = smp.encoders.get_preprocessing_params(name, weights)
        except OSError as error:
            raise ConnectionError(
                f"mean and standard deviation of the weights '{weights}' of encoder '{name}' could not be fetched; "
                "connect to the network, or fill the hub's cache beforehand"
            ) from error
        return _preprocessing(parameters["mean"], parameters["std"])
    return _preprocessing(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def _preprocessing(mean: Any, std: Any) -> Preprocessing:
    (red, green, blue), (red_std, green_std, blue_std) = mean, std
    return Preprocessing((red, green, blue), (red_std, green_std, blue_std))
