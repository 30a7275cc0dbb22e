from __future__ import annotations

import pytest

import mtaclip_plugin as mta
from mtaclip_plugin.text import check_class_names

SIZES = {"ade20k": 150, "camvid": 11, "cityscapes": 19, "coco_stuff": 171, "pascal_context": 59, "voc": 21}


@pytest.mark.parametrize("name", SIZES)
def test_names_can_be_put_into_prompts(name: str) -> None:
    names = mta.vocabulary(name)
    assert check_class_names(names, SIZES[name]) == list(names)
    assert all(word == " ".join(word.split()).lower() and "_" not in word for word in names)


@pytest.mark.parametrize(
    ("vocabulary", "label", "name"),
    [
        ("ade20k", 0, "wall"),
        ("ade20k", 6, "road"),
        ("ade20k", 20, "car"),
        ("ade20k", 80, "bus"),
        ("ade20k", 127, "bicycle"),
        ("ade20k", 136, "traffic light"),
        ("ade20k", 149, "flag"),
        ("camvid", 3, "road"),
        ("camvid", 10, "bicyclist"),
        ("cityscapes", 6, "traffic light"),
        ("cityscapes", 13, "car"),
        ("cityscapes", 18, "bicycle"),
        ("coco_stuff", 0, "person"),
        ("coco_stuff", 79, "toothbrush"),
        ("coco_stuff", 80, "banner"),
        ("coco_stuff", 170, "wood"),
        ("pascal_context", 0, "aeroplane"),
        ("pascal_context", 36, "person"),
        ("pascal_context", 58, "wood"),
        ("voc", 0, "background"),
        ("voc", 15, "person"),
        ("voc", 20, "tv monitor"),
    ],
)
def test_order_is_that_of_the_label_ids(vocabulary: str, label: int, name: str) -> None:
    assert mta.vocabulary(vocabulary)[label] == name


@pytest.mark.parametrize(
    ("typo", "meant"), [("ADE20K", "ade20k"), ("citiscapes", "cityscapes"), ("coco-stuff", "coco_stuff")]
)
def test_a_typo_gets_a_suggestion(typo: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"no vocabulary '{typo}'; did you mean '{meant}'"):
        mta.vocabulary(typo)


def test_unknown_names_get_the_list() -> None:
    with pytest.raises(ValueError, match=f"no vocabulary 'zzz'; There are {', '.join(SIZES)}$"):
        mta.vocabulary("zzz")


@pytest.mark.parametrize(
    ("name", "seen", "unseen_ids"),
    [
        ("voc", 15, [15, 16, 17, 18, 19]),
        ("coco_stuff", 156, [19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160]),
    ],
)
def test_zero_shot_splits_have_the_published_ids(name: str, seen: int, unseen_ids: list[int]) -> None:
    split = mta.zero_shot_split(name)
    names = [known for known in mta.vocabulary(name) if known != "background"]
    assert [names.index(unseen) for unseen in split.unseen] == unseen_ids
    assert len(split.seen) == seen and [*split.seen] == [known for known in names if known not in split.unseen]


def test_a_split_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no zero-shot split 'voc2012'; did you mean 'voc'"):
        mta.zero_shot_split("voc2012")
