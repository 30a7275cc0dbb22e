"""MTA-CLIP for segmentation_models_pytorch: importing it registers the architecture ``"mtaclip"``."""

from mtaclip_plugin.encoders import Preprocessing, preprocessing
from mtaclip_plugin.inference import semantic_labels
from mtaclip_plugin.losses import HungarianMatcher, MTACLIPLoss
from mtaclip_plugin.model import MTACLIP
from mtaclip_plugin.registration import register, swap_decoder
from mtaclip_plugin.structures import MaskPrediction
from mtaclip_plugin.text.vocabularies import ZeroShotSplit, vocabulary, zero_shot_split
from mtaclip_plugin.weights import ConversionReport, load_mask2former

register()

__all__ = [
    "MTACLIP",
    "ConversionReport",
    "HungarianMatcher",
    "MTACLIPLoss",
    "MaskPrediction",
    "Preprocessing",
    "ZeroShotSplit",
    "load_mask2former",
    "preprocessing",
    "semantic_labels",
    "swap_decoder",
    "vocabulary",
    "zero_shot_split",
]
