"""Generated scenes of 64 kinds of figures, a quarter of which training never shows: what a name alone can tell."""

from __future__ import annotations

from itertools import product
from typing import Final, get_args

from trainers.data.shapes import Color, Figure, Form, ShapesDataset, Texture


def _is_unseen(figure: Figure) -> bool:
    """Every word and every pair of words is in some seen kind, the three together in none."""
    words = (
        get_args(Color).index(figure.color),
        get_args(Form).index(figure.form),
        get_args(Texture).index(figure.texture),
    )
    return sum(words) % 4 == 0


FIGURES: Final = tuple(
    Figure(color, form, texture) for color, form, texture in product(get_args(Color), get_args(Form), get_args(Texture))
)
CLASS_NAMES: Final = ("background", *(figure.full_name for figure in FIGURES))
UNSEEN: Final = tuple(figure.full_name for figure in FIGURES if _is_unseen(figure))
"""The 16 kinds that scenes of the split "train" never show."""


class KindsDataset(ShapesDataset):
    """Scenes as those of `ShapesDataset`, of all combinations of four colours, forms and textures.

    Args:
        split: "train", which shows 48 kinds, or "val" or "test", which show all 64.
        size: height and width of the images in pixels.
        length: number of scenes.
        seed: scene i of a split is a function of (seed, split, i).

    Raises:
        ValueError: an unknown split, no scene, or an image below 32 pixels.
    """

    def __init__(self, split: str, *, size: int = 128, length: int, seed: int = 0) -> None:
        super().__init__(split, size=size, length=length, seed=seed)
        self.figures = FIGURES
        self.class_names = list(CLASS_NAMES)
        if split == "train":
            self.shown = tuple(k for k, figure in enumerate(FIGURES) if not _is_unseen(figure))
        else:
            self.shown = tuple(range(len(FIGURES)))
