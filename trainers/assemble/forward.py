"""From the options to the way from images through a model."""

from __future__ import annotations

from dataclasses import astuple, replace

import torch
from segmentation_models_pytorch.base import SegmentationModel

from mtaclip_plugin import preprocessing
from trainers.data.batch import SegmentationDataset
from trainers.data.statistics import band_statistics
from trainers.engine.forward import Forward, resolve_device
from trainers.options.config import Config


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
