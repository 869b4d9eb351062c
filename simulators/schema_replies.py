"""What a scenario file may say of replies and of plots that no direct reply caused; all of it is off by default."""

from dataclasses import dataclass

from ssrtrack.simulators.blocks import REQUIRED, key

_ET1 = "SUR.ET1.ST01"
_ANNEX10 = "ICAO Annex 10 IV"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What aircraft answer, the same at every radar."""

    squawk_change_share: float = key("float", 0.0, "1", "share of flights that change their Mode 3/A code once", 0, 1)
    emergency_share: float = key(
        "float", 0.0, "1", "share of flights that turn to 7500, 7600 or 7700", 0, 1, source=_ANNEX10
    )
    ident_share: float = key("float", 0.0, "1", "share of flights that ident once", 0, 1)
    ident_s: float = key("float", 18.0, "s", "how long an ident (SPI) is sent", 1, 60, source=_ANNEX10)
    duplicate_address_share: float = key(
        "float", 0.0, "1", "share of Mode S flights with the address of another in the air", 0, 1
    )
    no_altitude_share: float = key("float", 0.0, "1", "share of Mode A/C flights that send no altitude", 0, 1)


@dataclass(frozen=True, kw_only=True)
class Replies:
    """What a radar reads of the replies; each share is independent from plot to plot."""

    primary_share: float = key("float", 0.0, "1", "share of plots that a primary radar sees as well", 0, 1)
    all_call_share: float = key("float", 0.0, "1", "share of Mode S plots with an all-call reply only", 0, 1)
    mode3a_absent_share: float = key("float", 0.0, "1", "share without Mode 3/A code", 0, 1)
    mode3a_not_validated_share: float = key("float", 0.0, "1", "share with the V bit of I048/070", 0, 1)
    mode3a_error_share: float = key(
        "float", 0.0, "1", "share of Mode A/C plots with a wrong pulse in the code", 0, 1, source=f"{_ET1}: < 0.02"
    )
    altitude_absent_share: float = key("float", 0.0, "1", "share without altitude", 0, 1)
    altitude_not_validated_share: float = key("float", 0.0, "1", "share with the V bit of I048/090", 0, 1)
    altitude_error_share: float = key(
        "float", 0.0, "1", "share of Mode A/C plots with a wrong pulse in the altitude", 0, 1,
        source=f"{_ET1}: < 0.04",
    )  # fmt: skip
    unnoticed_share: float = key("float", 0.05, "1", "share of wrong codes and altitudes without the G bit", 0, 1)


@dataclass(frozen=True, kw_only=True)
class Garble:
    """Mode A/C replies of two aircraft on top of each other."""

    probability: float = key("float", 0.0, "1", "that a pair in the window is not told apart in a scan", 0, 1)
    beamwidth_deg: float = key("float", 2.4, "deg", "greatest difference of azimuth", 0, 20, source="2.4 to 3 usual")
    window_us: float = key("float", 20.3, "us", "greatest difference of delay", 0, 100, source=_ANNEX10)
    drag: float = key("float", 0.25, "1", "greatest part of the difference by which azimuths approach", 0, 0.5)
    loss_share: float = key("float", 0.1, "1", "share of garbled pairs that give one plot, between the two", 0, 1)
    swap_share: float = key("float", 0.0, "1", "share of garbled pairs that exchange codes and altitudes", 0, 1)


@dataclass(frozen=True, kw_only=True)
class FalsePlots:
    """Plots without an aircraft, uniform over azimuth and over the area between the range limits."""

    per_scan: float = key("float", 0.0, "1", "mean number in one rotation (Poisson)", 0, 1e4)


@dataclass(frozen=True, kw_only=True)
class Fruit:
    """Isolated plots of replies to other radars' interrogations."""

    per_aircraft: float = key("float", 0.0, "1", "mean number per aircraft in coverage and rotation", 0, 10)
    mode_c_share: float = key("float", 0.5, "1", "share that are altitude replies, read as a code", 0, 1)
    side_lobe_share: float = key("float", 0.2, "1", "share received outside the main beam", 0, 1)
    beamwidth_deg: float = key("float", 2.4, "deg", "width of the main beam", 0, 20)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Two plots of one aircraft in a scan."""

    probability: float = key("float", 0.0, "1", "of a second plot beside a plot", 0, 1, source=f"{_ET1}: < 0.003")
    azimuth_deg: tuple[float, float] = key("pair", (1.0, 2.0), "deg", "distance in azimuth, either way", 0, 20)
    range_nm: float = key("float", 0.2, "NM", "greatest distance in range, either way", 0, 10)


@dataclass(frozen=True, kw_only=True)
class RingAround:
    """Replies to the side lobes of the antenna near the radar."""

    per_plot: float = key("float", 0.0, "1", "mean number of further plots at random azimuths in a rotation", 0, 100)
    max_range_nm: float = key("float", 3.0, "NM", "greatest slant range at which it happens", 0, 256)


@dataclass(frozen=True, kw_only=True)
class Reflector:
    """A flat vertical wall that mirrors the beam."""

    bearing_deg: float = key("float", REQUIRED, "deg", "azimuth of the middle of its foot", 0, 360)
    distance_m: float = key("float", REQUIRED, "m", "ground distance of the middle of its foot", 10, 1e5)
    facing_deg: float = key("float", REQUIRED, "deg", "azimuth to which it faces", 0, 360)
    width_m: float = key("float", 60.0, "m", "width", 1, 1e4)
    top_m: float = key("float", 60.0, "m", "height of its top above the antenna", -100, 1000)
    bottom_m: float = key("float", -50.0, "m", "height of its foot above the antenna", -500, 1000)
    probability: float = key("float", 0.5, "1", "of a plot in a scan in which the wall mirrors an aircraft", 0, 1)
