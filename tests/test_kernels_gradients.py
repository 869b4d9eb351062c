"""Gradients of the torch backend against differences, and that nothing that is not there makes one NaN."""

from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.kernels import kalman_torch
from ssrtrack.kernels.kalman_form import Form
from ssrtrack.kernels.kalman_layout import Layout
from tests.engine_cases import BANKS, OPTIONS
from tests.kernels_fixture import Packed, flights, packed

TAIL = {"tail_weight": 0.05, "tail_scale": 6.0}
CASES = [("kf", {}), ("singer", {}), ("ekf", {}), ("ukf-ct", {}), ("imm2", TAIL), ("imm", {})]
# How far each column is moved, in its unit: some standard deviations of a plot, whose gradients are then of order 1.
SCALE = np.array([1.0, 50.0, 50.0, 1e3, 1e3, 1e3] + [50.0, 5e-3, 5e-3, 1e3, 1e-6, 1e2] + [3e-3] * 6 + [50.0] * 3)
# x, y, vx, vy and the upper triangle of their covariance, in m and m/s.
SPREAD = np.array([50.0, 50.0, 10.0, 10.0])
ESTIMATE = np.concatenate([SPREAD, np.outer(SPREAD, SPREAD)[np.triu_indices(4)]])[:, None]
OUTPUTS = ("filtered", "log_likelihood", "state")


def two_tracks(name: str, options: dict[str, float], missing: bool) -> Packed:
    """Three plots and two; without the second plot of the first track if `missing`."""
    x = packed(name, flights(5, (3, 2)), **options)
    columns = x.columns.copy()
    # The flights' own misses are filled in, so that only the wanted one is left.
    columns[3:6] = np.where(columns[3] > 0.0, columns[3:6], np.array([[3600.0], [900.0], [5200.0]]))
    columns[1:3] = np.where(columns[1:3] != 0.0, columns[1:3], columns[1:3, :1])
    # No step of 0 s: there the chain's probabilities have an edge, where differences are of one side only.
    columns[0, :2] = 4.0
    if missing:
        columns[1:6, 2] = 0.0
    return Packed(x.form, x.vector, columns, x.layout)


def state_scale(form: Form, state: Any) -> Any:
    """How far a state's scalars are moved: a thousandth of them, and at least so much."""
    return np.maximum(1e-3 * np.abs(state), 1e-3)


def results(form: Form, vector: Any, columns: Any, layout: Layout, state: Any) -> tuple[Any, Any]:
    """Filtered estimates in units of a plot's spread, and the log-likelihood of all plots."""
    found, _ = kalman_torch.scan(form, vector, columns, layout, OUTPUTS[:2], state)
    return found["filtered"] / torch.from_numpy(ESTIMATE), found["log_likelihood"].sum()


def moved(values: Any, scale: Any) -> tuple[Any, Any]:
    """Zeros to differentiate by, and what makes values of them. Infinite values stay."""
    base, step = torch.from_numpy(values), torch.from_numpy(np.broadcast_to(scale, values.shape).copy())
    return torch.zeros_like(base, requires_grad=True), lambda e: base + torch.where(base.isfinite(), step, 0.0) * e


@pytest.mark.parametrize(
    ("name", "options", "missing"),
    [(*case, False) for case in CASES] + [(*case, True) for case in CASES if case[0] in ("kf", "ukf-ct", "imm2")],
)
def test_gradients_are_those_of_differences(name: str, options: dict[str, float], missing: bool) -> None:
    """By the parameters, the plots and the state to go on from."""
    x = two_tracks(name, options, missing)
    scale = np.broadcast_to(SCALE[: len(x.form.columns), None], x.columns.shape).copy()
    scale[1:, x.columns[3] == 0.0] = 0.0  # a variance off 0 would be a plot
    finite = np.where(np.isfinite(x.vector), x.vector, 0.0)
    vector, of_vector = moved(x.vector, np.maximum(1e-2 * np.abs(finite), 1e-4))
    columns, of_columns = moved(x.columns, scale)
    start = kalman_torch.scan(x.form, of_vector(vector), of_columns(columns), x.layout, (), None)[1].detach().numpy()
    state, of_state = moved(start, state_scale(x.form, start))

    def fresh(v: Any, c: Any) -> Any:
        return results(x.form, of_vector(v), of_columns(c), x.layout, None)

    def onward(v: Any, c: Any, s: Any) -> Any:
        return results(x.form, of_vector(v), of_columns(c), x.layout, of_state(s))

    tolerance = {"eps": 1e-4, "atol": 1e-6, "rtol": 1e-4, "fast_mode": True}
    assert torch.autograd.gradcheck(fresh, (vector, columns), **tolerance)
    assert torch.autograd.gradcheck(onward, (vector, columns, state), **tolerance)


