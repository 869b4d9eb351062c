"""How many plots of a kind come at each meeting, and their random numbers."""

import numpy as np

from ssrtrack.simulators.legs import Floats, Ints
from ssrtrack.simulators.look import Look, Meetings


def poisson(mean: float, u: Floats) -> Ints:
    """Poisson numbers (n,) with a mean, from uniform numbers (n,), by inversion."""
    # Far enough for the sum to be one; logarithms, as exp(−mean) is zero from 745 on.
    k = np.arange(1.0, mean + 12.0 * np.sqrt(mean) + 40.0)
    logs = np.concatenate([[0.0], np.cumsum(np.log(mean / k))]) - mean
    return np.searchsorted(np.cumsum(np.exp(logs)), u, "right")


def several(look: Look, met: Meetings, effect: str, mean: float) -> tuple[Ints, Ints, Floats, Floats]:
    """A Poisson number of events at each meeting.

    Returns:
        The meeting of each event and its number there, (m,), and four uniform numbers for each, twice (2, m).
    """
    counts = poisson(mean, look.uniforms(effect, met)[0]) if mean else np.zeros(len(met), int)
    source, number = [np.empty(0, int)], [np.empty(0, int)]
    u, v = [np.empty((2, 0))], [np.empty((2, 0))]
    for nth in range(int(counts.max(initial=0))):
        rows = np.flatnonzero(counts > nth)
        source.append(rows)
        number.append(np.full(len(rows), nth))
        u.append(look.uniforms(effect, met.take(rows), 2 * nth + 1))
        v.append(look.uniforms(effect, met.take(rows), 2 * nth + 2))
    return np.concatenate(source), np.concatenate(number), np.concatenate(u, 1), np.concatenate(v, 1)
