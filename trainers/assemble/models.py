"""From a configuration, or a checkpoint, to the model and the text of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from segmentation_models_pytorch.base import SegmentationModel

from mtaclip_plugin import MTACLIP
from mtaclip_plugin.text import names_as_saved
from mtaclip_plugin.text.bank import check_bank_shape
from trainers.data.class_selection import names_without
from trainers.engine.encoder_norms import check_statistics
from trainers.engine.vocabulary import Vocabulary
from trainers.foundation.errors import UserError, require
from trainers.models import build_model, has_text, is_mtaclip, reads_bank, text_options
from trainers.options.config import Config
from trainers.options.data_config import DataConfig
from trainers.options.model_config import LossConfig, ModelConfig
from trainers.run.checkpoints import Checkpoint
from trainers.text.text_bank import BANKS, bank_encoder, load_text_bank


def create_vocabulary(config: Config, class_names: Sequence[str]) -> Vocabulary:
    """The classes of a dataset, which of them training is not to see, and their text, if it is ready.

    Raises:
        ValueError: An unseen class is not there, or the model has no text to know it by, or no class is left.
        OSError: Text embeddings that cannot be had.
    """
    model = config.model
    require(
        not config.data.joint_sets or is_mtaclip(model.arch),
        f"--data.sets needs a model whose classes can be left out image by image, which {model.arch} is not; take "
        "--model.arch mtaclip",
    )
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
    model = _build(options | _image_options(config.data), vocabulary.seen)
    if config.optim.freeze_norms:
        check_statistics(model.encoder)
    return model


def _check_text_losses(model: ModelConfig, loss: LossConfig) -> None:
    """Refuses losses of what the model does not have, and scores of what no loss trains."""
    naming = model.classification == "pixels"
    sentence = "--model.classification pixels reads what --loss.pixel_weight trains: set that above 0"
    require(loss.pixel_weight > 0 or not naming, sentence)
    parts = (
        ("text_mask_weight", "text_masks", model.text_masks > 0),
        ("pixel_weight", "pixel_scores", naming or model.pixel_scores > 0),
    )
    for weight, scores, read in parts:
        sentence = f"--loss.{weight} trains what --model.{scores} reads: set both above 0, or both to 0"
        require((getattr(loss, weight) > 0) == read, sentence)


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
