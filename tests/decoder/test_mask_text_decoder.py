from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed._tools.mem_tracker import MemTracker

from mtaclip_plugin.decoder.heads import TextAlignmentHead
from mtaclip_plugin.decoder.layers import Attention, MaskTextDecoderLayer
from mtaclip_plugin.decoder.mask_text_decoder import MaskTextDecoder, attention_mask
from mtaclip_plugin.decoder.pixel_decoder import DeformablePixelDecoder, FPNPixelDecoder, PixelFeatures

CLASSES, QUERIES, PROMPTS, TEXT = 5, 7, 2, 12


def features(batch: int = 2, channels: int = 32) -> PixelFeatures:
    sizes = ((2, 3), (4, 6), (8, 12))
    memories = tuple(torch.randn(batch, channels, h, w) for h, w in sizes)
    return PixelFeatures(torch.randn(batch, channels, 16, 24), memories)


def decoder(**options: object) -> MaskTextDecoder:
    defaults = {"num_queries": QUERIES, "num_layers": 4, "num_heads": 4, "feedforward_channels": 64}
    return MaskTextDecoder(CLASSES, 32, text_shape=(PROMPTS, TEXT), **(defaults | options))


def test_attention_masks_equal_the_literal_way() -> None:
    pixels = features()
    embed = torch.randn(2, QUERIES, 32)
    full = torch.einsum("bnd,bdhw->bnhw", embed, pixels.mask_features)
    for memory in pixels.memories:
        logits = F.interpolate(full, size=memory.shape[-2:], mode="bilinear", align_corners=False).flatten(2)
        inside = logits.sigmoid() >= 0.5
        inside[(~inside).all(-1)] = True
        resized = F.interpolate(pixels.mask_features, size=memory.shape[-2:], mode="bilinear", align_corners=False)
        assert torch.equal(attention_mask(embed, resized.flatten(2))[:, 0], inside)


def test_an_empty_mask_attends_everywhere() -> None:
    mask = attention_mask(torch.tensor([[[-1.0], [1.0]]]), torch.tensor([[[1.0, 2.0, -0.5, 3.0]]]))
    assert mask[0, 0].tolist() == [[False, False, True, False], [True, True, False, True]]
    mask = attention_mask(torch.tensor([[[-1.0]]]), torch.ones(1, 1, 4))
    assert mask.all()


def test_every_layer_predicts_and_the_last_one_does_not_depend_on_it() -> None:
    model, pixels, text = decoder(), features(), torch.randn(PROMPTS, CLASSES + 1, TEXT)
    layers = model(pixels, text, auxiliary=True)
    (last,) = model(pixels, text, auxiliary=False)
    assert len(layers) == 5
    assert torch.equal(layers[-1].text_logits, last.text_logits)
    assert last.class_logits.shape == (2, QUERIES, CLASSES + 1)
    assert last.mask_embed.shape == (2, QUERIES, 32)
    assert last.text_logits.shape == (2, QUERIES, PROMPTS, CLASSES + 1)


