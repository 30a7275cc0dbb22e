"""Names of encoders: whose they are, and which are alike."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import segmentation_models_pytorch as smp
import timm

SUGGESTION = "choose one with maps at strides 4 to 32, such as 'resnet50', 'mit_b2' or 'tu-convnext_tiny'"


def timm_name(name: str) -> str | None:
    """The timm model of an encoder's name, ``None`` if it is not one of timm's."""
    return next((name.removeprefix(kind) for kind in ("tu-", "dpt:") if name.startswith(kind)), None)


def check_encoder_name(name: str) -> None:
    """Refuses a name that is neither one of smp's encoders nor a timm model's, and says which are alike.

    Raises:
        ValueError: for an unknown name.
    """
    if (architecture := timm_name(name)) is not None:
        if not timm.is_model(architecture):
            kind = name.removesuffix(architecture)
            close = [f"{kind}{c}" for c in difflib.get_close_matches(architecture, timm.list_models())]
            raise ValueError(f"timm has no model '{architecture}'{_did_you_mean(close)}")
    elif not name.startswith("timm-") and name not in smp.encoders.get_encoder_names():
        names = smp.encoders.get_encoder_names()
        close = difflib.get_close_matches(name, names)
        if timm.is_model(name):
            close = [f"tu-{name}", *close]
        raise ValueError(f"unknown encoder '{name}'{_did_you_mean(close)}")


def _did_you_mean(close: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else f"; {SUGGESTION}"
