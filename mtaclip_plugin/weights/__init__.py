"""Other people's checkpoints, copied into the parts that this model shares with theirs."""

from mtaclip_plugin.weights.mask2former import ConversionReport, SkippedWeight, load_mask2former

__all__ = ["ConversionReport", "SkippedWeight", "load_mask2former"]
