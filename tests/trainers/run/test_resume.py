from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainers.run.test_checkpoints import checkpoint
from trainers.foundation.errors import UserError
from trainers.options.config import Config
from trainers.run.resume import check_resumable, with_found_out


def test_a_run_of_another_model_names_both() -> None:
    saved, names = checkpoint(), ("sky", "road")
    check_resumable(saved, Path("run"), saved.config, names)
    model = replace(saved.config.model, arch="fpn", encoder_name="resnet18")
    other = replace(saved.config, model=model, train=replace(saved.config.train, resume="always"))
    with pytest.raises(UserError, match=r"mtaclip on tu-tf_efficientnet_lite0 with 2 classes.*fpn on resnet18 with 3"):
        check_resumable(saved, Path("run"), other, ("sky", "road", "car"))
    with pytest.raises(UserError, match=r"differ in class names;"):
        check_resumable(saved, Path("run"), saved.config, ("sky", "sea"))


def test_a_run_goes_on_with_other_options_where_that_is_meant() -> None:
    saved, names = checkpoint(), ("sky", "road")
    faster = replace(saved.config, data=replace(saved.config.data, num_workers=3))
    check_resumable(saved, Path("run"), faster, names)
    other = replace(saved.config, optim=replace(saved.config.optim, lr=0.5))
    with pytest.raises(UserError, match=r"optim\.lr was 0\.001 and is 0\.5; .*--train\.resume always"):
        check_resumable(saved, Path("run"), other, names)
    check_resumable(saved, Path("run"), replace(other, train=replace(other.train, resume="always")), names)


def test_a_run_on_other_bands_is_one_of_another_model_and_may_show_others() -> None:
    saved, names = checkpoint(), ("sky", "road")
    folder = replace(saved.config, data=replace(saved.config.data, dataset="folder", channels=4))
    saved = replace(saved, config=folder)
    shown = replace(folder, data=replace(folder.data, show=(4, 2, 1), max_pixels=9))
    check_resumable(saved, Path("run"), shown, names)
    six = replace(folder, data=replace(folder.data, channels=6), train=replace(folder.train, resume="always"))
    with pytest.raises(UserError, match=r"differ in data\.channels"):
        check_resumable(saved, Path("run"), six, names)


def test_statistics_that_were_left_to_the_encoder_are_no_other_options() -> None:
    config = Config()
    saved = replace(checkpoint(), config=replace(config, data=replace(config.data, mean=(0.5,) * 3, std=(0.5,) * 3)))
    check_resumable(saved, Path("run"), config, ("sky", "road"))
    other = replace(config, data=replace(config.data, mean=(0.4,) * 3))
    with pytest.raises(UserError, match=r"data\.mean was"):
        check_resumable(saved, Path("run"), other, ("sky", "road"))
    assert with_found_out(config, saved) == saved.config
    assert with_found_out(other, saved).data == replace(other.data, std=(0.5,) * 3)
