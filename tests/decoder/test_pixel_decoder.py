from __future__ import annotations

import torch
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from torch import nn

from mtaclip_plugin.decoder.pixel_decoder import ImageContext, SemanticFPNPixelDecoder, build_pixel_decoder

CHANNELS = (8, 16, 24, 40)


def test_semantic_fpn_merges_the_levels_as_the_fpn_of_smp_does() -> None:
    torch.manual_seed(0)
    features = [torch.randn(2, c, 64 // 2**level, 96 // 2**level) for level, c in enumerate(CHANNELS)]
    peer = FPNDecoder([3, 4, *CHANNELS], pyramid_channels=32, segmentation_channels=64, dropout=0.0)
    ours = SemanticFPNPixelDecoder(CHANNELS, 64, pyramid_channels=32)
    ours.mask_projection = nn.Identity()
    for own, its in zip(ours.laterals, (peer.p5, peer.p4.skip_conv, peer.p3.skip_conv, peer.p2.skip_conv), strict=True):
        own.load_state_dict(its.state_dict())
    for own, its in zip(ours.branches, peer.seg_blocks, strict=True):
        own.load_state_dict(its.state_dict())
    given = ours(features)
    torch.testing.assert_close(given.mask_features, peer([None, None, *features]))
    assert [memory.shape for memory in given.memories] == [(2, 64, 8, 12), (2, 64, 16, 24), (2, 64, 32, 48)]


def test_a_training_with_context_starts_as_without_it() -> None:
    torch.manual_seed(0)
    features = [torch.randn(2, c, 64 // 2**level, 96 // 2**level) for level, c in enumerate(CHANNELS)]
    plain = SemanticFPNPixelDecoder(CHANNELS, 64, pyramid_channels=32)
    context = SemanticFPNPixelDecoder(CHANNELS, 64, pyramid_channels=32, context=True)
    missing, unexpected = context.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("context.") for name in missing)
    assert torch.equal(context(features).mask_features, plain(features).mask_features)


def test_context_adds_one_vector_of_the_whole_map_to_all_pixels() -> None:
    torch.manual_seed(0)
    context = ImageContext(6, hidden_channels=4)
    nn.init.normal_(context.expansion.weight)
    features = torch.randn(3, 6, 5, 7)
    added = context(features) - features
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added), atol=1e-6, rtol=1e-5)
    shuffled = features.flatten(2)[:, :, torch.randperm(35)].unflatten(2, (5, 7))
    torch.testing.assert_close(context(shuffled) - shuffled, added, atol=1e-5, rtol=1e-4)
    hidden = (features.mean((2, 3)) @ context.reduction.weight[:, :, 0, 0].T + context.reduction.bias).clamp(min=0)
    torch.testing.assert_close(added[:, :, 2, 3], hidden @ context.expansion.weight[:, :, 0, 0].T, atol=1e-6, rtol=1e-5)


def test_the_name_says_whether_there_is_context() -> None:
    with_context, without = (build_pixel_decoder(name, CHANNELS, 64) for name in ("context_fpn", "semantic_fpn"))
    assert isinstance(with_context, SemanticFPNPixelDecoder) and isinstance(with_context.context, ImageContext)
    assert not any("context" in name for name in without.state_dict())  # weights of before have none
