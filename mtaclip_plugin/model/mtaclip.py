"""MTA-CLIP as an smp segmentation model: wiring only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from segmentation_models_pytorch.base import ClassificationHead
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from segmentation_models_pytorch.base.initialization import initialize_head
from torch import Tensor

from mtaclip_plugin.arguments import (
    check_choice,
    check_colours,
    check_depth,
    check_positive,
    check_width,
)
from mtaclip_plugin.decoder import (
    InputNorm,
    MaskTextDecoder,
    MTACLIPDecoder,
    PixelAlignmentHead,
    PixelDecoderName,
    Recompute,
    TextPositions,
    build_pixel_decoder,
    present_names,
)
from mtaclip_plugin.encoders import StridePyramid, build_encoder, find_maps
from mtaclip_plugin.inference import Classification, ScoreJoin, Scoring
from mtaclip_plugin.inference.clip_masks import ClipWay, build_clip_masks
from mtaclip_plugin.model.passes import SegmentingModel
from mtaclip_plugin.model.scoring import check_text_options
from mtaclip_plugin.text import build_text, check_class_names


class MTACLIP(SegmentingModel):
    """MTA-CLIP: a mask-text decoder on any smp or timm encoder, guided by CLIP's text embeddings.

    Das, Hu, Jiang, Schiele: "MTA-CLIP: Language-Guided Semantic Segmentation with Mask-Text Alignment", ECCV 2024.

    In training the prompts go through the text tower at every step, in evaluation only where the contexts are others
    than when they last did: so a model whose weights are averaged or swapped evaluates with the text of those it has.
    Graphs that are compiled or exported hold the text of the last ``eval()``: call it when weights have changed. In
    evaluation mode no gradient reaches the contexts. For several devices use ``DistributedDataParallel``, not
    ``DataParallel``.

    Args:
        encoder_name: an smp encoder; a timm model as ``tu-NAME``; ``"clip"`` for the image tower of the model that
            ``text_encoder`` names, with that model's weights; ``"clip:NAME"`` for that of any open_clip model;
            ``"dpt:NAME"`` for a timm model as the encoder of smp's ``DPT`` has it, of which the deepest map is used.
        encoder_depth: stages of the encoder, 3 to 5; strides it then lacks are made from its deepest map. Plain vision
            transformers have no stages and run whole.
        encoder_weights: name of pretrained weights; ``None`` for random ones.
        in_channels: image channels.
        classes: K.
        class_names: K names in the order of the label ids; not needed without text or for one class.
        text_encoder: an open_clip model; ``"bank"`` for ready embeddings; ``None`` for no text at all, the decoder
            is then Mask2Former's.
        text_pretrained: open_clip tag or file of weights; ``None`` for random ones.
        text_embeddings: the bank: a tensor, or a ``.npy`` or ``.safetensors`` file, of shape (P, K+1, T) with
            "none" last, or (K, T) for one prompt a class and a learned "none".
        bank_shape: the bank's shape where a checkpoint brings its values.
        num_queries: mask queries Q.
        num_prompts: contexts P; a bank has its own.
        context_length: learned tokens L of a context.
        decoder_channels: width D, a multiple of 64 and of ``num_heads``.
        pixel_decoder: ``"deformable"`` attention, a lighter ``"fpn"``, or ``"semantic_fpn"``, which learns sooner from
            few images, or ``"context_fpn"``, the same where each pixel also hears what the whole image shows.
        pixel_decoder_layers: deformable attention layers.
        pixel_decoder_ffn: hidden width of the pixel decoder's feed-forward networks.
        decoder_layers: mask-text decoder layers.
        decoder_ffn: hidden width of the mask-text decoder's feed-forward networks.
        num_heads: attention heads.
        input_norm: what the first LayerNorm covers, ``"text"`` or ``"all"`` tokens (official).
        text_positions: one learned position for each ``"prompt"``, or each ``"token"`` (official).
        temperature: start of the contrastive temperature (official: 1.0).
        learn_temperature: whether it is trained (official: not).
        center_text: whether text is centred on the mean of the trained names before anything reads it; not in the
            paper, see ``TextCentering``.
        classification: how masks are classified at inference: by the ``"learned"`` head (the paper's way), by
            ``"text"``, by the ``"ensemble"`` of both, ``"per_name"``, or by the ``"pixels"`` in them; this and the
            next seven are ``scoring``.
        score_join: whether what has a weight in the scores is added, ``"sum"``, or multiplied, ``"product"``.
        query_scores: weight of the queries' masks in the scores.
        text_masks: weight of the text queries' masks; above 0 they are predicted in training too, where
            ``MTACLIPLoss(text_mask_weight=...)`` teaches them. Not in the paper.
        pixel_scores: weight of the pixels' own likeness to text; above 0 it is predicted in training too, where
            ``MTACLIPLoss(pixel_weight=...)`` teaches it. Not in the paper.
        trained_text: see ``Scoring``.
        untrained_text: see ``Scoring``.
        calibration: see ``Scoring``.
        predict_text_masks: whether the text queries' masks are predicted even if the scores do not read them.
        predict_pixels: the same of the pixels' likeness to text. A model whose ``scoring`` was changed is saved with
            what it was built with, so that it can be loaded, and changed back.
        clip_masks: whether evaluation also asks CLIP's image tower which class a mask shows, not whether it shows
            one: ``"pool"``, with one pass an image, or ``"crop"``, with one a mask; see ``PooledMasks`` and
            ``CroppedMasks``. The tower is that of ``text_encoder``, frozen, and no part of parameters and checkpoint.
        clip_masks_tower: the open_clip model whose image tower is asked, where the text is a bank of its embeddings.
        clip_masks_pretrained: its open_clip tag or file of weights; ``None`` for random ones.
        trained_clip: see ``Scoring``.
        untrained_clip: see ``Scoring``.
        image_mean: of red, green and blue, what the images are normalised with, so that it can be undone for CLIP's
            image tower; ``None`` for what ``preprocessing`` says.
        image_std: their standard deviation.
        untrained_names: class names that the class head was never trained on: while there are any, evaluation
            classifies by text, ``"per_name"``, by ``"pixels"`` or alone. ``set_class_names`` keeps this record.
        recompute: whether the backward pass makes large tensors of the decoder again instead of keeping them, for less
            memory and more time; ``"auto"`` for not on a GPU that has the memory, by the count of ``Recomputation``.
            The results are the same. Compilers decide it themselves.
        aux_params: parameters of smp's image-level ``ClassificationHead``; ``None`` for none.
        kwargs: passed to timm; smp's own encoders take ``output_stride`` alone.

    Raises:
        ValueError: for arguments that do not fit together.
        FileNotFoundError: if there is no such file of text embeddings.
        ConnectionError: if pretrained weights could not be fetched.

    Example:
        >>> import torch, segmentation_models_pytorch as smp, mtaclip_plugin
        >>> model = smp.create_model(
        ...     "mtaclip", encoder_name="resnet18", encoder_weights=None, classes=2, text_encoder=None
        ... )
        >>> model(torch.rand(1, 3, 50, 70)).shape
        torch.Size([1, 2, 50, 70])
    """

    _is_torch_scriptable = False
    requires_divisible_input_shape = False

    @supports_config_loading
    def __init__(
        self,
        encoder_name: str = "resnet50",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        in_channels: int = 3,
        classes: int = 1,
        class_names: Sequence[str] | None = None,
        text_encoder: str | None = "ViT-B-16",
        text_pretrained: str | None = "openai",
        text_embeddings: Tensor | np.ndarray | str | Path | None = None,
        bank_shape: Sequence[int] | None = None,
        num_queries: int = 100,
        num_prompts: int = 3,
        context_length: int = 8,
        decoder_channels: int = 256,
        pixel_decoder: PixelDecoderName = "deformable",
        pixel_decoder_layers: int = 6,
        pixel_decoder_ffn: int = 1024,
        decoder_layers: int = 9,
        decoder_ffn: int = 2048,
        num_heads: int = 8,
        input_norm: InputNorm = "text",
        text_positions: TextPositions = "prompt",
        temperature: float = 0.07,
        learn_temperature: bool = True,
        center_text: bool = False,
        classification: Classification = "learned",
        score_join: ScoreJoin = "sum",
        query_scores: float = 1.0,
        text_masks: float = 0.0,
        pixel_scores: float = 0.0,
        trained_text: float = 0.0,
        untrained_text: float = 1.0,
        calibration: float = 0.0,
        predict_text_masks: bool = False,
        predict_pixels: bool = False,
        clip_masks: ClipWay | None = None,
        clip_masks_tower: str | None = None,
        clip_masks_pretrained: str | None = "openai",
        trained_clip: float = 0.4,
        untrained_clip: float = 0.8,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        untrained_names: Sequence[str] | None = None,
        recompute: Recompute = "auto",
        aux_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        check_choice("pixel_decoder", pixel_decoder, PixelDecoderName)
        check_choice("input_norm", input_norm, InputNorm)
        check_choice("text_positions", text_positions, TextPositions)
        check_choice("recompute", recompute, Recompute)
        check_positive(in_channels=in_channels, classes=classes, num_queries=num_queries)
        check_positive(num_prompts=num_prompts, context_length=context_length, num_heads=num_heads)
        check_positive(decoder_channels=decoder_channels, decoder_layers=decoder_layers, decoder_ffn=decoder_ffn)
        check_positive(pixel_decoder_layers=pixel_decoder_layers, pixel_decoder_ffn=pixel_decoder_ffn)
        check_colours(image_mean=image_mean, image_std=image_std)
        check_depth(encoder_depth)
        check_width(decoder_channels, num_heads=num_heads)
        scoring = Scoring(
            classification=classification,
            score_join=score_join,
            query_scores=query_scores,
            text_masks=text_masks,
            pixel_scores=pixel_scores,
            trained_text=trained_text,
            untrained_text=untrained_text,
            calibration=calibration,
            trained_clip=trained_clip,
            untrained_clip=untrained_clip,
        )
        predict_text_masks, predict_pixels = (
            predict_text_masks or text_masks > 0,
            predict_pixels or scoring.reads_pixels,
        )
        check_text_options(
            text_encoder,
            scoring,
            classes=classes,
            predict_text_masks=predict_text_masks,
            predict_pixels=predict_pixels,
            center_text=center_text,
            untrained_names=untrained_names,
        )
        self.class_names: list[str] | None = None
        if text_encoder is not None or class_names is not None:
            self.class_names = check_class_names(class_names, classes)
        if class_names is not None:
            self.config["class_names"] = self.class_names  # as given they may be no JSON, which is not saved
        self.untrained_names = tuple(untrained_names or ())
        if unknown := [name for name in self.untrained_names if name not in (self.class_names or ())]:
            raise ValueError(f"untrained_names has '{unknown[0]}', which is not among the class names")

        text = build_text(
            text_encoder,
            text_pretrained,
            class_names=self.class_names or (),
            num_prompts=num_prompts,
            context_length=context_length,
            text_embeddings=text_embeddings,
            bank_shape=bank_shape,
        )
        self.prompts = text.prompts
        if text_encoder == "bank":
            self._write_config()
        shape = None if self.prompts is None else (self.prompts.num_prompts, self.prompts.text_channels)
        self.encoder = build_encoder(
            encoder_name,
            in_channels=in_channels,
            depth=encoder_depth,
            weights=encoder_weights,
            visual=text.visual,
            **kwargs,
        )
        maps = find_maps(self.encoder, in_channels)
        self._in_channels = in_channels
        self._size_multiple = maps.size_multiple
        pyramid = StridePyramid(maps, decoder_channels)
        self.decoder = MTACLIPDecoder(
            pyramid,
            build_pixel_decoder(
                pixel_decoder,
                pyramid.channels,
                decoder_channels,
                num_layers=pixel_decoder_layers,
                num_heads=num_heads,
                feedforward_channels=pixel_decoder_ffn,
            ),
            MaskTextDecoder(
                classes,
                decoder_channels,
                num_queries=num_queries,
                num_layers=decoder_layers,
                num_heads=num_heads,
                feedforward_channels=decoder_ffn,
                text_shape=shape,
                input_norm=input_norm,
                text_positions=text_positions,
                text_masks=predict_text_masks,
                temperature=temperature,
                learn_temperature=learn_temperature,
            ),
            PixelAlignmentHead(decoder_channels, shape[1]) if shape and predict_pixels else None,
            recompute=recompute,
        )
        self.classification_head = None
        if aux_params is not None:
            self.classification_head = ClassificationHead(in_channels=maps.channels[-1], **aux_params)
        self.name = f"mtaclip-{encoder_name}"
        self.initialize()
        self._prepare_after_loading()
        self.text_centering = self._centering() if center_text else None
        self.scoring = scoring
        self._clip_masks = build_clip_masks(self, text)

    def load_state_dict(self, state_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Loads weights as smp does, those of earlier versions too."""
        return super().load_state_dict(present_names(state_dict, "decoder."), **kwargs)

    def initialize(self) -> None:
        """Leaves the decoder as its parts initialised themselves; smp's way would undo the sampling offsets."""
        if self.classification_head is not None:
            initialize_head(self.classification_head)
