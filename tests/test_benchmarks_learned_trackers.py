"""The judge of learned trackers: an untrained one is its base filter, and a worse one is found out."""

import csv
import sys
from math import exp, inf, log, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import learned_trackers as script  # noqa: E402
import learned_trackers_hard as hard  # noqa: E402
import learned_trackers_pieces as pieces  # noqa: E402
import learned_trackers_score as scores  # noqa: E402
import learned_trackers_sets as sets  # noqa: E402
import learned_trackers_table as readme  # noqa: E402
import learned_trackers_wanted as wanted  # noqa: E402
import learned_trackers_work as work  # noqa: E402

from ssrtrack.errors import EstimatorError, ScoringError  # noqa: E402
from ssrtrack.filters.run import run  # noqa: E402
from ssrtrack.models.load import load_tracker  # noqa: E402
from ssrtrack.report.figures_learned import learned_figure  # noqa: E402
from ssrtrack.simulators.suite import list_suite, suite_provenance  # noqa: E402
from tests.judge_fixture import Here, save_model, some_rows  # noqa: E402

MODELS = {"plain": 0.0, "worse": 0.15}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models over the mixture IMM: one as it begins, one that says something of its own at random."""
    where = tmp_path_factory.mktemp("judge")
    for name, size in MODELS.items():
        save_model(where / f"{name}-3", size)
    return where


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    """Everything of the terminal area but the sweep, with few flights, in this process."""
    models = scores.named([str(folder / f"{name}-3") for name in MODELS])
    few = ["--flights", "8", "--transfer-flights", "6", "--sets", "tma-4s"]
    asked = script.arguments(["--models", *models, *few, "--parts", "suite", "gaussian", "hard"])
    jobs = [job for job in pieces.jobs_of(asked) if job.name != pieces.LONG_NAME]
    board = work.Board(jobs, models, str(folder / "flights"), lambda _: None)
    return board.drive(Here(2), 2, inf)


def of(rows: list[dict[str, Any]], **asked: str) -> list[dict[str, Any]]:
    return [one for one in rows if all(one[key] == value for key, value in asked.items())]


def test_an_untrained_model_is_its_base_filter(rows: list[dict[str, Any]]) -> None:
    ratios = of(rows, part="ratio", model="plain") + of(rows, part="gaussian", model="plain")
    assert {one["measure"] for one in ratios} >= set(wanted.GAUSSIAN) and all(one["seed"] == "3" for one in ratios)
    assert all(one["value"] >= 1.0 - 1e-5 for one in ratios), "the better IMM is the reference"
    same = [one for one in ratios if one["reference"].startswith("imm (")]
    assert same and all(one["value"] == pytest.approx(1.0, abs=1e-5) for one in same)
    assert all(one["low"] <= one["value"] <= one["high"] for one in ratios)
    for one in of(rows, part="calibration", model="plain") + of(rows, part="efficiency", model="plain"):
        if one["reference"].startswith("imm (") and one["measure"] != "nll less IMM":
            assert one["value"] == pytest.approx(one["reference_value"], rel=1e-4), one["measure"]
    asked = [one for one in ratios if one["must"]]
    assert len(asked) >= 7 and all(one["met"] == "no" for one in asked)


def test_a_worse_model_is_found_out(rows: list[dict[str, Any]]) -> None:
    for measure in ("all updates, position", "all updates, velocity"):
        plain, worse = (of(rows, part="ratio", model=name, measure=measure)[0] for name in MODELS)
        assert worse["value"] > plain["value"] + 0.01
    (nll,) = of(rows, part="calibration", model="worse", measure="nll less IMM")
    assert nll["value"] > 0.0 and nll["met"] == "no"


def test_coverage_is_told_by_band_and_anees_by_phase(rows: list[dict[str, Any]]) -> None:
    (whole,) = of(rows, part="calibration", model="plain", measure="coverage_95")
    for kind in ("range bands", "speed bands"):
        bands = [one for one in of(rows, part=kind, model="plain") if one["measure"].startswith("coverage_95")]
        assert sum(one["updates"] for one in bands) == whole["updates"]
        many = [one["updates"] >= 0.01 * whole["updates"] for one in bands]
        assert any(many) and [one["must"] for one in bands] == ["0.93 to 0.97" if some else "" for some in many]
    phases = [one for one in of(rows, part="phase bands", model="worse") if one["measure"].startswith("anees")]
    for one in phases:
        closer = abs(one["value"] - 1.0) < abs(one["reference_value"] - 1.0)
        assert one["met"] == ("must" if closer else "no")
    assert {one["measure"] for one in phases} >= {"anees, straight", "anees, turn", "anees, onset"}


def test_hard_cases_are_survived_and_told(rows: list[dict[str, Any]]) -> None:
    plain = of(rows, part="hard", model="plain")
    assert sum(one["measure"].endswith(": NaN") for one in plain) == 6
    assert all(one["value"] == 0.0 and one["met"] == "must" for one in plain if one["measure"].endswith("NaN"))
    lost = [one for one in plain if "lost" in one["measure"]]
    assert all(one["must"] == f"<= {one['reference_value']:.4g}" for one in lost)
    same = [one for one in plain if "sigmas" in one["measure"]]
    assert len(same) == 2 and all(one["met"] == "must" for one in same)


def test_what_diverges_is_seen(folder: Path) -> None:
    log_file = sets.log_of(sets.SUITE["tma-4s"], 8, folder / "flights")
    case = hard.case_of(log_file, plots=60)
    history = run(load_tracker("imm"), case.z)
    assert hard.diverged(case, history)[0] == 0
    history.mean[0, 20:] += 2000.0
    history.mean[3, 20:22] += 2000.0  # twice in a row is not lost
    history.mean[1, 30] = np.nan
    history.covariance[2, 40, 1, 1] = -1.0
    unsound, lost, _ = hard.diverged(case, history)
    assert unsound == 2 and lost == pytest.approx(1.0 / len(case.z))
    with pytest.raises(ValueError, match="no flight of 50000 plots"):
        hard.case_of(log_file, plots=50_000)


@pytest.mark.parametrize("name", list_suite())
def test_settings_change_what_they_say_and_keep_the_rest(name: str) -> None:
    plain, seed = sets.scenario_of(sets.SUITE[name])
    radar = sets.scenario_of(sets.GAUSSIAN[name])[0].radar[0]
    assert radar.outliers.fraction == radar.jumps.fraction == 0.0 and radar.garble == type(radar.garble)()
    assert radar.tails == type(radar.tails)() != plain.radar[0].tails and radar.noise == plain.radar[0].noise
    for what, one in sets.TRANSFER.items():
        if one.suite != name:
            continue
        other, its_seed = sets.scenario_of(one)
        assert its_seed == seed and other.duration_s == plain.duration_s
        assert (other.traffic == plain.traffic) == one.alike, what
        assert (other.radar != plain.radar) == one.alike, what
        if "sigma" in what:
            assert other.radar[0].noise.sigma_range_m == pytest.approx(1.5 * plain.radar[0].noise.sigma_range_m)
            assert other.radar[0].noise.sigma_azimuth_deg == pytest.approx(1.5 * plain.radar[0].noise.sigma_azimuth_deg)
    with pytest.raises(ValueError, match="no line 'warp'"):
        sets.scenario_of(sets.Setting(name, (("warp", "x"),)))


def test_flights_are_kept_and_whole(folder: Path) -> None:
    one = sets.SUITE["tma-4s"]
    path = sets.log_of(one, 8, folder / "flights")
    before = path.stat().st_mtime_ns
    assert sets.log_of(one, 8, folder / "flights") == path and path.stat().st_mtime_ns == before
    scenario, seed = sets.scenario_of(one)
    parts = list(sets.first_flights(scenario, seed, 8))
    ids = np.concatenate([plots.truth_id for plots, _ in parts])
    assert len(np.unique(ids)) == 8 and np.bincount(ids)[np.unique(ids)].min() >= sets.MIN_PLOTS
    assert parts[-1][0].time_s.max() < 0.2 * scenario.duration_s, "the rest is not simulated"


def test_a_model_trained_on_a_test_split_is_refused(folder: Path, tmp_path: Path) -> None:
    source: dict[str, Any] = {"kind": "simulation", "name": "tma-4s", **suite_provenance("tma-4s", "test")}
    save_model(tmp_path / "cheat", 0.0, [source])
    log_file = sets.log_of(sets.SUITE["tma-4s"], 8, folder / "flights")
    with pytest.raises(ScoringError, match="was trained on it"):
        scores.check_log(log_file, ["imm", str(tmp_path / "cheat")])


def test_rows_over_the_suite() -> None:
    def one(name: str, part: str, measure: str, value: float, updates: int) -> dict[str, Any]:
        return wanted.row(part, name, ("m", "1"), measure, value, interval=(0.9 * value, value / 0.9), updates=updates)

    measure = "all updates, position"
    given = {("ratio", measure): (0.8, 0.9), ("calibration", "coverage_95"): (0.9, 0.98), ("transfer", measure): (1, 1)}
    over = wanted.over_suite(
        one(name, *key, value, updates)
        for key, pair in given.items()
        for name, value, updates in zip("ab", pair, (10, 30), strict=True)
    )
    ratio, coverage = over
    assert ratio["value"] == pytest.approx((0.8 * 0.9) ** 0.5) and ratio["met"] == "must" and ratio["set"] == "suite"
    assert log(ratio["high"] / ratio["value"]) == pytest.approx(log(1 / 0.9) / 2**0.5)
    assert ratio["low"] == pytest.approx(ratio["value"] * exp(-log(1 / 0.9) / 2**0.5))
    assert coverage["value"] == pytest.approx(0.96) and coverage["must"] == "0.94 to 0.96"


def test_rows_over_the_seeds_of_a_model() -> None:
    some = [
        wanted.row("calibration", "suite", (name, seed), "coverage_95", value)
        for name, seed, value in (("m", "1", 0.90), ("m", "2", 0.99), ("n", "1", 0.95))
    ]
    (one,) = wanted.over_seeds(some)
    assert (one["model"], one["seed"], one["low"], one["high"]) == ("m", "all 2", 0.90, 0.99)
    assert one["value"] == pytest.approx(0.945) and one["met"] == "must"
    assert wanted.over_seeds([one | {"set": "tma-4s"}, one | {"set": "tma-4s"}]) == []


def test_the_table_of_the_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = script.table(some_rows(), {"device": "a machine", "commit": "-", "date": "2026"}, {})
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert readme.main([str(tmp_path / "table.csv"), "--figures", str(tmp_path)]) == 0
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    told = {line[0]: line[1:] for line in lines}
    assert lines[0] == ["", "asked (aimed at)", "gka", "koss"] and set(lines[1]) == {"---"}
    assert "turns, position" not in told, "nothing is asked of it"
    # Two seeds: the mean, and from which to which they go; one: its interval over flights.
    gka, koss = told["all updates, velocity"][1:]
    assert told["all updates, velocity"][0] == "≤ 0.87 (0.75)"
    assert koss == "0.860 (0.810–0.910)" and gka.startswith("**0.710 (0.6") and gka.endswith("**")
    assert told["area under a sweep's curve"][1:] == [
        "2 of 2; worst 0.920 (degraded, gap)", "*0 of 4; worst 1.120* (degraded, gap)"
    ]  # fmt: skip
    assert told["hard cases: NaN"][1:] == ["*1 of 2*", "*2 of 4*"]
    assert told["coverage in range bands"][1:] == ["*1 of 2*", "*2 of 4*"]
    assert (tmp_path / "learned_trackers.png").stat().st_size > 10_000
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    for _ in range(2):
        assert readme.main([str(tmp_path / "table.csv"), "--write", str(page)]) == 0
    written = page.read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert written.count("all updates, velocity") == written.count("](../learned_trackers.png)") == 1
    capsys.readouterr()
    with pytest.raises(SystemExit, match="put them where"):
        readme.main([str(tmp_path / "table.csv"), "--write", __file__])
    capsys.readouterr()
    assert readme.main([str(tmp_path / "table.csv"), "--models", "gka"]) == 0
    assert "koss" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no model gru"):
        readme.main([str(tmp_path / "table.csv"), "--models", "gru"])


def test_the_figure_is_of_rows_or_of_their_table() -> None:
    rows = script.whole(some_rows())
    figure, again = (learned_figure(r) for r in (rows, script.table(some_rows(), {}, {})))
    shown, shown_again = (
        [np.sort(np.concatenate([np.reshape(line.get_xdata(), -1) for line in axes.lines])) for axes in one.axes]
        for one in (figure, again)
    )
    assert len(figure.axes) == 4
    for one, other in zip(shown, shown_again, strict=True):
        np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=1e-4)
    whole = [r["value"] for r in rows if r["set"] == "suite" and r["part"] == "ratio" and r["seed"] in ("all 2",)]
    drawn = {round(float(x), 6) for line in figure.axes[0].lines for x in np.atleast_1d(line.get_xdata())}
    assert whole and all(round(value, 6) in drawn for value in whole)
    only = learned_figure([r for r in rows if r["part"] in ("ratio", "range bands")])
    assert len(only.axes) == 2
    with pytest.raises(ValueError, match="no row of part"):
        learned_figure([r for r in rows if r["part"] != "ratio"])
    one_set = learned_figure([r for r in rows if r["set"] == "degraded"])
    assert len(one_set.axes) == 2 and len(one_set.axes[0].lines) > 4


@pytest.mark.parametrize(
    ("asked", "value", "met"),
    [
        (wanted.at_most(0.88, 0.8), 0.79, "target"), (wanted.at_most(0.88, 0.8), 0.88, "must"),
        (wanted.at_most(0.88, 0.8), 0.8801, "no"), (wanted.at_most(0.88, 0.8), nan, "no"),
        (wanted.COVERAGE_ALL, 0.965, "no"), (wanted.COVERAGE_PART, 0.965, "must"), (wanted.ANY, 7.0, ""),
        (wanted.AREA, 1.0, "no"), (wanted.NLL_LESS, 0.0, "no"), (wanted.NO_NAN, 1.0, "no"),
    ],
)  # fmt: skip
def test_what_is_met(asked: wanted.Wanted, value: float, met: str) -> None:
    assert asked.met(value) == met


def test_the_command_writes_table_and_figure(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep of one axis and the costs through the command itself; work is done here instead of in processes."""

    monkeypatch.setattr(script, "Processes", Here)
    monkeypatch.setattr(pieces, "AXES", {"outliers": None})
    monkeypatch.setattr(hard, "TRACKS", 20)
    monkeypatch.delenv("SSRTRACK_DATA", raising=False)
    output = tmp_path / "table.csv"
    models = ["--models", str(folder / "plain-3"), "--folder", str(folder / "flights"), "--sets", "tma-4s"]
    few = ["--flights", "8", "--sweep-flights", "8", "--parts", "suite", "real", "sweep", "cost", "--workers", "2"]
    code = script.main([*models, *few, "--output", str(output), "--figures", str(tmp_path)])
    with output.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert code == 1 and tuple(table[0])[: len(wanted.COLUMNS)] == wanted.COLUMNS
    (area,) = [one for one in table if one["part"] == "sweep"]
    (own,) = [one for one in table if one["part"] == "sweep" + wanted.OVER_OWN]
    assert own["measure"] == "outliers" and own["reference"].startswith("imm tuned on tma-4s (")
    assert area["measure"] == "outliers" and float(area["value"]) >= 1.0 - 1e-5 and area["met"] == "no"
    costs = {one["measure"]: one for one in table if one["part"] == "cost"}
    steps = costs["step, 1 thread"], costs["step, 2 threads"]
    assert sum(one["must"] == "<= 10" for one in steps) == 1 and all(float(one["value"]) > 0.0 for one in steps)
    assert float(costs["state of a track"]["value"]) < 65536
    assert float(costs["file of weights"]["value"]) == scores.file_octets(str(folder / "plain-3"))
    assert (tmp_path / "learned_trackers.svg").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "lines are met" in said and "real flights are left out" in said