@pytest.mark.parametrize(("name", "options"), [("kf", {}), ("ukf-ct", {}), ("imm2", TAIL)])
def test_gradients_of_the_smoother(name: str, options: dict[str, float]) -> None:
    x = two_tracks(name, options, False)
    vector, of_vector = moved(x.vector, 1e-2 * np.where(np.isfinite(x.vector), np.abs(x.vector), 0.0))
    columns, of_columns = moved(x.columns, SCALE[: len(x.form.columns), None])

    def smoothed(v: Any, c: Any) -> Any:
        p, z = of_vector(v), of_columns(c)
        states = kalman_torch.scan(x.form, p, z, x.layout, ("state",), None)[0]["state"]
        return kalman_torch.smooth(x.form, p, z[0], states, x.layout, None) / torch.from_numpy(ESTIMATE)

    assert torch.autograd.gradcheck(smoothed, (vector, columns), eps=1e-4, atol=1e-5, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize(
    ("name", "option"), [(n, "gate+tail") for n in BANKS] + [("ekf-ct", "plain"), ("imm2", "tail")]
)
def test_no_gradient_is_nan(name: str, option: str) -> None:
    """With misses, the last plots among them, outliers that close the gate, and plots at one time.

    Of the smoother, too: a miss at a flight's end leaves it nothing to tell apart, so its eigenvalues are equal.
    """
    z = packed(name, flights(7, (6, 6, 5, 2)), **OPTIONS[option])
    values = z.columns.copy()
    values[0, 9] = 0.0
    values[1:6, [6, 13, 18]] = 0.0
    values[1:3, 4:8] += 5e3
    columns = torch.tensor(values, requires_grad=True)
    vector = torch.tensor(z.vector, requires_grad=True)
    found, final = kalman_torch.scan(z.form, vector, columns, z.layout, OUTPUTS, None)
    by = (vector, columns)
    missing = values[3] == 0.0
    for result in (found["filtered"], found["log_likelihood"], final):
        of_vector, of_columns = torch.autograd.grad(result.sum(), by, retain_graph=True)
        assert bool(of_vector.isfinite().all())
        assert bool(of_columns.isfinite().all())
        # What stands where there is no plot teaches nothing.
        assert not of_columns[1:, missing][:5].any()
    smoothed = kalman_torch.smooth(z.form, vector, columns[0], found["state"], z.layout, None)
    for gradient in torch.autograd.grad(smoothed.sum(), by):
        assert bool(gradient.isfinite().all())


def test_the_likelihoods_gradient_climbs_to_the_noise_that_is_there() -> None:
    """What the gradients are for: from three times too much noise, descent finds the process noise of the flights."""
    rng = np.random.default_rng(3)
    tracks, plots, true = 200, 12, 20.0
    layout = Layout.of(np.full(tracks, plots))
    dt = np.full((plots, tracks), 4.0)
    position, velocity, rows = np.zeros((tracks, 2)), 170.0 * rng.standard_normal((tracks, 2)), []
    root = np.linalg.cholesky(true * np.array([[4.0**3 / 3.0, 4.0**2 / 2.0], [4.0**2 / 2.0, 4.0]]))
    for _ in range(plots):
        rows.append(position + 50.0 * rng.standard_normal((tracks, 2)))
        kick = np.einsum("ij,ntj->nti", root, rng.standard_normal((tracks, 2, 2)))
        position, velocity = position + 4.0 * velocity + kick[..., 0], velocity + kick[..., 1]
    z = np.stack(rows).reshape(-1, 2).T
    flat = np.ones(layout.plots)
    columns = torch.from_numpy(np.stack([dt.ravel(), z[0], z[1], 2500.0 * flat, 0.0 * flat, 2500.0 * flat]))
    vector = torch.from_numpy(packed("kf", flights(5, (3, 2)), speed_sigma_mps=170.0).vector)
    log_q = torch.tensor(np.log(3.0 * true), requires_grad=True)
    form = Form(("cv",), "extended", "position", gate=False, tail=False)
    optimiser = torch.optim.LBFGS([log_q], line_search_fn="strong_wolfe", max_iter=8)

    def loss() -> Any:
        optimiser.zero_grad()
        numbers = torch.cat([log_q.exp()[None], vector[1:]])
        found, _ = kalman_torch.scan(form, numbers, columns, layout, ("log_likelihood",), None)
        value = -found["log_likelihood"].mean()
        value.backward()
        return value

    optimiser.step(loss)
    # Fisher's bound: about 2000 innovations hold a variance to 3 %, log q to some 8 %.
    assert abs(float(log_q.detach().exp()) / true - 1.0) < 0.25
