"""Laws that KOSS's closed loop keeps whatever its weights, and the pieces that it is built of, each by itself."""

from math import factorial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ssrtrack.kernels.koss_closed_loop import koss_closed_loop
from ssrtrack.kernels.koss_form import CLOSED, OPERATORS, LoopForm, LoopInputs
from ssrtrack.kernels.koss_operators import (
    DIAGONAL,
    innovation_gain,
    kalman_operators,
    led,
    phi1,
    rank_one_scan,
    segment_scan,
    transition,
)
from ssrtrack.kernels.reference import koss_gain, koss_update
from tests.koss_cases import TIMED, Case, inputs_of

Tensor = torch.Tensor


def case(operator: str, **options: Any) -> Case:
    """A row in float64 with all that its operator reads."""
    leads = operator in ("discrete", "kalman", "bucy")
    return Case(operator, **{"C": 4, "N": 3, "dtype": "float64", "slope": True, "lead": leads, **options})


def steps(inputs: LoopInputs, which: Any) -> LoopInputs:
    """The inputs of some steps."""
    return inputs._replace(**{name: v[:, which] for name in TIMED if (v := getattr(inputs, name)) is not None})


def near(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


@given(
    operator=st.sampled_from(OPERATORS),
    segment=st.sampled_from([1, 2, 5]),
    passes=st.integers(0, 2),
    seen=st.booleans(),
    seed=st.integers(0, 99),
    data=st.data(),
)
@settings(max_examples=25)
def test_a_loop_cut_between_segments_is_the_whole(
    operator: str, segment: int, passes: int, seen: bool, seed: int, data: st.DataObject
) -> None:
    row = case(operator, T=13, S=segment, J=passes, seen=seen)
    inputs, cut = inputs_of(row, seed), segment * data.draw(st.integers(1, 12 // segment))
    whole, last = koss_closed_loop(inputs, row.form)
    first, between = koss_closed_loop(steps(inputs, slice(cut)), row.form)
    second, after = koss_closed_loop(steps(inputs, slice(cut, None))._replace(start=between), row.form)
    near(torch.cat([first, second], 1), whole)
    near(after, last)


@pytest.mark.parametrize("operator", OPERATORS)
def test_one_step_a_segment_needs_no_further_pass(operator: str) -> None:
    inputs = inputs_of(case(operator, T=9))
    once, again = (koss_closed_loop(inputs, LoopForm(operator, 1, passes)) for passes in (0, 3))
    assert torch.equal(once[0], again[0])


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("operator", OPERATORS)
def test_passes_less_one_than_steps_make_a_segment_exact(operator: str, seen: bool) -> None:
    """And each pass has one step more right, as Picard's iteration has."""
    inputs = inputs_of(case(operator, T=10, seen=seen))
    exact, last = koss_closed_loop(inputs, LoopForm(operator))
    for segment in (2, 5, 10):
        y, end = koss_closed_loop(inputs, LoopForm(operator, segment, segment - 1))
        near(y, exact)
        near(end, last)
    for passes in range(5):
        y, _ = koss_closed_loop(inputs, LoopForm(operator, 10, passes))
        near(y[:, : passes + 1], exact[:, : passes + 1])
        assert (y - exact)[:, passes + 1 :].abs().max() > 1e-10


@pytest.mark.parametrize("segment", [1, 4])
@pytest.mark.parametrize("operator", OPERATORS)
def test_without_input_the_loop_only_predicts(operator: str, segment: int) -> None:
    """K = 0: h_t = e^{(Δ_1 + … + Δ_t) A} h_0, and the input has no part in it."""
    inputs = inputs_of(case(operator, T=9))
    closed = inputs._replace(bias=torch.full_like(inputs.bias, CLOSED))
    y, last = koss_closed_loop(closed, LoopForm(operator, segment, 1))
    h = transition(inputs.delta.cumsum(1), inputs.rate) * inputs.start[:, None]
    near(y, (inputs.read[..., None] * h).sum(2))
    near(last, h[:, -1])


@pytest.mark.parametrize("operator", ["discrete", "kalman"])
def test_a_missing_step_is_the_same_as_a_longer_one(operator: str) -> None:
    inputs = inputs_of(case(operator, T=9))
    inputs.bias[:, 3:5] = CLOSED
    kept = [0, 1, 2, 5, 6, 7, 8]
    longer = inputs.delta.clone()
    longer[:, 5] += longer[:, 3] + longer[:, 4]
    y, last = koss_closed_loop(inputs, LoopForm(operator))
    less, end = koss_closed_loop(steps(inputs._replace(delta=longer), kept), LoopForm(operator))
    near(less, y[:, kept])
    near(end, last)


@pytest.mark.parametrize("operator", OPERATORS)
def test_sequences_know_nothing_of_each_other(operator: str) -> None:
    """A batch in another order, one sequence alone, and all of them packed one after another."""
    row = case(operator, B=4, T=7, S=4, J=1)
    inputs = inputs_of(row)
    y, last = koss_closed_loop(inputs, row.form)
    order = [2, 0, 3, 1]
    turned = {name: getattr(inputs, name)[order] for name in (*TIMED, "start")}
    again = koss_closed_loop(inputs._replace(**turned), row.form)
    near(again[0], y[order])
    near(again[1], last[order])
    alone = {name: getattr(inputs, name)[1:2] for name in (*TIMED, "start")}
    near(koss_closed_loop(inputs._replace(**alone), row.form)[0], y[1:2])
    packed = {name: getattr(inputs, name).flatten(0, 1)[None] for name in TIMED}
    offsets = torch.arange(0, 35, 7, dtype=torch.int32)
    near(koss_closed_loop(inputs._replace(**packed, offsets=offsets), row.form)[0], y.flatten(0, 1)[None])


@pytest.mark.parametrize("seen", [False, True])
def test_heads_know_nothing_of_each_other_but_the_readout(seen: bool) -> None:
    row = case("discrete", H=2, T=7, S=4, J=1, seen=seen)
    inputs = inputs_of(row)
    y, _ = koss_closed_loop(inputs, row.form)
    for head, of in enumerate((slice(0, 4), slice(4, 8))):
        alone = {n: getattr(inputs, n)[..., of] for n in ("x", "delta", "bias", "slope", "start", "rate", "lead")}
        alone |= {n: getattr(inputs, n)[head : head + 1] for n in ("w1", "b1", "w2")}
        near(koss_closed_loop(inputs._replace(**alone), row.form)[0], y[..., of])


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_future_has_no_part_in_the_past(operator: str, seen: bool) -> None:
    """Exactly none, inside a segment too, in every pass."""
    row = case(operator, T=8, S=4, J=2, seen=seen)
    inputs = inputs_of(row)
    y, _ = koss_closed_loop(inputs, row.form)
    later = inputs._replace(x=inputs.x.clone(), slope=None if inputs.slope is None else inputs.slope.clone())
    later.x[:, 6] += 1.0
    assert later.slope is not None
    later.slope[:, 6] -= 1.0
    other, _ = koss_closed_loop(later, row.form)
    assert torch.equal(other[:, :6], y[:, :6])
    assert not torch.equal(other[:, 6], y[:, 6])


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How many numbers torch's operations make, all together, views not counted."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for v in out if isinstance(out, tuple | list) else (out,):
            self.numbers += v.numel() if isinstance(v, Tensor) and v._base is None else 0
        return out


def cost(row: Case) -> tuple[float, float]:
    """Numbers made and numbers kept for the gradient, for each step."""
    leaves = {name: v.requires_grad_() for name, v in inputs_of(row)._asdict().items() if v is not None}
    kept = []

    def keep(v: Tensor) -> Tensor:
        kept.append(v.numel())
        return v

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda v: v), Work() as work:  # type: ignore[no-untyped-call]
        y, _ = koss_closed_loop(LoopInputs(**leaves), row.form, backend="torch")
        torch.autograd.grad(y.sum(), list(leaves.values()))
    return work.numbers / row.T, sum(kept) / row.T


@pytest.mark.parametrize("segment", [1, 8])
@pytest.mark.parametrize("operator", ["discrete", "neumann", "kalman"])
def test_work_and_memory_grow_as_the_steps(operator: str, segment: int) -> None:
    """Forward and backward: a step costs the same in a sequence four times as long."""
    short, long = (cost(case(operator, T=T, S=segment)) for T in (16, 64))
    assert long[0] <= 1.05 * short[0]
    assert long[1] <= 1.05 * short[1]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 3e-6), (torch.float64, 1e-14)])
