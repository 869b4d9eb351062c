"""Scores of learned trackers and of the two IMMs on one log, as rows of the table of `learned_trackers.py`.

Everything is what `ssrtrack evaluate` computes: the same flights, updates, sums and resamples. The reference of each
measure is the IMM that is the better one there: the tuned four-model IMM with mixture noise, or with a gate. Where the
judged set has IMMs tuned on its own training split (imm_per_set.json), the same is said once more with the best of
those for a reference, in parts whose names end in OVER_OWN.

Sums are of a slice of a log's flights and of some trackers alone, so that processes can share a log; `joined` and
`beside` put them together before anything is made of them.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
from learned_trackers_wanted import (
    ANY,
    AREA,
    LEAST_SHARE,
    NLL_LESS,
    OVER_OWN,
    Measure,
    row,
    wanted_of,
)

from ssrtrack.errors import ScoringError
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.models.checkpoint import read_description
from ssrtrack.models.load import shipped
from ssrtrack.scoring.bands import Bands
from ssrtrack.scoring.gather import Asked, gather, nothing_yet, require_flights
from ssrtrack.scoring.gathered import Gathered, one_log
from ssrtrack.scoring.result import TrackerResult
from ssrtrack.scoring.summary import tracker_results
from ssrtrack.scoring.sweep import Sweeper
from ssrtrack.scoring.sweep_curves import Sweep
from ssrtrack.tracking.pieces import Piece

IMMS = {"imm": "imm (mixture noise)", "imm-gated": "imm-gated"}
RESAMPLES, SEED = 1000, 1
DIGITS = 16  # of a digest, as in the names of files of weights
CALIBRATION = ("coverage_95", "anees", "coverage_50", "coverage_90", "coverage_99", "nees_in_bounds")
EFFICIENCY = ("position_efficiency", "velocity_efficiency")


@dataclass(frozen=True)
class Sums:
    """Of some trackers on the flights that begin in one slice of a log, or on all."""

    gathered: Gathered
    bands: Bands
    sweeper: Sweeper | None = None


@dataclass(frozen=True)
class Judged:
    """Sums over one log. models: what `-t` takes -> (name, seed); own: IMMs tuned on the set alone -> their names."""

    sums: Sums
    models: Mapping[str, tuple[str, str]]
    own: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def results(self) -> dict[str, dict[str, TrackerResult]]:
        """Results by reference, then by tracker: ratios are to that reference, on the same resamples."""
        gathered, results = self.sums.gathered, {}
        for reference in (*IMMS, *self.own):
            first = {name: gathered.tallies[name] for name in (reference, *self.models)}
            rows = tracker_results(
                first, gathered.flight_order(), has_truth=gathered.has_truth, bootstrap=RESAMPLES, seed=SEED
            )
            results[reference] = {result.name: result for result in rows}
        return results


def named(trackers: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name and training seed of every model: a shipped one's name, else its folder's, without a seed at its end.

    Raises:
        CheckpointError: a folder holds no model.
        ScoringError: two are called the same.
    """
    found: dict[str, tuple[str, str]] = {}
    for text in trackers:
        seed = str(_seed(read_description(folder_of(text))["training"]))
        name = folder_of(text).resolve().name
        one = (name.removesuffix(f"-{seed}") or name, seed)
        if one in found.values():
            raise ScoringError(f"two models are called {one[0]!r} with seed {seed!r}; call their folders otherwise")
        found[text] = one
    return found


def folder_of(text: str) -> Path:
    """The folder of a learned tracker as `-t` takes it."""
    return shipped().get(text, Path(text))


def digest_of(text: str) -> str:
    """The first digits of the SHA-256 of a model's weights."""
    return str(read_description(folder_of(text))["weights"]["sha256"])[:DIGITS]


def _seed(training: Any) -> Any:
    """The seed in what a checkpoint says of its training, however deep."""
    if isinstance(training, dict):
        if "seed" in training:
            return training["seed"]
        for value in training.values():
            if (found := _seed(value)) != "":
                return found
    return ""


