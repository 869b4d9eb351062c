"""Tracker velocity against BDS 5,0: the aircraft's horizon and true north are not the radar's."""

from math import radians

import numpy as np
import pytest

from ssrtrack.filters.measurement import tracking_frame
from ssrtrack.geodesy import enu_rotation, geodetic_to_enu
from ssrtrack.scoring.bds import bds_differences, local_velocity
from tests.scoring_fixture import radar

COURSE, SPEED, CLIMB = radians(45.0), 220.0, 12.0
FRAME = tracking_frame(radar(latitude_deg=[60.0], longitude_deg=[10.0], height_m=[100.0]))
BASE = (radians(60.0), radians(10.0), 100.0)


def aircraft(lat_deg: float, lon_deg: float) -> tuple[np.ndarray, float]:
    """State x, y, vx, vy in the frame and the up coordinate of an aircraft on a true course of 45 degrees, climbing."""
    lat, lon = radians(lat_deg), radians(lon_deg)
    place = geodetic_to_enu(np.array(lat), np.array(lon), np.array(10e3), BASE)
    local = np.array([SPEED * np.sin(COURSE), SPEED * np.cos(COURSE), CLIMB])
    velocity = enu_rotation(BASE[0], BASE[1]) @ enu_rotation(lat, lon).T @ local
    return np.array([*place[:2], *velocity[:2]]), float(place[2])


@pytest.mark.parametrize(("lat", "lon"), [(60.0, 13.5), (61.5, 10.0), (59.0, 6.5), (60.0, 10.001)])
def test_agreement_is_exact_wherever_the_aircraft_is(lat: float, lon: float) -> None:
    state, up = aircraft(lat, lon)
    mean, one = state[None, None], np.ones((1, 1))
    speed, angle = bds_differences(mean, up * one, CLIMB * one, SPEED * one, COURSE * one, FRAME, np.ones((1, 1), bool))
    assert speed[0, 0] == pytest.approx(0.0, abs=1e-6)
    assert angle[0, 0] == pytest.approx(0.0, abs=1e-6)


def test_meridian_convergence_is_what_a_flat_comparison_would_miss() -> None:
    state, up = aircraft(60.0, 13.5)
    east, north = local_velocity(state[None, :2], np.array([up]), state[None, 2:], np.array([CLIMB]), FRAME)
    flat = np.degrees(np.arctan2(state[2], state[3]))
    true = np.degrees(np.arctan2(east[0], north[0]))
    assert true - flat == pytest.approx(3.5 * np.sin(radians(60.0)), abs=0.1)


def test_signs_are_tracker_minus_aircraft() -> None:
    state, up = aircraft(60.0, 11.0)
    one = np.ones((1, 1))
    speed, angle = bds_differences(
        state[None, None], up * one, CLIMB * one, (SPEED - 5) * one, (COURSE + 0.1) * one, FRAME, np.ones((1, 1), bool)
    )
    assert speed[0, 0] == pytest.approx(5.0)
    assert angle[0, 0] == pytest.approx(-np.degrees(0.1))


@pytest.mark.parametrize(
    ("speed", "angle", "rate", "scored"),
    [(19.0, 1.0, 0.0, True), (401.0, 1.0, 0.0, True), (np.nan, 1.0, 0.0, True), (200.0, np.nan, 0.0, True),
     (200.0, 1.0, np.nan, True), (200.0, 1.0, 0.0, False)],
)  # fmt: skip
def test_nothing_is_compared_without_both_values(speed: float, angle: float, rate: float, scored: bool) -> None:
    state, up = aircraft(60.0, 11.0)
    one = np.ones((1, 1))
    found = bds_differences(
        state[None, None], up * one, rate * one, speed * one, angle * one, FRAME, np.full((1, 1), scored)
    )
    assert np.isnan(found).all()


def test_without_a_site_true_north_is_not_known() -> None:
    frame = tracking_frame(radar(latitude_deg=[np.nan]))
    one = np.ones((1, 1))
    mean = np.array([[[50e3, 20e3, 100.0, 100.0]]])
    speed, angle = bds_differences(mean, 5e3 * one, 0 * one, 141.4 * one, one, frame, np.ones((1, 1), bool))
    assert abs(speed[0, 0]) < 0.1
    assert np.isnan(angle[0, 0])
