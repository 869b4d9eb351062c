"""Seconds that `evaluate` takes for a real hour with every estimator, stage by stage, and the whole command's.

    SSRTRACK_DATA=... python benchmarks/evaluate_hour.py

The hour of CAT048 under SSRTRACK_DATA is ingested once and then evaluated by fresh processes: each loads the library,
evaluates and writes the report once ("first": compiled code is read from its cache, tables are made) and then a few
times more ("again"). The command `ssrtrack evaluate` is timed from outside, start-up and report included. Wall clock,
since threads may share the work; p20, p50 and p80 over processes and rounds go to benchmarks/results/evaluate_hour.csv.

Nothing is reported unless every tracker scores what its filterpy form scored, and every run the same.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

from setting import RESULTS, setting, write_csv  # the library itself is loaded where its loading is timed

HOUR = Path("recordings") / "barcelona_cat048_1h.ast"
DAY = date(2023, 5, 2)
SITE = {"latitude_deg": 41.300702, "longitude_deg": 2.102058, "height_m": 27.257}
# RMS distance to the next plot, by filterpy one flight at a time. It changes when a tracker's defaults do.
NEXT_PLOT_M = {
    "alpha-beta": 66.3036842, "kf": 50.0386510, "kf-ca": 57.8613141, "singer": 52.7988206, "ekf": 52.6247315,
    "ekf-ct": 49.9196094, "ukf": 51.9525440, "ukf-ct": 49.1499685, "ckf": 52.0395411, "imm": 46.1425639,
    "imm-gated": 89.5247292, "imm2": 52.2352873, "imm3": 47.7090952,
}  # fmt: skip
TOLERANCE = 1e-4
READING, SMOOTHING, SCORING, INTERVALS, REPORT = "reading and flights", "smoothing", "scoring", "intervals", "report"
STAGES = {"measuring noise": "noise", SMOOTHING: SMOOTHING, INTERVALS: INTERVALS}


class Stages:
    """Seconds by stage, told from what `evaluate` says it does next."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._since = READING, time.perf_counter()

    def __call__(self, what: str, done: int, total: int) -> None:
        name = what.rpartition(": ")[2]
        self.begin(name if name in NEXT_PLOT_M else STAGES.get(name, READING))

    def begin(self, stage: str) -> None:
        """Count what passed as the stage before; from now on it is this one."""
        now = time.perf_counter()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now


def evaluated(log: Path, folder: Path, backend: str) -> dict[str, Any]:
    """One evaluation with its report: seconds by stage, and the scores."""
    from ssrtrack.report.html import make_report
    from ssrtrack.scoring.evaluate import evaluate

    start, clock = time.perf_counter(), Stages()
    chosen: dict[str, Any] = {} if backend == "auto" else {"backend": backend}
    result = evaluate([log], list(NEXT_PLOT_M), progress=clock, **chosen)
    clock.begin(REPORT)
    make_report(result, folder, title="hour", command="evaluate_hour.py", software_version="-", created="-")
    clock.begin("")
    # A tracker's stage holds its scoring too; the filter's own time it tells itself.
    tracked = {tracker.name: tracker.scores.seconds for tracker in result.trackers}
    scoring = sum(clock.seconds[name] - seconds for name, seconds in tracked.items())
    seconds = clock.seconds | tracked | {SCORING: scoring}
    scores = {t.name: [t.scores.next_plot_rmse_m, t.scores.nll, t.scores.updates] for t in result.trackers}
    return {"seconds": seconds | {"all": time.perf_counter() - start}, "scores": scores}


def child(log: Path, rounds: int, backend: str) -> None:
    """Load the library, evaluate once and `rounds` times more; print what was found."""
    start = time.perf_counter()
    import ssrtrack.report.html
    import ssrtrack.report.table
    import ssrtrack.scoring.evaluate  # noqa: F401 (the loading is what is timed)

    loading = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        runs = [evaluated(log, Path(folder), backend) for _ in range(rounds + 1)]
    runs[0]["seconds"] = {"loading the library": loading} | runs[0]["seconds"]
    print(json.dumps(runs))


def check(runs: Iterable[dict[str, Any]]) -> None:
    """Stop unless all runs scored alike, and each tracker what it scored by filterpy."""
    first: dict[str, Any] | None = None
    for run in runs:
        first = first or run["scores"]
        if run["scores"] != first:
            sys.exit(f"two runs scored differently: {first} and {run['scores']}; nothing reported")
        for name, expected in NEXT_PLOT_M.items():
            found = run["scores"][name][0]
            if found is None or abs(found / expected - 1.0) > TOLERANCE:
                sys.exit(f"{name}: next plot at {found} m RMS, by filterpy it was {expected} m; nothing reported")


def command_seconds(log: Path, backend: str) -> float:
    """Wall-clock seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-c", "from ssrtrack.cli.main import main; main()", "evaluate", str(log), "-o", folder]
        line += [word for name in NEXT_PLOT_M for word in ("-t", name)]
        line += [] if backend == "auto" else ["--backend", backend]
        start = time.perf_counter()
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


def ingested(recording: Path, log: Path) -> None:
    """The recording as a log."""
    from ssrtrack.io.ingest import ingest

    ingest([recording], log, command="evaluate_hour.py", software_version="-", created="2023-05-02T00:00:00Z",
           on_date=DAY, site=SITE)  # fmt: skip


def measure(log: Path, processes: int, rounds: int, backend: str) -> list[dict[str, Any]]:
    """Result rows: each stage in a first run and again, then the whole command."""
    command = [sys.executable, __file__, "--log", str(log), "--rounds", str(rounds), "--backend", backend]
    runs = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(processes)]
    check(run for process in runs for run in process)
    kinds = {
        "first": [process[0]["seconds"] for process in runs],
        "again": [run["seconds"] for process in runs for run in process[1:]],
        "command": [{"all": command_seconds(log, backend)} for _ in range(processes)],
    }
    return [row(kind, stage, found, backend) for kind, found in kinds.items() for stage in found[0]]


def row(kind: str, stage: str, found: list[dict[str, float]], backend: str) -> dict[str, Any]:
    """One stage's quantiles over runs."""
    import numpy as np

    p20, p50, p80 = np.percentile([seconds[stage] for seconds in found], [20, 50, 80])
    return {
        "run": kind, "stage": stage, "backend": backend, "trackers": len(NEXT_PLOT_M), "runs": len(found),
        "seconds_p20": f"{p20:.3f}", "seconds_p50": f"{p50:.3f}", "seconds_p80": f"{p80:.3f}",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="evaluations in each process after the first")
    parser.add_argument("--backend", default="auto", help="of the filters, as in `evaluate`")
    parser.add_argument("--output", type=Path, default=RESULTS / "evaluate_hour.csv", help="CSV to write")
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.log:
        child(given.log, given.rounds, given.backend)
        return
    root = os.environ.get("SSRTRACK_DATA")
    if not root:
        sys.exit("SSRTRACK_DATA is not set; it names the folder that holds recordings/barcelona_cat048_1h.ast")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "hour.h5"
        ingested(Path(root) / HOUR, log)
        rows = measure(log, given.processes, given.rounds, given.backend)
    for found in rows:
        print("  ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    # All of it once: a result that names two states of the code names none.
    made_with = setting("numpy", "scipy", "h5py", "matplotlib", "filterpy")
    write_csv(given.output, [found | made_with for found in rows])


if __name__ == "__main__":
    main()
