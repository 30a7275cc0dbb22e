"""From a configuration to the dataset, the model and its forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

import torch
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor

from mtaclip_plugin import MTACLIP, preprocessing
from mtaclip_plugin.text import check_class_names, fold_name, names_as_saved
from mtaclip_plugin.text.bank import check_bank_shape
from trainers.data.batch import IGNORE_INDEX, SegmentationDataset
from trainers.data.class_selection import names_without, select_classes
from trainers.data.folder import FolderDataset
from trainers.data.kinds import UNSEEN, KindsDataset
from trainers.data.published import LAYOUTS, published_dataset
from trainers.data.reader import ImageReader
from trainers.data.shapes import ShapesDataset
from trainers.data.statistics import band_statistics
from trainers.engine.forward import Forward, resolve_device
from trainers.engine.vocabulary import Vocabulary
from trainers.foundation.errors import UserError, require
from trainers.models import build_model, has_text, is_mtaclip, reads_bank, text_options
from trainers.options.config import Config
from trainers.options.data_config import DataConfig, data_root
from trainers.options.model_config import LossConfig, ModelConfig
from trainers.run.checkpoints import Checkpoint
from trainers.text.text_bank import BANKS, ENCODER, bank_encoder, embed_sentences, load_text_bank


def create_dataset(config: DataConfig, split: str, *, strict: bool = True) -> SegmentationDataset:
    """The split of the configured dataset.

    Args:
        config: Which dataset.
        split: Name of the split.
        strict: Whether what leaves doubt in a folder is refused, see `FolderDataset`.

    Raises:
        OSError: The folder, or a file of it, is missing.
        ValueError: The folder holds something else than the format says, or a class to be ignored is not there.
    """
    dataset = _whole_dataset(config, split, strict=strict)
    counted = names_without(dataset.class_names, config.ignore_classes, option="--data.ignore_classes")
    return select_classes(dataset, counted)


def _whole_dataset(config: DataConfig, split: str, *, strict: bool) -> SegmentationDataset:
    if config.dataset == "folder":
        return FolderDataset(
            data_root(config),
            split,
            ignore_ids=config.ignore_ids,
            reader=create_reader(config),
            mask_suffix=config.mask_suffix,
            strict=strict,
        )
    if config.dataset in LAYOUTS:
        return published_dataset(config.dataset, data_root(config), split, reader=create_reader(config))
    length = config.train_length if split == config.train_split else config.val_length
    generated = KindsDataset if config.dataset == "kinds" else ShapesDataset
    return generated(split, size=config.size, length=length)


def create_reader(config: DataConfig) -> ImageReader:
    """What reads the images of the configured dataset, and others like them."""
    return ImageReader(channels=config.channels, max_pixels=config.max_pixels)


def resolve_unseen(config: Config) -> Config:
    """The configuration with the classes that its dataset keeps from training itself, where it leaves that open."""
    if config.data.unseen is not None or config.data.dataset != "kinds":
        return config
    return replace(config, data=replace(config.data, unseen=UNSEEN))


def create_vocabulary(config: Config, class_names: Sequence[str]) -> Vocabulary:
    """The classes of a dataset, which of them training is not to see, and their text, if it is ready.

    Raises:
        ValueError: An unseen class is not there, or the model has no text to know it by, or no class is left.
        OSError: Text embeddings that cannot be had.
    """
    model = config.model
    seen = names_without(class_names, config.data.unseen_names, option="--data.unseen")
    unseen = tuple(name for name in class_names if name not in seen)
    if unseen and not has_text(model.arch, model.text_encoder):
        reason = "has no text" if is_mtaclip(model.arch) else "knows no class but those that its head was trained on"
        raise UserError(
            f"--data.unseen needs a model that knows classes by their text, but this {model.arch} {reason}; take "
            '--model.arch mtaclip with a --model.text_encoder, or "bank".'
        )
    if not reads_bank(model.arch, model.text_encoder):
        return Vocabulary(tuple(class_names), unseen)
    bank = load_text_bank(bank_file(config), class_names)
    check_bank_shape(bank.shape, len(class_names))
    return Vocabulary(tuple(class_names), unseen, bank, bank_encoder(bank_file(config)))


def create_model(config: Config, vocabulary: Vocabulary) -> SegmentationModel:
    """The configured model, with its pretrained weights, for the classes that it is trained on.

    Raises:
        ValueError: Options that do not fit together.
        OSError: Weights that cannot be had.
        ModuleNotFoundError: See `trainers.models.build_model`.
    """
    if is_mtaclip(config.model.arch):
        _check_text_losses(config.model, config.loss)
    options = asdict(config.model) | {"text_embeddings": vocabulary.text_of(vocabulary.seen)}
    return _build(options | _image_options(config.data), vocabulary.seen)


def _check_text_losses(model: ModelConfig, loss: LossConfig) -> None:
    """Refuses losses of what the model does not have, and scores of what no loss trains."""
    for weight, scores in (("text_mask_weight", "text_masks"), ("pixel_weight", "pixel_scores")):
        trained, read = getattr(loss, weight) > 0, getattr(model, scores) > 0
        sentence = f"--loss.{weight} trains what --model.{scores} reads: set both above 0, or both to 0"
        require(trained == read, sentence)


def restore_model(checkpoint: Checkpoint) -> SegmentationModel:
    """The model that a checkpoint holds; needs neither the encoder's pretrained weights nor a file of embeddings.

    It knows all classes, those that it was not trained on by their text.

    Raises:
        ValueError: The options do not fit together any more, or the weights are those of another model.
        OSError: The weights of the text tower cannot be had.
    """
    vocabulary = checkpoint.vocabulary
    options = asdict(checkpoint.config.model) | {"encoder_weights": None}
    options["text_embeddings"] = checkpoint.weights.get("prompts.embeddings")
    with names_as_saved():
        model = _build(options | _image_options(checkpoint.config.data), vocabulary.seen)
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise ValueError(f"The checkpoint's weights do not fit the model that its options describe: {error}") from error
    if vocabulary.unseen:
        vocabulary.set_names(model, vocabulary.class_names)
    return model


def rename(checkpoint: Checkpoint, names: Sequence[str], bank: Tensor | None = None) -> Vocabulary:
    """Other names for the model of a checkpoint, with their text where no tower reads them.

    Args:
        checkpoint: The model.
        names: The names, in the order of the label ids that they are to have.
        bank: Their text; ``None`` to make what is missing, if it is known how.

    Raises:
        UserError: The model does not know its classes by text, or the text of a name cannot be made.
        ValueError: A name is there twice, or is none; or the bank is not one of so many names.
        ModuleNotFoundError: The packages that the text is made with are not installed.
    """
    model, known = checkpoint.config.model, checkpoint.vocabulary
    if not has_text(model.arch, model.text_encoder):
        raise UserError(
            f"Other names, or other text, need a model that knows classes by text; this {model.arch} does not."
        )
    given = tuple(check_class_names(names, len(names)))
    require(len(given) > 1, f"'{given[0]}' alone is no list of names: name what is not '{given[0]}' too.")
    require(len(given) <= IGNORE_INDEX, f"{len(given)} names are too many: at most {IGNORE_INDEX} fit into a picture.")
    if bank is not None:
        check_bank_shape(bank.shape, len(given))
        return Vocabulary(given, bank=bank)
    if known.bank is None:
        return Vocabulary(given)
    present = {fold_name(name): name for name in known.class_names}
    new = [name for name in given if fold_name(name) not in present]
    if new and checkpoint.bank_encoder != ENCODER:
        made = "does not say what made it" if checkpoint.bank_encoder is None else f"is of {checkpoint.bank_encoder}"
        raise UserError(
            f"The text of this model is a bank of ready embeddings, which {made}, so it has none of '{new[0]}'; take "
            f"names that it has ({', '.join(known.class_names)}), or train with --model.text_encoder, or with a bank "
            "that python -m trainers.text.text_bank wrote."
        )
    if new:
        text = torch.cat([known.bank, embed_sentences(new).to(known.bank)])
        known = Vocabulary((*known.class_names, *new), bank=text)
    return Vocabulary(given, bank=known.text_of([present.get(fold_name(name), name) for name in given]))


def set_scoring(model: SegmentationModel, scoring: Mapping[str, Any]) -> None:
    """Lets a model make its scores of something else.

    Args:
        model: The model.
        scoring: Attributes of `mtaclip_plugin.inference.Scoring` that are to be others.

    Raises:
        ValueError: The model cannot have them.
    """
    if not scoring:
        return
    if not isinstance(model, MTACLIP) or model.prompts is None:
        raise UserError(
            f'--model.{next(iter(scoring))} is for an "mtaclip" with text; leave it out, or take a checkpoint of one.'
        )
    model.scoring = replace(model.scoring, **scoring)


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


def _image_options(data: DataConfig) -> dict[str, Any]:
    """What the model is told of its images: their bands, and how colours are normalised, as far as that is known."""
    if data.channels not in (None, 3):
        return {"in_channels": data.channels}
    return {"in_channels": 3, "image_mean": data.mean, "image_std": data.std}


def _build(options: dict[str, Any], class_names: Sequence[str]) -> SegmentationModel:
    names = ("arch", "encoder_name", "encoder_weights", "in_channels")
    shared = {name: options.pop(name) for name in names}
    taken = text_options(shared["arch"])
    if not reads_bank(shared["arch"], options["text_encoder"]):
        taken -= {"text_embeddings"}
    own = {name: value for name, value in options.items() if name in taken}
    return build_model(**shared, class_names=class_names, **own)


def bank_file(config: Config) -> Path:
    """The file of the text bank that a model of this configuration reads.

    Raises:
        UserError: None is named.
    """
    if config.model.text_embeddings is not None:
        return Path(config.model.text_embeddings)
    if config.data.dataset in BANKS:
        return BANKS[config.data.dataset]
    sentence = (
        "A bank of text needs --model.text_embeddings FILE with one row for each class, such as "
        "python -m trainers.text.text_bank writes"
    )
    if "text_encoder" in text_options(config.model.arch):
        sentence += "; or set --model.text_encoder to the name of an open_clip model, or to null for no text"
    raise UserError(f"{sentence}.")
