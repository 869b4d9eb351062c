"""The pulses of a Mode A/C reply: codes on the air, altitude in Gillham code, two replies on top of each other.

A reply is a pair of framing pulses 20.3 µs apart with thirteen places between them, one every 1.45 µs; the middle one
is not used (ICAO Annex 10 IV, 3.1.1.6). A code is twelve bits A4 A2 A1 B4 B2 B1 C4 C2 C1 D4 D2 D1, written in octal.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.units import FT_M

Ints = NDArray[np.int_]
Floats = NDArray[np.float64]

LIGHT_MPS = 299_792_458.0
PULSE_SPACING_S = 1.45e-6
PULSE_WIDTH_S = 0.45e-6
REPLY_S = 14 * PULSE_SPACING_S
# Bit of the code that each place between the framing pulses carries, in the order sent; -1 is the place not used.
_SENT = ["C1", "A1", "C2", "A2", "C4", "A4", "X", "B1", "D1", "B2", "D2", "B4", "D4"]
_CODE = ["A4", "A2", "A1", "B4", "B2", "B1", "C4", "C2", "C1", "D4", "D2", "D1"]  # most significant first
_BITS = {name: 11 - i for i, name in enumerate(_CODE)}
_PLACES = [_BITS.get(name, -1) for name in _SENT]
_FRAME = 1 | 1 << 14
_GRAY_500FT = ["D2", "D4", "A1", "A2", "A4", "B1", "B2", "B4"]  # most significant first; D1 is not used
_GRAY_100FT = ["C1", "C2", "C4"]
_LOWEST_FT, _LEVELS = -1200, 1280  # the code's range: so many steps of 100 ft
NO_ALTITUDE = -32768  # of a code that is no altitude


@cache
def _pulse_tables() -> tuple[Ints, Ints]:
    """Pulse trains of the 4,096 codes (4096,), and the codes of the 32,768 trains (32768,)."""
    code, train = np.arange(4096), np.arange(1 << 15)
    pulses, read = np.full(4096, _FRAME), np.zeros(1 << 15, int)
    for place, bit in enumerate(_PLACES, start=1):
        if bit >= 0:
            pulses |= (code >> bit & 1) << place
            read |= (train >> place & 1) << bit
    return pulses, read


def pulses(code: Any) -> Ints:
    """Pulse trains of codes (n,): bit k is the pulse k · 1.45 µs after the first framing pulse."""
    return np.asarray(_pulse_tables()[0][code])


def code_of(train: Any) -> Ints:
    """Codes that an extractor reads from pulse trains (n,)."""
    return np.asarray(_pulse_tables()[1][train])


def shifted(train: Ints, delay_s: Floats) -> tuple[Ints, NDArray[np.bool_]]:
    """Pulses of other replies where they fall on the places of a reply, and whether they do at all.

    A pulse within a pulse's width of a place is read as one there; what falls between the places does no harm. So a
    reply with others on top is the union of their trains, and bits can only be added.

    Args:
        train: pulse trains of the other replies (n,).
        delay_s: by how much they come later than the reply (n,), negative if they come first.
    """
    places = np.round(delay_s / PULSE_SPACING_S).astype(int)
    off_s = np.abs(delay_s - places * PULSE_SPACING_S)
    meets = (off_s < PULSE_WIDTH_S) & (np.abs(places) <= 14)
    moved = np.where(places >= 0, train << np.clip(places, 0, 14), train >> np.clip(-places, 0, 14)) & 0x7FFF
    return np.where(meets, moved, 0), meets


@cache
def _altitude_tables() -> tuple[Ints, Ints]:
    """Altitude in 100 ft of the 4,096 codes (NO_ALTITUDE: none), and the codes of the altitudes from −1,200 ft on."""
    code = np.arange(4096)
    fives, ones = _gray(code, _GRAY_500FT), _gray(code, _GRAY_100FT)
    good = (ones >= 1) & (ones != 5) & (ones != 6) & (code >> _BITS["D1"] & 1 == 0)
    ones = np.where(ones == 7, 5, ones)
    ones = np.where(fives % 2 == 1, 6 - ones, ones)
    hundreds = np.where(good, 5 * fives + ones - 13, NO_ALTITUDE)
    back = np.zeros(_LEVELS, int)
    back[hundreds[good] - _LOWEST_FT // 100] = code[good]
    return hundreds, back


def _gray(code: Ints, names: list[str]) -> Ints:
    """Numbers whose Gray code stands in the named bits, the most significant first."""
    value, bit = np.zeros_like(code), np.zeros_like(code)
    for name in names:
        bit = bit ^ (code >> _BITS[name] & 1)
        value = 2 * value + bit
    return value


def altitude_code(altitude_m: Floats) -> Ints:
    """Mode C codes of altitudes (n,), rounded to 100 ft and kept within the code's −1,200 to 126,700 ft."""
    hundreds = np.round(np.nan_to_num(altitude_m) / (100.0 * FT_M)).astype(int)
    return np.asarray(_altitude_tables()[1][np.clip(hundreds - _LOWEST_FT // 100, 0, _LEVELS - 1)])


def code_altitude(code: Ints) -> Floats:
    """Altitudes in m of Mode C codes (n,); NaN where the code is no altitude."""
    hundreds = _altitude_tables()[0][code]
    return np.where(hundreds == NO_ALTITUDE, np.nan, hundreds * 100.0 * FT_M)
