from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given
from hypothesis import strategies as st

import mtaclip_plugin as mta
from mtaclip_plugin.decoder.exchange import query_order
from mtaclip_plugin.inference import scores_to_logits, semantic_scores
from mtaclip_plugin.text import PromptLearner, names_as_saved
from tests.test_model import NAMES, build

OTHERS = ["zebra", "cat", "road", "wooden fence"]


def class_head(model: mta.MTACLIP) -> torch.nn.Linear:
    return model.decoder.mask_text_decoder.head.class_head


def make(kind: str, **options: Any) -> mta.MTACLIP:
    """A model with a given source of text, in evaluation; class head far from its start, so that it matters."""
    sources: dict[str, dict[str, Any]] = {
        "tower": {},
        "token": {"text_positions": "token"},
        "bank": {"text_encoder": "bank", "text_embeddings": torch.randn(2, 4, 24)},
        "short bank": {"text_encoder": "bank", "text_embeddings": torch.randn(3, 24)},
        "no text": {"text_encoder": None},
    }
    model = build(**(sources[kind] | options))
    with torch.no_grad():
        class_head(model).bias.normal_()
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "classification"),
    [
        ("tower", "learned"),
        ("tower", "ensemble"),
        ("token", "ensemble"),
        ("bank", "ensemble"),
        ("short bank", "text"),
        ("no text", "learned"),
    ],
)
def test_permuted_names_give_permuted_logits(kind: str, classification: str) -> None:
    model = make(kind, classification=classification)
    image, order = torch.randn(1, 3, 64, 64), [2, 0, 1]
    expected = model(image)[:, order]
    model.set_class_names([NAMES[k] for k in order])
    assert model.untrained_names == ()
    torch.testing.assert_close(model(image), expected, atol=1e-4, rtol=1e-4)


def test_present_names_change_nothing() -> None:
    model = make("tower")
    image, parameters = torch.randn(1, 3, 64, 64), dict(model.named_parameters())
    expected = model(image)
    model.set_class_names(NAMES)
    assert torch.equal(model(image), expected)
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())


def test_a_subset_keeps_its_columns() -> None:
    model = make("no text")
    image = torch.randn(1, 3, 64, 64)
    expected = model(image, return_masks=True).class_logits[:, [2, 0, 1, *range(3, 8)]][..., [2, 0, 3]]
    model.set_class_names([NAMES[2], NAMES[0]])  # whose queries are the first now
    torch.testing.assert_close(model(image, return_masks=True).class_logits, expected)
    assert model(image).shape == (1, 2, 64, 64)


@pytest.mark.parametrize("kind", ["tower", "token", "bank", "short bank"])
def test_a_subset_keeps_its_text(kind: str) -> None:
    model = make(kind)
    before = model.text_embeddings
    positions = model.decoder.mask_text_decoder.text_positions.weight
    model.set_class_names([NAMES[2], NAMES[0]])
    torch.testing.assert_close(model.text_embeddings, before[:, [2, 0, 3]])
    assert torch.equal(model.text_embeddings, model.prompts())
    if kind == "token":
        positions = positions.unflatten(0, (2, 4))[:, [2, 0, 3]].flatten(0, 1)
    assert torch.equal(model.decoder.mask_text_decoder.text_positions.weight, positions)
    assert model(torch.randn(1, 3, 40, 40)).shape == (1, 2, 40, 40)


@pytest.mark.parametrize("classification", ["learned", "ensemble"])
def test_new_names_are_classified_by_text_at_once(classification: str) -> None:
    model = make("tower", classification=classification)
    contexts, head = model.prompts.contexts, copy.deepcopy(class_head(model))
    model.set_class_names(OTHERS)
    assert model.prompts.contexts is contexts
    assert model.text_embeddings.shape == (2, 5, 24)
    assert torch.equal(class_head(model).weight[[1, 4]], head.weight[[0, 3]])
    assert torch.equal(class_head(model).bias[[1, 4]], head.bias[[0, 3]])
    assert model.untrained_names == ("zebra", "road", "wooden fence")

    image = torch.randn(1, 3, 64, 64)
    prediction = model(image, return_masks=True)
    assert torch.equal(model(image), scores_to_logits(semantic_scores(prediction, "text")))
    model.set_class_names(OTHERS, trained=True)
    assert model.untrained_names == ()
    assert torch.equal(model(image), scores_to_logits(semantic_scores(prediction, model.classification)))


