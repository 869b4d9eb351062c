"""What every estimator, classical or learned, can do; and how batches of its states are split and joined."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.measurement import Measurements

Array = NDArray[Any]
S = TypeVar("S")


class Estimator(Protocol):
    """A single-target estimator working on N flights at once.

    A state is the estimator's own frozen dataclass of arrays, batch first (N, ...), with at least `gated` (N,): how
    many plots in a row the gate has turned down. Nothing else is remembered between calls.
    """

    def init(self, first: Measurements) -> Any:
        """State of N flights from one plot each, (N,) measurements: velocity 0 with a wide prior."""

    def predict(self, state: Any, dt_s: Array) -> Any:
        """State dt_s (N,) seconds later; 0 changes nothing. Raises EstimatorError on a negative or NaN step."""

    def update(self, state: Any, z: Measurements, valid: Array) -> Any:
        """State given one plot per flight, (N,) measurements; rows where `valid` (N,) is False stay as predicted."""

    def estimate(self, state: Any) -> tuple[Array, Array]:
        """Mean (N, 4) and covariance (N, 4, 4) of x, y (m), vx, vy (m/s) in the tracking frame."""

    def mode_probability(self, state: Any) -> Array | None:
        """Probability (N, M) of each motion model, or None if there is only one."""


def take(state: S, rows: Any) -> S:
    """The states of some flights: `rows` is a slice, a mask or indices."""
    return type(state)(**{f.name: getattr(state, f.name)[rows] for f in _fields(state)})


def put(state: S, rows: Any, other: S) -> S:
    """A copy of `state` in which the flights `rows` have the states of `other`."""
    out = {f.name: getattr(state, f.name).copy() for f in _fields(state)}
    for name, column in out.items():
        column[rows] = getattr(other, name)
    return type(state)(**out)


def join(states: Sequence[S]) -> S:
    """The states of several batches as one batch, in order.

    Raises:
        EstimatorError: nothing to join.
    """
    if not states:
        raise EstimatorError("join needs at least one state; use the estimator's init to make the first")
    return type(states[0])(**{f.name: np.concatenate([getattr(s, f.name) for s in states]) for f in _fields(states[0])})


def checked_dt(dt_s: Array, count: int) -> Array:
    """dt_s as (N,) float64.

    Raises:
        EstimatorError: a step is negative or not finite.
    """
    dt = np.broadcast_to(np.asarray(dt_s, np.float64), (count,))
    if not (np.isfinite(dt) & (dt >= 0.0)).all():
        worst = float(dt[~(np.isfinite(dt) & (dt >= 0.0))][0])
        raise EstimatorError(f"time step of {worst} s; plots must be in time order with finite times (sort them first)")
    return dt


def _fields(state: Any) -> Any:
    if not is_dataclass(state):
        raise EstimatorError(f"a state is a dataclass of arrays, got {type(state).__name__}")
    return fields(state)
