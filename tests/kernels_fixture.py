"""Packed plots for tests of the kernels themselves, below the estimators."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.filters.bank import Bank
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.packing import form_of, packed_measurements, parameters_of
from ssrtrack.kernels.kalman_form import Form
from ssrtrack.kernels.kalman_layout import Layout
from tests.filters_fixture import cartesian

Array = NDArray[Any]
OUTPUTS = ("predicted", "filtered", "modes", "used", "log_likelihood", "state")


@dataclass(frozen=True, eq=False)
class Packed:
    """What a kernel is given."""

    form: Form
    vector: Array
    columns: Array
    layout: Layout


@cache
def flights(seed: int, lengths: tuple[int, ...]) -> Measurements:
    """Flights of these lengths about 20 km away: turns, misses, outliers of 15 σ, irregular times.

    At that distance float32 keeps millimetres of a position, a fifty-thousandth of its standard deviation.
    """
    rng = np.random.default_rng(seed)
    count, plots = len(lengths), max(lengths, default=0)
    over = np.arange(plots) >= np.array(lengths)[:, None]
    step = 4.0 * rng.uniform(0.6, 1.4, (count, plots))
    bearing = rng.uniform(0.0, 2.0 * np.pi, (count, 1, 1))
    rate = rng.choice([-0.03, 0.0, 0.03], (count, 1))
    heading = bearing[..., 0] + 1.5 + np.cumsum(rate * step, 1)
    velocity = rng.uniform(100.0, 250.0, (count, 1, 1)) * np.stack([np.sin(heading), np.cos(heading)], -1)
    start = 20e3 * np.concatenate([np.sin(bearing), np.cos(bearing)], -1)
    root = np.array([[60.0, 0.0], [25.0, 80.0]]) * rng.uniform(0.7, 1.4, (count, plots, 1, 1))
    noise = np.einsum("ntij,ntj->nti", root, rng.standard_normal((count, plots, 2)))
    noise *= np.where(rng.uniform(size=(count, plots, 1)) < 0.05, 15.0, 1.0)
    valid = (rng.uniform(size=(count, plots)) < 0.9) & ~over
    valid[:, :1] = ~over[:, :1]
    position = start + np.cumsum(step[..., None] * velocity, 1) + noise
    time_s = np.where(over, np.nan, np.cumsum(step, 1))
    return cartesian(time_s, position, root @ np.swapaxes(root, -1, -2), valid)


def packed(name: str, z: Measurements, dtype: str = "float64", **options: Any) -> Packed:
    """A bank and its measurements as the kernels take them."""
    bank = make_estimator(name, **options)
    assert isinstance(bank, Bank)
    form = form_of(bank)
    columns, layout = packed_measurements(z, form.observation == "polar")
    return Packed(form, parameters_of(bank), columns.astype(dtype), layout)


def outputs_of(form: Form) -> tuple[str, ...]:
    """All outputs the form has."""
    return tuple(name for name in OUTPUTS if name != "modes" or len(form.kinds) > 1)


_UPPER = np.array([[0, 1, 2, 3], [1, 4, 5, 6], [2, 5, 7, 8], [3, 6, 8, 9]])


def gap(got: Array, expected: Array) -> float:
    """Greatest difference of estimates (14, P): means in σ, covariances in σᵢσⱼ. NaN must be in the same places."""
    assert got.shape == expected.shape
    assert (np.isnan(got) == np.isnan(expected)).all(), "NaN in other places"
    known = ~np.isnan(expected[0])
    difference = (got.astype(float) - expected)[:, known].T
    if not difference.size:
        return 0.0
    sigma = np.sqrt(np.diagonal(expected[4:, known].T[:, _UPPER], axis1=1, axis2=2))
    spread = difference[:, 4:][:, _UPPER] / (sigma[:, :, None] * sigma[:, None, :])
    return float(max(np.abs(difference[:, :4] / sigma).max(), np.abs(spread).max()))
