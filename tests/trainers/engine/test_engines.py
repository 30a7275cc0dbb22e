from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from ignite.engine import Events
from torch import Tensor, nn
from torch.amp import GradScaler

import mtaclip_plugin  # noqa: F401  registers "mtaclip"
from trainers.data.augment import BatchAugmentation
from trainers.data.batch import IGNORE_INDEX, Batch, Sample, collate
from trainers.engine.criteria import Part, build_criterion
from trainers.engine.engines import Evaluator, TrainStep, create_trainer
from trainers.engine.forward import Forward, Precision, resolve_device, resolve_precision
from trainers.engine.optim import create_optimizer, create_scheduler
from trainers.engine.vocabulary import Vocabulary
from trainers.foundation.errors import UserError

CPU = torch.device("cpu")


class Threshold(nn.Module):
    """Class 1 where the normalised red is above 0; takes sides that are multiples of 8 only, as smp's models do."""

    requires_divisible_input_shape = True

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Identity()
        self.encoder.output_stride = 8
        self.seen: list[torch.Size] = []

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert images.shape[-2] % 8 == images.shape[-1] % 8 == 0
        self.seen.append(images.shape)
        return torch.stack([-images[:, 0], images[:, 0]], dim=1)


def threshold_forward(model: nn.Module) -> Forward:
    return Forward(model, mean=(0.5, 0.0, 0.0), std=(0.25, 1.0, 1.0), device=CPU, precision="float32")


def sample(height: int, width: int, red: int, label: int) -> Sample:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0] = red
    return Sample(image=image, label=torch.full((height, width), label), name=f"{height}x{width}")


def test_evaluator_counts_the_images_and_not_their_padding() -> None:
    model = Threshold()
    evaluator = Evaluator(threshold_forward(model), Vocabulary(("sky", "road")))
    samples = [sample(9, 5, red=200, label=1), sample(4, 17, red=100, label=1), sample(3, 3, red=0, label=0)]
    samples[2].label[0] = IGNORE_INDEX
    evaluator.run([collate(samples)])
    # 45 pixels of class 1 found, 68 of it missed (100/255 is below the mean), 6 of class 0 found, 3 ignored.
    assert evaluator.state.metrics["confusion"].tolist() == [[6, 0], [68, 45]]
    assert [tuple(shape) for shape in model.seen] == [(1, 3, 16, 8), (1, 3, 8, 24), (1, 3, 8, 8)]


def test_evaluator_predicts_images_of_one_size_together() -> None:
    model = Threshold()
    evaluator = Evaluator(threshold_forward(model), Vocabulary(("sky", "road")))
    evaluator.run([collate([sample(8, 8, red=255, label=0), sample(8, 8, red=0, label=0)])])
    assert evaluator.state.metrics["confusion"].tolist() == [[64, 64], [0, 0]]
    assert [tuple(shape) for shape in model.seen] == [(2, 3, 8, 8)]


def build(arch: str) -> nn.Module:
    torch.manual_seed(0)
    if arch != "mtaclip":
        return smp.create_model(arch, encoder_name="resnet18", encoder_weights=None, classes=3)
    return smp.create_model(
        arch,
        encoder_name="resnet18",
        encoder_weights=None,
        classes=3,
        class_names=["sky", "road", "car"],
        text_encoder="bank",
        text_embeddings=torch.randn(3, 8),
        num_queries=5,
        decoder_channels=64,
        pixel_decoder_layers=1,
        decoder_layers=1,
    )


def batches(count: int, *, names: str = "ab", side: int = 32) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    size, blocks = len(names), side // 4
    return [
        Batch(
            images=torch.rand(size, 3, side, side, generator=generator),
            labels=torch.randint(0, 3, (size, blocks, blocks), generator=generator)
            .repeat_interleave(4, 1)
            .repeat_interleave(4, 2),
            names=tuple(names),
            sizes=((side, side),) * size,
        )
        for _ in range(count)
    ]


