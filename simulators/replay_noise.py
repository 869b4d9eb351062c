"""How accurate a recording is, measured on itself."""

import dataclasses

import numpy as np

from ssrtrack.simulators.replay_smooth import Floats, Ints, Noise, Rows

# Never better than this: positions are encoded to about 5 m (Annex 10 IV, CPR), altitudes to 25 ft.
FLOOR_M = (5.0, 5.0, 4.0)
_LONGEST_S = 20.0
_FEWEST = 100
_MAD = 1.4826


def measured_noise(rows: Rows, noise: Noise | None = None) -> Noise:
    """The noise with the position's standard deviations as measured along and across the track; height as it is.

    Where the velocity is reported, a step between rows should be its mean over the step: what remains is the difference
    of two position errors. Elsewhere a row should lie between its neighbours. Medians leave turns and strays out.
    """
    noise = noise or Noise()
    off, share = _off_reported(rows) if np.isfinite(rows.velocity_mps[:, 0]).sum() > _FEWEST else _off_line(rows)
    if len(off) < _FEWEST:
        return noise
    sigma = _MAD * np.median(np.abs(off), 0) / share
    along, across = np.maximum(sigma, FLOOR_M[:2])
    return dataclasses.replace(noise, position_m=(float(along), float(across), noise.position_m[2]))


def _off_reported(rows: Rows) -> tuple[Floats, float]:
    """Steps minus the reported velocity's, along and across (m, 2), and their sigma for unit noise of a position."""
    link = _steps(rows)
    step = rows.place_m[:, link + 1] - rows.place_m[:, link]
    length = np.diff(rows.time_s)[link]
    mean = 0.5 * sum(np.einsum("na,nax->xn", _level(rows, i), rows.axes[i]) for i in (link, link + 1))
    off = np.einsum("nax,xn->na", rows.axes[link], step - length * mean)[:, :2]
    return off[np.isfinite(off).all(1)], float(np.sqrt(2.0))


def _level(rows: Rows, index: Ints) -> Floats:
    """Reported velocity along the axes, without the climb, which a step does not need and may lack."""
    velocity = rows.velocity_mps[index].copy()
    velocity[:, 2] = 0.0
    return np.asarray(velocity)


def _off_line(rows: Rows) -> tuple[Floats, float]:
    """How far rows lie off the line between their neighbours, along and across, over the sigma for unit noise."""
    link = _steps(rows)
    middle = link[np.isin(link + 1, link)] + 1
    before, after = (np.diff(rows.time_s)[i] for i in (middle - 1, middle))
    share = before / (before + after)
    line = rows.place_m[:, middle - 1] * (1.0 - share) + rows.place_m[:, middle + 1] * share
    off = np.einsum("nax,xn->na", rows.axes[middle], rows.place_m[:, middle] - line)[:, :2]
    return off / np.sqrt(1.0 + share**2 + (1.0 - share) ** 2)[:, None], 1.0


def _steps(rows: Rows) -> Ints:
    """Rows with another one of the same flight soon after."""
    near = (np.diff(rows.flight) == 0) & (np.diff(rows.time_s) <= _LONGEST_S)
    return np.flatnonzero(near)
