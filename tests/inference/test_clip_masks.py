from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from mtaclip_plugin.encoders import Preprocessing
from mtaclip_plugin.inference import bands
from mtaclip_plugin.inference.clip_masks import ClipMasks, CroppedMasks, ImageTower, PooledMasks, cropped
from mtaclip_plugin.inference.clip_masks.probabilities import embedding_probabilities
from mtaclip_plugin.inference.clip_masks.regions import cell_shares
from mtaclip_plugin.inference.naming import join_probabilities
from mtaclip_plugin.structures import MaskPrediction
from mtaclip_plugin.text.clip import create_clip

GIVEN = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
IMAGE_POOLED = [  # towers whose mask that is everywhere is the image
    "tiny-rn",
    "tiny-mean",
    "tiny-late-mean",
    "tiny-attentional",
    "tiny-attentional-mean",
    "coca_tiny",
    "tiny-convnext",
    "tiny-convnext-mlp",
    "tiny-timm-mean",
    "tiny-timm-latent",
    "siglip",
    "tiny-timm-resnet",
]
CLASS_POOLED = ["tiny-flat", "tiny-class-token", "tiny-late-norm", "tiny-scaled", "tiny-timm-token", "tiny-eva"]


def tower(name: str) -> Any:
    """A model whose tokens differ more than those of a freshly drawn one."""
    model = create_clip("tiny-timm-latent" if name == "siglip" else name, None)
    if name == "siglip":  # SigLIP's layout: a latent query, and no class token
        trunk = timm.create_model("test_vit", class_token=False, global_pool="map", num_classes=24)
        model.visual.trunk, model.visual.head = trunk, torch.nn.Sequential()
    model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.visual.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def asking(way: str, model: Any) -> ClipMasks:
    image_tower = ImageTower(deepcopy(model.visual), model.logit_scale)
    return (PooledMasks if way == "pool" else CroppedMasks)(image_tower, given=GIVEN)


def size_of(model: Any) -> tuple[int, int]:
    size = model.visual.image_size
    return (size, size) if isinstance(size, int) else tuple(size)


def of_regions(regions: Tensor, image_size: tuple[int, int] | None = None) -> MaskPrediction:
    """A prediction whose masks are regions (B, Q, h, w) at stride 4."""
    batch, queries, height, width = regions.shape
    embed = torch.eye(queries).expand(batch, -1, -1)
    logits = torch.where(regions, 0.0, -1e-3)  # a mask is where it is as likely as not
    size = (4 * height, 4 * width)
    return MaskPrediction(torch.zeros(batch, queries, 4), embed, logits, None, image_size or size, size)


def given(images: Tensor) -> Tensor:
    """Images in [0, 1] as a model gets them."""
    return (images - torch.tensor(GIVEN.mean).view(3, 1, 1)) / torch.tensor(GIVEN.std).view(3, 1, 1)


def wanted(images: Tensor, model: Any) -> Tensor:
    """The same as a tower wants them."""
    mean, std = (torch.tensor(colour).view(3, 1, 1) for colour in (model.visual.image_mean, model.visual.image_std))
    return (images - mean) / std


