"""The estimators on the real hour of one Mode S radar: nothing breaks, and the IMM predicts turns better."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.measurement import Measurements, make_measurements, tracking_frame
from ssrtrack.filters.run import run
from ssrtrack.filters.smoother import smooth
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.io.ingest import ingest
from ssrtrack.tracking.flights import Cutting, flights
from ssrtrack.units import DEG_RAD
from tests.asterix_fixture import recordings

SITE = {"latitude_deg": 41.300702, "longitude_deg": 2.102058, "height_m": 27.257}


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> list[Measurements]:
    source, log = recordings() / "barcelona_cat048_1h.ast", Path(tmp_path_factory.mktemp("real")) / "hour.h5"
    ingest(
        [source], log, command="test", software_version="test", created="2023-05-02T00:00:00Z",
        on_date=date(2023, 5, 2), site=SITE,
    )  # fmt: skip
    out = []
    with LogReader(log) as reader:
        frame = tracking_frame(reader.radars)
        for batch in flights(reader.plots(), identity="address", cutting=Cutting(implausible=True)):
            if len(batch):
                out.append(
                    make_measurements(
                        batch.plots,
                        batch.index(),
                        frame,
                        sigma_range_m=10.0,
                        sigma_azimuth_rad=0.012 * DEG_RAD,
                        sigma_height_m=30.0,
                    )
                )
    return out


def next_plot_error(name: str, batches: list[Measurements], **parameters: float) -> np.ndarray:
    """Distance from prediction to plot of all plots but each flight's first five (P,)."""
    errors = []
    for z in batches:
        history = run(make_estimator(name, **parameters), z)
        alive = np.isfinite(z.time_s)
        assert np.isfinite(history.mean[alive]).all()
        assert (np.linalg.eigvalsh(history.covariance[alive]) > 0.0).all()
        settled = z.valid & (np.arange(z.valid.shape[1]) >= 5)
        errors.append(np.hypot(*(z.position_m - history.predicted_mean[..., :2])[settled].T))
    return np.concatenate(errors)


def test_the_imm_predicts_the_next_plot_better_where_it_is_hard(batches: list[Measurements]) -> None:
    some = [z.select(slice(0, None, 3)) for z in batches]
    kf, imm = (next_plot_error(name, some, tail_weight=0.03) for name in ("kf", "imm"))
    assert kf.size > 8_000
    assert np.quantile(imm, 0.95) < 0.9 * np.quantile(kf, 0.95)
    assert np.median(kf) < 20.0
    assert np.median(imm) < 20.0


@pytest.mark.parametrize("name", ["alpha-beta", "ekf-ct", "ukf", "ckf"])
def test_every_kind_of_filter_stays_finite_and_positive_definite(name: str, batches: list[Measurements]) -> None:
    few = [z.select(slice(0, None, 12)) for z in batches]
    assert np.median(next_plot_error(name, few, gate=0.99999)) < 25.0


def test_smoothing_stays_near_the_plots(batches: list[Measurements]) -> None:
    few = [z.select(slice(0, None, 12)) for z in batches]
    for z in few:
        mean, covariance = smooth(make_estimator("imm", tail_weight=0.03), z)
        distance = np.hypot(*(z.position_m - mean[..., :2])[z.valid].T)
        assert np.median(distance) < 10.0
        assert (np.linalg.eigvalsh(covariance[z.valid]) > 0.0).all()