def run(
    model: nn.Module,
    data: list[Batch],
    *,
    arch: str,
    seed: int = 0,
    clip_norm: float = 1.0,
    freeze_norms: bool = False,
    accumulate: int = 1,
    precision: Precision = "float32",
    folder: Path = Path(),
) -> list[TrainStep]:
    forward = Forward(model, mean=(0.5,) * 3, std=(0.5,) * 3, device=CPU, precision=precision)
    optimizer = create_optimizer(model, lr=1e-3, encoder_lr_factor=0.1, weight_decay=0.02)
    scheduler = create_scheduler(optimizer, iterations=99, warmup_iterations=0, power=0.9)
    crop_size = data[0].sizes[0]
    augmentation = BatchAugmentation(crop_size=crop_size, scale_range=(1.0, 1.0), flip=0.5, photometric=0.0, seed=0)
    options = {"num_points": 64} if arch == "mtaclip" else {}
    trainer = create_trainer(
        forward,
        build_criterion(arch, **options),
        optimizer,
        scheduler,
        GradScaler("cpu", enabled=precision == "fp16"),
        augmentation,
        clip_norm=clip_norm,
        freeze_norms=freeze_norms,
        accumulate=accumulate,
        seed=seed,
        folder=folder,
    )
    steps: list[TrainStep] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: steps.append(engine.state.output))
    trainer.run(data, max_epochs=1)
    return steps


@pytest.mark.parametrize("arch", ["unet", "mtaclip"])
def test_the_loss_is_the_sum_of_its_terms_and_falls(arch: str) -> None:
    steps = run(build(arch), batches(1) * 12, arch=arch)
    for step in steps:
        assert step.loss == pytest.approx(sum(step.terms.values()), rel=1e-5)
        assert step.grad_norm > 0
    assert steps[-1].loss < 0.9 * steps[0].loss
    assert steps[0].learning_rates["decoder"] == 1e-3
    assert steps[0].learning_rates["encoder, no decay"] == pytest.approx(1e-4)
    assert steps[-1].learning_rates["decoder"] == pytest.approx(1e-3 * (88 / 99) ** 0.9)


def test_all_randomness_of_a_step_derives_from_the_seed() -> None:
    first = run(build("mtaclip"), batches(3), arch="mtaclip")
    torch.rand(7)
    assert run(build("mtaclip"), batches(3), arch="mtaclip") == first
    assert run(build("mtaclip"), batches(3), arch="mtaclip", seed=1) != first


def test_gradients_are_clipped_and_their_norm_is_told_before() -> None:
    model = build("unet")
    before = [p.detach().clone() for p in model.parameters()]
    (step,) = run(model, batches(1), arch="unet", clip_norm=1e-3)
    clipped = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert clipped.item() == pytest.approx(1e-3, rel=1e-3) and step.grad_norm > 0.01
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("frozen", [False, True])
def test_norms_of_the_encoder_keep_their_statistics_if_asked(frozen: bool) -> None:
    model = build("unet").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(model, batches(2), arch="unet", freeze_norms=frozen)
    kept = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    statistics = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    of_encoder = {name for name in statistics if name.startswith("encoder.")}
    assert of_encoder and statistics - of_encoder
    assert kept & statistics == (of_encoder if frozen else set())
    assert "encoder.bn1.weight" in before and "encoder.bn1.weight" not in kept  # weights learn either way
    assert model.encoder.layer1.training and not model.eval().encoder.layer1.training


