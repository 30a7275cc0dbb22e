from __future__ import annotations

import re
from argparse import ArgumentError
from dataclasses import fields, replace
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from trainers.foundation.errors import UserError
from trainers.options.config import Config
from trainers.options.data_config import data_root
from trainers.options.overrides import EVAL_OPTIONS, add_overrides, overridden
from trainers.options.parsing import config_from_yaml, config_to_yaml, parse_config
from trainers.options.unknown import parse_options

CONFIGS = Path(__file__).parents[3] / "trainers" / "configs"


def test_without_options_the_default_is_the_demo() -> None:
    demo = parse_config(["--config", str(CONFIGS / "kinds.yaml")])
    assert demo.data.dataset == "kinds" and parse_config([]) == demo
    assert parse_config(["--train.seed=7"]) == replace(demo, train=replace(demo.train, seed=7))


def test_a_dataset_or_a_file_takes_the_place_of_the_demo() -> None:
    assert parse_config(["--data.dataset=shapes"]) == Config()
    assert parse_config(["--config", str(CONFIGS / "shapes.yaml")]) == Config()


def test_options_override_the_file_and_the_file_the_default(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data:\n  crop_size: [64, 96]\n  ignore_ids: [11]\noptim:\n  lr: 1.0e-5\n")
    config = parse_config(["--config", str(file), "--optim.lr", "2e-4", "--model.text_encoder", "null"])
    assert config.data.crop_size == (64, 96) and config.data.ignore_ids == (11,)
    assert config.optim.lr == 2e-4 and config.model.text_encoder is None
    assert config.train == Config().train


def test_yaml_round_trip_keeps_every_option() -> None:
    data = replace(Config().data, mean=(0.1, 0.2, 0.3), ignore_ids=(3, 11), root="/a: b")
    config = replace(Config(), data=data, model=replace(Config().model, text_encoder=None))
    assert config_from_yaml(config_to_yaml(config)) == config


def test_a_file_of_before_bands_has_the_defaults() -> None:
    lines = config_to_yaml(Config()).splitlines(keepends=True)
    later = ("  channels:", "  max_pixels:", "  show:")
    assert config_from_yaml("".join(line for line in lines if not line.startswith(later))) == Config()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("channels=0", "channels must be at least 1"),
        ("dataset=shapes channels=4", 'the images of "shapes" have 3'),
        ("dataset=ade20k channels=1", 'the images of "ade20k" have 3'),
        ("dataset=folder channels=4 photometric=0.5", "photometric distorts red, green and blue; set it to 0"),
        ("mean=[0.5]", "mean must have one number for each of the 3 bands"),
        ("dataset=folder channels=4 std=[1,1,1]", "std must have one number for each of the 4 bands"),
        ("std=[1,0,1]", "std must be above 0"),
        ("mean=[.nan,0,0]", "mean must have one number"),
        ("show=[1,2]", "show must be one or three of the bands 1 to 3"),
        ("show=[0]", "show must be one or three"),
        ("show=[]", "show must be one or three"),
        ("dataset=folder channels=4 show=[5,1,1]", "bands 1 to 4"),
        ("max_pixels=0", "max_pixels must be at least 1"),
    ],
)
def test_options_that_no_bands_have_are_refused(options: str, named: str) -> None:
    with pytest.raises(UserError, match=re.escape(named)):
        parse_config([f"--data.{option}" for option in options.split()])


def test_bands_that_are_shown() -> None:
    data = replace(Config().data, dataset="folder")
    assert Config().data.shown_bands == replace(data, channels=12).shown_bands == (1, 2, 3)
    assert replace(data, channels=1).shown_bands == replace(data, channels=2).shown_bands == (1,)
    assert replace(data, channels=4, show=(4,)).shown_bands == (4,)


