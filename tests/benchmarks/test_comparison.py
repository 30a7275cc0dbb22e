from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from ignite.engine import Engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks import ablation, backbones, failures, shrink
from benchmarks.comparison import pool, trials
from benchmarks.comparison.class_groups import class_groups, images_with_class
from benchmarks.comparison.controls import write_controls
from benchmarks.comparison.heads import HEADS, with_encoder, with_head
from benchmarks.comparison.records import Record, Scores, load_record, save_json
from benchmarks.comparison.rungs import bank_rungs, prompt_rungs
from benchmarks.comparison.summary import Spread, summarize
from benchmarks.comparison.tables import accuracy_table, difference_table
from benchmarks.comparison.trials import StoppedError, Trial, train_trial
from benchmarks.report import describe_machine
from benchmarks.text_sources import write_bank
from mtaclip_plugin.losses import HungarianMatcher
from tests.trainers.tiny_runs import MTACLIP, TINY, failure, write_folder
from trainers import train
from trainers.data.folder import FolderDataset
from trainers.data.reading import read_ids, read_image
from trainers.data.shapes import ShapesDataset
from trainers.engine.criteria import build_criterion
from trainers.foundation.errors import UserError
from trainers.options.config import Config
from trainers.options.model_config import LossConfig
from trainers.options.parsing import config_from_yaml, config_to_yaml, parse_config
from trainers.run.validation import Validation

QUICK = [*TINY, *MTACLIP, "--rounds", "1"]


def make_record(contender: str, seed: int, values: dict[str, float | None], *, encoder: str = "resnet18") -> Record:
    known = [value for value in values.values() if value is not None]
    scores = Scores(mean_iou=sum(known) / len(known), boundary_iou=0.1, class_iou=values)
    return Record(contender, encoder, seed, scores, {}, ((2, 0.1), (4, scores.mean_iou)), "", "an abacus")


def test_spread_by_hand() -> None:
    spread = Spread((0.50, 0.53, 0.56))
    assert spread.mean == pytest.approx(0.53) and spread.deviation == pytest.approx(0.03)
    # t(0.975, 2) = 4.3027
    assert spread.half_interval == pytest.approx(4.3027 * 0.03 / math.sqrt(3), rel=1e-4)
    assert str(spread) == "53.0 ± 3.0" and str(Spread((0.5,))) == "50.0"
    assert math.isnan(Spread((math.nan, 0.4)).deviation)
    assert spread.minus(Spread((0.49, 0.51, 0.53))).difference() == "+2.0 ± 2.5"
    with pytest.raises(ValueError, match=r"shorter|longer"):
        spread.minus(Spread((0.5,)))


def test_rows_are_means_over_seeds_and_groups() -> None:
    records = [
        make_record("ours", 1, {"sky": 0.4, "cat": None, "dog": 0.2}),
        make_record("ours", 0, {"sky": 0.8, "cat": None, "dog": 0.4}),
        make_record("fpn", 0, {"sky": 0.5, "cat": None, "dog": 0.1}),
        make_record("fpn", 1, {"sky": 0.3, "cat": None, "dog": 0.1}),
    ]
    ours, fpn = summarize(
        records, classes=("sky", "cat", "dog"), groups={"head": ["sky"], "tail": ["cat", "dog"]}, costs={}
    )
    assert ours.seeds == (0, 1) and ours.mean_iou.values == pytest.approx((0.6, 0.3))
    assert ours.class_iou == pytest.approx({"sky": 0.6, "cat": None, "dog": 0.3})
    assert ours.groups["tail"].values == pytest.approx((0.4, 0.2)) and fpn.groups["head"].mean == pytest.approx(0.4)
    assert [point for point, _ in ours.curve] == [2, 4]
    assert [value for _, value in ours.curve] == pytest.approx([0.1, 0.45])
    assert "| resnet18 | **ours** |" not in accuracy_table("Heads", [ours, fpn]).to_markdown()
    assert "**45.0 ± 21.2**" in accuracy_table("Heads", [ours, fpn]).to_markdown()
    assert "| resnet18 | fpn | +20.0 ± 127.1 |" in difference_table("Ahead", [ours, fpn], "ours").to_markdown()


