"""From an encoder's feature pyramid and text embeddings to mask predictions."""

from mtaclip_plugin.decoder.decoder import MTACLIPDecoder, present_names
from mtaclip_plugin.decoder.exchange import select_classes
from mtaclip_plugin.decoder.mask_text_decoder import InputNorm, MaskTextDecoder, TextPositions
from mtaclip_plugin.decoder.pixel_decoder import DeformablePixelDecoder, PixelDecoderName, build_pixel_decoder
from mtaclip_plugin.decoder.pixel_text import PixelAlignmentHead
from mtaclip_plugin.decoder.recompute import Recompute

__all__ = [
    "DeformablePixelDecoder",
    "InputNorm",
    "MTACLIPDecoder",
    "MaskTextDecoder",
    "PixelAlignmentHead",
    "PixelDecoderName",
    "Recompute",
    "TextPositions",
    "build_pixel_decoder",
    "present_names",
    "select_classes",
]
