"""Logs cut by time: every flight in one piece, every plot counted once, and the scores of the uncut log."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.data import Plots
from ssrtrack.errors import LogError, ScoringError
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.scoring.evaluate import evaluate, evaluation_result
from ssrtrack.scoring.gather import Asked, gather, nothing_yet
from ssrtrack.scoring.gathered import Gathered, one_log, packed, unpacked
from ssrtrack.tracking.flights import Cutting, flights
from ssrtrack.tracking.pieces import Piece, pieces_of, plots_of_piece
from tests.batch_fixture import same_scores
from tests.scoring_fixture import chunked, paths, plots_table, simple_log, truth_table, write_log

RULE = Cutting(gap_s=30.0, min_plots=1, min_range_m=2000.0)


def sparse_plots(seed: int, count: int, aircraft: int) -> Plots:
    """Plots of a few aircraft at random whole seconds, some unusable, some twice at one time."""
    rng = np.random.default_rng(seed)
    return Plots(
        time_s=np.sort(rng.integers(0, 600, count)).astype(float),
        radar_id=np.zeros(count, int),
        range_m=rng.choice([1000.0, 50e3, 80e3], count, p=[0.1, 0.5, 0.4]),
        azimuth_rad=np.zeros(count),
        address=rng.integers(0, aircraft, count),  # 0: none
    )


def found(stream: Any) -> tuple[Counter[tuple[int, tuple[float, ...]]], Counter[str]]:
    """Flights by key and times of plots, and what was left out by reason."""
    flown: Counter[tuple[int, tuple[float, ...]]] = Counter()
    excluded: Counter[str] = Counter()
    for batch in flights(stream, identity="address", cutting=RULE):
        excluded.update(batch.excluded)
        for key, a, b in zip(batch.keys, batch.starts[:-1], batch.starts[1:], strict=True):
            flown[(int(key), tuple(batch.plots.time_s[a:b]))] += 1
    return flown, excluded


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 300),
    aircraft=st.integers(1, 12),
    size=st.integers(1, 80),
    cuts=st.lists(st.integers(-5, 605).map(float), max_size=5, unique=True),
)
def test_pieces_share_out_flights_and_plots(seed: int, count: int, aircraft: int, size: int, cuts: list[float]) -> None:
    plots = sparse_plots(seed, count, aircraft)
    flown, excluded, counted = Counter[Any](), Counter[str](), 0
    for piece in pieces_of(sorted(cuts)):
        late = plots[plots.time_s >= piece.read_from_s(RULE.gap_s)]
        parts = list(plots_of_piece(chunked(late, [size]), piece, identity="address", cutting=RULE))
        counted += sum(len(inside) for inside, _ in parts)
        mine, left_out = found(chunk for _, chunk in parts)
        flown.update(mine)
        excluded.update(left_out)
    assert counted == count
    assert (flown, excluded) == found(iter(chunked(plots, [size])))


def test_a_piece_stops_reading_when_its_flights_have_ended() -> None:
    rng = np.random.default_rng(1)
    position, _ = paths(3, 20, rng)
    plots = plots_table(position, rng)
    later = plots.replace(time_s=plots.time_s + 1000.0, address=plots.address + 9)
    read = []

    def chunks() -> Any:
        for chunk in chunked(Plots.concat([plots, later]), [6]):
            read.append(len(chunk))
            yield chunk

    rule = Cutting(gap_s=30.0)
    kept = list(plots_of_piece(chunks(), Piece(-np.inf, 10.0), identity="address", cutting=rule))
    assert sum(len(chunk) for _, chunk in kept) == len(plots)  # their flights go on to 76 s
    assert sum(read) == len(plots) + 6  # the first plots after the silence show that they ended


def log_of_hours(path: Path, *, truth: bool, seed: int = 5) -> Path:
    """Waves of traffic that overlap and pause in turn; the same addresses fly again."""
    rng = np.random.default_rng(seed)
    plots, states = [], []
    for wave, start_s in enumerate([0.0, 100.0, 400.0, 460.0, 900.0]):
        position, velocity = paths(6, 40, rng, turn=True)
        table, known = plots_table(position, rng), truth_table(position, velocity, turn=True)
        plots.append(table.replace(time_s=table.time_s + start_s, truth_id=table.truth_id + 10 * wave))
        states.append(known.replace(time_s=known.time_s + start_s, truth_id=known.truth_id + 10 * wave))
    table = Plots.concat(plots)
    if not truth:
        table = table.replace(truth_id=np.full(len(table), -2))
    known = type(states[0]).concat(states)
    table, known = (t[np.argsort(t.time_s, kind="stable")] for t in (table, known))
    return write_log(path, table, known if truth else None)


def gathered_in_pieces(log: Path, asked: Asked, cuts: list[float]) -> Gathered:
    parts = []
    for piece in pieces_of(cuts):
        with LogReader(log) as reader:
            part = nothing_yet(asked, reader)
            gather(reader, asked, part, piece=piece)
        parts.append(unpacked(packed(part)))  # as they come from another process
    return one_log(parts)


@pytest.mark.parametrize("truth", [True, False])
def test_cut_log_has_the_scores_of_the_uncut_one(tmp_path: Path, truth: bool) -> None:
    """Every figure: scores, intervals (whose resampling depends on the order of flights), noise, notes."""
    log = log_of_hours(tmp_path / "log.h5", truth=truth)
    asked = Asked(["kf", "imm"], gap_s=30.0, chunk_rows=90, identity="address")
    whole = evaluate([log], asked.trackers, gap_s=30.0, identity="address", bootstrap=50)
    for cuts in ([450.0], [50.0, 250.0, 500.0, 1e6]):
        gathered = gathered_in_pieces(log, asked, cuts)
        cut = evaluation_result([log], gathered, warmup_plots=8, bootstrap=50, seed=1)
        same_scores(whole, cut)
        for one, other in zip(whole.trackers, cut.trackers, strict=True):
            np.testing.assert_array_equal(one.position_error.counts, other.position_error.counts)
            np.testing.assert_allclose(one.nis.mean, other.nis.mean, rtol=1e-9)


@pytest.mark.parametrize("disorder", [False, True])
def test_reading_from_a_time_on(tmp_path: Path, disorder: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables from a time on are the end of all tables, for logs stored out of order too."""
    monkeypatch.setattr("ssrtrack.io.hdf5_writer.CHUNK_ROWS", 64)
    log = log_of_hours(tmp_path / "log.h5", truth=True)
    with LogReader(log) as reader:
        plots, truth = reader.read_plots(), reader.read_truth()
    if disorder:
        rng = np.random.default_rng(0)
        plots, truth = (t[np.argsort(t.time_s + rng.uniform(0, 20, len(t)))] for t in (plots, truth))
        log = write_log(tmp_path / "disordered.h5", plots, truth)
    with LogReader(log) as reader:
        every, states = reader.read_plots(), reader.read_truth()
        for start_s in (-5.0, 0.0, 77.7, 460.0, float(every.time_s[-1]), 1e9):
            late = Plots.concat(list(reader.plots(50, None, start_s)))
            np.testing.assert_array_equal(late.time_s, every.time_s[every.time_s >= start_s])
            np.testing.assert_array_equal(late.address, every.address[every.time_s >= start_s])
            known = [t for table in reader.truth(50, start_s) for t in table.time_s]
            np.testing.assert_array_equal(known, states.time_s[states.time_s >= start_s])


