from __future__ import annotations

from argparse import ArgumentError
from dataclasses import fields, replace
from pathlib import Path

import pytest

from trainers.foundation.errors import UserError
from trainers.options.config import Config, data_root
from trainers.options.parsing import config_from_yaml, config_to_yaml, parse_config

CONFIGS = Path(__file__).parents[3] / "trainers" / "configs"


def test_without_options_the_default_is_the_demo() -> None:
    assert parse_config([]) == Config()
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
        (["--data.sizes", "3"], "--data.sizes"),
        (["--data.siz", "3"], "--data.siz"),
        (["--data.size", "abc"], "abc"),
        (["--data.crop_size", "[1,2,3]"], "data.crop_size"),
        (["--loss.contrastive_mode", "best"], "best"),
        (["--config", "no/such/file.yaml"], "no/such/file.yaml"),
    ],
)
def test_unknown_keys_and_wrong_types_are_named(arguments: list[str], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        parse_config(arguments)


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
