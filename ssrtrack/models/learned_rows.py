"""What a learned tracker computes beside its network when it is stepped, compiled: the formulas of whole flights.

The formulas themselves stand where whole flights have them (`features`, `residual_frames`, `residual`): here they are
traced. Tables are float64 with a row for each track.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.kernels.kalman_algebra import where
from ssrtrack.models.features import OFFSET_LIMIT, feature_count, numbers_of, offset_count
from ssrtrack.models.residual import ASIDE, RAW, aside_of, carried_shift, factor_of, limits_of, share_of
from ssrtrack.models.residual_frames import NOWHERE, frame_of, moments_of

Array = NDArray[Any]
BASE = len(NOWHERE)


@dataclass(frozen=True)
class Programs:
    """Compiled, each a function (tables, out).

    told: what `told_tables` names -> features, then offsets. here: base (14), raw (14) -> mean (4), covariance (16).
    ahead: base then (14), base now (14), raw (14), seconds since (1) -> what the head of the prediction sees beside y,
    then the carried shift (4). later: base now, raw, seconds since, the head's numbers (14), the carried shift -> mean
    and covariance, of the filtered estimate where no time has passed.
    """

    told: Callable[[Sequence[Array], Array], None]
    here: Callable[[Sequence[Array], Array], None]
    ahead: Callable[[Sequence[Array], Array], None]
    later: Callable[[Sequence[Array], Array], None]


@cache
def programs(modes: int, history: int, nominal_gap_s: float) -> Programs:
    """Of models with so many modes and past plots."""
    from ssrtrack.kernels.rows_numba import compiled

    def told(predicted: Any, filtered: Any, before: Any, plot: Any, past: Any, ages: Any, modes: Any, rest: Any) -> Any:
        gap, used, range_m, sin, cos, count = rest
        newest = SimpleNamespace(
            predicted=[where(count > 0, v, nowhere) for v, nowhere in zip(predicted, NOWHERE, strict=True)],
            filtered=filtered, before=before, gap_s=gap, plot=plot,
            past=[past[5 * j : 5 * j + 5] for j in range(history)], past_age_s=ages, modes=modes, used=used,
            range_m=range_m, sin_azimuth=sin, cos_azimuth=cos, count=count,
        )  # fmt: skip
        features, offsets, _ = numbers_of(newest, nominal_gap_s)
        return [*features, *(OFFSET_LIMIT * (v / OFFSET_LIMIT).tanh() for v in offsets)]

    def ahead(then: Any, now: Any, raw: Any, since: Any) -> Any:
        before, after = frame_of(then), frame_of(now)
        shift = carried_shift(before, after, since[0], raw)
        return [*aside_of(before, after, since[0] / nominal_gap_s), *(v.asinh() for v in shift), *shift]

    def later(now: Any, raw: Any, since: Any, head: Any, shift: Any) -> Any:
        share = share_of(since[0] / nominal_gap_s)
        moved = since[0] > 0.0
        own, whole = limits_of(raw), limits_of([a + share * (b - a) for a, b in zip(raw, head, strict=True)])
        added = limits_of(head)[:4]
        whole[:4] = [a + share * b for a, b in zip(shift, added, strict=True)]
        return _moments(now, [where(moved, a, b) for a, b in zip(whole, own, strict=True)])

    name = f"modes {modes}, history {history}, nominal gap {nominal_gap_s} s"
    told_widths = (BASE, BASE, 2, 5, 5 * history, history, modes, 6)
    return Programs(
        compiled(f"told: {name}", told, told_widths, feature_count(modes, history) + offset_count(history)),
        compiled("here", lambda now, raw: _moments(now, limits_of(raw)), (BASE, RAW), 20),
        compiled(f"ahead: {name}", ahead, (BASE, BASE, RAW, 1), ASIDE + 4),
        compiled(f"later: {name}", later, (BASE, RAW, 1, RAW, 4), 20),
    )


def _moments(base: Any, numbers: Any) -> list[Any]:
    """Mean and covariance, as 4 and 16 scalars, of a correction's numbers within their limits."""
    mean, P = moments_of(frame_of(base), numbers[:4], factor_of([v.exp() for v in numbers[4:8]], numbers[8:]))
    return [*mean, *(v for row in P for v in row)]


def gained(numbers: Array, offsets: Array) -> Array:
    """Of a correction the 14 numbers (N, 14): u₀ and the others, then M by rows (N, 14 + 4 O), offsets (N, O) -> u.

    `ResidualKoss.read_out` once its head's numbers are there.
    """
    gain = numbers[:, RAW:].reshape(len(numbers), 4, -1)
    raw = numbers[:, :RAW].copy()
    raw[:, :4] += np.einsum("nij,nj->ni", gain, offsets)
    return raw


def table(*columns: Array) -> Array:
    """Columns (N,) or (N, k) side by side, float64."""
    return np.concatenate([np.asarray(c, np.float64).reshape(len(c), -1) for c in columns], 1)
