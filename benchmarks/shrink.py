"""A smaller copy of a dataset, for comparisons that a CPU can run: ``python -m benchmarks.shrink --root DIR ...``."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from tqdm import tqdm

from trainers.data.classes import NAMES_FILE
from trainers.data.folder import FolderDataset
from trainers.data.pairs import Pair, PairDataset
from trainers.foundation.errors import UserError, main_guard, user_errors
from trainers.report.pictures import to_pillow


def shrink(root: Path, output: Path, *, factor: float) -> None:
    """Writes a dataset in the folder format anew, each side of its images and masks times a factor.

    Images are averaged, masks keep their ids: a pixel takes the one at its middle.

    Args:
        root: the dataset, see `trainers.data.folder.FolderDataset`.
        output: the folder to write, which is whole or not there; it must not be there yet.
        factor: above 0, at most 1.

    Raises:
        UserError: The factor is none, there is no dataset or a file of it cannot be read, or the output is there.
    """
    if not 0 < factor <= 1:
        raise UserError(f"--factor must be above 0 and at most 1, got {factor}.")
    if output.exists():
        raise UserError(f"{output} exists already; remove it, or choose another --output.")
    with user_errors():
        splits = sorted(path.name for path in (root / "annotations").glob("*") if path.is_dir())
        if not splits:
            raise UserError(f"{root} holds no annotations/SPLIT; set --root to a dataset in the folder format.")
        datasets = [FolderDataset(root, split) for split in splits]
        pairs = [(dataset, pair) for dataset in datasets for pair in dataset.pairs]
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=output.parent) as folder:
            copy = Path(folder) / "copy"
            for dataset, pair in tqdm(pairs, desc="shrink", file=sys.stderr):
                _shrink_pair(dataset, pair, root, copy, factor)
            (copy / NAMES_FILE).write_text("\n".join(datasets[0].class_names) + "\n", encoding="utf-8")
            copy.rename(output)


def _shrink_pair(dataset: PairDataset, pair: Pair, root: Path, copy: Path, factor: float) -> None:
    pixels, ids = dataset.read_pair(pair)
    image = to_pillow(pixels)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    depth = np.uint8 if ids.max(initial=0) < 256 else np.uint16
    pictures = {
        pair.image: image.resize(size, Image.Resampling.BOX),
        pair.mask: Image.fromarray(ids.astype(depth)).resize(size, Image.Resampling.NEAREST),
    }
    for path, picture in pictures.items():
        target = copy / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target, quality=95, subsampling=0)  # of a JPEG


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
