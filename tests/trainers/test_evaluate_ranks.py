from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from trainers.data.batch import Sample, SegmentationDataset
from trainers.data.loaders import create_eval_loader
from trainers.engine.engines import Evaluator
from trainers.engine.forward import Forward
from trainers.engine.vocabulary import Vocabulary
from trainers.run.validation import evaluate_model

NUM_CLASSES = 4


class Scenes(SegmentationDataset):
    """Five images of different sizes, whose labels are found in part."""

    def __init__(self) -> None:
        self.class_names = ["sky", "road", "car", "tree"]

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        cells = torch.randint(0, 256, (3, 5 + index, 6), dtype=torch.uint8, generator=generator)
        image = cells.repeat_interleave(7, 1).repeat_interleave(9, 2)
        label = (image[0].long() * NUM_CLASSES // 256).roll(2, 1)
        label[:, :3] = 255
        return Sample(image=image, label=label, name=str(index))


LEVELS = (torch.arange(NUM_CLASSES)[:, None] + 0.5) / NUM_CLASSES


class Levels(nn.Module):
    """The class is the nearest level of red."""

    requires_divisible_input_shape = False
    prompts = None

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Identity()
        self.sharpness = nn.Parameter(torch.ones(()))
        self.levels = LEVELS[::2]

    def set_text_embeddings(self, text: Tensor, names: Sequence[str]) -> None:
        self.levels = text

    def forward(self, images: Tensor) -> Tensor:
        return -(images[:, :1] - self.levels[:, :, None]).abs() * self.sharpness


def evaluate(rank: int, folder: Path) -> None:
    """Evaluates this process's part of the scenes; the first writes down what all of them gave."""
    device = torch.device("cpu")
    forward = Forward(Levels(), mean=(0.0,) * 3, std=(1.0,) * 3, device=device, precision="float32")
    world_size = idist.get_world_size()
    loader = create_eval_loader(Scenes(), batch_size=2, num_workers=0, rank=rank, world_size=world_size)
    vocabulary = Vocabulary(("sky", "road", "car", "tree"), unseen=("road", "tree"), bank=LEVELS)
    evaluator = Evaluator(forward, vocabulary)
    scores = evaluate_model(evaluator, loader)
    if rank == 0:
        metrics = evaluator.state.metrics
        counts = {name: metrics[name] for name in ("confusion", "unseen")} | vars(metrics["boundary"])
        torch.save({"counts": counts, "scores": asdict(scores)}, folder / f"{world_size}.pt")


def test_two_processes_count_what_one_counts(tmp_path: Path) -> None:
    evaluate(0, tmp_path)
    with idist.Parallel(backend="gloo", nproc_per_node=2, init_method=f"file://{tmp_path}/store") as processes:
        processes.run(evaluate, tmp_path)
    alone, together = (torch.load(tmp_path / f"{world_size}.pt", weights_only=True) for world_size in (1, 2))
    assert 0 < alone["scores"]["boundary_iou"] < 1 and 0 < alone["scores"]["boundary_f_score"] <= 1
    assert alone["counts"]["confusion"].sum() == sum((5 + index) * 7 * (6 * 9 - 3) for index in range(5))
    assert alone["counts"]["unseen"].sum() == alone["counts"]["confusion"][[1, 3]].sum()
    assert all(0 < score < 1 for name, score in alone["scores"]["zero_shot"].items() if name != "unseen")
    for name, counts in alone["counts"].items():
        assert counts.dtype == torch.int64 and torch.equal(together["counts"][name], counts), name
    assert together["scores"] == alone["scores"]