def test_a_tracker_that_cannot_be_scored_costs_its_line_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [str(folder / f"{name}-3") for name in MODELS]
    models, plain = scores.named(texts), pieces.piece_of

    def bad(job: Any, log: Path, piece: Any, axis: str, text: str) -> Any:
        if job.part == "suite" and text == texts[1]:
            raise EstimatorError("tracker 'x' gave NaN")
        return plain(job, log, piece, axis, text)

    monkeypatch.setattr(script, "Processes", Here)
    monkeypatch.setattr(script, "warmed", lambda *_: None)
    monkeypatch.setattr(work, "piece_of", bad)
    few = ["--sets", "tma-4s", "--flights", "8", "--parts", "suite", "gaussian", "--workers", "2"]
    rows = script.judge(script.arguments(["--models", *texts, *few]), models, str(folder / "flights"), lambda _: None)
    assert {one["model"] for one in rows if one["part"] == "ratio"} == {"plain"}
    assert {one["model"] for one in rows if one["part"] == "gaussian"} == set(MODELS)
    (failed,) = of(rows, part="failed")
    assert failed["model"] == "worse" and failed["met"] == "no" and "gave NaN" in failed["measure"]
    assert script.tell(script.whole(rows)) >= 1 and "gave NaN" in capsys.readouterr().out
    table = script.table(rows, {"commit": "-"}, {("plain", "3"): "abc"})
    assert table[-1]["part"] == "failed" and table[-1]["value"] == table[-1]["weights"] == ""
    assert all(one["weights"] == "abc" for one in table if one["model"] == "plain")
