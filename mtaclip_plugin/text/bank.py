"""Ready text embeddings instead of a tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtaclip_plugin.text.fixed import Move, WithFixedTensors


class EmbeddingBank(WithFixedTensors):
    """A fixed (P, K+1, T) bank, or a (K, T) bank with a learned row for "none".

    It is saved and loaded as a buffer, but is none.

    Args:
        shape: (P, K+1, T), or (K, T) for one prompt a class and a learned "none".
        embeddings: the bank, which is copied; ``None`` leaves zeros for a checkpoint to fill.
    """

    def __init__(self, shape: Sequence[int], embeddings: Tensor | None = None) -> None:
        super().__init__()
        # A copy: the caller's may be expanded, made in inference mode, or another model's too.
        values = torch.zeros(*shape)
        if embeddings is not None:
            values.copy_(embeddings.detach())
        self._fix(embeddings=values)
        self.text_channels = shape[-1]
        self.num_prompts = shape[0] if len(shape) == 3 else 1
        self.none_embedding: nn.Parameter | None = None
        if len(shape) == 2:
            self.none_embedding = nn.Parameter(F.normalize(torch.randn(1, shape[-1]), dim=-1))

    @property
    def embeddings(self) -> Tensor:
        """(P, K+1, T), or (K, T) without "none"."""
        return self.fixed.embeddings

    @embeddings.setter
    def embeddings(self, embeddings: Tensor) -> None:
        self.fixed.embeddings = embeddings

    def forward(self) -> Tensor:
        """(P, K+1, T) text embeddings, "none" last."""
        if self.none_embedding is None:
            return self.embeddings
        return torch.cat([self.embeddings, self.none_embedding]).unsqueeze(0)

    def encoded(self) -> Tensor:
        """The same: nothing needs to be encoded."""
        return self()

    def _move_fixed(self, move: Move) -> None:
        self.fixed._apply(move)  # a checkpoint has the values

    @contextmanager
    def _registered(self) -> Iterator[None]:
        self._buffers["embeddings"] = self.embeddings
        try:
            yield
        finally:
            self.embeddings = cast("Tensor", self._buffers.pop("embeddings"))

    def _save_to_state_dict(self, *args: Any) -> None:
        with self._registered():
            super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        with self._registered():
            super()._load_from_state_dict(*args)


def build_bank(
    source: Tensor | np.ndarray | str | Path | None, shape: Sequence[int] | None, classes: int
) -> EmbeddingBank:
    """A bank of given embeddings, or one of a shape whose values a checkpoint brings.

    Args:
        source: the embeddings, or where they lie.
        shape: their shape, where there are none yet.
        classes: K.

    Raises:
        ValueError: if there is neither, or they do not suit K classes.
        FileNotFoundError: if there is no such file.
    """
    if source is None and shape is None:
        raise ValueError("text_encoder='bank' needs text_embeddings=, a tensor or a .npy or .safetensors file")
    embeddings = None if source is None else load_embeddings(source)
    shape = check_bank_shape(embeddings.shape if embeddings is not None else shape or (), classes)
    return EmbeddingBank(shape, embeddings)


def check_bank_shape(shape: Sequence[int], num_classes: int) -> tuple[int, ...]:
    """The shape as a tuple, if it suits K classes.

    Raises:
        ValueError: if it is neither (P, K+1, T) nor (K, T).
    """
    shape = tuple(shape)
    rows = {2: shape[:1] == (num_classes,), 3: shape[1:2] == (num_classes + 1,)}
    if rows.get(len(shape), False) and min(shape) > 0:
        return shape
    raise ValueError(
        f"text embeddings of shape {shape} for {num_classes} classes; expected (K, T) = ({num_classes}, T), or "
        f"(P, K+1, T) = (P, {num_classes + 1}, T) with 'none' last"
    )


def load_embeddings(source: Tensor | np.ndarray | str | Path) -> Tensor:
    """Text embeddings from a tensor, an array, a ``.npy`` file or a ``.safetensors`` file with one tensor.

    Args:
        source: the embeddings, or where they lie.

    Returns:
        (P, K+1, T) or (K, T), float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no such file, or the values are not finite numbers.
    """
    embeddings = _read(Path(source)) if isinstance(source, str | Path) else source
    if isinstance(embeddings, np.ndarray) and embeddings.dtype.kind == "f":
        with np.errstate(over="ignore"):  # torch knows neither another byte order nor a reversed axis
            embeddings = torch.from_numpy(embeddings.astype(np.float32))
    if isinstance(embeddings, Tensor) and embeddings.is_floating_point():
        embeddings = embeddings.float()
        if embeddings.isfinite().all():
            return embeddings
    else:
        kind = getattr(embeddings, "dtype", type(embeddings).__name__)
        raise ValueError(f"text embeddings must be a tensor or an array of floating-point numbers, got {kind}")
    raise ValueError("text embeddings must be finite numbers in float32, but some are infinite or NaN")


def _read(path: Path) -> Tensor | np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"no text embeddings at '{path}'; pass a .npy or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            tensors = safetensors.torch.load_file(path)
            if len(tensors) != 1:
                raise ValueError(f"it holds the tensors {sorted(tensors)}, expected one")
            return next(iter(tensors.values()))
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)  # a pickle could run any code
    except Exception as error:  # what a damaged file ends in, depends on the byte
        raise ValueError(f"'{path}' is no readable file of text embeddings ({error})") from error
