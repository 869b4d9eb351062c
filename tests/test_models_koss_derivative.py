"""The derivative units of KOSS: response, ends, irregular stamps, misses; what is causal and what is not."""

import math

import pytest
import torch

from ssrtrack.errors import EstimatorError
from ssrtrack.models.koss_derivative import SpectralDifferentiation

Tensor = torch.Tensor
T, COLUMNS = 400, 8


def sine(frequency: float, time: Tensor) -> tuple[Tensor, Tensor]:
    """sin(2πft + φ) and its derivative (T, B, 1), another φ in every column."""
    turn = 2 * math.pi * frequency * time + torch.arange(time.shape[1])
    return torch.sin(turn)[..., None], 2 * math.pi * frequency * torch.cos(turn)[..., None]


def regular(rows: int = T, columns: int = COLUMNS) -> Tensor:
    return torch.arange(rows, dtype=torch.float64)[:, None].expand(rows, columns)


def jittered(jitter: float, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return regular() + jitter * (2 * torch.rand(T, COLUMNS, dtype=torch.float64, generator=g) - 1)


def missing(share: float, seed: int = 1) -> Tensor:
    return torch.rand(T, COLUMNS, generator=torch.Generator().manual_seed(seed)) >= share


def middle_error(found: Tensor, wanted: Tensor, valid: Tensor | None = None) -> float:
    """RMS error over RMS, without the outer fifths, where the reflection bends a sine."""
    inner = slice(T // 5, T - T // 5)
    off, whole = (found - wanted)[inner], wanted[inner]
    if valid is not None:
        off, whole = off[valid[inner]], whole[valid[inner]]
    return float(off.norm() / whole.norm())


@pytest.mark.parametrize("cutoff", [0.1, 0.25])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.98])
def test_response_is_2_pi_f_below_the_cutoff(cutoff: float, share: float) -> None:
    x, wanted = sine(share * cutoff, regular())
    assert middle_error(SpectralDifferentiation(cutoff)(x), wanted) < 1e-3


