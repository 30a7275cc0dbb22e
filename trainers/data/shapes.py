"""Generated scenes of coloured, textured figures, whose class names say what each figure looks like."""

from __future__ import annotations

import colorsys
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw

from trainers.data.batch import IGNORE_INDEX, Sample, SegmentationDataset

Color = Literal["red", "yellow", "green", "blue"]
Form = Literal["circle", "square", "triangle", "star"]
Texture = Literal["plain", "striped", "dotted", "checkered"]
FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@dataclass(frozen=True)
class Figure:
    """What a class looks like."""

    color: Color
    form: Form
    texture: Texture = "plain"

    @property
    def name(self) -> str:
        """The class name, as "red circle" or "striped blue square"."""
        return f"{self.color} {self.form}" if self.texture == "plain" else self.full_name

    @property
    def full_name(self) -> str:
        """The name that tells the texture of plain figures too, as "plain red circle"."""
        return f"{self.texture} {self.color} {self.form}"


# Every figure has neighbours that differ from it in one word only, so no single cue tells the classes apart.
FIGURES: Final = (
    Figure("red", "circle"),
    Figure("red", "circle", "striped"),
    Figure("red", "square"),
    Figure("blue", "circle"),
    Figure("blue", "square"),
    Figure("blue", "square", "striped"),
    Figure("green", "triangle"),
    Figure("green", "triangle", "dotted"),
    Figure("green", "star"),
    Figure("yellow", "star"),
    Figure("yellow", "star", "dotted"),
)
CLASS_NAMES: Final = ("background", *(figure.name for figure in FIGURES))

HUES: Final[dict[Color, float]] = {"red": 0.0, "yellow": 0.15, "green": 0.36, "blue": 0.62}


def _corners(form: Form) -> FloatArray:
    """The corners (N,2) of a figure around (0,0), each with the area of a square of radius 1."""
    count = {"circle": 48, "square": 4, "triangle": 3, "star": 10}[form]
    angle = np.arange(count) * (2 * math.pi / count)
    radius = np.where(np.arange(count) % 2, 0.45, 1.0) if form == "star" else np.ones(count)
    corners = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    area = 0.5 * count * radius[0] * radius[1] * math.sin(2 * math.pi / count)
    return (corners * math.sqrt(2 / area)).astype(np.float32)


CORNERS: Final[dict[Form, FloatArray]] = {form: _corners(form) for form in ("circle", "square", "triangle", "star")}


