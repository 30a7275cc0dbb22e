"""MTA-CLIP for segmentation_models_pytorch: importing it registers the architecture ``"mtaclip"``.

===================  ==================================================================================
`MTACLIP`            the model, ``smp.create_model("mtaclip", ...)``
`swap_decoder`       the same with the encoder of an existing model of smp
`MTACLIPLoss`        the method's loss, of ``model(images, return_masks=True)`` and labels
`MaskPrediction`     what that gives: masks, classes and text, of every layer
`semantic_labels`    the class of each pixel of a prediction
`HungarianMatcher`   which query learns which mask
`preprocessing`      mean and standard deviation that an encoder's images want, a `Preprocessing`
`load_mask2former`   copies the weights of transformers' Mask2Former, with a `ConversionReport`
`vocabulary`         the class names of a data set
`zero_shot_split`    which of them are trained on and which are not, a `ZeroShotSplit`
===================  ==================================================================================
"""

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
