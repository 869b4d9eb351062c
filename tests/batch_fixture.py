"""Helpers of the tests of batches: comparing results, and a folder of small logs."""

from pathlib import Path
from typing import Any

import pytest

from ssrtrack.scoring.overall import BatchResult
from ssrtrack.scoring.result import EvaluationResult
from ssrtrack.scoring.serialise import scores_json
from tests.scoring_fixture import simple_log

TRACKERS = ["alpha-beta", "alpha-beta:q_m2s3=20"]
SIZES = {"a.h5": 6, "b.h5": 9, "c.h5": 4}  # flights


def small_logs(folder: Path, sizes: dict[str, int] = SIZES) -> list[Path]:
    folder.mkdir()
    return [simple_log(folder / name, seed=i, flights=n) for i, (name, n) in enumerate(sizes.items())]


def statuses(result: BatchResult) -> str:
    return " ".join(log.status for log in result.logs)


def flat(value: Any, where: str = "") -> dict[str, Any]:
    """Every number and text of nested JSON by its path, but not how long things took."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{where}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{where}/{i}").items()}
    return {} if where.endswith("/seconds") else {where: value}


def same_json(one: Any, other: Any, rel: float = 1e-9) -> None:
    a, b = flat(one), flat(other)
    assert set(a) == set(b)
    for key, value in a.items():
        expected = pytest.approx(value, rel=rel, abs=1e-12) if isinstance(value, float) else value
        assert b[key] == expected, key


def same_scores(one: EvaluationResult, other: EvaluationResult, rel: float = 1e-9) -> None:
    same_json(scores_json(one), scores_json(other), rel)