def test_new_names_get_the_text_of_a_model_built_with_them() -> None:
    model = make("tower")
    model.set_class_names(OTHERS)
    built = build(classes=4, class_names=OTHERS)
    built.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(built.eval()(image, return_masks=True).text_logits, model(image, return_masks=True).text_logits)


def test_a_name_that_left_comes_back_untrained() -> None:
    model = make("tower")
    model.set_class_names(["cat", "dog", "zebra"])
    model.set_class_names(["zebra", "cat"])
    assert model.untrained_names == ("zebra",)
    model.set_class_names(NAMES[:2])
    assert model.untrained_names == ("dog",)
    model.set_class_names(["cat"])
    assert model.untrained_names == ()


def test_new_names_train() -> None:
    model = make("tower").train()
    model.set_class_names(OTHERS)
    torch.testing.assert_close(model.text_embeddings, model.prompts())
    mta.MTACLIPLoss(num_points=16)(
        model(torch.randn(2, 3, 64, 64), return_masks=True), torch.randint(4, (2, 64, 64))
    ).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    # Plain logits train the class head too, although evaluation does not use it yet.
    model.zero_grad()
    model(torch.randn(2, 3, 64, 64)).logsumexp(1).sum().backward()
    assert class_head(model).weight.grad.any(1).all()


def test_text_embeddings_take_the_place_of_the_tower(tmp_path: Path) -> None:
    model = make("tower")
    image, values = torch.randn(1, 3, 64, 64), torch.randn(2, 4, 24)
    np.save(tmp_path / "bank.npy", values.numpy())
    model.set_text_embeddings(tmp_path / "bank.npy")
    assert torch.equal(model.text_embeddings, values) and torch.equal(model.prompts(), values)
    assert not list(model.prompts.parameters())
    expected = build(text_encoder="bank", text_embeddings=values)
    expected.load_state_dict(model.state_dict())
    assert torch.equal(model(image), expected.eval()(image))


def test_one_row_a_class_is_used_for_every_prompt_and_none_stays() -> None:
    model = make("tower")
    none, values = model.text_embeddings[:, 3], torch.randn(4, 24)
    model.set_text_embeddings(values, OTHERS)
    assert torch.equal(model.text_embeddings[:, :4], values.expand(2, -1, -1))
    assert torch.equal(model.text_embeddings[:, 4], none)
    assert model.untrained_names == ("zebra", "road", "wooden fence")


@pytest.mark.parametrize("kind", ["tower", "short bank"])
def test_a_single_prompt_goes_on_learning_none(kind: str) -> None:
    model = make(kind, num_prompts=1)
    none, values = model.text_embeddings[0, 3:], torch.randn(3, 24)
    model.set_text_embeddings(values)
    assert torch.equal(model.text_embeddings[0], torch.cat([values, none]))
    model.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    assert model.prompts.none_embedding.grad is not None


@pytest.mark.parametrize("training", [True, False])
def test_baking_keeps_the_outputs_to_the_bit(training: bool) -> None:
    model = make("tower", classification="ensemble").double().eval()
    image = torch.randn(1, 3, 50, 70, dtype=torch.float64)
    expected = model(image)
    model.train(training).bake_text()
    assert not any(isinstance(module, PromptLearner) for module in model.modules())
    assert torch.equal(model.eval()(image), expected)
    model.bake_text()
    assert torch.equal(model(image), expected)


LISTS = {
    "permuted": (["traffic light", "cat", "dog"], {0: 1, 1: 2, 2: 0}),
    "of other case": (["Traffic  Light", "CAT", "dog"], {0: 1, 1: 2, 2: 0}),
    "fewer": (["traffic light", "cat"], {0: 1, 2: 0}),
    "more": (["zebra", "traffic light", "road", "dog", "cat"], {0: 4, 1: 3, 2: 1}),
}
"""Other class lists, and the ids there of the classes that stay."""


