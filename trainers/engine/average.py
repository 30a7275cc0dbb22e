"""The moving average of a model's weights, for all of them at once."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import Tensor


class MovingAverage(EMAHandler):
    """Ignite's handler, with a few operations a step where it has two for each weight: a GPU waits for their number.

    Buffers are averaged too; those of whole numbers are the model's own.
    """

    @torch.no_grad()
    def _update_ema_model(self, engine: Engine, name: str) -> None:
        momentum = getattr(engine.state, name)
        averages: list[Tensor] = list(self.ema_model.parameters())
        values: list[Tensor] = [parameter.detach() for parameter in self.model.parameters()]
        for average, value in zip(self.ema_model.buffers(), self.model.buffers(), strict=True):
            if value.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.data = value.data
        torch._foreach_mul_(averages, 1 - momentum)
        torch._foreach_add_(averages, values, alpha=momentum)
