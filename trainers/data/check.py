"""Before the first step of a run: whether all pictures can be used, and what to do about those that cannot."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import ignite.distributed as idist

from trainers.data.batch import SegmentationDataset
from trainers.data.class_selection import ClassSelection
from trainers.data.findings import BadSample, read_once
from trainers.data.pairs import Pair, PairDataset
from trainers.foundation.processes import from_first_process

CHECKED_FILE = "checked_data.txt"
SHOWN = 20
"""Bad images that a run lists; `trainers.check_data` lists all."""


def check_before_training(
    dataset: SegmentationDataset, *, split: str, folder: Path, on_error: Literal["stop", "skip"], num_workers: int
) -> SegmentationDataset:
    """The samples of a dataset that can be used, each of them having been read once.

    What was read without a problem is written down in ``folder`` by path, size and time of change of its files, so
    that the next start of the run reads only what is new, has changed, or was bad. Of several processes the first
    one reads.

    Args:
        dataset: read through if it lies on disk; a generated one is taken as it is.
        split: what the list of bad samples calls the dataset.
        folder: the run's; it is made if need be.
        on_error: "stop" raises if any sample is bad, "skip" leaves the bad ones out; both list them.
        num_workers: processes that read; 0 reads in this one.

    Raises:
        ValueError: a sample is bad and ``on_error`` is "stop", or all are.
        OSError: the folder cannot be written to.
    """
    if isinstance(dataset, ClassSelection):  # whatever is selected of them, it is the same files that are read
        usable = check_before_training(
            dataset.dataset, split=split, folder=folder, on_error=on_error, num_workers=num_workers
        )
        return ClassSelection(usable, dataset.class_names)
    if not isinstance(dataset, PairDataset):
        return dataset
    bad = _find_bad_once(dataset, split=split, file=folder / CHECKED_FILE, num_workers=num_workers)
    if not bad:
        return dataset
    count = f"{len(bad)} of the {len(dataset)} images of the split {split}"
    if idist.get_rank() == 0:
        lines = [sample.problem for sample in bad[:SHOWN]]
        more = [f"... and {len(bad) - SHOWN} more: python -m trainers.check_data lists all."] * (len(bad) > SHOWN)
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


def _find_bad_once(dataset: PairDataset, *, split: str, file: Path, num_workers: int) -> list[BadSample]:
    """What the first process finds, for all of them."""
    found = from_first_process(
        lambda: [asdict(bad) for bad in _find_bad(dataset, split=split, file=file, num_workers=num_workers)]
    )
    return [BadSample(**sample) for sample in found]


def _find_bad(dataset: PairDataset, *, split: str, file: Path, num_workers: int) -> list[BadSample]:
    fingerprints = [_fingerprint(pair, dataset) for pair in dataset.pairs]
    known = set(file.read_text(encoding="ascii", errors="replace").split()) if file.exists() else set()
    unknown = [index for index, fingerprint in enumerate(fingerprints) if fingerprint not in known]
    bad: list[BadSample] = []
    if unknown:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="ascii") as checked:
            for found in read_once(dataset, num_workers=num_workers, title=f"check {split}", indices=unknown):
                if isinstance(found, BadSample):
                    bad.append(found)
                else:
                    # The line break comes first: the last line may have been cut off when a run was killed.
                    checked.write(f"\n{fingerprints[found.index]}")
    return bad


def _fingerprint(pair: Pair, dataset: PairDataset) -> str | None:
    """Of the files, how images are read and what ids mean, as they are now; ``None`` where a file is missing."""
    try:
        files = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in (pair.image, pair.mask)]
    except OSError:
        return None
    digest = hashlib.blake2b(repr((files, dataset.reader)).encode(), digest_size=12)
    digest.update(dataset.table.classes.data)
    return digest.hexdigest()
