"""What a scenario file may say: the top level; its blocks are in schema_radar and schema_traffic.

The tables of docs/scenario.md are these declarations, and a test holds the two together.
"""

import datetime as dt
from dataclasses import dataclass

from ssrtrack.simulators.blocks import REQUIRED, key
from ssrtrack.simulators.schema_patterns import Approach, Crossing, Departure, LowLevel
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.simulators.schema_replies import Identity
from ssrtrack.simulators.schema_traffic import Aircraft, Flow


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A whole scenario; `text` is the file it came from, with the profiles it uses, kept for the log."""

    description: str = key("text", "", "", "one line about the scenario", 0, 400)
    epoch: dt.datetime = key("utc", REQUIRED, "", "UTC date and time of time_s = 0, whole seconds")
    duration_s: float = key("float", REQUIRED, "s", "length", 1, 1e7)
    truth_step_s: float = key("float", 2.0, "s", "grid of the truth rows", 0.1, 10)
    turbulence_m2ps3: float = key("float", 0.0, "m^2/s^3", "PSD of white horizontal acceleration, per axis", 0, 100)
    gusts: str = key(
        "choice", "none", "", "of the air (Dryden), instead of white acceleration",
        choices=("none", "light", "moderate", "severe"), source="MIL-F-8785C",
    )  # fmt: skip
    roll_rate_dps: float = key("float", 5.0, "deg/s", "of rolling into and out of turns", 0.5, 90)
    vertical_acceleration_mps2: float = key("float", 0.5, "m/s^2", "of levelling off and starting a climb", 0.05, 20)
    magnetic_variation_deg: float = key("float", 0.0, "deg", "east positive, for BDS 6,0", -180, 180)
    identity: Identity = key("block", Identity(), "", "codes, addresses and altitude reports", block=Identity)
    radar: tuple[RadarSpec, ...] = key("blocks", REQUIRED, "", "radars, at least one", block=RadarSpec)
    traffic: tuple[Flow, ...] = key("blocks", (), "", "random traffic", block=Flow)
    approach: tuple[Approach, ...] = key("blocks", (), "", "streams of arrivals", block=Approach)
    departure: tuple[Departure, ...] = key("blocks", (), "", "streams of departures", block=Departure)
    crossing: tuple[Crossing, ...] = key("blocks", (), "", "streams of crossing pairs", block=Crossing)
    low_level: tuple[LowLevel, ...] = key("blocks", (), "", "fast low flying", block=LowLevel)
    aircraft: tuple[Aircraft, ...] = key("blocks", (), "", "scripted aircraft", block=Aircraft)
    name: str = ""
    text: str = ""
