"""What Mode S registers say of the aircraft's motion, in still air of the standard atmosphere."""

import numpy as np

from ssrtrack.simulators.legs import Floats
from ssrtrack.simulators.timing import turned
from ssrtrack.units import DEG_RAD, FPM_MPS, KT_MPS

# Resolution of the fields of BDS 5,0 and 6,0 (ICAO Doc 9871, tables A-2-80 and A-2-96).
BDS_LSB = {
    "roll_rad": 45.0 / 256.0 * DEG_RAD,
    "track_angle_rad": 90.0 / 512.0 * DEG_RAD,
    "ground_speed_mps": 2.0 * KT_MPS,
    "track_angle_rate_radps": 8.0 / 256.0 * DEG_RAD,
    "true_airspeed_mps": 2.0 * KT_MPS,
    "magnetic_heading_rad": 90.0 / 512.0 * DEG_RAD,
    "indicated_airspeed_mps": 1.0 * KT_MPS,
    "mach": 2.048 / 512.0,
    "baro_altitude_rate_mps": 32.0 * FPM_MPS,
    "inertial_vertical_velocity_mps": 32.0 * FPM_MPS,
}


def bds50(state: dict[str, Floats]) -> dict[str, Floats]:
    """Track and turn report in still air: true airspeed is the speed along the path."""
    return {
        "roll_rad": state["bank_rad"],
        "track_angle_rad": turned(state["track_rad"]),
        "ground_speed_mps": state["speed_mps"],
        "track_angle_rate_radps": state["track_rate_radps"],
        "true_airspeed_mps": np.hypot(state["speed_mps"], state["climb_mps"]),
    }


def bds60(state: dict[str, Floats], variation_rad: float) -> dict[str, Floats]:
    """Heading and speed report in still air of the standard atmosphere (ICAO Doc 7488)."""
    temperature, pressure_ratio = standard_atmosphere(state["height_m"])
    mach = np.hypot(state["speed_mps"], state["climb_mps"]) / np.sqrt(1.4 * 287.05287 * temperature)
    impact = pressure_ratio * ((1.0 + 0.2 * mach**2) ** 3.5 - 1.0)
    return {
        "magnetic_heading_rad": turned(state["track_rad"] - variation_rad),
        "indicated_airspeed_mps": np.sqrt(1.4 * 287.05287 * 288.15 * 5.0 * ((impact + 1.0) ** (2.0 / 7.0) - 1.0)),
        "mach": mach,
        "baro_altitude_rate_mps": state["climb_mps"],
        "inertial_vertical_velocity_mps": state["climb_mps"],
    }


def standard_atmosphere(height_m: Floats) -> tuple[Floats, Floats]:
    """Temperature in K and pressure over that at sea level, up to 20 km (ICAO Doc 7488)."""
    low = np.minimum(height_m, 11000.0)
    temperature = 288.15 - 0.0065 * low
    above = np.maximum(height_m - 11000.0, 0.0)
    return temperature, (temperature / 288.15) ** 5.255880 * np.exp(-above / 6341.62)
