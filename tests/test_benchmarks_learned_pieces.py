"""The judge's pieces: however flights are cut and shared out, the rows are the same, and what is missing is told."""

import json
import sys
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import imm_per_set
import learned_trackers as script
import learned_trackers_pieces as pieces
import learned_trackers_score as scores
import learned_trackers_sets as sets
import learned_trackers_table as readme
import learned_trackers_wanted as wanted
import learned_trackers_work as work
import tune_suite

from ssrtrack.filters.bank import Bank
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.models.load import load_tracker
from ssrtrack.scoring.gather import Asked, gather, nothing_yet
from ssrtrack.simulators.processes import Processes, WorkerDied
from ssrtrack.simulators.suite import list_suite
from ssrtrack.training.tune_flights import log_group, split_group
from ssrtrack.training.tune_job import Flights
from tests.judge_fixture import Here, save_model, some_rows

FLIGHTS = 8
MOST = 600  # plots of a piece here: the eight flights have more


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pieces") / "worse-3"
    save_model(path, 0.15)
    return path


def judged(model: Path, pool: Any, workers: int, *more: str, end: float = inf) -> list[dict[str, Any]]:
    """Rows of the terminal area as the command makes them."""
    given = ["--models", str(model), "--sets", "tma-4s", "--flights", str(FLIGHTS), "--sweep-flights", str(FLIGHTS)]
    asked = script.arguments([*given, *more])
    models = scores.named(asked.models)
    board = work.Board(pieces.jobs_of(asked), models, str(model.parent / "flights"), lambda _: None)
    return board.drive(pool, workers, end)


def told(rows: list[dict[str, Any]]) -> dict[tuple[str, ...], tuple[Any, ...]]:
    """What of each row a reader gets, NaN as None."""
    return {
        (r["part"], r["set"], r["measure"]): tuple(None if v != v else v for v in r.values()) for r in rows
    }  # fmt: skip


def test_rows_are_the_same_whatever_the_number_of_processes(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pieces, "PLOTS", MOST)
    monkeypatch.setattr(pieces, "SWEEP_PLOTS", MOST)
    monkeypatch.setattr(pieces, "AXES", {"gap": None})
    parts = ("--parts", "suite", "sweep")
    alone = judged(model, Here(2), 1, *parts)
    with Processes(2) as pool:
        shared = judged(model, pool, 2, *parts)
    assert told(alone) == told(shared) and list(told(alone)) == list(told(shared))
    assert {"ratio", "sweep", "range bands"} <= {r["part"] for r in alone}
    assert "2/2" in capsys.readouterr().out


def test_flights_in_slices_are_those_of_the_whole(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "AXES", {"gap": None})
    parts = ("--parts", "suite", "sweep")
    monkeypatch.setattr(pieces, "PLOTS", MOST)
    monkeypatch.setattr(pieces, "SWEEP_PLOTS", MOST)
    cut = judged(model, Here(2), 2, *parts)
    monkeypatch.setattr(pieces, "PLOTS", 10**9)
    monkeypatch.setattr(pieces, "SWEEP_PLOTS", 10**9)
    whole = judged(model, Here(2), 2, *parts)
    assert set(told(cut)) == set(told(whole))
    for one, other in zip(
        sorted(cut, key=lambda r: str(r)[:120]), sorted(whole, key=lambda r: str(r)[:120]), strict=True
    ):
        assert (one["flights"], one["updates"], one["reference"]) == (
            other["flights"], other["updates"], other["reference"]
        )  # fmt: skip
        assert one["value"] == pytest.approx(other["value"], rel=1e-4, nan_ok=True), one["measure"]


def test_slices_share_the_plots_out_and_lose_no_flight(model: Path) -> None:
    log = sets.log_of(sets.SUITE["tma-4s"], FLIGHTS, model.parent / "flights")
    assert len(pieces.slices_of(log, 10**9)) == 1
    cuts = pieces.slices_of(log, MOST)
    assert len(cuts) >= 3 and cuts[0].start_s == -np.inf and cuts[-1].end_s == np.inf
    found = []
    with LogReader(log) as reader:
        asked = Asked(["imm"])
        for piece in (None, *cuts):
            into = nothing_yet(asked, reader)
            gather(reader, asked, into, piece=piece)
            found.append((into.flights, into.plots_used))
    assert found[0] == tuple(np.sum(found[1:], axis=0))
    assert max(plots for _, plots in found[1:]) < found[0][1]


