"""From the options of the data to datasets."""

from __future__ import annotations

from dataclasses import replace

from trainers.data.batch import SegmentationDataset
from trainers.data.class_selection import names_without, select_classes
from trainers.data.folder import FolderDataset
from trainers.data.joint import JointDataset, joint_names
from trainers.data.kinds import UNSEEN, KindsDataset
from trainers.data.pairs import PairDataset
from trainers.data.published import LAYOUTS, published_dataset
from trainers.data.reader import ImageReader
from trainers.data.relabelled import Relabelled
from trainers.data.shapes import ShapesDataset
from trainers.data.subset import drawn
from trainers.options.config import Config
from trainers.options.data_config import DataConfig, data_root
from trainers.options.sets_config import SetConfig
from trainers.scores.by_set import ONLY


def create_dataset(config: DataConfig, split: str, *, strict: bool = True) -> SegmentationDataset:
    """The split of the configured dataset; where there are several, they are joined.

    Args:
        config: Which dataset.
        split: Name of the split.
        strict: Whether what leaves doubt in a folder is refused, see `FolderDataset`.

    Raises:
        OSError: The folder, or a file of it, is missing.
        ValueError: The folder holds something else than the format says, or a class to be ignored is not there; or
            data sets have nothing in common.
    """
    if config.joint_sets:
        weights = [one.weight for one in config.joint_sets if one.weight is not None]
        return JointDataset(create_sets(config, split, strict=strict), weights or None)
    dataset = _whole_dataset(config, split, strict=strict)
    if isinstance(dataset, PairDataset) and split == config.train_split and config.train_images is not None:
        dataset = drawn(dataset, config.train_images, config.train_images_seed)
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


def create_sets(config: DataConfig, split: str, *, strict: bool = True) -> dict[str, SegmentationDataset]:
    """The same split of each data set by name, each with its own classes; a single one is called `ONLY`.

    Raises:
        OSError: See `create_dataset`.
        ValueError: See `create_dataset`; or a class is renamed that is not there.
    """
    if not config.joint_sets:
        return {ONLY: create_dataset(config, split, strict=strict)}
    return {one.name: create_set(config, one, split, strict=strict) for one in config.joint_sets}


def create_set(config: DataConfig, one: SetConfig, split: str, *, strict: bool = True) -> Relabelled:
    """A split of one of several data sets, with its own classes under their joint names.

    Raises:
        OSError: See `create_dataset`.
        ValueError: See `create_sets`.
    """
    own = config.of(one)
    own_split = {config.train_split: own.train_split, config.val_split: own.val_split}.get(split, split)
    return joint_names(create_dataset(own, own_split, strict=strict), one.rename, name=one.name)


def create_reader(config: DataConfig) -> ImageReader:
    """What reads the images of the configured dataset, and others like them."""
    return ImageReader(channels=config.channels, max_pixels=config.max_pixels)


def resolve_unseen(config: Config) -> Config:
    """The configuration with the classes that its dataset keeps from training itself, where it leaves that open."""
    if config.data.unseen is not None or config.data.dataset != "kinds":
        return config
    return replace(config, data=replace(config.data, unseen=UNSEEN))
