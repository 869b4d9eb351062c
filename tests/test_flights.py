"""Plots to flights: every plot once, in order, cut where it is silent, whatever the chunks."""

import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.data import PlotFlag, Plots
from ssrtrack.errors import ScoringError
from ssrtrack.tracking.flights import (
    JUMP,
    NO_ADDRESS,
    NO_TRUTH_ID,
    REPEATED_TIME,
    SHORT_FLIGHT,
    STATIONARY,
    TEST_TARGET,
    UNDETECTED,
    Cutting,
    FlightBatch,
    flights,
    out_of_range,
)
from ssrtrack.units import NM_M
from tests.scoring_fixture import chunked

ANY = Cutting(min_plots=1)


def table(time_s: Any, address: Any, **more: Any) -> Plots:
    time = np.asarray(time_s, float)
    columns: dict[str, Any] = {"time_s": time, "range_m": np.full(time.size, 50e3), "azimuth_rad": np.ones(time.size)}
    columns |= {"radar_id": np.zeros(time.size, int), "address": np.broadcast_to(address, time.shape)}
    return Plots(**{name: np.asarray(value) for name, value in (columns | more).items()})


def gathered(batches: Iterator[FlightBatch]) -> tuple[list[tuple[int, tuple[float, ...]]], Counter[str], int]:
    """Flights as (key, times), what was left out, and plots read."""
    found, excluded, read = [], Counter[str](), 0
    for batch in batches:
        excluded.update(batch.excluded)
        read += batch.read
        for i, key in enumerate(batch.keys):
            rows = slice(batch.starts[i], batch.starts[i + 1])
            found.append((int(key), tuple(batch.plots.time_s[rows].tolist())))
    return found, excluded, read


@st.composite
def streams(draw: st.DrawFn) -> tuple[Plots, list[int]]:
    count = draw(st.integers(1, 60))
    steps = draw(st.lists(st.sampled_from([0.0, 1.0, 4.0, 30.0, 90.0]), min_size=count, max_size=count))
    address = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    sizes = draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    return table(np.cumsum(steps), address), sizes


@settings(max_examples=150)
@given(streams(), st.integers(1, 4), st.integers(2, 12))
def test_every_plot_once_in_order_cut_at_gaps(stream: tuple[Plots, list[int]], least: int, most: int) -> None:
    plots, sizes = stream
    rule = Cutting(min_plots=least, max_plots=most)
    found, excluded, read = gathered(flights(chunked(plots, sizes), identity="address", cutting=rule))
    assert read == len(plots)
    assert sum(len(times) for _, times in found) + sum(excluded.values()) == len(plots)
    for key, times in found:
        steps = np.diff(times)
        assert (steps > 0).all() and (steps <= rule.gap_s).all()
        assert least <= len(times) <= most
        assert set(times) <= set(plots.time_s[plots.address == key].tolist())
    by_key: dict[int, list[float]] = {}
    for key, times in sorted(found, key=lambda flight: flight[1]):
        assert not by_key.get(key) or by_key[key][-1] < times[0]
        by_key.setdefault(key, []).extend(times)


@settings(max_examples=100)
@given(streams(), st.integers(1, 4), st.integers(2, 12))
def test_chunks_do_not_matter(stream: tuple[Plots, list[int]], least: int, most: int) -> None:
    plots, sizes = stream
    for implausible in (False, True):
        rule = Cutting(min_plots=least, max_plots=most, implausible=implausible)
        at_once = gathered(flights([plots], identity="address", cutting=rule))
        in_chunks = gathered(flights(chunked(plots, sizes), identity="address", cutting=rule))
        assert sorted(at_once[0]) == sorted(in_chunks[0])
        assert at_once[1:] == in_chunks[1:]


def one_flight(**more: Any) -> Plots:
    return table(more.pop("time_s", 4.0 * np.arange(12)), more.pop("address", 0xABC), **more)


FLAGS = np.zeros(12, int)
NEAR = Cutting(min_plots=1, min_range_m=2.0 * NM_M)
TYPES = [5, 0, 2, 0, *[5] * 8]
FLAGS[[2, 5, 7]] = [PlotFlag.SIMULATED, PlotFlag.TEST | PlotFlag.SPI, PlotFlag.FIXED_TRANSPONDER]


@pytest.mark.parametrize(
    ("plots", "identity", "rule", "expected"),
    [
        (one_flight(address=[0, -1, *[5] * 10]), "address", ANY, {NO_ADDRESS: 2}),
        (one_flight(truth_id=[-1, -2, -1, *[0] * 9]), "truth", ANY, {NO_TRUTH_ID: 3}),
        (one_flight(flags=FLAGS), "address", ANY, {TEST_TARGET: 3}),
        (one_flight(range_m=[0.0, 1e6, *[5e4] * 10]), "address", ANY, dict.fromkeys(out_of_range(ANY), 1)),
        (one_flight(range_m=[3704.0, *[5e4] * 11]), "address", NEAR, {"at most 2 NM from the radar": 1}),
        (one_flight(plot_type=TYPES), "address", replace(ANY, detected=True), {UNDETECTED: 2}),
        (one_flight(plot_type=TYPES), "address", ANY, {}),
        (one_flight(), "address", Cutting(min_plots=13), {SHORT_FLIGHT: 12}),
        (one_flight(time_s=[0, 0, 4, 4, 4, 8, 12, 16, 20, 24, 28, 32]), "address", ANY, {REPEATED_TIME: 3}),
        (one_flight(), "address", replace(ANY, implausible=True), {STATIONARY: 12}),
    ],
    ids=[
        "address",
        "truth id",
        "test",
        "range",
        "near",
        "type 0",
        "type not stated",
        "short",
        "repeated",
        "stationary",
    ],
)
def test_what_is_left_out_is_counted_by_reason(
    plots: Plots, identity: str, rule: Cutting, expected: dict[str, int]
) -> None:
    found, excluded, read = gathered(flights([plots], identity=identity, cutting=rule))
    assert excluded == Counter(expected)
    assert sum(len(times) for _, times in found) == read - sum(expected.values())