def test_a_loss_that_is_not_finite_ends_in_a_sentence_and_keeps_the_batch(tmp_path: Path) -> None:
    (batch,) = batches(1)
    broken = replace(batch, images=torch.full_like(batch.images, float("nan")))
    model = build("unet")
    with pytest.raises(UserError, match=r"iteration 1, on a, b; lower --optim\.lr.*not_finite_1_0\.pt"):
        run(model, [broken], arch="unet", folder=tmp_path)
    kept = torch.load(tmp_path / "not_finite_1_0.pt", weights_only=True)
    assert kept["names"] == ("a", "b") and kept["images"].isnan().all() and kept["labels"].shape == (2, 32, 32)
    assert kept["model"].keys() == model.state_dict().keys()


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulated_gradients_are_those_of_the_whole_batch(accumulate: int) -> None:
    (batch,) = batches(1, names="abcd", side=64)
    batch.labels[0] = IGNORE_INDEX
    whole, parts = build("mtaclip"), build("mtaclip")  # whose only batch norms are the encoder's
    (first,) = run(whole, [batch], arch="mtaclip", clip_norm=1e9, freeze_norms=True)
    (second,) = run(parts, [batch], arch="mtaclip", clip_norm=1e9, freeze_norms=True, accumulate=accumulate)
    assert second.terms == pytest.approx(first.terms, rel=1e-4)
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert (other.grad - one.grad).abs().max() <= 1e-5 * max(1.0, one.grad.abs().max().item()), name


def test_gradients_that_overflow_for_ever_in_half_precision_end_the_run(tmp_path: Path) -> None:
    model = build("unet")
    next(model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(UserError, match=r"gradient's norm nan at iteration"):
        run(model, batches(1) * 40, arch="unet", precision="fp16", folder=tmp_path)


def test_half_precision_scales_the_loss_and_trains() -> None:
    # A processor that computes in float16 itself overflows until the scale was halved about ten times.
    steps = run(build("mtaclip"), batches(1) * 20, arch="mtaclip", precision="fp16")
    assert all(math.isfinite(step.loss) for step in steps) and steps[-1].loss < steps[0].loss


def test_pixel_criterion_by_hand() -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([0.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)

    forward = Forward(Constant(), mean=(0.0,) * 3, std=(1.0,) * 3, device=CPU, precision="float32")
    labels = torch.tensor([[[1, 1], [0, IGNORE_INDEX]]])
    criterion = build_criterion("unet")
    terms = criterion(forward, Part(torch.zeros(1, 3, 2, 2), labels, labels, []))
    p = torch.tensor([0.0, 2.0]).softmax(0)
    assert terms["cross_entropy"].item() == pytest.approx(-(2 * p[1].log() + p[0].log()).item() / 3)
    dice = 1 - torch.stack([2 * p[0] / (3 * p[0] + 1), 4 * p[1] / (3 * p[1] + 2)])
    assert terms["dice"].item() == pytest.approx(dice.mean().item(), rel=1e-5)
    nothing = torch.full((1, 2, 2), IGNORE_INDEX)
    void = criterion(forward, Part(torch.zeros(1, 3, 2, 2), nothing, nothing, []))
    assert [term.item() for term in void.values()] == [0, 0]


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision(precision: Precision, dtype: torch.dtype) -> None:
    forward = Forward(nn.Conv2d(3, 2, 1), mean=(0.0,) * 3, std=(1.0,) * 3, device=CPU, precision=precision)
    images = torch.rand(1, 3, 4, 4)
    output = forward(images)
    assert output.dtype == dtype and forward.model.weight.dtype == torch.float32
    reference = F.conv2d(images, forward.model.weight, forward.model.bias)
    torch.testing.assert_close(output.float(), reference, rtol=2e-2, atol=2e-2)


def test_auto_precision_is_bf16_on_cpus_with_amx_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for amx in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert resolve_precision("auto", CPU) is (torch.bfloat16 if amx else torch.float32)
        assert resolve_precision("float32", CPU) is torch.float32 and resolve_precision("bf16", CPU) is torch.bfloat16


def test_a_device_that_is_not_there_is_named() -> None:
    assert resolve_device("cpu") == CPU
    for name in ("cuda:17", "abacus"):
        with pytest.raises(ValueError, match=name):
            resolve_device(name)


def test_a_gpu_that_is_named_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert [resolve_device("cuda:1")] == chosen == [torch.device("cuda:1")]
    resolve_device("cpu")
    assert len(chosen) == 1