def test_a_command_overrides_what_a_training_was_told() -> None:
    parser = ArgumentParser(exit_on_error=False)
    add_overrides(parser, ("data.show", *EVAL_OPTIONS))
    trained = parse_config(["--eval.window=[64,64]", "--eval.stride=[40,40]", "--eval.scales=[0.5,1]"])
    names = ("data.show", *EVAL_OPTIONS)
    assert overridden(trained, parser.parse_args([]), names) == trained
    given = parser.parse_args(["--eval.mode=slide", "--eval.window=[32,32]", "--eval.stride=[32,9]", "--data.show=[3]"])
    evaluation = replace(trained.eval, mode="slide", window=(32, 32), stride=(32, 9))
    assert overridden(trained, given, names) == replace(trained, eval=evaluation, data=replace(trained.data, show=(3,)))
    assert {f"eval.{field.name}" for field in fields(trained.eval)} == set(EVAL_OPTIONS)
    with pytest.raises(UserError, match=r"--eval\.stride must not be larger"):
        overridden(trained, parser.parse_args(["--eval.window=[32,32]"]), names)


def test_the_two_camvid_configurations_differ_in_the_model_only() -> None:
    ours = parse_config(["--config", str(CONFIGS / "camvid.yaml")])
    peer = parse_config(["--config", str(CONFIGS / "camvid_fpn.yaml")])
    assert (ours.model.arch, peer.model.arch) == ("mtaclip", "fpn")
    assert ours.model.encoder_name == peer.model.encoder_name
    assert ours.data == peer.data and ours.optim == peer.optim
    assert replace(ours.train, output=peer.train.output) == peer.train


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data.size", "abc"], "abc"),
        (["--data.crop_size", "[1,2,3]"], "data.crop_size"),
        (["--loss.contrastive_mode", "best"], "best"),
        (["--config", "no/such/file.yaml"], "no/such/file.yaml"),
    ],
)
def test_values_of_the_wrong_type_are_named(arguments: list[str], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        parse_config(arguments)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("--data.roots=x", "There is no option --data.roots; the nearest is --data.root."),
        ("--iterations=3", "There is no option --iterations; the nearest is --train.iterations."),
        ("--data.masksuffix=x", "There is no option --data.masksuffix; the nearest is --data.mask_suffix."),
        ("--data.siz=3", "There is no option --data.siz; the nearest is --data.size."),
        ("--zzz", "There is no option --zzz; python -m trainers.train --help lists all."),
    ],
)
def test_to_an_unknown_option_the_nearest_is_named(given: str, hint: str) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(hint)}$"):
        parse_config([given])


def test_what_takes_no_dashes_is_no_option() -> None:
    parser = ArgumentParser(prog="look", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--output", "--out")
    with pytest.raises(UserError, match=r"^There is no option --image; look --help lists all\.$"):
        parse_options(parser, ["x.png", "--image=y.png"])
    with pytest.raises(UserError, match=r"^There is no option --ou; the nearest is --out\.$"):
        parse_options(parser, ["x.png", "--ou=y"])


def test_a_folder_is_not_passed_over_for_generated_data() -> None:
    with pytest.raises(
        UserError, match=r'^--data\.root is given, but the data set is "kinds", which has no files; add'
    ):
        parse_config(["--data.root=DIR"])
    assert parse_config(["--data.root=DIR", "--data.dataset=folder"]).data.root == "DIR"


def test_an_unknown_key_in_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("optim:\n  learning_rate: 1\n")
    with pytest.raises(ArgumentError, match="learning_rate"):
        parse_config(["--config", str(file)])


@pytest.mark.parametrize(
    ("option", "value"),
    [("--train.iterations", "0"), ("--data.crop_size", "[0,9]"), ("--data.scale_range", "[2,1]")],
)
def test_values_out_of_range_are_refused(option: str, value: str) -> None:
    with pytest.raises(UserError, match=option):
        parse_config([option, value])


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_config(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for section in fields(Config):
        for option in fields(getattr(Config(), section.name)):
            _, _, after = text.rpartition(f" --{section.name}.{option.name} ")
            assert "default: " in after.split(" --")[0]
            assert ". (default: " in after.split(" --")[0]  # the sentence before it


def test_the_data_root_comes_from_the_option_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTACLIP_DATA", raising=False)
    with pytest.raises(UserError, match=r"--data\.root"):
        data_root(Config().data)
    monkeypatch.setenv("MTACLIP_DATA", "/from/environment")
    assert data_root(Config().data) == Path("/from/environment")
    assert data_root(replace(Config().data, root="/from/option")) == Path("/from/option")
