"""Two processes under torchrun: the losses of one with the same batch; one of them writes; a bad loss stops both."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.errors import TrainingError
from ssrtrack.training.distributed import device_named, ranks
from tests.training_fixture import TEXT

SCRIPT = """
import sys
from pathlib import Path
import torch
from ssrtrack.training import loop_data
from ssrtrack.training.loop_data import data_of
from ssrtrack.training.loop_koss import train_koss
from ssrtrack.training.loop_recipe import Recipe
from ssrtrack.training.loop_telling import Telling
torch.set_num_threads(1)
loop_data.HELD_OUT, loop_data.HELD_OUT_PLOTS = 16, 60
scenario, output = sys.argv[1], Path(sys.argv[2])
recipe = Recipe(size="tiny", base="imm3", steps=8, batch=8, window=40, validate_every=4)
telling = Telling(line=lambda text: print(f"line {text}", flush=True))
data = data_of(scenario, [], [])
said = train_koss(data, recipe, output, device="cpu", workers=0, telling=telling).summary
print(f"summary {said}", flush=True)  # in one piece: the other process may speak between two
"""
# In one process of two a loss is not finite, at the third step.
BROKEN = """
import os
from ssrtrack.errors import TrainingError
from ssrtrack.training import loop
real, steps = loop.loss_of, []
def loss_of(*given, **more):
    steps.append(1)
    loss, plots = real(*given, **more)
    return loss * (float("nan") if os.environ["RANK"] == "1" and len(steps) == 3 else 1.0), plots
loop.loss_of = loss_of
"""
TOLD = """
except TrainingError as error:
    print(f"stopped: {error}", flush=True)
"""


def trained(folder: Path, processes: int, script: str = SCRIPT) -> str:
    (folder / "script.py").write_text(script)
    (folder / "small.toml").write_text(TEXT)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launch, "script.py", "small.toml", f"run{processes}"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    # A process's own last words come first, the launcher's account of all last.
    assert done.returncode == 0, f"{done.stderr[:4000]}\n…\n{done.stderr[-2000:]}"
    return done.stdout


def column(path: Path, name: str) -> Any:
    with path.open(newline="") as file:
        return np.array([float(row[name]) for row in csv.DictReader(file)])


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    said = {n: trained(tmp_path, n) for n in (1, 2)}
    one, two = tmp_path / "run1", tmp_path / "run2"
    # The sum of two halves rounds otherwise than the whole; the optimiser, which divides by a gradient's size, makes
    # more of that from step to step. Gradients that are not shared differ by tens of per cent from the first step on.
    for name, later in (("loss", 2e-3), ("gradient_norm", 0.05)):
        both = [column(run / "steps.csv", name) for run in (one, two)]
        assert len(both[0]) == 8 and np.ptp(both[0]) > 0.01
        assert both[1][0] == pytest.approx(both[0][0], rel=1e-5)
        assert both[1] == pytest.approx(both[0], rel=later)
    errors = [column(run / "progress.csv", "position_rmse_m") for run in (one, two)]
    assert errors[1] == pytest.approx(errors[0], rel=1e-3) and len(errors[0]) == 3
    # One process alone speaks and writes.
    assert said[2].count("line step 4") == 1 and said[2].count("summary On held-out flights") == 1
    assert json.loads((two / "model.json").read_text())["training"]["batch"] == 8


def test_what_one_process_finds_stops_both_and_each_keeps_its_part(tmp_path: Path) -> None:
    begin = SCRIPT.index("said = ")
    tried = "try:\n" + "".join(f"    {line}\n" for line in SCRIPT[begin:].splitlines())
    said = trained(tmp_path, 2, SCRIPT[:begin] + BROKEN + tried + TOLD)
    assert said.count("stopped: the loss of step 3 is not finite") == 2 and "summary" not in said
    for rank in (0, 1):
        assert f"bad-batch-3-{rank}.npz" in said and (tmp_path / "run2" / f"bad-batch-3-{rank}.npz").exists()
    assert len(column(tmp_path / "run2" / "steps.csv", "loss")) == 3


def test_devices_by_name() -> None:
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("auto").type in ("cpu", "cuda")
    for wrong in ("gpu", "cuda:x", ""):
        with pytest.raises(TrainingError, match="expected auto, cpu, cuda"):
            device_named(wrong)
    with pytest.raises(TrainingError, match="CUDA devices that torch can use"):
        device_named("cuda:99")


def test_one_process_agrees_with_itself() -> None:
    with ranks("cpu") as here:
        assert (here.rank, here.world, here.leads) == (0, 1, True)
        assert here.total(2.5) == 2.5 and here.from_leader([1.0, 2.0]) == [1.0, 2.0]
        here.wait()
