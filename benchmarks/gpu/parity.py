"""Whether a device computes what a CPU does: forward, loss, gradients, labels, precisions, samplers, checkpoints."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.gpu.bench import Bench, Outcome, sentence
from benchmarks.peers import Scene
from benchmarks.report import Section
from mtaclip_plugin import MTACLIP, MTACLIPLoss
from mtaclip_plugin.decoder.deformable.triton_sampling import samples_by_kernel, use_triton
from trainers.options.config import Config
from trainers.options.parsing import parse_config
from trainers.run.checkpoints import LAST, load_checkpoint
from trainers.train import train


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: what was compared.
        found: how far the two are apart, or what happened.
        limit: the most that is right; ``None`` where ``found`` is a sentence.
        right: whether all is well.
    """

    name: str
    found: float | str
    limit: float | None
    right: bool

    @classmethod
    def of(cls, name: str, found: float, limit: float) -> Check:
        """A difference that must not be larger than its limit."""
        return cls(name, found, limit, found <= limit)


def check_all(bench: Bench) -> Outcome:
    """Makes every check; one that ends in an error is a row that says so."""
    checks: list[Check] = []
    for group in (_numbers, _kernel, _precisions, _resumed):
        checks += _made(group, bench)
    note = (
        "Differences are the largest one over the largest value of the CPU's, or of what grid_sample gives there. "
        "Weights are random, points of the losses the same, TensorFloat-32 is off."
    )
    return _outcome(f"A CPU beside {bench.device}", checks, note)


def check_compiled(bench: Bench) -> Outcome:
    """Compares the compiled model with the same one as it is."""
    if not bench.has_time(to_compile=True):
        return _outcome("The compiled model", [Check("compiled", "no time left", None, right=True)])
    return _outcome("The compiled model beside the same one as it is", _made(_compiled, bench))


def _made(group: Callable[[Bench], list[Check]], bench: Bench) -> list[Check]:
    try:
        checks = group(bench)
    except Exception as error:  # others have something to say, whatever it was
        checks = [Check(group.__name__.strip("_"), sentence(error), None, right=False)]
    print(*checks, sep="\n", flush=True)
    return checks


def _outcome(title: str, checks: list[Check], note: str = "") -> Outcome:
    rows = [
        (check.name, _cell(check.found), _cell(check.limit), "yes" if check.right else "**NO**") for check in checks
    ]
    section = Section(title, ("compared", "found", "limit", "right"), rows, note)
    return Outcome((section,), [asdict(check) for check in checks])


def _cell(value: float | str | None) -> str:
    return f"{value:.1e}" if isinstance(value, float) else value or ""


def difference(other: Tensor, reference: Tensor) -> float:
    """The largest difference as a share of the largest value of the reference; infinite where one is not a number."""
    reference, other = reference.detach().cpu().double(), other.detach().cpu().double()
    apart = (other - reference).abs().max() / reference.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return apart.item() if apart.isfinite() else math.inf


@contextmanager
def same_points() -> Iterator[None]:
    """Random points are drawn on the CPU and sent from there: generators of two devices give different ones."""
    rand = torch.rand

    def rand_on_cpu(*size: Any, device: Any = None, **options: Any) -> Tensor:
        return rand(*size, **options).to(device)

    with patch.object(torch, "rand", rand_on_cpu):
        yield


