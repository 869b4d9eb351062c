"""Banks and measurements as the kernels take them: a form, a parameter vector, packed columns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.gaussian import gate_threshold
from ssrtrack.filters.history import flight_lengths
from ssrtrack.filters.measurement import Measurements
from ssrtrack.kernels.kalman_form import POLAR_COLUMNS, POSITION_COLUMNS, Form
from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.kernels.kalman_motion import KINDS

Array = NDArray[Any]


def form_of(bank: Bank) -> Form:
    """What of a bank decides the code."""
    kinds = tuple(motion.kind for motion in bank.motions)
    unknown = sorted({kind for kind in kinds if kind not in KINDS})
    if unknown:
        raise EstimatorError(f"the batched engine has no motion models {unknown}; known: {', '.join(KINDS)}")
    if bank.observation not in ("position", "polar"):
        raise EstimatorError(f"the batched engine has no observation {bank.observation!r}; known: position, polar")
    # Sigma points are exact where motion and observation are linear; the plain filter is then the same.
    linear = bank.observation == "position" and "ct" not in kinds
    engine = "extended" if linear else bank.engine
    return Form(kinds, engine, bank.observation, bank.options.gate is not None, bank.options.tail_weight > 0.0)


def parameters_of(bank: Bank) -> Array:
    """The bank's numbers, in the order of `ssrtrack.kernels.kalman_form.parameters`."""
    values = [value for motion in bank.motions for value in motion.parameters]
    if len(bank.motions) > 1:
        rates, shares = bank.chain.spectrum()
        values += [*np.asarray(bank.chain.log_start()), *rates, *shares.ravel()]
    options = bank.options
    weight = options.tail_weight
    tail = (np.log1p(-weight), np.log(weight), options.tail_scale**2) if weight > 0.0 else (0.0, 0.0, 1.0)
    threshold = gate_threshold(options.gate)
    values += [options.speed_sigma_mps**2, threshold, float(options.reopen_after), *tail]
    return np.array(values, np.float64)


def packed_measurements(z: Measurements, polar: bool) -> tuple[Array, Layout]:
    """Columns (C, P) of whole flights in packed order, float64, and their layout.

    Raises:
        EstimatorError: as `flight_lengths`, times run backwards, or a plot has numbers that are not finite or a
            covariance that is none.
    """
    # numba takes half a second to load: not before there is work for it.
    from ssrtrack.kernels.kalman_tables import position_columns

    layout = Layout.of(flight_lengths(z))
    packed = position_columns(z.time_s, z.position_m, z.covariance_m2, z.valid, layout)
    if (packed[0] < 0.0).any():
        raise EstimatorError(
            f"time step of {float(packed[0].min())} s; plots must be in time order with finite times (sort them first)"
        )
    cells = layout.cells()
    if polar and layout.plots:
        packed = np.concatenate([packed, np.stack(_polar_columns(z, cells))])
    elif polar:
        packed = np.zeros((len(POSITION_COLUMNS) + len(POLAR_COLUMNS), 0))
    _check(packed, z.valid[cells])
    return packed, layout


def _check(columns: Array, valid: Array) -> None:
    """Refuse what would be taken for a miss (no variance) or make a whole flight NaN."""
    known = np.isfinite(columns)
    finite = [bool(row.all()) for row in known]
    if not all(finite):
        names = [name for name, good in zip(POSITION_COLUMNS + POLAR_COLUMNS, finite, strict=False) if not good]
        plots = int((~known).any(0).sum())
        raise EstimatorError(f"{plots} plots have no finite {', '.join(names)}; mark them valid=False")
    xx, xy, yy = columns[3:6]
    bad = valid & ~((xx > 0.0) & (yy > 0.0) & (xx * yy >= xy * xy))
    if bad.any():
        k = int(np.argmax(bad))
        raise EstimatorError(
            f"{int(bad.sum())} plots have no position covariance (the first: xx {xx[k]}, xy {xy[k]}, yy {yy[k]} m²); "
            "it must be positive definite: give every plot its standard deviations"
        )


def _polar_columns(z: Measurements, cells: tuple[Array, Array]) -> list[Array]:
    """The polar columns; a miss repeats its flight's last plot, so that no formula meets a division by zero there."""
    held = np.maximum.accumulate(np.where(z.valid, np.arange(z.valid.shape[1]), 0), axis=1)
    cells = cells[0], held[cells]
    radar, azimuth = z.radar_id[cells], z.azimuth_rad[cells]
    turn, place = z.frame.rotation[radar], z.frame.position_m[radar]
    origin = np.zeros((radar.size, 3))
    origin[:, 2] = z.up_m[cells]
    at_origin = np.einsum("pij,pj->pi", turn, origin - place)
    return [
        z.range_m[cells],
        np.sin(azimuth),
        np.cos(azimuth),
        z.sigma_range_m[cells] ** 2,
        z.sigma_azimuth_rad[cells] ** 2,
        z.sigma_height_m[cells] ** 2,
        *(turn[:, axis, c] for axis in range(3) for c in range(2)),
        *at_origin.T,
    ]
