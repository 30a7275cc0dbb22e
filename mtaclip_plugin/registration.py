"""Where this architecture meets smp's own: the one file that touches smp's tables, and the way from its models."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from torch import nn

from mtaclip_plugin.encoders import find_maps, timm_name
from mtaclip_plugin.encoders.dpt import take_any_size
from mtaclip_plugin.encoders.swin import swin_options
from mtaclip_plugin.model import MTACLIP

_RECORDED = ("encoder_name", "encoder_depth", "in_channels", "classes")

_RETIRED = {"decoder_use_batchnorm", "psp_use_batchnorm", "upscale_mode"}
"""Old names of smp's decoder options: in a model's configuration they look like options of its encoder."""


def register() -> None:
    """Makes ``smp.create_model("mtaclip")``, ``smp.MTACLIP`` and ``smp.from_pretrained`` work; idempotent.

    Importing ``mtaclip_plugin`` calls it.

    Example:
        >>> import segmentation_models_pytorch as smp
        >>> import mtaclip_plugin
        >>> smp.MTACLIP is mtaclip_plugin.MTACLIP
        True
    """
    smp.MODEL_ARCHITECTURES_MAPPING["mtaclip"] = MTACLIP
    smp.MTACLIP = MTACLIP


def swap_decoder(model: SegmentationModel, class_names: Sequence[str] | None = None, **options: Any) -> MTACLIP:
    """Puts the mask-text decoder in the place of the one that a model of smp has; the encoder stays.

    The result's encoder is the very object that the model has: its weights, what is frozen of it, and its device and
    dtype are kept, and the two models share it from then on. All else starts anew. Nothing is downloaded for the
    encoder, neither now nor when the result is saved and loaded: it does not record which weights the encoder began
    with. Where those are weights of smp that were trained with other colours than ImageNet's, ask ``preprocessing``
    of the model that is swapped.

    Args:
        model: a model of any architecture of smp. Of a DPT's maps the deepest is used. As in the DPT itself the last
            norm and the head of its vision transformer take no part, so that ``DistributedDataParallel`` needs
            ``find_unused_parameters=True``; from then on it takes images of any size.
        class_names: K names in the order of the label ids; not needed without text or for one class.
        **options: further arguments of ``MTACLIP``, but none of the encoder. ``classes`` and ``aux_params`` are the
            model's own if not given; K follows ``class_names`` where these are.

    Returns:
        The new model, in the mode (training or evaluation) of the old one.

    Raises:
        ValueError: if the encoder can not be built anew from what the model records, has no maps of the strides
            needed, or takes images of one size; and as ``MTACLIP`` does.

    Example:
        >>> import segmentation_models_pytorch as smp, mtaclip_plugin as mta
        >>> unet = smp.Unet("resnet18", encoder_weights=None, classes=2)
        >>> model = mta.swap_decoder(unet, text_encoder=None)
        >>> model.encoder is unet.encoder
        True
    """
    recorded, encoder_options = _recorded(model)
    if class_names is not None:
        recorded["classes"] = len(class_names)
    swapped = MTACLIP(
        encoder_name=recorded["encoder_name"],
        encoder_depth=recorded["encoder_depth"],
        in_channels=recorded["in_channels"],
        encoder_weights=None,
        class_names=class_names,
        **({"classes": recorded["classes"], "aux_params": model.config.get("aux_params")} | encoder_options | options),
    )
    if isinstance(model.encoder, TimmViTEncoder):
        take_any_size(model.encoder)
    if not _alike(swapped.encoder, model.encoder, recorded["in_channels"]):
        raise ValueError(
            f"the encoder of this {type(model).__name__} is not the one that its configuration describes "
            f"(encoder_name='{recorded['encoder_name']}'), so the result could not be saved and loaded; build an "
            "MTACLIP with that encoder and copy the weights that fit"
        )
    parameter = next(model.encoder.parameters())
    swapped.to(parameter.device, parameter.dtype)
    swapped.encoder = model.encoder
    swapped._is_encoder_frozen = model._is_encoder_frozen
    if swapped._is_encoder_frozen:
        swapped.encoder.eval()
    return swapped.train(model.training)


def _recorded(model: SegmentationModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the model was built with: the arguments that all models of smp have, and further ones of its encoder."""
    if not isinstance(model, SegmentationModel):
        raise ValueError(
            f"swap_decoder takes a model of segmentation_models_pytorch as it was built, got {type(model).__name__}"
        )
    config = model.config
    if missing := [name for name in _RECORDED if name not in config]:
        raise ValueError(f"{type(model).__name__} does not record its {missing[0]}; swap a model of smp's own classes")
    own = inspect.signature(type(model).__init__).parameters
    options = {name: value for name, value in config.items() if name not in own and name not in _RETIRED}
    if timm_name(config["encoder_name"]) is None:  # smp ignores what its own encoders do not take
        options = {name: value for name, value in options.items() if name == "output_stride"}
    if "encoder_output_stride" in config:
        options["output_stride"] = config["encoder_output_stride"]
    options |= swin_options(model.encoder)
    recorded = {name: config[name] for name in _RECORDED}
    if isinstance(model.encoder, TimmViTEncoder):
        # Its stages are no more than the blocks whose outputs it gives.
        options["output_indices"] = [model.encoder._output_indices[-1]]
        recorded |= {"encoder_name": f"dpt:{timm_name(config['encoder_name'])}", "encoder_depth": 5}
    return recorded, options


def _alike(first: nn.Module, second: nn.Module, in_channels: int) -> bool:
    """Whether two encoders have parameters of the same names and shapes, and give the same maps."""
    layouts = [{name: value.shape for name, value in encoder.state_dict().items()} for encoder in (first, second)]
    return layouts[0] == layouts[1] and find_maps(first, in_channels) == find_maps(second, in_channels)
