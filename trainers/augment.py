"""Random scale, crop, flip and colours, for a whole batch at once and on its device."""

from __future__ import annotations

import math
from typing import cast

import kornia.augmentation as K
import numpy as np
import torch
from kornia.geometry.transform import warp_affine
from torch import Tensor, nn

from trainers.data.batch import IGNORE_INDEX, Batch


class BatchAugmentation(nn.Module):
    """Random scale, crop, flip and photometric distortion, drawn anew for each sample.

    Scale, crop and flip are one affine map, so each image and each label map is resampled once. The scale
    is uniform in ``scale_range``, the crop's place uniform in the sample. A scaled sample that is smaller
    than the crop lies at a random place in it, and the pixels around it are ignored. The photometric
    distortion is the usual one of segmentation: brightness ±32/255, contrast and saturation 0.5 to 1.5, hue
    ±0.1 turns, each with probability 0.5.

    Args:
        crop_size: (H,W) of the batches that come out.
        scale_range: smallest and largest factor that an image is scaled by.
        flip: probability of a horizontal flip.
        photometric: factor on the ranges of the photometric distortion, 0 for none, 1 for the usual one.
        seed: the run's seed.
        rank: this process's place among those that train together, so that they draw differently.

    Raises:
        ValueError: the scale range is empty or not positive, or a number is out of [0,1].
    """

    def __init__(
        self,
        *,
        crop_size: tuple[int, int],
        scale_range: tuple[float, float],
        flip: float = 0.5,
        photometric: float = 1.0,
        seed: int,
        rank: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(f"scale_range must be two positive numbers in ascending order, but is {scale_range}.")
        if not (0 <= flip <= 1 and 0 <= photometric <= 1):
            raise ValueError(f"flip and photometric must lie in [0,1], but are {flip} and {photometric}.")
        self.crop_size = crop_size
        self.scale_range = scale_range
        self.flip = flip
        self.seed = seed
        self.rank = rank
        self.photometric = nn.Sequential()
        if photometric:
            self.photometric = nn.Sequential(
                K.RandomBrightness((1 - photometric * 32 / 255, 1 + photometric * 32 / 255), p=0.5),
                K.RandomContrast((1 - photometric / 2, 1 + photometric / 2), p=0.5),
                K.ColorJitter(saturation=photometric / 2, p=0.5),  # blends with grey, no detour through HSV
                K.RandomHue((-photometric / 10, photometric / 10), p=0.5),
            )

    @property
    def cut_size(self) -> tuple[int, int]:
        """(H,W) that the loader must cut, so that the smallest scale still fills the crop."""
        shrink = min(1.0, self.scale_range[0])
        return math.ceil(self.crop_size[0] / shrink), math.ceil(self.crop_size[1] / shrink)

    @torch.no_grad()
    def forward(self, batch: Batch, iteration: int) -> Batch:
        """Augment a batch; what is drawn depends on (seed, rank, iteration) alone.

        Args:
            batch: images of any one size.
            iteration: the training iteration.

        Returns:
            A batch of ``crop_size``, the images still in [0,1].
        """
        device = batch.images.device
        seed = np.random.SeedSequence((self.seed, self.rank, iteration)).generate_state(1, np.uint64).item()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            transform = self._draw_transforms(batch.sizes).to(device)
            images = warp_affine(batch.images, transform, self.crop_size)
            images = cast("Tensor", self.photometric(images)).clamp(0, 1)
        # Pixels from outside the image come out as 0: let that be the ignored label while the map is warped.
        shifted = torch.where(batch.labels == IGNORE_INDEX, 0, batch.labels + 1).float().unsqueeze(1)
        warped = warp_affine(shifted, transform, self.crop_size, mode="nearest").squeeze(1).long()
        labels = torch.where(warped == 0, IGNORE_INDEX, warped - 1)
        return Batch(images=images, labels=labels, names=batch.names, sizes=(self.crop_size,) * len(batch.names))

    def _draw_transforms(self, sizes: tuple[tuple[int, int], ...]) -> Tensor:
        """Draw the maps (B,2,3) from the pixel coordinates (x,y) of each sample to those of its crop."""
        low, high = self.scale_range
        scale = torch.empty(len(sizes), 1).uniform_(low, high)
        crop = torch.tensor(self.crop_size[::-1], dtype=torch.float32)
        slack = torch.tensor(sizes, dtype=torch.float32).flip(1) * scale - crop
        # The crop's corner in the scaled sample, (x,y); negative where the crop juts out.
        corner = torch.rand_like(slack) * slack
        # Pixel centres lie half a pixel in: x' + 1/2 = scale (x + 1/2) - corner.
        offset = (scale - 1) / 2 - corner
        flip = torch.rand(len(sizes)) < self.flip
        sign = torch.where(flip, -1.0, 1.0)
        matrix = torch.zeros(len(sizes), 2, 3)
        matrix[:, 0, 0] = sign * scale[:, 0]
        matrix[:, 0, 2] = sign * offset[:, 0] + flip * (crop[0] - 1)
        matrix[:, 1, 1] = scale[:, 0]
        matrix[:, 1, 2] = offset[:, 1]
        return matrix