def test_phi1_and_its_gradient_are_exact_also_near_zero(dtype: torch.dtype, tolerance: float) -> None:
    size = torch.logspace(-12, 0, 101, dtype=dtype)
    z = torch.cat([-size, torch.zeros(1, dtype=dtype), size]).requires_grad_()
    value = phi1(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    # Σ z^k/(k + 1)! and its derivative, in float64: up to |z| = 1 no terms cancel.
    exact = z.detach().double()
    want = sum(exact**k / factorial(k + 1) for k in range(20))
    want_slope = sum(k * exact ** (k - 1) / factorial(k + 1) for k in range(1, 20))
    assert ((value.double() - want) / want).abs().max() < tolerance
    assert ((slope.double() - want_slope) / want_slope).abs().max() < tolerance


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("step", [1.0, 1e-7, 0.0])
def test_operators_are_the_references_update(operator: str, step: float) -> None:
    """With gains given; also where Δ is so small that z is next to 0."""
    inputs = inputs_of(case(operator, T=3))
    x, c, rate, h = inputs.x, inputs.read, inputs.rate, inputs.start
    delta, K = step * inputs.delta, torch.sigmoid(inputs.bias)
    assert inputs.slope is not None
    slope, v = inputs.slope, led(x, inputs.slope, inputs.lead)
    if operator == "kalman":
        states = rank_one_scan(K, c, transition(delta, rate), v, h)
    else:
        a, u = kalman_operators(operator, K, c, delta, rate, x, slope, inputs.lead)
        states = segment_scan(a, u, h)
    for b in range(x.shape[0]):
        state = h[b]
        for t in range(3):
            at = b, t
            state = koss_update(operator, state, x[at], slope[at], v[at], K[at], c[at], delta[at], rate)
            near(states[at], state)


def test_kalman_has_no_diagonal_form() -> None:
    one = torch.ones(1)
    for operator in ("kalman", "koss"):
        with pytest.raises(ValueError, match=f"{operator}.*has no diagonal form; those that have one: discrete"):
            kalman_operators(operator, one, one, one, one[None], one)
    assert set(DIAGONAL) | {"kalman"} == set(OPERATORS)


def test_segment_scan_takes_zeros_and_has_the_right_gradient() -> None:
    g = torch.Generator().manual_seed(0)
    a, u = (torch.randn(2, 6, 2, 3, dtype=torch.float64, generator=g) for _ in range(2))
    h = torch.randn(2, 2, 3, dtype=torch.float64, generator=g)
    a[:, 2] = 0.0
    states, before = segment_scan(a, u, h), h
    for t in range(6):
        before = a[:, t] * before + u[:, t]
        near(states[:, t], before)
    near(states[:, 2], u[:, 2])
    assert torch.autograd.gradcheck(segment_scan, [v.requires_grad_() for v in (a, u, h)])


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("operator", OPERATORS)
def test_gains_are_the_references_and_closed_where_nothing_came(operator: str, seen: bool) -> None:
    inputs = inputs_of(case(operator, T=2, H=2, seen=seen))
    inputs.bias[:, 1] = CLOSED
    bias, w = inputs.bias.requires_grad_(), (inputs.w1, inputs.b1, inputs.w2)
    e, ahead = 3.0 * inputs.x, inputs.delta - 0.5
    K = innovation_gain(e, bias, *w, operator, ahead)
    for b in range(2):
        for t in range(2):
            near(K[b, t], koss_gain(e[b, t], bias[b, t], *w, operator, ahead[b, t]))
    assert torch.equal(K, innovation_gain(e, bias, *w, operator, ahead + 1.0)) != seen
    assert torch.all(K[:, 1] == 0.0)
    assert torch.all(K[:, 0] > 0.0)
    assert torch.all(torch.autograd.grad(K.sum(), bias)[0][:, 1] == 0.0)


def test_a_gain_that_would_see_a_prediction_asks_for_it() -> None:
    inputs = inputs_of(case("discrete", T=2, seen=True))
    with pytest.raises(ValueError, match=r"w1 \(1, 8, 4\) has rows for the prediction: give the prediction c·p"):
        innovation_gain(inputs.x, inputs.bias, inputs.w1, inputs.b1, inputs.w2)


@pytest.mark.parametrize("segment", [1, 4])
def test_rows_of_zeros_for_the_prediction_change_nothing(segment: int) -> None:
    inputs, form = inputs_of(case("discrete", T=9)), LoopForm(segment=segment)
    wide = inputs._replace(w1=torch.cat([inputs.w1, torch.zeros_like(inputs.w1)], 1))
    for got, want in zip(koss_closed_loop(wide, form), koss_closed_loop(inputs, form), strict=True):
        near(got, want)
