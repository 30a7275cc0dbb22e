"""A smaller copy of a dataset, for comparisons that a CPU can run: ``python -m benchmarks.shrink --root DIR ...``."""

from __future__ import annotations

import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from trainers.data.reading import FORMATS, IMAGE_SUFFIXES
from trainers.errors import UserError, main_guard, user_errors


def shrink(root: Path, output: Path, *, factor: float) -> None:
    """Writes a dataset in the folder format anew, each side of its images and masks times a factor.

    Images are averaged, masks keep their ids: a pixel takes the one at its middle.

    Args:
        root: the dataset, see `trainers.data.folder.FolderDataset`.
        output: the folder to write; it must not be there yet.
        factor: above 0, at most 1.

    Raises:
        UserError: The factor is none, there is no dataset, or the output is there already.
    """
    if not 0 < factor <= 1:
        raise UserError(f"--factor must be above 0 and at most 1, got {factor}.")
    if output.exists():
        raise UserError(f"{output} exists already; remove it, or choose another --output.")
    with user_errors():
        pictures = [
            path
            for kind in ("images", "annotations")
            for path in sorted((root / kind).glob("*/*"))
            if path.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not pictures:
            raise UserError(
                f"{root} holds no images/SPLIT and annotations/SPLIT; set --root to a dataset of this form."
            )
        for path in tqdm(pictures, desc="shrink", file=sys.stderr):
            target = output / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            _shrink_picture(path, target, factor, is_mask=path.parts[-3] == "annotations")
        shutil.copyfile(root / "classes.txt", output / "classes.txt")


def _shrink_picture(path: Path, target: Path, factor: float, *, is_mask: bool) -> None:
    with Image.open(path, formats=FORMATS) as picture:
        width, height = (max(1, round(side * factor)) for side in picture.size)
        if is_mask:
            picture.resize((width, height), Image.Resampling.NEAREST).save(target)  # a palette stays one
        else:
            small = picture.convert("RGB").resize((width, height), Image.Resampling.BOX)
            small.save(target, quality=95, subsampling=0)


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line) and writes the copy."""
    parser = ArgumentParser(prog="python -m benchmarks.shrink", description="Writes a smaller copy of a dataset.")
    parser.add_argument("--root", type=Path, required=True, help="The dataset: images/, annotations/, classes.txt.")
    parser.add_argument("--factor", type=float, default=0.5, help="Of each side.")
    parser.add_argument("--output", type=Path, required=True, help="Folder to write.")
    options = parser.parse_args(arguments)
    shrink(options.root, options.output, factor=options.factor)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
