"""Pictures of label maps: colours, overlays, legends, index PNGs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from trainers.data.batch import IGNORE_INDEX

FONT_SIZE = 14
LINE_HEIGHT = 20
SWATCH = 14


def palette(num_classes: int) -> Tensor:
    """The colours (K,3) uint8 of up to 255 classes, all different, the same for a class whatever K is.

    They are the colours of Pascal VOC without its black: the lowest bits of the class's number go to the
    highest bits of red, green and blue in turn, so the first classes differ most.
    """
    numbers = torch.arange(1, num_classes + 1)
    colors = torch.zeros(num_classes, 3, dtype=torch.int64)
    for bit in range(8):
        colors[:, bit % 3] |= (numbers >> bit & 1) << (7 - bit // 3)
    return colors.to(torch.uint8)


def overlay(image: Tensor, label: Tensor, *, alpha: float = 0.5) -> Tensor:
    """Tint an image with the colours of its label map; ignored pixels stay as they are.

    Args:
        image: (3,H,W) uint8.
        label: (H,W) class ids or ``IGNORE_INDEX``.
        alpha: share of the colour, 0 to 1.

    Returns:
        (3,H,W) uint8.
    """
    colors = palette(IGNORE_INDEX)[label.cpu().clamp(max=IGNORE_INDEX - 1)].permute(2, 0, 1).float()
    tinted = (image.cpu().float() * (1 - alpha) + colors * alpha).round().to(torch.uint8)
    return torch.where(label.cpu() == IGNORE_INDEX, image.cpu(), tinted)


def side_by_side(pictures: Sequence[Tensor], *, gap: int = 4) -> Tensor:
    """Put pictures (3,H,W) uint8 of one height into a row, ``gap`` white pixels apart."""
    space = torch.full((3, pictures[0].shape[1], gap), 255, dtype=torch.uint8)
    return torch.cat([part for picture in pictures for part in (space, picture.cpu())][1:], dim=2)


def with_legend(picture: Tensor, label: Tensor, class_names: Sequence[str]) -> Tensor:
    """Add a strip below a picture that names the colours of the classes in a label map.

    Args:
        picture: (3,H,W) uint8.
        label: class ids in any shape; several maps can be stacked or concatenated.
        class_names: the K names, in the order of the ids.

    Returns:
        (3,H',W') uint8, H' > H; W' > W only where the picture is narrower than a name.
    """
    font = ImageFont.load_default(FONT_SIZE)
    present = [class_id for class_id in label.unique().tolist() if class_id != IGNORE_INDEX]
    cell = SWATCH + 20 + max((math.ceil(font.getlength(class_names[i])) for i in present), default=0)
    width = max(picture.shape[2], cell)
    columns = width // cell
    rows = math.ceil(len(present) / columns)
    strip = Image.new("RGB", (width, rows * LINE_HEIGHT + 6), "white")
    pen = ImageDraw.Draw(strip)
    colors = palette(len(class_names)).tolist()
    for place, class_id in enumerate(present):
        x, y = place % columns * cell + 4, place // columns * LINE_HEIGHT + 4
        pen.rectangle((x, y, x + SWATCH, y + SWATCH), fill=tuple(colors[class_id]), outline="black")
        middle = (x + SWATCH + 5, y + SWATCH / 2)
        pen.text(middle, class_names[class_id], fill="black", font=font, anchor="lm")
    legend = torch.from_numpy(np.array(strip)).permute(2, 0, 1)
    wide = F.pad(picture.cpu(), (0, width - picture.shape[2]), value=255)
    return torch.cat([wide, legend], dim=1)


def save_index_png(label: Tensor, path: str | Path) -> None:
    """Write a label map (H,W) as a palette PNG: pixel values are the class ids, 255 is ignored and white."""
    index = Image.fromarray(label.cpu().to(torch.uint8).numpy())
    # Makes it a palette image of the same values.
    index.putpalette([*palette(IGNORE_INDEX).flatten().tolist(), 255, 255, 255])
    index.save(path, format="PNG")


def save_picture(picture: Tensor, path: str | Path) -> None:
    """Write a picture (3,H,W) uint8; the suffix of ``path`` says in which format."""
    to_pillow(picture).save(path)


def to_pillow(picture: Tensor) -> Image.Image:
    """A picture (3,H,W) uint8 as one of Pillow's, in RGB."""
    return Image.fromarray(picture.cpu().permute(1, 2, 0).contiguous().numpy())
