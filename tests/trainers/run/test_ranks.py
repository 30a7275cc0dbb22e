"""Two processes of two images each do what one process of four does."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from tests.trainers.engine.test_engines import CPU, batches, build
from trainers.data.augment import BatchAugmentation
from trainers.data.batch import IGNORE_INDEX, Batch
from trainers.engine.criteria import build_criterion
from trainers.engine.engines import create_trainer
from trainers.engine.forward import Forward
from trainers.engine.optim import create_optimizer, create_scheduler
from trainers.run.training import wrap_for_training

OFF_THE_MIDDLE = 0.3
"""Of samples from the middle of pixels, where the slope would be left to rounding in any precision."""


def four_images() -> Batch:
    (batch,) = batches(1, names="abcd", side=64)
    batch.labels[0] = IGNORE_INDEX  # an image without any mask
    batch.labels[1] = 0  # and one with a single mask: the ranks do not have the same share of masks
    return batch


def known_of(labels: Tensor) -> Tensor:
    """(B, 3): the classes that an image shows, and of the others each in every third image."""
    images, classes = torch.arange(len(labels))[:, None], torch.arange(3)
    shown = (labels.flatten(1)[:, None] == classes[:, None]).any(2)
    return shown | ((images + classes) % 3 == 0)


def step(arch: str, *, accumulate: int = 1, partly: bool = False, compiled: bool = False) -> tuple[nn.Module, Engine]:
    """One step on this process's part of the four images, which may be annotated for some of the classes only.

    In double precision: in single, the order of a sum decides where a query may look, and which points are uncertain.
    """
    model = build(arch).double()
    model.register_forward_pre_hook(lambda _, inputs: tuple(images.double() for images in inputs))
    for name, parameter in model.named_parameters():
        if "sampling_offsets.bias" in name:
            parameter.data += OFF_THE_MIDDLE
    rank, size = idist.get_rank(), 4 // idist.get_world_size()
    batch, part = four_images(), slice(rank * size, (rank + 1) * size)
    batch = Batch(batch.images[part], batch.labels[part], batch.names[part], batch.sizes[part])
    if partly:
        batch = replace(batch, known=known_of(four_images().labels)[part])
    forward = Forward(model, mean=(0.5,) * 3, std=(0.5,) * 3, device=CPU, precision="float32")
    optimizer = create_optimizer(model, lr=1e-3, encoder_lr_factor=0.1, weight_decay=0.02)
    wrap_for_training(forward, compile_model=compiled)
    trainer = create_trainer(
        forward,
        build_criterion(arch, num_points=64),
        optimizer,
        create_scheduler(optimizer, iterations=9, warmup_iterations=0, power=0.9),
        torch.amp.GradScaler("cpu", enabled=False),
        BatchAugmentation(crop_size=(64, 64), scale_range=(0.5, 2.0), photometric=1.0, seed=0, rank=rank),
        clip_norm=1e9,
        freeze_norms=True,  # so that no image depends on those beside it
        accumulate=accumulate,
        seed=0,
        folder=Path(),
    )
    trainer.run([batch], max_epochs=1)
    return model, trainer


def step_of_a_rank(local_rank: int, folder: str, accumulate: int, partly: bool) -> None:
    torch.set_num_threads(1)
    model, trainer = step("mtaclip", accumulate=accumulate, partly=partly)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    output = trainer.state.output
    torch.save((gradients, output.terms, output.grad_norm), Path(folder) / f"{idist.get_rank()}.pt")


@pytest.mark.parametrize("partly", [False, True])
def test_two_ranks_have_the_gradients_of_one(tmp_path: Path, monkeypatch, partly: bool) -> None:
    model, trainer = step("mtaclip", partly=partly)
    whole = {name: parameter.grad for name, parameter in model.named_parameters()}
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    idist.spawn("gloo", step_of_a_rank, args=(str(tmp_path), 2, partly), nproc_per_node=2, nnodes=1, node_rank=0)
    worst = 0.0
    for rank in range(2):
        gradients, terms, norm = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert terms.keys() == trainer.state.output.terms.keys()
        for name, term in trainer.state.output.terms.items():
            assert abs(terms[name] - term) <= 1e-10 * max(1, abs(term)), name
        assert abs(norm - trainer.state.output.grad_norm) <= 1e-10 * norm
        for name, gradient in whole.items():
            assert gradient is not None and gradients[name] is not None, name
            difference = (gradients[name] - gradient).abs().max().item() / max(1.0, gradient.abs().max().item())
            worst = max(worst, difference)
            assert difference <= 1e-10, name
    print(f"largest difference of a gradient: {worst:.1e}")


def compiled_step_of_a_rank(local_rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    backend = CompileCounterWithBackend("eager")
    with patch.object(torch, "compile", partial(torch.compile, backend=backend)):
        model, _ = step("mtaclip", accumulate=2, compiled=True)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.save((gradients, backend.frame_count), Path(folder) / f"{idist.get_rank()}.pt")


def test_two_compiled_ranks_have_the_gradients_of_one(tmp_path: Path, monkeypatch) -> None:
    model, _ = step("mtaclip")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    idist.spawn("gloo", compiled_step_of_a_rank, args=(str(tmp_path),), nproc_per_node=2, nnodes=1, node_rank=0)
    for rank in range(2):
        gradients, graphs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert graphs > 1  # one for each of the parts whose gradients are shared at once
        for name, parameter in model.named_parameters():
            scale = max(1.0, float(parameter.grad.norm()))
            assert (gradients[name] - parameter.grad).norm() <= 1e-10 * scale, name