class ShapesDataset(SegmentationDataset):
    """Scenes of 2 to 7 figures that hide one another, on textured ground under uneven light and noise.

    One figure in five is small. The outlines of all figures are labelled ``IGNORE_INDEX``. Figures and
    patterns grow with ``size``.

    Args:
        split: "train", "val" or "test"; the splits share no scene.
        size: height and width of the images in pixels.
        length: number of scenes.
        seed: scene i of a split is a function of (seed, split, i).

    Raises:
        ValueError: an unknown split, no scene, or an image below 32 pixels.
    """

    def __init__(self, split: str, *, size: int = 128, length: int, seed: int = 0) -> None:
        if split not in ("train", "val", "test"):
            raise ValueError(f"The data set shapes has the splits train, val and test, not {split!r}.")
        if length < 1 or size < 32:
            raise ValueError(f"shapes needs 1 scene and 32 pixels at least, not {length} scenes of {size} pixels.")
        self.split = split
        self.size = size
        self.length = length
        self.seed = seed
        self.figures: Sequence[Figure] = FIGURES
        self.shown = tuple(range(len(FIGURES)))
        self.class_names = list(CLASS_NAMES)

    def __len__(self) -> int:
        """Number of scenes."""
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Draw scene ``index``."""
        if not 0 <= index < self.length:
            raise IndexError(f"shapes has {self.length} scenes, there is no scene {index}.")
        rng = np.random.default_rng((self.seed, zlib.crc32(self.split.encode()), index))
        image, label = _draw_scene(rng, self.size, self.figures, self.shown)
        return Sample(
            image=torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            label=torch.from_numpy(label),
            name=f"{self.split}_{index:05d}",
        )


def _draw_scene(
    rng: np.random.Generator, size: int, figures: Sequence[Figure], shown: Sequence[int]
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    unit = size / 128
    canvas = _draw_ground(rng, size)
    label = Image.new("L", (size, size), 0)
    radii = np.sort(_draw_radii(rng, int(rng.integers(2, 8))))[::-1] * unit  # the small ones lie on top
    centres = np.empty((0, 2), np.float32)
    for radius in radii:
        # Of three places the one farthest from the other figures: they overlap, but seldom vanish.
        places = rng.uniform(0.05 * size, 0.95 * size, (3, 2)).astype(np.float32)
        gaps = np.linalg.norm(places[:, None] - centres[None], axis=2).min(axis=1, initial=2 * size)
        centre = places[gaps.argmax()]
        centres = np.vstack([centres, centre])
        kind = shown[int(rng.integers(len(shown)))]
        _draw_figure(rng, figures[kind], kind + 1, centre, radius, unit, canvas, label)
    slope = rng.uniform(-0.25, 0.25, 2)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    canvas *= np.float32(rng.uniform(0.75, 1.15)) + (slope[0] * ramp[:, None] + slope[1] * ramp)[..., None]
    canvas += rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(0, 0.06))
    image = (canvas.clip(0, 1) * 255).astype(np.uint8)
    return image, np.asarray(label).astype(np.int64)


def _draw_radii(rng: np.random.Generator, count: int) -> FloatArray:
    small = rng.random(count) < 0.2
    return np.where(small, rng.uniform(7, 10, count), rng.uniform(11, 32, count)).astype(np.float32)


def _draw_ground(rng: np.random.Generator, size: int) -> FloatArray:
    """A ground (H,W,3) of two greyish shades in any texture."""
    texture: Texture = rng.choice(["plain", "striped", "dotted", "checkered"])
    y, x = np.mgrid[:size, :size].astype(np.float32)
    lit = _pattern(rng, texture, x, y, size / 128 * rng.uniform(6, 16))
    value = rng.uniform(0.2, 0.8)
    hue, saturation = rng.random(), rng.uniform(0, 0.25)
    shades = [colorsys.hsv_to_rgb(hue, saturation, v) for v in (value, value + rng.uniform(-0.2, 0.2))]
    return np.asarray(shades, np.float32)[lit.astype(np.intp)]


def _draw_figure(
    rng: np.random.Generator,
    figure: Figure,
    class_id: int,
    centre: FloatArray,
    radius: float,
    unit: float,
    canvas: FloatArray,
    label: Image.Image,
) -> None:
    """Paint one figure onto ``canvas`` (H,W,3) and its class and ignored outline onto ``label``."""
    angle = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], np.float32)
    corners = (centre + radius * CORNERS[figure.form] @ turn).ravel().tolist()
    mask = Image.new("1", label.size)
    ImageDraw.Draw(mask).polygon(corners, fill=1)
    pen = ImageDraw.Draw(label)
    pen.polygon(corners, fill=class_id)
    pen.line([*corners, *corners[:2]], fill=IGNORE_INDEX, width=max(1, round(2 * unit)))
    rows, columns = np.nonzero(np.asarray(mask))
    lit = _pattern(rng, figure.texture, columns.astype(np.float32), rows.astype(np.float32), 6 * unit)
    hue = (HUES[figure.color] + rng.uniform(-0.025, 0.025)) % 1
    paint = colorsys.hsv_to_rgb(hue, rng.uniform(0.75, 1), rng.uniform(0.7, 1))
    white = (rng.uniform(0.85, 1),) * 3
    canvas[rows, columns] = np.asarray((paint, white), np.float32)[lit.astype(np.intp)]


def _pattern(
    rng: np.random.Generator, texture: Texture, x: FloatArray, y: FloatArray, period: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Where the pattern shows its second colour, at pixels (x,y); it is turned and shifted at random."""
    if texture == "plain":
        return np.zeros(x.shape, np.bool_)
    angle, shift = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi, 2)
    a, b = (2 * math.pi / period) * np.array([math.cos(angle), math.sin(angle)])
    wave = np.sin(np.float32(a) * x + np.float32(b) * y + np.float32(shift[0]))
    if texture == "striped":
        return wave > 0
    cross = np.sin(np.float32(-b) * x + np.float32(a) * y + np.float32(shift[1]))
    return wave + cross > 0.7 if texture == "dotted" else wave * cross > 0
