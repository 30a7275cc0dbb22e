"""How often a training step waits for the device, and how many operations it asks of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from ignite.engine import Events
from torch import Tensor
from torch.amp import GradScaler

from mtaclip_plugin.decoder.deformable import triton_sampling
from mtaclip_plugin.decoder.deformable.grid_sampling import grid_sampling
from mtaclip_plugin.decoder.recompute import Recompute
from trainers.data.augment import BatchAugmentation
from trainers.data.batch import Sample, collate
from trainers.engine.average import MovingAverage
from trainers.engine.criteria import build_criterion
from trainers.engine.engines import create_trainer
from trainers.engine.forward import Forward
from trainers.engine.optim import create_optimizer, create_scheduler

CLASSES = 150
MOST_WAITS = 3


@pytest.fixture(scope="session")
def _kernels_of_triton() -> None:
    """The operations of Triton's kernels on the CPU's tensors, each of which stands for one kernel."""

    def sample(value: Tensor, offsets: Tensor, weights: Tensor, points: Tensor, sides: Sequence[int]) -> Tensor:
        shapes = list(zip(sides[::2], sides[1::2], strict=True))
        return grid_sampling(value.float(), offsets, weights, points, shapes).to(value.dtype).contiguous()

    def sample_backward(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        tensors = [tensor.detach().requires_grad_() for tensor in inputs[:3]]
        return torch.autograd.grad(sample(*tensors, *inputs[3:]), tensors, grad)

    def apart(function: Callable[..., Any]) -> Callable[..., Any]:
        """In a thread of its own, where torch does not know that it is within an operation, and has gradients."""

        def called(*args: Any) -> Any:
            with ThreadPoolExecutor(1) as thread:
                return thread.submit(function, *args).result()

        return called

    triton_sampling._sample.register_kernel("cpu")(apart(sample))
    triton_sampling._sample_backward.register_kernel("cpu")(apart(sample_backward))


@pytest.mark.usefixtures("_kernels_of_triton")
@pytest.mark.parametrize(
    ("photometric", "share", "recompute", "triton", "most_launches"),
    [
        (0.0, 1.0, True, False, 3500),
        (0.0, 1.0, "auto", False, 3200),
        (0.0, 1.0, "auto", True, 2800),
        (1.0, 0.75, "auto", False, 3950),
    ],
    ids=["recomputed", "plain", "kernel of Triton", "official crops"],
)
def test_a_step_of_training(
    cuda: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    photometric: float,
    share: float,
    recompute: Recompute,
    triton: bool,
    most_launches: int,
) -> None:
    """A step at the paper's size; that of images does not matter to the counts."""
    monkeypatch.setattr(triton_sampling, "_choice", triton)
    model = smp.create_model(
        "mtaclip",
        encoder_name="resnet50",
        encoder_weights=None,
        classes=CLASSES,
        class_names=[f"class {k}" for k in range(CLASSES)],
        text_encoder="bank",
        text_embeddings=torch.randn(3, CLASSES + 1, 512),
        recompute=recompute,
    )
    side = 64
    labels = torch.randint(0, CLASSES, (2, 4, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    samples = [
        Sample(torch.randint(0, 256, (3, side, side), dtype=torch.uint8), label, str(index))
        for index, label in enumerate(labels)
    ]
    with cuda.emulated_cuda():
        forward = Forward(model, mean=(0.5,) * 3, std=(0.5,) * 3, device=torch.device("cuda"), precision="bf16")
        optimizer = create_optimizer(model, lr=1e-3, encoder_lr_factor=0.1, weight_decay=0.02)
        augmentation = BatchAugmentation(
            crop_size=(side, side), scale_range=(0.5, 2.0), photometric=photometric, max_class_share=share, seed=0
        )
        trainer = create_trainer(
            forward,
            build_criterion("mtaclip"),
            optimizer,
            create_scheduler(optimizer, iterations=9, warmup_iterations=0, power=0.9),
            GradScaler("cuda", enabled=False),
            augmentation,
            clip_norm=0.01,
            accumulate=1,
            seed=0,
            folder=tmp_path,
        )
        losses: list[float] = []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: losses.append(trainer.state.output.loss))
        MovingAverage(forward.model, momentum=0.1, handle_buffers="update").attach(trainer)
        meters: list[Any] = []
        trainer.add_event_handler(Events.ITERATION_STARTED, lambda: meters.append(cuda.start_meter()))
        batch = collate(samples).pin_memory()
        trainer.run([batch, batch], max_epochs=1)
        meter = meters[-1]  # the first step makes the optimizer's memory
    with capsys.disabled():
        print(f"\na training step, {request.node.callspec.id}: {meter.page()}")
    assert losses[0] > 0
    assert meter.waits.total() <= MOST_WAITS
    assert meter.launches.total() <= most_launches
