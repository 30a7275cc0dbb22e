"""MTA-CLIP as an smp segmentation model, wired of all the other wings."""

from mtaclip_plugin.model.mtaclip import MTACLIP

__all__ = ["MTACLIP"]