@contextmanager
def exact_float32() -> Iterator[None]:
    """Products of matrices and convolutions in all digits of float32."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def _model(bench: Bench, **options: Any) -> MTACLIP:
    """A model that samples off the middle of pixels, where the slope would be left to rounding."""
    encoder_name = "resnet18" if bench.quick else "resnet50"
    model = peers.build_mtaclip(bench.num_classes, **{"encoder_name": encoder_name, **options})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sampling_offsets.bias" in name:
                parameter += 0.3
    return model


def _scene(bench: Bench) -> Scene:
    return Scene.random(batch=2, side=64 if bench.quick else 128, num_classes=bench.num_classes)


def _numbers(bench: Bench) -> list[Check]:
    """Forward pass, loss, gradients and label maps, with and without text."""
    checks, scene, criterion = [], _scene(bench), MTACLIPLoss(num_points=1024)
    for text_encoder in ("bank", None):
        for dtype, close in ((torch.float64, 1e-6), (torch.float32, 1e-3)):
            name = f"{'bank' if text_encoder else 'no text'}, {str(dtype).removeprefix('torch.')}"
            here = _model(bench, text_encoder=text_encoder).to(dtype).eval()  # batch norm has no say
            there = copy.deepcopy(here).to(bench.device)
            outputs, losses, labels = [], [], []
            with exact_float32(), same_points():
                for model, device in ((here, torch.device("cpu")), (there, bench.device)):
                    images, target = scene.images.to(device, dtype), scene.target.to(device)
                    torch.manual_seed(1)
                    outputs.append(model(images, return_masks=True))
                    losses.append(criterion(outputs[-1], target))
                    losses[-1].backward()
                    labels.append(model.predict_labels(images).cpu())
            for field in ("class_logits", "mask_embed", "mask_features", "text_logits"):
                ours, theirs = (getattr(output, field) for output in outputs)
                if ours is not None:
                    checks.append(Check.of(f"{name}: {field}", difference(theirs, ours), close))
            checks.append(Check.of(f"{name}: loss", difference(losses[1], losses[0]), close))
            checks.append(
                Check.of(f"{name}: all gradients", difference(_gradients(there), _gradients(here)), 10 * close)
            )
            differ = (labels[0] != labels[1]).double().mean().item()
            checks.append(Check.of(f"{name}: share of pixels with another label", differ, 1e-2))
            bench.free()
    return checks


def _kernel(bench: Bench) -> list[Check]:
    """The model that samples by the kernel in Triton beside the same one that samples by ``grid_sample``."""
    if not samples_by_kernel(bench.device, 32):
        return []
    checks, scene, criterion = [], _scene(bench), MTACLIPLoss(num_points=1024)
    images, target = scene.images.to(bench.device), scene.target.to(bench.device)
    model = _model(bench).to(bench.device).eval()
    outputs, losses, gradients = [], [], []
    try:
        for enabled in (False, True):
            use_triton(enabled)
            model.zero_grad()
            torch.manual_seed(1)
            with exact_float32():
                outputs.append(model(images, return_masks=True))
                losses.append(criterion(outputs[-1], target))
                losses[-1].backward()
            gradients.append(_gradients(model))
    finally:
        use_triton(None)
    for field in ("class_logits", "mask_embed", "mask_features", "text_logits"):
        ours, theirs = (getattr(output, field) for output in outputs)
        checks.append(Check.of(f"kernel in Triton, float32: {field}", difference(theirs, ours), 1e-3))
    checks.append(Check.of("kernel in Triton, float32: loss", difference(losses[1], losses[0]), 1e-3))
    checks.append(Check.of("kernel in Triton, float32: all gradients", difference(gradients[1], gradients[0]), 1e-2))
    bench.free()
    return checks


def _gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.detach().cpu().flatten() for p in model.parameters() if p.grad is not None])


def _precisions(bench: Bench) -> list[Check]:
    """A few steps on one batch lower the loss in every precision."""
    checks, scene = [], _scene(bench)
    images, target = scene.images.to(bench.device), scene.target.to(bench.device)
    steps = 3 if bench.quick else 30
    dtypes = [torch.float32, torch.bfloat16, *([torch.float16] if bench.on_gpu else [])]
    for dtype in dtypes:
        model, criterion = _model(bench).to(bench.device).train(), MTACLIPLoss(num_points=1024)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
        scaler = torch.amp.GradScaler(bench.device.type, enabled=dtype is torch.float16)
        losses: list[float] = []
        for _ in range(steps):
            with torch.autocast(bench.device.type, dtype, enabled=dtype is not torch.float32):
                loss = criterion(model(images, return_masks=True), target)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        name = f"loss after {steps} steps as a share of the first, {str(dtype).removeprefix('torch.')}"
        checks.append(Check.of(name, losses[-1] / losses[0] if math.isfinite(losses[-1]) else math.inf, 1.0))
        bench.free()
    return checks


def _compiled(bench: Bench) -> list[Check]:
    """The compiled model's forward pass and gradients beside those of the model as it is.

    In double precision: a rounded cell of an attention mask would let a query see other cells.
    """
    scene, criterion = _scene(bench), MTACLIPLoss(num_points=1024)
    images, target = scene.images.to(bench.device, torch.float64), scene.target.to(bench.device)
    small = {"encoder_name": "resnet18", "decoder_layers": 3, "pixel_decoder_layers": 2}  # each takes long to compile
    eager = _model(bench, **small).to(bench.device, torch.float64).eval()
    compiled = copy.deepcopy(eager)
    compiled.compile(fullgraph=True, dynamic=False, backend=compile_backend(bench))
    outputs, losses = [], []
    with same_points():
        for model in (eager, compiled):
            torch.manual_seed(1)
            prediction = model(images, return_masks=True)
            outputs.append(prediction)
            losses.append(criterion(prediction, target))
            losses[-1].backward()
    checks = [
        Check.of("compiled, float64: mask_embed", difference(outputs[1].mask_embed, outputs[0].mask_embed), 1e-6),
        Check.of("compiled, float64: loss", difference(losses[1], losses[0]), 1e-6),
        Check.of("compiled, float64: all gradients", difference(_gradients(compiled), _gradients(eager)), 1e-5),
    ]
    bench.free()
    return checks


def compile_backend(bench: Bench) -> str:
    """What compiles the graph: on a CPU that takes minutes, so there it is only found."""
    return "eager" if bench.quick else "inductor"


def _resumed(bench: Bench) -> list[Check]:
    """A training that began on a CPU goes on on the device, and from there on the CPU again."""
    with tempfile.TemporaryDirectory() as folder:
        for number, device in enumerate(("cpu", str(bench.device), "cpu")):
            train(_short_training(Path(folder), device, iterations=2 * (number + 1)))
        iteration = load_checkpoint(Path(folder) / LAST).validation.iteration
    return [Check("a training: CPU, device, CPU", f"{iteration} of 6 steps", None, right=iteration == 6)]


def _short_training(folder: Path, device: str, *, iterations: int) -> Config:
    options = {
        "data.dataset": "shapes",
        "data.size": 64,
        "data.train_length": 4,
        "data.val_length": 2,
        "data.crop_size": "[64,64]",
        "model.encoder_name": "resnet18",
        "model.encoder_weights": "null",
        "model.decoder_channels": 64,
        "model.pixel_decoder_layers": 1,
        "model.decoder_layers": 1,
        "loss.num_points": 64,
        "optim.warmup_iterations": 1,
        "train.batch_size": 2,
        "train.validate_every": 2,
        "train.overlays": 0,
        "train.resume": "always",
        "train.iterations": iterations,
        "train.device": device,
        "train.output": folder,
    }
    return parse_config([f"--{name}={value}" for name, value in options.items()])
