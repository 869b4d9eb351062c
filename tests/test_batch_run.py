"""A batch: its scores against `evaluate`, what is done again and what is not, and failures that stay alone."""

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ssrtrack.batch import task
from ssrtrack.batch.run import batch
from ssrtrack.batch.store import write_whole
from ssrtrack.errors import BatchError, EstimatorError, ScoringError
from ssrtrack.io.storage import stamp
from ssrtrack.scoring import overall as overall_module
from ssrtrack.scoring.evaluate import evaluate
from ssrtrack.scoring.overall import BatchResult, LogResult, worst_first
from ssrtrack.scoring.serialise import scores_json
from tests.batch_fixture import SIZES, TRACKERS, same_json, same_scores, small_logs, statuses
from tests.scoring_fixture import simple_log


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    return small_logs(tmp_path / "logs")


def run(logs: list[Path] | list[str], out: Path, trackers: list[str] = TRACKERS, **options: Any) -> BatchResult:
    return batch(logs, trackers, out, **({"workers": 0, "bootstrap": 20} | options))


@pytest.mark.parametrize("max_plots", [2_000_000, 70])
def test_scores_are_those_of_evaluate(tmp_path: Path, logs: list[Path], max_plots: int) -> None:
    """Overall and for each log, whole or cut; the intervals too, whose resampling sees the order of flights."""
    result = run(logs, tmp_path / "out", max_plots=max_plots)
    assert statuses(result) == "scored scored scored"
    (together,) = result.overall
    same_scores(together, evaluate(logs, TRACKERS, bootstrap=20))
    for log, path in zip(result.logs, logs, strict=True):
        stored = json.loads((tmp_path / "out" / log.folder / "result.json").read_text())
        assert len(stored["sums"]) == (1 if max_plots > 1000 else -(-log.plots // max_plots))
        same_json(stored["scores"], json.loads(json.dumps(scores_json(evaluate([path], TRACKERS, bootstrap=20)))))
    about = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert about["finished"]
    assert (about["logs"], about["scored"], about["reused"], about["failed"], about["stopped"]) == (3, 3, 0, 0, 0)
    assert [r["flights"] for r in about["results"]] == list(SIZES.values())
    assert all(r["plots_per_s"] > 0 and r["cause"] is None for r in about["results"])


def test_folder_in_use_is_refused(tmp_path: Path, logs: list[Path]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    for resume, message in ((False, "is not empty; go on there with --resume"), (True, "holds no results of a batch")):
        with pytest.raises(BatchError, match=message):
            run(logs, tmp_path / "out", resume=resume)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
    with pytest.raises(BatchError, match="cannot hold results"):
        run(logs, tmp_path / "out" / "mine.txt")


def touch(logs: list[Path]) -> None:
    logs[1].touch()


def replace_content(logs: list[Path]) -> None:
    simple_log(logs[1], seed=77, flights=9)


def nothing(logs: list[Path]) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "options", "expected", "max_plots"),
    [
        (nothing, {}, "reused reused reused", 120),
        (touch, {}, "reused reused reused", 120),
        (replace_content, {}, "reused scored reused", 120),
        (replace_content, {}, "reused scored reused", 2_000_000),
        (touch, {}, "reused reused reused", 2_000_000),
        (nothing, {"trackers": TRACKERS[:1]}, "scored scored scored", 2_000_000),
        (nothing, {"trackers": ["alpha-beta:gate=0.999"]}, "scored scored scored", 2_000_000),
        (nothing, {"gap_s": 50.0}, "scored scored scored", 120),
        (nothing, {"seed": 2}, "scored scored scored", 2_000_000),
        (nothing, {"chunk_rows": 1000}, "reused reused reused", 2_000_000),
    ],
)
def test_resume_redoes_what_changed(
    tmp_path: Path, logs: list[Path], change: Any, options: dict[str, Any], expected: str, max_plots: int
) -> None:
    run(logs, tmp_path / "out", max_plots=max_plots)
    change(logs)
    result = run(logs, tmp_path / "out", **({"resume": True, "max_plots": max_plots} | options))
    assert statuses(result) == expected
    if change is replace_content:
        same_scores(result.overall[0], evaluate(logs, TRACKERS, bootstrap=20))
    again = run(logs, tmp_path / "out", **({"resume": True, "max_plots": max_plots} | options))
    assert statuses(again) == "reused reused reused"


def test_resume_after_an_upgrade_redoes_all(tmp_path: Path, logs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run(logs, tmp_path / "out")
    for module in ("task", "run"):
        monkeypatch.setattr(f"ssrtrack.batch.{module}.software_version", lambda: "9.9.9")
    assert statuses(run(logs, tmp_path / "out", resume=True)) == "scored scored scored"


def test_resume_does_not_read_logs_that_were_not_touched(
    tmp_path: Path, logs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(logs, tmp_path / "out")

    def never(job: Any) -> Any:
        raise AssertionError(f"{job.location} was worked on")

    monkeypatch.setattr("ssrtrack.batch.local.work", never)
    assert statuses(run(logs, tmp_path / "out", resume=True)) == "reused reused reused"


def test_resume_takes_over_finished_pieces(tmp_path: Path, logs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted within a long log: only the pieces that are missing are computed."""
    pieces, work = [], task.work

    def counted(job: Any) -> Any:
        if job.piece is not None:
            pieces.append(job.number)
            if len(pieces) == 3:
                raise KeyboardInterrupt
        return work(job)

    monkeypatch.setattr("ssrtrack.batch.local.work", counted)
    with pytest.raises(KeyboardInterrupt):
        run(logs[1:2], tmp_path / "out", max_plots=70)
    about = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert not about["finished"]
    assert about["results"][0]["status"] == "stopped"
    assert pieces == [0, 1, 2]
    result = run(logs[1:2], tmp_path / "out", max_plots=70, resume=True)
    assert pieces[3:] == [2, 3, 4, 5]
    same_scores(result.overall[0], evaluate(logs[1:2], TRACKERS, bootstrap=20))


def test_failed_logs_stay_alone(tmp_path: Path, logs: list[Path]) -> None:
    bad, gone, short = (tmp_path / "logs" / name for name in ("bad.h5", "gone.h5", "short.h5"))
    bad.write_bytes(b"nothing")
    simple_log(short, plots=5)
    heard: list[LogResult] = []
    result = run([bad, logs[0], gone, short, logs[2]], tmp_path / "out", on_failure=heard.append)
    assert statuses(result) == "failed scored failed failed scored"
    causes = [log.cause for log in result.logs if log.status == "failed"]
    for cause, expected in zip(causes, ("not an HDF5 file", "no such file", "no flight is long enough"), strict=True):
        assert expected in cause
        assert "\n" not in cause
    assert [log.location for log in heard] == [str(bad), str(gone), str(short)]
    same_scores(result.overall[0], evaluate([logs[0], logs[2]], TRACKERS, bootstrap=20))
    simple_log(bad, seed=4, flights=6)
    mended = run([bad, logs[0], logs[2]], tmp_path / "out", resume=True)
    assert statuses(mended) == "scored reused reused"
    assert [log.status for log in worst_first(result.logs, "alpha-beta")][:3] == ["failed"] * 3


def test_all_failed(tmp_path: Path) -> None:
    result = run([tmp_path / "gone.h5"], tmp_path / "out")
    assert result.overall == ()
    assert result.count("failed") == 1


def test_a_failed_piece_fails_its_log_once(tmp_path: Path, logs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    work = task.work

    def failing(job: Any) -> Any:
        return task.Failed(f"{job.location}: broken at {job.number}") if job.number in (1, 2) else work(job)

    monkeypatch.setattr("ssrtrack.batch.local.work", failing)
    heard: list[LogResult] = []
    result = run(logs[:1], tmp_path / "out", max_plots=70, on_failure=heard.append)
    assert [log.cause for log in result.logs] == [log.cause for log in heard] == ["broken at 1"]


def test_truth_and_no_truth_are_scored_apart(tmp_path: Path, logs: list[Path]) -> None:
    bare = simple_log(tmp_path / "logs" / "bare.h5", truth=False, flights=8)
    result = run([*logs, bare], tmp_path / "out")
    assert [one.has_truth for one in result.overall] == [True, False]
    same_scores(result.overall[1], evaluate([bare], TRACKERS, bootstrap=20))
    assert [log.has_truth for log in worst_first(result.logs, "alpha-beta")] == [True, True, True, False]


def test_worst_log_comes_first(tmp_path: Path, logs: list[Path]) -> None:
    result = run(logs, tmp_path / "out")
    errors = [log.score("alpha-beta", "position_rmse_m") or 0.0 for log in worst_first(result.logs, "alpha-beta")]
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == 3


def test_too_many_flights_are_resampled_by_log(
    tmp_path: Path, logs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = [simple_log(tmp_path / "logs" / f"{i}.h5", seed=20 + i, flights=5) for i in range(3)]
    exact = evaluate([*logs, *more], TRACKERS, bootstrap=200)
    monkeypatch.setattr(overall_module, "MAX_FLIGHTS", 10)
    (folded,) = run([*logs, *more], tmp_path / "out", bootstrap=200).overall
    for one, other in zip(exact.trackers, folded.trackers, strict=True):
        assert one.scores.position_rmse_m == pytest.approx(other.scores.position_rmse_m, rel=1e-12)
        assert one.scores.flights == other.scores.flights
        assert one.scores.updates == other.scores.updates
        low, high = other.intervals["position_rmse_m"]
        assert low < (one.scores.position_rmse_m or 0.0) < high
    assert any("over logs" in note for note in folded.notes)


def test_damaged_sums_are_computed_again(tmp_path: Path, logs: list[Path]) -> None:
    result = run(logs, tmp_path / "out")
    part = tmp_path / "out" / result.logs[0].folder / "sums-1-of-1.npz"
    part.write_bytes(part.read_bytes()[:100])
    part = tmp_path / "out" / result.logs[1].folder / "sums-1-of-1.npz"
    part.unlink()
    assert statuses(run(logs, tmp_path / "out", resume=True)) == "scored scored reused"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"trackers": ["nosuch"]}, EstimatorError, "nosuch"),
        ({"trackers": "kf"}, ScoringError, "expected a list"),
        ({"trackers": []}, ScoringError, "no tracker"),
        ({"identity": "name"}, ScoringError, "identity"),
        ({"warmup_plots": 0}, ScoringError, "warmup_plots"),
        ({"backend": "abacus"}, EstimatorError, "backend is 'abacus'"),
        ({"workers": -1}, BatchError, "workers is -1"),
        ({"retries": -1}, BatchError, "retries is -1"),
        ({"max_plots": 0}, BatchError, "max_plots is 0"),
        ({"timeout_s": 5.0, "workers": 0}, BatchError, "local workers that can be killed"),
        ({"timeout_s": 0.0, "workers": 1}, BatchError, "timeout_s is 0"),
        ({"scheduler": "tcp://127.0.0.1:1"}, BatchError, "name one of the two"),
    ],
)
def test_what_no_log_could_satisfy_fails_before_anything_is_written(
    tmp_path: Path, logs: list[Path], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(logs, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_logs_of_one_name_do_not_clash(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "log.h5" for folder in ("one", "other")]
    for i, path in enumerate(paths):
        path.parent.mkdir()
        simple_log(path, seed=i, flights=5)
    result = run(paths, tmp_path / "out")
    assert [log.name for log in result.logs] == ["one/log.h5", "other/log.h5"]
    assert len({log.folder for log in result.logs}) == 2


def test_logs_in_memory_storage(tmp_path: Path, logs: list[Path]) -> None:
    """By URL, whole and in pieces, and resumed: content counts where the storage knows no time of change."""
    memory = fsspec.filesystem("memory")
    try:
        for log in logs:
            memory.pipe(f"/bucket/{log.name}", log.read_bytes())
        result = run(["memory://bucket"], tmp_path / "out", max_plots=250)
        assert statuses(result) == "scored scored scored"
        here = evaluate(logs, TRACKERS, bootstrap=20)
        for one, other in zip(result.overall[0].trackers, here.trackers, strict=True):
            assert one.scores.position_rmse_m == pytest.approx(other.scores.position_rmse_m, rel=1e-9)
        memory.pipe("/bucket/a.h5", logs[0].read_bytes())  # written anew, the same content
        memory.pipe("/bucket/b.h5", logs[2].read_bytes())
        again = run(["memory://bucket"], tmp_path / "out", max_plots=250, resume=True)
        assert statuses(again) == "reused scored reused"
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_whole(path, b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssrtrack.io.whole.os.fsync", full)
    with pytest.raises(BatchError, match="No space left on device"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_worker_with_other_software_refuses(tmp_path: Path, logs: list[Path]) -> None:
    asked = task.Asked(("alpha-beta",))
    outcome = task.work(task.Job(str(logs[0]), asked, "0.0.1+other", 1000, 0, 1))
    assert isinstance(outcome, task.Failed)
    assert "install the same on every worker" in outcome.cause


def test_summary_is_never_that_of_an_earlier_run(
    tmp_path: Path, logs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while a later run works, nor when it ends while all logs are merged."""
    run(logs, tmp_path / "out")
    seen: list[bool] = []

    def look(*_: Any) -> None:
        seen.append(json.loads((tmp_path / "out" / "summary.json").read_text())["finished"])

    run(logs, tmp_path / "out", resume=True, progress=look)
    assert seen == [False] * 4  # three logs and the overall scores

    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("ssrtrack.batch.run.overall_results", full)
    with pytest.raises(MemoryError):
        run(logs, tmp_path / "out", resume=True)
    about = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (about["finished"], about["reused"]) == (False, 3)


def test_one_batch_at_a_time_in_a_folder(tmp_path: Path, logs: list[Path]) -> None:
    def second(*_: Any) -> None:
        with pytest.raises(BatchError, match="another batch works there"):
            run(logs, tmp_path / "out", resume=True)

    run(logs, tmp_path / "out", progress=second)
    assert statuses(run(logs, tmp_path / "out", resume=True)) == "reused reused reused"


@pytest.mark.parametrize("max_plots", [2_000_000, 70])
def test_a_log_replaced_while_it_is_read_fails(
    tmp_path: Path, logs: list[Path], monkeypatch: pytest.MonkeyPatch, max_plots: int
) -> None:
    gather = task.gather

    def slow(*arguments: Any, **options: Any) -> int:
        found = gather(*arguments, **options)
        if arguments[0].path == logs[1]:
            logs[1].touch()
        return found

    monkeypatch.setattr(task, "gather", slow)
    result = run(logs, tmp_path / "out", max_plots=max_plots)
    assert statuses(result) == "scored failed scored"
    assert result.logs[1].cause.startswith("it was changed while it was read")


def test_a_name_that_is_no_utf8(tmp_path: Path, logs: list[Path]) -> None:
    odd = logs[0].rename(tmp_path / "logs" / os.fsdecode(b"\xff \n.h5"))
    result = run([odd, *logs[1:]], tmp_path / "out")
    assert statuses(result) == "scored scored scored"
    assert statuses(run([odd, *logs[1:]], tmp_path / "out", resume=True)) == "reused reused reused"


def test_storage_with_errors_of_its_own_stops_no_other_log(
    tmp_path: Path, logs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(logs, tmp_path / "out")

    def strange(location: str) -> str:
        if location == str(logs[1]):
            raise RuntimeError("no credentials")
        return stamp(location)

    monkeypatch.setattr("ssrtrack.batch.run.stamp", strange)
    monkeypatch.setattr(task, "stamp", strange)
    result = run(logs, tmp_path / "out", resume=True)
    assert statuses(result) == "reused failed reused"
    assert "no credentials" in result.logs[1].cause


def test_internal_errors_become_causes(logs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(task, "gather", broken)
    outcome = task.work(task.Job(str(logs[0]), task.Asked(("alpha-beta",)), task.software_version(), 10**6, 0, 1))
    assert outcome == task.Failed(f"{logs[0]}: internal error: ZeroDivisionError: division by zero")
