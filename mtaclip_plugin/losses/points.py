"""Points (x, y) in the unit square at which masks are compared, and what lies under them.

Coordinates are relative to the padded image, so a point addresses the label map and the mask grid alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mtaclip_plugin.structures import full_precision

PointSource = torch.Generator | Sequence[torch.Generator] | None
"""Where random points come from: one generator for a batch, one for each of its images, or the device's global one."""

# The id of pixels beyond the border: no class, and not ignored either.
_OUTSIDE = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class SampledLabels:
    """What the label map says at points.

    Attributes:
        targets: (N, M, P) bilinear value in [0, 1] of the binary mask of each of M classes.
        valid: (N, P) bool, False where one of the four label pixels under the point is ignored.
    """

    targets: Tensor
    valid: Tensor


def check_points(
    num_points: int, oversample_ratio: float, importance_ratio: float, *, needing_random: Mapping[str, float]
) -> None:
    """Checks how many points there are, and how many of them are random.

    Args:
        num_points: points of each mask.
        oversample_ratio: candidates for the uncertain ones, as a multiple of them.
        importance_ratio: share of the points that are uncertain ones.
        needing_random: weights of what is compared at the random ones alone, by the option's name.

    Raises:
        ValueError: If a number is out of its range, or there is no random point where one is needed.
    """
    if not (num_points >= 1 and 1 <= oversample_ratio < math.inf and 0 <= importance_ratio <= 1):
        raise ValueError(
            "num_points and oversample_ratio must be at least 1 and importance_ratio in [0, 1], got "
            f"{num_points}, {oversample_ratio} and {importance_ratio}."
        )
    for name, weight in needing_random.items():
        if weight > 0 and int(importance_ratio * num_points) == num_points:
            raise ValueError(
                f"{name}={weight} needs random points, of which importance_ratio={importance_ratio} leaves none; "
                "lower it."
            )


def random_points(
    batch: int,
    num_points: int,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    generator: PointSource = None,
) -> Tensor:
    """(batch, num_points, 2) points, uniform in [0, 1); the same ones in any dtype.

    Raises:
        ValueError: If there are several generators, but not one for each image.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return torch.rand(batch, num_points, 2, device=device, dtype=torch.float32, generator=generator).to(dtype)
    if len(generator) != batch:
        raise ValueError(f"give one generator for each of the {batch} images, or one for all; got {len(generator)}.")
    points = [torch.rand(num_points, 2, device=device, dtype=torch.float32, generator=own) for own in generator]
    return torch.stack(points).to(dtype) if points else torch.empty(0, num_points, 2, device=device, dtype=dtype)


def sample_features(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points, in at least float32, with zeros beyond the border.

    Args:
        maps: (N, C, h, w).
        points: (N, P, 2).

    Returns:
        (N, C, P) values.

    Example:
        >>> sample_features(torch.tensor([[[[0.0, 4.0]]]]), torch.tensor([[[0.5, 0.5]]]))
        tensor([[[2.]]])
    """
    maps = full_precision(maps)
    return F.grid_sample(maps, 2 * points[:, :, None].to(maps) - 1, align_corners=False).squeeze(3)


def sample_labels(
    label_map: Tensor, points: Tensor, classes: Tensor, *, image: Tensor, ignore_index: int | None
) -> SampledLabels:
    """The binary masks of classes at points, read from the label map's four pixels under each.

    Equal to :func:`sample_features` of ``label_map == class``, without these (N, M, H, W) masks.

    Args:
        label_map: (B, H, W) int64 class ids.
        points: (N, P, 2).
        classes: (N, M) class ids.
        image: (N) int64, the image of each row of points.
        ignore_index: the id that makes a point invalid; ``None``: every point is valid.
    """
    rows, num_points, _ = points.shape
    targets = points.new_zeros(rows, classes.shape[1], num_points)
    valid = torch.ones(rows, num_points, dtype=torch.bool, device=points.device)
    for ids, weight in _pixels_under(label_map, points, image):
        if classes.shape[1]:
            targets += weight[:, None] * (ids[:, None] == classes[:, :, None])
        if ignore_index is not None:
            valid &= ids != ignore_index
    return SampledLabels(targets=targets, valid=valid)


def uncertain_points(mask_logits: Tensor, candidates: Tensor, valid: Tensor, *, num_points: int) -> Tensor:
    """The candidates where a mask is least certain (PointRend): smallest |logit|, the invalid ones last.

    Args:
        mask_logits: (N, h, w), or (S, N, h, w) of S predictions that share the candidates.
        candidates: (N, C, 2).
        valid: (N, C) bool.
        num_points: how many of the C candidates to take.

    Returns:
        (N, num_points, 2) or (S, N, num_points, 2) points, in no particular order.
    """
    layers = mask_logits[None] if mask_logits.ndim == 3 else mask_logits
    uncertainty = -sample_features(layers.transpose(0, 1), candidates).abs()
    # Unsorted is twice as fast on a CPU, and all that follows is a sum over points.
    chosen = uncertainty.masked_fill(~valid[:, None], -torch.inf).topk(num_points, dim=2, sorted=False).indices
    shared = candidates[:, None].expand(-1, len(layers), -1, -1)
    points = shared.gather(2, chosen[..., None].expand(-1, -1, -1, 2)).transpose(0, 1)
    return points[0] if mask_logits.ndim == 3 else points


def _pixels_under(label_map: Tensor, points: Tensor, image: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(N, P) ids and (N, P) bilinear weights of each of the four pixels under the points."""
    height, width = label_map.shape[1:]
    # A frame of one pixel holds the neighbours beyond the border; centres are whole numbers inside it.
    framed = F.pad(label_map, (1, 1, 1, 1), value=_OUTSIDE)
    x, y = points[:, :, 0] * width + 0.5, points[:, :, 1] * height + 0.5
    left, top = x.floor(), y.floor()
    ids, row_length = framed.flatten(), width + 2
    first = (image[:, None] * (height + 2) + top.long()) * row_length + left.long()
    weights_x = ((0, left + 1 - x), (1, x - left))
    for down, weight_y in ((0, top + 1 - y), (1, y - top)):
        for right, weight_x in weights_x:
            yield ids[first + (down * row_length + right)], weight_x * weight_y
