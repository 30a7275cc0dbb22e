from __future__ import annotations

import torch
from torch import nn

from benchmarks.measure import PairedSeconds, count_bytes, count_flops, peak_bytes, time_in_turn


def test_operations_of_a_product_by_hand() -> None:
    left, right = torch.randn(3, 5), torch.randn(5, 7)
    assert count_flops(lambda: left @ right) == 2 * 3 * 5 * 7


def test_bytes_of_an_operation_by_hand() -> None:
    left, right = torch.randn(3, 5), torch.randn(5, 7)
    assert count_bytes(lambda: left @ right) == 4 * (3 * 5 + 5 * 7 + 3 * 7)
    assert count_bytes(lambda: left.T.reshape(5, 3)[1:]) == 0  # views


def test_the_peak_by_hand() -> None:
    layer = nn.Linear(1000, 1000, bias=False)
    inputs = torch.randn(2000, 1000)

    def step() -> None:
        layer.weight.grad = None
        hidden = layer(inputs)
        (hidden + 1).sum()

    weight, hidden = 4 * 1000 * 1000, 4 * 2000 * 1000
    measured = peak_bytes(step, layer)
    assert 0 <= measured - (weight + hidden + hidden) <= 4096  # both results, but not the input


def test_frozen_modules_are_counted_too() -> None:
    layer = nn.Linear(500, 500, bias=False).requires_grad_(False)
    bare = torch.randn(10, 500, requires_grad=True)
    assert peak_bytes(lambda: layer(bare).sum().backward(), layer) >= 4 * 500 * 500


def test_ratios_are_paired_by_round() -> None:
    seconds = PairedSeconds(({"a": 2.0, "b": 1.0}, {"a": 30.0, "b": 10.0}, {"a": 9.0, "b": 3.0}))
    assert seconds.median("a") == 9.0
    assert seconds.ratio("a", "b") == 3.0


def test_functions_are_called_in_turn_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    seconds = time_in_turn({name: lambda name=name: calls.append(name) for name in "ab"}, 2, title="calls")
    assert calls == ["a", "b"] * 3
    assert [sorted(measured) for measured in seconds.rounds] == [["a", "b"]] * 2
