"""Which part of an image a mask is: where it is more likely than not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import masks_to_boxes


def cell_shares(
    regions: Tensor, padded_size: tuple[int, int], image_size: tuple[int, int], grid: Sequence[int]
) -> Tensor:
    """How much of each cell of a grid over the image lies in each region.

    Areas are exact, whatever the two grids; what lies in the padding counts for nothing.

    Args:
        regions: (B, Q, h, w) bool, of the padded image.
        padded_size: (H', W') of the padded image.
        image_size: (H, W) of the image, which the padding lies right of and below.
        grid: (h', w') cells that cover the image.

    Returns:
        (B, Q, h', w') float32 from 0 to 1.
    """
    rows, columns = (
        _overlaps(cells, padded // cells, size, parts, regions.device)
        for cells, padded, size, parts in zip(regions.shape[2:], padded_size, image_size, grid, strict=True)
    )
    with torch.autocast(regions.device.type, enabled=False):
        return rows @ regions.float() @ columns.mT


def crop_regions(image: Tensor, regions: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Cuts regions out of an image, each to the size of a tower's images; what is around them is 0, the mean image.

    Args:
        image: (3, H, W), normalised.
        regions: (N, H, W) bool, none empty.
        size: of the crops.
        interpolation: ``"bilinear"`` or ``"bicubic"``.

    Returns:
        (N, 3, height, width).
    """
    crops = []
    for region, (left, top, right, bottom) in zip(regions, masks_to_boxes(regions).int().tolist(), strict=True):
        box = slice(top, bottom + 1), slice(left, right + 1)
        crops.append(resized(image[:, *box].masked_fill(~region[box], 0)[None], size, interpolation))
    return torch.cat(crops)


def resized(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Images (B, 3, H, W) at another size, smoothed as image libraries do where it is smaller."""
    return F.interpolate(images.float(), size=size, mode=interpolation, antialias=True).to(images.dtype)


def _overlaps(cells: int, stride: int, size: int, parts: int, device: torch.device) -> Tensor:
    """(parts, cells): the fraction of each of the parts of a side that each cell of the given stride covers.

    The parts end where the side does, so cells of the padding cover nothing.
    """
    edges = torch.arange(cells + 1, device=device) * stride
    borders = torch.arange(parts + 1, dtype=torch.float32, device=device) * size / parts
    start = torch.maximum(edges[:-1], borders[:-1, None])
    end = torch.minimum(edges[1:], borders[1:, None])
    return (end - start).clamp(min=0) * parts / size
