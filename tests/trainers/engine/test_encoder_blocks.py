from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mtaclip_plugin.encoders import build_encoder
from trainers.engine.encoder_blocks import block_numbers, checkpoint_gradients

VIT = {"embed_dim": 24, "depth": 3, "num_heads": 3}


@pytest.mark.parametrize(
    ("name", "options", "places"),
    [
        ("tu-vit_tiny_patch16_224", VIT, ["patch_embed", "blocks.0.", "blocks.1.", "blocks.2."]),
        ("clip:ViT-S-32-alt", {}, ["conv1", "resblocks.0.", "resblocks.5.", "resblocks.11."]),
    ],
)
def test_blocks_are_counted_from_the_image(name: str, options: dict[str, int], places: list[str]) -> None:
    encoder = build_encoder(name, weights=None, **options)
    numbers = block_numbers(encoder)
    assert numbers.keys() == {name for name, _ in encoder.named_parameters()}
    depths = [max(number for name, number in numbers.items() if place in name) for place in places]
    assert depths == sorted(set(depths)) and depths[0] == min(numbers.values())


def test_an_encoder_that_does_not_say_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--optim\.layer_decay to 1"):
        block_numbers(build_encoder("resnet18", weights=None))


def backward(encoder: nn.Module, image: Tensor) -> tuple[list[Tensor], int]:
    """The gradients of the parameters, and the bytes that were kept for them."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    encoder.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = torch.stack([features.square().mean() for features in encoder(image)[1:] if features.numel()]).sum()
    loss.backward()
    return [parameter.grad.clone() for parameter in encoder.parameters() if parameter.grad is not None], kept


@pytest.mark.parametrize("name", ["tu-vit_tiny_patch16_224", "tu-convnext_atto", "clip:ViT-S-32-alt"])
def test_checkpointing_keeps_less_and_changes_nothing(name: str) -> None:
    encoder = build_encoder(name, weights=None, **(VIT if name.startswith("tu-vit") else {})).train()
    image = torch.randn(2, 3, 64, 64)
    before, much = backward(encoder, image)
    checkpoint_gradients(encoder)
    after, little = backward(encoder, image)
    assert little < 0.7 * much
    for first, second in zip(before, after, strict=True):
        torch.testing.assert_close(second, first)


def test_an_encoder_that_can_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--train\.gradient_checkpointing to false"):
        checkpoint_gradients(build_encoder("resnet18", weights=None))