def check_log(log: Path, trackers: Sequence[str]) -> None:
    """Refuse a log that a tracker was trained on.

    Raises:
        ScoringError: it was; says which one, and on what.
    """
    asked = Asked(list(trackers))
    asked.check()
    with LogReader(log) as reader:
        asked.check_training(reader)


def summed(
    log: Path, trackers: Sequence[str], piece: Piece | None = None, *, axes: Sequence[str] = (), banded: bool = True
) -> Sums:
    """Trackers over a log, or over the flights that begin in a piece of it; with axes also on plots made worse.

    banded: also by what the aircraft does, range and speed.

    Raises:
        EstimatorError: a tracker gives NaN or a covariance that is not positive definite.
    """
    asked, bands = Asked(list(trackers)), Bands()
    sweeper = Sweeper(axes, seed=SEED) if axes else None
    with LogReader(log) as reader:
        gathered = nothing_yet(asked, reader)
        gather(reader, asked, gathered, piece=piece, sweeper=sweeper, bands=bands if banded else None)
    return Sums(gathered, bands, sweeper)


def joined(slices: Sequence[Sums]) -> Sums:
    """The same trackers over all slices of a log, in their order; the slices stay as they are."""
    first, others = deepcopy(slices[0]), slices[1:]
    for other in others:
        first.bands.merge(other.bands)
        if first.sweeper is not None and other.sweeper is not None:
            first.sweeper.merge(other.sweeper)
    return replace(first, gathered=one_log([first.gathered, *(other.gathered for other in others)]))


def beside(one: Sums, other: Sums) -> Sums:
    """Other trackers on the same flights, put beside the first ones', whose sums grow by theirs.

    Raises:
        ScoringError: the flights are others, or there is none.
    """
    keys = [np.concatenate([np.zeros((3, 0)), *sums.gathered.order], axis=1) for sums in (one, other)]
    if not np.array_equal(*keys):
        raise ScoringError(f"{list(one.gathered.tallies)} and {list(other.gathered.tallies)} met other flights")
    require_flights("the flights judged", one.gathered.flights, one.gathered)
    one.gathered.tallies.update(other.gathered.tallies)
    one.bands.merge(other.bands)
    if one.sweeper is not None and other.sweeper is not None:
        one.sweeper.merge(other.sweeper)
    return one


def score(result: TrackerResult, key: str) -> float:
    """One score, NaN where there is none."""
    value = getattr(result.scores, key)
    return nan if value is None else float(value)


def better(
    results: Mapping[str, Mapping[str, TrackerResult]], key: str, among: Sequence[str] = tuple(IMMS)
) -> tuple[str, float]:
    """The IMM whose score is lowest, and that score."""
    values = {name: score(results[name][name], key) for name in among}
    name = min(values, key=lambda n: values[n] if isfinite(values[n]) else float("inf"))
    return name, values[name]


def references(part: str, found: Judged) -> dict[str, dict[str, str]]:
    """IMMs among which the better one is a reference, by the part of the table that says so: text -> name."""
    return {part: IMMS} | ({part + OVER_OWN: dict(found.own)} if found.own else {})


def ratio_rows(part: str, where: str, found: Judged, measures: Mapping[str, Measure]) -> list[dict[str, Any]]:
    """Ratios to the better IMM of each measure, with paired intervals over flights."""
    results, rows = found.results, []
    for name_of_part, imms in references(part, found).items():
        for measure, asked in measures.items():
            name, best = better(results, asked.score, tuple(imms))
            for text, model in found.models.items():
                result = results[name][text]
                value = score(result, asked.score) / best
                if isfinite(value):  # no manoeuvre, for example: nothing to say
                    given = result.ratio.get(asked.score)
                    rows.append(
                        row(
                            name_of_part, where, model, measure, value, wanted=asked.wanted,
                            interval=given[1:] if given else None, reference=imms[name], reference_value=best,
                            flights=result.scores.flights, updates=result.scores.updates,
                        )
                    )  # fmt: skip
    return rows


