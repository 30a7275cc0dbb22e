"""Tensors that belong to a module and go where it goes, and yet are no state of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from torch import Tensor, nn

Move = Callable[[Tensor], Tensor]
"""What ``nn.Module._apply`` does to a tensor: takes it to another device or dtype."""


class FixedTensors(nn.Module):
    """Tensors that nobody trains, for an owner that does not register them.

    As buffers of a model they would be averaged, swapped and broadcast with its buffers: averages of token ids are
    other ids, those of frozen embeddings drift. To a compiler they are buffers all the same.

    Args:
        tensors: by name; ``None`` for one that is yet to come.
    """

    def __init__(self, **tensors: Tensor | None) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Tensor:
            """Gives a tensor, where ``nn.Module``'s own may give a module too."""


class WithFixedTensors(nn.Module):
    """A module with ``FixedTensors``.

    Attributes:
        fixed: the tensors.
    """

    fixed: FixedTensors

    def _fix(self, **tensors: Tensor | None) -> None:
        object.__setattr__(self, "fixed", FixedTensors(**tensors))  # nn.Module's own would register it

    def _move_fixed(self, move: Move) -> None:
        self.fixed._apply(keeping_values(move))

    def _apply(self, fn: Move, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._move_fixed(fn)
        return self


def keeping_values(move: Move) -> Move:
    """The same move for what no checkpoint could bring back.

    ``to_empty`` would lose the values, so they are copied; the device "meta" has none, so nothing goes there.
    """

    def keep(tensor: Tensor) -> Tensor:
        like = move(tensor.new_empty(0))
        return tensor if like.is_meta else tensor.to(like.device, like.dtype)

    return keep
