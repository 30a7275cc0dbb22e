from __future__ import annotations

import copy
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

import mtaclip_plugin as mta
from mtaclip_plugin.encoders import build_encoder
from mtaclip_plugin.encoders.swin import SwinBlock, swin_options
from tests.test_registration import DECODER

NAME = "tu-swin_tiny_patch4_window7_224"
NARROW = {"depths": (1, 2, 1, 2), "embed_dim": 24}


def blocks_of(encoder: nn.Module) -> list[nn.Module]:
    return [module for module in encoder.modules() if isinstance(module, SwinTransformerBlock)]


def make_block(kind: type[nn.Module]) -> nn.Module:
    return kind(
        dim=8, input_resolution=(14, 14), num_heads=2, window_size=7, shift_size=3, dynamic_mask=True,
        always_partition=True,
    ).eval()  # fmt: skip


def windowed(block: nn.Module, x: Tensor) -> Tensor:
    """Attention one cell after the other: with the cells of its shifted window, padding among them."""
    height, width = x.shape[1:3]
    rows, columns = -(-height // 7) * 7, -(-width // 7) * 7
    padded = x.new_zeros(1, rows, columns, x.shape[-1])
    padded[:, :height, :width] = x
    attention, result = block.attn, torch.zeros_like(x)
    table = attention.relative_position_bias_table.view(13, 13, -1)
    for row in range(height):
        for column in range(width):
            # Windows begin at 3, 10, ...; what lies before 3 is a smaller one, and so is what is left at the end.
            cells = [
                (r, c)
                for r in range(rows)
                for c in range(columns)
                if (r - 3) // 7 == (row - 3) // 7 and (c - 3) // 7 == (column - 3) // 7
            ]
            tokens = torch.stack([padded[0, r, c] for r, c in cells])
            query, _, _ = attention.qkv(padded[0, row, column]).view(3, 2, -1)
            _, key, value = attention.qkv(tokens).view(len(cells), 3, 2, -1).unbind(1)
            bias = torch.stack([table[row - r + 6, column - c + 6] for r, c in cells])
            weights = ((query * key).sum(-1) * attention.scale + bias).softmax(0)
            result[0, row, column] = attention.proj((weights[..., None] * value).sum(0).flatten())
    return result


@pytest.mark.parametrize("size", [(14, 14), (10, 17), (4, 5)])
@torch.no_grad()
def test_shifted_windows_are_the_literal_ones_at_any_size(size: tuple[int, int]) -> None:
    block = make_block(SwinBlock)
    for parameter in block.parameters():
        parameter.normal_(std=0.5)
    x = torch.randn(1, *size, 8)
    torch.testing.assert_close(block._attn(x), windowed(block, x), atol=1e-5, rtol=1e-5)


def test_the_border_is_not_crossed() -> None:
    reached = {}
    for kind in (SwinBlock, SwinTransformerBlock):
        x = torch.randn(1, 12, 12, 8, requires_grad=True)
        (gradient,) = torch.autograd.grad(make_block(kind)(x)[0, -1].sum(), x)
        reached[kind] = gradient.abs().sum((0, 2, 3)) > 1e-20  # a mask of -100 leaves exp(-100)
    assert reached[SwinBlock].tolist() == [False] * 10 + [True] * 2
    assert reached[SwinTransformerBlock][0]  # timm's own: from the last row to the first


def test_windows_do_not_depend_on_the_size_at_construction() -> None:
    for options in ({}, {"img_size": 64}):
        blocks = blocks_of(build_encoder(NAME, weights=None, **NARROW, **options))
        assert [block.window_size for block in blocks] == [(7, 7)] * 6
        assert [any(block.shift_size) for block in blocks] == [False, False, True, False, False, True]


@pytest.mark.parametrize("value", [True, False])
def test_the_option_gives_timms_own_blocks(value: bool) -> None:
    encoder = build_encoder(NAME, weights=None, always_partition=value, **NARROW)
    assert {type(block) for block in blocks_of(encoder)} == {SwinTransformerBlock}
    assert swin_options(encoder) == {"always_partition": value}


def test_ours_need_no_option_and_are_copied_as_they_are() -> None:
    encoder = build_encoder(NAME, weights=None, **NARROW)
    clone = copy.deepcopy(encoder)
    assert {type(block) for block in blocks_of(clone)} == {SwinBlock} and swin_options(clone) == {}
    assert swin_options(build_encoder("resnet18", weights=None)) == {}
    timms = build_encoder(NAME, weights=None, always_partition=True, **NARROW)
    timms.load_state_dict(encoder.state_dict())


@pytest.mark.parametrize("options", [{}, {"always_partition": True}, {"img_size": 64}])
@torch.no_grad()
def test_swapping_keeps_timms_windows(options: dict[str, object], tmp_path: Path) -> None:
    unet = smp.Unet(NAME, encoder_weights=None, classes=3, strict_img_size=False, **NARROW, **options).eval()
    images = torch.randn(1, 3, 96, 160)
    before = unet(images)
    swapped = mta.swap_decoder(unet, **DECODER)
    assert swapped.encoder is unet.encoder and torch.equal(unet(images), before)
    logits = swapped(images)
    swapped.save_pretrained(tmp_path)
    assert torch.equal(smp.from_pretrained(tmp_path).eval()(images), logits)
    again = mta.swap_decoder(swapped, **DECODER)
    again.save_pretrained(tmp_path)
    assert torch.equal(smp.from_pretrained(tmp_path).eval()(images), again(images))


@torch.no_grad()
def test_swapping_keeps_our_windows(tmp_path: Path) -> None:
    model = mta.MTACLIP(NAME, encoder_weights=None, classes=3, **DECODER, **NARROW).eval()
    swapped = mta.swap_decoder(model, **DECODER)
    assert "always_partition" not in swapped.config
    images = torch.randn(1, 3, 96, 160)
    logits = swapped(images)
    swapped.save_pretrained(tmp_path)
    assert torch.equal(smp.from_pretrained(tmp_path).eval()(images), logits)
