from __future__ import annotations

from weakref import ref

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtaclip_plugin.inference import semantic_scores
from trainers.engine import forward as forward_module
from trainers.engine.forward import Forward
from trainers.engine.views import average_views
from trainers.engine.windows import Scorer, slide, window_starts
from trainers.foundation.errors import UserError
from trainers.options.config import EvalConfig

MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def test_the_last_window_is_flush_with_the_side() -> None:
    assert window_starts(10, window=4, stride=3) == [0, 3, 6]
    assert window_starts(11, window=4, stride=3) == [0, 3, 6, 7]
    assert window_starts(4, window=4, stride=3) == window_starts(3, window=4, stride=3) == [0]


def test_windows_lie_where_mmsegmentation_puts_them() -> None:
    for length in range(1, 40):
        for window in range(1, 12):
            for stride in range(1, window + 1):
                places = []
                for index in range(max(length - window + stride - 1, 0) // stride + 1):
                    end = min(index * stride + window, length)
                    places.append(max(end - window, 0))
                assert window_starts(length, window=window, stride=stride) == places


def contextual(images: Tensor) -> Tensor:
    """Two scores that depend on the place and on the size of what is looked at."""
    rows = torch.arange(images.shape[-2]).view(-1, 1) / images.shape[-1]
    return torch.cat([images[:, :1] + rows, images.mean((1, 2, 3), keepdim=True) * images[:, 1:2]], 1)


def slide_over(images: Tensor, *, window: tuple[int, int], stride: tuple[int, int], scores: Scorer) -> Tensor:
    """The strips of all windows, put together."""
    size = images.shape[2], images.shape[3]
    strips = slide(scores, lambda first, last: images[:, :, first:last], size, window=window, stride=stride)
    return torch.cat(list(strips), 2)


@pytest.mark.parametrize("size", [(9, 13), (3, 20), (2, 3)])
def test_slide_is_the_mean_over_the_windows_of_a_pixel(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    result = slide_over(images, window=(4, 6), stride=(3, 5), scores=contextual)
    windows = [
        (top, left, contextual(images[:, :, top : top + 4, left : left + 6]))
        for top in window_starts(size[0], window=4, stride=3)
        for left in window_starts(size[1], window=6, stride=5)
    ]
    assert size != (9, 13) or len(windows) == 3 * 3
    for row in range(size[0]):
        for column in range(size[1]):
            seen = [
                scores[:, :, row - top, column - left]
                for top, left, scores in windows
                if 0 <= row - top < 4 and 0 <= column - left < 6
            ]
            torch.testing.assert_close(result[:, :, row, column], torch.stack(seen).mean(0))


def test_views_are_brought_back_and_averaged() -> None:
    images = torch.rand(1, 3, 10, 14)
    views = []
    for size in ((5, 7), (10, 14), (18, 24)):  # 17.5 and 24.5, rounded to even
        resized = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        for scores in (contextual(resized), contextual(resized.flip(3)).flip(3)):
            views.append(F.interpolate(scores, size=(10, 14), mode="bilinear"))
    result = average_views(contextual, images, scales=(0.5, 1.0, 1.75), flip=True)
    torch.testing.assert_close(result, torch.stack(views).mean(0))
    unflipped = average_views(contextual, images, scales=(0.5, 1.0, 1.75), flip=False)
    torch.testing.assert_close(unflipped, torch.stack(views[::2]).mean(0))


def test_a_tiny_image_keeps_a_pixel() -> None:
    assert average_views(contextual, torch.rand(1, 3, 1, 1), scales=(0.25,), flip=True).shape == (1, 2, 1, 1)


def test_besides_the_sum_no_view_lies_in_memory_while_the_next_is_scored() -> None:
    given: list[ref[Tensor]] = []

    def watched(images: Tensor) -> Tensor:
        assert sum(scores() is not None for scores in given) <= 1
        scores = contextual(images)
        given.append(ref(scores))
        return scores

    average_views(watched, torch.rand(1, 3, 8, 8), scales=(1.0, 1.0, 0.5, 2.0), flip=False)
    assert len(given) == 4
    given.clear()
    slide_over(torch.rand(1, 3, 8, 8), window=(4, 4), stride=(2, 2), scores=watched)
    assert len(given) == 9


class Pointwise(nn.Module):
    """Scores of a pixel that depend on its own colour alone."""

    requires_divisible_input_shape = False

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        return 4 * self.head(images)


def run(model: nn.Module, evaluation: EvalConfig | None) -> Forward:
    options = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3), "device": torch.device("cpu"), "precision": "float32"}
    return Forward(model, evaluation=evaluation, **options)