@pytest.mark.parametrize("jump", [0, 1, 6, 11], ids=lambda row: f"row {row}")
def test_a_jump_no_aircraft_can_fly_is_left_out(jump: int) -> None:
    range_m = 40e3 + 800.0 * np.arange(12)
    range_m[jump] += 20e3
    rule = replace(ANY, implausible=True)
    found, excluded, _ = gathered(flights([one_flight(range_m=range_m)], identity="address", cutting=rule))
    assert excluded == Counter({JUMP: 1})
    assert 4.0 * jump not in found[0][1]
    assert len(found[0][1]) == 11


def test_noise_of_a_poor_radar_is_no_jump() -> None:
    rng = np.random.default_rng(1)
    n = 400
    azimuth = 1.0 + np.radians(0.08) * rng.standard_normal(n)
    plots = table(8.0 * np.arange(n), 7, range_m=370e3 - 1900.0 * np.arange(n) / 10, azimuth_rad=azimuth)
    rule = replace(ANY, implausible=True)
    assert JUMP not in gathered(flights([plots], identity="address", cutting=rule))[1]


def test_a_long_flight_is_cut_into_pieces() -> None:
    plots = table(4.0 * np.arange(25), 1)
    found, _, _ = gathered(flights([plots], identity="address", cutting=Cutting(min_plots=1, max_plots=10)))
    assert sorted(len(times) for _, times in found) == [5, 10, 10]


def test_flights_join_radars_unless_told_not_to() -> None:
    plots = one_flight(radar_id=np.arange(12) % 2, range_m=40e3 + 800.0 * np.arange(12))
    joined = [b for b in flights([plots], identity="address", cutting=ANY) if len(b)]
    apart = [b for b in flights([plots], identity="address", cutting=replace(ANY, per_radar=True)) if len(b)]
    assert [(b.radar_id, len(b.plots)) for b in joined] == [(-1, 12)]
    assert [(b.radar_id, len(b.plots), b.keys.tolist()) for b in apart] == [(0, 6, [0xABC]), (1, 6, [0xABC])]


def test_batches_are_bounded_and_their_index_lays_flights_side_by_side() -> None:
    lengths = [30, 3, 17, 9, 25, 30, 11]
    time = np.concatenate([np.arange(n) for n in lengths]).astype(float)
    address = np.repeat(np.arange(1, 8), lengths)
    order = np.argsort(time, kind="stable")
    plots = table(time[order], address[order])
    rule = Cutting(min_plots=1, batch_cells=60)
    seen = []
    for batch in flights([plots], identity="address", cutting=rule):
        if not len(batch):
            continue
        index = batch.index()
        assert index.size <= 60
        seen += batch.flight_ids.tolist()
        for row, key in zip(index, batch.keys, strict=True):
            assert (batch.plots.address[row[row >= 0]] == key).all()
            assert batch.plots.time_s[row[row >= 0]].tolist() == list(range(lengths[key - 1]))
            assert (row[lengths[key - 1] :] == -1).all()
    assert seen == list(range(7))


def test_too_many_waiting_plots_cut_the_longest_flights() -> None:
    time = np.repeat(np.arange(300.0), 2)
    plots = table(time, np.tile([1, 2], 300))
    rule = Cutting(min_plots=1, max_pending=100)
    largest = 0
    for batch in flights(chunked(plots, [40]), identity="address", cutting=rule):
        largest = max(largest, int(batch.plots.time_s.size))
    assert largest <= 140
    found, excluded, _ = gathered(flights(chunked(plots, [40]), identity="address", cutting=rule))
    assert sum(len(t) for _, t in found) == 600 and not excluded


@pytest.mark.parametrize(
    ("chunks", "identity", "message"),
    [
        ([one_flight()], "callsign", "identity is 'callsign'"),
        ([one_flight(), one_flight()], "address", "not in time order"),
        ([one_flight(time_s=np.arange(12.0)[::-1])], "address", "not in time order"),
    ],
)
def test_bad_input_is_refused(chunks: list[Plots], identity: str, message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        list(flights(chunks, identity=identity))


def test_memory_follows_the_traffic_not_the_length() -> None:
    def stream(hours: int) -> Iterator[Plots]:
        for start in range(0, 3600 * hours, 400):
            time = np.repeat(start + 4.0 * np.arange(100), 50)
            # Every aircraft is there for half an hour.
            yield table(time, 1 + np.tile(np.arange(50), 100) + 50 * (time // 1800).astype(int))

    def peak(hours: int) -> int:
        tracemalloc.start()
        plots = sum(len(b.plots) for b in flights(stream(hours), identity="address"))
        assert plots == sum(len(p) for p in stream(hours))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(12) < 1.2 * peak(3)
