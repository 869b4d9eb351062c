"""Flights and networks for the tests of learned trackers."""

from typing import Any

import numpy as np
import torch

from ssrtrack.filters.bank import Bank
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.measurement import Measurements
from ssrtrack.models.residual import ResidualKoss
from ssrtrack.models.residual_config import ResidualConfig
from tests.filters_fixture import bank_flights, cartesian, times

BASES: dict[str, dict[str, Any]] = {
    "imm": {"tail_weight": 0.03},
    "imm-gated": {"gate": 0.999},
    "imm3": {"gate": None},
    "kf": {"gate": None},
}


def base(name: str) -> Bank:
    """A base filter by its name in BASES; parameters that matter here do not follow tuned defaults."""
    bank = make_estimator("imm" if name == "imm-gated" else name, **BASES[name])
    assert isinstance(bank, Bank)
    return bank


def network(bank: Bank, seed: int = 0, trained: bool = True, **config: Any) -> ResidualKoss:
    """A small network; `trained` fills its heads with large numbers, as if it had much to say."""
    modes = len(bank.motions) if len(bank.motions) > 1 else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResidualKoss(ResidualConfig(modes=modes, **({"width": 16, "head": 8, "blocks": 2} | config)))
        if trained:
            for head in (model.filter_head, model.ahead_head):
                torch.nn.init.normal_(head.weight, 0.0, 0.3)
                torch.nn.init.normal_(head.bias, 0.0, 0.3)
    return model.eval()


def plots(
    bank: Bank, flights: int = 5, length: int = 40, *, seed: int = 0, missed: float = 0.0, outliers: float = 0.0
) -> tuple[Measurements, Any]:
    """Irregular plots of flights of a bank's own models, and the truth (N, T, 4); some missed, some far off."""
    rng = np.random.default_rng(seed)
    time_s = times(rng, flights, length)
    truth, _ = bank_flights(rng, bank, time_s, rng.normal(0.0, 4e4, (flights, 2)))
    noise = np.array([60.0, 150.0]) * rng.standard_normal((flights, length, 2))
    far = rng.uniform(size=(flights, length, 1)) < outliers
    position = truth[..., :2] + noise + far * rng.normal(0.0, 3e3, noise.shape)
    valid = rng.uniform(size=(flights, length)) >= missed
    valid[:, 0] = True
    return cartesian(time_s, position, np.diag([60.0**2, 150.0**2]), valid), truth


def shortened(z: Measurements, lengths: dict[int, int]) -> Measurements:
    """The same with some flights ended early."""
    columns = {name: getattr(z, name) for name in z.__dataclass_fields__}
    columns |= {name: columns[name].copy() for name in ("time_s", "valid")}
    for row, length in lengths.items():
        columns["time_s"][row, length:] = np.nan
        columns["valid"][row, length:] = False
    return Measurements(**columns)
