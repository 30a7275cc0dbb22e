from __future__ import annotations

import math
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch

from mtaclip_plugin.losses import LossNormalizers, MTACLIPLoss
from mtaclip_plugin.structures import MaskPrediction
from tests.losses.reference import leaves, make_prediction, reference_terms

small_loss = partial(MTACLIPLoss, num_points=40)
EMPTY = {"assignment": "by_class", "absent_mask_weight": 5.0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_target(image_size: tuple[int, int] = (30, 27), *, ignored: bool = True) -> torch.Tensor:
    """Two images in blocks of 9: classes 0, 1 and 3, and class 2 with 1."""
    rows, columns = (torch.arange(size) // 9 for size in image_size)
    first = torch.tensor([0, 1, 3, 0])[(rows[:, None] + columns) % 4]
    second = torch.tensor([2, 2, 1, 2])[(rows[:, None] * columns) % 4]
    target = torch.stack([first, second])
    if ignored:
        target[0, 5:12, 4:20] = target[1, :9] = 255
    return target


def map_tensors(prediction: MaskPrediction, **changes) -> MaskPrediction:
    """The prediction with ``changes[name]`` applied to each of its tensors of that name, in all layers."""
    done = {name: change(value) for name, change in changes.items() if (value := getattr(prediction, name)) is not None}
    return replace(prediction, **done, auxiliary=tuple(map_tensors(a, **changes) for a in prediction.auxiliary))


def assert_same_terms(actual, expected, **tolerance) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def assert_same_gradients(prediction: MaskPrediction, terms, expected) -> None:
    tensors = leaves(prediction)
    gradients = torch.autograd.grad(sum(terms.values()), list(tensors.values()))
    expected_gradients = torch.autograd.grad(sum(expected.values()), list(tensors.values()))
    for name, gradient, truth in zip(tensors, gradients, expected_gradients, strict=True):
        assert truth.any(), name
        torch.testing.assert_close(gradient, truth, atol=1e-6, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_class_weights_are_numbers_in_whatever_holds_them() -> None:
    weights = [0.5, 2.0, 1.0, 3.0]
    assert small_loss(class_weights=torch.tensor(weights)).class_weights == tuple(weights)
    with pytest.raises(ValueError, match=r"class_weights\[1\]"):
        small_loss(class_weights=torch.tensor([1.0, -1.0, 1.0, 1.0]))


@pytest.mark.parametrize("mode", ["mixneg", "separateneg", "allpos"])
@pytest.mark.parametrize("class_weights", [None, [0.5, 2.0, 1.0, 3.0]])
def test_terms_and_gradients_equal_the_reference(mode, class_weights) -> None:
    prediction, target = make_prediction(), make_target()
    terms = small_loss(contrastive_mode=mode, class_weights=class_weights).terms(prediction, target, seeded())
    expected, _ = reference_terms(
        prediction, target, generator=seeded(), num_points=40, mode=mode, class_weights=class_weights
    )
    assert_same_terms(terms, expected)
    assert_same_gradients(prediction, terms, expected)


def test_matching_equals_the_reference() -> None:
    prediction, target = make_prediction(), make_target()
    loss = small_loss()
    targets = loss._targets(target, 4, prediction.padded_size)
    matches = loss.matcher(prediction.layers, targets, seeded())
    _, expected = reference_terms(prediction, target, generator=seeded(), num_points=40)
    for queries, labels, images in zip(matches.queries, matches.labels, expected, strict=True):
        found = [{}, {}]
        for image, query, label in zip(matches.image.tolist(), queries.tolist(), labels.tolist(), strict=True):
            found[image][label] = query
        assert found == images


def test_terms_equal_those_of_transformers_mask2former_on_the_same_points(monkeypatch) -> None:
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    from transformers.models.mask2former import modeling_mask2former as mask2former

    size, num_points = (32, 32), 40
    prediction = make_prediction(prompts=None, image_size=size, padded_size=size)
    target = make_target(size, ignored=False)

    # Theirs are drawn for each image or mask, ours for each image: give everybody the same ones.
    pool = torch.rand(3 * num_points, 2, generator=seeded(1))
    monkeypatch.setattr(torch, "rand", lambda rows, points, _, **options: pool[-points:].expand(rows, -1, -1).clone())
    config = transformers.Mask2FormerConfig(num_labels=4, train_num_points=num_points, no_object_weight=0.1)
    oracle = mask2former.Mask2FormerLoss(config, weight_dict={})
    assert (oracle.matcher.cost_class, oracle.matcher.cost_mask, oracle.matcher.cost_dice) == (2, 5, 5)
    classes = [labels.unique() for labels in target]
    masks = [(labels == k[:, None, None]).float() for labels, k in zip(target, classes, strict=True)]
    auxiliary = [
        {"masks_queries_logits": layer.mask_logits, "class_queries_logits": layer.class_logits}
        for layer in prediction.auxiliary
    ]
    theirs = oracle(prediction.mask_logits, prediction.class_logits, masks, classes, auxiliary)
    names = {"class": ("loss_cross_entropy", 2), "mask": ("loss_mask", 5), "dice": ("loss_dice", 5)}
    expected = {
        f"{i}/{ours}": weight * theirs[name + suffix]
        for i, suffix in enumerate(["_0", "_1", ""])
        for ours, (name, weight) in names.items()
    }
    loss = small_loss()
    assert_same_terms(loss.terms(prediction, target), expected)

    matches = loss.matcher(prediction.layers, loss._targets(target, 4, size))
    for layer, queries in zip(prediction.layers, matches.queries, strict=True):
        assigned = oracle.matcher(layer.mask_logits, layer.class_logits, masks, classes)
        in_order = [query[mask.argsort()] for query, mask in assigned]
        assert queries.tolist() == torch.cat(in_order).tolist()


def test_terms_sum_to_the_loss_and_follow_the_generator() -> None:
    prediction, target, loss = make_prediction(), make_target(), small_loss()
    terms = loss.terms(prediction, target, seeded())
    assert set(terms) == {f"{i}/{name}" for i in range(3) for name in ("class", "mask", "dice", "contrastive")}
    torch.testing.assert_close(loss(prediction, target, seeded()), sum(terms.values()))
    assert torch.equal(loss(prediction, target, seeded()), loss(prediction, target, seeded()))
    assert not torch.equal(loss(prediction, target, seeded(1)), loss(prediction, target, seeded(2)))
    torch.manual_seed(5)
    first = loss(prediction, target)
    torch.manual_seed(5)
    assert torch.equal(first, loss(prediction, target))


def test_without_text_there_is_no_contrastive_term() -> None:
    terms = small_loss().terms(make_prediction(prompts=None), make_target())
    assert set(terms) == {f"{i}/{name}" for i in range(3) for name in ("class", "mask", "dice")}


def test_weights_scale_their_terms() -> None:
    prediction, target = make_prediction(), make_target()
    plain = small_loss().terms(prediction, target, seeded())
    contrastive = small_loss(contrastive_weight=3.0).terms(prediction, target, seeded())
    for name, value in plain.items():
        factor = 3 if name.endswith("contrastive") else 1
        torch.testing.assert_close(contrastive[name], factor * value)


def test_what_no_valid_point_touches_changes_nothing() -> None:
    prediction = make_prediction(image_size=(64, 64), padded_size=(64, 96))
    target = make_target((64, 64))
    target[:, 16:48, 16:48] = 255
    changed = prediction.mask_features.detach().clone()
    changed[:, :, 5:11, 5:11] += 100  # label pixels 20 to 43: a bilinear reach inside the ignored block
    changed[:, :, :, 18:] -= 100  # the padding
    other = map_tensors(prediction, mask_features=lambda _: changed)
    loss = small_loss(num_points=300)
    before, after = (loss.terms(p, target, seeded()) for p in (prediction, other))
    assert_same_terms(after, before, atol=0, rtol=0)
    everywhere = map_tensors(prediction, mask_features=lambda value: value + 100)
    assert not torch.equal(loss(everywhere, target, seeded()), loss(prediction, target, seeded()))

    as_background = small_loss(num_points=300, ignored_pixels="background")
    before, after = (as_background.terms(p, target, seeded())["2/mask"] for p in (prediction, other))
    assert not torch.equal(before, after)


def test_permuting_queries_changes_nothing() -> None:
    prediction, target, loss = make_prediction(), make_target(), small_loss()
    order = torch.tensor([3, 0, 4, 1, 2])

    def permute(value: torch.Tensor) -> torch.Tensor:
        return value[:, order]

    permuted = map_tensors(prediction, class_logits=permute, mask_embed=permute, text_logits=permute)
    assert_same_terms(loss.terms(permuted, target, seeded()), loss.terms(prediction, target, seeded()))


def test_permuting_classes_changes_nothing() -> None:
    prediction, target = make_prediction(), make_target()
    order = torch.tensor([2, 0, 3, 1])  # new class i is old class order[i]
    columns = torch.cat([order, torch.tensor([4])])
    table = torch.full((256,), 255)
    table[order] = torch.arange(4)
    weights = [0.5, 2.0, 1.0, 3.0]
    permuted = map_tensors(
        prediction,
        class_logits=lambda value: value[..., columns],
        text_logits=lambda value: value[..., columns],
    )
    before = small_loss(class_weights=weights).terms(prediction, target, seeded())
    after = small_loss(class_weights=[weights[k] for k in order]).terms(permuted, table[target], seeded())
    assert_same_terms(after, before)


@pytest.mark.parametrize("one_only", [False, True])
def test_image_without_a_label_gives_finite_loss_and_all_gradients(one_only) -> None:
    prediction, target = make_prediction(), make_target()
    target[: 1 if one_only else 2] = 255
    loss = small_loss()(prediction, target)
    assert loss.isfinite()
    loss.backward()
    for name, tensor in leaves(prediction).items():
        assert tensor.grad is not None and tensor.grad.isfinite().all(), name
        if "logits" in name:
            assert tensor.grad.any(), name  # every query still learns that it is "none"
        else:
            assert bool(tensor.grad.any()) == one_only, name


def test_nan_in_a_prediction_does_not_crash() -> None:
    prediction, target = make_prediction(), make_target()
    with torch.no_grad():
        prediction.mask_embed[0, 2] = float("nan")
        prediction.class_logits[1] = float("inf")
    assert small_loss()(prediction, target).isnan()


def test_more_classes_than_queries() -> None:
    prediction, target = make_prediction(queries=2), make_target()
    loss = small_loss()
    with pytest.warns(UserWarning, match="only 2 mask queries"):
        first = loss(prediction, target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = loss(prediction, target)
    assert first.isfinite() and second.isfinite()
    # Both images have their two queries matched: three classes of weights 1, 2, 6 count 3 on average.
    weighted = small_loss(class_weights=[1.0, 2.0, 5.0, 6.0])
    sums = weighted.normalizers(target, num_queries=2, num_classes=4)
    assert sums.masks == 4 and sums.class_weights == pytest.approx(2 * 3 + (2 + 5))


@pytest.mark.parametrize("options", [{}, EMPTY])
def test_bfloat16_autocast_and_inputs_are_computed_in_float32(options) -> None:
    prediction, target, loss = make_prediction(), make_target(), small_loss(**options)
    plain = loss.terms(prediction, target, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_terms(loss.terms(prediction, target, seeded()), plain, atol=0, rtol=0)

    def half(value: torch.Tensor) -> torch.Tensor:
        return value.bfloat16()

    names = ("class_logits", "mask_embed", "mask_features", "text_logits")
    low = map_tensors(prediction, **dict.fromkeys(names, half))
    rounded = map_tensors(low, **dict.fromkeys(names, torch.Tensor.float))
    assert_same_terms(loss.terms(low, target, seeded()), loss.terms(rounded, target, seeded()), atol=0, rtol=0)


def test_initial_prediction_can_be_left_out() -> None:
    prediction, target = make_prediction(), make_target()
    terms = small_loss(supervise_initial=False).terms(prediction, target, seeded())
    everything = small_loss().terms(prediction, target, seeded())
    assert_same_terms(terms, {name: value for name, value in everything.items() if not name.startswith("0/")})
    alone = replace(prediction, auxiliary=())
    assert "0/class" in small_loss(supervise_initial=False).terms(alone, target)


def test_normalizers_by_hand() -> None:
    # Classes 0, 1, 3 and 1, 2 of weights 1, 2, 3, 4; 5 of the 10 queries stay "none".
    loss = small_loss(class_weights=[1.0, 2.0, 3.0, 4.0])
    sums = loss.normalizers(make_target(), num_queries=5, num_classes=4)
    assert sums.masks == 5
    assert sums.class_weights == pytest.approx(1 + 2 + 4 + 2 + 3 + 0.5)
    nothing = LossNormalizers(0.0, 0.0).averaged(torch.device("cpu"))
    assert nothing.masks == 1 and nothing.class_weights > 0


def test_by_class_a_query_learns_the_class_of_its_number() -> None:
    prediction, target = make_prediction(), make_target()
    loss = small_loss(assignment="by_class")
    terms = loss.terms(prediction, target, seeded())
    labels = torch.tensor([[0, 1, 4, 3, 4], [4, 1, 2, 4, 4]])  # "none" is 4
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.1])
    expected = torch.nn.functional.cross_entropy(prediction.class_logits.flatten(0, 1), labels.flatten(), weights)
    torch.testing.assert_close(terms["2/class"], 2 * expected)


def test_masks_of_absent_classes_equal_the_reference() -> None:
    prediction, target = make_prediction(queries=6), make_target()
    terms = small_loss(assignment="by_class", absent_mask_weight=3.0).terms(prediction, target, seeded())
    expected, _ = reference_terms(prediction, target, generator=seeded(), num_points=40, by_class=True, absent=3.0)
    assert_same_terms(terms, expected)
    assert_same_gradients(prediction, terms, expected)
    plain = small_loss(assignment="by_class").terms(prediction, target, seeded())
    assert_same_terms(plain, {name: value for name, value in terms.items() if "absent" not in name}, atol=0, rtol=0)


def test_masks_of_absent_classes_by_hand() -> None:
    # Image 0 lacks class 2, image 1 lacks 0 and 3; five masks are matched. Of six queries the last two have no class.
    prediction, target = make_prediction(queries=6), make_target()
    logit = 1.5
    flat = map_tensors(
        prediction,
        mask_embed=lambda value: torch.full_like(value, logit / 6),
        mask_features=lambda value: torch.ones_like(value),
    )
    # At the border the zeros beyond it are mixed in: nothing is labelled there.
    target[:, :3] = target[:, -3:] = target[:, :, :3] = target[:, :, -3:] = 255
    terms = small_loss(assignment="by_class", absent_mask_weight=2.0).terms(flat, target, seeded())
    assert terms["2/absent"].item() == pytest.approx(2 * 3 * math.log1p(math.exp(logit)) / 5)


def test_masks_of_absent_classes_follow_a_permutation_of_classes_and_queries() -> None:
    prediction, target = make_prediction(queries=4), make_target()
    order = torch.tensor([2, 0, 3, 1])
    columns = torch.cat([order, torch.tensor([4])])
    table = torch.full((256,), 255)
    table[order] = torch.arange(4)
    permuted = map_tensors(
        prediction,
        class_logits=lambda value: value[:, order][..., columns],
        text_logits=lambda value: value[:, order][..., columns],
        mask_embed=lambda value: value[:, order],
    )
    loss = small_loss(**EMPTY)
    assert_same_terms(loss.terms(permuted, table[target], seeded()), loss.terms(prediction, target, seeded()))


def test_without_a_labelled_pixel_no_class_is_absent() -> None:
    prediction, target = make_prediction(), make_target()
    target[0] = 255
    loss = small_loss(**EMPTY)
    terms = loss.terms(prediction, target, seeded())
    (gradient,) = torch.autograd.grad(terms["2/absent"], prediction.mask_embed)
    assert not gradient[0].any()
    assert gradient[1].any(1).tolist() == [True, False, False, True, False]  # it holds 1 and 2; query 4 has no class
    # Where ignored pixels are background, all four are.
    terms = small_loss(**EMPTY, ignored_pixels="background").terms(prediction, target, seeded())
    (gradient,) = torch.autograd.grad(terms["2/absent"], prediction.mask_embed)
    assert gradient[0].any(1).tolist() == [True, True, True, True, False]


def test_a_single_absent_class_learns_an_empty_mask() -> None:
    prediction = make_prediction(classes=1, queries=1, prompts=None)
    target = torch.zeros(2, 30, 27, dtype=torch.int64)
    target[0, 5:20, 5:20] = 1
    terms = small_loss(**EMPTY).terms(prediction, target, seeded())
    (gradient,) = torch.autograd.grad(terms["2/absent"], prediction.mask_embed)
    assert gradient.flatten(1).any(1).tolist() == [False, True]


def test_a_binary_mask_of_0_and_255_is_warned_of_once() -> None:
    prediction = make_prediction(classes=1, queries=1, prompts=None)
    target = torch.zeros(2, 30, 27, dtype=torch.int64)
    target[0, 5:20, 5:20] = 255
    loss = small_loss()
    with pytest.warns(UserWarning, match="holds 255, which is ignored, and no 1, which is the class.*write 1"):
        loss(prediction, target)
    right = target.clone()
    right[1, :4, :4] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(prediction, target)  # not twice
        small_loss()(prediction, torch.zeros_like(target))
        small_loss(ignore_index=254)(prediction, target // 255 * 254)
        small_loss()(make_prediction(), make_target())
        seen = small_loss()
        seen(prediction, right)
        seen(prediction, target)  # an image without the class, after one with it


def test_official_mask_normalizer() -> None:
    prediction, target = make_prediction(), make_target()
    masks = small_loss(**EMPTY).terms(prediction, target, seeded())
    weights = small_loss(**EMPTY, mask_normalizer="class_weights").terms(prediction, target, seeded())
    torch.testing.assert_close(weights["1/absent"] * 5.5, masks["1/absent"] * 5)
    torch.testing.assert_close(weights["1/mask"] * 5.5, masks["1/mask"] * 5)
    torch.testing.assert_close(weights["1/dice"] * 5.5, masks["1/dice"] * 5)
    torch.testing.assert_close(weights["1/class"], masks["1/class"])


@pytest.mark.parametrize("options", [{}, EMPTY])
def test_accumulated_micro_batches_equal_the_whole_batch(options, monkeypatch) -> None:
    prediction, target, loss = make_prediction(), make_target(), small_loss(**options)
    pool = torch.rand(200, 2, generator=seeded())
    monkeypatch.setattr(torch, "rand", lambda rows, points, _, **options: pool[:points].expand(rows, -1, -1))
    halves = [
        (
            map_tensors(
                prediction,
                **dict.fromkeys(
                    ("class_logits", "mask_embed", "mask_features", "text_logits"),
                    lambda v, i=i: v[i : i + 1],
                ),
            ),
            target[i : i + 1],
        )
        for i in range(2)
    ]
    first, second = (loss.normalizers(labels, num_queries=5, num_classes=4) for _, labels in halves)
    parts = [loss(half, labels, normalizers=first + second) for half, labels in halves]
    torch.testing.assert_close(sum(parts), loss(prediction, target))


def test_normalizers_are_averaged_over_processes(monkeypatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    others = torch.tensor([2.0, 4.0, 2.0], dtype=torch.float64)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.add_(others))
    assert LossNormalizers(4.0, 1.0, 6.0).averaged(torch.device("cpu")) == LossNormalizers(3.0, 2.5, 4.0)


def test_masks_to_be_empty_weigh_the_same_on_any_number_of_processes(monkeypatch) -> None:
    # Two images without the class: DDP averages the gradients of one each, so each loss counts twice.
    prediction, target, loss = make_prediction(classes=1, queries=1, prompts=None), make_target(), small_loss(**EMPTY)
    alone = loss.terms(prediction, torch.zeros_like(target), seeded())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.mul_(2))
    of_two = loss.terms(prediction, torch.zeros_like(target), seeded())
    assert alone["2/absent"] > 0
    torch.testing.assert_close(of_two["2/absent"], 2 * alone["2/absent"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"contrastive_mode": "hard"}, "contrastive_mode must be one of 'mixneg', .* got 'hard'"),
        ({"ignored_pixels": "void"}, "ignored_pixels must be one of 'excluded', 'background', got 'void'"),
        ({"mask_normalizer": "pixels"}, "mask_normalizer must be one of"),
        ({"assignment": "random"}, "assignment must be one of 'hungarian', 'by_class'"),
        ({"absent_mask_weight": 1.0}, r"absent_mask_weight=1.0 needs .*by_class.* .hungarian. it must be 0"),
        (
            {"absent_mask_weight": 1.0, "assignment": "by_class", "importance_ratio": 1.0},
            "needs random points, of which importance_ratio=1.0 leaves none",
        ),
        ({"absent_mask_weight": -1.0}, "absent_mask_weight"),
        ({"num_points": 0}, "num_points"),
        ({"oversample_ratio": 0.5}, "oversample_ratio must be at least 1"),
        ({"importance_ratio": 1.5}, r"importance_ratio in \[0, 1\]"),
    ],
)
def test_bad_options_end_in_a_sentence(options, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        MTACLIPLoss(**options)


def test_bad_targets_end_in_a_sentence() -> None:
    prediction, target, loss = make_prediction(), make_target(), small_loss()
    with pytest.raises(ValueError, match=r"shape .* \(2, 30, 27\), got \(2, 30, 20\)"):
        loss(prediction, target[:, :, :20])
    with pytest.raises(ValueError, match=r"int64 class ids, got torch.int32"):
        loss(prediction, target.int())
    target[0, 3, 3] = 4
    with pytest.raises(ValueError, match=r"id 4, but there are K=4 classes .* ignore_index=255: map"):
        loss(prediction, target)
    with pytest.raises(ValueError, match=r"class_weights has 2 weights, but there are K=4"):
        small_loss(class_weights=[1.0, 2.0])(prediction, make_target())
