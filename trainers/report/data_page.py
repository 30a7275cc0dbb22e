"""What a dataset holds and what is wrong with it, on one page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainers.data.absent import NAMED, AbsentClasses, find_absent
from trainers.data.batch import IGNORE_INDEX, SegmentationDataset
from trainers.data.class_selection import on_disk
from trainers.data.findings import BadSample, read_once
from trainers.data.problems import SHOWN, Problem, by_kind, entry, few

WIDTH = 110


@dataclass
class SplitReport:
    """What one split holds.

    Attributes:
        split: its name.
        dataset: its samples.
        learned: the classes that are to be learned from it.
        sizes: the sizes (H,W) of the images that can be used.
        pixels: (256,) pixels of each label.
        images: (256,) images that each label is in.
        digests: the image of each digest.
        bad: the images that cannot be used.
    """

    split: str
    dataset: SegmentationDataset
    learned: Sequence[str] = ()
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


def check_split(
    dataset: SegmentationDataset, split: str, *, num_workers: int, learned: Sequence[str] = ()
) -> SplitReport:
    """Reads all images of a split, with a progress bar; ``learned`` are the classes that it is to teach."""
    report = SplitReport(split, dataset, learned)
    for found in read_once(dataset, num_workers=num_workers, title=f"check {split}"):
        if isinstance(found, BadSample):
            report.bad.append(found)
            continue
        report.sizes.append(found.size)
        report.pixels += found.counts
        report.images += found.counts > 0
        report.digests.setdefault(found.digest, found.name)
    return report


def find_faults(reports: Sequence[SplitReport]) -> list[Problem]:
    """What has to be put right before a training."""
    pairs = [each for report in reports if (each := on_disk(report.dataset)) is not None]
    return [
        *(fault for each in pairs for fault in each.faults),
        *(sample.problem for report in reports for sample in report.bad),
        *(absent.problem for absent in _find_absent(reports) if absent.hopeless),
    ]


def find_remarks(reports: Sequence[SplitReport]) -> list[Problem]:
    """What its owner should know of a dataset, but may leave as it is."""
    pairs = [each for report in reports if (each := on_disk(report.dataset)) is not None]
    return [
        *(remark for each in pairs for remark in each.remarks),
        *(absent.problem for absent in _find_absent(reports) if not absent.hopeless),
        *(problem for report in reports if (problem := _find_unscored(report)) is not None),
        *_find_shared(reports),
    ]


def describe(reports: Sequence[SplitReport], class_names: Sequence[str], *, root: Path, every: bool) -> Iterator[str]:
    """The lines of the page: sizes, class shares, what is to be put right, and what is to be known.

    Args:
        reports: on the splits.
        class_names: K names in the order of the ids.
        root: the folder of the dataset; its files are named by their paths below it.
        every: whether to name every file, and not only a few of each kind.
    """
    yield from map(str, reports)
    yield ""
    width = max(map(len, [*class_names, "(ignored)"]))
    yield " ".join([" " * width, *(f"{report.split + ': pixels':>16} {'images':>8}" for report in reports)])
    for label, name in [*enumerate(class_names), (IGNORE_INDEX, "(ignored)")]:
        columns = (
            f"{report.pixels[label] / max(1, report.pixels.sum()):16.3%} {report.images[label]:8}" for report in reports
        )
        yield " ".join([f"{name:{width}}", *columns])
    faults, remarks = by_kind(find_faults(reports)), by_kind(find_remarks(reports))
    if faults or remarks:
        yield f"\nFiles are named by their paths below {root}."
    for title, groups, first in (
        ("To be put right", faults, 1),
        ("To be known", remarks, len(faults) + 1),
    ):
        if groups:
            yield f"\n{title}:"
        for number, group in enumerate(groups, first):
            yield from _section(number, group, root, every=every)


def _section(number: int, group: Sequence[Problem], root: Path, *, every: bool) -> Iterator[str]:
    yield f"\n{number:2}. {group[0].kind}: {len(group)}"
    if group[0].remedy:
        yield textwrap.fill(f"Remedy: {group[0].remedy}.", WIDTH, initial_indent="    ", subsequent_indent="    ")
    shown = len(group) if every else SHOWN
    for problem in group[:shown]:
        yield textwrap.fill(
            entry(problem, root),
            WIDTH,
            initial_indent="    - ",
            subsequent_indent="      ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    if len(group) > shown:
        yield f"    - and {len(group) - shown} more; --all names them"


def _find_absent(reports: Sequence[SplitReport]) -> Iterator[AbsentClasses]:
    for report in reports:
        if report.sizes and on_disk(report.dataset) is not None:
            labels = np.flatnonzero(report.pixels).tolist()
            if (absent := find_absent(labels, report.dataset, report.split, report.learned)) is not None:
                yield absent


def _find_unscored(report: SplitReport) -> Problem | None:
    names = report.dataset.class_names
    absent = [name for name, pixels in zip(names, report.pixels, strict=False) if not pixels]
    if report.learned or not absent or not report.sizes:
        return None
    detail = f"holds no pixel of {few(absent, count=NAMED)}"
    rest = f"{len(names) - len(absent)} of {len(names)} classes"
    remedy = (
        "add images of them, or take the scores for what they are, means over the other "
        f"{rest} and those that are predicted all the same, which count as 0"
    )
    return Problem("classes without a pixel to be scored on", report.split, detail, remedy, "The split")


def _find_shared(reports: Sequence[SplitReport]) -> Iterator[Problem]:
    for first, second in combinations(reports, 2):
        for digest in first.digests:
            if digest in second.digests:
                yield Problem(
                    f"images that are in {first.split} and in {second.split}",
                    first.digests[digest],
                    f"= {second.digests[digest]}",
                    "leave each in one split, or the scores are those of images that were learned from",
                    "",
                )