def probabilities(embeddings: Tensor, text: Tensor, model: Any) -> Tensor:
    """What CLIP says of embeddings (N, T), class by class and prompt by prompt."""
    logits = torch.empty(len(embeddings), text.shape[1] - 1)
    for row, embedding in enumerate(embeddings):
        for k in range(text.shape[1] - 1):
            logits[row, k] = max(torch.cosine_similarity(embedding, prompt[k], 0) for prompt in text)
    return (logits * model.logit_scale.exp()).softmax(-1)


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-5 of what there is."""
    assert ours.shape == theirs.shape and theirs.std() > 0
    torch.testing.assert_close(ours, theirs, atol=1e-5 * theirs.abs().max().item(), rtol=1e-5)


def cells(grid: tuple[int, int]) -> Tensor:
    """Three masks (3, h, w) of whole cells: all, some, one."""
    masks = torch.zeros(3, *grid, dtype=torch.bool)
    masks[0] = True
    masks[1, :2, 1:] = True
    masks[2, -1, 0] = True
    return masks


@pytest.mark.parametrize("name", IMAGE_POOLED)
def test_a_mask_that_is_everywhere_is_the_image(name: str) -> None:
    model, text = tower(name), torch.randn(2, 6, 24)
    images = torch.rand(2, 3, *size_of(model))
    height, width = size_of(model)
    asked = asking("pool", model)
    prediction = of_regions(torch.ones(2, 1, height // 4, width // 4, dtype=torch.bool))
    grid = height // asked.tower.cell_size
    image = asked.tower.unpooled(wanted(images, model))
    expected = model.encode_image(wanted(images, model), normalize=False)
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert_near(asked.tower(image, torch.ones(2, 1, grid, grid))[:, 0], expected)
    ours = asked.ask(given(images), prediction, text, torch.ones(2, 1, 6))
    assert_near(ours[:, 0], probabilities(expected, text, model))


@pytest.mark.parametrize("name", CLASS_POOLED)
def test_without_a_class_token_only_values_are_left(name: str) -> None:
    """A literal MaskCLIP: what each token of the mask says, its attention taken away, and their mean."""
    model = tower(name)
    visual, images = model.visual, torch.rand(2, 3, *size_of(model))
    asked = asking("pool", model)
    cell = asked.tower.cell_size
    masks = cells((size_of(model)[0] // cell, size_of(model)[1] // cell))
    ours = asked.tower(asked.tower.unpooled(images), masks.float().expand(2, -1, -1, -1))
    given_tokens: list[Tensor] = []
    block = visual.trunk.blocks[-1] if hasattr(visual, "trunk") else visual.transformer.resblocks[-1]
    block.register_forward_pre_hook(lambda block, inputs: given_tokens.append(inputs[0]))
    visual(images)
    for image in range(2):
        for mask in range(3):
            rows = [value_path(visual, block, given_tokens[0][image, 1 + i]) for i in masks[mask].flatten().nonzero()]
            assert_near(ours[image, mask], projected(visual, torch.cat(rows)))


def value_path(visual: Any, block: Any, token: Tensor) -> Tensor:
    """What the last block makes of a token that attends to itself alone, written down for each family."""
    if hasattr(block, "attn") and hasattr(block.attn, "in_proj_weight"):
        normed, attention = block.ln_1(token), block.attn
        width = len(attention.in_proj_weight) // 3
        value = normed @ attention.in_proj_weight[2 * width :].T + attention.in_proj_bias[2 * width :]
        token = token + getattr(block, "ln_attn", torch.nn.Identity())(attention.out_proj(value))
        return token + block.mlp(block.ln_2(token))
    normed, attention = block.norm1(token), block.attn
    if getattr(attention, "v_proj", None) is not None:
        value = attention.v_proj(normed)
    elif getattr(attention, "v_bias", None) is not None:
        value = normed @ attention.qkv.weight.chunk(3)[2].T + attention.v_bias
    else:
        value = normed @ attention.qkv.weight.chunk(3)[2].T + attention.qkv.bias.chunk(3)[2]
    token = token + attention.proj(attention.norm(value))
    return token + block.mlp(block.norm2(token))


def projected(visual: Any, tokens: Tensor) -> Tensor:
    """The embedding (T) of the mean of tokens (N, C), the norm where the tower has it."""
    if hasattr(visual, "trunk"):
        trunk = visual.trunk
        return visual.head(trunk.head(trunk.fc_norm(trunk.norm(tokens).mean(0))))
    if visual.final_ln_after_pool:
        return visual.ln_post(tokens.mean(0)) @ visual.proj
    return visual.ln_post(tokens).mean(0) @ visual.proj


@pytest.mark.parametrize("name", IMAGE_POOLED)
def test_a_mask_of_some_cells_is_an_image_of_those_cells(name: str) -> None:
    """A literal loop: the tower's own pooling, handed no more than the cells of the mask."""
    model = tower(name)
    images = torch.rand(2, 3, *size_of(model))
    asked = asking("pool", model)
    masks = cells((size_of(model)[0] // asked.tower.cell_size,) * 2)
    ours = asked.tower(asked.tower.unpooled(images), masks.float().expand(2, -1, -1, -1))
    for image in range(2):
        for mask in range(3):
            chosen = masks[mask].flatten().nonzero().flatten()
            expected = pooled_by_the_tower(model.visual, images[image : image + 1], chosen)
            assert_near(ours[image, mask], expected)


def pooled_by_the_tower(visual: Any, image: Tensor, chosen: Tensor) -> Tensor:
    """(T) what the tower's pooling makes of an image (1, 3, H, W) that has only the chosen cells."""
    if hasattr(visual, "attnpool"):
        pool = deepcopy(visual.attnpool)
        rows = torch.cat([torch.zeros(1, dtype=torch.long), 1 + chosen])
        pool.positional_embedding = torch.nn.Parameter(pool.positional_embedding[rows])
        features = visual.forward_intermediates(image, intermediates_only=True)["image_intermediates"][-1]
        return pool(features.flatten(2)[..., None][:, :, chosen])[0]
    if hasattr(visual, "trunk"):
        features = visual.trunk.forward_features(image)
        if features.ndim == 4:
            return visual.head(visual.trunk.forward_head(features.flatten(2)[..., None][:, :, chosen]))[0]
        prefix, attends = visual.trunk.num_prefix_tokens, visual.trunk.pool_include_prefix
        return visual.head(visual.trunk.forward_head(only(chosen, features, prefix, attends)))[0]
    tokens = only(chosen, visual.transformer(visual._embeds(image)), 1, visual.attn_pool is not None)
    return (visual._pool(tokens)[0] @ visual.proj)[0]


def only(chosen: Tensor, tokens: Tensor, prefix: int, attends: bool) -> Tensor:
    """The tokens before the patches, and the chosen patches, of tokens (1, N, C).

    An attentional pool is to see the former as much as the mask covers of the image: so often is each repeated.
    """
    first, patches = tokens[:, :prefix], tokens[:, prefix:]
    times = (len(chosen), patches.shape[1]) if attends else (1, 1)
    return torch.cat([first] * times[0] + [patches[:, chosen]] * times[1], 1)


def test_shares_are_areas() -> None:
    regions = torch.rand(2, 3, 6, 8) > 0.5
    image_size, padded = (21, 30), (24, 32)
    shares = cell_shares(regions, padded, image_size, (3, 5))
    pixels = regions.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, :, :21, :30].float()
    assert_near(shares, F.avg_pool2d(pixels, (7, 6)))
    # Where the grids do not fit: the pixels cut finer until they do.
    finer = F.avg_pool2d(pixels.repeat_interleave(2, 2), (21, 6))
    assert_near(cell_shares(regions, padded, image_size, (2, 5)), finer)


def test_probabilities_by_hand() -> None:
    text = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]], [[0.0, -1.0], [1.0, 1.0], [9.0, 9.0]]])
    ours = embedding_probabilities(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), text, torch.tensor([2.0]))
    half = 0.5**0.5
    expected = torch.tensor([[2.0, 2 * half], [0.0, 2.0]]).softmax(-1)
    torch.testing.assert_close(ours, expected)