def test_cuts_fall_into_silences(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    position, _ = paths(10, 30, rng)
    first = plots_table(position, rng)
    second = first.replace(time_s=first.time_s + 500.0)
    log = write_log(tmp_path / "log.h5", Plots.concat([first, second]))
    with LogReader(log) as reader:
        (cut,) = reader.cuts(len(first))
        assert float(first.time_s[-1]) < cut < 500.0
        assert reader.cuts(len(first) * 2) == ()
        assert len(reader.cuts(40)) > 5
        with pytest.raises(LogError, match="give at least 1"):
            reader.cuts(0)


def test_sums_survive_storing(tmp_path: Path) -> None:
    log = simple_log(tmp_path / "log.h5")
    asked = Asked(["kf"])
    with LogReader(log) as reader:
        part = nothing_yet(asked, reader)
        gather(reader, asked, part)
    data = packed(part)
    again = unpacked(data)
    assert packed(again) == data
    with pytest.raises(ScoringError, match="compute them again"):
        unpacked(data[: len(data) // 2])
    with pytest.raises(ScoringError, match="compute them again"):
        unpacked(b"")
    with LogReader(log) as reader:
        other = nothing_yet(Asked(["ekf"]), reader)
    with pytest.raises(ScoringError, match="cannot join"):
        again.merge(other, 1)
