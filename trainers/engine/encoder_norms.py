"""The statistics of an encoder's norms in training: of each batch, or those that it came with."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def check_statistics(encoder: nn.Module) -> None:
    """Refuses an encoder whose norms have no statistics that could be kept.

    Raises:
        ValueError: They are those that every norm begins with.
    """
    means = [module.running_mean for module in encoder.modules() if isinstance(module, _NormBase)]
    tracked = [mean for mean in means if mean is not None]
    if tracked and not any(mean.any() for mean in tracked):
        raise ValueError(
            "--optim.freeze_norms keeps the statistics of the encoder's norms, and this one was never trained; give it "
            "--model.encoder_weights, or set --optim.freeze_norms to false."
        )


def keep_statistics(encoder: nn.Module) -> None:
    """Lets norms that track statistics use what they have, and track no more; until the next ``train()``.

    Their weights learn on, and all else in the encoder, DropPath included, stays as it is. In an encoder without such
    norms, as most transformers are, nothing changes.
    """
    for module in encoder.modules():
        if isinstance(module, _NormBase):
            module.eval()
