"""A small terminal area, quickly simulated, and the parts of a training on it."""

from dataclasses import replace

import torch

from ssrtrack.filters.bank import Bank
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.simulators.scenario import parse_scenario
from ssrtrack.simulators.schema import Scenario
from ssrtrack.training.distributed import Ranks
from ssrtrack.training.flown_simulated import Endless

ALONE = Ranks(0, 1, torch.device("cpu"))
TEXT = """
epoch = 2025-06-01T10:00:00Z
duration_s = 600.0

[[radar]]
name = "A"
latitude_deg = 48.1
longitude_deg = 11.6
height_m = 500.0
rotation_period_s = 4.0
noise = { sigma_range_m = 50.0, sigma_azimuth_deg = 0.08 }
detection = { probability = 0.95 }
outliers = { fraction = 0.01, scale = 6.0 }

[[traffic]]
number = 12
radius_nm = 40.0
manoeuvres_per_hour = 60.0
"""


def scenario(**changes: object) -> Scenario:
    return replace(parse_scenario(TEXT, "small", "small"), **changes)


def imm() -> Bank:
    """An IMM whose parameters do not come from a file that is tuned anew from time to time."""
    bank = make_estimator("imm3")
    assert isinstance(bank, Bank)
    return bank


def plan(batch: int = 8, length: int = 40, seed: int = 3) -> Endless:
    return Endless(scenario(), seed, batch, length)
