from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

import mtaclip_plugin  # noqa: F401  registers "mtaclip"
from trainers.engine.optim import create_optimizer, create_scheduler


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 4))

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed"}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.linear = nn.Linear(4, 2)
        self.queries = nn.Embedding(5, 4)
        self.prompts = nn.Module()
        self.prompts.contexts = nn.Parameter(torch.zeros(3, 8, 4))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def groups(model: nn.Module) -> dict[str, tuple[float, float, set[str]]]:
    """Learning rate, decay and names of the parameters of each group."""
    optimizer = create_optimizer(model, lr=1e-3, encoder_lr_factor=0.1, weight_decay=0.02)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        g["name"]: (g["lr"], g["weight_decay"], {names[id(p)] for p in g["params"]}) for g in optimizer.param_groups
    }


def test_groups_by_hand() -> None:
    assert groups(Model()) == {
        "encoder": (1e-4, 0.02, {"encoder.conv.weight"}),
        "encoder, no decay": (
            1e-4,
            0.0,
            {"encoder.conv.bias", "encoder.norm.weight", "encoder.norm.bias", "encoder.pos_embed"},
        ),
        "decoder": (1e-3, 0.02, {"linear.weight"}),
        "decoder, no decay": (1e-3, 0.0, {"linear.bias", "queries.weight", "prompts.contexts", "logit_scale"}),
    }


def test_rates_fall_from_block_to_block() -> None:
    model = smp.create_model(
        "mtaclip",
        encoder_name="tu-vit_tiny_patch16_224",
        encoder_weights=None,
        classes=4,
        text_encoder=None,
        decoder_channels=64,
        pixel_decoder="fpn",
        num_heads=4,
    )
    optimizer = create_optimizer(model, lr=1.0, encoder_lr_factor=0.1, weight_decay=0.02, layer_decay=0.5)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    blocks = sorted(name for name in rates if name.startswith("encoder block") and "," not in name)
    assert rates["decoder"] == 1 and len(blocks) >= 12 and blocks[0] == "encoder block 00"
    last = int(blocks[-1].rpartition(" ")[2])
    assert rates[f"encoder block {last:02}, no decay"] == pytest.approx(0.1)
    for name in blocks:
        assert rates[name] == pytest.approx(0.1 * 0.5 ** (last - int(name.rpartition(" ")[2])))
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("text_encoder", ["bank", "tiny-flat"])
def test_groups_of_mtaclip(text_encoder: str) -> None:
    bank: Tensor | None = torch.randn(4, 6) if text_encoder == "bank" else None
    model = smp.create_model(
        "mtaclip",
        encoder_name="resnet18",
        encoder_weights=None,
        classes=4,
        class_names=["sky", "road", "car", "tree"],
        text_encoder=text_encoder,
        text_pretrained=None,
        text_embeddings=bank,
        num_queries=5,
        decoder_channels=64,
        pixel_decoder_layers=1,
        decoder_layers=1,
    )
    found = groups(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(len(names) for _, _, names in found.values()) == len(trained)
    assert set.union(*(names for _, _, names in found.values())) == trained
    undecayed = found["decoder, no decay"][2]
    for module_name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and module.weight.requires_grad:
            assert f"{module_name}.weight" in undecayed
    assert ("prompts.none_embedding" if bank is not None else "prompts.contexts") in undecayed
    assert not any(name.endswith(("bias", "gamma", "logit_scale")) for name in found["decoder"][2])
    assert any("linear" in name or "proj" in name for name in found["decoder"][2])


def rates(iterations: int, warmup: int, power: float) -> list[float]:
    optimizer = create_optimizer(Model(), lr=8.0, encoder_lr_factor=0.5, weight_decay=0.0)
    scheduler = create_scheduler(optimizer, iterations=iterations, warmup_iterations=warmup, power=power)
    result = []
    for _ in range(iterations):
        by_name = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert by_name["encoder"] == by_name["decoder"] / 2
        result.append(by_name["decoder"])
        optimizer.step()
        scheduler.step()
    return result


def test_schedule_by_hand() -> None:
    # W = 3: 1/4, 2/4, 3/4 of the peak; then (4/4)^2, (3/4)^2, (2/4)^2, (1/4)^2.
    assert rates(7, 3, 2.0) == pytest.approx([2, 4, 6, 8, 4.5, 2, 0.5])
    assert rates(4, 0, 1.0) == pytest.approx([8, 6, 4, 2])


def test_schedule_goes_on_from_its_state() -> None:
    full = rates(9, 2, 0.9)
    optimizer = create_optimizer(Model(), lr=8.0, encoder_lr_factor=0.5, weight_decay=0.0)
    scheduler = create_scheduler(optimizer, iterations=9, warmup_iterations=2, power=0.9)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    fresh = create_optimizer(Model(), lr=8.0, encoder_lr_factor=0.5, weight_decay=0.0)
    resumed = create_scheduler(fresh, iterations=9, warmup_iterations=2, power=0.9)
    fresh.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for expected in full[5:]:
        assert {g["name"]: g["lr"] for g in fresh.param_groups}["decoder"] == expected
        fresh.step()
        resumed.step()


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    optimizer = create_optimizer(Model(), lr=1.0, encoder_lr_factor=1.0, weight_decay=0.0)
    with pytest.raises(ValueError, match="warmup_iterations"):
        create_scheduler(optimizer, iterations=5, warmup_iterations=5, power=0.9)
