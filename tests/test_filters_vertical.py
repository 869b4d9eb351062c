"""The altitude filter: quantised climbs, gaps, padding, batches."""

import numpy as np
import pytest

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.vertical import LSB_COARSE_M, LSB_FINE_M, smooth_altitude
from ssrtrack.kernels import reference
from ssrtrack.units import FPM_MPS

TIME_S = 4.0 * np.arange(80.0)[None]


def quantised(height_m: np.ndarray, lsb_m: float) -> np.ndarray:
    return np.round(height_m / lsb_m) * lsb_m


@pytest.mark.parametrize(("lsb_m", "height_m", "rate_mps"), [(LSB_FINE_M, 3.0, 0.6), (LSB_COARSE_M, 9.0, 1.3)])
@pytest.mark.parametrize("climb_fpm", [0.0, 500.0, 1800.0, -2500.0])
def test_quantised_climbs_are_followed(lsb_m: float, height_m: float, rate_mps: float, climb_fpm: float) -> None:
    truth = 5000.0 + climb_fpm * FPM_MPS * TIME_S
    height, rate = smooth_altitude(TIME_S, quantised(truth, lsb_m).astype("f4"), np.ones_like(TIME_S, bool))
    error = (height - truth)[0, 20:]
    # A level flight's quantisation error is constant, so half a step is the best anyone can do.
    assert np.sqrt((error**2).mean()) < (height_m if climb_fpm else lsb_m / 2.0 + 0.1)
    assert np.sqrt(((rate[0, 20:] - climb_fpm * FPM_MPS) ** 2).mean()) < rate_mps


def test_it_is_the_kalman_filter_of_the_reference() -> None:
    rng = np.random.default_rng(0)
    time_s = np.cumsum(rng.uniform(2.0, 9.0, (1, 30)), 1)
    altitude = quantised(3000.0 + 8.0 * time_s, LSB_FINE_M)
    valid = rng.uniform(size=(1, 30)) < 0.7
    valid[0, 0] = True
    height, rate = smooth_altitude(time_s, altitude, valid)
    dt, R = np.diff(time_s[0]), LSB_FINE_M**2 / 12.0 + 4.0
    F, Q = np.tile(np.eye(2), (29, 1, 1)), np.empty((29, 2, 2))
    F[:, 0, 1] = dt
    Q[:, 0, 0], Q[:, 1, 1] = 0.1 * dt**3 / 3.0, 0.1 * dt
    Q[:, 0, 1] = Q[:, 1, 0] = 0.1 * dt**2 / 2.0
    x, P = np.array([altitude[0, 0], 0.0]), np.diag([R, 100.0])
    z, H = altitude[0, 1:, None], np.array([[1.0, 0.0]])
    mean = reference.kalman_filter(x, P, F, Q, z, H, np.full((29, 1, 1), R), valid[0, 1:])[2]
    np.testing.assert_allclose(np.stack([height[0, 1:], rate[0, 1:]], 1), mean, rtol=1e-9)


def test_gaps_padding_and_late_first_altitudes() -> None:
    altitude = np.tile(5000.0 + 10.0 * TIME_S, (3, 1))
    time_s, valid = np.tile(TIME_S, (3, 1)), np.ones((3, 80), bool)
    altitude[0, :5] = np.nan
    valid[1, 40:45] = False
    altitude[1, 40:45] = -1e6
    time_s[2, 60:] = np.nan
    height, rate = smooth_altitude(time_s, altitude, valid)
    assert np.isnan(height[0, :5]).all()
    assert np.isnan(rate[0, :5]).all()
    assert height[0, 5] == altitude[0, 5]
    assert rate[0, 5] == 0.0
    np.testing.assert_allclose(height[1, 40:45], 5000.0 + 10.0 * TIME_S[0, 40:45], atol=5.0)
    assert np.isnan(height[2, 60:]).all()
    for n in range(3):
        alone = smooth_altitude(time_s[n : n + 1], altitude[n : n + 1], valid[n : n + 1])
        np.testing.assert_array_equal(alone[0][0], height[n])


def test_it_is_causal() -> None:
    truth = quantised(5000.0 + 5.0 * TIME_S, LSB_FINE_M)
    changed = truth.copy()
    changed[0, 50:] += 3000.0 + LSB_FINE_M
    before, after = (smooth_altitude(TIME_S, a, np.ones_like(TIME_S, bool))[0] for a in (truth, changed))
    np.testing.assert_array_equal(before[0, :50], after[0, :50])


def test_wrong_shapes_and_times_are_refused() -> None:
    with pytest.raises(EstimatorError, match="shape"):
        smooth_altitude(TIME_S, TIME_S[:, 1:], TIME_S > 0)
    with pytest.raises(EstimatorError, match="backwards"):
        smooth_altitude(TIME_S[:, ::-1], TIME_S, TIME_S >= 0)
