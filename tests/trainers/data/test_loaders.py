from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

from trainers.data.batch import IGNORE_INDEX, Batch, Sample, SegmentationDataset, collate, unit_values
from trainers.data.cut import CutKey, RandomCutDataset
from trainers.data.loaders import create_eval_loader, create_train_loader


class Ramps(SegmentationDataset):
    """Images of growing size whose pixels and labels count the columns, so that a window tells its place."""

    class_names = ["a", "b"]  # noqa: RUF012

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        ramp = torch.arange(20).expand(10 + index, 20)
        return Sample(image=ramp.to(torch.uint8).expand(3, -1, -1), label=ramp.clone(), name=str(index))


def train_loader(
    *, start: int = 0, workers: int = 0, seed: int = 0, rank: int = 0, ranks: int = 1
) -> DataLoader[Batch]:
    return create_train_loader(
        Ramps(7),
        batch_size=4 // ranks,
        cut_size=(12, 8),
        iterations=6,
        num_workers=workers,
        seed=seed,
        start_iteration=start,
        rank=rank,
        world_size=ranks,
    )


def same(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.labels, second.labels)
        and first.names == second.names
    )


def test_collate_pads_right_and_bottom() -> None:
    small = Sample(torch.full((3, 1, 2), 255, dtype=torch.uint8), torch.tensor([[3, 4]]), "small")
    large = Sample(torch.zeros(3, 2, 1, dtype=torch.uint8), torch.tensor([[1], [2]]), "large")
    batch = collate([small, large])
    assert batch.images.dtype == batch.labels.dtype == torch.uint8
    assert batch.images[0, 0].tolist() == [[255, 255], [0, 0]]
    assert batch.labels.tolist() == [[[3, 4], [255, 255]], [[1, 255], [2, 255]]]
    assert batch.names == ("small", "large") and batch.sizes == ((1, 2), (2, 1))
    assert collate([small], size=(4, 5)).labels.shape == (1, 4, 5)


@pytest.mark.parametrize(
    ("dtypes", "travels"),
    [
        ((torch.uint8, torch.uint8), torch.uint8),
        ((torch.uint16, torch.uint16), torch.uint16),
        ((torch.float32, torch.float32), torch.float32),
        ((torch.uint8, torch.uint16), torch.float32),
    ],
)
def test_batches_travel_as_they_are_stored_and_are_numbers_on_the_device(
    dtypes: tuple[torch.dtype, ...], travels: torch.dtype
) -> None:
    images = [torch.full((1, 1, 1), 200).to(dtype) for dtype in dtypes]
    batch = collate([Sample(image, torch.tensor([[7]]), "a") for image in images])
    assert batch.images.dtype == travels and batch.labels.dtype == torch.uint8 and batch.dtypes == dtypes
    moved = batch.to("cpu")
    assert moved.images.dtype == torch.float32 and moved.labels.dtype == torch.int64
    expected = torch.cat([unit_values(image)[None] for image in images])
    assert torch.equal(moved.images, expected) and moved.labels.flatten().tolist() == [7, 7]


@pytest.mark.parametrize("label", [-1, 256, 70_000])
def test_labels_that_are_no_class_stay_what_they_are(label: int) -> None:
    """Wrapped around, they would be one."""
    sample = Sample(torch.zeros(3, 1, 1, dtype=torch.uint8), torch.tensor([[label]]), "a")
    assert collate([sample]).to("cpu").labels.item() == label


def test_batch_moves_its_tensors_and_keeps_the_rest() -> None:
    batch = collate([Ramps(1)[0]])
    moved = batch.to("meta")
    assert moved.images.is_meta and moved.labels.is_meta
    assert moved.names == batch.names and moved.sizes == batch.sizes


def test_run_has_its_iterations_and_windows_keep_image_and_label_together() -> None:
    batches = list(train_loader())
    assert len(batches) == len(train_loader()) == 6
    places = set()
    for batch in batches:
        assert batch.images.shape == (4, 3, 12, 8) and batch.labels.shape == (4, 12, 8)
        for image, label, (height, width) in zip(batch.images, batch.labels, batch.sizes, strict=True):
            assert width == 8 and 10 <= height <= 12
            inside = label[:height]
            assert torch.equal(image[0, :height], inside)
            assert torch.equal(inside, inside[0, 0] + torch.arange(8).expand(height, 8))
            assert (label[height:] == IGNORE_INDEX).all() and (image[:, height:] == 0).all()
            places.add(inside[0, 0].item())
    assert len(places) > 5


def test_resumed_run_equals_the_fresh_one_bit_for_bit_whatever_the_workers() -> None:
    fresh = list(train_loader())
    for workers in (0, 2):
        resumed = list(train_loader(start=4, workers=workers))
        assert len(resumed) == 2
        assert all(same(a, b) for a, b in zip(fresh[4:], resumed, strict=True))


def test_loader_neither_reads_nor_moves_the_global_generator() -> None:
    torch.manual_seed(1)
    first = list(train_loader())
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    torch.manual_seed(2)
    assert all(same(a, b) for a, b in zip(first, train_loader(), strict=True))


def test_each_epoch_has_every_sample_once_in_its_own_order() -> None:
    names = [name for batch in train_loader() for name in batch.names]
    epochs = [names[i : i + 7] for i in range(0, 21, 7)]
    assert all(sorted(epoch) == list("0123456") for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert names != [name for batch in train_loader(seed=1) for name in batch.names]


def test_ranks_share_the_batches_of_a_single_process() -> None:
    whole = list(train_loader())
    parts = [list(train_loader(rank=rank, ranks=2)) for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch.names == first.names + second.names
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))


def test_batch_may_be_larger_than_the_dataset() -> None:
    loader = create_train_loader(Ramps(2), batch_size=5, cut_size=(4, 4), iterations=2, num_workers=0, seed=0)
    counts = Counter(name for batch in loader for name in batch.names)
    assert counts == {"0": 5, "1": 5}


def test_cut_reaches_every_place() -> None:
    dataset = RandomCutDataset(Ramps(1), cut_size=(4, 18), seed=0)
    lefts = {dataset[CutKey(0, iteration, 0)].label[0, 0].item() for iteration in range(40)}
    assert lefts == {0, 1, 2}


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_eval_loader_gives_every_whole_image_once_over_all_ranks(ranks: int) -> None:
    dataset = Ramps(7)
    seen = []
    for rank in range(ranks):
        loader = create_eval_loader(dataset, batch_size=2, num_workers=0, rank=rank, world_size=ranks)
        names = [name for batch in loader for name in batch.names]
        assert names == sorted(names)
        seen += names
        for batch in loader:
            assert [h for h, _ in batch.sizes] == [10 + int(name) for name in batch.names]
            assert batch.images.shape[2] == max(h for h, _ in batch.sizes)
    assert sorted(seen) == list("0123456")


@pytest.mark.parametrize(("length", "start", "message"), [(0, 0, "from 0 samples"), (3, 5, "cannot start after 5")])
def test_bad_input_is_refused(length: int, start: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_train_loader(
            Ramps(length),
            batch_size=1,
            cut_size=(4, 4),
            iterations=4,
            num_workers=0,
            seed=0,
            start_iteration=start,
        )
