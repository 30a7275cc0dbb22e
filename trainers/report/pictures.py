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
SHOWN_WIDTH = 400
"""Width that programs show a picture at, roughly; text in a wider one is larger, so that it can be read there."""
TINTED_PIXELS = 2**22
"""Pixels that are tinted at a time, in float32."""
MEASURED_PIXELS = 2**20
"""Pixels, roughly, that percentiles are found of."""


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


def visible(image: Tensor, bands: Sequence[int] = (1, 2, 3)) -> Tensor:
    """What can be seen of bands of an image.

    Bands of 8 bits are shown as they are. Of others, each is stretched: black are the darkest 2 % of its pixels in this
    image, and white the brightest 2 %.

    Args:
        image: (C,H,W) uint8, uint16 or float32.
        bands: which are red, green and blue, or the one that is grey, counted from 1.

    Returns:
        (3,H,W) uint8.
    """
    planes = [image[band - 1].cpu() for band in bands]
    shown = torch.stack([plane if plane.dtype == torch.uint8 else _stretched(plane) for plane in planes])
    return shown.expand(3, -1, -1)


def _stretched(plane: Tensor) -> Tensor:
    values = plane.float()
    step = max(1, math.isqrt(values.numel() // MEASURED_PIXELS))
    low, high = values[::step, ::step].flatten().quantile(torch.tensor([0.02, 0.98]))
    return ((values - low) * (255 / (high - low))).nan_to_num_(0).clamp_(0, 255).round_().to(torch.uint8)


def overlay(image: Tensor, label: Tensor, *, alpha: float = 0.5) -> Tensor:
    """Tint an image with the colours of its label map; ignored pixels stay as they are.

    Args:
        image: (3,H,W) uint8.
        label: (H,W) class ids or ``IGNORE_INDEX``.
        alpha: share of the colour, 0 to 1.

    Returns:
        (3,H,W) uint8.
    """
    rows = max(1, TINTED_PIXELS // label.shape[1])
    parts = zip(image.cpu().split(rows, 1), label.cpu().split(rows, 0), strict=True)
    return torch.cat([_tinted(image_rows, label_rows, alpha) for image_rows, label_rows in parts], 1)


def _tinted(image: Tensor, label: Tensor, alpha: float) -> Tensor:
    colors = palette(IGNORE_INDEX)[label.long().clamp(max=IGNORE_INDEX - 1)].permute(2, 0, 1).float()
    tinted = (image.float() * (1 - alpha) + colors * alpha).round().to(torch.uint8)
    return torch.where(label == IGNORE_INDEX, image, tinted)


def outlined(picture: Tensor, mask: Tensor, *, width: int = 2) -> Tensor:
    """Draw a white line around a mask, and a black one around that, to be seen on any ground.

    Args:
        picture: (3,H,W) uint8.
        mask: (H,W) bool.
        width: of each line, in pixels.

    Returns:
        (3,H,W) uint8.
    """
    mask = mask.cpu()

    def grown(pixels: int) -> Tensor:
        return F.max_pool2d(mask[None].float(), 2 * pixels + 1, stride=1, padding=pixels)[0] > 0

    near, far = grown(width), grown(2 * width)
    return picture.cpu().masked_fill(far & ~near, 0).masked_fill(near & ~mask, 255)


def magnify(picture: Tensor, side: int) -> Tensor:
    """Repeat the pixels of a small picture (3,H,W) as often as its longer side comes nearest to ``side`` pixels."""
    times = max(1, round(side / max(picture.shape[1:])))
    return picture.repeat_interleave(times, 1).repeat_interleave(times, 2)


def side_by_side(pictures: Sequence[Tensor], captions: Sequence[str], *, gap: int = 4) -> Tensor:
    """Put pictures (3,H,W) uint8 of one height into a row, ``gap`` white pixels apart, each below its caption."""
    space = torch.full((3, pictures[0].shape[1], gap), 255, dtype=torch.uint8)
    row = torch.cat([part for picture in pictures for part in (space, picture.cpu())][1:], dim=2)
    size = _font_size(row.shape[2])
    strip = Image.new("RGB", (row.shape[2], round(1.5 * size)), "white")
    left = 0
    for picture, caption in zip(pictures, captions, strict=True):
        middle = (left + picture.shape[2] / 2, strip.height / 2)
        ImageDraw.Draw(strip).text(middle, caption, fill="black", font=ImageFont.load_default(size), anchor="mm")
        left += picture.shape[2] + gap
    return torch.cat([_from_pillow(strip), row], dim=1)


def with_legend(picture: Tensor, label: Tensor, class_names: Sequence[str]) -> Tensor:
    """Add a strip below a picture that names the colours of the classes in a label map.

    Args:
        picture: (3,H,W) uint8.
        label: class ids in any shape; several maps can be stacked or concatenated.
        class_names: the K names, in the order of the ids.

    Returns:
        (3,H',W') uint8, H' > H; W' > W only where the picture is narrower than a name.
    """
    size = _font_size(picture.shape[2])  # of the text and of the squares
    line = round(1.5 * size)
    font = ImageFont.load_default(size)
    counts = label.flatten().bincount(minlength=IGNORE_INDEX)[:IGNORE_INDEX]
    present = counts.nonzero().flatten().tolist()
    cell = round(2.4 * size) + max((math.ceil(font.getlength(class_names[i])) for i in present), default=0)
    width = max(picture.shape[2], cell)
    columns = width // cell
    rows = math.ceil(len(present) / columns)
    strip = Image.new("RGB", (width, rows * line + size // 2), "white")
    pen = ImageDraw.Draw(strip)
    colors = palette(len(class_names)).tolist()
    for place, class_id in enumerate(present):
        x, y = place % columns * cell + size // 4, place // columns * line + size // 4
        pen.rectangle((x, y, x + size, y + size), fill=tuple(colors[class_id]), outline="black")
        middle = (x + round(1.4 * size), y + size / 2)
        pen.text(middle, class_names[class_id], fill="black", font=font, anchor="lm")
    wide = F.pad(picture.cpu(), (0, width - picture.shape[2]), value=255)
    return torch.cat([wide, _from_pillow(strip)], dim=1)


def _font_size(width: int) -> int:
    return round(FONT_SIZE * max(1.0, width / SHOWN_WIDTH))


def _from_pillow(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


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
