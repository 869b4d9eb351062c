"""The posterior Cramér–Rao bound: the Riccati recursion itself, attained by the matched filter, never beaten."""

from pathlib import Path

import numpy as np
import pytest

from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.measurement import make_measurements, tracking_frame
from ssrtrack.geodesy import enu_to_polar
from ssrtrack.scoring.bound import bound_variances, polar_rows
from ssrtrack.scoring.evaluate import evaluate
from ssrtrack.tracking.truth import TruthWindow
from tests.scoring_fixture import (
    PERIOD_S,
    SIGMA_AZIMUTH_RAD,
    SIGMA_RANGE_M,
    SITE,
    paths,
    plots_table,
    radar,
    truth_table,
    write_log,
)


def test_the_recursion_in_information_form() -> None:
    """Tichavsky's J_{k+1} = (Q + F J^-1 F')^-1 + H' R^-1 H with plain inverses, for one flight with a turn."""
    rng = np.random.default_rng(2)
    position, velocity = paths(1, 30, rng, turn=True)
    plots, frame = plots_table(position, rng), tracking_frame(radar())
    index = np.arange(30)[None]
    z = make_measurements(plots, index, frame, sigma_range_m=None, sigma_azimuth_rad=None, sigma_height_m=1.0)
    window = TruthWindow([truth_table(position, velocity, turn=True)], SITE)
    truth = window.at(plots.truth_id, plots.time_s).grid(index)
    q, prior = 0.3, 170.0
    found = bound_variances(z, truth, speed_sigma_mps=prior, turbulence_psd_m2ps3=q)
    noise = np.diag([SIGMA_RANGE_M**-2, SIGMA_AZIMUTH_RAD**-2]).astype("f8")
    J = np.zeros((4, 4))
    J[2:, 2:] = np.eye(2) / prior**2
    T = PERIOD_S
    for k in range(30):
        if k:
            v0, v1 = truth.velocity_mps[0, k - 1], truth.velocity_mps[0, k]
            a = np.arctan2(v0[0] * v1[1] - v0[1] * v1[0], v0 @ v1)
            w = a / T if a else 1e-12
            s, c = np.sin(w * T), np.cos(w * T)
            F = np.array([[1, 0, s / w, -(1 - c) / w], [0, 1, (1 - c) / w, s / w], [0, 0, c, -s], [0, 0, s, c]])
            Q = q * np.kron(np.array([[T**3 / 3, T**2 / 2], [T**2 / 2, T]]), np.eye(2))
            J = np.linalg.inv(Q + F @ np.linalg.inv(J) @ F.T)
        place = np.array([*truth.position_m[0, k], truth.up_m[0, k]])
        H = np.zeros((2, 4))
        for i in range(2):
            step = np.zeros(3)
            step[i] = 0.5
            ahead, behind = enu_to_polar(place + step), enu_to_polar(place - step)
            H[:, i] = [ahead[0] - behind[0], (ahead[1] - behind[1] + np.pi) % (2 * np.pi) - np.pi]
        J = J + H.T @ noise @ H
        P = np.linalg.inv(J)
        assert found[0][0, k] == pytest.approx(P[0, 0] + P[1, 1], rel=1e-4)
        assert found[1][0, k] == pytest.approx(P[2, 2] + P[3, 3], rel=1e-4)


def test_gradients_of_a_second_radar_are_taken_in_its_own_place() -> None:
    radars = radar(
        name=[b"A", b"B"], latitude_deg=[47.0, 47.9], longitude_deg=[8.0, 9.1], height_m=[400.0, 900.0],
        rotation_period_s=[4.0, 4.0],
    )  # fmt: skip
    frame = tracking_frame(radars)
    point = np.array([30e3, 20e3, 5e3])
    rows = polar_rows(np.stack([point, point]), np.array([0, 1]), frame)

    def seen(p: np.ndarray, k: int) -> np.ndarray:
        slant, azimuth, _ = enu_to_polar(frame.rotation[k] @ (p - frame.position_m[k]))
        return np.array([slant, azimuth])

    for k in range(2):
        for i in range(2):
            step = np.zeros(3)
            step[i] = 1.0
            slope = (seen(point + step, k) - seen(point - step, k)) / 2.0
            np.testing.assert_allclose(rows[k][:, i], slope, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("psd", [0.0, 1.0])
def test_a_matched_filter_attains_the_bound_and_is_calibrated(tmp_path: Path, psd: float) -> None:
    rng = np.random.default_rng(21)
    position, velocity = paths(80, 45, rng, psd_m2ps3=psd)
    log = write_log(
        tmp_path / "a.h5", plots_table(position, rng), truth_table(position, velocity),
        extra={"turbulence_m2ps3": psd},
    )  # fmt: skip
    trackers = {"matched": make_estimator("ekf", q_m2s3=max(psd, 1e-9)), "sluggish": make_estimator("kf", q_m2s3=50.0)}
    result = evaluate([log], trackers, sigma_height_m=0.1, bootstrap=400)
    matched, sluggish = (t.scores for t in result.trackers)
    low, high = result.trackers[0].intervals["position_efficiency"]
    assert low < 1.0 < high, (low, high)
    assert matched.position_efficiency == pytest.approx(1.0, abs=0.08)
    assert matched.velocity_efficiency == pytest.approx(1.0, abs=0.12)
    assert matched.anees == pytest.approx(1.0, abs=0.12)
    assert matched.anis == pytest.approx(1.0, abs=0.05)
    assert matched.coverage_95 == pytest.approx(0.95, abs=0.02)
    assert abs(matched.innovation_lag1 or 1.0) < 0.04
    assert (sluggish.position_efficiency or 1.0) < 0.95
    assert sluggish.position_bound_rms_m == matched.position_bound_rms_m
