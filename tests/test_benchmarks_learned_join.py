"""Tables of the judge put together: rows stay as they were, those over the suite and over seeds are worked out anew."""

import csv
import sys
from math import nan, prod
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import learned_trackers_join as script
from learned_trackers_sets import SUITE
from learned_trackers_wanted import ABOVE_OWN, COLUMNS

RATIOS = dict(zip(SUITE, (0.9, 0.8, 0.95, 0.85), strict=True))
MEASURE = "all updates, position"


def cells(name: str, value: float, **more: Any) -> dict[str, Any]:
    about = {"weights": "aa", "device": "one", "versions": "v", "commit": "c", "date": "d", "part": "ratio"}
    own = {"set": name, "model": "koss", "seed": "1", "measure": MEASURE, "value": value, "flights": 4, "updates": 40}
    return dict.fromkeys(COLUMNS, "") | {"low": value - 0.01, "high": value + 0.01} | about | own | more


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(folder: Path, *tables: list[dict[str, Any]]) -> list[dict[str, str]]:
    paths = [str(table(folder / f"{k}.csv", rows)) for k, rows in enumerate(tables)]
    assert script.main([*paths, "--output", str(folder / "all.csv")]) == 0
    with (folder / "all.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_models_and_parts_judged_apart_are_one_table(tmp_path: Path) -> None:
    first = [cells(name, value) for name, value in RATIOS.items()] + [cells("suite", 0.1)]  # which is not believed
    second = [cells(name, 0.5 * value, seed="2", weights="bb", device="two") for name, value in RATIOS.items()]
    part = [cells("tma-4s", 0.7, model="gka", weights="cc"), cells("tma, period 6 s", 0.9, part="transfer")]
    rows = {(r["part"], r["set"], r["model"], r["seed"]): r for r in run(tmp_path, first, second, part)}
    assert len(rows) == 4 + 4 + 2 + 3 + 1
    mean = prod(RATIOS.values()) ** 0.25
    one, other, both = (rows["ratio", "suite", "koss", seed] for seed in ("1", "2", "all 2"))
    assert float(one["value"]) == pytest.approx(mean, rel=1e-4) and (one["device"], one["flights"]) == ("one", "16")
    assert float(other["value"]) == pytest.approx(0.5 * mean, rel=1e-4) and other["weights"] == "bb"
    assert float(both["value"]) == pytest.approx(0.75 * mean, rel=1e-4) and both["device"] == "several"
    assert ("ratio", "suite", "gka", "1") not in rows  # of one set alone nothing is said over the suite
    assert rows["ratio", "tma-4s", "koss", "1"]["value"] == "0.9"
    less = rows[ABOVE_OWN, "tma, period 6 s", "koss", "1"]
    assert (less["value"], less["met"], less["device"]) == ("0", "must", "one")


def test_what_one_table_lacks_another_may_have(tmp_path: Path) -> None:
    def lacking(part: str, name: str) -> dict[str, Any]:
        return cells(name, nan, part="absent", measure=f"{part}: not judged in the time given") | {"met": "no"}

    first = [cells("tma-4s", 0.9), lacking("suite", "degraded"), lacking("sweep", "tma-4s")]
    rows = run(tmp_path, first, [cells("degraded", 0.9), lacking("sweep", "tma-4s")])
    assert [(r["part"], r["set"]) for r in rows] == [("ratio", "degraded"), ("ratio", "tma-4s"), ("absent", "tma-4s")]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (cells("tma-4s", 0.9), "two rows of ratio, tma-4s, koss, 1"),
        (cells("degraded", 0.9, weights="bb"), "two sets of weights are called koss with seed 1"),
        ({"model": "koss"}, "no table of learned_trackers.py: it lacks commit"),
    ],
)
def test_what_does_not_belong_together_is_refused(second: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=said):
        run(tmp_path, [cells("tma-4s", 0.9)], [second])
    assert not (tmp_path / "all.csv").exists()
