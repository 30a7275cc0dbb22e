"""How often the host waits for the device in a training step of the trainer, by the lines that make it wait."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.amp import GradScaler

from benchmarks import peers
from benchmarks.gpu.bench import Bench, Outcome
from benchmarks.peers import Scene
from benchmarks.report import Section
from trainers.data.augment import BatchAugmentation
from trainers.data.batch import Sample, collate
from trainers.engine.criteria import build_criterion
from trainers.engine.engines import create_trainer
from trainers.engine.forward import Forward
from trainers.engine.optim import create_optimizer, create_scheduler

ROOT = Path(__file__).parents[2]
STEPS = 4


def count_waits(bench: Bench) -> Outcome:
    """Counts the waits of the last of a few steps; the first one makes the optimizer's memory."""
    caught: list[list[warnings.WarningMessage]] = []
    with warnings.catch_warnings(record=True) as seen, tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("always")
        trainer, batch = _trainer(bench, Path(folder))

        def start() -> None:
            seen.clear()
            if bench.on_gpu:
                torch.cuda.set_sync_debug_mode("warn")

        def end() -> None:
            if bench.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
            caught.append(list(seen))

        trainer.add_event_handler(Events.ITERATION_STARTED, start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, end)
        trainer.run([batch] * STEPS, max_epochs=1)
    bench.free()
    waits = Counter(_place(warning) for warning in caught[-1] if "synchroniz" in str(warning.message))
    rows = [(place, str(count)) for place, count in waits.most_common()]
    rows.append(("all", str(waits.total()) if bench.on_gpu else "not measured: no GPU"))
    section = Section("Waits of the host in a training step", ("where", "waits"), rows)
    return Outcome((section,), dict(waits) if bench.on_gpu else None)


def _place(warning: warnings.WarningMessage) -> str:
    path = Path(warning.filename)
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(*path.parts[-3:])
    return f"{name}:{warning.lineno}"


def _trainer(bench: Bench, folder: Path) -> tuple[Engine, Any]:
    """The trainer's engine with all that it does in a step, and a batch for it."""
    side = 64 if bench.quick else 512
    scene = Scene.random(batch=2, side=side, num_classes=bench.num_classes)
    pictures = ((scene.images.clamp(-2, 2) + 2) * 63).to(torch.uint8)
    samples = [
        Sample(image, label, str(index))
        for index, (image, label) in enumerate(zip(pictures, scene.target, strict=True))
    ]
    model = peers.build_mtaclip(bench.num_classes)
    forward = Forward(model, mean=(0.5,) * 3, std=(0.5,) * 3, device=bench.device, precision="bf16")
    optimizer = create_optimizer(model, lr=1e-4, encoder_lr_factor=0.1, weight_decay=0.02)
    augmentation = BatchAugmentation(
        crop_size=(side, side), scale_range=(0.5, 2.0), photometric=1.0, max_class_share=0.75, seed=0
    )
    trainer = create_trainer(
        forward,
        build_criterion("mtaclip", num_points=256 if bench.quick else 12544),
        optimizer,
        create_scheduler(optimizer, iterations=STEPS + 5, warmup_iterations=0, power=0.9),
        GradScaler(bench.device.type, enabled=False),
        augmentation,
        clip_norm=0.01,
        accumulate=1,
        seed=0,
        folder=folder,
    )
    batch = collate(samples)
    return trainer, batch.pin_memory() if bench.on_gpu else batch
