"""What comes together while logs stream by: sums that can be stored, sent, and merged without losing anything.

Scores of the whole are computed from merged sums, so they are those of one run over all logs, never means of means.
"""

import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import ScoringError
from ssrtrack.scoring.examples import Gallery
from ssrtrack.scoring.result import RadarNoise
from ssrtrack.scoring.tally import Tally

Array = NDArray[Any]


@dataclass
class Gathered:
    """Sums over flights, of one log, a piece of one, or many logs with or without truth alike."""

    epoch: datetime  # first_s and last_s count from here
    has_truth: bool
    identity: str
    tallies: dict[str, Tally]
    gallery: Gallery = field(default_factory=lambda: Gallery(0))
    excluded: Counter[str] = field(default_factory=Counter)
    radars: list[RadarNoise] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    order: list[Array] = field(default_factory=list)  # per batch (3, n): log, first time, key
    plots: int = 0
    plots_used: int = 0
    first_s: float = np.inf
    last_s: float = -np.inf

    @property
    def flights(self) -> int:
        """Flights tracked so far."""
        return int(sum(part.shape[1] for part in self.order))

    def flight_order(self) -> Array:
        """Rows of the tallies by log, first time and key: an order that does not depend on how logs were read."""
        order = np.concatenate([np.zeros((3, 0)), *self.order], axis=1)
        return np.lexsort((order[2], order[1], order[0]))

    def merge(self, other: "Gathered", number: int) -> None:
        """Add what another one holds; its flights become those of log `number`. Pictures are not merged.

        Raises:
            ScoringError: it has other trackers, or truth where this one has none.
        """
        if list(other.tallies) != list(self.tallies) or other.has_truth != self.has_truth:
            raise ScoringError(
                f"sums of trackers {list(other.tallies)} (truth: {other.has_truth}) cannot join those of "
                f"{list(self.tallies)} (truth: {self.has_truth}); evaluate them apart"
            )
        for name, tally in self.tallies.items():
            tally.merge(other.tallies[name].arrays())
        later = (other.epoch - self.epoch).total_seconds()
        self.excluded.update(other.excluded)
        self.radars += other.radars
        self.notes += [note for note in other.notes if note not in self.notes]
        self.order += [np.concatenate([np.full((1, part.shape[1]), number), part[1:]]) for part in other.order]
        self.plots += other.plots
        self.plots_used += other.plots_used
        self.first_s = min(self.first_s, other.first_s + later)
        self.last_s = max(self.last_s, other.last_s + later)


def empty_like(other: Gathered) -> Gathered:
    """Nothing yet, for the same trackers on the same ground."""
    return Gathered(other.epoch, other.has_truth, other.identity, {name: Tally() for name in other.tallies})


def one_log(pieces: Iterable[Gathered]) -> Gathered:
    """The sums of a log from those of its pieces: the same as if it had never been cut."""
    first, *others = pieces
    for other in others:
        first.merge(other, 0)
    # Every piece measured the same radars on the same plots; only the number of plots is the piece's own.
    plots: Counter[str] = Counter()
    radars: dict[str, RadarNoise] = {}
    for radar in first.radars:
        bare = replace(radar, plots=0)
        plots[repr(bare)] += radar.plots
        radars.setdefault(repr(bare), bare)
    first.radars = [replace(radar, plots=plots[key]) for key, radar in radars.items()]
    return first


def packed(gathered: Gathered) -> bytes:
    """The sums as a compressed npz file; examples and overview stay behind."""
    arrays = {
        f"{i}/{key}": value
        for i, tally in enumerate(gathered.tallies.values())
        for key, value in tally.arrays().items()
    }
    about = {
        "epoch": gathered.epoch.isoformat(),
        "has_truth": gathered.has_truth,
        "identity": gathered.identity,
        "trackers": list(gathered.tallies),
        "excluded": dict(gathered.excluded),
        "radars": [asdict(radar) for radar in gathered.radars],
        "notes": gathered.notes,
        "plots": gathered.plots,
        "plots_used": gathered.plots_used,
        "span_s": [gathered.first_s, gathered.last_s],
    }
    arrays["order"] = np.concatenate([np.zeros((3, 0)), *gathered.order], axis=1)
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def unpacked(data: bytes) -> Gathered:
    """The sums that `packed` stored.

    Raises:
        ScoringError: the bytes are damaged or from elsewhere.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = dict(file)
        about = json.loads(arrays.pop("about").tobytes())
        gathered = Gathered(
            epoch=datetime.fromisoformat(about["epoch"]),
            has_truth=about["has_truth"],
            identity=about["identity"],
            tallies={name: Tally() for name in about["trackers"]},
            excluded=Counter(about["excluded"]),
            radars=[RadarNoise(**radar) for radar in about["radars"]],
            notes=about["notes"],
            order=[arrays.pop("order")],
            plots=about["plots"],
            plots_used=about["plots_used"],
            first_s=about["span_s"][0],
            last_s=about["span_s"][1],
        )
        for i, tally in enumerate(gathered.tallies.values()):
            tally.merge({key.removeprefix(f"{i}/"): v for key, v in arrays.items() if key.startswith(f"{i}/")})
    except (ValueError, KeyError, TypeError, OSError, EOFError, IndexError, zipfile.BadZipFile) as error:
        raise ScoringError(
            f"stored sums cannot be read ({type(error).__name__}: {error}); compute them again"
        ) from error
    return gathered
