"""Random numbers that belong to a plot: the same whatever the order, the chunk, the batch or the level.

Each number is a hash of the seed, of what it is for, and of the plot's time, radar and identity, so that a sweep's
levels are nested: what is missing at a detection probability of 0.8 is missing at 0.7.
Hash: the finaliser of SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014, section 6), applied after each part is mixed in.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from ssrtrack.data import Plots

Array = NDArray[Any]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(state: Array) -> Array:
    """SplitMix64 of (n,) uint64."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is what is meant
        state = state + _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Array = state ^ (state >> np.uint64(31))
    return mixed


def hashes(plots: Plots, seed: int, purpose: str) -> Array:
    """One uint64 per plot (n,), for a seed and a purpose such as "range"."""
    start = np.frombuffer(purpose.encode().ljust(8, b"\0")[:8], "<u8").astype(np.uint64)
    state = _mixed(_mixed(start ^ np.uint64(seed)))
    time = np.ascontiguousarray(plots.time_s, np.float64).view(np.uint64)
    for part in (time, plots.radar_id, plots.truth_id, plots.address):
        state = _mixed(state ^ (part if part.dtype == np.uint64 else part.astype(np.int64).view(np.uint64)))
    return state


def uniform(plots: Plots, seed: int, purpose: str) -> Array:
    """One number per plot (n,), uniform between 0 and 1, both excluded."""
    value: Array = (hashes(plots, seed, purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54
    return value


def normal(plots: Plots, seed: int, purpose: str) -> Array:
    """One standard normal number per plot (n,)."""
    return np.asarray(ndtri(uniform(plots, seed, purpose)))