def test_equivariant_to_the_order_of_the_classes() -> None:
    model, pixels, text = decoder(), features(), torch.randn(PROMPTS, CLASSES + 1, TEXT)
    order = torch.randperm(CLASSES + 1)
    before = model(pixels, text, auxiliary=False)[0]
    after = model(pixels, text[:, order], auxiliary=False)[0]
    torch.testing.assert_close(after.text_logits, before.text_logits[..., order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.mask_embed, before.mask_embed, atol=1e-5, rtol=1e-4)


def test_equivariant_to_the_order_of_the_queries() -> None:
    model, pixels, text = decoder(), features(), torch.randn(PROMPTS, CLASSES + 1, TEXT)
    order = torch.randperm(QUERIES)
    before = model(pixels, text, auxiliary=False)[0]
    with torch.no_grad():
        model.mask_queries.weight.copy_(model.mask_queries.weight[order])
        model.mask_positions.weight.copy_(model.mask_positions.weight[order])
    after = model(pixels, text, auxiliary=False)[0]
    torch.testing.assert_close(after.class_logits, before.class_logits[:, order], atol=1e-5, rtol=1e-4)


def test_positions_of_each_token_break_that_symmetry() -> None:
    model, pixels, text = decoder(text_positions="token"), features(), torch.randn(PROMPTS, CLASSES + 1, TEXT)
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    before = model(pixels, text, auxiliary=False)[0]
    after = model(pixels, text[:, order], auxiliary=False)[0]
    assert not torch.allclose(after.mask_embed, before.mask_embed, atol=1e-3)


def test_text_changes_masks_and_masks_start_as_mask2formers() -> None:
    model, pixels = decoder(), features()
    one, other = (model(pixels, torch.randn(PROMPTS, CLASSES + 1, TEXT), auxiliary=True) for _ in range(2))
    assert torch.equal(one[0].mask_embed, other[0].mask_embed)
    assert not torch.allclose(one[-1].mask_embed, other[-1].mask_embed, atol=1e-3)
    every = decoder(input_norm="all")(pixels, torch.randn(PROMPTS, CLASSES + 1, TEXT), auxiliary=False)
    assert every[0].mask_embed.isfinite().all()


def test_text_logits_by_hand() -> None:
    head = TextAlignmentHead(2, 2, temperature=0.5)
    with torch.no_grad():
        head.mask_projection.weight.copy_(torch.eye(2))
        head.mask_projection.bias.zero_()
        head.gamma.zero_()
    masks = torch.tensor([[[3.0, 4.0]]])
    text = torch.tensor([[[2.0, 0.0], [0.0, 5.0]]])  # one prompt, one class and "none"
    logits = head(masks, torch.randn(1, 2, 2), text)
    torch.testing.assert_close(logits, torch.tensor([[[[0.6, 0.8]]]]) / 0.5)


def test_the_image_moves_the_text_by_gamma() -> None:
    head = TextAlignmentHead(4, 3)
    assert head.gamma.tolist() == pytest.approx([1e-4] * 3)
    text = torch.randn(1, 2, 3)
    calm, moved = (head(torch.ones(1, 1, 4), tokens, text) for tokens in torch.randn(2, 1, 2, 4))
    torch.testing.assert_close(calm, moved, atol=1e-2, rtol=0)
    with torch.no_grad():
        head.gamma.fill_(1.0)
    calm, moved = (head(torch.ones(1, 1, 4), tokens, text) for tokens in torch.randn(2, 1, 2, 4))
    assert not torch.allclose(calm, moved, atol=1e-2)


def test_the_logit_scale_is_bounded_but_can_come_down_again() -> None:
    head = TextAlignmentHead(2, 2)
    with torch.no_grad():
        head.logit_scale.fill_(6.0)
    logits = head(torch.ones(1, 1, 2), torch.ones(1, 2, 2), torch.eye(2)[None])
    assert logits.abs().max() <= 100.001
    logits.square().sum().backward()
    assert head.logit_scale.grad > 0


def test_attention_equals_torch() -> None:
    ours = Attention(16, 4)
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 9, 16), torch.randn(2, 9, 16)
    mask = torch.rand(2, 1, 5, 9) > 0.5
    mask[..., 0] = True
    expected, _ = theirs(query, key, value, attn_mask=~mask.expand(-1, 4, -1, -1).flatten(0, 1))
    torch.testing.assert_close(ours(query, key, value, mask), expected)


def test_a_mask_is_kept_for_the_backward_pass_as_bits() -> None:
    attention, queries, memory = Attention(8, 4), torch.randn(2, 50, 8), torch.randn(2, 1000, 8)
    mask = torch.rand(2, 1, 50, 1000) > 0.5

    def kept(mask: Tensor | None) -> int:
        tracker = MemTracker()
        with tracker:
            output = attention(queries, memory, memory, mask)
        assert output.requires_grad
        return tracker.get_tracker_snapshot("current")[output.device]["Total"]

    assert kept(mask) - kept(None) < mask.numel() / 2  # the numbers made of it would be four times its size


def test_the_bits_give_the_gradients_of_the_numbers() -> None:
    attention, memory = Attention(16, 4), torch.randn(2, 9, 16)
    mask = torch.rand(2, 1, 5, 9) > 0.5
    mask[..., 0] = True
    queries = torch.randn(2, 5, 16, requires_grad=True)
    parameters = list(attention.parameters())
    gradients = torch.autograd.grad(attention(queries, memory, memory, mask).square().sum(), [queries, *parameters])
    heads = [
        project(tokens).unflatten(-1, (4, 4)).transpose(1, 2)
        for project, tokens in ((attention.query, queries), (attention.key, memory), (attention.value, memory))
    ]
    attended = F.scaled_dot_product_attention(*heads, attn_mask=mask)
    literal = attention.output(attended.transpose(1, 2).flatten(2))
    for ours, theirs in zip(
        gradients, torch.autograd.grad(literal.square().sum(), [queries, *parameters]), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", [DeformablePixelDecoder, FPNPixelDecoder])
def test_pixel_decoders_give_the_strides_of_their_maps(kind: type) -> None:
    channels = (8, 16, 24, 40)
    sizes = ((16, 24), (8, 12), (4, 6), (2, 3))
    maps = [torch.randn(2, c, h, w) for c, (h, w) in zip(channels, sizes, strict=True)]
    output = kind(channels, 32)(maps)
    assert output.mask_features.shape == (2, 32, 16, 24)
    assert [tuple(m.shape[-2:]) for m in output.memories] == [(2, 3), (4, 6), (8, 12)]


def test_a_graph_that_nobody_needs_any_more_is_freed() -> None:
    layer, rows = MaskTextDecoderLayer(64, 4, 32), 211  # a number of tokens that no other test's tensors have
    tokens, memory = torch.randn(2, rows, 64), torch.randn(2, 9, 64)
    mask = torch.ones(2, 1, rows, 9, dtype=torch.bool)
    hidden = layer(tokens, torch.randn(rows, 64), memory, memory, mask)
    assert live_in_graphs(rows) > 0
    del hidden
    assert live_in_graphs(rows) == 0


def live_in_graphs(rows: int) -> int:
    """How many tensors with a side of so many rows are results that a graph is kept for."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    return sum(tensor.grad_fn is not None and rows in tensor.shape for tensor in tensors)
