"""From a configuration to the dataset, the model and its forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

import torch
from segmentation_models_pytorch.base import SegmentationModel

from mtaclip_plugin import preprocessing
from trainers.data.batch import SegmentationDataset
from trainers.data.folder import FolderDataset
from trainers.data.published import LAYOUTS, published_dataset
from trainers.data.reader import ImageReader
from trainers.data.shapes import ShapesDataset
from trainers.data.statistics import band_statistics
from trainers.engine.forward import Forward, resolve_device
from trainers.foundation.errors import UserError
from trainers.models import build_model, reads_bank, text_options
from trainers.options.config import Config, DataConfig, data_root
from trainers.run.checkpoints import Checkpoint
from trainers.text.text_bank import SHAPES_BANK, load_text_bank


def create_dataset(config: DataConfig, split: str) -> SegmentationDataset:
    """The split of the configured dataset.

    Raises:
        OSError: The folder, or a file of it, is missing.
        ValueError: The folder holds something else than the format says.
    """
    if config.dataset == "folder":
        return FolderDataset(data_root(config), split, ignore_ids=config.ignore_ids, reader=create_reader(config))
    if config.dataset in LAYOUTS:
        return published_dataset(config.dataset, data_root(config), split, reader=create_reader(config))
    length = config.train_length if split == config.train_split else config.val_length
    return ShapesDataset(split, size=config.size, length=length)


def create_reader(config: DataConfig) -> ImageReader:
    """What reads the images of the configured dataset, and others like them."""
    return ImageReader(channels=config.channels, max_pixels=config.max_pixels)


def create_model(config: Config, class_names: Sequence[str]) -> SegmentationModel:
    """The configured model, with its pretrained weights.

    Raises:
        ValueError: Options that do not fit together.
        OSError: Weights or text embeddings that cannot be had.
        ModuleNotFoundError: See `trainers.models.build_model`.
    """
    options = asdict(config.model)
    if reads_bank(config.model.arch, config.model.text_encoder):
        options["text_embeddings"] = load_text_bank(bank_file(config), class_names)
    return _build(options, config.data, class_names)


def restore_model(checkpoint: Checkpoint) -> SegmentationModel:
    """The model that a checkpoint holds; needs neither the encoder's pretrained weights nor a file of embeddings.

    Raises:
        ValueError: The options do not fit together any more, or the weights are those of another model.
        OSError: The weights of the text tower cannot be had.
    """
    options = asdict(checkpoint.config.model) | {"encoder_weights": None}
    options["text_embeddings"] = checkpoint.weights.get("prompts.embeddings")
    model = _build(options, checkpoint.config.data, checkpoint.class_names)
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise ValueError(f"The checkpoint's weights do not fit the model that its options describe: {error}") from error
    return model


def resolve_statistics(config: Config, model: SegmentationModel, train_set: SegmentationDataset) -> Config:
    """The configuration with mean and standard deviation of the images, where it leaves them open.

    Those of three bands of 8 bits are what the model's encoder was trained with, others are measured.

    Raises:
        OSError: What the encoder's weights were trained with cannot be looked up; or an image cannot be read, or a
            band says nothing.
    """
    data = config.data
    if data.mean is not None and data.std is not None:
        return config
    if data.channels is None or (data.channels == 3 and train_set[0].image.dtype == torch.uint8):
        mean, std = astuple(preprocessing(model))
    else:
        mean, std = band_statistics(train_set, num_workers=data.num_workers)
    return replace(config, data=replace(data, mean=data.mean or mean, std=data.std or std))


def create_forward(model: SegmentationModel, config: Config) -> Forward:
    """The model on its device, with the normalisation of a configuration that `resolve_statistics` completed.

    It predicts as the configuration says that images are evaluated.

    Raises:
        ValueError: The device does not exist here.
    """
    assert config.data.mean is not None
    assert config.data.std is not None
    return Forward(
        model,
        mean=config.data.mean,
        std=config.data.std,
        device=resolve_device(config.train.device),
        precision=config.train.precision,
        evaluation=config.eval,
    )


def _build(options: dict[str, Any], data: DataConfig, class_names: Sequence[str]) -> SegmentationModel:
    names = ("arch", "encoder_name", "encoder_weights")
    shared = {name: options.pop(name) for name in names}
    taken = text_options(shared["arch"])
    if not reads_bank(shared["arch"], options["text_encoder"]):
        taken -= {"text_embeddings"}
    own = {name: value for name, value in options.items() if name in taken}
    return build_model(**shared, in_channels=data.channels or 3, class_names=class_names, **own)


def bank_file(config: Config) -> Path:
    """The file of the text bank that a model of this configuration reads.

    Raises:
        UserError: None is named.
    """
    if config.model.text_embeddings is not None:
        return Path(config.model.text_embeddings)
    if config.data.dataset == "shapes":
        return SHAPES_BANK
    sentence = (
        "A bank of text needs --model.text_embeddings FILE with one row for each class, such as "
        "python -m trainers.text.text_bank writes"
    )
    if "text_encoder" in text_options(config.model.arch):
        sentence += "; or set --model.text_encoder to the name of an open_clip model, or to null for no text"
    raise UserError(f"{sentence}.")
