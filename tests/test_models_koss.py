"""The KOSS layer: against the looped reference with every operator, the laws it keeps, and what it refuses."""

import re
from typing import Any

import pytest
import torch

from ssrtrack.errors import EstimatorError
from ssrtrack.kernels.koss_form import CLOSED, OPERATORS, LoopInputs
from ssrtrack.kernels.reference import koss_given_gains, koss_loop
from ssrtrack.models.koss import (
    SPECTRAL_CAP,
    InnovationGain,
    KossBlock,
    KossLayer,
    kalman_operators,
    segment_scan,
)
from ssrtrack.models.koss_gain import spectral_norm
from ssrtrack.models.koss_layer import DERIVATIVES
from ssrtrack.models.koss_theory import discrete_steady_gain

Tensor = torch.Tensor


def layer_input(T: int, B: int, D: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """x (T, B, D), gap and valid (T, B)."""
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(T, B, generator=g) > 0.15
    return torch.randn(T, B, D, generator=g, dtype=dtype), 0.1 + 2.0 * torch.rand(T, B, generator=g, dtype=dtype), valid


def layer(width: int = 8, **options: Any) -> KossLayer:
    """In float64, with nothing left at a value that would hide a fault."""
    torch.manual_seed(3)
    made = KossLayer(width, 3, 4, 2, **options).double()
    with torch.no_grad():
        made.gain_gap.uniform_(-0.3, 0.3)
        made.read_bias.uniform_(-0.5, 0.5)
        made.step_length.bias.add_(1.0)
    return made


def block(width: int = 16, **options: Any) -> KossBlock:
    torch.manual_seed(3)
    return KossBlock(width, 3, 8, **options)


OPTIONS: list[dict[str, Any]] = [
    *({"operator": name} for name in OPERATORS),
    *({"operator": name, "segment": 4, "passes": 1} for name in OPERATORS),
    *({"operator": name, "derivative": "difference"} for name in OPERATORS if name != "exact"),
    *({"derivative": name} for name in DERIVATIVES),
    {"operator": "neumann", "derivative": "none", "segment": 16, "passes": 0},
    {"operator": "neumann", "derivative": "spectral"},
    {"segment": 16},
    {"innovate": False},
    {"input_gain": False},
    {"see_prediction": True},
    {"see_prediction": True, "operator": "kalman", "segment": 4, "passes": 1},
]


def name(options: dict[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in options.items())


def one(inputs: LoopInputs, b: int) -> LoopInputs:
    """The inputs of one sequence, as the reference takes them."""
    parts: dict[str, Any] = {
        k: v if v is None or k in ("rate", "w1", "b1", "w2", "lead") else v[b] for k, v in inputs._asdict().items()
    }
    return LoopInputs(**parts)


@pytest.mark.parametrize("options", OPTIONS, ids=name)
@torch.no_grad()
def test_it_is_the_looped_reference_between_its_projections(options: dict[str, Any]) -> None:
    made, (x, gap, valid) = layer(**options), layer_input(18, 2, 8, dtype=torch.float64)
    y, state = made(x, gap, valid)
    there = torch.where(valid[..., None], x, 0.0)
    inputs, _ = made.loop_inputs(there, gap, valid)
    for b in range(2):
        wanted, final = koss_loop(one(inputs, b), made.form)
        torch.testing.assert_close(y[:, b], wanted + made.skip * there[:, b], rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(state.scan[b], final, rtol=1e-10, atol=1e-11)


def filled(made: KossBlock) -> KossBlock:
    """Every parameter a sine of its number, so that no generator decides about the values below."""
    scale = {"log_rate": 0.1, "gain_bias": 1.0, "step.bias": 1.0, "skip": 0.1, "norm.weight": 0.1}
    with torch.no_grad():
        for k, (which, p) in enumerate(sorted(made.named_parameters())):
            wave = torch.sin(1.7 * torch.arange(p.numel(), dtype=torch.float64).reshape(p.shape) + k)
            part = next((v for end, v in scale.items() if which.endswith(end)), 1.5 / max(p.shape[-1], 4) ** 0.5)
            start: Any = 0.0
            if which.endswith("log_rate"):
                start = torch.arange(1.0, p.shape[0] + 1.0).log()[:, None]
            elif which.endswith(("gain_bias", "step.bias")):
                start = -2.0
            elif which.endswith(("skip", "norm.weight")):
                start = 1.0
            p.copy_(start + part * wave)
    return made


def test_the_default_gives_the_numbers_that_it_gave_before_it_had_options() -> None:
    """Values of the first learned tracker's layer: a saved tracker goes on as it was."""
    t, b = torch.arange(21.0)[:, None], torch.arange(2.0)
    x = torch.sin(0.9 * t[..., None] + 0.5 * torch.arange(16.0) + b[:, None]) * 2
    with torch.no_grad():
        y, state = filled(KossBlock(16, 3, 8))(x, 1 + 0.5 * torch.cos(t + b), (t + b) % 5 != 3)
    found = y[[0, 5, 13, 20], [0, 1, 0, 1], [3, 7, 0, 15]].tolist()
    assert found == pytest.approx([1.9852076768875, 0.8377937674522, -1.5251470804214, 1.9451696872711], rel=2e-6)
    norms = [v.norm().item() for v in (y, state.koss.scan, state.taps)]
    assert norms == pytest.approx([36.656714671053, 0.62909549173, 1.95148642170], rel=2e-6)
    assert state.koss.scan[1, 2, 5].item() == pytest.approx(-0.017956100404, rel=2e-5)


def test_a_checkpoint_names_its_parameters_as_ever() -> None:
    names = {
        "taps", "taps_bias", "norm.weight", "inward.weight", "outward.weight", "koss.log_rate", "koss.read_bias",
        "koss.gain_bias", "koss.gain_gap", "koss.skip", "koss.project.weight", "koss.step.weight", "koss.step.bias",
        "koss.gain_input.weight", "koss.gain.w1", "koss.gain.b1", "koss.gain.w2",
    }  # fmt: skip
    assert set(block().state_dict()) == names
    assert set(block(segment=16, operator="neumann").state_dict()) == names
    assert set(block(derivative="causal").state_dict()) == names | {"koss.lead"}
    assert set(block(input_gain=False).state_dict()) == names - {"koss.gain_input.weight"}
    assert set(block(see_prediction=True).state_dict()) == names
    learned = block(derivative="spectral", cutoff="learned").state_dict()
    assert set(learned) == names | {"koss.lead", "koss.unit.theta"}


def test_defaults_are_what_was_found_best() -> None:
    made = {name: layer(operator=name) for name in OPERATORS}
    assert {k: v.derivative for k, v in made.items()} == dict.fromkeys(OPERATORS, "none") | {"neumann": "difference"}
    passes = [layer(segment=s).form.passes for s in (1, 4, 5, 16)]
    assert passes == [0, 0, 1, 1] and layer(segment=16, passes=0).form.passes == 0
    assert all(v.lead is None for v in made.values())
    assert layer(derivative="causal").lead is not None and layer(operator="neumann", derivative="causal").lead is None


@pytest.mark.parametrize("options", OPTIONS, ids=name)
@torch.no_grad()
def test_a_missing_row_is_pure_prediction(options: dict[str, Any]) -> None:
    made, (x, gap, _) = layer(**options), layer_input(12, 2, 8, dtype=torch.float64)
    valid = torch.ones(12, 2, dtype=torch.bool)
    valid[8:] = False
    y, state = made(x, gap, valid)
    spectral = options.get("derivative") == "spectral"
    before = made(x[:8], gap[:8], None, None)[1] if not spectral else None
    inputs, _ = made.loop_inputs(torch.where(valid[..., None], x, 0.0), gap, valid)
    decay = torch.exp(inputs.delta[:, 8:].sum(1)[:, None] * inputs.rate)
    if before is not None:
        torch.testing.assert_close(state.scan, decay * before.scan, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(y[-1], (inputs.read[:, -1, :, None] * state.scan).sum(1), rtol=1e-10, atol=1e-12)
    other = torch.where(valid[..., None], x, 1e3)
    assert torch.equal(made(other, gap, valid)[0], y)


@pytest.mark.parametrize("operator", ["discrete", "kalman"])
@torch.no_grad()
def test_a_missing_row_and_a_longer_gap_are_the_same(operator: str) -> None:
    made, (x, gap, _) = layer(operator=operator), layer_input(12, 2, 8, dtype=torch.float64)
    # Δ of a row is its own input's, so the skipped row's share of time is only equal where the projection is at rest.
    made.step_length.weight.zero_()
    made.gain_gap.zero_()
    valid = torch.ones(12, 2, dtype=torch.bool)
    valid[4:7] = False
    kept = [0, 1, 2, 3, 7, 8, 9, 10, 11]
    longer = gap.clone()
    longer[7] += gap[4:7].sum(0)
    whole, state = made(x, gap, valid)
    less, last = made(x[kept], longer[kept])
    torch.testing.assert_close(less, whole[kept], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(last.scan, state.scan, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("operator", OPERATORS)
@torch.no_grad()
def test_the_smaller_the_gain_the_nearer_to_pure_prediction(operator: str) -> None:
    made, (x, gap, _) = layer(operator=operator), layer_input(9, 2, 8, dtype=torch.float64)
    made.gain.w2.zero_()
    assert made.gain_input is not None
    made.gain_input.weight.zero_()
    state = made.start(2)
    state.scan.normal_(generator=torch.Generator().manual_seed(0))
    inputs, _ = made.loop_inputs(x, gap)
    predicted = torch.exp(inputs.delta.sum(1)[:, None] * inputs.rate) * state.scan
    off = []
    for logit in (-5.0, -10.0, -15.0):
        made.gain_bias.fill_(logit)
        off.append(float((made(x, gap, None, state)[1].scan - predicted).norm()))
    assert off[0] > off[1] > off[2]
    assert off[2] / off[1] == pytest.approx(torch.tensor(-5.0).exp().item(), rel=0.05)


@pytest.mark.parametrize("operator", OPERATORS)
@torch.no_grad()
def test_no_input_makes_a_step_grow(operator: str) -> None:
    """|a| ≤ 1, as a 2-norm where states mix, for whatever gain and read-out wild inputs lead to."""
    made, (x, gap, _) = layer(operator=operator), layer_input(200, 2, 8, dtype=torch.float64)
    inputs, _ = made.loop_inputs(50.0 * x, gap)
    K = made.gain(torch.randn_like(inputs.x) * 50.0, inputs.bias, operator)
    E = torch.exp(inputs.delta[:, :, None] * inputs.rate)
    assert float(K.min()) < 1e-3 and float(K.max()) > 0.999
    if operator != "kalman":
        a, _ = kalman_operators(operator, K, inputs.read, inputs.delta, inputs.rate, inputs.x, inputs.slope)
        assert float(a.abs().max()) <= 1.0
        return
    outer = inputs.read[..., :, None] * inputs.read[..., None, :]
    step = (torch.eye(3) - K[..., None, None] * outer[:, :, None]) * E.transpose(-1, -2)[..., None, :]
    assert float(torch.linalg.matrix_norm(step, ord=2).max()) <= 1.0 + 1e-12


@torch.no_grad()
def test_out_of_its_range_a_gain_does_make_a_step_grow() -> None:
    one_, A = torch.ones(1, 1, 1, dtype=torch.float64), -torch.ones(1, 1, dtype=torch.float64)
    for operator, kappa, delta, wanted in (
        ("neumann", 1.5, 1.0, 3.49), ("neumann", 0.99, 1.0, 0.98), ("discrete", 2.2, 0.1, -1.086),
        ("discrete", -0.5, 0.1, 1.357), ("bucy", -1.5, 1.0, 1.649), ("bucy", 50.0, 1.0, 0.0),
        ("exact", 9.0, 0.1, 0.905),
    ):  # fmt: skip
        a, _ = kalman_operators(operator, kappa * one_, one_, delta * one_, A, one_, one_)
        assert a.item() == pytest.approx(wanted, abs=2e-3)


@torch.no_grad()
def test_discrete_with_the_steady_gain_is_the_kalman_filter() -> None:
    """One state, c = 1: the layer's recursion with Riccati's gain is the filter, from any start after a while."""
    a, q, r = 0.95, 0.2, 1.0
    K = discrete_steady_gain(a, 1.0, q, r)
    x = torch.randn(300, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    full, rate = torch.ones_like(x), torch.full((1, 1), -1.0, dtype=torch.float64)
    y, _ = koss_given_gains(x, full * -torch.log(torch.tensor(a)), K * full, full, rate, 0.0 * rate)
    mean, P, out = 0.0, 10.0, []
    for value in x[:, 0].tolist():
        mean, P = a * mean, a * a * P + q
        gain = P / (P + r)
        mean, P = mean + gain * (value - mean), (1.0 - gain) * P
        out.append(mean)
    assert y[100:, 0].tolist() == pytest.approx(out[100:], abs=1e-6)


def growth(made: KossLayer, product: float, steps: int = 1000) -> float:
    """Mean log growth a step of ∂y_T/∂h_0 from step 200 on, with ‖W1‖‖W2‖ scaled to `product`."""
    with torch.no_grad():
        for weight in (made.gain.w1, made.gain.w2):
            weight.mul_(product**0.5 / torch.linalg.matrix_norm(weight, ord=2, dim=(1, 2), keepdim=True))
    x = torch.randn(steps, 2, made.width, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    sizes = []
    for T in (200, steps):
        state = made.start(2)
        state.scan.requires_grad_()
        y, _ = made(x[:T], None, None, state)
        sizes.append(torch.autograd.grad(y[-1].sum(), state.scan)[0].norm().log().item())
    return float(sizes[1] - sizes[0]) / (steps - 200)


def test_at_the_cap_the_loop_forgets_and_far_beyond_it_does_not() -> None:
    torch.manual_seed(0)
    made = KossLayer(64).double()
    assert growth(made, SPECTRAL_CAP**2) < -0.002
    assert growth(made, 91.0, 400) > 0.05


def test_weights_are_scaled_back_to_the_cap_in_every_head_and_smaller_ones_are_left() -> None:
    torch.manual_seed(0)
    gain = InnovationGain(2, 8)
    with torch.no_grad():
        gain.w1[0] *= 50.0 / torch.linalg.matrix_norm(gain.w1[0], ord=2)
        gain.w1[1] *= 3.0 / torch.linalg.matrix_norm(gain.w1[1], ord=2)
        gain.w2.mul_(100.0)
    small = gain.w1[1].clone()
    gain.cap()
    norms = torch.linalg.matrix_norm(torch.cat([gain.w1[:1], gain.w2]).detach(), ord=2, dim=(1, 2))
    assert norms.tolist() == pytest.approx([SPECTRAL_CAP] * 3, rel=1e-5)
    assert torch.equal(gain.w1[1], small)


def test_the_spectral_norm_is_that_of_a_singular_value_decomposition() -> None:
    g = torch.Generator().manual_seed(0)
    for C in (1, 4, 64):
        w = torch.randn(6, C, C, generator=g) * torch.logspace(-6, 4, 6)[:, None, None]
        torch.testing.assert_close(spectral_norm(w), torch.linalg.matrix_norm(w, ord=2), rtol=1e-5, atol=0)
    assert spectral_norm(torch.eye(64)[None]).item() == pytest.approx(64 ** (1 / 2048), rel=1e-5)
    assert spectral_norm(torch.zeros(1, 4, 4)).item() < 1e-15


def test_a_gain_sees_its_own_head_and_none_where_there_is_no_input() -> None:
    torch.manual_seed(0)
    gain, e = InnovationGain(2, 4), torch.randn(5, 8)
    other = e.clone()
    other[:, 4:] += 1.0
    K, moved = (gain(v, torch.zeros(5, 8)) for v in (e, other))
    assert torch.equal(K[:, :4], moved[:, :4]) and not torch.allclose(K[:, 4:], moved[:, 4:])
    assert float(gain(e, torch.full((5, 8), CLOSED)).detach().max()) == 0.0
    assert float(gain(e, torch.full((5, 8), 9.0), "bucy").detach().max()) > 1.0 > float(K.detach().max())


@pytest.mark.parametrize("options", [v for v in OPTIONS if v.get("derivative") != "spectral"], ids=name)
def test_the_future_changes_nothing(options: dict[str, Any]) -> None:
    made, (x, gap, valid) = block(**options), layer_input(30, 2, 16)
    other, other_gap = x.clone(), gap.clone()
    other[17:] += 5.0
    other_gap[17:] *= 3.0
    with torch.no_grad():
        before, after = made(x, gap, valid)[0], made(other, other_gap, valid)[0]
    # A segment's rows are multiplied together: their number, not what stands in the later ones, may move the rounding.
    assert float((before - after)[:17].abs().max()) == 0.0
    assert not torch.allclose(before[17], after[17])


def test_the_spectral_derivative_looks_ahead() -> None:
    made, (x, gap, valid) = block(derivative="spectral"), layer_input(30, 2, 16)
    other = torch.cat([x[:17], x[17:] + 5.0])
    with torch.no_grad():
        assert not torch.allclose(made(x, gap, valid)[0][16], made(other, gap, valid)[0][16], atol=1e-4)


@pytest.mark.parametrize("options", [*OPTIONS[:5], {"derivative": "spectral", "cutoff": "learned"}], ids=name)
def test_every_parameter_learns_in_float32(options: dict[str, Any]) -> None:
    made, (x, gap, valid) = block(**options), layer_input(24, 2, 16)
    y, _ = made(x, gap, valid)
    y.square().sum().backward()
    for which, p in made.named_parameters():
        assert p.grad is not None and bool(torch.isfinite(p.grad).all()), which
        assert float(p.grad.abs().max()) > 0.0, which


def test_the_state_forgets_and_the_more_the_longer_the_gap() -> None:
    torch.manual_seed(0)
    made = KossLayer(16, 3, 8)
    x, valid = torch.zeros(1, 1, 16), torch.zeros(1, 1, dtype=torch.bool)
    start = made.start(1)
    start.scan.fill_(1.0)
    with torch.no_grad():
        sizes = [
            made(x, torch.full((1, 1), gap), valid, start)[1].scan.norm().item() for gap in (0.0, 1.0, 10.0, 1000.0)
        ]
    assert sizes[0] == pytest.approx(start.scan.norm().item(), rel=1e-6)
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3]
    assert sizes[3] < 0.6 * sizes[0]


def test_bfloat16_keeps_the_state_in_float32() -> None:
    made, (x, gap, valid) = block(), layer_input(300, 2, 16)
    with torch.no_grad():
        whole, _ = made(x, gap, valid)
        with torch.autocast("cpu", torch.bfloat16):
            low, state = made(x, gap, valid)
    assert state.koss.scan.dtype == torch.float32
    wrong = (low.float() - whole).norm(dim=(1, 2)) / whole.norm(dim=(1, 2))
    assert 1e-5 < float(wrong.mean()) < 1e-2
    assert float(wrong[-50:].mean()) < 2.0 * float(wrong[:50].mean())


def test_the_paper_s_parts_are_found_under_their_names() -> None:
    a, h = torch.full((1, 3, 1, 1), 0.5), torch.full((1, 1, 1), 8.0)
    assert segment_scan(a, torch.ones_like(a), h).flatten().tolist() == [5.0, 3.5, 2.75]
    layer_ = KossLayer(128)
    assert layer_.gain.w1.shape == (2, 64, 64)
    assert KossLayer(128, head=128).gain.w1.shape == (1, 128, 128)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"width": 24, "head": 16}, "width 24 is not a multiple of the head's 16 channels"),
    ({"states": 0}, "states 0 or rank 4 is below 1"),
    ({"operator": "mamba"}, "operator 'mamba' is not one of discrete"),
    ({"segment": 0}, "segment 0 must be 1 or more"),
    ({"derivative": "gradient"}, "derivative 'gradient' is not one of none, difference, causal, spectral"),
    ({"operator": "exact", "derivative": "causal"}, "free of derivatives"),
    ({"see_prediction": True, "innovate": False}, "with innovate=False the gain has no prediction to see"),
    ({"see_prediction": True, "published": True}, "published=True is one fixed scheme"),
    ({"derivative": "spectral", "cutoff": "best"}, "cutoff 'best' is neither a number nor 'learned'"),
    ({"derivative": "spectral", "cutoff": 0.7}, "the cut-off is 0.7, expected 0.01 to 0.5"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_options_that_make_no_layer_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EstimatorError, match=re.escape(message)):
        KossLayer(**({"width": 16} | options))
