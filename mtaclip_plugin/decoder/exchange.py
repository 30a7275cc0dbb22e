"""The decoder for another class list: what it holds of each class follows the names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from mtaclip_plugin.decoder.mask_text_decoder import MaskTextDecoder

Rows = Sequence[int | None]
"""Where the classes of the new list are in the present one; ``None`` for new ones."""


def select_classes(decoder: MaskTextDecoder, rows: Rows, *, positions_of: int | None) -> None:
    """Puts the class head's outputs, the mask queries and the positions of text tokens into the new order.

    Args:
        decoder: what is changed.
        rows: of the K classes and of "none", which is last.
        positions_of: P, where each text token has a position of its own; ``None`` where it has not.
    """
    decoder.head.class_head = _select_outputs(decoder.head.class_head, rows)
    order = query_order(rows[:-1], decoder.num_queries)
    with torch.no_grad():
        for embedding in (decoder.mask_queries, decoder.mask_positions):
            embedding.weight.copy_(embedding.weight[order])
    if positions_of is not None:
        old = decoder.text_positions.weight.detach().unflatten(0, (positions_of, -1))
        positions = old[:, [row for row in rows if row is not None]].flatten(0, 1)
        decoder.text_positions = nn.Embedding.from_pretrained(positions, freeze=False)


def query_order(rows: Rows, num_queries: int) -> list[int]:
    """Which mask query comes to which place, so that query k stays that of class k.

    Places of new classes are filled with queries of classes that leave, then with spare ones. So no query is lost:
    to an assignment that knows no order of queries, nothing has changed.

    Args:
        rows: of the K classes.
        num_queries: Q; classes from the Q-th on have no query.
    """
    kept = {place: row for place, row in enumerate(rows[:num_queries]) if row is not None and row < num_queries}
    free = iter(sorted(set(range(num_queries)) - set(kept.values())))
    return [kept[place] if place in kept else next(free) for place in range(num_queries)]


def _select_outputs(linear: nn.Linear, rows: Rows) -> nn.Linear:
    """A linear layer with these outputs of another one, and those that are ``None`` initialised anew."""
    weight = linear.weight
    selected = nn.Linear(linear.in_features, len(rows), device=weight.device, dtype=weight.dtype)
    kept = [index for index, row in enumerate(rows) if row is not None]
    source = [row for row in rows if row is not None]
    with torch.no_grad():
        selected.weight[kept] = weight[source]
        selected.bias[kept] = linear.bias[source]
    return selected
