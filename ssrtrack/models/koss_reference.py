"""The KOSS scan in plain float64 loops: what every faster path is compared with. One sequence, one head."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def koss_scan_reference(
    x: Array, delta: Array, rate: Array, read: Array, bias: Array, w1: Array, b1: Array, w2: Array, start: Array
) -> tuple[Array, Array]:
    """y (T, C) and the last state (N, C), for x, delta, bias (T, C), rate, start (N, C), read (T, N).

    The formulas are those at the head of `ssrtrack.models.koss_scan`, with the same letters, written out singly.
    """
    steps, channels = x.shape
    states = start.shape[0]
    h = start.astype(np.float64).copy()
    y = np.empty((steps, channels))
    for t in range(steps):
        p = np.empty((states, channels))
        e = np.empty(channels)
        for d in range(channels):
            for n in range(states):
                p[n, d] = np.exp(delta[t, d] * rate[n, d]) * h[n, d]
            e[d] = x[t, d] - sum(read[t, n] * p[n, d] for n in range(states))
        s = e**2 / (1.0 + e**2)
        hidden = np.array([max(0.0, sum(s[d] * w1[d, j] for d in range(channels)) + b1[j]) for j in range(channels)])
        for d in range(channels):
            z = sum(hidden[j] * w2[j, d] for j in range(channels)) + bias[t, d]
            K = np.exp(-np.logaddexp(0.0, -z))
            for n in range(states):
                h[n, d] = p[n, d] + K * (x[t, d] - read[t, n] * p[n, d])
            y[t, d] = sum(read[t, n] * h[n, d] for n in range(states))
    return y, h
