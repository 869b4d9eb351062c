"""Windows out of logs: every flight with its truth, each window once in a pass, none in both halves of a split."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssrtrack.errors import LogError, TrainingError
from ssrtrack.io.hdf5 import LogWriter, Provenance
from ssrtrack.simulators.scenario import radars, simulate
from ssrtrack.training.dataset import LoggedFlights, read_flights, split_by_flight
from ssrtrack.training.flown_windows import Windows
from tests.training_fixture import scenario


def written(path: Path, seed: int = 1, *, truth: bool = True, sigmas: bool = True) -> Path:
    area = scenario()
    provenance = Provenance(command="test", epoch=area.epoch, software_version="0", created="2025-06-01T00:00:00Z")
    with LogWriter(path, provenance, radars(area)) as writer:
        for plots, states in simulate(area, seed):
            nothing = np.full(len(plots), np.nan, np.float32)
            writer.append_plots(plots if sigmas else replace(plots, sigma_range_m=nothing, sigma_azimuth_rad=nothing))
            if truth:
                writer.append_truth(states)
    return path


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    folder = tmp_path_factory.mktemp("logs")
    return read_flights([written(folder / "a.h5", 1), written(folder / "b.h5", 2)], 40)


def test_flights_of_several_logs_stay_apart(windows: Windows) -> None:
    assert windows.time_s.shape[1] == 40 and np.isfinite(windows.truth[windows.valid]).all()
    assert len(np.unique(windows.flight >> 32)) == 2
    assert len(np.unique(windows.flight)) >= 24


def test_a_pass_holds_every_window_once(windows: Windows) -> None:
    flights = LoggedFlights(windows, 1, 7)
    count = len(windows)
    begins = np.concatenate([flights.windows(k).time_s[:, 0] for k in range(2 * count // 7 + 1)])
    expected = np.sort(windows.time_s[:, 0])
    passes = begins[:count], begins[count : 2 * count]
    assert all(np.array_equal(np.sort(p), expected) for p in passes)
    assert not np.array_equal(*passes)


def test_a_batch_depends_on_seed_and_number_alone(windows: Windows) -> None:
    whole = LoggedFlights(windows, 1, 8).windows(9)
    parts = [LoggedFlights(windows, 1, 8, rank, 2).windows(9) for rank in (0, 1)]
    assert np.array_equal(whole.time_s, np.concatenate([p.time_s for p in parts]), equal_nan=True)
    assert not np.array_equal(whole.time_s, LoggedFlights(windows, 2, 8).windows(9).time_s, equal_nan=True)


def test_a_split_shares_no_flight(windows: Windows) -> None:
    train, held = split_by_flight(windows, 0.1, 1)
    assert len(train) + len(held) == len(windows)
    assert not set(train.flight) & set(held.flight)
    assert len(np.unique(held.flight % 2**32)) == round(0.1 * len(np.unique(windows.flight % 2**32)))
    assert set(split_by_flight(windows, 0.1, 2)[1].flight) != set(held.flight)


def test_an_aircraft_is_held_out_in_all_logs(tmp_path: Path) -> None:
    """Two logs may hold the same flights, as two radars saw them."""
    both = read_flights([written(tmp_path / name, 1) for name in ("a.h5", "b.h5")], 40)
    train, held = split_by_flight(both, 0.1, 1)
    first = [tuple(row) for row in train.truth[:, 0]]
    assert len(held) and not set(first) & {tuple(row) for row in held.truth[:, 0]}


def test_truth_of_another_time_is_refused(tmp_path: Path) -> None:
    area = scenario()
    provenance = Provenance(command="test", epoch=area.epoch, software_version="0", created="2025-06-01T00:00:00Z")
    with LogWriter(tmp_path / "late.h5", provenance, radars(area)) as writer:
        for plots, states in simulate(area, 1):
            writer.append_plots(plots)
            writer.append_truth(replace(states, time_s=states.time_s + 1e5))
    with pytest.raises(TrainingError, match=r"late\.h5: its truth has no state at the time of any plot"):
        read_flights([tmp_path / "late.h5"], 40)


def test_plots_without_sigmas_take_the_radars(tmp_path: Path, windows: Windows) -> None:
    found = read_flights([written(tmp_path / "c.h5", 1, sigmas=False)], 40)
    mine = windows.take(windows.flight >> 32 == 0)
    assert np.allclose(found.covariance_m2, mine.covariance_m2, equal_nan=True, rtol=1e-5, atol=0.01)


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, windows: Windows) -> None:
    with pytest.raises(TrainingError, match=r"a\.h5: has no truth.*train imm"):
        read_flights([written(tmp_path / "a.h5", truth=False)], 40)
    with pytest.raises(TrainingError, match="name at least one"):
        read_flights([], 40)
    with pytest.raises(LogError, match="nowhere"):
        read_flights([tmp_path / "nowhere.h5"], 40)
    with pytest.raises(TrainingError, match="3 processes cannot share a batch of 8"):
        LoggedFlights(windows, 1, 8, 0, 3)
    with pytest.raises(TrainingError, match="all flights are of aircraft"):
        split_by_flight(windows.take(windows.flight == windows.flight[0]), 0.1, 1)
