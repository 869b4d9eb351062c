"""On a GPU every block tracks as on a CPU, its step is replayed as one graph, and flights of all kinds are made."""

import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.filters.bank import Bank
from ssrtrack.models.learned import LearnedEstimator
from ssrtrack.models.load import load_tracker
from ssrtrack.models.residual_blocks import BLOCKS
from ssrtrack.models.residual_inputs import base_history
from ssrtrack.training import loop_graph
from ssrtrack.training.device_spread import ALL_RADARS, SpreadFlights
from ssrtrack.training.loop_graph import Gradient
from ssrtrack.training.loop_model import keep_within_bounds, new_model
from tests.models_fixture import plots, shortened

pytestmark = pytest.mark.gpu

NETWORKS: dict[str, dict[str, Any]] = {name: {"block": name} for name in BLOCKS} | {
    "koss, segments that see their prediction": {"options": {"segment": 4, "see_prediction": True}},
    "koss, two heads": {"width": 128},
    "koss, difference": {"options": {"derivative": "difference"}},
    "koss, innovation off": {"options": {"innovate": False}},
    "koss, no base": {"residual": False},
    "koss, nominal time": {"timed": False},
}


@pytest.fixture(autouse=True)
def whole_float32() -> Iterator[None]:
    """A GRU of cuDNN would round its factors."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def imm() -> Bank:
    bank = load_tracker("imm")
    assert isinstance(bank, Bank)
    return bank


def moved_model(name: str) -> Any:
    """A model whose heads are not at their start, so that every weight has a gradient."""
    model, g = new_model("small", imm(), 5.0, 1, NETWORKS[name]), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=g))
    keep_within_bounds(model)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_flights_are_those_of_the_processor(name: str) -> None:
    bank, model = imm(), moved_model(name)
    z = shortened(plots(bank, flights=6, length=40, missed=0.1, outliers=0.05)[0], {1: 4})
    want = LearnedEstimator(bank, model).run_batch(z, "torch")
    got = LearnedEstimator(bank, model.to("cuda")).run_batch(z)
    sigma = np.sqrt(np.diagonal(want.covariance, axis1=-2, axis2=-1))
    assert np.nanmax(np.abs(got.mean - want.mean) / sigma) < 5e-3
    np.testing.assert_array_equal(np.isnan(got.mean), np.isnan(want.mean))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_is_replayed_and_right(name: str) -> None:
    flights, model, bank = SpreadFlights(ALL_RADARS, 3, 32, 40, "cuda"), moved_model(name).to("cuda"), imm()
    gradient = Gradient(model, nullcontext)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one would say that it cannot be replayed
        for k in range(5):
            flown = flights.windows(k)
            base = base_history(bank, flown)
            loss, count, found = gradient(base, flown)
            assert all(v is None or v.is_contiguous() for v in found)  # or AdamW in one launch refuses them
            kept = loss.clone(), count, [v if v is None else v.clone() for v in found]
            assert loop_graph.unlike(gradient.eager(base, flown), kept) == ""
    assert gradient._recorded is not None


def test_flights_of_all_kinds_are_those_of_the_processor() -> None:
    """Other random numbers, the same statistics: periods, detection, errors over what is stated."""
    found = []
    for where in ("cpu", "cuda"):
        flown = SpreadFlights(ALL_RADARS, 3, 512, 60, where).windows(0).to("cpu")
        assert flown.truth is not None
        error = flown.position_m - flown.truth[..., :2]
        solved = torch.linalg.solve(flown.covariance_m2[flown.valid], error[flown.valid][..., None])[..., 0]
        nees = (error[flown.valid] * solved).sum(-1)
        gap = torch.nanmedian(torch.diff(flown.time_s, dim=1), 1).values
        found.append([float(v) for v in (gap.median(), flown.valid.double().mean(), nees.median())])
    np.testing.assert_allclose(found[1], found[0], rtol=0.08)
