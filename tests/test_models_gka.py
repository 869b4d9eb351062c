"""The Gated KalmaNet layer: against its equations row by row, the laws it keeps, and what it refuses."""

import re
from typing import Any

import pytest
import torch

from ssrtrack.errors import EstimatorError
from ssrtrack.models.gka import GatedKalmaNet, GkaBlock
from ssrtrack.models.koss import KossBlock
from ssrtrack.models.residual import ResidualKoss
from ssrtrack.models.residual_config import ResidualConfig
from tests.gka_cases import SOLVED, gap
from tests.gka_layers import HEAD, OPTIONS, WIDTH, by_rows, layer, name, rows

Tensor = torch.Tensor
BLOCKS: dict[str, Any] = {
    "gka": lambda: GkaBlock(16, 8, steps=5),
    "gka with a second part": lambda: GkaBlock(16, 8, steps=5, hidden=24),
    "koss": lambda: KossBlock(16, 3, 8),
}


@pytest.mark.parametrize("options", OPTIONS, ids=name)
@torch.no_grad()
def test_it_is_its_equations_row_by_row(options: dict[str, Any]) -> None:
    made, (x, time, valid) = layer(**options), rows(21)
    assert 4 < int((~valid).sum()) < 20
    y, state = made(x, time, valid)
    plain, _ = made(x)
    for b in range(2):
        wanted, H, U, taps = by_rows(made, x[:, b], time[:, b], valid[:, b])
        torch.testing.assert_close(y[:, b], wanted, rtol=1e-9, atol=1e-10)
        for found, value in ((state.H, H), (state.U, U), (state.taps, taps)):
            torch.testing.assert_close(found[b], value, rtol=1e-10, atol=1e-11)
        wanted, *_ = by_rows(made, x[:, b], torch.ones(21).double(), torch.ones(21, dtype=torch.bool))
        torch.testing.assert_close(plain[:, b], wanted, rtol=1e-9, atol=1e-10)


