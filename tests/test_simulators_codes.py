"""Codes and altitudes as pulses."""

import numpy as np
import pytest

from ssrtrack.simulators.replies_codes import (
    PULSE_SPACING_S,
    PULSE_WIDTH_S,
    REPLY_S,
    altitude_code,
    code_altitude,
    code_of,
    pulses,
    shifted,
)
from ssrtrack.units import FT_M

CODES = np.arange(4096)


# Rows of the table in ICAO Annex 10 IV, appendix to chapter 3.
@pytest.mark.parametrize(("feet", "code"), [(-1000, 0o0020), (-500, 0o0420), (0, 0o0620), (100, 0o0630)])
def test_altitudes_have_the_codes_of_annex_10(feet, code):
    assert altitude_code(np.array([feet * FT_M]))[0] == code
    assert code_altitude(np.array([code]))[0] == pytest.approx(feet * FT_M)


def test_altitude_code_changes_one_pulse_every_hundred_feet_and_is_read_back():
    feet = np.arange(-1200, 126_701, 100)
    code = altitude_code(feet * FT_M)
    np.testing.assert_array_equal(np.bitwise_count(code[1:] ^ code[:-1]), 1)
    np.testing.assert_allclose(code_altitude(code), feet * FT_M)
    assert not np.any(code & 1)  # D1 is never sent
    assert np.isfinite(code_altitude(CODES)).sum() == len(feet)


def test_altitude_code_rounds_and_keeps_within_its_range():
    np.testing.assert_array_equal(
        altitude_code(np.array([-9e3, 49.0 * FT_M, 51.0 * FT_M, 9e5])),
        altitude_code(np.array([-1200.0, 0.0, 100.0, 126_700.0]) * FT_M),
    )


def test_pulse_trains_frame_every_code_and_are_read_back():
    train = pulses(CODES)
    np.testing.assert_array_equal(code_of(train), CODES)
    np.testing.assert_array_equal(train & 0b100000000000001, 0b100000000000001)
    np.testing.assert_array_equal(np.bitwise_count(train), 2 + np.bitwise_count(CODES))
    assert not np.any(train & 1 << 7)  # the place in the middle


@pytest.mark.parametrize(
    ("code", "places"),
    # F1 C1 A1 C2 A2 C4 A4 X B1 D1 B2 D2 B4 D4 F2
    [(0o4000, {0, 6, 14}), (0o0100, {0, 8, 14}), (0o0010, {0, 1, 14}), (0o0004, {0, 13, 14}), (0o0000, {0, 14})],
)
def test_pulses_are_sent_in_the_order_of_annex_10(code, places):
    train = int(pulses(np.array([code]))[0])
    assert {k for k in range(15) if train >> k & 1} == places


@pytest.mark.parametrize("places", range(-16, 17))
@pytest.mark.parametrize("off", [0.0, 0.9, 1.1, -0.9, -1.1])
def test_a_shifted_reply_falls_on_places_within_a_pulse_width_and_a_reply_length(places, off):
    train = pulses(np.array([0o7777, 0o1234]))
    moved, meets = shifted(train, np.full(2, places * PULSE_SPACING_S + off * PULSE_WIDTH_S))
    expected = abs(off) < 1 and abs(places) <= 14
    assert np.all(meets == expected)
    for own, other in zip(train, moved, strict=True):
        bits = {k + places for k in range(15) if own >> k & 1} & set(range(15)) if expected else set()
        assert {k for k in range(15) if other >> k & 1} == bits


def test_a_reply_lasts_20_3_microseconds():
    assert pytest.approx(20.3e-6) == REPLY_S
