"""Multi-scale deformable attention, and the ways to sample for it."""

from mtaclip_plugin.decoder.deformable.attention import DeformableAttention
from mtaclip_plugin.decoder.deformable.triton_sampling import use_triton

__all__ = ["DeformableAttention", "use_triton"]