def test_its_gradient_is_that_of_its_equations_solved_exactly() -> None:
    """With respect to the input, the times and every parameter: through both gates, β, the norms and the past."""
    made, (x, time, valid) = layer(steps=SOLVED), rows(12)
    leaves = [x.requires_grad_(), time.requires_grad_(), *made.parameters()]
    weigh = torch.randn(12, 2, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y, _ = made(x, time, valid)
    found = torch.autograd.grad((weigh * y).sum(), leaves)
    slow = torch.stack([by_rows(made, x[:, b], time[:, b], valid[:, b], exact=True)[0] for b in range(2)], 1)
    for got, want in zip(found, torch.autograd.grad((weigh * slow).sum(), leaves), strict=True):
        assert gap(got, want) < 1e-9
        assert float(want.norm()) > 0.0


def test_a_checkpoint_names_its_parameters_as_ever() -> None:
    always = {
        "taps",
        "q_proj.weight",
        "k_proj.weight",
        "v_proj.weight",
        "g_proj.weight",
        "o_norm.weight",
        "o_proj.weight",
    }
    gates = {
        "a_proj.weight",
        "A_log",
        "dt_bias",
        "alpha_proj.weight",
        "alpha_proj.bias",
        "beta_proj.weight",
        "beta_proj.bias",
    }
    made = GatedKalmaNet(16, 8)
    assert set(made.state_dict()) == always | gates
    assert set(GatedKalmaNet(16, 8, decay=False, alpha=False, beta=False).state_dict()) == always
    sizes = {k: tuple(v.shape) for k, v in GatedKalmaNet(16, 8, heads=3, value_head=5).state_dict().items()}
    assert sizes["q_proj.weight"] == sizes["k_proj.weight"] == (24, 16) and sizes["v_proj.weight"] == (15, 16)
    assert sizes["taps"] == (4, 63) and sizes["A_log"] == sizes["dt_bias"] == (3,)
    assert sizes["o_norm.weight"] == (5,) and sizes["o_proj.weight"] == (16, 15)
    inside = {f"gka.{k}" for k in always | gates} | {"norm.weight"}
    assert set(GkaBlock(16, 8).state_dict()) == inside
    more = {"norm_after.weight", "wide.weight", "narrow.weight"}
    assert set(GkaBlock(16, 8, hidden=4).state_dict()) == inside | more
    torch.manual_seed(1)
    other = GatedKalmaNet(16, 8)
    other.load_state_dict(made.state_dict())
    x = rows(5, 2, 16)[0].float()
    assert torch.equal(other(x)[0], made(x)[0])


def test_gates_begin_as_in_the_paper() -> None:
    """exp(A_log) uniform up to 16, the steps' softplus log-uniform in [0.001, 0.1], each by head."""
    torch.manual_seed(0)
    made = GatedKalmaNet(8, 1, heads=4000)
    rate, step = made.A_log.detach().exp(), torch.nn.functional.softplus(made.dt_bias.detach())
    assert 0.0 < float(rate.min()) < 0.1 and 15.9 < float(rate.max()) <= 16.0
    assert float(rate.mean()) == pytest.approx(8.0, abs=0.3)
    assert 0.999e-3 < float(step.min()) < 1.1e-3 and 0.09 < float(step.max()) < 0.1001
    assert float(step.log10().mean()) == pytest.approx(-2.0, abs=0.04)
    default = GatedKalmaNet(64, 16)
    assert (default.heads, default.head, default.value_head) == (4, 16, 16)
    assert (default.form.ridge, default.form.steps, default.form.scale) == (0.02, 30, 0.25)
    assert GatedKalmaNet(48).head == 48


@pytest.mark.parametrize("options", OPTIONS, ids=name)
@torch.no_grad()
def test_the_future_has_no_part_in_the_past(options: dict[str, Any]) -> None:
    made, (x, time, valid) = layer(**options), rows(80)
    y, _ = made(x, time, valid)
    other, later, there = x.clone(), time.clone(), valid.clone()
    other[70:] += 1.0
    later[70:] += 1.0
    there[70:] = True
    changed, _ = made(other, later, there)
    torch.testing.assert_close(changed[:70], y[:70], rtol=1e-12, atol=1e-13)
    assert float((changed[70] - y[70]).abs().max()) > 1e-3


@pytest.mark.parametrize("options", OPTIONS, ids=name)
@torch.no_grad()
def test_a_missing_row_asks_and_leaves_no_trace(options: dict[str, Any]) -> None:
    """Whatever it holds it changes its own output alone, which is a recall of what was there before."""
    made, (x, time, _) = layer(**options), rows(14)
    valid = torch.ones(14, 2, dtype=torch.bool)
    valid[[5, 6, 7, 8, 9, 12]] = False
    y, state = made(x, time, valid)
    other = torch.where(valid[..., None], x, 7.0 * x + 1.0)
    changed, end = made(other, time, valid)
    torch.testing.assert_close(changed[valid], y[valid], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(end.H, state.H, rtol=1e-12, atol=1e-13)
    assert float((changed - y)[~valid].abs().amax(-1).min()) > 1e-3
    assert float(y[~valid].abs().amax(-1).min()) > 1e-4


@torch.no_grad()
def test_by_missing_rows_the_memory_decays_with_the_time_and_nothing_else_happens() -> None:
    """At the rate of an empty row: two missing rows are one of both times together."""
    made, (x, time, _) = layer(), rows(9)
    there = torch.ones(6, 2, dtype=torch.bool)
    _, before = made(x[:6], time[:6], there)
    _, after = made(x[6:8], time[6:8], ~there[:2], before)
    rate = made.A_log.exp() * torch.nn.functional.softplus(made.dt_bias)
    gamma = torch.exp(-rate * time[6:8].sum(0)[:, None])[..., None, None]
    assert 0.0 < float(gamma.max()) < 0.9
    torch.testing.assert_close(after.H, gamma * before.H, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(after.U, gamma * before.U, rtol=1e-10, atol=1e-12)
    assert torch.equal(after.taps, before.taps)
    _, once = made(x[8:], time[6:8].sum(0, keepdim=True), ~there[:1], before)
    torch.testing.assert_close(once.U, after.U, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_time_is_what_decays_it_where_it_is_told_and_a_row_where_it_is_not() -> None:
    x, time, valid = rows(30)
    timed, untimed = layer(), layer(timed=False)
    torch.testing.assert_close(timed(x, torch.ones_like(time))[0], timed(x)[0], rtol=1e-12, atol=0.0)
    assert torch.equal(untimed(x, time)[0], untimed(x)[0])
    assert torch.equal(untimed(x, valid=valid)[0], timed(x, valid=valid)[0])
    assert float((timed(x, time)[0] - timed(x)[0]).norm() / timed(x)[0].norm()) > 0.05
    _, slow = timed(x, 0.0 * time)
    inputs, _ = timed.asked(x, None, None, timed.start(2))
    sums = torch.einsum("tbhi,tbhj->bhij", inputs.k, inputs.k)
    torch.testing.assert_close(slow.H, sums, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS[:3], ids=name)
def test_of_zeros_it_makes_zeros_and_finite_gradients(options: dict[str, Any]) -> None:
    made, x = layer(**options), torch.zeros(9, 2, WIDTH, dtype=torch.float64, requires_grad=True)
    y, state = made(x)
    assert torch.all(y == 0.0) and torch.all(state.H == 0.0)
    for g in torch.autograd.grad(y.sum() + state.U.sum(), [x, *made.parameters()], allow_unused=True):
        assert g is None or torch.all(torch.isfinite(g))
    some = torch.cat([x.detach(), rows(4)[0]])
    with torch.no_grad():
        later, _ = made(some)
    assert torch.all(torch.isfinite(later)) and float(later[9:].norm()) > 0.0


def test_a_step_of_training_moves_every_parameter() -> None:
    torch.manual_seed(0)
    made = GkaBlock(16, 8, hidden=8)
    x, time, valid = rows(70, 2, 16, dtype=torch.float32)
    y, _ = made(x, time, valid)
    y.square().mean().backward()
    still = {k for k, p in made.named_parameters() if p.grad is None or not float(p.grad.abs().max()) > 0.0}
    assert not still
    assert all(bool(torch.isfinite(p.grad).all()) for p in made.parameters() if p.grad is not None)


def test_under_autocast_gates_and_memory_stay_in_float32() -> None:
    torch.manual_seed(0)
    made, (x, time, valid) = GatedKalmaNet(32, 16), rows(100, 2, 32, dtype=torch.float32)
    wanted, whole = made(x, time, valid)
    with torch.autocast("cpu", torch.bfloat16):
        inputs, taps = made.asked(x, time, valid, made.start(2))
        y, state = made(x, time, valid)
        stepped, after = made.step(x[0], None, None, made.start(2))
        y.float().sum().backward()
    assert [v.dtype for v in inputs if v is not None] == [torch.bfloat16] * 3 + [torch.float32] * 2
    assert {v.dtype for v in (taps, state.H, state.U, state.taps, after.H, after.U)} == {torch.float32}
    assert y.dtype == stepped.dtype == torch.bfloat16
    assert gap(y, wanted) < 2e-2 and gap(state.H, whole.H) < 1e-2
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in made.parameters())


@torch.no_grad()
def test_in_bfloat16_throughout_its_memory_is_still_float32() -> None:
    torch.manual_seed(0)
    made, (x, time, valid) = GatedKalmaNet(32, 16), rows(100, 2, 32, dtype=torch.float32)
    wanted, _ = made(x, time, valid)
    y, state = made.bfloat16()(x.bfloat16(), time, valid)
    assert (y.dtype, state.H.dtype, state.taps.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert gap(y, wanted) < 4e-2


def test_torch_compile_takes_a_block() -> None:
    torch.manual_seed(0)
    made, (x, time, valid) = GkaBlock(16, 8, steps=5), rows(9, 2, 16, dtype=torch.float32)
    compiled: Any = torch.compile(made, backend="aot_eager")
    found = []
    for run in (made, compiled):
        made.zero_grad()
        y, state = run(x, time, valid)
        (y.square().sum() + state.H.sum()).backward()
        found.append([y, state.U, *(p.grad for p in made.parameters())])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", BLOCKS)
@torch.no_grad()
def test_a_block_is_called_as_any_other_block(which: str) -> None:
    """The calls that a model makes of its blocks, on each of the kinds."""
    torch.manual_seed(0)
    block = BLOCKS[which]().double()
    x, time, valid = rows(11, 2, 16)
    block.cap()
    whole, end = block(x, time, valid)
    assert whole.shape == x.shape
    state = block.start(2)
    first, state = block(x[:4], time[:4], valid[:4], state)
    out = [first]
    for t in range(4, 11):
        y, state = block.step(x[t], time[t], valid[t], state)
        out.append(y[None])
    torch.testing.assert_close(torch.cat(out), whole, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(state.taps, end.taps, rtol=1e-9, atol=1e-10)
    padded, _ = block(x, time, valid, lengths=torch.tensor([5, 11]))
    line = [torch.cat([v[:5, 0], v[:, 1]])[:, None] for v in (x, time, valid)]
    packed, _ = block(*line, offsets=torch.tensor([0, 5, 16], dtype=torch.int32))
    torch.testing.assert_close(packed[:5, 0], padded[:5, 0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(packed[5:, 0], whole[:, 1], rtol=1e-9, atol=1e-10)


@torch.no_grad()
def test_a_learned_trackers_network_runs_on_these_blocks() -> None:
    """`ResidualKoss.sequence`, whole and plot by plot, with gaps in seconds."""
    torch.manual_seed(0)
    config = ResidualConfig(width=16, head=8, blocks=2)
    model = ResidualKoss(config)
    model.blocks = torch.nn.ModuleList(GkaBlock(config.width, config.head) for _ in range(config.blocks))
    told, time, _ = rows(12, 3, model.inward.in_features, dtype=torch.float32)
    whole, _ = model.sequence(told, 5.0 * time, None)
    state: Any = None
    for t in range(12):
        y, state = model.sequence(told[t : t + 1], 5.0 * time[t : t + 1], state)
        torch.testing.assert_close(y[0], whole[t], rtol=1e-4, atol=1e-4)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "heads that do not fit": ({"width": 10, "head": 4}, "width 10 is not a multiple of the head's 4 numbers"),
    "no width": ({"width": 0}, "width 0, head 64 and heads None must be 1 or more"),
    "no heads": ({"width": 8, "heads": 0}, "heads 0 must be 1 or more"),
    "no values": ({"width": 8, "value_head": 0}, "value_head is 0, expected 1 or more"),
    "no ridge": ({"width": 8, "ridge": 0.0}, "ridge is 0.0, expected a number above 0"),
    "no iterations": ({"width": 8, "steps": 0}, "steps is 0, expected a whole number of iterations"),
    "no backend": ({"width": 8, "backend": "cuda"}, "backend 'cuda' is not one of auto, reference, torch, triton"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_options_that_do_not_fit_are_refused(fault: str) -> None:
    options, words = FAULTS[fault]
    with pytest.raises(EstimatorError, match=re.escape(words)):
        GatedKalmaNet(**options)


def test_a_block_refuses_a_negative_second_part() -> None:
    with pytest.raises(EstimatorError, match="hidden is -1, expected 0 or more"):
        GkaBlock(8, 4, hidden=-1)


CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "flat": ({"x": torch.zeros(7, WIDTH)}, "x is (7, 8) torch.float32, expected floating (T, B, 8)"),
    "wide": ({"x": torch.zeros(7, 2, 9)}, "x is (7, 2, 9) torch.float32, expected floating (T, B, 8)"),
    "whole": ({"x": torch.zeros(7, 2, WIDTH, dtype=torch.int64)}, "torch.int64, expected floating"),
    "gap": ({"gap": torch.ones(7)}, "gap is (7,), expected (7, 2)"),
    "valid": ({"valid": torch.ones(7, 3, dtype=torch.bool)}, "valid is (7, 3), expected (7, 2)"),
    "valid as numbers": ({"valid": torch.ones(7, 2)}, "valid is torch.float32, expected torch.bool"),
    "lengths": ({"lengths": torch.tensor([1, 2, 3])}, "lengths is (3,), expected (2,)"),
    "long lengths": ({"lengths": torch.tensor([1, 8])}, "lengths are 1 to 8, expected 0 to 7"),
    "lengths as numbers": ({"lengths": torch.ones(2)}, "lengths is torch.float32, expected torch.int32"),
    "offsets of a batch": ({"offsets": torch.tensor([0, 7])}, "packed sequences are x (ΣT, 1, D) with offsets"),
    "offsets that fall": (
        {"x": torch.zeros(7, 1, WIDTH), "offsets": torch.tensor([0, 5, 4, 7])},
        "must rise from 0 to 7, the rows of x",
    ),
    "a pair": ({"state": (1, 2)}, "the state is a tuple, expected the GkaState of an earlier call"),
    "another batch's": (
        {"state": GatedKalmaNet(WIDTH, HEAD).start(3)},
        "the state's H is (3, 2, 4, 4), expected (2, 2, 4, 4)",
    ),
    "another layer's": (
        {"state": GatedKalmaNet(WIDTH, HEAD, value_head=2).start(2)},
        "the state's U is (2, 2, 4, 2), expected (2, 2, 4, 4)",
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_that_do_not_fit_are_refused(call: str) -> None:
    changed, words = CALLS[call]
    made = GatedKalmaNet(WIDTH, HEAD)
    given = {"x": torch.zeros(7, 2, WIDTH), **changed}
    with pytest.raises(EstimatorError, match=re.escape(words)):
        made(**given)


def test_what_the_operator_refuses_is_refused_with_its_words() -> None:
    with pytest.raises(EstimatorError, match="backend triton has no kernel for this: q is float64"):
        layer(backend="triton")(rows(3)[0])
    with pytest.raises(EstimatorError, match=re.escape("x is (2, 9) torch.float32, expected floating")):
        GkaBlock(8, 4).step(torch.zeros(2, 9), None, None, GkaBlock(8, 4).start(2))
    with pytest.raises(EstimatorError, match=re.escape("gap is (1, 3), expected (1, 2)")):
        GkaBlock(8, 4).step(torch.zeros(2, 8), torch.ones(3), None, GkaBlock(8, 4).start(2))
