"""The statistics of an encoder's norms in training: of each batch, or those that it came with."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def keep_statistics(encoder: nn.Module) -> None:
    """Lets norms that track statistics use what they have, and track no more; until the next ``train()``.

    Their weights learn on, and all else in the encoder, DropPath included, stays as it is. In an encoder without such
    norms, as most transformers are, nothing changes.
    """
    for module in encoder.modules():
        if isinstance(module, _NormBase):
            module.eval()
