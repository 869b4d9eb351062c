"""What a KOSS layer is called with: sequences of unequal length, padded or packed, and what does not fit."""

import re
from typing import Any

import pytest
import torch

from ssrtrack.errors import EstimatorError
from ssrtrack.models.koss import KossBlock, KossLayer

Tensor = torch.Tensor


def layer_input(T: int, B: int, D: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """x (T, B, D), gap and valid (T, B)."""
    g = torch.Generator().manual_seed(0)
    valid = torch.rand(T, B, generator=g) > 0.15
    return torch.randn(T, B, D, generator=g, dtype=dtype), 0.1 + 2.0 * torch.rand(T, B, generator=g, dtype=dtype), valid


def block(**options: Any) -> KossBlock:
    torch.manual_seed(3)
    return KossBlock(16, 3, 8, **options)


def name(options: dict[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in options.items()) or "default"


@pytest.mark.parametrize("options", [{}, {"segment": 4}, {"operator": "neumann", "segment": 16},
                                     {"operator": "exact"}, {"derivative": "causal"}, {"see_prediction": True},
                                     {"see_prediction": True, "segment": 4, "passes": 1}], ids=name)  # fmt: skip
@torch.no_grad()
def test_padded_and_packed_sequences_are_each_as_alone(options: dict[str, Any]) -> None:
    made = block(**options).double()
    made.koss.gain_gap.uniform_(-0.3, 0.3)
    lengths = [7, 1, 12, 2]
    x, gap, valid = layer_input(12, 4, 16, dtype=torch.float64)
    padded, state = made(x, gap, valid, lengths=torch.tensor(lengths))
    line = [torch.cat([v[:n, b] for b, n in enumerate(lengths)])[:, None] for v in (x, gap, valid)]
    offsets = torch.tensor([0, 7, 8, 20, 22], dtype=torch.int32)
    packed, packed_state = made(*line, offsets=offsets)
    for b, n in enumerate(lengths):
        alone, last = made(x[:n, b : b + 1], gap[:n, b : b + 1], valid[:n, b : b + 1])
        torch.testing.assert_close(padded[:n, b], alone[:, 0], rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(packed[offsets[b] : offsets[b + 1], 0], alone[:, 0], rtol=1e-10, atol=1e-11)
        for found in (state, packed_state):
            torch.testing.assert_close(found.koss.scan[b], last.koss.scan[0], rtol=1e-10, atol=1e-11)
            torch.testing.assert_close(found.taps[b], last.taps[0])
    y, _ = made.koss(x, gap, valid, lengths=torch.tensor(lengths))
    assert all(bool((y[n:, b] == 0.0).all()) for b, n in enumerate(lengths))


@torch.no_grad()
def test_packed_and_padded_sequences_go_on_from_a_state() -> None:
    made, (x, gap, valid) = block().double(), layer_input(12, 2, 16, dtype=torch.float64)
    whole, _ = made(x, gap, valid)
    first = made(x[:5], gap[:5], valid[:5])[1]
    rest = [v[5:].transpose(0, 1).reshape(14, 1, *v.shape[2:]) for v in (x, gap, valid)]
    y, last = made(*rest, first, offsets=torch.tensor([0, 7, 14], dtype=torch.int32))
    torch.testing.assert_close(y.reshape(2, 7, 16).transpose(0, 1), whole[5:], rtol=1e-10, atol=1e-11)
    some, short = made(x[5:], gap[5:], valid[5:], first, lengths=torch.tensor([7, 3]))
    torch.testing.assert_close(some[:3], whole[5:8], rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(short.taps[0], last.taps[0])
    torch.testing.assert_close(short.taps[1], made(x[:8], gap[:8], valid[:8])[1].taps[1])


def test_padding_has_no_gradient() -> None:
    made, (x, gap, _) = KossLayer(8, 3, 4, derivative="difference").double(), layer_input(9, 2, 8, dtype=torch.float64)
    x.requires_grad_()
    y, state = made(x, gap, lengths=torch.tensor([4, 9]))
    (y.square().sum() + state.scan.sum()).backward()
    assert x.grad is not None
    assert float(x.grad[4:, 0].abs().max()) == 0.0 < float(x.grad[3, 0].abs().min())


@pytest.mark.parametrize(
    "options", [{}, {"derivative": "spectral"}, {"operator": "neumann", "derivative": "causal"}], ids=name
)
@torch.no_grad()
def test_what_stands_in_the_padding_is_not_read(options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    made, (x, gap, valid) = KossLayer(8, 3, 4, **options), layer_input(20, 2, 8)
    lengths = torch.tensor([20, 11])
    other, other_gap = x.clone(), gap.clone()
    other[11:, 1], other_gap[11:, 1] = 1e4, 50.0
    (y, state), (same, end) = made(x, gap, valid, lengths=lengths), made(other, other_gap, valid, lengths=lengths)
    assert torch.equal(y, same) and torch.equal(state.scan, end.scan)


def test_inputs_that_do_not_fit_are_refused() -> None:
    made, (x, gap, _) = KossLayer(8), layer_input(6, 2, 8)
    one_row = x[:, :1]
    for given, message in (
        (({"x": x[0]}), "x is (2, 8) torch.float32, expected floating (T, B, 8)"),
        (({"x": x.long()}), "x is (6, 2, 8) torch.int64, expected floating"),
        (({"x": x, "gap": gap.T}), "gap is (2, 6), expected (6, 2)"),
        (({"x": x, "valid": gap[:5] > 0}), "valid is (5, 2), expected (6, 2)"),
        (({"x": x, "valid": torch.ones(6, 2)}), "valid is torch.float32, expected torch.bool"),
        (({"x": x, "lengths": torch.tensor([6])}), "lengths is (1,), expected (2,)"),
        (({"x": x, "lengths": torch.tensor([7, 2])}), "lengths are 2 to 7, expected 0 to 6"),
        (({"x": x, "lengths": torch.tensor([1.0, 2.0])}), "lengths is torch.float32, expected torch.int32"),
        (({"x": x, "offsets": torch.tensor([0, 6])}), "packed sequences are x (ΣT, 1, D)"),
        (({"x": one_row, "offsets": torch.tensor([0, 7, 6])}), "offsets [0, 7, 6] … 6 must rise from 0 to 6"),
        (({"x": one_row, "offsets": torch.tensor([0, 4, 5])}), "offsets [0, 4, 5] … 5 must rise from 0 to 6"),
    ):
        for module in (made, KossBlock(8)):
            with pytest.raises(EstimatorError, match=re.escape(message)):
                module(**given)
