"""How often an evaluation waits for the device to count."""

from __future__ import annotations

from types import ModuleType

import torch

from tests.trainers.scores.test_boundary import scene
from trainers.scores.boundary import BoundaryMetric
from trainers.scores.metrics import LabelConfusionMatrix


def test_boundaries_wait_once_an_image(cuda: ModuleType) -> None:
    images = [scene(120, 200, num_classes=5, cell=cell, seed=cell) for cell in (6, 20)]
    prediction, labels = (torch.stack(maps) for maps in zip(*images, strict=True))
    prediction[1] = labels[1] = 3  # nowhere a contour
    sizes = ((120, 200), (100, 150))
    here = BoundaryMetric(5)
    here.update((prediction, labels, sizes))
    with cuda.emulated_cuda():
        there = BoundaryMetric(5, device="cuda")
        maps = prediction.to("cuda"), labels.to("cuda")
        with cuda.metered() as meter:
            there.update((*maps, sizes))
        assert meter.waits.total() == len(images)
        for name, counts in vars(there.compute()).items():
            assert counts.tolist() == getattr(here.compute(), name).tolist(), name
    assert here.compute().found_contour.sum() > 0


def test_a_confusion_matrix_does_not_wait(cuda: ModuleType) -> None:
    prediction, labels = (ids[None] for ids in scene(40, 50, num_classes=5, cell=6, seed=0))
    here = LabelConfusionMatrix(5)
    here.update((prediction, labels))
    with cuda.emulated_cuda():
        there = LabelConfusionMatrix(5, device="cuda")
        maps = prediction.to("cuda"), labels.to("cuda")
        with cuda.metered() as meter:
            there.update(maps)
        assert meter.waits.total() == 0
        assert there.compute().tolist() == here.compute().tolist()
