"""A trained run becomes a tracker of the package: `ssrtrack evaluate -t NAME` then means it.

    python benchmarks/ship_trackers.py runs/koss-1 --name koss --device "NVIDIA H100 80GB HBM3"
    python benchmarks/ship_trackers.py runs/gka-1 --name gka --float16 --command "ssrtrack train gka -s spread"

Writes ssrtrack/models/pretrained/NAME: weights and model.json, which says how the run was trained (its command, recipe,
data and seconds), on what, how good it was on its validation flights, and on the test splits where the table of
learned_trackers.py has these very weights (by their SHA-256). Without a command in the run's config.json, as
train_learned_gpu.py leaves it, --command is asked for. Of paths only the last name is kept.

With --float16 the weights take half the octets, if that costs nothing: both are run over flights of the suite's
validation splits, and where an error or the likelihood is worse by more than a thousandth, nothing is written.
"""

import argparse
import csv
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from learned_trackers_sets import SUITE, log_of
from setting import RESULTS

from ssrtrack.models.checkpoint import NAME, load_run, read_description, save_run
from ssrtrack.models.learned import LearnedEstimator
from ssrtrack.models.load import PRETRAINED
from ssrtrack.scoring.evaluate import evaluate

MOST_OCTETS = 4_000_000
CONFIG, PROGRESS = "config.json", "progress.csv"
COSTS_NOTHING = 1e-3  # of an RMSE, and nats of the likelihood
TOLD = ("ratio", "gaussian", "transfer", "calibration")  # parts of the table kept with the weights
FLIGHTS = 48  # of each validation split, to compare float16


def tidy(command: str) -> str:
    """A command without the folders of the machine it ran on.

    Raises:
        ValueError: there is none.
    """
    if not command:
        raise ValueError("the run's config.json has no command; say with --command how such a run is made")
    return shlex.join(Path(part).name if Path(part).is_absolute() else part for part in shlex.split(command))


def training_of(run: Path, command: str, device: str) -> dict[str, Any]:
    """What model.json says of the training.

    Raises:
        CheckpointError, ValueError, OSError: the run is not whole, or nothing says how it was made.
    """
    table, config = read_description(run), json.loads((run / CONFIG).read_text("utf-8"))
    data = config["data"]
    with (run / PROGRESS).open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return {
        "run": run.resolve().name,
        "command": tidy(command or config.get("command", "")),
        "device": device,
        "created": config.get("created", "") or table["training"].get("created", ""),
        "seconds": float(last["seconds"]),
        "steps": int(last["step"]),
        "recipe": config["recipe"],
        "data": {key: data[key] for key in ("source", "suite")}
        | {key: [Path(str(one)).name for one in data[key]] for key in ("logs", "validation")},
    }


def tested(rows: Sequence[Mapping[str, str]], digests: Sequence[str]) -> dict[str, Any]:
    """Of a table of learned_trackers.py, the rows of these weights: part -> set -> measure -> [value, low, high]."""
    own = [r for r in rows if r.get("weights") and any(d.startswith(r["weights"]) for d in digests)]
    found: dict[str, Any] = {}
    for r in own:
        if r["part"] in TOLD and r["value"]:
            numbers = [float(r[key]) if r[key] else None for key in ("value", "low", "high")]
            found.setdefault(r["part"], {}).setdefault(r["set"], {})[r["measure"]] = numbers
    if found:
        found |= {key: own[0][key] for key in ("device", "commit", "date")}
    return found


def rows_of(table: Path) -> list[dict[str, str]]:
    """Rows of a table; none where there is none yet."""
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def cost_of_half(whole: Path, half: Path, flights: int, folder: Path) -> dict[str, float]:
    """What float16 adds to errors (as a share) and to the NLL (in nats): the most of any validation split."""
    found: dict[str, float] = {}
    for one in SUITE.values():
        log = log_of(one, flights, folder, split="validation")
        result = evaluate([log], [str(whole), str(half)], bootstrap=0)
        first, second = (tracker.scores for tracker in result.trackers)
        assert first.nll is not None and second.nll is not None
        added = {"nll": second.nll - first.nll}
        for key in ("position_rmse_m", "velocity_rmse_mps"):
            added[key] = getattr(second, key) / getattr(first, key) - 1.0
        found = {key: max(found.get(key, -1.0), value) for key, value in added.items()}
    return found


def ship(
    run: Path, to: Path, *, half: bool = False, command: str = "", device: str = "", table: Path | None = None
) -> Path:
    """Write a run as a shipped tracker, in place of one that is there; returns the path of its model.json.

    Raises:
        CheckpointError: the run is damaged. ValueError: nothing says how it was made, or it is too large.
    """
    training, before = training_of(run, command, device), read_description(run)
    tracker: LearnedEstimator = load_run(run)
    rows = rows_of(table or RESULTS / "learned_trackers.csv")
    with tempfile.TemporaryDirectory() as passing:
        trial = save_run(passing, tracker.model, tracker.bank, half=half)
        digests = [before["weights"]["sha256"], read_description(trial)["weights"]["sha256"]]
        if (octets := sum(f.stat().st_size for f in Path(passing).iterdir())) > 0.99 * MOST_OCTETS:
            raise ValueError(f"{run}: {octets} octets are too many, {MOST_OCTETS} are the most; try --float16")
    scores = {"validation": before["scores"], "test": tested(rows, digests)}
    return save_run(
        to, tracker.model, tracker.bank, training=training, sources=tracker.sources, scores=scores, half=half
    )


def main(given: Sequence[str] | None = None) -> int:
    """Check, write, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a trained run")
    parser.add_argument("--name", required=True, help="what -t takes: koss or gka")
    parser.add_argument("--float16", action="store_true", help="half the octets, if that costs nothing")
    parser.add_argument("--command", default="", help="how such a run is made, where its config.json does not say")
    parser.add_argument("--device", default="", help="where it was trained")
    parser.add_argument("--table", type=Path, default=RESULTS / "learned_trackers.csv", help="of learned_trackers.py")
    parser.add_argument("--flights", type=int, default=FLIGHTS, help="of each validation split, to compare float16")
    parser.add_argument("--folder", type=Path, default=PRETRAINED, help=argparse.SUPPRESS)
    asked = parser.parse_args(given)
    if asked.float16:
        with tempfile.TemporaryDirectory() as passing:
            tracker = load_run(asked.run)
            half = save_run(Path(passing) / "half", tracker.model, tracker.bank, half=True).parent
            added = cost_of_half(asked.run, half, asked.flights, Path(passing))
        print("float16 adds at most", ", ".join(f"{key} {value:+.2e}" for key, value in added.items()))
        if max(added.values()) > COSTS_NOTHING:
            print("that is not nothing: nothing was written; leave --float16 away")
            return 1
    try:
        path = ship(
            asked.run, asked.folder / asked.name, half=asked.float16, command=asked.command, device=asked.device,
            table=asked.table,
        )  # fmt: skip
    except ValueError as error:
        sys.exit(str(error))
    table = read_description(path)
    octets = sum(f.stat().st_size for f in path.parent.iterdir())
    told = "with" if table["scores"]["test"] else "without (the table has none of these weights)"
    print(
        f"written: {path.parent} ({octets / 1e3:.0f} kB in {table['weights']['file']} and {NAME}), {told} test scores"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