@pytest.mark.parametrize(
    ("kind", "names", "same"),
    [
        ("tower", "permuted", ("class", "mask", "dice", "contrastive", "absent")),
        ("tower", "of other case", ("class", "mask", "dice", "contrastive", "absent")),
        ("token", "permuted", ("class", "mask", "dice", "contrastive", "absent")),
        ("bank", "permuted", ("class", "mask", "dice", "contrastive", "absent")),
        ("no text", "permuted", ("class", "mask", "dice", "absent")),
        ("no text", "fewer", ("mask", "dice")),
        ("no text", "more", ("mask", "dice")),
    ],
)
def test_by_class_goes_on_with_what_it_learnt_of_kept_names(kind: str, names: str, same: tuple[str, ...]) -> None:
    """Query k learns class k: it must go where the name goes, as rows of the class head and text do."""
    model = make(kind).train()
    decoder = model.decoder.mask_text_decoder
    with torch.no_grad():  # queries start nearly alike
        decoder.mask_queries.weight.normal_()
        decoder.mask_positions.weight.normal_()
    class_names, ids = LISTS[names]
    image, blocks = torch.randn(2, 3, 64, 64), torch.tensor([[[0, 2], [2, 255]], [[2, 1], [0, 0]]])
    old = blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)
    new = torch.full_like(old, 255)
    for before, after in ids.items():
        new[old == before] = after
    old[new == 255] = 255
    criterion = mta.MTACLIPLoss(assignment="by_class", absent_mask_weight=1.0, num_points=64)

    def terms(target: torch.Tensor) -> dict[str, torch.Tensor]:
        return criterion.terms(model(image, return_masks=True), target, torch.Generator().manual_seed(3))

    expected = terms(old)
    model.set_class_names(class_names, trained=True)
    found = terms(new)
    compared = [name for name in expected if name.split("/")[1] in same]
    assert len(compared) == len(same) * 3
    for name in compared:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("rows", "num_queries", "order"),
    [
        ([2, 0, 1], 5, [2, 0, 1, 3, 4]),
        ([None, None, None], 4, [0, 1, 2, 3]),  # all others: nothing moves
        ([1], 4, [1, 0, 2, 3]),
        ([None, 2, None, 1, 0], 6, [3, 2, 4, 1, 0, 5]),
        ([2, None, None], 4, [2, 0, 1, 3]),  # new names take over from those that left, then spare queries
        ([3, 2, 1, 0], 2, [0, 1]),  # none of these classes has a query both before and after
        ([None, 0], 1, [0]),
    ],
)
def test_where_queries_go(rows: list[int | None], num_queries: int, order: list[int]) -> None:
    assert query_order(rows, num_queries) == order


@given(st.permutations(range(6)), st.integers(0, 6), st.integers(1, 9), st.data())
def test_no_query_is_lost(classes: list[int], left: int, num_queries: int, data: st.DataObject) -> None:
    rows: list[int | None] = list(classes[left:])
    for _ in range(data.draw(st.integers(0, 3))):
        rows.insert(data.draw(st.integers(0, len(rows))), None)
    order = query_order(rows, num_queries)
    assert sorted(order) == list(range(num_queries))
    for place, row in enumerate(rows[:num_queries]):
        assert row is None or row >= num_queries or order[place] == row


def test_queries_in_another_order_predict_the_same_set() -> None:
    model = make("no text")
    with torch.no_grad():
        model.decoder.mask_text_decoder.mask_queries.weight.normal_()
    image = torch.randn(1, 3, 64, 64)
    expected = model(image, return_masks=True)
    model.set_class_names(["traffic light", "zebra", "cat"], trained=True)
    order = query_order([2, None, 0], 8)
    torch.testing.assert_close(model(image, return_masks=True).mask_logits, expected.mask_logits[:, order])


def test_names_of_other_case_are_kept() -> None:
    model = make("tower", untrained_names=["dog"])
    head = copy.deepcopy(class_head(model))
    model.set_class_names(["DOG", " Cat", "zebra"])
    assert model.class_names == ["DOG", " Cat", "zebra"] and model.untrained_names == ("DOG", "zebra")
    assert torch.equal(class_head(model).bias[[0, 1, 3]], head.bias[[1, 0, 3]])
    bank = make("bank")
    rows = bank.prompts.embeddings
    bank.set_class_names(["Traffic Light", "CAT"])
    assert torch.equal(bank.prompts.embeddings, rows[:, [2, 0, 3]])


def test_a_model_with_names_that_are_refused_today_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["None", "sky", "Sky"]
    with names_as_saved():
        model = build(class_names=names).eval()
    model.save_pretrained(tmp_path)
    loaded = smp.from_pretrained(tmp_path)
    image = torch.randn(1, 3, 32, 32)
    assert loaded.class_names == names and torch.equal(loaded(image), model(image))
    with pytest.raises(ValueError, match="can not be called 'None'"):
        build(class_names=names)


