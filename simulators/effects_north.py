"""Errors of the time at which a radar takes its beam to point north: they are common to the plots of a rotation."""

import numpy as np

from ssrtrack.simulators.legs import Floats
from ssrtrack.simulators.look import Look


def north_delay(look: Look, time_s: Floats) -> Floats:
    """By how much the stamps of plots detected at times (n,) are late because north was."""
    rules = look.spec.north_stamp
    u, v = look.per_rotation("north stamp")
    late_s = rules.spread_s * u + np.where(v < rules.late_share, rules.late_s, 0.0)
    scan = np.searchsorted(look.north_s, time_s, "right") - 1
    return np.asarray(late_s[np.clip(scan, 0, len(late_s) - 1)])
