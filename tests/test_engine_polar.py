"""Every backend's polar filters against plain loops of the textbook formulas, over the whole table."""

import numpy as np
import pytest

from ssrtrack.filters.estimators import make_estimator
from tests import engine_cases as cases
from tests.engine_cases import EVERY, FLIGHTS, table
from tests.oracles import polar

# filterpy's cubature transform does not centre its points: see test_engine_filterpy.
WORSE = {("filterpy", "ckf"): 1e-7}


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", ["ekf", "ukf", "ckf"])
def test_polar_filters_are_the_textbook_ones(backend: str, name: str) -> None:
    z = table()
    history = cases.run_with(backend, make_estimator(name, q_m2s3=15.0, speed_sigma_mps=170.0), z)
    for row, flight in enumerate(FLIGHTS):
        if flight.plots:
            mean, covariance = (np.stack(part) for part in zip(*polar.filtered(name, z, row, 15.0, 170.0), strict=True))
            got = history.mean[row, : flight.plots], history.covariance[row, : flight.plots]
            cases.assert_same_moments(got, (mean, covariance), WORSE.get((backend, name), 1e-9), flight.name)


def test_filterpys_cubature_transform_loses_digits() -> None:
    """The exception above is needed: the day filterpy centres its points, this fails and the exception goes."""
    z = table()
    history = cases.run_with("filterpy", make_estimator("ckf", q_m2s3=15.0, speed_sigma_mps=170.0), z)
    row = next(n for n, flight in enumerate(FLIGHTS) if flight.plots == 60)
    mean, covariance = (np.stack(part) for part in zip(*polar.filtered("ckf", z, row, 15.0, 170.0), strict=True))
    with pytest.raises(AssertionError, match="off by"):
        cases.assert_same_moments((history.mean[row], history.covariance[row]), (mean, covariance), 1e-10, "ckf")
