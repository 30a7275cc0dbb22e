from __future__ import annotations

import torch
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from torch import nn

from mtaclip_plugin.decoder.pixel_decoder import SemanticFPNPixelDecoder

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
