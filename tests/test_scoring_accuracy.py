"""Errors against the truth by hand, and what counts as turn, climb and onset."""

import numpy as np
import pytest

from ssrtrack.data import Phase
from ssrtrack.scoring.accuracy import accuracy_values, circular_difference_deg, onset
from ssrtrack.tracking.truth import TrueStates

T, C, S = int(Phase.TURN), int(Phase.CLIMB), int(Phase.SPEED_CHANGE)


def truth(phase: list[int], velocity: tuple[float, float] = (0.0, 100.0)) -> TrueStates:
    n = len(phase)
    return TrueStates(
        np.zeros((1, n, 2)), np.broadcast_to(velocity, (1, n, 2)), np.zeros((1, n)), np.zeros((1, n)),
        np.array([phase], np.uint8),
    )  # fmt: skip


def estimate(n: int, x: float, y: float, vx: float, vy: float) -> np.ndarray:
    return np.broadcast_to(np.array([x, y, vx, vy]), (1, n, 4))


def test_every_error_by_hand() -> None:
    # Flying north at 100 m/s; the estimate is 3 m east and 4 m south, flying east at 80 m/s.
    values = accuracy_values(
        estimate(1, 3.0, -4.0, 80.0, 0.0), estimate(1, 6.0, 8.0, 0.0, 0.0), truth([0]), np.ones((1, 1), bool)
    )
    expected = {
        "position_rmse_m": 25.0,
        "position_rmse_straight_m": 25.0,
        "predicted_position_rmse_m": 100.0,
        "along_track_rmse_m": 16.0,
        "across_track_rmse_m": 9.0,
        "velocity_rmse_mps": 80.0**2 + 100.0**2,
        "velocity_rmse_straight_mps": 80.0**2 + 100.0**2,
        "speed_rmse_mps": 400.0,
        "heading_rmse_deg": 8100.0,
    }
    for name, cells in values.items():
        assert cells[0, 0] == pytest.approx(expected.get(name, np.nan), nan_ok=True), name


@pytest.mark.parametrize(
    ("phase", "straight", "turn", "climb"),
    [(0, 1, 0, 0), (T, 0, 1, 0), (C, 0, 0, 1), (T | C, 0, 1, 0), (S, 0, 0, 0), (S | C, 0, 0, 1)],
)
def test_phases(phase: int, straight: int, turn: int, climb: int) -> None:
    values = accuracy_values(estimate(1, 1, 0, 0, 99), estimate(1, 0, 0, 0, 0), truth([phase]), np.ones((1, 1), bool))
    found = [np.isfinite(values[f"position_rmse_{name}_m"][0, 0]) for name in ("straight", "turn", "climb")]
    assert found == [bool(straight), bool(turn), bool(climb)]


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        ([0, 0, T, T, T, T, 0], [2, 3, 4]),
        ([0, T, 0, 0, 0, 0, 0], [1, 2, 3]),
        ([T, T, T, 0, S, S, S], [4, 5, 6]),
        ([0, C, C, C, C, C, C], []),
        ([C, C, C | T, C | T, C, C, C], [2, 3, 4]),
        ([T, S, T, S, T, S, T], []),
        ([0, T, 0, T, T, T, T], [1, 2, 3, 4, 5]),
    ],
)
def test_onset_is_three_plots_from_steady(phase: list[int], expected: list[int]) -> None:
    assert np.flatnonzero(onset(np.array([phase], np.uint8))[0]).tolist() == expected


def test_velocity_errors_of_an_onset_are_those_of_its_plots() -> None:
    """A turn from the third plot on: of its four plots the first three count, as for the position."""
    mean = estimate(6, 1.0, 1.0, 0.0, 90.0).copy()
    mean[0, :, 3] -= np.arange(6)
    values = accuracy_values(mean, mean, truth([0, 0, T, T, T, T]), np.ones((1, 6), bool))
    expected = [np.nan, np.nan, 12.0**2, 13.0**2, 14.0**2, np.nan]
    assert values["velocity_rmse_onset_mps"][0].tolist() == pytest.approx(expected, nan_ok=True)
    assert np.isfinite(values["position_rmse_onset_m"][0]).tolist() == np.isfinite(expected).tolist()


def test_slow_aircraft_have_no_heading_and_unscored_updates_no_error() -> None:
    slow = accuracy_values(
        estimate(2, 1, 1, 1, 1), estimate(2, 1, 1, 1, 1), truth([0, 0], (0.0, 10.0)), np.array([[True, False]])
    )
    assert np.isnan(slow["heading_rmse_deg"]).all() and np.isnan(slow["along_track_rmse_m"]).all()
    assert np.isfinite(slow["speed_rmse_mps"]).tolist() == [[True, False]]
    assert all(np.isnan(cells[0, 1]) for cells in slow.values())


@pytest.mark.parametrize(
    ("a", "b", "expected"), [(1, 359, 2), (359, 1, -2), (180, 0, -180), (10, 350, 20), (90, 90, 0)]
)
def test_circular_difference(a: float, b: float, expected: float) -> None:
    assert circular_difference_deg(np.radians(a), np.radians(b)) == pytest.approx(expected)