def test_differences_are_averaged_over_encoders() -> None:
    records = [
        make_record(contender, seed, {"sky": value + seed / 100}, encoder=encoder)
        for contender, encoder, value in (
            ("ours", "a", 0.5), ("fpn", "a", 0.4), ("ours", "b", 0.3), ("fpn", "b", 0.35), ("unet", "b", 0.1),
        )
        for seed in (0, 1)
    ]  # fmt: skip
    page = difference_table("Ahead", summarize(records, classes=("sky",), groups={}, costs={}), "ours").to_markdown()
    assert "| a | fpn | +10.0 ± 0.0 |" in page and "| b | fpn | -5.0 ± 0.0 |" in page
    assert "| mean of 2 | fpn | +2.5 ± 0.0 |" in page and "| unet |" in page and "of 1" not in page


def test_difference_leaves_out_what_has_other_seeds() -> None:
    records = [make_record("ours", 0, {"sky": 0.4}), make_record("fpn", 1, {"sky": 0.5})]
    assert difference_table("Ahead", summarize(records, classes=("sky",), groups={}, costs={}), "ours").rows == []


def test_a_class_that_no_validation_image_shows_counts_for_nobody() -> None:
    records = [make_record("ours", 0, {"sky": 0.4, "cat": 0.0}), make_record("fpn", 0, {"sky": 0.4, "cat": None})]
    ours, fpn = summarize(records, classes=["sky"], groups={"all": ["sky"]}, costs={})
    assert ours.mean_iou == fpn.mean_iou == Spread((0.4,)) and ours.class_iou == fpn.class_iou


def test_records_survive_their_file(tmp_path: Path) -> None:
    record = replace(make_record("ours", 1, {"sky": 0.4, "cat": None}), evaluations={"text": Scores(0.1, None, {})})
    save_json(record, tmp_path / "a" / "record.json")
    assert load_record(tmp_path / "a" / "record.json") == record


def test_key_names_what_the_result_depends_on() -> None:
    config = parse_config([*TINY, *MTACLIP])
    key = Trial("a", config).key
    same = replace(config, data=replace(config.data, num_workers=2, root="elsewhere"))
    assert Trial("b", replace(same, train=replace(config.train, output="other", overlays=0))).key == key
    for changed in (
        replace(config, train=replace(config.train, seed=1)),
        replace(config, train=replace(config.train, iterations=5)),
        replace(config, loss=replace(config.loss, contrastive_weight=0.0)),
        with_encoder(config, "resnet34"),
        with_head(config, "fpn"),
        with_head(config, "mask2former"),
    ):
        assert Trial("a", changed).key != key


def test_a_record_is_found_by_its_options_whatever_options_came_since(tmp_path: Path) -> None:
    trial = Trial("ours", Config())
    before = [line for line in config_to_yaml(trial.config).splitlines(keepends=True) if "num_points" not in line]
    save_json(replace(make_record("ours", 0, {"sky": 0.5}), config="".join(before)), tmp_path / "records" / "old.json")
    other = replace(trial.config, loss=LossConfig(num_points=7))
    assert trial.record_file(tmp_path).name == "old.json" and trial.load_record(tmp_path).scores.mean_iou == 0.5
    assert Trial("ours", other).load_record(tmp_path) is None
    unknown = config_to_yaml(trial.config).replace("num_points", "number_of_points")
    save_json(replace(make_record("ours", 0, {"sky": 0.5}), config=unknown), tmp_path / "records" / "odd.json")
    assert Trial("ours", other).load_record(tmp_path) is None


