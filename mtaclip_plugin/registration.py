"""The one file that touches smp's tables."""

from __future__ import annotations

import segmentation_models_pytorch as smp

from mtaclip_plugin.model import MTACLIP


def register() -> None:
    """Makes ``smp.create_model("mtaclip")``, ``smp.MTACLIP`` and ``smp.from_pretrained`` work; idempotent."""
    smp.MODEL_ARCHITECTURES_MAPPING["mtaclip"] = MTACLIP
    smp.MTACLIP = MTACLIP
