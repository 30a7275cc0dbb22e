"""A loss of several predictions: at once on a GPU, one after another on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def by_prediction(loss: Callable[..., Tensor], **inputs: Sequence[Tensor] | Tensor | None) -> Tensor:
    """(S) losses of S predictions, for which a GPU is asked once, and a CPU has what its caches hold.

    Args:
        loss: takes leading dimensions.
        **inputs: its inputs by keyword, S of each; those that are ``None`` are left out.
    """
    given = {name: values for name, values in inputs.items() if values is not None}
    if next(iter(given.values()))[0].device.type == "cpu":
        return torch.stack([loss(**dict(zip(given, own, strict=True))) for own in zip(*given.values(), strict=True)])
    return loss(**{name: v if isinstance(v, Tensor) else torch.stack(list(v)) for name, v in given.items()})
