"""Online use: a KOSS layer row by row, or cut anywhere, is the layer on the whole sequence."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from ssrtrack.errors import EstimatorError
from ssrtrack.models.koss import KossBlock, KossLayer

Tensor = torch.Tensor
# One row a form: operator, segment S, passes J, derivative, and whether the gain sees the innovation.
FORMS: list[dict[str, Any]] = [
    {},
    {"segment": 4, "passes": 0},
    {"segment": 4, "passes": 2},
    {"segment": 16},
    {"segment": 3, "passes": 7},
    {"segment": 5, "innovate": False},
    {"see_prediction": True},
    {"segment": 4, "passes": 2, "see_prediction": True},
    {"derivative": "causal"},
    {"operator": "neumann", "segment": 16, "passes": 0},
    {"operator": "neumann", "segment": 4, "passes": 1, "derivative": "causal"},
    {"operator": "kalman", "segment": 4, "passes": 1, "derivative": "difference"},
    {"operator": "exact", "segment": 7, "passes": 1},
    {"operator": "bucy", "segment": 4, "passes": 1, "derivative": "difference"},
]


def name(form: dict[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in form.items()) or "default"


def rows(T: int, B: int = 2, D: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """x (T, B, D), gap and valid (T, B)."""
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(T, B, generator=g) > 0.15
    return torch.randn(T, B, D, generator=g, dtype=dtype), 0.2 + 2.0 * torch.rand(T, B, generator=g, dtype=dtype), valid


def layer(**form: Any) -> KossLayer:
    torch.manual_seed(3)
    made = KossLayer(8, 3, 4, 2, **form).double()
    with torch.no_grad():
        made.gain_gap.uniform_(-0.3, 0.3)
        made.log_rate.add_(0.2 * torch.randn_like(made.log_rate))
        made.step_length.bias.add_(1.0)
    return made


def parts(T: int, cuts: tuple[int, ...]) -> list[slice]:
    ends = [0, *cuts, T]
    return [slice(a, b) for a, b in pairwise(ends)]


@pytest.mark.parametrize("form", FORMS, ids=name)
@pytest.mark.parametrize("cuts", [tuple(range(1, 41)), (16,), (3, 5, 22, 39), (1, 33)], ids=lambda c: f"{len(c)} cuts")
@torch.no_grad()
def test_cut_anywhere_it_is_the_whole(form: dict[str, Any], cuts: tuple[int, ...]) -> None:
    made, (x, gap, valid) = layer(**form), rows(41)
    whole, final = made(x, gap, valid)
    out, state = [], made.start(2)
    for part in parts(41, cuts):
        y, state = made(x[part], gap[part], valid[part], state)
        out.append(y)
    torch.testing.assert_close(torch.cat(out), whole, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(state.scan, final.scan, rtol=1e-10, atol=1e-11)
    assert state.position == final.position == 41 % made.form.segment
    for mine, its in ((state.passes, final.passes), (state.open_loop, final.open_loop)):
        assert (mine is None) == (its is None)
        if mine is not None and its is not None:
            torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-11)


@torch.no_grad()
def test_row_by_row_in_float32_a_block_stays_with_the_batch_over_10_000_steps() -> None:
    torch.manual_seed(3)
    made, steps = KossBlock(16, 3, 8), 10_000
    x, gap, valid = rows(steps, 2, 16, dtype=torch.float32)
    whole, final = made(x, gap, valid)
    state, out = made.start(2), []
    for t in range(steps):
        y, state = made.step(x[t], gap[t], valid[t], state)
        out.append(y)
    stays(torch.stack(out), whole)
    torch.testing.assert_close(state.koss.scan, final.koss.scan, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.taps, final.taps, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_in_pieces_of_7_a_layer_with_segments_of_16_stays_with_the_batch_over_10_000_steps() -> None:
    torch.manual_seed(3)
    made, steps = KossLayer(16, 3, 8, operator="neumann", segment=16), 10_000
    x, gap, valid = rows(steps, 2, 16, dtype=torch.float32)
    whole, final = made(x, gap, valid)
    state, out = made.start(2), []
    for part in parts(steps, tuple(range(7, steps, 7))):
        y, state = made(x[part], gap[part], valid[part], state)
        out.append(y)
    stays(torch.cat(out), whole)
    torch.testing.assert_close(state.scan, final.scan, rtol=1e-4, atol=1e-5)


def stays(found: Tensor, whole: Tensor) -> None:
    """Equal to rounding, at the end no less than in the beginning."""
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)
    assert float((found - whole)[-1000:].norm() / whole[-1000:].norm()) < 1e-5


def test_gradients_pass_through_a_cut() -> None:
    made, (x, gap, valid) = layer(segment=4, passes=1, derivative="difference"), rows(11)
    x.requires_grad_()

    def gradients(cuts: tuple[int, ...]) -> list[Tensor]:
        state, total = made.start(2), torch.zeros((), dtype=torch.float64)
        for part in parts(11, cuts):
            y, state = made(x[part], gap[part], valid[part], state)
            total = total + (y * torch.cos(torch.arange(8.0))).sum()
        return list(torch.autograd.grad(total + state.scan.square().sum(), [x, *made.parameters()]))

    for cut, whole in zip(gradients((2, 7)), gradients(()), strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-11)


def test_what_cannot_go_on_is_refused() -> None:
    x, gap, valid = rows(6)
    spectral = layer(derivative="spectral")
    _, state = spectral(x, gap, valid)
    with pytest.raises(EstimatorError, match="sees a sequence whole"):
        spectral(x, gap, valid, state)
    with pytest.raises(EstimatorError, match="sees a sequence whole"):
        spectral.step(x[0], gap[0], valid[0], spectral.start(2))
    made = layer(segment=4)
    _, inside = made(x, gap, valid)
    with pytest.raises(EstimatorError, match="finish the segment first"):
        made(x, gap, valid, inside, lengths=torch.tensor([2, 6]))
    with pytest.raises(EstimatorError, match=r"the state is \(2, 3, 8\), expected \(1, 3, 8\)"):
        made(x[:, :1], gap[:, :1], None, inside)
    for other in ({"segment": 2}, {"segment": 4, "passes": 1}):
        with pytest.raises(EstimatorError, match="the state is 2 steps into a segment, with 0 passes: another layer's"):
            layer(**other)(x, gap, valid, inside)
    _, looked = layer(derivative="difference")(x, gap, valid)
    with pytest.raises(EstimatorError, match="remembers 1 samples: another layer's, for this one looks back at 4"):
        layer(derivative="causal")(x, gap, valid, looked)
    packed = layer(derivative="difference")
    _, blank = packed(x[:, :1], gap[:, :1], offsets=torch.tensor([0, 4, 6], dtype=torch.int32))
    with pytest.raises(EstimatorError, match="remembers no samples to look back at"):
        packed(x, gap, valid, blank)
