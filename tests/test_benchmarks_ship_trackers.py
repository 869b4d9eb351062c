"""A trained run becomes a shipped tracker: what is kept of it, what is refused."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import learned_trackers_sets as sets  # noqa: E402
import learned_trackers_wanted as wanted  # noqa: E402
import ship_trackers as script  # noqa: E402

from ssrtrack.filters.run import run  # noqa: E402
from ssrtrack.models import load  # noqa: E402
from ssrtrack.models.checkpoint import load_run, read_description, save_run  # noqa: E402
from tests.models_fixture import base, network, plots  # noqa: E402

COMMAND = "ssrtrack train koss -s spread -l /data/radar/a.h5 --minutes 20 -o /home/me/runs/best"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """What a training leaves, as far as it matters here."""
    folder = tmp_path / "runs" / "koss-4"
    scores = {"step": 2, "seconds": 7.5, "position_rmse_m": 90.0, "reference_position_rmse_m": 100.0}
    training = {"seed": 4, "created": "2026-01-01T00:00:00Z"}
    save_run(folder, network(base("imm")), base("imm"), training=training, sources=[{"kind": "x"}], scores=scores)
    data = {"source": "spread", "suite": "", "logs": ["/data/radar/a.h5"], "validation": [], "scenario": {"text": "s"}}
    config = {"command": COMMAND, "recipe": {"size": "tiny", "seed": 4}, "data": data}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "progress.csv").write_text("step,seconds\n0,0.0\n2,7.5\n3,9.25\n")
    return folder


def table_of(path: Path, weights: str) -> Path:
    """A table of the judge with a row of these weights and a better one of others."""
    some = [
        wanted.row("ratio", "suite", (model, "4"), "all updates, position", value, interval=(value - 0.1, value + 0.1))
        | {"weights": digest, "device": "d", "commit": "c", "date": "2026"}
        for model, value, digest in (("koss", 0.9, weights), ("koss", 0.5, "0" * 16), ("none", 0.4, ""))
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, some[0])
        writer.writeheader()
        writer.writerows(some)
    return path


def test_a_run_becomes_a_tracker_by_name(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "PRETRAINED", tmp_path / "package")
    digest = read_description(trained)["weights"]["sha256"][:16]
    table = table_of(tmp_path / "table.csv", digest)
    shelf = ["--folder", str(tmp_path / "package"), "--table", str(table)]
    assert script.main([str(trained), "--name", "koss", "--device", "a card", *shelf]) == 0
    kept = read_description(tmp_path / "package" / "koss")
    assert kept["training"]["command"] == "ssrtrack train koss -s spread -l a.h5 --minutes 20 -o best"
    assert (kept["training"]["device"], kept["training"]["run"]) == ("a card", "koss-4")
    assert (kept["training"]["seconds"], kept["training"]["steps"]) == (9.25, 3)
    assert kept["training"]["recipe"]["seed"] == 4 and kept["training"]["data"]["logs"] == ["a.h5"]
    assert kept["sources"] == [{"kind": "x"}] and kept["scores"]["validation"]["position_rmse_m"] == 90.0
    assert kept["scores"]["test"]["ratio"] == {"suite": {"all updates, position": [0.9, 0.8, 1.0]}}
    assert "/home" not in json.dumps(kept) and "/data" not in json.dumps(kept)
    z, _ = plots(base("kf"), flights=2, length=12)
    np.testing.assert_array_equal(run(load.load_tracker("koss"), z).mean, run(load_run(trained), z).mean)


def test_float16_is_taken_where_it_costs_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "SUITE", {"tma-4s": sets.SUITE["tma-4s"]})
    # An untrained head says nothing, which float16 says as well; numbers drawn at random would be another matter.
    save_run(trained, network(base("imm"), trained=False), base("imm"), scores={"step": 0, "seconds": 0.0})
    shelf = ["--name", "koss", "--folder", str(tmp_path / "package"), "--table", str(tmp_path / "none.csv")]
    half = [str(trained), "--float16", "--flights", "4", *shelf]
    assert script.main(half) == 0
    assert "float16 adds at most nll" in capsys.readouterr().out
    folder = tmp_path / "package" / "koss"
    first = read_description(folder)
    assert first["scores"]["test"] == {}
    (weights,) = folder.glob("*.safetensors")
    assert weights.stat().st_size < 0.65 * next(trained.glob("*.safetensors")).stat().st_size
    monkeypatch.setattr(script, "COSTS_NOTHING", -1.0)
    assert script.main(half) == 1 and "nothing was written" in capsys.readouterr().out
    assert read_description(folder) == first


def test_what_cannot_be_shipped(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = ["--name", "koss", "--folder", str(tmp_path / "package"), "--table", str(tmp_path / "none.csv")]
    config: Any = json.loads((trained / "config.json").read_text())
    (trained / "config.json").write_text(json.dumps(config | {"command": ""}))
    with pytest.raises(SystemExit, match="say with --command"):
        script.main([str(trained), *shelf])
    monkeypatch.setattr(script, "MOST_OCTETS", 1000)
    with pytest.raises(SystemExit, match="are too many"):
        script.main([str(trained), "--command", "python benchmarks/x.py", *shelf])
    assert not (tmp_path / "package").exists()


def test_flights_to_compare_with_are_of_the_validation_split() -> None:
    seeds = [sets.scenario_of(sets.SUITE["tma-4s"], split)[1] for split in ("test", "validation", "train")]
    assert len(set(seeds)) == 3
