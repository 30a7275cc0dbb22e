"""Two small data sets that share some of their classes, and runs on both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.trainers.tiny_runs import MTACLIP

STREET = ["Sky", "car", "pedestrian"]
PARK = ["sky", "tree", "person", "dog"]
NAMES = ["sky", "car", "person", "tree", "dog"]
"""Of both, once the pedestrian is renamed."""
TOWER = ["--model.text_encoder=tiny-flat", "--model.text_pretrained=null", "--model.num_prompts=2"]
NO_TEXT = ["--model.text_encoder=null"]


def write_set(root: Path, names: list[str], *, images: int, seed: int) -> None:
    """Pictures with a stripe of each class, whose colour is that of its name, and one without a label."""
    rng = np.random.default_rng(seed)
    for split in ("train", "val"):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for index in range(images):
            order = rng.permutation(len(names) + 1).astype(np.uint8)
            label = order.repeat(8)[None].repeat(32 + index, 0)
            picture = (label[..., None] * 40 + rng.integers(0, 40, (*label.shape, 3))).astype(np.uint8)
            label[label == len(names)] = 255
            Image.fromarray(picture).save(root / "images" / split / f"{index}.png")
            Image.fromarray(label).save(root / "annotations" / split / f"{index}.png")
    (root / "classes.txt").write_text("\n".join(names))


def write_sets(folder: Path, text: str = "") -> Path:
    """The file of both data sets; ``text`` takes its place."""
    if not (folder / "street").exists():
        write_set(folder / "street", STREET, images=2, seed=0)
        write_set(folder / "park", PARK, images=5, seed=1)
    file = folder / "sets.yaml"
    file.write_text(text or "- {root: street, rename: {Pedestrian: person}}\n- {root: park}\n")
    return file


def options(sets: Path, *more: str) -> list[str]:
    """Those of a run on the sets in a file, which lie beside it."""
    return [*MTACLIP, f"--data.sets={sets}", f"--data.root={sets.parent}", "--train.overlays=1", *more]
