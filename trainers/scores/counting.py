"""How often class ids occur, for which no device is waited for."""

from __future__ import annotations

import torch
from torch import Tensor


def count_ids(ids: Tensor, where: Tensor, number: int) -> Tensor:
    """(number,) int64 how often each of as many ids occurs.

    Args:
        ids: integers of any shape, in [0, number) wherever they count.
        where: bool of the same shape, which of them count.
        number: how many ids there are.
    """
    # A GPU would have to say how many count, and which is the largest; so those that don't have a place of their own.
    places = ids.long().masked_fill(~where, number).flatten()
    return places.new_zeros(number + 1).scatter_add_(0, places, torch.ones_like(places))[:number]