def calibration_rows(where: str, found: Judged) -> list[dict[str, Any]]:
    """Coverage, ANEES and likelihood as a whole, by what the aircraft does, by range and by speed; efficiency."""
    results, rows = found.results, []
    named_by = better(results, "position_rmse_m")[0]
    for text, model in found.models.items():
        result = results[named_by][text]
        counts = {"flights": result.scores.flights, "updates": result.scores.updates}
        for key in (*CALIBRATION, *EFFICIENCY):
            part = "efficiency" if key in EFFICIENCY else "calibration"
            wanted = wanted_of(part, key, nan, whole=False)
            rows.append(
                row(
                    part, where, model, key, score(result, key), wanted=wanted, interval=result.intervals.get(key),
                    reference=IMMS[named_by], reference_value=score(results[named_by][named_by], key), **counts,
                )
            )  # fmt: skip
        for part, imms in references("calibration", found).items():
            least, nll = better(results, "nll", tuple(imms))
            rows.append(
                row(
                    part, where, model, "nll less IMM", score(result, "nll") - nll, wanted=NLL_LESS, unit="nat",
                    reference=imms[least], reference_value=nll, **counts,
                )
            )  # fmt: skip
    return rows + band_rows(where, found, named_by)


def band_rows(where: str, found: Judged, reference: str) -> list[dict[str, Any]]:
    """Coverage in every band, and ANEES in every phase beside the reference's."""
    scores, rows = found.sums.bands.scores(bootstrap=RESAMPLES, seed=SEED), []
    for folder, model in found.models.items():
        updates = sum(
            own.updates for (kind, _, key), own in scores[folder].items() if (kind, key) == ("range", "anees")
        )
        for (kind, band, key), own in scores[folder].items():
            if key not in ("coverage_95", "anees"):
                continue
            theirs = scores[reference][kind, band, key]
            wanted = wanted_of(f"{kind} bands", key, theirs.value)
            if own.updates < LEAST_SHARE * updates:
                wanted = ANY
            rows.append(
                row(
                    f"{kind} bands", where, model, f"{key}, {band}", own.value, wanted=wanted, interval=own.interval,
                    reference=IMMS[reference], reference_value=theirs.value, flights=own.flights, updates=own.updates,
                )
            )  # fmt: skip
    return rows


def sweep_rows(where: str, found: Judged) -> list[dict[str, Any]]:
    """Area under every axis's curve over the IMM's, the one of the two with the smaller area."""
    sweeper, order = found.sums.sweeper, found.sums.gathered.flight_order()
    if sweeper is None:
        raise ScoringError(f"{where}: nothing was swept; give axes to `summed`")
    rows = []
    every = sweeper.results(order, has_truth=True, bootstrap=0, seed=SEED, reference="imm")
    for part, imms in references("sweep", found).items():
        # The ratio of one area to the other says whose is smaller; of the least one alone intervals are made.
        least = [min(imms, key=partial(area_of, sweep)) for sweep in every]
        by_reference = {
            name: sweeper.results(order, has_truth=True, bootstrap=RESAMPLES, seed=SEED, reference=name)
            for name in dict.fromkeys(least)
        }
        for number, reference in enumerate(least):
            sweep = by_reference[reference][number]
            for curve in sweep.curves:
                if curve.tracker in found.models:
                    value = nan if curve.area_ratio is None else curve.area_ratio
                    rows.append(
                        row(
                            part, where, found.models[curve.tracker], sweep.axis, value, wanted=AREA,
                            interval=curve.area_interval, reference=imms[reference], flights=sweep.flights,
                        )
                    )  # fmt: skip
    return rows


def area_of(sweep: Sweep, tracker: str) -> float:
    """Area under a tracker's curve over that of the sweep's reference; infinite where it is not known."""
    (ratio,) = (curve.area_ratio for curve in sweep.curves if curve.tracker == tracker)
    return float("inf") if ratio is None else ratio


def file_octets(text: str) -> int:
    """Size of a model's weights on disk."""
    return (folder_of(text) / read_description(folder_of(text))["weights"]["file"]).stat().st_size
