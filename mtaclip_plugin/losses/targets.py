"""A label map, checked and padded, with the classes that each image holds."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from mtaclip_plugin.structures import MaskPrediction

IgnoredPixels = Literal["excluded", "background"]


@dataclass(frozen=True)
class MaskTargets:
    """One binary mask for each class that an image holds, kept as the label map they come from.

    Attributes:
        label_map: (B, H', W') int64 class ids of the padded image; of a single class, 0, the background is 1.
        classes: for each image the ids it holds, ascending, the ignored one left out.
        present: (B, K) bool, the same on the label map's device.
        labelled_pixels: number of pixels that show one of the classes.
        num_classes: K, "none" not counted.
        ignore_index: the id whose pixels are in no cost and no loss of masks; ``None``: every pixel counts.
        no_label: the id of pixels without a label, whether they count for masks or not.
    """

    label_map: Tensor
    classes: tuple[tuple[int, ...], ...]
    present: Tensor
    labelled_pixels: int
    num_classes: int
    ignore_index: int | None
    no_label: int

    @classmethod
    def from_label_map(
        cls,
        target: Tensor,
        *,
        num_classes: int,
        ignore_index: int = 255,
        ignored_pixels: IgnoredPixels = "excluded",
        padded_size: tuple[int, int] | None = None,
    ) -> Self:
        """Checks a label map, pads it right and bottom with the ignored id and lists the classes it holds.

        Args:
            target: (B, H, W) int64 ids in [0, K), or ``ignore_index``; for K = 1 a binary mask, as smp's losses and
                metrics have it: 1 is the class, 0 the background.
            num_classes: K, "none" not counted.
            ignore_index: the id of pixels without a label.
            ignored_pixels: "excluded" takes them out of every cost and loss; "background", the official way,
                makes them background of every mask.
            padded_size: (H', W'), at least (H, W); no padding if ``None``.

        Raises:
            ValueError: If ``target`` has another type or shape, or holds any other id.
        """
        if target.dtype != torch.int64 or target.ndim != 3:
            raise ValueError(
                f"target must be a (B, H, W) map of int64 class ids, got {target.dtype} of shape "
                f"{tuple(target.shape)}; convert it with target.long() and drop any channel dimension."
            )
        if num_classes == 1:
            target = _class_first(target, ignore_index)
        present, rows, labelled_pixels = _classes_present(target, num_classes, ignore_index)
        if padded_size is not None:
            height, width = target.shape[1:]
            padded = target.new_full((len(target), *padded_size), ignore_index)  # F.pad would round it to a double
            padded[:, :height, :width] = target
            target = padded
        void = ignore_index if ignored_pixels == "excluded" else None
        return cls(
            label_map=target,
            classes=tuple(tuple(k for k in range(num_classes) if row[k]) for row in rows),
            present=present,
            labelled_pixels=labelled_pixels,
            num_classes=num_classes,
            ignore_index=void,
            no_label=ignore_index,
        )

    def labelled(self) -> Tensor:
        """(B, H', W') bool, which pixels show one of the classes; an id that is ignored may be one of theirs."""
        return _is_labelled(self.label_map, self.num_classes, self.no_label)

    def absent(self, known: Tensor | None = None) -> Tensor:
        """(B, K) bool, which classes an image does not hold, of those that it is annotated for.

        Args:
            known: (B, K) bool, which those are; all if ``None``.
        """
        return ~self.present if known is None else ~self.present & known

    def mask_counts(self, num_queries: int) -> list[int]:
        """For each image the number of masks that Q queries can be matched with: min(M, Q)."""
        return [min(len(classes), num_queries) for classes in self.classes]


def check_pair(prediction: MaskPrediction, target: Tensor) -> None:
    """Checks that a label map is one of the images that a prediction is made of.

    Raises:
        ValueError: If it has another shape, or there is no such prediction.
    """
    if not isinstance(prediction, MaskPrediction):
        raise ValueError(
            f"the prediction must be a MaskPrediction, got {type(prediction).__name__}; call "
            "model(images, return_masks=True)."
        )
    expected = (len(prediction.class_logits), *prediction.image_size)
    if target.shape != expected:
        raise ValueError(f"target must have the shape (B, H, W) of the images, {expected}, got {tuple(target.shape)}.")


def shows_the_class(target: Tensor, targets: MaskTargets) -> bool:
    """Whether binary masks have shown how the class is written: a 1 did, or a warning asked if 255 is meant to be it.

    Args:
        target: (B, H, W) masks in which 255 is ignored.
        targets: what was made of them.
    """
    if any(targets.classes):
        return True
    if not (target == 255).any():
        return False
    warnings.warn(
        "the target of a single class holds 255, which is ignored, and no 1, which is the class: if 255 is to "
        "mean the class, write 1 in its place.",
        stacklevel=4,
    )
    return True


def _class_first(mask: Tensor, ignore_index: int) -> Tensor:
    """A binary mask with 0 for the class and 1 for the background; other ids stay."""
    if ignore_index in (0, 1):
        raise ValueError(
            f"of a single class 1 is the class and 0 the background, so ignore_index={ignore_index} leaves nothing to "
            "learn; take another id."
        )
    return torch.where((mask == 0) | (mask == 1), 1 - mask, mask)


def _is_labelled(label_map: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    return (label_map >= 0) & (label_map < num_classes) & (label_map != ignore_index)


def _classes_present(target: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, list[list[int]], int]:
    """(B, K) bool, which ids are in each image, the same as a list, and the number of pixels that show one of them.

    All is found with one copy to the host, which is the one time that it waits for a GPU here.
    """
    ignored, unknown = num_classes, num_classes + 1
    of_class = _is_labelled(target, num_classes, ignore_index)
    columns = torch.where((target >= 0) & (target < num_classes), target, unknown)
    no_class = (target == ignore_index) | (target == 1) if num_classes == 1 else target == ignore_index
    columns = columns.masked_fill(no_class, ignored).flatten(1)
    present = torch.zeros(len(target), num_classes + 2, dtype=torch.bool, device=target.device)
    present.scatter_(1, columns, True)
    rows = torch.cat([present, of_class.flatten(1).sum(1, keepdim=True)], 1).tolist()
    if any(row[unknown] for row in rows):
        offender = target[(columns == unknown).view_as(target)][0].item()
        ids = "1, and 0 for the background" if num_classes == 1 else f"0 to {num_classes - 1}"
        raise ValueError(
            f"target holds the id {offender}, but there are K={num_classes} classes (ids {ids}) and "
            f"ignore_index={ignore_index}: map that id to a class or to ignore_index."
        )
    return present[:, :num_classes], rows, sum(row[-1] for row in rows)
