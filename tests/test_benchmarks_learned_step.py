"""The benchmark of a learned tracker's step: its stages add up, and what is wrong is not written down."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ssrtrack.errors import EstimatorError
from ssrtrack.kernels import koss_rows_numba
from ssrtrack.models.learned import LearnedEstimator
from ssrtrack.models.load import load_tracker
from tests.models_fixture import plots

FOLDER = str(Path(__file__).parents[1] / "benchmarks")
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)

import learned_step_cpu  # noqa: E402


@pytest.fixture(scope="module")
def flights() -> Any:
    estimator = load_tracker("koss")
    assert isinstance(estimator, LearnedEstimator)
    return plots(estimator.bank, flights=6, length=5, missed=0.2)[0]


def test_stages_of_both_ways(flights: Any) -> None:
    threads, owned = torch.get_num_threads(), LearnedEstimator.estimate
    rows = learned_step_cpu.rows_of("koss", flights, threads, 1)
    assert LearnedEstimator.estimate is owned
    took = {(row["way"], row["stage"]): float(row["ms_p50"]) for row in rows}
    stages = {stage for way, stage in took if way == "torch"}
    assert stages == {*learned_step_cpu.STAGES, "step", "rest"}
    assert {stage for way, stage in took if way == "compiled"} == {*stages, "matrix products, 1 core"}
    assert {row["steps"] for row in rows if row["stage"] != "matrix products, 1 core"} == {4}
    assert all(
        ms > 0.0 and took[way, stage] <= took[way, "step"] for (way, stage), ms in took.items() if way == "torch"
    )
    assert all(float(row["off_sigma"]) <= learned_step_cpu.OFF for row in rows)


def test_a_step_that_is_wrong_is_not_timed(flights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = koss_rows_numba.step

    def wrong(*given: Any, **named: Any) -> Any:
        y, said = own(*given, **named)
        return y, said + 0.1

    monkeypatch.setattr(koss_rows_numba, "step", wrong)
    with pytest.raises(SystemExit, match="the two ways differ by"):
        learned_step_cpu.rows_of("koss", flights, torch.get_num_threads(), 1)


def test_what_has_no_compiled_step_is_refused(flights: Any) -> None:
    for name, message in (("gka", "there is no compiled step of this model"), ("imm", "imm is no learned tracker")):
        with pytest.raises(EstimatorError, match=message):
            learned_step_cpu.rows_of(name, flights, torch.get_num_threads(), 1)
