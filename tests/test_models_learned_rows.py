"""What a stepped tracker computes in compiled rows is what torch computes over whole flights."""

from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.kernels import rows_numba
from ssrtrack.models.features import Newest, feature_count, told_of
from ssrtrack.models.learned_rows import programs, table
from ssrtrack.models.residual import ASIDE, correction
from ssrtrack.models.residual_frames import frame_of, where_known
from tests.models_fixture import base, network

NOMINAL_S = 5.0
COUNT = 203  # no multiple of a register or a block


def estimates(rng: Any, count: int = COUNT) -> Any:
    """(N, 14) with covariances that are positive definite, some of them hardly; the first stands still."""
    root = rng.normal(size=(count, 4, 4)) * np.array([80.0, 150.0, 4.0, 9.0])[:, None]
    P = root @ root.swapaxes(1, 2) + np.diag([1.0, 1.0, 0.01, 0.01])
    mean = np.concatenate([rng.normal(0.0, 5e4, (count, 2)), rng.normal(0.0, 150.0, (count, 2))], 1)
    mean[0, 2:] = 0.0
    upper = np.triu_indices(4)
    return np.concatenate([mean, P[:, upper[0], upper[1]]], 1)


def plots_near(rng: Any, rows: Any) -> Any:
    """Plots (N, 5) about estimates, one in ten far off."""
    far = np.where(rng.uniform(size=(len(rows), 1)) < 0.1, 1e4, 200.0)
    xx, yy = rng.uniform(2e3, 4e4, (2, len(rows)))
    xy = rng.uniform(-0.9, 0.9, len(rows)) * np.sqrt(xx * yy)
    return np.column_stack([rows[:, :2] + far * rng.normal(size=(len(rows), 2)), xx, xy, yy])


@pytest.mark.parametrize("modes, history", [(4, 4), (0, 0)])
def test_what_a_network_is_told(modes: int, history: int) -> None:
    rng = np.random.default_rng(1)
    predicted, filtered = estimates(rng), estimates(rng)
    plot, past = plots_near(rng, filtered), [plots_near(rng, filtered) for _ in range(history)]
    age, before = rng.uniform(0.0, 60.0, (COUNT, history)).cumsum(1), rng.normal(0.0, 150.0, (COUNT, 2))
    probability = rng.dirichlet(np.ones(4), COUNT)[:, :modes]
    gap, count = rng.choice([0.0, 0.01, 4.0, 300.0], COUNT), rng.integers(0, 200, COUNT)
    count[:9] = range(9)
    before[0] = 0.0
    before[1] = filtered[1, 2:4]
    used, range_m, azimuth = rng.uniform(size=COUNT) < 0.8, rng.uniform(0.0, 3e5, COUNT), rng.uniform(0, 6.3, COUNT)
    predicted[count == 0] = 0.0  # before a first plot there is nothing, and nothing may be made of it
    rest = table(gap, used, range_m, np.sin(azimuth), np.cos(azimuth), count)
    tables = [predicted, filtered, before, plot, table(*past) if history else np.zeros((COUNT, 0)), age, probability]
    out = np.empty((COUNT, feature_count(modes, history) + 2 * history + 4))
    programs(modes, history, NOMINAL_S).told([*tables, rest], out)

    def columns(values: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, 0, -1)))

    told = told_of(
        Newest(
            predicted=where_known(columns(predicted), columns(count > 0)), filtered=columns(filtered),
            before=columns(before), gap_s=columns(gap), plot=columns(plot),
            past=columns(np.stack(past, 1)) if history else torch.zeros(0, 5, COUNT, dtype=torch.float64),
            past_age_s=columns(age), modes=columns(probability), used=columns(used), range_m=columns(range_m),
            sin_azimuth=columns(np.sin(azimuth)), cos_azimuth=columns(np.cos(azimuth)), count=columns(count),
        ),
        NOMINAL_S,
    )  # fmt: skip
    wanted = torch.cat([told.features, told.offsets], -1).double().numpy()
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("since_s", [0.0, 1e-3, 7.0, 300.0])
def test_the_estimate_now_and_later(since_s: float) -> None:
    rng = np.random.default_rng(2)
    model = network(base("imm"))
    then, now = estimates(rng), estimates(rng)
    if since_s == 0.0:
        now = then
    raw = rng.normal(0.0, 4.0, (COUNT, 14)).astype(np.float32)
    y = torch.from_numpy(rng.normal(size=(COUNT, model.config.width)).astype(np.float32))
    since = np.full(COUNT, since_s)
    compiled = programs(4, 4, NOMINAL_S)
    aside, found, here = np.empty((COUNT, ASIDE + 4)), np.empty((COUNT, 20)), np.empty((COUNT, 20))
    compiled.ahead([then, now, table(raw), table(since)], aside)
    with torch.no_grad():
        head = model.ahead_numbers(torch.cat([y, torch.from_numpy(aside[:, :ASIDE]).float()], -1)).numpy()
        before, after = (frame_of(torch.from_numpy(rows.T.copy())) for rows in (then, now))
        later = model.ahead(y, torch.from_numpy(raw), before, after, torch.from_numpy(since)).moments()
        own = correction(after, torch.from_numpy(raw)).moments()
    compiled.later([now, table(raw), table(since), table(head), table(aside[:, ASIDE:])], found)
    compiled.here([now, table(raw)], here)
    # Of a standard deviation: torch rounds the correction's numbers to float32.
    for rows, (mean, covariance) in ((here, own), (found, own if since_s == 0.0 else later)):
        sigma = np.sqrt(np.diagonal(covariance.numpy(), axis1=1, axis2=2))
        assert (np.abs(rows[:, :4] - mean.numpy()) / sigma).max() < 2e-3
        scale = sigma[:, :, None] * sigma[:, None, :]
        assert (np.abs(rows[:, 4:].reshape(-1, 4, 4) - covariance.numpy()) / scale).max() < 2e-3


def test_functions_that_only_rows_use() -> None:
    """asinh, tanh, log1p, hypot and limits, over all sizes that a filter meets."""
    x = np.concatenate([[0.0, -0.0], *(sign * np.logspace(-12, 9, 400) for sign in (1.0, -1.0))])
    own = rows_numba.compiled(
        "functions",
        lambda a, b: [
            a[0].asinh(), a[0].tanh(), b[0].log1p(), a[0].hypot(b[0]), a[0].clamp(min=-2.0, max=3.0), 7.0, a[0],
        ],
        (1, 1), 7,
    )  # fmt: skip
    out = np.empty((len(x), 7))
    own([x[:, None], np.abs(x)[:, None]], out)
    seven = np.full_like(x, 7.0)
    wanted = [np.arcsinh(x), np.tanh(x), np.log1p(np.abs(x)), np.hypot(x, np.abs(x)), x.clip(-2.0, 3.0), seven, x]
    for k, value in enumerate(wanted):
        np.testing.assert_allclose(out[:, k], value, rtol=1e-14, atol=4e-16 if k < 3 else 0.0)


def test_a_formula_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="gives 1 results, expected 2"):
        rows_numba.compiled("short", lambda a: [a[0]], (1,), 2)