def test_joining_by_hand() -> None:
    decoder = torch.tensor([[[0.6, 0.2, 0.2], [0.1, 0.0, 0.9], [0.5, 0.3, 0.2]]])
    clip = torch.tensor([[[0.1, 0.9], [0.5, 0.5], [1.0, 1.0]]])
    joined = join_probabilities(decoder, clip, torch.tensor([0.4, 0.8]))
    # Of the first: 0.75^0.6 · 0.1^0.4 against 0.25^0.2 · 0.9^0.8, which share the 0.8 that "none" leaves.
    first, second = 0.75**0.6 * 0.1**0.4, 0.25**0.2 * 0.9**0.8
    expected = 0.8 * torch.tensor([first, second]) / (first + second)
    torch.testing.assert_close(joined[0, 0, :2], expected)
    assert torch.equal(joined[..., 2], decoder[..., 2])
    torch.testing.assert_close(joined.sum(-1), torch.ones(1, 3))
    torch.testing.assert_close(joined[0, 2], decoder[0, 2])  # of which CLIP says nothing
    torch.testing.assert_close(join_probabilities(decoder, clip, torch.zeros(2)), decoder)
    alone = join_probabilities(decoder, clip, torch.ones(2))
    torch.testing.assert_close(alone[0, 0, :2], 0.8 * clip[0, 0])


