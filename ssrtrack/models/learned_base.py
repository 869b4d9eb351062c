"""The base filter of a learned tracker step by step, all tracks at once, as the engine for whole flights computes it.

The numbers are those of the bank's own methods to rounding, at a hundredth of their time: those hand filterpy one track
after another.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.filters.bank import Bank
from ssrtrack.filters.packing import form_of, parameters_of
from ssrtrack.filters.protocol import checked_dt
from ssrtrack.kernels.kalman_form import Form
from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.models.residual_inputs import OUTPUTS

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class BaseState:
    """The base filter of N flights: its own numbers (N, S) and what it says, as a learned tracker's state keeps them.

    now (N, 14): x, y, vx, vy and the upper triangle of their covariance; modes (N, M), M = 0 for a single model; gated
    (N,): plots turned down in a row; used (N,): the last plot was taken.
    """

    own: Array
    now: Array
    modes: Array
    gated: Array
    used: Array


@dataclass(frozen=True, eq=False)
class BaseSteps:
    """A bank's form and numbers, and its steps."""

    form: Form
    numbers: Array

    @staticmethod
    def of(bank: Bank) -> "BaseSteps":
        """Raises EstimatorError where the engine does not know the bank."""
        return BaseSteps(form_of(bank), parameters_of(bank))

    def begun(self, plots: Array) -> BaseState:
        """After the first plots (N, 5) as x, y, xx, xy, yy."""
        return self._stepped(None, np.zeros(len(plots)), plots)

    def moved(self, own: Array, dt_s: Array) -> BaseState:
        """dt_s (N,) seconds later. Raises EstimatorError on a negative or NaN step."""
        return self._stepped(own, checked_dt(dt_s, len(own)), np.zeros((len(own), 5)))

    def seen(self, own: Array, plots: Array) -> BaseState:
        """Given plots (N, 5) now."""
        return self._stepped(own, np.zeros(len(own)), plots)

    def _stepped(self, own: Array | None, dt_s: Array, plots: Array) -> BaseState:
        from ssrtrack.kernels import kalman_numba

        count = len(plots)
        one = Layout(np.arange(count), np.array([count]), np.array([0, count]))
        columns = np.concatenate([dt_s[None], plots.T])
        # A thread is begun in the time that a thousand tracks take.
        state = None if own is None else np.ascontiguousarray(own.T)
        rows, after = kalman_numba.scan(self.form, self.numbers, columns, one, OUTPUTS, state, 1)
        gated = after[-2].astype(np.int64) if self.form.gate else np.zeros(count, np.int64)
        own_, now, modes = (np.ascontiguousarray(v.T) for v in (after, rows["filtered"], rows["modes"]))
        return BaseState(own_, now, modes, gated, rows["used"][0] == 1.0)
