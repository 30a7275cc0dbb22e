"""Where models fail: ``python -m benchmarks.failures --checkpoints A.pt B.pt --output FILE.png``."""

from __future__ import annotations

import math
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import benchmarks.denseclip  # noqa: F401  registers this peer, whose checkpoints may be among those compared
from benchmarks.failure_picture import Row, failure_png
from benchmarks.markdown import versions
from benchmarks.report import Section
from trainers.assemble import create_dataset, create_forward, restore_model
from trainers.data.batch import Batch, SegmentationDataset
from trainers.data.check import usable_samples
from trainers.data.loaders import create_eval_loader
from trainers.engine.forward import Forward
from trainers.foundation.errors import UserError, main_guard, reading, user_errors
from trainers.foundation.memory import return_freed_memory
from trainers.foundation.progress import progress
from trainers.report.pictures import visible
from trainers.run.checkpoints import Checkpoint, load_checkpoint
from trainers.scores.metrics import LabelConfusionMatrix, class_iou

LISTED = 5
"""Classes and confusions that a table lists."""


@dataclass(frozen=True)
class Outcome:
    """How a model did on a dataset of N images and K classes.

    Attributes:
        scores: N numbers in [0, 1], `image_score` of each image.
        confusion: (K, K) counts of all images together, rows are labels, columns predictions.
    """

    scores: tuple[float, ...]
    confusion: Tensor


@dataclass(frozen=True)
class Failure:
    """An image that is among the worst of a model.

    Attributes:
        index: its place in the dataset.
        ranks: for each model 1 if the image is its worst, 2 for the next, ...; ``None`` if it is not among them.
    """

    index: int
    ranks: tuple[int | None, ...]


def image_score(confusion: Tensor) -> float:
    """Mean IoU over the classes in the labels of an image, from its confusion matrix (K, K); NaN if there are none."""
    return class_iou(confusion)[confusion.sum(1) > 0].mean().item()


def measure(forwards: Sequence[Forward], loader: DataLoader[Batch], num_classes: int) -> list[Outcome]:
    """What each of the models gives for each image of a loader of batches of one.

    Raises:
        UserError: An image or a label map cannot be read.
    """
    scores: list[list[float]] = [[] for _ in forwards]
    confusions = [torch.zeros(num_classes, num_classes, dtype=torch.int64) for _ in forwards]
    counter = LabelConfusionMatrix(num_classes)
    for batch in progress(reading(loader), title="predict", unit="image", total=len(loader)):
        for place, forward in enumerate(forwards):
            counter.reset()
            counter.update((forward.predict_labels(batch.images).cpu(), batch.labels_on("cpu")))
            confusion = counter.compute()
            scores[place].append(image_score(confusion))
            confusions[place] += confusion
        return_freed_memory()
    return [Outcome(tuple(own), confusion) for own, confusion in zip(scores, confusions, strict=True)]


def worst_images(scores: Sequence[Sequence[float]], count: int) -> list[Failure]:
    """The ``count`` images with the lowest scores of each model, each image once: the first model's, then the next's.

    Args:
        scores: of each model one for each image; images with NaN, of which no pixel counts, are no failures.
        count: how many of each model.
    """
    ranks = []
    for own in scores:
        known = (index for index, score in enumerate(own) if not math.isnan(score))
        ordered = sorted(known, key=own.__getitem__)[:count]
        ranks.append({index: rank for rank, index in enumerate(ordered, start=1)})
    indices = dict.fromkeys(index for own in ranks for index in own)
    return [Failure(index, tuple(own.get(index) for own in ranks)) for index in indices]


