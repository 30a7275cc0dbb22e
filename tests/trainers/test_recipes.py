from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from mtaclip_plugin import vocabulary, zero_shot_split
from tests.trainers.data.published_trees import write_split
from trainers import train
from trainers.data.published import LAYOUTS
from trainers.engine.criteria import build_criterion
from trainers.options.config import OptimConfig
from trainers.options.parsing import parse_config
from trainers.run.checkpoints import load_checkpoint

CONFIGS = Path(train.__file__).parent / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*_clip.yaml"))
ZERO_SHOT = sorted(path.stem for path in CONFIGS.glob("*_zero_shot*.yaml"))
SMALL = [
    "--data.num_workers=0",
    "--model.text_pretrained=null",
    "--model.num_queries=12",
    "--model.decoder_channels=64",
    "--model.pixel_decoder_layers=1",
    "--model.pixel_decoder_ffn=32",
    "--model.decoder_layers=1",
    "--model.decoder_ffn=32",
    "--loss.num_points=32",
    "--optim.warmup_iterations=1",
    "--eval.window=[32,32]",
    "--eval.stride=[21,21]",
    "--train.iterations=2",
    "--train.batch_size=2",
    "--train.validate_every=2",
    "--train.overlays=0",
    "--train.device=cpu",
    "--train.precision=float32",
]


