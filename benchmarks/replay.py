"""How well recorded flights are smoothed: positions that were kept back, against the path without them.

    SSRTRACK_DATA=... python benchmarks/replay.py

Cleans both recordings, keeps back every tenth row (position and velocity) that has neighbours within 35 s, smooths the
others, and writes the distances of what was kept back along the track, across it and in height, with what was dropped
and the agreement with the reported motion, to benchmarks/results/replay.csv.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from setting import RESULTS, setting, write_csv

from ssrtrack.data import Phase, Trajectories
from ssrtrack.io.trajectories import TrajectorySummary, read_trajectories
from ssrtrack.simulators.replay import RecordedTraffic
from ssrtrack.simulators.replay_smooth import rows_of

FILES = ("switzerland.json.gz", "opensky_uk_20min.csv")
_NEAR_S, _EVERY = 35.0, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "replay.csv")
    output = parser.parse_args().output
    if not (root := os.environ.get("SSRTRACK_DATA")):
        raise SystemExit("set SSRTRACK_DATA to the folder that holds trajectories/")
    rows = []
    for name in FILES:
        begin = time.process_time()
        table, summary = read_trajectories(Path(root) / "trajectories" / name)
        read_s = time.process_time() - begin
        about = recording(table, summary) | {"read_seconds": round(read_s, 2)}
        rows += [about | row | setting("numpy", "scipy", "pandas") for row in kept_back(table)]
    write_csv(output, rows)


def recording(table: Trajectories, summary: TrajectorySummary) -> dict[str, object]:
    """What was dropped, and how the whole recording, smoothed, agrees with what it reports."""
    begin = time.process_time()
    traffic = RecordedTraffic(table)
    traffic.until(np.inf)
    seconds, fit = time.process_time() - begin, traffic.summary
    return {
        "file": Path(summary.source).name,
        "rows": summary.rows,
        "kept": summary.kept,
        "dropped": "; ".join(f"{count} {reason.split(':')[0]}" for reason, count in summary.dropped.items() if count),
        "flights": summary.flights,
        "sigma_along_m": round(fit.noise.position_m[0], 1),
        "sigma_across_m": round(fit.noise.position_m[1], 1),
        "ground_speed_rms_mps": round(fit.speed_rms_mps, 2),
        "ground_speed_median_mps": round(fit.speed_median_mps, 2),
        "track_rms_deg": round(float(np.degrees(fit.track_rms_rad)), 2),
        "smooth_seconds": round(seconds, 1),
    }


def kept_back(table: Trajectories) -> list[dict[str, object]]:
    """Distances of rows that were kept back from the path without them: one row for straight flight, one for turns."""
    flight = table.flight_id
    away = np.zeros(len(table), bool)
    near = table.time_s[2:] - table.time_s[:-2] < _NEAR_S
    away[1:-1] = (flight[2:] == flight[:-2]) & near
    away &= np.arange(len(table)) % _EVERY == _EVERY // 2
    paths, fleet = RecordedTraffic(table[~away]).until(np.inf) or (None, None)
    if paths is None or fleet is None:
        raise SystemExit("no flight could be smoothed")
    rows = np.flatnonzero(away & np.isin(flight, fleet.truth_id))
    index = np.searchsorted(fleet.truth_id, flight[rows])
    t = table.time_s[rows]
    piece = paths.locate(index, t)
    given = rows_of(table)
    off = np.abs(np.einsum("nax,xn->na", given.axes[rows], given.place_m[:, rows] - paths.motion(piece, t)[0]))
    turning = (paths.phase[piece] & Phase.TURN) > 0
    out = []
    for phase, chosen in (("straight", ~turning), ("turn", turning)):
        row: dict[str, object] = {"phase": phase, "kept_back": int(chosen.sum())}
        for axis, name in enumerate(("along", "across", "up")):
            for share in (50, 90):
                row[f"{name}_p{share}_m"] = round(float(np.percentile(off[chosen, axis], share)), 1)
        out.append(row)
    return out


if __name__ == "__main__":
    main()