def typical_images(scores: Sequence[Sequence[float]], count: int) -> list[Failure]:
    """The ``count`` images whose score, in the mean over the models, is nearest to the median.

    Args:
        scores: see `worst_images`.
        count: how many.
    """
    means = [fmean(of_image) for of_image in zip(*scores, strict=True)]
    known = sorted((index for index, mean in enumerate(means) if not math.isnan(mean)), key=means.__getitem__)
    first = max((len(known) - count + 1) // 2, 0)
    return [Failure(index, (None,) * len(scores)) for index in known[first : first + count]]


def picture_rows(
    failures: Iterable[Failure],
    dataset: SegmentationDataset,
    forwards: Sequence[Forward],
    outcomes: Sequence[Outcome],
    names: Sequence[str],
    bands: Sequence[int],
) -> list[Row]:
    """What the picture shows of the failures; predicts them once more, so that no others need to be kept."""
    rows = []
    for failure in failures:
        sample = dataset[failure.index]
        predictions = [forward.predict_labels(sample.image[None] / 255)[0].cpu() for forward in forwards]
        captions = []
        for name, outcome, rank in zip(names, outcomes, failure.ranks, strict=True):
            mark = "" if rank is None else f", worst no. {rank}"
            captions.append(f"{name}: IoU {_percent(outcome.scores[failure.index])}{mark}")
        labels = torch.stack([sample.label, *predictions])
        rows.append(Row(sample.name, visible(sample.image, bands), labels, captions))
    return rows


def image_section(
    rows: Sequence[Row], failures: Sequence[Failure], outcomes: Sequence[Outcome], names: Sequence[str]
) -> Section:
    """The table of the images in the picture."""
    cells = []
    for row, failure in zip(rows, failures, strict=True):
        whose = [f"{name} ({rank})" for name, rank in zip(names, failure.ranks, strict=True) if rank is not None]
        whose = whose or ["none, typical"]
        scores = [_percent(outcome.scores[failure.index]) for outcome in outcomes]
        cells.append((row.name, *scores, ", ".join(whose)))
    note = (
        "The IoU of an image is the mean over the classes in its labels; ignored pixels, white in the picture, do not "
        "count. (1) is a model's worst image."
    )
    typical = any(not any(failure.ranks) for failure in failures)
    title = f"The worst images{', and typical ones' * typical}"
    return Section(title, ("image", *(f"IoU of {name}, %" for name in names), "worst of"), cells, note)


def class_section(name: str, confusion: Tensor, class_names: Sequence[str]) -> Section:
    """The classes of lowest IoU over the dataset, from its confusion matrix (K, K)."""
    iou = class_iou(confusion)
    shares = confusion.sum(1).double() / confusion.sum()
    known = [class_id for class_id in iou.argsort(stable=True).tolist() if not iou[class_id].isnan()]
    rows = [(class_names[i], _percent(iou[i].item()), _percent(shares[i].item())) for i in known[:LISTED]]
    note = f"Mean IoU over all classes: {_percent(iou.nanmean().item())} %."
    return Section(f"{name}: classes that lose most", ("class", "IoU, %", "share of all pixels, %"), rows, note)


def confusion_section(name: str, confusion: Tensor, class_names: Sequence[str]) -> Section:
    """The confusions that take the largest share of a label's pixels, from a confusion matrix (K, K)."""
    counts = confusion.double()
    shares = (counts / counts.sum(1, keepdim=True)).nan_to_num()  # 0/0: a class that no label has
    shares.fill_diagonal_(0)
    rows = []
    for cell in shares.flatten().argsort(descending=True, stable=True)[:LISTED].tolist():
        label, predicted = divmod(cell, len(class_names))
        if shares[label, predicted] > 0:
            rows.append((class_names[label], class_names[predicted], _percent(shares[label, predicted].item())))
    columns = ("label", "predicted as", "share of the label's pixels, %")
    return Section(f"{name}: most common confusions", columns, rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _names(options: Namespace) -> list[str]:
    """What the models are called: as given, else by the folders that their checkpoints lie in."""
    paths: list[Path] = options.checkpoints
    names: list[str] = options.names or [path.resolve().parent.name for path in paths]
    if len(names) != len(paths) or len(set(names)) != len(names):
        raise UserError(f"{len(paths)} checkpoints need as many different --names, not {' '.join(names)}.")
    return names


def _load(paths: Sequence[Path]) -> list[Checkpoint]:
    """Checkpoints of the same classes and kind of images."""
    checkpoints = [load_checkpoint(path) for path in paths]
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        _check_classes(f"The checkpoint {path} knows", checkpoint.class_names, paths[0], checkpoints[0])
        if checkpoint.config.data.channels != checkpoints[0].config.data.channels:
            raise UserError(
                f"The checkpoints {paths[0]} and {path} were trained with different --data.channels; only models of "
                "images with the same bands can be compared."
            )
    return checkpoints


def _check_classes(whose: str, class_names: Sequence[str], path: Path, checkpoint: Checkpoint) -> None:
    if tuple(class_names) != checkpoint.class_names:
        raise UserError(
            f"{whose} the classes {', '.join(class_names)}, the checkpoint {path} {', '.join(checkpoint.class_names)}; "
            "only models and data of the same classes can be compared."
        )


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line), predicts the validation images, writes FILE.png and FILE.md."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = ArgumentParser(
        prog="python -m benchmarks.failures",
        description="The validation images on which checkpoints do worst, side by side: FILE.png, and FILE.md with the "
        "classes that lose most and the most common confusions.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--checkpoints", type=Path, nargs="+", required=True, help="Each a best.pt or last.pt, of the same classes.")
    add("--names", nargs="+", help="What they are called; default: the folders that they lie in.")
    add("--count", type=int, default=4, help="Images of each checkpoint.")
    add("--typical", type=int, default=0, help="Images of a middling score beside them.")
    add("--data.root", dest="root", help="Folder of the data; default: that of the first checkpoint's training.")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ... or auto.")
    add("--output", type=Path, required=True, help="The PNG; the page goes beside it.")
    options = parser.parse_args(given)
    if options.output.suffix != ".png" or options.count < 1 or options.typical < 0:
        raise UserError("--output must be a FILE.png, --count at least 1, and --typical 0 or more.")

    names, checkpoints = _names(options), _load(options.checkpoints)
    class_names, data = checkpoints[0].class_names, checkpoints[0].config.data
    with user_errors():
        dataset = create_dataset(replace(data, root=options.root or data.root), data.val_split)
        _check_classes("The dataset has", dataset.class_names, options.checkpoints[0], checkpoints[0])
        if data.on_error == "skip":
            dataset = usable_samples(dataset, split=data.val_split, num_workers=data.num_workers)
        loader = create_eval_loader(dataset, batch_size=1, num_workers=data.num_workers)
        forwards = []
        for checkpoint in checkpoints:
            train = replace(checkpoint.config.train, device=options.device)
            forwards.append(create_forward(restore_model(checkpoint), replace(checkpoint.config, train=train)))
    outcomes = measure(forwards, loader, len(class_names))
    failures = worst_images([outcome.scores for outcome in outcomes], options.count)
    worst = {failure.index for failure in failures}
    typical = typical_images([outcome.scores for outcome in outcomes], options.typical)
    failures += [each for each in typical if each.index not in worst]
    if not failures:
        raise UserError(f"No pixel of the split {data.val_split} has a label, so that no image can be scored.")
    rows = picture_rows(failures, dataset, forwards, outcomes, names, data.shown_bands)
    png = failure_png(rows, class_names)
    sections = [image_section(rows, failures, outcomes, names)]
    for name, outcome in zip(names, outcomes, strict=True):
        sections += [section(name, outcome.confusion, class_names) for section in (class_section, confusion_section)]
    title = f"Where {' and '.join(names)} fail{'s' * (len(names) == 1)}"
    made = f"Made by `python -m benchmarks.failures {shlex.join(given)}` with {versions()}"
    images = f"dataset {data.dataset}, the {len(dataset)} images of its split {data.val_split}"
    head = f"# {title}\n\n{made}; {images}.\n\n![{title}]({options.output.name})"
    page = "\n\n".join([head, *(section.to_markdown() for section in sections)]) + "\n"
    with user_errors():
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_bytes(png)
        options.output.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