@pytest.fixture(scope="module", autouse=True)
def _small_clips(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("open_clip")
    text = {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    resnet = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    vit = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
    for name, vision in (("small-resnet", resnet), ("small-vit", vit)):
        (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder)


def test_the_recipes_are_there() -> None:
    assert RECIPES == [
        "ade20k_rn101_clip",
        "ade20k_rn50_clip",
        "ade20k_vit_b16_clip",
        "cityscapes_rn50_clip",
        "coco_stuff_rn50_clip",
        "pascal_context_rn50_clip",
        "voc2012_rn50_clip",
    ]
    assert ZERO_SHOT == [
        "coco_stuff_zero_shot",
        "coco_stuff_zero_shot_frozen",
        "voc2012_zero_shot",
        "voc2012_zero_shot_frozen",
    ]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_have_the_official_hyper_parameters(recipe: str) -> None:
    config = parse_config(["--config", str(CONFIGS / f"{recipe}.yaml")])
    assert recipe.startswith(config.data.dataset) and config.train.output == f"runs/{recipe}"
    model, data = config.model, config.data
    tower = {"rn50": "RN50", "rn101": "RN101", "vit": "ViT-B-16"}[recipe.removeprefix(data.dataset).split("_")[1]]
    assert (model.encoder_name, model.text_encoder, model.text_pretrained) == ("clip", tower, "openai")
    assert tower in open_clip.list_models()
    assert (model.num_queries, model.num_prompts, model.context_length) == (100, 3, 8)
    assert (model.decoder_channels, model.pixel_decoder, model.pixel_decoder_layers) == (256, "deformable", 6)
    assert (model.pixel_decoder_ffn, model.decoder_layers, model.decoder_ffn, model.num_heads) == (1024, 9, 2048, 8)
    assert config.optim == OptimConfig(
        lr=1e-4,
        encoder_lr_factor=0.1,
        weight_decay=0.02,
        warmup_iterations=1500,
        power=0.9,
        clip_norm=0.01,
        layer_decay=0.9 if tower == "ViT-B-16" else 1.0,
    )
    assert config.loss.num_points == 12544 and config.train.batch_size == 16
    assert (data.scale_range, data.flip, data.photometric, data.max_class_share) == ((0.5, 2.0), 0.5, 1.0, 0.75)
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    wide = data.dataset == "cityscapes"
    assert data.crop_size == config.eval.window == ((512, 1024) if wide else (512, 512))
    assert config.eval.mode == "slide" and config.eval.stride == ((341, 683) if wide else (341, 341))
    iterations = {"ade20k": 160, "cityscapes": 80, "coco_stuff": 80, "voc2012": 40, "pascal_context": 40}
    assert config.train.iterations == 1000 * iterations[data.dataset]


@pytest.mark.parametrize("recipe", ZERO_SHOT)
def test_zero_shot_recipes_differ_from_those_of_the_paper_in_what_they_say(recipe: str) -> None:
    config = parse_config(["--config", str(CONFIGS / f"{recipe}.yaml")])
    paper = parse_config(["--config", str(CONFIGS / "ade20k_vit_b16_clip.yaml")])
    split = zero_shot_split(LAYOUTS[config.data.dataset].vocabulary)
    assert config.data.unseen == split.unseen
    of_dataset = {"dataset": config.data.dataset, "unseen": split.unseen}
    if config.data.dataset == "voc2012":
        of_dataset |= {"train_split": "trainaug", "ignore_classes": ("background",)}
    assert config.data == replace(paper.data, **of_dataset)
    parts = {"text_masks": 1.0, "pixel_scores": 1.0, "center_text": True, "classification": "per_name"}
    assert config.model == replace(paper.model, **parts)
    assert config.loss == replace(paper.loss, text_mask_weight=1.0, pixel_weight=10.0)
    frozen = {"freeze_encoder": True, "layer_decay": 1.0, "encoder_lr_factor": OptimConfig().encoder_lr_factor}
    assert config.optim == replace(paper.optim, **(frozen if recipe.endswith("frozen") else {}))
    iterations = {"voc2012": 20_000, "coco_stuff": 80_000}[config.data.dataset]
    assert config.train == replace(
        paper.train, iterations=iterations, validate_every=iterations // 20, output=f"runs/{recipe}"
    )


OFFICIAL = ["--config", str(CONFIGS / "official.yaml")]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_official_settings_are_laid_over_any_recipe(recipe: str) -> None:
    paper = parse_config(["--config", str(CONFIGS / f"{recipe}.yaml")])
    official = parse_config(["--config", str(CONFIGS / f"{recipe}.yaml"), *OFFICIAL])
    model = {"temperature": 1.0, "learn_temperature": False, "input_norm": "all", "text_positions": "token"}
    loss = {"supervise_initial": False, "ignored_pixels": "background", "mask_normalizer": "class_weights"}
    train = {"precision": "float32", "output": "runs/official"}
    assert official == replace(
        paper,
        model=replace(paper.model, **model),
        loss=replace(paper.loss, **loss),
        train=replace(paper.train, **train),
    )


def test_the_official_settings_reach_model_and_loss() -> None:
    config = parse_config([*OFFICIAL, "--model.text_encoder=null"])
    loss = build_criterion("mtaclip", **asdict(config.loss)).loss
    assert not loss.supervise_initial
    assert (loss.ignored_pixels, loss.mask_normalizer) == ("background", "class_weights")


@pytest.mark.parametrize("recipe", [*RECIPES, *ZERO_SHOT, "ade20k_rn50_clip official"])
def test_recipes_train(tmp_path: Path, recipe: str) -> None:
    recipe, _, official = recipe.partition(" ")
    config = parse_config(["--config", str(CONFIGS / f"{recipe}.yaml")])
    first = {"voc2012": 9, "coco_stuff": 19}[config.data.dataset] if config.data.unseen else 0  # some are unseen there
    ids = (np.arange(40 * 48).reshape(40, 48) // 160 + first).astype(np.uint8)  # at most as many classes as queries
    for split in (config.data.train_split, config.data.val_split):
        write_split(tmp_path / "data", config.data.dataset, split, ids, count=2)
    tower = "small-vit" if "vit" in recipe or config.data.unseen else "small-resnet"
    crop = "[32,64]" if config.data.dataset == "cityscapes" else "[32,32]"
    paths = ["--data.root", str(tmp_path / "data"), "--train.output", str(tmp_path / "run")]
    options = ["--model.text_encoder", tower, "--data.crop_size", crop]
    configs = ["--config", str(CONFIGS / f"{recipe}.yaml"), *OFFICIAL * bool(official)]
    train.main([*configs, *SMALL, *options, *paths])
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    names = vocabulary(LAYOUTS[config.data.dataset].vocabulary)
    assert last.iteration == 2 and last.class_names == names[len(config.data.ignore_classes) :]
    assert last.vocabulary.unseen == config.data.unseen_names
    assert all(torch.isfinite(tensor).all() for tensor in last.model.values() if tensor.is_floating_point())
    assert last.config.data.mean == config.data.mean  # not CLIP's own
    if official:
        (scale,) = (value for name, value in last.model.items() if name.endswith("logit_scale"))
        assert scale == 0  # the logarithm of 1, which training leaves alone
        positions = last.model["decoder.tokens.text_positions.weight"]
        assert len(positions) == config.model.num_prompts * (len(names) + 1)
