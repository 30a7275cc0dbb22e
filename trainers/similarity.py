"""A picture of how similar the text embeddings of the classes are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_COLD = np.array((38, 84, 163), dtype=np.float32)
_NEUTRAL = np.array((247, 247, 247), dtype=np.float32)
_WARM = np.array((178, 24, 43), dtype=np.float32)


def similarity_matrix(text_embeddings: Tensor) -> Tensor:
    """Cosines of all prompts with each other, a class's prompts side by side.

    Args:
        text_embeddings: (P, K, T).

    Returns:
        (P·K, P·K) in [-1, 1].
    """
    rows = F.normalize(text_embeddings.float(), dim=-1).transpose(0, 1).flatten(0, 1)
    return rows @ rows.T


def similarity_picture(matrix: Tensor, class_names: Sequence[str]) -> Tensor:
    """Draws a similarity matrix with the class names at its rows and columns.

    Args:
        matrix: (P·K, P·K) cosines: -1 is drawn blue, 0 white, 1 red.
        class_names: K names.

    Returns:
        (3, H, W) uint8.
    """
    prompts = len(matrix) // len(class_names)
    font = ImageFont.load_default(12)
    line = 16
    cell = max(2, -(-line // prompts))  # a class is at least as high as its name
    side = cell * len(matrix)
    margin = 8 + max(int(font.getlength(name)) for name in class_names)

    rows, columns = (Image.new("RGB", (margin, side), "white") for _ in range(2))
    for index, name in enumerate(class_names):
        middle = round((index + 0.5) * prompts * cell)
        ImageDraw.Draw(rows).text((margin - 4, middle), name, fill="black", font=font, anchor="rm")
        ImageDraw.Draw(columns).text((4, middle), name, fill="black", font=font, anchor="lm")

    heat = Image.fromarray(_colors(matrix)).resize((side, side), Image.Resampling.NEAREST)
    picture = Image.new("RGB", (margin + side, margin + side), "white")
    picture.paste(rows, (0, margin))
    picture.paste(columns.transpose(Image.Transpose.ROTATE_90), (margin, 0))
    picture.paste(heat, (margin, margin))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _colors(matrix: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    strength = matrix.detach().cpu().numpy().clip(-1, 1)[..., None]
    end = np.where(strength < 0, _COLD, _WARM)
    return (_NEUTRAL + np.abs(strength) * (end - _NEUTRAL)).round().astype(np.uint8)