def test_response_falls_to_nothing_at_twice_the_cutoff() -> None:
    unit = SpectralDifferentiation(0.1)
    x, wanted = sine(0.15, regular())
    assert middle_error(unit(x), 0.5 * wanted) < 2e-3
    for beyond in (0.2, 0.3, 0.45):
        x, wanted = sine(beyond, regular())
        inner = unit(x)[T // 5 : T - T // 5]
        assert float(inner.norm() / wanted[T // 5 : T - T // 5].norm()) < 1e-3
    assert unit.low_pass(torch.tensor([0.0, 0.1, 0.15, 0.2, 0.5])).tolist() == pytest.approx(
        [1, 1, 0.5, 0, 0], abs=1e-6
    )


@pytest.mark.parametrize(
    ("frequency", "jitter", "miss", "most"),
    [(0.02, 0.45, 0.0, 1e-5), (0.1, 0.3, 0.0, 3e-4), (0.1, 0.45, 0.0, 6e-4), (0.2, 0.3, 0.0, 3e-3),
     (0.02, 0.3, 0.2, 5e-4), (0.1, 0.3, 0.2, 3e-2)],
)  # fmt: skip
def test_irregular_stamps_and_misses_leave_a_sine_its_derivative(
    frequency: float, jitter: float, miss: float, most: float
) -> None:
    time, valid = jittered(jitter), missing(miss)
    x, wanted = sine(frequency, time)
    found = SpectralDifferentiation()(torch.where(valid[..., None], x, 99.0), time, valid)
    assert middle_error(found, wanted, valid) < most
    ignoring = SpectralDifferentiation()(torch.where(valid[..., None], x, 0.0))
    assert middle_error(ignoring, wanted, valid) > 10 * most


def test_a_ramp_is_exact_up_to_its_ends_whatever_the_stamps() -> None:
    time, valid = jittered(0.45), missing(0.3)
    unit = SpectralDifferentiation()
    slopes = torch.arange(1.0, COLUMNS + 1, dtype=torch.float64)
    for given in ((regular(), None, None), (time, time, None), (time, time, valid), (regular(), None, valid)):
        x = (given[0] * slopes - 5.0)[..., None]
        torch.testing.assert_close(unit(x, *given[1:])[..., 0], slopes.expand(T, COLUMNS), rtol=1e-9, atol=1e-9)


def test_the_last_sample_of_a_sine_is_near_its_derivative() -> None:
    """Point reflection with the line taken off; a mirror would halve the slope of what moves at the end."""
    x, wanted = sine(0.03, regular(192))
    assert float((SpectralDifferentiation()(x) - wanted)[-1].abs().max() / wanted.abs().max()) < 0.06


def test_regular_stamps_give_what_none_give() -> None:
    x = torch.randn(60, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    smooth = torch.nn.functional.avg_pool1d(x.movedim(0, -1), 9, 1).movedim(-1, 0)
    unit = SpectralDifferentiation()
    torch.testing.assert_close(unit(smooth, regular(52, 3)), unit(smooth), rtol=0.0, atol=0.02)


def test_columns_are_apart_and_what_stands_at_a_miss_is_not_read() -> None:
    time, valid = jittered(0.3), missing(0.2)
    x, _ = sine(0.05, time)
    unit = SpectralDifferentiation()
    whole = unit(x, time, valid)
    alone = unit(x[:, 3:4], time[:, 3:4], valid[:, 3:4])
    # Another grid, so the same to the error of the interpolation only.
    torch.testing.assert_close(alone, whole[:, 3:4], rtol=0.0, atol=5e-3)
    assert torch.equal(unit(torch.where(valid[..., None], x, 1e6), time, valid), whole)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_few_samples_give_the_slope_that_they_show(count: int) -> None:
    valid = torch.zeros(10, 1, dtype=torch.bool)
    valid[2 : 2 + count] = True
    x = (3.0 * regular(10, 1))[..., None]
    expected = torch.full((10, 1, 1), 3.0 if count > 1 else 0.0, dtype=torch.float64)
    torch.testing.assert_close(SpectralDifferentiation()(x, None, valid), expected)
    assert SpectralDifferentiation()(x[:1]).tolist() == [[[0.0]]]


def test_gradients_are_right_in_the_input_and_in_the_learned_cutoff() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(9, 2, 2, dtype=torch.float64, generator=g).requires_grad_()
    time = regular(9, 2) + 0.3 * torch.rand(9, 2, dtype=torch.float64, generator=g)
    valid = torch.rand(9, 2, generator=g) > 0.2
    unit = SpectralDifferentiation(0.2, learnable=True).double()
    assert unit.theta is not None and float(torch.as_tensor(unit.cutoff()).detach()) == pytest.approx(0.2)

    def found(x: Tensor, theta: Tensor) -> Tensor:
        regular_, irregular = (torch.func.functional_call(unit, {"theta": theta}, (x, *v)) for v in ((), (time, valid)))
        return torch.stack([regular_, irregular])

    assert torch.autograd.gradcheck(found, (x, unit.theta), atol=1e-6)


@pytest.mark.parametrize(("cutoff", "learnable"), [(0.0, False), (0.6, False), (0.5, True), (math.nan, False)])
def test_a_cutoff_outside_its_range_is_refused(cutoff: float, learnable: bool) -> None:
    with pytest.raises(EstimatorError, match=r"the cut-off is .*, expected 0.01 to 0.5 cycles"):
        SpectralDifferentiation(cutoff, learnable=learnable)


def test_shapes_that_do_not_fit_and_endless_gaps_are_refused() -> None:
    unit, x = SpectralDifferentiation(), torch.zeros(5, 2, 1)
    with pytest.raises(EstimatorError, match=r"time is \(4, 2\), expected \(5, 2\)"):
        unit(x, regular(4, 2))
    with pytest.raises(EstimatorError, match=r"valid is torch.float32, expected torch.bool"):
        unit(x, None, torch.ones(5, 2))
    for time in (-regular(5, 2), torch.where(regular(5, 2) == 3, math.nan, regular(5, 2))):
        with pytest.raises(EstimatorError, match="time has to rise from row to row and be finite"):
            unit(x, time)
    with pytest.raises(EstimatorError, match="cut sequences at their long gaps"):
        unit(x, 1e6 * regular(5, 2))
