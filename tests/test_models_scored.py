"""Learned trackers beside classical ones: by path, in one table, in the report, in the workers of a batch."""

from pathlib import Path

import pytest

from ssrtrack.batch.run import batch
from ssrtrack.errors import EstimatorError
from ssrtrack.kernels.kalman import has_gpu
from ssrtrack.models.checkpoint import save_run
from ssrtrack.report.html import html_page
from ssrtrack.scoring.evaluate import evaluate
from tests.models_fixture import base, network
from tests.scoring_fixture import simple_log
from tests.test_report_page import ABOUT

TRACKERS = ["kf:q_m2s3=15", "first/run", "second/run/", "untrained"]


def test_runs_of_one_name_stand_beside_their_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    logs = [simple_log(tmp_path / "a.h5"), simple_log(tmp_path / "b.h5", seed=5)]
    for seed, folder in enumerate(("first/run", "second/run", "untrained")):
        save_run(folder, network(base("kf"), seed=seed, trained=folder != "untrained"), base("kf"))
    result = evaluate(logs, TRACKERS, bootstrap=50, sweep={"pd": [0.5]})
    kf, first, second, untrained = (tracker.scores for tracker in result.trackers)
    assert [tracker.name for tracker in result.trackers] == TRACKERS
    # To the rounding of the network's float32; each has the same updates.
    assert untrained.position_rmse_m == pytest.approx(kf.position_rmse_m, rel=1e-5)
    assert untrained.nll == pytest.approx(kf.nll, rel=1e-4)
    assert len({round(s.position_rmse_m or 0.0, 2) for s in (kf, first, second)}) == 3
    assert {s.updates for s in (kf, first, second, untrained)} == {kf.updates}
    ratio, low, high = result.trackers[1].ratio["position_rmse_m"]
    assert ratio == pytest.approx((first.position_rmse_m or 0.0) / (kf.position_rmse_m or 0.0)) and low < ratio < high
    (sweep,) = result.sweeps
    assert sweep.reference == TRACKERS[0] and sweep.curves[3].area_ratio == pytest.approx(1.0, rel=1e-4)
    page = html_page(result, **ABOUT)
    assert all(page.count(name) >= 3 for name in TRACKERS)

    if not has_gpu():
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        with pytest.raises(EstimatorError, match="needs a CUDA device"):
            evaluate(logs, TRACKERS[1:2], bootstrap=0, backend="triton")
    shared = batch(logs, TRACKERS, "out", workers=1, bootstrap=0).overall[0]
    for one, other in zip(result.trackers, shared.trackers, strict=True):
        assert other.name == one.name and other.scores.updates == one.scores.updates
        assert other.scores.position_rmse_m == pytest.approx(one.scores.position_rmse_m, rel=1e-5)
        assert other.scores.nll == pytest.approx(one.scores.nll, rel=1e-4)
