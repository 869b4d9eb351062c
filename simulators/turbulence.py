"""Turbulence: accelerations along and across the track, constant in each law of motion."""

import numpy as np

from ssrtrack.simulators.legs import Ints, Limits, Pair
from ssrtrack.simulators.trajectory_pieces import Pieces


def white_push(limits: Limits, counts: Ints, first: Ints, p: Pieces, rngs: list[np.random.Generator]) -> Pair:
    """White acceleration: variance PSD / duration in each law."""
    starts = p.law[first[:-1]]
    laws = np.diff(np.append(starts, p.law[-1] + 1))
    normal = np.concatenate([rng.standard_normal((n, 2)) for rng, n in zip(rngs, laws, strict=True)])
    duration = np.bincount(p.law, p.length_s)
    push = (normal * np.sqrt(limits.turbulence_psd / duration)[:, None])[p.law]
    return push[:, 0], push[:, 1]
