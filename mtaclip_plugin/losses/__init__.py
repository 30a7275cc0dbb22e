"""Losses: the label map's masks, their matching with mask queries, and the criterion."""

from mtaclip_plugin.losses.criterion import Assignment, MaskNormalizer, MTACLIPLoss
from mtaclip_plugin.losses.functional import (
    ContrastiveMode,
    class_loss,
    contrastive_loss,
    mask_bce_loss,
    mask_dice_loss,
    pairwise_mask_bce,
    pairwise_mask_dice,
)
from mtaclip_plugin.losses.matcher import ClassMatcher, HungarianMatcher, Matches
from mtaclip_plugin.losses.normalizers import LossNormalizers
from mtaclip_plugin.losses.points import (
    SampledLabels,
    random_points,
    sample_features,
    sample_labels,
    uncertain_points,
)
from mtaclip_plugin.losses.targets import IgnoredPixels, MaskTargets

__all__ = [
    "Assignment",
    "ClassMatcher",
    "ContrastiveMode",
    "HungarianMatcher",
    "IgnoredPixels",
    "LossNormalizers",
    "MTACLIPLoss",
    "MaskNormalizer",
    "MaskTargets",
    "Matches",
    "SampledLabels",
    "class_loss",
    "contrastive_loss",
    "mask_bce_loss",
    "mask_dice_loss",
    "pairwise_mask_bce",
    "pairwise_mask_dice",
    "random_points",
    "sample_features",
    "sample_labels",
    "uncertain_points",
]
