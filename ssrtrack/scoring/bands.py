"""Scores by band: by what the aircraft does, how far it is and how fast, since one mean can hide two sides.

The values are those of the scores themselves (docs/scores.md), taken apart cell by cell; only where there is truth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Phase
from ssrtrack.scoring.accuracy import onset
from ssrtrack.scoring.bootstrap import MIN_FLIGHTS, interval, resampled_sums
from ssrtrack.scoring.scene import Scene
from ssrtrack.scoring.tally import RMS
from ssrtrack.units import KT_MPS, NM_M

Array = NDArray[Any]

KEYS = ("position_rmse_m", "velocity_rmse_mps", "anees", "coverage_95", "nll")
RANGES_NM = (0.0, 20.0, 40.0, 80.0, 120.0, np.inf)  # slant range of the plot
SPEEDS_KT = (0.0, 150.0, 250.0, 350.0, 450.0, np.inf)  # true ground speed
PHASES = ("straight", "turn", "onset", "climb")  # as the scores of these names


def _name(low: float, high: float) -> str:
    return f"{low:g}-{high:g}" if high < np.inf else f"over {low:g}"


BANDS = (
    *(("phase", name) for name in PHASES),
    *(("range", f"{_name(*edges)} NM") for edges in pairwise(RANGES_NM)),
    *(("speed", f"{_name(*edges)} kt") for edges in pairwise(SPEEDS_KT)),
)


@dataclass(frozen=True)
class BandScore:
    """One score in one band. interval: 95 %, over flights drawn again; None if too few or not asked for."""

    value: float
    interval: tuple[float, float] | None
    updates: int
    flights: int


def cells_of(scene: Scene) -> Array:
    """Which cells (B, N, T) of a batch with truth lie in each of BANDS."""
    assert scene.truth is not None
    phase, velocity = scene.truth.phase, scene.truth.velocity_mps
    turning = (phase & int(Phase.TURN)) != 0
    climbing = (phase & int(Phase.CLIMB)) != 0
    kinds = {"straight": phase == 0, "turn": turning, "onset": onset(phase), "climb": climbing & ~turning}
    range_nm, speed_kt = scene.z.range_m / NM_M, np.hypot(velocity[..., 0], velocity[..., 1]) / KT_MPS
    far = _between(range_nm, RANGES_NM)
    fast = _between(speed_kt, SPEEDS_KT)
    return np.stack([*(kinds[name] for name in PHASES), *far, *fast])


def _between(values: Array, edges: tuple[float, ...]) -> list[Array]:
    with np.errstate(invalid="ignore"):
        return [(values >= low) & (values < high) for low, high in pairwise(edges)]


class Bands:
    """Every tracker's sums per flight in every band, batch by batch: for `ssrtrack.scoring.gather.gather`."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Array]] = {}

    def add(self, name: str, scene: Scene, values: Mapping[str, Array]) -> None:
        """Add one tracker's values (N, T) by score key on a batch; nothing where there is no truth."""
        if scene.truth is None:
            return
        inside = cells_of(scene)
        sums = np.zeros((len(scene.batch), 2, len(BANDS), len(KEYS)))
        for k, key in enumerate(KEYS):
            known = ~np.isnan(values[key])
            cells = np.where(known, values[key], 0.0)
            sums[:, 0, :, k] = np.einsum("bnt,nt->nb", inside, cells)
            sums[:, 1, :, k] = (inside & known).sum(2).T
        self._sums.setdefault(name, []).append(sums)

    def merge(self, other: "Bands") -> None:
        """Add what another one holds: later flights of the same trackers, or other trackers on the same flights."""
        for name, parts in other._sums.items():
            self._sums.setdefault(name, []).extend(parts)

    def scores(self, *, bootstrap: int, seed: int) -> dict[str, dict[tuple[str, str, str], BandScore]]:
        """By tracker, then by (kind of band, band, score key); a band without an update is left out.

        Args:
            bootstrap: resamples of whole flights, the same ones for all trackers; 0 for no intervals.
            seed: of the resampling.
        """
        tables = {name: np.concatenate(parts) for name, parts in self._sums.items()}
        samples: list[Array | None] = [None] * len(tables)
        flights = len(next(iter(tables.values()))) if tables else 0
        if bootstrap and flights >= MIN_FLIGHTS:
            flat = [table.reshape(flights, -1) for table in tables.values()]
            drawn = resampled_sums(flat, bootstrap, np.random.default_rng(seed))
            samples = [_values(s.reshape(-1, 2, len(BANDS), len(KEYS))) for s in drawn]
        return {name: _scores(table, sample) for (name, table), sample in zip(tables.items(), samples, strict=True)}


def _values(sums: Array) -> Array:
    """Scores (..., bands, keys) of sums (..., 2, bands, keys); NaN where nothing was summed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(sums[..., 1, :, :] > 0.0, sums[..., 0, :, :] / sums[..., 1, :, :], np.nan)
    return np.where([key in RMS for key in KEYS], np.sqrt(np.abs(mean)), mean)


def _scores(table: Array, sample: Array | None) -> dict[tuple[str, str, str], BandScore]:
    value, counts = _values(table.sum(0)), table[:, 1]
    return {
        (*band, key): BandScore(
            float(value[b, k]),
            interval(sample[:, b, k]) if sample is not None else None,
            int(counts[:, b, k].sum()),
            int((counts[:, b, k] > 0).sum()),
        )
        for b, band in enumerate(BANDS)
        for k, key in enumerate(KEYS)
        if counts[:, b, k].any()
    }
