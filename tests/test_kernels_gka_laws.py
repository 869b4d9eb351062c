"""What Gated KalmaNet's operator is beside others': Kalman filters, gated linear attention; and the laws it keeps."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from filterpy.kalman import KalmanFilter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ssrtrack.kernels import gka_reference, gka_torch
from ssrtrack.kernels.gka import gka, gka_step
from ssrtrack.kernels.gka_form import GkaForm, GkaInputs
from tests.gka_cases import SOLVED, Case, by, gap, inputs_of

Tensor = torch.Tensor
TIMED = ("q", "k", "v", "log_decay", "alpha")


def case(**options: Any) -> Case:
    """A row in float64, solved to rounding."""
    return Case(**{"D": 8, "V": 5, "dtype": "float64", "steps": SOLVED, **options})


def whole(inputs: GkaInputs) -> GkaInputs:
    """The first head of the first sequence: tensors of one sequence alone."""
    parts = {name: v[:1, :, :1] for name in TIMED if (v := getattr(inputs, name)) is not None}
    states = {name: v[:1, :1] for name in ("H0", "U0") if (v := getattr(inputs, name)) is not None}
    return inputs._replace(**parts, **states)


def filters(prior: Tensor, mean: Tensor) -> list[Any]:
    """A Kalman filter of a constant s (D,) for each column of mean (D, V), which sees kᵀ s with noise of variance 1."""
    found = []
    for column in mean.T:
        kf = KalmanFilter(dim_x=len(column), dim_z=1)
        kf.x, kf.P = column.numpy()[:, None].copy(), prior.numpy().copy()
        kf.R, kf.Q = np.eye(1), np.zeros((len(column), len(column)))
        found.append(kf)
    return found


def recall(bank: list[Any], q: Tensor) -> tuple[np.ndarray, float]:
    """What the filters hold of qᵀ s, and its variance."""
    x = q.numpy()
    return np.array([(x @ kf.x).item() for kf in bank]), (x @ bank[0].P @ x).item()


def test_a_constant_ridge_without_decay_is_a_kalman_filter_of_full_covariance() -> None:
    """Prior N(0, I/λ), unit noise (section 6): S_t = (H_t + λ I)⁻¹ U_t is its mean, (H_t + λ I)⁻¹ its covariance."""
    ridge, row = 0.4, case(B=1, T=25, H=1, decay=0.0, start=False, alpha="none", keys="loose")
    q, k, v, log_decay, *_ = (part if part is None else part.squeeze() for part in inputs_of(row)[:4])
    assert log_decay is not None
    H, U = torch.zeros(8, 8, dtype=torch.float64), torch.zeros(8, 5, dtype=torch.float64)
    form = GkaForm(ridge, adaptive=False)
    o, variance, H, U = gka_reference.gka_loop(q, k, v, log_decay, torch.ones_like(log_decay), H, U, form)
    bank = filters(torch.eye(8, dtype=torch.float64) / ridge, torch.zeros(8, 5, dtype=torch.float64))
    for t in range(25):
        for kf, value in zip(bank, v[t], strict=True):
            kf.update(value.numpy(), H=k[t : t + 1].numpy())
        mean, spread = recall(bank, q[t])
        np.testing.assert_allclose(o[t].numpy(), mean, rtol=1e-9, atol=1e-12)
        assert variance[t].item() == pytest.approx(spread, rel=1e-9)
    chunks, _, _ = gka_torch.forward(inputs_of(row), replace(form, steps=400), False)
    np.testing.assert_allclose(chunks.squeeze().numpy(), o.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.3, 3.0])
def test_the_operator_is_a_filter_whose_prior_comes_back(decay: float) -> None:
    """The adaptive ridge, gates and all: a filter with fading memory into which the prior N(0, I) is put again.

    Forgetting makes of the information Λ = H + λ I only γ Λ. What is missing to λ_t, which is never less than
    γ λ_{t−1}, comes as information λ_t − γ λ_{t−1} about every number of s, that it is 0: a measurement.
    """
    row = case(B=1, T=30, H=1, decay=decay, alpha="none", keys="loose")
    inputs = inputs_of(row)
    assert inputs.H0 is not None and inputs.U0 is not None
    o, _ = gka(*inputs[:5], steps=SOLVED, scale=1.0, initial_state=(inputs.H0, inputs.U0))
    H, state = inputs.H0.squeeze(), (inputs.H0, inputs.U0)
    eye = torch.eye(8, dtype=torch.float64)
    lam = 0.02 * H.norm()
    prior = torch.linalg.inv(H + lam * eye)
    bank = filters(prior, prior @ inputs.U0.squeeze())
    for t in range(row.T):
        q, k, v, log_decay = (part[:, t] for part in inputs[:4])
        gamma, key = log_decay.exp().squeeze(), k.squeeze()
        H = gamma * H + torch.outer(key, key)
        again = (0.02 * H.norm() - gamma * lam).item()
        lam = 0.02 * H.norm()
        assert again >= 0.0
        for kf, value in zip(bank, v.squeeze(), strict=True):
            kf.alpha = gamma.item() ** -0.5
            kf.predict()
            kf.update(np.zeros((8, 1)), R=np.eye(8) / max(again, 1e-30), H=np.eye(8))
            kf.update(value.numpy(), H=key[None].numpy())
        mean, spread = recall(bank, q.squeeze())
        np.testing.assert_allclose(o[0, t, 0].numpy(), mean, rtol=1e-8, atol=1e-11)
        _, state, variance = gka_step(q, k, v, log_decay, None, state, steps=SOLVED, variance=True)
        assert variance.item() == pytest.approx(spread, rel=1e-8)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_without_ridge_it_is_gated_linear_attention(backend: str) -> None:
    """α = 0: o_t = D^−½ Σ_{i ≤ t} e^{G_t − G_i} (q_t·k_i) v_i."""
    inputs = inputs_of(case(T=70, decay=0.5, start=False, alpha=0.0))
    o, _ = gka(*inputs[:5], backend=backend)
    q, k, v, G = (part.transpose(1, 2) for part in (*inputs[:3], inputs.log_decay.cumsum(1)))
    weights = (G[..., :, None] - G[..., None, :]).tril().exp().tril()
    want = ((q @ k.mT) * weights) @ v / 8**0.5
    assert gap(o, want.transpose(1, 2)) < 1e-12


def test_without_decay_and_with_ridge_it_is_ridge_regression() -> None:
    """α = 1, γ = 1: U_tᵀ(H_t + λ I)⁻¹ is what least squares with a penalty λ‖S‖² finds from the rows so far."""
    inputs = whole(inputs_of(case(T=20, decay=0.0, start=False, alpha=1.0)))
    o, _ = gka(*inputs[:5], steps=SOLVED, scale=1.0)
    q, k, v = (part.squeeze() for part in inputs[:3])
    for t in (0, 5, 19):
        keys, values = k[: t + 1], v[: t + 1]
        lam = 0.02 * (keys.T @ keys).norm()
        rows = torch.cat([keys, lam.sqrt() * torch.eye(8, dtype=torch.float64)])
        right = torch.cat([values, torch.zeros(8, 5, dtype=torch.float64)])
        assert gap(o[0, t, 0], q[t] @ torch.linalg.lstsq(rows, right).solution) < 1e-10


@given(T=st.integers(2, 90), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=10)
def test_two_parts_are_the_whole(T: int, seed: int, data: st.DataObject) -> None:
    """Outputs, states, and the gradient through the state that the first part hands to the second."""
    row, cut = case(T=T, B=1, D=4, V=3, steps=20), data.draw(st.integers(1, T - 1))
    inputs = inputs_of(row, seed)
    found = []
    for parts in ((slice(T),), (slice(cut), slice(cut, T))):
        leaves = {name: v.clone().requires_grad_() for name, v in inputs._asdict().items() if v is not None}
        given, outputs = GkaInputs(**leaves), []
        for part in parts:
            o, H, U = by("torch")(given._replace(**{name: leaves[name][:, part] for name in TIMED}), row.form)
            given = given._replace(H0=H, U0=U)
            outputs.append(o)
        joined = torch.cat(outputs, 1)
        loss = joined.square().sum() + (H * H.detach().cos()).sum() + U.square().sum()
        found.append([joined, H, U, *torch.autograd.grad(loss, list(leaves.values()))])
    assert all(gap(a, b) < 1e-10 for a, b in zip(*found, strict=True))


def test_ten_thousand_single_steps_are_the_chunks() -> None:
    """In float32, states carried from step to step: no drift, the same outputs to the end."""
    inputs = inputs_of(Case(T=10_000, B=1, H=2, D=8, V=4, decay=0.05, start=False))
    want, last = gka(*inputs[:5], output_final_state=True)
    state, outputs = None, []
    with torch.no_grad():
        for t in range(10_000):
            o, state = gka_step(*(part[:, t] for part in inputs[:5] if part is not None), state)  # type: ignore[misc]
            outputs.append(o)
    got = torch.stack(outputs, 1)
    assert last is not None and state is not None
    for part in (slice(None), slice(-100, None)):
        assert gap(got[:, part], want[:, part]) < 1e-5
    assert max(gap(a, b) for a, b in zip(state, last, strict=True)) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("alpha", ["some", "none"])
@pytest.mark.parametrize("keys", ["zero", "collinear"])
def test_a_step_is_a_sequence_of_one(keys: str, alpha: str, dtype: str) -> None:
    inputs = inputs_of(Case(T=12, D=16, V=8, dtype=dtype, alpha=alpha, keys=keys, start=False))
    state, whole = None, by("torch")(inputs, GkaForm(scale=0.25))
    for t in range(12):
        alone = None if inputs.alpha is None else inputs.alpha[:, t]
        o, state = gka_step(*(part[:, t] for part in inputs[:4]), alone, state)
        assert o.dtype == inputs.v.dtype
        assert gap(o, whole[0][:, t]) < {"float32": 2e-4, "bfloat16": 4e-3, "float64": 1e-12}[dtype]
    assert state is not None
    for got, want in zip(state, whole[1:], strict=True):
        assert got.dtype == (torch.float64 if dtype == "float64" else torch.float32)
        assert gap(got, want) < 1e-6


def test_a_step_has_the_gradient_of_its_iterations() -> None:
    row = case(T=1, D=4, V=3, B=1, H=1, steps=3)
    inputs = inputs_of(row)
    leaves = [v.requires_grad_() for v in inputs[:7] if v is not None]

    def step(*given: Tensor) -> tuple[Tensor, ...]:
        *timed, H, U = given
        o, state, variance = gka_step(*(part[:, 0] for part in timed), (H, U), steps=3, variance=True)  # type: ignore[misc]
        return (o, *state, variance)

    assert torch.autograd.gradcheck(step, leaves)


def test_where_nothing_is_held_the_variance_is_infinite() -> None:
    """And the outputs are 0, not NaN, as are the gradients of what had no part in anything."""
    zeros, q = torch.zeros(1, 2, 4), torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    o, state, variance = gka_step(q, zeros, zeros, zeros[..., 0], None, None, variance=True)
    assert torch.all(o == 0.0) and torch.all(torch.isinf(variance)) and torch.all(state[0] == 0.0)
    (g,) = torch.autograd.grad(o.sum(), q)
    assert torch.all(g == 0.0)
    _, _, later = gka_step(q, q / q.norm(dim=-1, keepdim=True), zeros, zeros[..., 0], None, state, variance=True)
    assert torch.all(torch.isfinite(later))


def test_variance_falls_along_keys_that_were_seen_and_grows_as_they_are_forgotten() -> None:
    key, other = torch.eye(4)[0].expand(1, 1, 4), torch.eye(4)[1].expand(1, 1, 4)
    value, gate = torch.ones(1, 1, 2), torch.zeros(1, 1)
    _, state = gka_step(other, other, value, gate, None, None)
    spreads = []
    for _ in range(5):
        _, state, spread = gka_step(key, key, value, gate, None, state, variance=True)
        spreads.append(spread.item())
    assert all(b < a for a, b in pairwise(spreads))
    _, _, spread = gka_step(key, other, value, gate - 2.0, None, state, variance=True)
    assert spread.item() > 2.0 * spreads[-1]


@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_recall_does_not_depend_on_the_keys_size(scale: float) -> None:
    """The adaptive ridge: for keys and queries c k and c q, H and λ grow as c², and o stays."""
    inputs = inputs_of(case(T=20, start=False, alpha="none", steps=30))
    o, _ = gka(*inputs[:5])
    sized, _ = gka(scale * inputs.q, scale * inputs.k, *inputs[2:5])
    assert gap(sized, o) < 1e-9


def test_the_future_has_no_part_in_the_past() -> None:
    inputs = inputs_of(case(T=80, steps=10))
    o, _, _ = by("torch")(inputs, GkaForm(steps=10))
    later = inputs._replace(k=inputs.k.clone(), v=inputs.v.clone(), log_decay=inputs.log_decay.clone())
    for part in (later.k, later.v, later.log_decay):
        part[:, 70] -= 0.5
    other, _, _ = by("torch")(later, GkaForm(steps=10))
    assert torch.equal(other[:, :70], o[:, :70])
    assert not torch.equal(other[:, 70], o[:, 70])


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("reset", [-float("inf"), -1e30, -500.0])
def test_a_decay_to_nothing_begins_anew(reset: float, backend: str) -> None:
    """γ = 0: the steps from there on are a sequence of their own, and no gradient reaches back, nor is one NaN."""
    row = case(B=1, T=12, start=False, steps=20)
    inputs = inputs_of(row)
    inputs.log_decay[:, 5] = reset
    o, H, U = by(backend)(inputs, row.form)
    after = GkaInputs(*(v[:, 5:] for v in inputs[:5] if v is not None))
    alone = by(backend)(after, row.form)
    assert gap(o[:, 5:], alone[0]) < 1e-10
    assert max(gap(H, alone[1]), gap(U, alone[2])) < 1e-10
    leaves = [v.requires_grad_() for v in inputs[:5] if v is not None]
    o, _, _ = by(backend)(GkaInputs(*leaves), row.form)
    for g in torch.autograd.grad(o[:, 5:].square().sum(), leaves):
        assert torch.all(g[:, :5].abs() < 1e-30) and torch.all(torch.isfinite(g))


def test_sequences_and_heads_know_nothing_of_each_other() -> None:
    row = case(B=3, T=9, H=2, steps=10)
    inputs = inputs_of(row)
    o, H, U = by("torch")(inputs, row.form)
    alone = by("torch")(
        GkaInputs(*(v[1:2, ..., :] if v.ndim != 3 else v[1:2] for v in inputs[:7] if v is not None)), row.form
    )
    assert gap(alone[0], o[1:2]) < 1e-12
    head = [v[:, :, 1:] for v in inputs[:5] if v is not None]
    assert inputs.H0 is not None and inputs.U0 is not None
    single = by("torch")(GkaInputs(*head, inputs.H0[:, 1:], inputs.U0[:, 1:]), row.form)
    assert gap(single[0], o[:, :, 1:]) < 1e-12 and gap(single[1], H[:, 1:]) < 1e-12
    packed = GkaInputs(
        *(v.flatten(0, 1)[None] for v in inputs[:5] if v is not None), inputs.H0, inputs.U0,
        torch.arange(0, 36, 9, dtype=torch.int64),
    )  # fmt: skip
    together = by("torch")(packed, row.form)
    assert gap(together[0], o.flatten(0, 1)[None]) < 1e-12 and gap(together[2], U) < 1e-12


def test_a_very_strong_decay_still_has_an_exact_gradient() -> None:
    """∂L/∂log γ is a sum of what passes through a step, not a difference of what does not: e^−20 keeps its digits."""
    row = Case(B=1, T=40, H=1, D=8, V=8, steps=SOLVED, start=False)
    inputs = inputs_of(row)
    found = []
    for run, dtype in ((by("torch"), torch.float32), (gka_reference.forward, torch.float64)):
        leaf = (inputs.log_decay.to(dtype) - 20.0).requires_grad_()
        given = [v.to(dtype) for v in inputs[:3]]
        o, _, _ = run(GkaInputs(*given, leaf, None), row.form)
        found.append(torch.autograd.grad(o.sum(), leaf)[0])
    assert found[1].abs().max() < 1e-6
    assert gap(*found) < 1e-3


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How many numbers torch's operations make, all together, views not counted."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for v in out if isinstance(out, tuple | list) else (out,):
            self.numbers += v.numel() if isinstance(v, Tensor) and v._base is None else 0
        return out


def cost(T: int) -> tuple[float, float]:
    """Numbers made and numbers kept for the gradient, for each step."""
    leaves = [v.requires_grad_() for v in inputs_of(case(T=T, B=1, steps=5, start=False))[:5] if v is not None]
    kept = []

    def keep(v: Tensor) -> Tensor:
        kept.append(v.numel())
        return v

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda v: v), Work() as work:  # type: ignore[no-untyped-call]
        o, _ = gka(*leaves, steps=5, backend="torch")
        torch.autograd.grad(o.sum(), leaves)
    return work.numbers / T, sum(kept) / T


def test_work_and_memory_grow_as_the_steps() -> None:
    """Forward and backward: a step costs the same in a sequence eight times as long, and no iteration is remembered."""
    short, long = cost(128), cost(1024)
    assert long[0] <= 1.05 * short[0]
    assert long[1] <= 1.05 * short[1]
    # Two heads: q, k, x of 8 numbers, v of 5, two gates and a norm.
    assert long[1] <= 2 * (3 * 8 + 5 + 3)
