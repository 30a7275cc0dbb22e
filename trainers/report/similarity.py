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
    """Draws a similarity matrix with the class names at its rows and columns, and the scale of its colours below.

    Args:
        matrix: (P·K, P·K) cosines: -1 is drawn blue, 0 white, 1 red.
        class_names: K names.

    Returns:
        (3, H, W) uint8.
    """
    prompts = len(matrix) // len(class_names)
    line = max(16, min(28, 640 // len(class_names)))  # few names are written large
    font = ImageFont.load_default(line * 3 // 4)
    cell = max(2, -(-line // prompts))  # a class is at least as high as its name
    side = cell * len(matrix)
    margin = 8 + max(int(font.getlength(name)) for name in class_names)

    rows, columns = (Image.new("RGB", (margin, side), "white") for _ in range(2))
    for index, name in enumerate(class_names):
        middle = round((index + 0.5) * prompts * cell)
        ImageDraw.Draw(rows).text((margin - 4, middle), name, fill="black", font=font, anchor="rm")
        ImageDraw.Draw(columns).text((4, middle), name, fill="black", font=font, anchor="lm")

    picture = Image.new("RGB", (margin + side, margin + side + 3 * line), "white")
    picture.paste(rows, (0, margin))
    picture.paste(columns.transpose(Image.Transpose.ROTATE_90), (margin, 0))
    picture.paste(_heat(matrix, (side, side)), (margin, margin))
    scale = margin + side + line
    picture.paste(_heat(torch.linspace(-1, 1, side)[None], (side, line)), (margin, scale))
    for place, anchor, text in ((0, "la", "-1"), (side // 2, "ma", "0"), (side, "ra", "1")):
        ImageDraw.Draw(picture).text((margin + place, scale + line), text, fill="black", font=font, anchor=anchor)
    ImageDraw.Draw(picture).text((margin - 4, scale + line / 2), "cosine", fill="black", font=font, anchor="rm")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _heat(cosines: Tensor, size: tuple[int, int]) -> Image.Image:
    """Cosines (H, W) as colours, of ``size`` (width, height) in pixels."""
    strength = cosines.detach().cpu().numpy().clip(-1, 1)[..., None]
    end = np.where(strength < 0, _COLD, _WARM)
    colors = (_NEUTRAL + np.abs(strength) * (end - _NEUTRAL)).round().astype(np.uint8)
    return Image.fromarray(colors).resize(size, Image.Resampling.NEAREST)