def test_key_of_a_peer_does_not_depend_on_options_that_it_does_not_read() -> None:
    config = parse_config([*TINY, *MTACLIP])
    tuned = replace(
        config, model=replace(config.model, num_queries=9), loss=replace(config.loss, assignment="by_class")
    )
    for head in HEADS:
        ours = head in ("mtaclip", "mask2former")
        same = Trial(head, with_head(config, head)).key == Trial(head, with_head(tuned, head)).key
        assert same is not ours
    other_text = replace(config, model=replace(config.model, text_embeddings="other.safetensors"))
    keys = {Trial("a", with_head(changed, "denseclip")).key for changed in (config, other_text)}
    assert len(keys) == 2


def test_heads_change_the_model_alone() -> None:
    config = parse_config([*TINY, *MTACLIP])
    plain = with_head(config, "mask2former")
    assert (plain.model.arch, plain.model.text_encoder) == ("mtaclip", None)
    assert replace(plain, model=config.model) == config
    assert with_encoder(config, "resnet50=imagenet").model.encoder_weights == "imagenet"
    assert with_encoder(config, "mit_b0").model.encoder_weights is None
    with pytest.raises(UserError, match="no head 'pspnet'; choose among mtaclip"):
        with_head(config, "pspnet")  # type: ignore[arg-type]


def test_thirds_of_classes() -> None:
    images = {"a": 5, "b": 0, "c": 9, "d": 1, "e": 5}
    assert class_groups(images) == {"head": ["c", "a"], "middle": ["e"], "tail": ["d"]}


def test_images_with_class_are_counted() -> None:
    dataset = ShapesDataset("train", size=32, length=5)
    expected = np.zeros(len(dataset.class_names), dtype=np.int64)
    for index in range(5):
        for class_id in set(dataset[index].label.flatten().tolist()) - {255}:
            expected[class_id] += 1
    np.testing.assert_array_equal(images_with_class(dataset), expected)


def test_rungs_differ_in_what_they_say() -> None:
    config = parse_config([*TINY, *MTACLIP])
    rungs = [*bank_rungs({"random": Path("random.safetensors")}), *prompt_rungs({"text_encoder": "RN50"}, [1, 2, 3, 5])]
    assert len({rung.name for rung in rungs}) == len(rungs)
    changed = {rung.name: rung.applied_to(config) for rung in rungs}
    assert changed["no text"] == with_head(config, "mask2former")
    assert changed["mask-text decoder"].loss.contrastive_weight == 0
    assert changed["mask-text decoder + contrastive"] == changed["real bank"] == changed["one a prompt"] == config
    assert changed["+ learned prompts, P=5"].model.num_prompts == 5
    assert changed["mixneg"] == changed["+ learned prompts, P=3"]
    assert changed["allpos"].loss.contrastive_mode == "allpos"
    assert changed["random"].model.text_embeddings == "random.safetensors"


def test_every_rung_of_the_recipe_by_class_has_a_loss() -> None:
    config = parse_config(["--config", str(Path(train.__file__).parent / "configs" / "by_class.yaml")])
    losses = {}
    for rung in [*bank_rungs({}), *prompt_rungs({"text_encoder": "RN50"}, [3])]:
        losses[rung.name] = build_criterion("mtaclip", **asdict(rung.applied_to(config).loss)).loss
    assert losses["as configured"].absent_mask_weight > 0
    assert losses["masks of absent classes left alone"].absent_mask_weight == 0
    assert isinstance(losses["Hungarian assignment"].matcher, HungarianMatcher)