def test_windows_and_flips_change_nothing_for_a_model_that_looks_at_pixels_alone() -> None:
    model, images = Pointwise(), torch.rand(2, 3, 37, 53)
    expected = run(model, None).predict_labels(images)
    assert len(expected.unique()) > 2
    for evaluation in (
        EvalConfig(mode="slide", window=(16, 16), stride=(11, 7)),
        EvalConfig(mode="slide", window=(64, 20), stride=(64, 20), flip=True),
        EvalConfig(flip=True),
        EvalConfig(scales=(1.0, 1.0)),
    ):
        assert torch.equal(run(model, evaluation).predict_labels(images), expected)


@pytest.fixture(scope="module", params=["unet", "mtaclip"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    options = {}
    if request.param == "mtaclip":
        options = {
            "class_names": ["sky", "road", "car"],
            "text_encoder": "bank",
            "text_embeddings": torch.randn(3, 8),
            "num_queries": 5,
            "decoder_channels": 64,
            "pixel_decoder_layers": 1,
            "decoder_layers": 1,
            "classification": "ensemble",
        }
    model = smp.create_model(request.param, encoder_name="resnet18", encoder_weights=None, classes=3, **options).eval()
    if request.param == "mtaclip":  # whose first weights name all masks, and all pixels, alike
        head = model.decoder.mask_text_decoder.head
        nn.init.normal_(head.class_head.weight, std=1)
        nn.init.normal_(head.mask_head.layers[-1].weight, std=1)
    return model


def scores_of(model: nn.Module, images: Tensor) -> Tensor:
    """By hand, of images whose sides the model takes."""
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    with torch.inference_mode():
        normalized = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
        if isinstance(model, smp.Unet):
            return model(normalized).softmax(1)
        return semantic_scores(model(normalized, return_masks=True), "ensemble")


def test_scores_are_averaged(model: nn.Module) -> None:
    images = torch.rand(2, 3, 64, 96)
    evaluation = EvalConfig(mode="slide", window=(64, 64), stride=(32, 32), scales=(1.0, 2.0), flip=True)
    total = torch.zeros(2, 3, 64, 96)
    for flipped in (images, images.flip(3)):
        for size in ((64, 96), (128, 192)):
            view = F.interpolate(flipped, size=size, mode="bilinear")
            scores, count = torch.zeros(2, 3, *size), torch.zeros(size)
            for top in range(0, size[0] - 63, 32):
                for left in range(0, size[1] - 63, 32):
                    area = (..., slice(top, top + 64), slice(left, left + 64))
                    scores[area] += scores_of(model, view[area])
                    count[area] += 1
            scores = F.interpolate(scores / count, size=(64, 96), mode="bilinear")
            total += scores if flipped is images else scores.flip(3)
    top_two = (total / 4).topk(2, 1).values
    clear = top_two[:, 0] - top_two[:, 1] > 1e-5  # of which rounding makes no other class
    labels = run(model, evaluation).predict_labels(images)
    assert clear.float().mean() > 0.99 and len(labels.unique()) > 1
    assert torch.equal(labels[clear], total.argmax(1)[clear])
    assert not torch.equal(labels, run(model, None).predict_labels(images))


def test_by_default_an_image_is_looked_at_once_and_without_its_scores(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(1, 3, 45, 70)
    expected = run(model, None).predict_labels(images)
    once_as_views = EvalConfig(mode="slide", window=(45, 70), stride=(45, 70))
    assert torch.equal(run(model, once_as_views).predict_labels(images), expected)
    for name in ("average_views", "semantic_scores"):
        monkeypatch.setattr(forward_module, name, None)
    assert torch.equal(run(model, EvalConfig()).predict_labels(images), expected)
    with pytest.raises(TypeError):
        run(model, EvalConfig(scales=MULTI_SCALE)).predict_labels(images)


def test_windows_that_leave_gaps_are_refused() -> None:
    with pytest.raises(UserError, match=r"--eval\.stride"):
        EvalConfig(mode="slide", window=(8, 8), stride=(8, 9))
