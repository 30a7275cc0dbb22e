"""Before the first step of a run: whether all pictures can be used, and what to do about those that cannot."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import ignite.distributed as idist
import numpy as np

from trainers.data.absent import find_absent
from trainers.data.batch import SegmentationDataset
from trainers.data.class_selection import on_disk
from trainers.data.findings import BadSample, read_once
from trainers.data.joint import JointDataset
from trainers.data.pairs import Pair, PairDataset
from trainers.data.problems import Problem, one_line_each
from trainers.data.relabelled import Relabelled
from trainers.foundation.processes import from_first_process

CHECKED_FILE = "checked_data.txt"
SHOWN = 20
"""Bad images that a run lists; `trainers.check_data` lists all."""


def check_before_training(
    dataset: SegmentationDataset,
    *,
    split: str,
    folder: Path,
    on_error: Literal["stop", "skip"],
    num_workers: int,
    learned: Collection[str] = (),
) -> SegmentationDataset:
    """The samples of a dataset that can be used, each of them having been read once.

    What was read without a problem is written down in ``folder`` by path, size and time of change of its files, with
    the labels that it holds, so that the next start of the run reads only what is new, has changed, or was bad. Of
    several processes the first one reads. What there is to remark goes to stderr.

    Args:
        dataset: read through if it lies on disk; a generated one is taken as it is.
        split: what the list of bad samples calls the dataset.
        folder: the run's; it is made if need be.
        on_error: "stop" raises if any sample is bad, "skip" leaves the bad ones out; both list them.
        num_workers: processes that read; 0 reads in this one.
        learned: the classes that are to be learned from these samples, and so should occur in them.

    Raises:
        ValueError: a sample is bad and ``on_error`` is "stop", or all are; or fewer than two classes are to be learned.
        OSError: the folder cannot be written to.
    """
    check = partial(check_before_training, folder=folder, on_error=on_error, num_workers=num_workers)
    if isinstance(dataset, Relabelled):  # whatever their classes are, it is the same files that are read
        return dataset.over(check(dataset.dataset, split=split, learned=dataset.sources(learned)))
    if isinstance(dataset, JointDataset):
        return dataset.over(
            {name: check(each, split=f"{split} of {name}", learned=learned) for name, each in dataset.sets.items()}
        )
    if not isinstance(dataset, PairDataset):
        return dataset
    print_remarks(dataset)
    found = _read_once(dataset, split=split, file=folder / CHECKED_FILE, num_workers=num_workers)
    usable = _without_bad(dataset, found.bad, split=split, on_error=on_error)
    if learned and (absent := find_absent(found.labels, dataset, split, learned)) is not None:
        if absent.hopeless:
            raise ValueError(str(absent.problem))
        if idist.get_rank() == 0:
            print(f"warning: {absent.problem}", file=sys.stderr, flush=True)
    return usable


def print_remarks(dataset: SegmentationDataset) -> None:
    """Tells on stderr, once for all processes, what the user should know of a dataset's files."""
    pairs = on_disk(dataset)
    if pairs is not None and idist.get_rank() == 0:
        for line in one_line_each(pairs.remarks):
            print(f"warning: {line}", file=sys.stderr, flush=True)


def _without_bad(
    dataset: PairDataset, bad: Sequence[BadSample], *, split: str, on_error: Literal["stop", "skip"]
) -> PairDataset:
    if not bad:
        return dataset
    count = f"{len(bad)} of the {len(dataset)} images of the split {split}"
    if idist.get_rank() == 0:
        lines = [str(sample.problem) for sample in bad[:SHOWN]]
        more = [f"... and {len(bad) - SHOWN} more: python -m trainers.check_data --all lists all."] * (len(bad) > SHOWN)
        print(f"{count} cannot be used:", *lines, *more, sep="\n  ", file=sys.stderr, flush=True)
    if on_error == "stop" or len(bad) == len(dataset):
        remedy = "" if len(bad) == len(dataset) else ", or leave such images out with --data.on_error skip"
        raise ValueError(f"{count} cannot be used; put right what is listed above{remedy}. The first: {bad[0].problem}")
    return dataset.without(sample.index for sample in bad)


def usable_samples(dataset: SegmentationDataset, *, split: str, num_workers: int) -> SegmentationDataset:
    """The samples of a dataset that can be used, outside of a run: all its files are read for that.

    Raises:
        ValueError: all samples are bad.
    """
    with TemporaryDirectory() as folder:
        return check_before_training(
            dataset, split=split, folder=Path(folder), on_error="skip", num_workers=num_workers
        )


@dataclass
class _Found:
    """What reading a dataset found: the samples that cannot be used, and the labels in the others."""

    bad: list[BadSample] = field(default_factory=list)
    labels: set[int] = field(default_factory=set)


def _read_once(dataset: PairDataset, *, split: str, file: Path, num_workers: int) -> _Found:
    """What the first process finds, for all of them."""

    def read() -> dict[str, Any]:
        found = _read_new(dataset, split=split, file=file, num_workers=num_workers)
        return {"bad": [asdict(sample) for sample in found.bad], "labels": sorted(found.labels)}

    told = from_first_process(read)
    bad = [BadSample(sample["index"], Problem(**sample["problem"])) for sample in told["bad"]]
    return _Found(bad, set(told["labels"]))


def _read_new(dataset: PairDataset, *, split: str, file: Path, num_workers: int) -> _Found:
    """Reads what the file does not tell of, and adds it to the file: a line ``labels:fingerprint`` for each sample."""
    fingerprints = [_fingerprint(pair, dataset) for pair in dataset.pairs]
    lines = file.read_text(encoding="ascii", errors="replace").split() if file.exists() else []
    # Lines of an earlier version are fingerprints alone; without the labels they are no help.
    known = {fingerprint: labels for labels, colon, fingerprint in (line.partition(":") for line in lines) if colon}
    unknown = [index for index, fingerprint in enumerate(fingerprints) if fingerprint not in known]
    told = (known[fingerprint] for fingerprint in fingerprints if fingerprint in known)
    found = _Found(labels={int(label) for labels in set(told) for label in labels.split(",")})
    if unknown:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="ascii") as checked:
            for each in read_once(dataset, num_workers=num_workers, title=f"check {split}", indices=unknown):
                if isinstance(each, BadSample):
                    found.bad.append(each)
                else:
                    labels = np.flatnonzero(each.counts).tolist()
                    found.labels.update(labels)
                    # The line break comes first: the last line may have been cut off when a run was killed.
                    checked.write(f"\n{','.join(map(str, labels))}:{fingerprints[each.index]}")
    return found


def _fingerprint(pair: Pair, dataset: PairDataset) -> str | None:
    """Of the files, how images are read and what ids mean, as they are now; ``None`` where a file is missing."""
    try:
        files = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in (pair.image, pair.mask)]
    except OSError:
        return None
    digest = hashlib.blake2b(repr((files, dataset.reader)).encode(), digest_size=12)
    digest.update(dataset.table.classes.data)
    if dataset.colors is not None:
        digest.update(dataset.colors.codes.data)
        digest.update(dataset.colors.ids.data)
    return digest.hexdigest()