@pytest.mark.parametrize("end", [4.0, 5.0])  # before the suite's rows are made of its sums, and after
def test_what_is_not_done_in_time_is_told(
    model: Path, end: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clock goes on by one with each piece of work: two logs, then the suite's pieces, then those without tails."""
    clock = [0.0]

    class Timed(Here):
        def submit(self, function: Any, *given: Any) -> Any:
            clock[0] += 1.0
            return super().submit(function, *given)

    monkeypatch.setattr(work, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    rows = judged(model, Timed(2), 2, "--parts", "suite", "gaussian", end=end)
    (absent,) = [r for r in rows if r["part"] == "absent"]
    assert absent["measure"].startswith("gaussian: not judged") and absent["met"] == "no"
    assert {"ratio", "calibration"} <= {r["part"] for r in rows} and "gaussian" not in {r["part"] for r in rows}
    table = script.table(rows, {"device": "x", "commit": "-", "date": "-"}, {}, ["tma-4s"])
    assert readme.missing_of(table) == " Not judged: gaussian tma-4s (worse 3)."
    assert script.tell([absent]) == 1 and "not judged" in capsys.readouterr().out


def test_nothing_is_begun_when_the_time_is_up(model: Path) -> None:
    rows = judged(model, Here(2), 2, "--parts", "suite", "transfer", end=0.0)
    assert {r["part"] for r in rows} == {"absent"} and len(rows) == 1 + sum(
        one.suite == "tma-4s" for one in sets.TRANSFER.values()
    )


def test_peers_are_judged_on_the_suite_alone(model: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "peer-3", 0.1)
    texts = [str(model), str(tmp_path / "peer-3")]
    asked = script.arguments(["--models", texts[0], "--peers", texts[1], "--sets", "tma-4s", "--flights", "8"])
    board = work.Board(pieces.jobs_of(asked), scores.named(texts), "", lambda _: None, asked.peers)
    found = {(r["model"], r["measure"].partition(":")[0]) for r in board.rows()}
    assert {part for name, part in found if name == "peer"} == set(work.PEER_PARTS)
    assert {part for name, part in found if name == "worse"} >= {"suite", "gaussian", "transfer", "sweep", "hard"}


def test_a_process_that_ends_costs_its_lines(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(job: Any, log: Path, piece: Any, axis: str, text: str) -> Any:
        raise WorkerDied("a worker process ended before its work")

    monkeypatch.setattr(work, "piece_of", killed)
    (row,) = judged(model, Here(2), 2, "--parts", "gaussian")
    assert row["part"] == "failed" and row["model"] == "worse" and "ended before its work" in row["measure"]


def test_over_the_suite_only_what_was_judged_on_all_of_it() -> None:
    rows = some_rows()
    assert {r["model"] for r in wanted.over_suite(rows, ["tma-4s", "degraded"])} == {"koss", "gka"}
    less = [r for r in rows if (r["model"], r["set"]) != ("gka", "degraded")]
    assert {r["model"] for r in wanted.over_suite(less, ["tma-4s", "degraded"])} == {"koss"}


def test_a_setting_beside_the_set_it_is_made_from() -> None:
    name, measure = "tma, period 6 s", "all updates, position"
    home = wanted.row("ratio", "tma-4s", ("m", "1"), measure, 0.90)
    far, near = (wanted.row("transfer", name, ("m", "1"), measure, v) for v in (0.951, 0.949))
    other = wanted.row("transfer", "tma, legs x 3", ("m", "1"), measure, 0.99)
    for one, met in ((far, "no"), (near, "must")):
        (row,) = wanted.above_own([home, one, other], script.ALIKE)
        assert (row["set"], row["met"], row["reference_value"]) == (name, met, 0.90)
        assert row["value"] == pytest.approx(one["value"] - 0.90)
    assert wanted.above_own([far], script.ALIKE) == []


@pytest.mark.parametrize("name", list_suite())
def test_imms_tuned_on_a_set_are_there_and_no_worse_on_it(name: str) -> None:
    entry = imm_per_set.read()[name]
    found = imm_per_set.trackers(name)
    assert len(found) == 4 and all(name in called for called in found.values())
    for text, one in zip(found, entry["tuned"].values(), strict=True):
        bank = load_tracker(text)
        assert isinstance(bank, Bank) and bank.options.gate == one["parameters"]["gate"]
        assert bank.options.tail_weight == one["parameters"]["tail_weight"]
    # By their own objective, on validation flights, they are as good as the IMM tuned on all sets: recorded beside.
    with (imm_per_set.FILE.parent / "results" / "tune_suite.csv").open() as file:
        lines = [line.split(",") for line in file]
    at = lines[0].index("position_rmse_m")
    shipped = min(float(line[at]) for line in lines if line[0] == name and line[3] == "tuned on all")
    assert min(one["validation"]["position_rmse_m"] for one in entry["tuned"].values()) <= 1.001 * shipped


def test_tuning_on_a_set_keeps_the_other_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "imm.json"
    imm_per_set.write(path, "degraded", {"tuned": {}})
    monkeypatch.setattr(imm_per_set, "OBJECTIVES", ("likelihood",))
    monkeypatch.setattr(imm_per_set, "VARIANT_NAMES", {"mixture": "imm"})
    few = ["--sets", "tma-4s", "--max-plots", "1500", "--max-iterations", "1"]
    log = sets.log_of(sets.SUITE["tma-4s"], FLIGHTS, tmp_path)
    parts = split_group(log_group([log], max_plots=1500), 0.5)
    monkeypatch.setattr(imm_per_set, "flights_of", lambda *_, **__: Flights(parts[:1], parts[1:]))
    assert imm_per_set.main([*few, "--output", str(path)]) == 0
    assert list(imm_per_set.read(path)) == ["degraded", "tma-4s"]
    entry = imm_per_set.read(path)["tma-4s"]
    assert entry["training"]["plots"] <= 1500 and "--max-plots 1500" in entry["command"]
    (one,) = entry["tuned"].values()
    start = tune_suite.untuned("imm", "mixture")
    assert set(one["parameters"]) == set(start) and one["validation"]["position_rmse_m"] > 0.0
    assert imm_per_set.trackers("degraded", path) == {} and imm_per_set.trackers("legacy-12s", path) == {}
    path.write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match="expected 'ssrtrack-imm-per-set-1'"):
        imm_per_set.read(path)