def test_backbones_train_report_and_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--heads", "mtaclip,denseclip,fpn", "--seeds", "0,1", "--output", str(tmp_path), *QUICK]
    backbones.main([*arguments, "--plan"])
    assert "6 of 6 trainings are missing" in capsys.readouterr().out and not (tmp_path / "records").exists()
    backbones.main(arguments)
    page = (tmp_path / "backbones.md").read_text()
    assert "| resnet18 (untrained) | denseclip |" in page and "How far mtaclip is ahead" in page
    assert (tmp_path / "backbones.html").read_text().count("<table") == 3
    report = json.loads((tmp_path / "backbones.json").read_text())
    rows = {row["contender"]: row for row in report["rows"]["heads"]}
    assert rows["fpn"]["seeds"] == [0, 1] and len(rows["fpn"]["curve"]) == 2
    assert rows["mtaclip"]["costs"]["encoder_parameters"] == rows["fpn"]["costs"]["encoder_parameters"]
    assert all(value > 0 for row in rows.values() for name, value in row["costs"].items() if name != "machine")
    assert f"; trained on {describe_machine()}." in page and f"Seconds were measured on {describe_machine()}." in page
    sizes = [path.stat().st_size for path in tmp_path.glob("*.png")]
    assert sizes and max(sizes) < 200_000
    logs = [EventAccumulator(str(folder)).Reload() for folder in (tmp_path / "runs").glob("*/tensorboard")]
    assert all(log.PluginTagToContent("hparams") for log in logs) and len(logs) == 6
    kept = list((tmp_path / "runs").glob("*/last.pt"))
    assert len(kept) == 3 and len(list((tmp_path / "runs").glob("*/*.pt"))) == 6

    # One whose checkpoint is not kept, so that it is trained anew.
    finished = {path.parent.name for path in kept}
    victim = next(path for path in (tmp_path / "records").glob("*.json") if path.stem not in finished)
    before = victim.read_text()
    victim.unlink()
    trained = []
    monkeypatch.setattr(pool, "_train_all", lambda trials, folder, **_: trained.extend(trials) or ["it was not mended"])
    with pytest.raises(SystemExit):
        backbones.main(arguments)
    assert "1 training failed; mend what they say" in capsys.readouterr().err
    assert [trial.record_file(tmp_path) for trial in trained] == [victim]
    shutil.rmtree(tmp_path / "costs")
    for path in (tmp_path / "records").glob("*.json"):
        path.write_text(path.read_text().replace(describe_machine(), "another machine"))
    backbones.main([*arguments, "--report"])
    assert "; trained on another machine." in (tmp_path / "backbones.md").read_text()
    assert "1 of 6 trainings are missing" in capsys.readouterr().err
    assert not (tmp_path / "costs").exists() and "GFLOP" not in (tmp_path / "backbones.md").read_text()
    # The same training gives the same scores again.
    again = train_trial(trained[0], tmp_path, keep=False)
    assert json.loads(before)["scores"]["class_iou"] == again.scores.class_iou
    assert config_from_yaml(again.config).train.output == ""


