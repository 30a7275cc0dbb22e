from __future__ import annotations

from itertools import combinations

import pytest
import torch

from trainers.data.kinds import CLASS_NAMES, FIGURES, UNSEEN, KindsDataset
from trainers.data.labels import IGNORE_INDEX


def test_every_word_and_pair_of_words_is_in_a_seen_kind() -> None:
    assert len(CLASS_NAMES) == 65 and len(set(CLASS_NAMES)) == 65 and len(UNSEEN) == 16
    seen = [figure for figure in FIGURES if figure.full_name not in UNSEEN]
    for first, second in combinations(("color", "form", "texture"), 2):
        assert len({(getattr(figure, first), getattr(figure, second)) for figure in seen}) == 16
    unseen = [figure for figure in FIGURES if figure.full_name in UNSEEN]
    for word in ("color", "form", "texture"):
        assert len({getattr(figure, word) for figure in unseen}) == 4


def labels_of(split: str) -> set[str]:
    dataset = KindsDataset(split, size=64, length=150)
    ids = torch.cat([dataset[index].label.flatten() for index in range(150)]).unique().tolist()
    return {dataset.class_names[id_] for id_ in ids if id_ != IGNORE_INDEX}


def test_training_shows_the_seen_kinds_alone_and_validation_all() -> None:
    assert labels_of("train") == set(CLASS_NAMES) - set(UNSEEN)
    assert labels_of("val") == set(CLASS_NAMES)


def test_a_scene_shows_what_its_labels_say() -> None:
    scene = KindsDataset("val", length=40)[3]
    assert scene.image.shape == (3, 128, 128) and scene.label.shape == (128, 128)
    reds = [k for k, name in enumerate(CLASS_NAMES) if name.startswith("plain red")]
    for index in range(40):
        scene = KindsDataset("val", length=40)[index]
        red = torch.isin(scene.label, torch.tensor(reds))
        if red.sum() > 50:
            colors = scene.image[:, red].float().mean(1)
            assert colors[0] > 1.5 * colors[1] and colors[0] > 1.5 * colors[2]


def test_splits_share_no_scene() -> None:
    first, second = (KindsDataset(split, length=1)[0].image for split in ("val", "test"))
    assert not torch.equal(first, second)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="splits train, val and test, not 'all'"):
        KindsDataset("all", length=1)
