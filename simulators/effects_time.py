"""What time a plot states: the radar's clock."""

import numpy as np

from ssrtrack.simulators.draws import normals
from ssrtrack.simulators.legs import Floats
from ssrtrack.simulators.schema_effects import Clock

JITTER_CLIP = 4.0


def stamped(clock: Clock, seed: int, radar_id: int, time_s: Floats) -> Floats:
    """Time stamps of plots detected at times (n,)."""
    if clock == Clock():
        return time_s
    stamp = time_s + (clock.latency_s + clock.offset_s) + clock.drift_ppm * 1e-6 * time_s
    if clock.latency_jitter_s == 0.0:
        return stamp
    # The time of detection itself names the plot: extra plots have no flight.
    bits = np.ascontiguousarray(time_s).view(np.int64)
    who = np.stack([np.zeros_like(bits), bits & 0xFFFFFFFF, bits >> 32 & 0xFFFFFFFF], 1)
    deviate = normals(seed, "latency", radar_id, who, 0)[0]
    return np.asarray(stamp + clock.latency_jitter_s * np.clip(deviate, -JITTER_CLIP, JITTER_CLIP))


def lead_s(clock: Clock, until_s: float) -> float:
    """The most by which a stamp may be earlier than its detection, at detections before `until_s`."""
    drift_s = clock.drift_ppm * 1e-6 * until_s
    early = clock.latency_s + clock.offset_s + min(drift_s, 0.0) - JITTER_CLIP * clock.latency_jitter_s
    return max(0.0, -early)
