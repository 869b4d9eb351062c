"""Real flights for `learned_trackers.py`: recorded ones seen by the suite's radars, and a real hour of plots.

Both lie under SSRTRACK_DATA, which is asked for once; without it these parts are left out, and it is said.
"""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

from evaluate_hour import HOUR, ingested

import ssrtrack
from ssrtrack.io.hdf5 import LogWriter, Provenance
from ssrtrack.io.trajectories import read_trajectories
from ssrtrack.simulators.replay_scenario import centre, with_truth
from ssrtrack.simulators.scenario import radars, simulate
from ssrtrack.simulators.suite import load_suite

TRAJECTORIES = Path("trajectories") / "switzerland.json.gz"


def data_folder() -> Path | None:
    """SSRTRACK_DATA, if it holds both recordings."""
    folder = Path(os.environ.get("SSRTRACK_DATA", "")).absolute()
    return folder if (folder / TRAJECTORIES).is_file() and (folder / HOUR).is_file() else None


def recorded_log(data: Path, suite: str, folder: Path) -> Path:
    """The recorded flights as a scenario's radar would see them from their middle, made unless it is there already."""
    source = data / TRAJECTORIES
    octets = hashlib.sha256(source.read_bytes()).hexdigest()
    plan, seed = load_suite(suite, "test")
    digest = hashlib.sha256(f"{plan.text}|{seed}|{octets}|{ssrtrack.__version__}".encode()).hexdigest()[:12]
    path = folder / f"recorded-{suite}-{digest}.h5"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    trajectories, _ = read_trajectories(source)
    placed, traffic = with_truth(plan, trajectories, site=(*centre(trajectories), None))
    provenance = Provenance(
        command="learned_trackers.py",
        epoch=placed.epoch,
        software_version=ssrtrack.__version__,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        scenario=placed.text,
        seed=seed,
        sources=(str(source),),
        extra={"truth": source.name, "truth_sha256": octets, "suite_variant": suite},
    )
    with LogWriter(path, provenance, radars(placed)) as log:
        for plots, truth in simulate(placed, seed, traffic=traffic):
            log.append_plots(plots)
            log.append_truth(truth)
    return path


def hour_log(data: Path, folder: Path) -> Path:
    """The real hour as a log, ingested unless it is there already."""
    path = folder / f"hour-{ssrtrack.__version__}.h5"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        ingested(data / HOUR, path)
    return path
