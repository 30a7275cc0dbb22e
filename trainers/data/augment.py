"""Random scale, crop, flip and colours, for a whole batch at once and on its device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import kornia.augmentation as K
import torch
from kornia.enhance import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation_with_gray_subtraction
from kornia.geometry.transform import warp_affine
from torch import Tensor, nn

from mtaclip_plugin.structures import sent
from trainers.data.batch import IGNORE_INDEX, Batch
from trainers.foundation.randomness import derive_generators, derive_seed

TRIES = 10
"""Places that are tried for a crop whose largest class does not take too much of it."""
_COLOURS: Final[tuple[tuple[str, Callable[[Tensor, Tensor], Tensor]], ...]] = (
    ("brightness_factor", lambda images, factor: adjust_brightness(images, factor - 1)),
    ("contrast_factor", adjust_contrast),
    ("saturation_factor", adjust_saturation_with_gray_subtraction),  # blends with grey, no detour through HSV
    ("hue_factor", lambda images, turns: adjust_hue(images, turns * 2 * math.pi)),
)
"""What is drawn for each photometric distortion, and what it does to images (N,3,H,W) with N such numbers."""


class BatchAugmentation(nn.Module):
    """Random scale, crop, flip and photometric distortion, drawn anew for each sample.

    Scale, crop and flip are one affine map, so each image and each label map is resampled once. The scale
    is uniform in ``scale_range``, the crop's place uniform in the sample. A scaled sample that is smaller
    than the crop lies at a random place in it, and the pixels around it are ignored. A crop that one class
    fills too much gets another place in the sample at the same scale, up to ``TRIES`` in all; the last one is
    taken as it comes. The photometric
    distortion is the usual one of segmentation: brightness ±32/255, contrast and saturation 0.5 to 1.5, hue
    ±0.1 turns, each with probability 0.5; it is for red, green and blue in [0,1].

    Around a sample all is black. Bands that are float32 in a unit of their own, in which 0 may be far from any value,
    go on as they are at the edge instead, and are not clipped to [0,1].

    Args:
        crop_size: (H,W) of the batches that come out.
        scale_range: smallest and largest factor that an image is scaled by.
        flip: probability of a horizontal flip.
        photometric: factor on the ranges of the photometric distortion, 0 for none, 1 for the usual one.
        max_class_share: largest share of a crop's labelled pixels that one class may take; 1 for any.
        seed: the run's seed.
        rank: this process's place among those that train together, each on a batch of the same size.

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
        max_class_share: float = 1.0,
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
        self.max_class_share = max_class_share
        self.seed = seed
        self.rank = rank
        self.photometric = nn.Sequential()  # which draws alone
        if photometric:
            self.photometric = nn.Sequential(
                K.RandomBrightness((1 - photometric * 32 / 255, 1 + photometric * 32 / 255), p=0.5),
                K.RandomContrast((1 - photometric / 2, 1 + photometric / 2), p=0.5),
                K.ColorJitter(saturation=photometric / 2, p=0.5),
                K.RandomHue((-photometric / 10, photometric / 10), p=0.5),
            )

    @property
    def cut_size(self) -> tuple[int, int]:
        """(H,W) that the loader must cut, so that the smallest scale still fills the crop."""
        shrink = min(1.0, self.scale_range[0])
        return math.ceil(self.crop_size[0] / shrink), math.ceil(self.crop_size[1] / shrink)

    @torch.no_grad()
    def forward(self, batch: Batch, iteration: int) -> Batch:
        """Augment a batch; what is drawn for a sample depends on the seed, the iteration and its place alone.

        The place is that in the batch of all ranks together, so the number of ranks does not matter either.

        Args:
            batch: images of any one size, as `Batch.to` gives it.
            iteration: the training iteration.

        Returns:
            A batch of ``crop_size``.

        Raises:
            ValueError: The images are whole numbers, as they are stored.
        """
        if not batch.images.is_floating_point():
            raise ValueError(f"Images of {batch.images.dtype} cannot be augmented; move the batch with Batch.to first.")
        device, count = batch.images.device, len(batch.names)
        slots = range(self.rank * count, (self.rank + 1) * count)
        transforms = sent(self._draw_transforms(batch.sizes, iteration, slots), device)
        transform, labels = self._warp_labels(batch.labels, transforms)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if torch.float32 in batch.dtypes:
                images = self._warp_bands(batch, transform)
            else:
                images = self._distort(warp_affine(batch.images, transform, self.crop_size), iteration, slots)
        return replace(batch, images=images, labels=labels, sizes=(self.crop_size,) * count)

    def _warp_labels(self, labels: Tensor, transforms: Tensor) -> tuple[Tensor, Tensor]:
        """Choose one of the maps (B,TRIES,2,3) for each label map, and give it (B,2,3) with the labels warped by it."""
        # Pixels from outside the image come out as 0: let that be the ignored label while the map is warped.
        shifted = torch.where(labels == IGNORE_INDEX, 0, labels + 1).float().unsqueeze(1)

        def warp(samples: Tensor, attempt: int) -> Tensor:
            warped = warp_affine(shifted[samples], transforms[samples, attempt], self.crop_size, mode="nearest")
            return torch.where(warped == 0, IGNORE_INDEX, warped - 1).squeeze(1).long()

        samples = every = torch.arange(len(labels), device=labels.device)
        chosen, crops = torch.zeros_like(every), warp(every, 0)
        for attempt in range(1, TRIES if self.max_class_share < 1 else 1):
            filled = largest_class_share(crops[samples]) > self.max_class_share
            if labels.device.type == "cpu":  # a GPU would be waited for, to be spared little
                samples, filled = samples[filled], filled[filled]
                if not len(samples):
                    break
            chosen[samples] = torch.where(filled, attempt, chosen[samples])
            crops[samples] = torch.where(filled[:, None, None], warp(samples, attempt), crops[samples])
        return transforms[every, chosen], crops

    def _warp_bands(self, batch: Batch, transform: Tensor) -> Tensor:
        """Images warped by one of the maps (B,2,3) each, that go on beyond their edges."""
        images = batch.images.clone()
        for image, (height, width) in zip(images, batch.sizes, strict=True):
            image[:, height:] = image[:, height - 1 : height]
            image[..., width:] = image[..., width - 1 : width]
        return warp_affine(images, transform, self.crop_size, padding_mode="border")

    def _distort(self, images: Tensor, iteration: int, slots: Sequence[int]) -> Tensor:
        """The photometric distortion of images (B,C,H,W), drawn for each by its own seed, and made for all at once."""
        images = images.clamp(0, 1)
        if not self.photometric:
            return images
        distortions: list[Any] = list(self.photometric)
        drawn: list[list[tuple[int, float]]] = [[] for _ in _COLOURS]
        for row, slot in enumerate(slots):
            torch.manual_seed(derive_seed("colours", self.seed, iteration, slot))
            for (name, _), distortion, chosen in zip(_COLOURS, distortions, drawn, strict=True):
                drawn_here = distortion.forward_parameters(torch.Size((1, *images.shape[1:])))
                if drawn_here["batch_prob"].item() > 0.5:
                    chosen.append((row, drawn_here[name].item()))
        numbers = sent(torch.tensor([pair for chosen in drawn for pair in chosen]).view(-1, 2), images.device)
        for (_, distort), pairs in zip(_COLOURS, numbers.split([len(chosen) for chosen in drawn]), strict=True):
            if len(pairs):
                rows = pairs[:, 0].long()
                images[rows] = distort(images[rows], pairs[:, 1]).clamp_(0, 1)
        return images

    def _draw_transforms(self, sizes: tuple[tuple[int, int], ...], iteration: int, slots: Sequence[int]) -> Tensor:
        """Draw the maps (B,TRIES,2,3) from the pixel coordinates (x,y) of each sample to those of its crop.

        The maps of a sample differ in the place of the crop alone.
        """
        generators = derive_generators("window", self.seed, iteration, slots)
        drawn = torch.stack([torch.rand(2 + 2 * TRIES, generator=generator) for generator in generators])
        low, high = self.scale_range
        scale = low + (high - low) * drawn[:, :1, None]
        crop = torch.tensor(self.crop_size[::-1], dtype=torch.float32)
        slack = torch.tensor(sizes, dtype=torch.float32).flip(1)[:, None] * scale - crop
        # The crops' corners in the scaled sample, (x,y); negative where the crop juts out.
        corner = drawn[:, 2:].unflatten(1, (TRIES, 2)) * slack
        # Pixel centres lie half a pixel in: x' + 1/2 = scale (x + 1/2) - corner.
        offset = (scale - 1) / 2 - corner
        flip = drawn[:, 1, None] < self.flip
        sign = torch.where(flip, -1.0, 1.0)
        matrix = torch.zeros(len(sizes), TRIES, 2, 3)
        matrix[..., 0, 0] = sign * scale[..., 0]
        matrix[..., 0, 2] = sign * offset[..., 0] + flip * (crop[0] - 1)
        matrix[..., 1, 1] = scale[..., 0]
        matrix[..., 1, 2] = offset[..., 1]
        return matrix


def largest_class_share(labels: Tensor) -> Tensor:
    """The share (B,) that the largest class takes of the labelled pixels of label maps (B,H,W); 1 without any."""
    bins = IGNORE_INDEX + 1
    first_bins = torch.arange(0, len(labels) * bins, bins, device=labels.device)
    places = (labels + first_bins[:, None, None]).flatten()
    # A bincount would look for the largest place first, and wait for a GPU to find it.
    counts = places.new_zeros(len(labels) * bins).scatter_add_(0, places, torch.ones_like(places))
    counts = counts.view(-1, bins)[:, :IGNORE_INDEX]
    return torch.where(counts.sum(1) == 0, 1.0, counts.amax(1) / counts.sum(1))
