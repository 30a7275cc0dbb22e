"""Reads a dataset once and reports on it: ``python -m trainers.check_data --config FILE [--section.key value ...]``.

It takes the options of `trainers.train`, and reads the splits that these would train and validate on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby

import numpy as np
from numpy.typing import NDArray

from trainers.assemble import create_dataset
from trainers.data.batch import IGNORE_INDEX, SegmentationDataset
from trainers.data.findings import BadSample, read_once
from trainers.foundation.errors import main_guard, user_errors
from trainers.options.config import DataConfig
from trainers.options.parsing import parse_config


@dataclass
class SplitReport:
    """What one split holds.

    Attributes:
        split: its name.
        sizes: the sizes (H,W) of the images that can be used.
        pixels: (256,) pixels of each label.
        images: (256,) images that each label is in.
        digests: the image of each digest.
        bad: the images that cannot be used.
    """

    split: str
    sizes: list[tuple[int, int]] = field(default_factory=list)
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(IGNORE_INDEX + 1, np.int64))
    images: NDArray[np.int64] = field(default_factory=lambda: np.zeros(IGNORE_INDEX + 1, np.int64))
    digests: dict[bytes, str] = field(default_factory=dict)
    bad: list[BadSample] = field(default_factory=list)

    def __str__(self) -> str:
        """Number and sizes of the images."""
        text = f"{self.split}: {len(self.sizes) + len(self.bad)} images, {len(self.bad)} of them cannot be used"
        if self.sizes:
            high, wide = (_range(sides) for sides in zip(*self.sizes, strict=True))
            text += f"; {high} pixels high, {wide} wide"
        return text


def _range(sides: Sequence[int]) -> str:
    return str(min(sides)) if min(sides) == max(sides) else f"{min(sides)} to {max(sides)}"


def check_split(dataset: SegmentationDataset, split: str, *, num_workers: int) -> SplitReport:
    """Reads all images of a split, with a progress bar."""
    report = SplitReport(split)
    for found in read_once(dataset, num_workers=num_workers, title=f"check {split}"):
        if isinstance(found, BadSample):
            report.bad.append(found)
            continue
        report.sizes.append(found.size)
        report.pixels += found.counts
        report.images += found.counts > 0
        report.digests.setdefault(found.digest, found.name)
    return report


def describe(reports: Sequence[SplitReport], class_names: Sequence[str]) -> Iterator[str]:
    """The lines of the report: sizes, class shares, images in two splits, and images that cannot be used."""
    yield from map(str, reports)
    yield ""
    width = max(map(len, [*class_names, "(ignored)"]))
    yield " ".join([" " * width, *(f"{report.split + ': pixels':>16} {'images':>8}" for report in reports)])
    for label, name in [*enumerate(class_names), (IGNORE_INDEX, "(ignored)")]:
        columns = (
            f"{report.pixels[label] / max(1, report.pixels.sum()):16.3%} {report.images[label]:8}" for report in reports
        )
        yield " ".join([f"{name:{width}}", *columns])
    for first, second in combinations(reports, 2):
        if shared := [digest for digest in first.digests if digest in second.digests]:
            yield f"\n{len(shared)} images are in {first.split} and in {second.split}:"
            yield from (f"  {first.digests[digest]} = {second.digests[digest]}" for digest in shared)
    for report in reports:
        for kind, bad in groupby(sorted(report.bad, key=lambda sample: sample.kind), key=lambda sample: sample.kind):
            yield f"\n{report.split}, {kind}:"
            yield from (f"  {sample.problem}" for sample in bad)


def check_data(config: DataConfig) -> tuple[list[SplitReport], list[str]]:
    """The reports of the splits of a configuration, and the names of its classes.

    Raises:
        UserError: A split is not there at all.
    """
    with user_errors():
        datasets = {split: create_dataset(config, split) for split in (config.train_split, config.val_split)}
    reports = [check_split(dataset, split, num_workers=config.num_workers) for split, dataset in datasets.items()]
    return reports, datasets[config.train_split].class_names


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line); exits with 1 where an image cannot be used."""
    purpose = "Reads all images and masks of a training once, and reports on them; the options are the training's."
    config = parse_config(arguments, command="python -m trainers.check_data", purpose=purpose)
    reports, class_names = check_data(config.data)
    print(*describe(reports, class_names), sep="\n")
    if any(report.bad for report in reports):
        sys.exit(1)


if __name__ == "__main__":
    main()