def scene(model: Any, size: tuple[int, int]) -> tuple[Tensor, MaskPrediction, Tensor, Tensor]:
    """Images of any size, five masks of them, of which one is empty, decoder probabilities, and text."""
    height, width = size
    padded = height + -height % 32, width + -width % 32
    prediction = MaskPrediction(
        class_logits=torch.zeros(2, 5, 4),
        mask_embed=torch.randn(2, 5, 8),
        mask_features=torch.randn(2, 8, padded[0] // 4, padded[1] // 4),
        text_logits=None,
        image_size=size,
        padded_size=padded,
    )
    embed = torch.cat([prediction.mask_embed, torch.zeros(2, 5, 1)], -1)
    embed[:, 3] = torch.eye(9)[8]
    features = torch.cat([prediction.mask_features, -torch.ones_like(prediction.mask_features[:, :1])], 1)
    prediction = replace(prediction, mask_embed=embed, mask_features=features)
    return torch.rand(2, 3, *size), prediction, torch.rand(2, 5, 4).softmax(-1), torch.randn(2, 4, 24)


CROPPED = ["tiny-rn", "tiny-flat", "coca_tiny", "tiny-mean", "tiny-convnext"]


@pytest.mark.parametrize("name", CROPPED)
def test_crops_are_those_of_a_loop_with_encode_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cropped, "CROPS_AT_ONCE", 2)
    model = tower(name)
    images, prediction, decoder, text = scene(model, (50, 70))
    decoder[1, 2] = torch.tensor([1e-3, 1e-3, 1e-3, 1 - 3e-3])  # carries nothing
    ours = asking("crop", model).ask(given(images), prediction, text, decoder)
    masks = F.interpolate(prediction.mask_logits, size=(64, 96), mode="bilinear")[..., :50, :70].sigmoid()
    for image in range(2):
        for query in range(5):
            region = masks[image, query] >= 0.5
            if query == 3 or (image, query) == (1, 2):
                assert torch.equal(ours[image, query], torch.ones(3))
                continue
            rows, columns = region.any(1).nonzero(), region.any(0).nonzero()
            cut = torch.where(region, wanted(images[image], model), 0)
            cut = cut[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            crop = F.interpolate(cut[None], size=size_of(model), mode="bicubic", antialias=True)
            embedding = model.encode_image(crop, normalize=False)
            embedding = embedding[0] if isinstance(embedding, tuple) else embedding
            assert_near(ours[image, query], probabilities(embedding, text, model)[0])


def test_only_masks_that_carry_a_class_are_cropped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tower("tiny-rn")
    images, prediction, decoder, text = scene(model, (50, 70))
    asked = asking("crop", model)
    seen = []
    asked.tower.register_forward_pre_hook(lambda tower, inputs: seen.append(len(inputs[0])))
    asked.ask(given(images), prediction, text, decoder)
    assert seen == [4, 4]
    decoder[0] = torch.tensor([0.0, 1e-3, 0.0, 0.999])
    asked.ask(given(images), prediction, text, decoder)
    assert seen == [4, 4, 4]


WAYS = [("pool", name) for name in [*IMAGE_POOLED, *CLASS_POOLED]] + [("crop", "tiny-rn"), ("crop", "tiny-class-token")]


@pytest.mark.parametrize("size", [(64, 96), (50, 70)])
@pytest.mark.parametrize(("way", "name"), WAYS)
def test_batches_permutations_and_padding(way: str, name: str, size: tuple[int, int]) -> None:
    model = tower(name)
    images, prediction, decoder, text = scene(model, size)
    asked = asking(way, model)
    ours = asked.ask(given(images), prediction, text, decoder)
    assert ours.shape == (2, 5, 3) and ours.dtype == torch.float32 and ours.isfinite().all()
    assert (ours[:, 3] == 1).all()  # empty
    torch.testing.assert_close(ours[:, [0, 1, 2, 4]].sum(-1), torch.ones(2, 4))
    for image in range(2):
        alone = replace(
            prediction,
            mask_embed=prediction.mask_embed[image : image + 1],
            mask_features=prediction.mask_features[image : image + 1],
        )
        one = slice(image, image + 1)
        assert_near(asked.ask(given(images[one]), alone, text, decoder[one]), ours[one])
    order = torch.randperm(5)
    permuted = replace(prediction, mask_embed=prediction.mask_embed[:, order])
    assert_near(asked.ask(given(images), permuted, text, decoder[:, order]), ours[:, order])
    classes = torch.tensor([2, 0, 1, 3])
    assert_near(asked.ask(given(images), prediction, text[:, classes], decoder), ours[..., classes[:-1]])
    height, width = -(-size[0] // 4), -(-size[1] // 4)
    features = prediction.mask_features.clone()
    features[:, :, height:] = torch.randn_like(features[:, :, height:])
    features[:, :, :, width:] = torch.randn_like(features[:, :, :, width:])
    if way == "pool":  # crops are as fine as pixels, for which cells look at those beside them
        assert torch.equal(asked.ask(given(images), replace(prediction, mask_features=features), text, decoder), ours)


@pytest.mark.parametrize(("way", "name"), [("pool", "tiny-rn"), ("pool", "tiny-flat"), ("crop", "tiny-convnext")])
def test_padding_is_no_part_of_a_mask(way: str, name: str) -> None:
    """A larger canvas around the image changes nothing."""
    model, text = tower(name), torch.randn(1, 4, 24)
    images, regions = torch.rand(1, 3, 64, 96), torch.rand(1, 4, 16, 24) > 0.5
    decoder = torch.full((1, 4, 4), 0.25)
    asked = asking(way, model)
    tight = asked.ask(given(images), of_regions(regions), text, decoder)
    canvas = torch.ones(1, 4, 24, 40, dtype=torch.bool)
    canvas[:, :, :16, :24] = regions
    if way == "crop":  # beyond the last cell resizing repeats it
        canvas[:, :, 16:, :24] = regions[:, :, -1:]
        canvas[:, :, :, 24:] = canvas[:, :, :, 23:24]
    assert_near(asked.ask(given(images), of_regions(canvas, image_size=(64, 96)), text, decoder), tight)


def test_images_are_normalised_as_the_tower_wants_them() -> None:
    asked, images = asking("pool", model := tower("tiny-rn")), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(asked.recoloured(given(images)), wanted(images, model), atol=1e-5, rtol=1e-5)
    assert_near(asked.recoloured(given(images)), wanted(images, model))


@pytest.mark.parametrize("name", ["tiny-rn", "tiny-class-token", "tiny-timm-latent"])
@pytest.mark.parametrize("way", ["pool", "crop"])
def test_moving_to_another_dtype(way: str, name: str) -> None:
    model = tower(name)
    images, prediction, decoder, text = scene(model, (64, 64))
    asked = asking(way, model)
    ours = asked.ask(given(images), prediction, text, decoder)
    asked.apply(lambda tensor: tensor.double())
    assert next(asked.tower.parameters()).dtype == torch.float64
    assert_near(asked.ask(given(images).double(), prediction, text.double(), decoder), ours)
    with torch.autocast("cpu", torch.bfloat16):
        asked.apply(lambda tensor: tensor.float())
        coarse = asked.ask(given(images), prediction, text, decoder)
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, ours, atol=0.1, rtol=0.2)


def test_a_tower_whose_pooling_masks_have_no_part_in_is_told() -> None:
    model = create_clip("tiny-relative", None)
    with pytest.raises(ValueError, match="VisionTransformerRelPos does not, or has no map: take clip_masks='crop'"):
        asking("pool", model)
    asking("crop", model)


@pytest.mark.parametrize("way", ["pool", "crop"])
def test_a_tower_that_gives_no_single_embedding_is_told(way: str) -> None:
    message = r"gives one embedding of an image; VisionTransformer gives numbers of shape \(1, 1, 24\)"
    with pytest.raises(ValueError, match=message):
        asking(way, create_clip("tiny-cascade", None))


def test_a_tower_without_a_map_is_told() -> None:
    model = create_clip("tiny-rn", None)
    vector = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 24))
    vector.preprocess_cfg, vector.image_size = model.visual.preprocess_cfg, 8
    vector.image_mean, vector.image_std = model.visual.image_mean, model.visual.image_std
    with pytest.raises(ValueError, match="needs an image tower with a map, Sequential gives none"):
        PooledMasks(ImageTower(vector, model.logit_scale), given=GIVEN)


def test_no_full_size_masks_of_all_queries_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cropped, "CROPS_AT_ONCE", 2)
    made = []
    full_maps = bands.full_maps
    monkeypatch.setattr(cropped, "full_maps", lambda maps, whose: made.append(maps.shape[:2]) or full_maps(maps, whose))
    model = tower("tiny-rn")
    images, prediction, decoder, text = scene(model, (50, 70))
    asking("crop", model).ask(given(images), prediction, text, decoder)
    assert max(batch * queries for batch, queries in made) == 2