def test_ablation_trains_every_rung(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--seeds", "0", "--tower", "tiny-flat", "--prompts", "2", "--output", str(tmp_path), *QUICK]
    ablation.main([*options, "--train.iterations=2"])
    page = capsys.readouterr().out
    for rung in ("no text", "+ learned prompts, P=2", "allpos", "1, fixed", "one a token", "shuffled", "random"):
        assert f"| resnet18 (untrained) | {rung} |" in page
    for way in ("learned", "text", "ensemble"):
        assert f"| resnet18 (untrained) | {way} |" in page
    # Rungs of equal options are one training.
    assert len(list((tmp_path / "records").glob("*.json"))) == 12
    ablation.main([*options, "--train.iterations=2", "--groups", "text,contrastive mode", "--report"])
    page = capsys.readouterr().out
    assert "| shuffled |" in page and "| mixneg |" in page and "| ensemble |" in page
    assert "| no text |" not in page and "| one a token |" not in page


def test_a_failed_training_is_named_and_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--heads", "fpn,unet", "--seeds", "0", "--output", str(tmp_path), *QUICK, "--data.crop_size=[31,32]"]
    line = failure(backbones.main, [*arguments, "--encoders", "resnet18"], capsys)
    assert "1 training failed" in line and "fpn on resnet18 (untrained), seed 0" in line
    assert len(list((tmp_path / "records").glob("*.json"))) == 1
    assert "| unet |" in (tmp_path / "backbones.md").read_text() and "GFLOP" in (tmp_path / "backbones.md").read_text()
    assert "Traceback" in "".join(path.read_text() for path in (tmp_path / "runs").glob("*/log.txt"))


def test_bad_images_that_are_left_out_are_left_out_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, output = tmp_path / "data", tmp_path / "out"
    write_folder(root, labels=[0, 1])
    for split in ("train", "val"):
        (root / "images" / split / "0.png").write_bytes(b"no picture")
    data = ["--data.dataset=folder", f"--data.root={root}", "--data.on_error=skip"]
    options = ["--heads", "fpn", "--seeds", "0", "--output", str(output), *QUICK, *data]
    backbones.main([*options, "--plan"])
    assert "1 of 1 trainings are missing" in capsys.readouterr().out
    backbones.main(options)
    page = capsys.readouterr().out
    assert "GFLOP" in page and "| sky | 2 |" in page
    (checkpoint,) = (output / "runs").glob("*/last.pt")
    failures.main(["--checkpoints", str(checkpoint), "--output", str(tmp_path / "worst.png")])
    assert "the 2 images of its split val" in capsys.readouterr().out


def test_a_training_waits_for_the_same_one_of_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial("ours", with_head(parse_config([*TINY, *MTACLIP]), "fpn"))
    monkeypatch.setattr(trials, "_train", lambda *_, **__: pytest.fail("it was trained again"))
    run = tmp_path / trials.RUNS / trial.key
    run.mkdir(parents=True)
    record = make_record("ours", 0, {"sky": 0.5})
    with ThreadPoolExecutor(1) as threads, FileLock(run / "lock"):
        waiting = threads.submit(train_trial, trial, tmp_path, keep=False)
        time.sleep(0.5)
        assert not waiting.done()
        save_json(record, trial.record_file(tmp_path))
    assert waiting.result().scores == record.scores


def test_a_record_without_the_scores_that_are_asked_for_is_none(tmp_path: Path) -> None:
    trial = Trial("ours", parse_config([*TINY, *MTACLIP]))
    save_json(make_record("ours", 0, {"sky": 0.5}), trial.record_file(tmp_path))
    assert trial.load_record(tmp_path) is not None
    assert replace(trial, every_classification=True).load_record(tmp_path) is None


def test_controls_of_other_text_are_not_taken_for_those_of_this(tmp_path: Path) -> None:
    config = parse_config([*TINY, *MTACLIP])
    files = write_controls(config, tmp_path, ("shuffled", "orthogonal"))
    assert files.keys() == {"shuffled", "orthogonal"}
    assert write_controls(config, tmp_path, ("shuffled", "orthogonal")) == files
    class_names = ShapesDataset("train", size=40, length=1).class_names
    other = tmp_path / "other.safetensors"
    write_bank(other, torch.randn(len(class_names), 8), class_names, "another")
    with pytest.raises(UserError, match="choose another --output"):
        write_controls(
            replace(config, model=replace(config.model, text_embeddings=str(other))), tmp_path, ("shuffled",)
        )


def test_a_training_stopped_in_its_last_validation_is_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_head(parse_config([*TINY, *MTACLIP]), "fpn")
    config = replace(config, train=replace(config.train, validate_every=4))
    look = Validation._stop

    def stop(validation: Validation, evaluator: Engine) -> None:
        validation.interruption.requested = True
        look(validation, evaluator)

    monkeypatch.setattr(Validation, "_stop", stop)
    trial = Trial("fpn", config)
    with pytest.raises(StoppedError, match="fpn was stopped"):
        train_trial(trial, tmp_path, keep=False)
    assert not trial.record_file(tmp_path).exists()
    monkeypatch.setattr(Validation, "_stop", look)
    # What the head does not read may have changed.
    goes_on = Trial("fpn", replace(config, loss=replace(config.loss, contrastive_weight=0.5)))
    record = train_trial(goes_on, tmp_path, keep=False)
    assert record.curve[-1][0] == 4 and record == trial.load_record(tmp_path)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_no_training_outlives_a_killed_comparison(tmp_path: Path) -> None:
    options = [
        "--heads",
        "fpn",
        "--seeds",
        "0",
        "--output",
        str(tmp_path),
        *QUICK,
        "--iterations",
        "100000",
        "--jobs",
        "2",
    ]
    program = subprocess.Popen([sys.executable, "-m", "benchmarks.backbones", *options], start_new_session=True)
    try:
        wait_until(lambda: any((tmp_path / "runs").glob("*/config.yaml")), seconds=120)
        program.kill()
        program.wait()
        wait_until(lambda: not group_lives(program.pid), seconds=30)
    finally:
        if group_lives(program.pid):
            os.killpg(program.pid, signal.SIGKILL)


def group_lives(leader: int) -> bool:
    """Whether any process of a group is there."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("program", "arguments", "sentence"),
    [
        (backbones, ["--seeds", ""], "--seeds names no seed"),
        (backbones, ["--jobs", "0"], "--jobs and --rounds must be at least 1"),
        (backbones, ["--heads", "pspnet"], "There is no head 'pspnet'"),
        (ablation, ["--prompts", "two"], "two"),
        (backbones, ["--report"], "holds no record of these trainings"),
        (ablation, ["--model.text_encoder", "null"], 'text_encoder "bank"'),
        (ablation, ["--banks", "clip.safetensors"], "--banks clip.safetensors lacks a name or a file"),
        (ablation, ["--groups", "ladder,texts"], "There is no group 'texts'; choose among ladder, "),
        (ablation, ["--groups", "contrastive mode"], "give --tower"),
        (ablation, ["--banks", "random=x.npy"], "--banks random is a name of the ablation's own"),
        (backbones, ["--train.seed=3"], "--train.seed is set by the comparison; use --seeds"),
        (backbones, ["--iterations", "0"], "--iterations must be at least 1"),
        (backbones, ["--iterations", "1", "--plan"], "--optim.warmup_iterations"),
        (backbones, ["--train.iterations", "many"], "many"),
    ],
)
def test_bad_options_end_in_a_sentence(
    program: object, arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*TINY, *MTACLIP, "--output", str(tmp_path), *arguments]
    assert sentence in failure(program.main, options, capsys)  # type: ignore[attr-defined]


def test_shrink_halves_images_and_keeps_ids(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", labels=[0, 1])
    shrink.main(["--root", str(tmp_path / "data"), "--output", str(tmp_path / "small")])
    small = FolderDataset(tmp_path / "small", "train")
    assert len(small) == 3 and small.class_names == ["sky", "road"]
    assert small[0].image.shape == (3, 12, 20)
    assert small[0].label.unique().tolist() == [0, 1]
    large = read_ids(tmp_path / "data" / "annotations" / "train" / "0.png")
    np.testing.assert_array_equal(small[0].label.numpy(), large[1::2, 1::2])
    assert read_image(tmp_path / "small" / "images" / "train" / "0.png").dtype.itemsize == 1


def test_shrink_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "data", labels=[0, 1])
    root = ["--root", str(tmp_path / "data")]
    assert "exists already" in failure(shrink.main, [*root, "--output", str(tmp_path / "data")], capsys)
    new = ["--output", str(tmp_path / "new")]
    assert "--factor must be above 0" in failure(shrink.main, [*root, *new, "--factor", "2"], capsys)
    assert "holds no annotations/SPLIT" in failure(shrink.main, ["--root", str(tmp_path / "none"), *new], capsys)
    (tmp_path / "data" / "images" / "val" / "2.png").write_bytes(b"no picture")
    assert "Cannot read the image" in failure(shrink.main, [*root, *new], capsys)
    assert not (tmp_path / "new").exists()
