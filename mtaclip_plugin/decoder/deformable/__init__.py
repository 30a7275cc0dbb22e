"""Multi-scale deformable attention, and the ways to sample for it."""

from mtaclip_plugin.decoder.deformable.attention import DeformableAttention

__all__ = ["DeformableAttention"]