EXCHANGES: dict[str, Callable[[mta.MTACLIP], None]] = {
    "reordered": lambda model: model.set_class_names(NAMES[::-1]),
    "new names": lambda model: model.set_class_names(OTHERS),
    "trained names": lambda model: model.set_class_names(OTHERS, trained=True),
    "bank": lambda model: model.set_text_embeddings(torch.randn(2, 5, 24), OTHERS),
    "short bank": lambda model: model.set_text_embeddings(torch.randn(3, 24)),
    "cut bank": lambda model: (model.set_text_embeddings(torch.randn(2, 4, 24)), model.set_class_names(NAMES[1:]))[1],
    "baked": lambda model: model.bake_text(),
}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_saving_and_loading_afterwards(exchange: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("tower")
    EXCHANGES[exchange](model)
    model.save_pretrained(tmp_path)
    if "bank" in exchange or exchange == "baked":
        monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("the tower was built"))
    loaded = smp.from_pretrained(tmp_path)
    image = torch.randn(1, 3, 50, 70)
    assert torch.equal(loaded(image), model(image))
    assert loaded.class_names == model.class_names and loaded.untrained_names == model.untrained_names
    assert {k: v for k, v in loaded.config.items() if k != "_model_class"} == model.config


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        ("tower", lambda m: m.set_class_names("ade20k"), "single string 'ade20k'"),
        ("tower", lambda m: m.set_class_names([]), "classes must be a whole number of 1 or more, got 0"),
        ("tower", lambda m: m.set_class_names(["a", "a"]), "'a' appears twice"),
        ("tower", lambda m: m.set_class_names(["A", "a"]), "'A' and 'a' differ in capitals or white space alone"),
        ("tower", lambda m: m.set_class_names(["a", "NONE"]), "can not be called 'NONE': 'none' is the text of no"),
        ("tower", lambda m: m.set_class_names(["a & b", "a &amp; b"]), "are one to the tokenizer of 'tiny-flat'"),
        ("tower", lambda m: m.set_class_names(["very " * 40 + "long"]), "longer than the 32 tokens"),
        ("token", lambda m: m.set_class_names(OTHERS), "none for 'zebra'; only text_positions='prompt' takes new"),
        ("token", lambda m: m.set_text_embeddings(torch.randn(4, 24), OTHERS), "none for 'zebra'"),
        ("bank", lambda m: m.set_class_names(OTHERS), "no embedding of 'zebra'; pass it with set_text_embeddings"),
        ("no text", lambda m: m.set_class_names(OTHERS), "can not classify 'zebra' before .* pass trained=True"),
        ("no text", lambda m: m.set_text_embeddings(torch.randn(3, 24)), "built without text; .*='bank'"),
        ("no text", lambda m: m.bake_text(), "none to bake"),
        ("tower", lambda m: m.set_text_embeddings(torch.randn(3, 25)), "T=25 numbers each, the model takes T=24"),
        ("tower", lambda m: m.set_text_embeddings(torch.randn(3, 4, 24)), "P=3 prompts, the model takes P=2"),
        ("tower", lambda m: m.set_text_embeddings(torch.randn(4, 24)), r"for 3 classes; expected \(K, T\) = \(3, T\)"),
    ],
)
def test_misuse_is_one_sentence_and_changes_nothing(
    kind: str, call: Callable[[mta.MTACLIP], None], message: str
) -> None:
    model = make(kind)
    image, config = torch.randn(1, 3, 32, 32), copy.deepcopy(model.config)
    expected = model(image)
    with pytest.raises(ValueError, match=message):
        call(model)
    assert torch.equal(model.eval()(image), expected) and model.config == config


def test_classes_without_names_can_not_be_exchanged() -> None:
    with pytest.raises(ValueError, match=r"no names to compare with; build it with class_names="):
        make("no text", class_names=None).set_class_names(NAMES)


def test_new_names_without_text_are_for_training() -> None:
    model = make("no text")
    model.set_class_names(OTHERS, trained=True)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 4, 32, 32)


def test_untrained_names_are_among_the_class_names() -> None:
    with pytest.raises(ValueError, match="untrained_names has 'bird'"):
        build(untrained_names=["bird"])
