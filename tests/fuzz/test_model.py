"""Images of any size, kind and content through models of any kind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from mtaclip_plugin import MTACLIPLoss
from tests.fuzz.models import KINDS, build, kinds, seeds, shared
from tests.fuzz.outcomes import outcome

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OTHERS = (torch.uint8, torch.int64, torch.bool, torch.complex64)

shared_models = st.builds(
    shared,
    kind=kinds,
    classes=st.sampled_from((1, 2, 7)),
    channels=st.sampled_from((1, 3, 4)),
    pixel_decoder=st.sampled_from(("fpn", "deformable")),
    dtype=st.sampled_from(FLOATS),
)
sides = st.integers(1, 70)


@st.composite
def layouts(draw: st.DrawFn, image: Tensor) -> Tensor:
    """The same images, lying in memory in some other way."""
    layout = draw(st.sampled_from(("contiguous", "channels last", "every second pixel", "flipped", "one for all")))
    if layout == "channels last":
        return image.contiguous(memory_format=torch.channels_last)
    if layout == "every second pixel":
        return image.repeat_interleave(2, -1)[..., ::2]
    if layout == "flipped":
        return image.mT.contiguous().mT
    if layout == "one for all":
        return image[:1].expand_as(image)
    return image


@given(st.data(), shared_models, st.integers(1, 3), sides, sides, st.booleans())
def test_images_of_any_size_and_layout(data, model, batch, height, width, training) -> None:
    # With a single value a channel BatchNorm has no variance, and torch says so.
    assume(not training or batch > 1 or max(height, width) > 32)
    dtype = next(model.parameters()).dtype
    scale = data.draw(st.sampled_from((0.0, 1e-6, 1.0, 100.0)))
    images = torch.randn(batch, model.config["in_channels"], height, width).to(dtype) * scale
    images = data.draw(layouts(images))
    classes = model.config["classes"]
    with outcome(ValueError, valid=True), torch.no_grad():
        logits = model.train(training)(images)
        assert logits.shape == (batch, classes, height, width)
        assert logits.dtype in (torch.float32, torch.float64) and logits.isfinite().all()
        labels = model.predict_labels(images)
        assert labels.shape == (batch, height, width) and labels.dtype == torch.int64
        assert labels.min() >= 0 and labels.max() < max(classes, 2)


@given(
    shared_models,
    st.sampled_from(("nothing", "shape", "batch", "channels", "height", "width", "dtype")),
    st.lists(st.integers(0, 5), max_size=5),
    st.sampled_from((*FLOATS, *OTHERS)),
    st.sampled_from(("forward", "return_masks", "predict_labels")),
)
def test_tensors_of_the_wrong_kind(model, wrong, shape, dtype, method) -> None:
    right_shape = [2, model.config["in_channels"], 9, 5]
    right_dtype = next(model.parameters()).dtype
    if wrong in (sides := ("batch", "channels", "height", "width")):
        axis = sides.index(wrong)
        shape = [*right_shape[:axis], shape[0] if shape else 0, *right_shape[axis + 1 :]]
    elif wrong != "shape":
        shape = right_shape
    if wrong != "dtype":
        dtype = right_dtype
    images = torch.zeros(shape, dtype=dtype)
    valid = len(shape) == 4 and all(shape) and shape[1] == right_shape[1] and dtype == right_dtype
    model.eval()
    with outcome(ValueError, valid=valid), torch.no_grad():
        if method == "predict_labels":
            assert model.predict_labels(images).shape == (shape[0], *shape[2:])
        elif method == "return_masks":
            assert model(images, return_masks=True).class_logits.isfinite().all()
        else:
            assert model(images).isfinite().all()


@given(kinds, st.sampled_from((torch.float32, torch.float64, torch.bfloat16)), st.sampled_from((torch.bfloat16, None)))
def test_autocast_takes_what_it_casts(kind, dtype, cast) -> None:
    model = shared(kind, 3, 3, "fpn", torch.float32).eval()
    valid = dtype == torch.float32 or (cast is not None and dtype == torch.bfloat16)
    with outcome(ValueError, valid=valid), torch.no_grad():
        with torch.autocast("cpu", cast or torch.bfloat16, enabled=cast is not None):
            logits = model(torch.zeros(1, 3, 40, 33, dtype=dtype))
        assert logits.dtype == torch.float32 and logits.isfinite().all()


@given(
    kinds,
    st.sampled_from(("fpn", "deformable")),
    st.sampled_from((float("nan"), float("inf"), -float("inf"), 3e38)),
    st.integers(0, 2),
    seeds,
)
def test_a_spoilt_image_spoils_no_other(kind, pixel_decoder, value, spoilt, seed) -> None:
    model = shared(kind, 3, 3, pixel_decoder, torch.float32).eval()
    images = torch.randn(3, 3, 40, 50, generator=torch.Generator().manual_seed(seed))
    with outcome(ValueError, valid=True), torch.no_grad():
        clean = model(images)
        images[spoilt, :, 7:9, 20] = value
        logits, labels = model(images), model.predict_labels(images)
        others = [image for image in range(3) if image != spoilt]
        torch.testing.assert_close(logits[others], clean[others], atol=1e-5, rtol=1e-4)
        assert labels.min() >= 0 and labels.max() < 3


@pytest.mark.filterwarnings("ignore:an image holds")
@given(
    st.integers(1, 300),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from(KINDS),
    st.sampled_from(("mixneg", "separateneg", "allpos")),
    seeds,
)
def test_any_number_of_classes_and_queries(classes, queries, prompts, kind, mode, seed) -> None:
    torch.manual_seed(seed)
    with outcome(ValueError, valid=True):
        model = build(kind, classes, num_queries=queries, num_prompts=prompts)
        # Up to 300 classes in an image, of which no more than five find a query.
        target = torch.randint(0, classes, (2, 36, 48))
        target[target % 5 == 4] = 255
        prediction = model(torch.randn(2, 3, 36, 48), return_masks=True)
        loss = MTACLIPLoss(num_points=20, contrastive_mode=mode)(prediction, target)
        loss.backward()
        assert loss.isfinite()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert model.eval()(torch.randn(1, 3, 5, 3)).shape == (1, classes, 5, 3)


INFINITE, NAN = float("inf"), float("nan")
OPTIONS = {  # what is taken, and what is refused
    "in_channels": ((1, 4), (0, -1)),
    "encoder_depth": ((3, 4, 5), (2, 6)),
    "num_queries": ((1, 5), (0, -1)),
    "num_prompts": ((1, 3), (0, -1)),
    "context_length": ((1, 5), (0, -1)),
    "decoder_channels": ((64, 128), (-64, 0, 32, 65)),
    "pixel_decoder_layers": ((1, 2), (0, -1)),
    "pixel_decoder_ffn": ((1, 7), (0, -1)),
    "decoder_layers": ((1, 4), (0, -1)),
    "decoder_ffn": ((1, 7), (0, -1)),
    "num_heads": ((1, 2, 4), (0, -1, 3)),
    "temperature": ((0.01, 1.0, 1e30), (-1.0, 0.0, 0.009, INFINITE, -INFINITE, NAN)),
    "pixel_decoder": (("deformable", "fpn"), ("", "FPN")),
    "input_norm": (("text", "all"), ("", "mask")),
    "text_positions": (("prompt", "token"), ("", "class")),
    "classification": (("learned",), ("", "best")),
    "untrained_names": ((None, (), ("2", "0")), (("x",), ("0", ""))),
    "class_names": ((("a", "b", "c"),), (None, "abc", ("a", "b"), ("a", "b", "a"), ("a", "b", ""), ("a", "b", "none"))),
}


@given(
    st.lists(st.sampled_from(sorted(OPTIONS)), max_size=4, unique=True),
    st.booleans(),
    st.sampled_from(("bank", "tower")),
    st.randoms(use_true_random=False),
)
def test_options(names, spoil_first, kind, random) -> None:
    options = {name: random.choice(OPTIONS[name][spoil_first and name == names[0]]) for name in names}
    if "class_names" in options and "untrained_names" in options:
        del options["untrained_names"]
    with outcome(ValueError, valid=not (spoil_first and names and names[0] in options)):
        model = build(kind, **options)
        logits = model.eval()(torch.zeros(1, options.get("in_channels", 3), 9, 9))
        assert logits.shape == (1, 3, 9, 9) and logits.isfinite().all()
