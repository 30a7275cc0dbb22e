"""Images, their labels and the predictions of several models, as one small PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageFont
from torch import Tensor
from torch.nn import functional as F

from trainers.data.batch import IGNORE_INDEX
from trainers.foundation.errors import UserError
from trainers.report.pictures import FONT_SIZE, magnify, overlay, palette, side_by_side, to_pillow, with_legend

LARGEST_FILE = 200_000
SIDES = (320, 280, 240, 210, 180, 160, 140, 120, 100)
"""Longer sides that a picture of an image may have, in pixels; the first is taken whose file is small enough."""
PHOTO_COLORS, GREYS, GAP = 48, 6, 6


@dataclass(frozen=True)
class Row:
    """An image and what M models see in it.

    Attributes:
        name: of the image.
        image: (3, H, W) uint8.
        labels: (1+M, H, W) int64 class ids, the truth first; pixels that are ignored there are white everywhere.
        captions: M captions of the predictions.
    """

    name: str
    image: Tensor
    labels: Tensor
    captions: Sequence[str]


def failure_png(rows: Sequence[Row], class_names: Sequence[str]) -> bytes:
    """A PNG below 200 KB of the rows, image, truth and predictions in each, above a legend.

    Label maps are drawn in plain colours, because a photo that shines through takes ten times the bytes.

    Args:
        rows: one or more, each of the same number of models.
        class_names: K names in the order of the ids.

    Raises:
        UserError: The rows are too many.
    """
    for side in SIDES:
        content = _encode([_fit(row, side) for row in rows], class_names, side=side)
        if len(content) < LARGEST_FILE:
            return content
    raise UserError(
        f"The picture of {len(rows)} images takes {LARGEST_FILE // 1000} KB or more, however small they are drawn; "
        "lower --count."
    )


def _fit(row: Row, side: int) -> Row:
    """A row whose images are about ``side`` pixels long."""
    height, width = row.image.shape[1:]
    factor = side / max(height, width)
    if factor >= 1:
        return Row(row.name, magnify(row.image, side), magnify(row.labels, side), row.captions)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    image = F.interpolate(row.image[None].float(), size, mode="area")[0].round().to(torch.uint8)
    labels = F.interpolate(row.labels[None].float(), size, mode="nearest-exact")[0].long()
    return Row(row.name, image, labels, row.captions)


def _encode(rows: Sequence[Row], class_names: Sequence[str], *, side: int) -> bytes:
    """The PNG of rows that fit, of few colours: those of the classes, greys for the text, and some for the photos."""
    drawn = torch.cat([torch.where(row.labels[0] == IGNORE_INDEX, IGNORE_INDEX, row.labels).flatten() for row in rows])
    picture = with_legend(_grid(rows, side), drawn, class_names)
    present = [class_id for class_id in drawn.unique().tolist() if class_id != IGNORE_INDEX]
    greys = torch.linspace(0, 255, GREYS).round().to(torch.uint8)[:, None].expand(-1, 3)
    fixed = torch.cat([greys, palette(len(class_names))[present]]).flatten().tolist()
    photos = torch.cat([row.image.flatten(1) for row in rows], dim=1)[:, None]
    few = to_pillow(photos).quantize(min(PHOTO_COLORS, 256 - len(fixed) // 3)).getpalette() or []
    colors = Image.new("P", (1, 1))
    colors.putpalette([*fixed, *few])
    file = io.BytesIO()
    to_pillow(picture).quantize(palette=colors, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
    return file.getvalue()


def _grid(rows: Sequence[Row], side: int) -> Tensor:
    """All rows (3, H, W) below each other, each picture in a cell that its caption fits into."""
    font = ImageFont.load_default(FONT_SIZE)
    captions = [caption for row in rows for caption in (row.name, *row.captions)]
    width = max(side, *(row.image.shape[2] for row in rows), *(math.ceil(font.getlength(text)) for text in captions))
    lines = []
    for row in rows:
        white = torch.full_like(row.image, 255)
        ignored = row.labels[0] == IGNORE_INDEX
        maps = [overlay(white, torch.where(ignored, IGNORE_INDEX, label), alpha=1) for label in row.labels]
        cells = []
        for picture, caption in zip((row.image, *maps), (row.name, "truth", *row.captions), strict=True):
            left = (width - picture.shape[2]) // 2
            padded = F.pad(picture, (left, width - picture.shape[2] - left), value=255)
            cells.append(F.pad(side_by_side([padded], [caption]), (0, GAP, 0, GAP), value=255))
        lines.append(torch.cat(cells, dim=2)[..., :-GAP])
    return torch.cat(lines, dim=1)
