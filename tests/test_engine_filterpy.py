"""Every backend against filterpy to 1e-9 over one table of cases; and that the table can tell a wrong one."""

import numpy as np
import pytest

from ssrtrack.filters.estimators import make_estimator
from tests import engine_cases as cases
from tests.engine_cases import BACKENDS, BANKS, CASES, FLIGHTS, OPTIONS, table

# filterpy's cubature transform subtracts outer products of uncentred points, so for a target at 100 km seven digits of
# its covariances are lost; the cubature filter is compared to 1e-9 with tests.oracles.cubature instead.
# The linearised turn, lost after four outliers that no gate kept out, makes a million times more of a rounding.
FILTERED = dict.fromkeys(BANKS, 1e-9) | {"ckf": 1e-7, "ekf-ct": 1e-8}
# The interacting smoother divides by predicted densities: early in a track, where later plots say a million times
# more than earlier ones, that costs two more digits.
SMOOTHED = FILTERED | {"imm": 1e-7, "imm2": 1e-7, "imm3": 1e-7}
ROW = {flight.name: row for row, flight in enumerate(FLIGHTS)}


# Triton's interpreter takes seconds for each, so it runs every motion, engine, observation and option, but not each
# with each; so does torch the smoothers of several models.
TRITON = {("kf", "gate+tail"), ("kf-ca", "plain"), ("singer", "plain"), ("ekf", "gate"), ("ekf-ct", "plain")}
TRITON |= {("ukf-ct", "gate+tail"), ("ckf", "tail"), ("imm2", "gate+tail"), ("imm", "plain")}
TABLE = [
    (backend, *case)
    for backend in (*BACKENDS, "torch", "triton")
    for case in CASES
    if backend != "triton" or case in TRITON
]
# On the way back a tail is nothing and a gate two more numbers of state: filters run with each option, smoothers with
# none and with both. (numba compiles two modules for each of these rows, seconds long where nothing is compiled yet.)
SMOOTHED_TABLE = [row for row in TABLE if row[0] == "triton" or row[2] in ("plain", "gate+tail")]
SMOOTHED_TABLE = [row for row in SMOOTHED_TABLE if not (row[1].startswith("imm") and row[0] == "triton")]
SMOOTHED_TABLE = [row for row in SMOOTHED_TABLE if not (row[1] in ("imm", "imm3") and row[0] == "torch")]
SMOOTHED_TABLE += [("torch", "imm", "gate+tail"), ("torch", "imm3", "plain")]
# Where a column takes a tenth of a second the flights are cut to these: all but one end there, whatever befalls them.
FIRST = (slice(None), slice(0, 23))
WHOLE = ("kf", "gate+tail")


def slow(backend: str, name: str, option: str, *, smooths: bool) -> bool:
    """Whether a case is run over the first columns alone. One case of Triton's has them all."""
    several = smooths and backend == "torch" and name.startswith("imm")
    return several or (backend == "triton" and (name, option) != WHOLE)


@pytest.mark.parametrize(("backend", "name", "option"), TABLE)
def test_backend_equals_filterpy(backend: str, name: str, option: str) -> None:
    z, expected = table(), cases.reference(name, option)
    if slow(backend, name, option, smooths=False):
        z, expected = z.select(FIRST), cases.taken(expected, FIRST)  # no filter looks ahead
    got = cases.run_with(backend, make_estimator(name, **OPTIONS[option]), z)
    cases.assert_same(got, expected, FILTERED[name])


@pytest.mark.parametrize(("backend", "name", "option"), SMOOTHED_TABLE)
def test_backend_smooths_as_the_reference_does(backend: str, name: str, option: str) -> None:
    z, estimator = table(), make_estimator(name, **OPTIONS[option])
    if slow(backend, name, option, smooths=True):
        z = z.select(FIRST)
        expected = cases.smooth_with("filterpy", estimator, z)
    else:
        expected = cases.reference_smoothed(name, option)
    got = cases.smooth_with(backend, estimator, z)
    cases.assert_same_moments(got, expected, SMOOTHED[name], "smoothed")


def rounded_and_reversed() -> tuple[cases.Measurements, np.ndarray]:
    """The table in another order of flights, its plots moved by some units in their last place."""
    z, rng = table(), np.random.default_rng(0)
    moved = {}
    for column in ("range_m", "azimuth_rad", "position_m", "covariance_m2"):
        value = getattr(z, column)
        ulp = rng.choice([-1.0, 1.0], value.shape) * np.finfo(np.float64).eps
        if column == "covariance_m2":
            ulp = 0.5 * (ulp + np.swapaxes(ulp, -1, -2))
        moved[column] = value * (1.0 + ulp)
    order = np.argsort(np.sin(np.arange(len(FLIGHTS)) * 7.0))
    return cases.changed(z, **moved).select(order), order


@pytest.mark.parametrize(("name", "option"), CASES)
def test_rounding_cannot_fail_the_comparison(name: str, option: str) -> None:
    """The table is well conditioned: plots off by one unit in the last place, in another order, pass at a fifth."""
    z, order = rounded_and_reversed()
    estimator = make_estimator(name, **OPTIONS[option])
    got, expected = cases.run_with("filterpy", estimator, z), cases.reference(name, option)
    cases.assert_same(got, cases.taken(expected, order), FILTERED[name] / 5.0)
    smoothed = cases.reference_smoothed(name, option)
    moved = cases.smooth_with("filterpy", estimator, z)
    cases.assert_same_moments(moved, (smoothed[0][order], smoothed[1][order]), SMOOTHED[name] / 5.0, "smoothed")


def test_the_table_holds_what_it_says() -> None:
    z = table()
    lengths = np.isfinite(z.time_s).sum(1)
    assert {0, 1, 2, 7, 23, 60} <= set(lengths.tolist())
    steps = np.diff(z.time_s, axis=1)
    assert (steps == 0.0).sum() == 4
    assert np.nanmax(steps) > 100.0
    assert len(np.unique(np.round(steps[np.isfinite(steps)], 6))) > 200
    assert (~z.valid & np.isfinite(z.time_s)).sum() == 8
    assert not z.valid[ROW["misses"], lengths[ROW["misses"]] - 1]
    north, south = z.azimuth_rad[ROW["through north"], :23], z.azimuth_rad[ROW["through south"], :23]
    assert north.min() < 0.1
    assert north.max() > 6.2
    assert south.min() < np.pi < south.max()
    ground = np.hypot(*z.position_m[ROW["near overhead"], :23].T)
    assert ground.min() < 5e3 < z.up_m[ROW["near overhead"], 0]
    assert set(z.radar_id[ROW["long turn, three radars"]].tolist()) == {0, 1, 2}
    spread = np.sqrt(np.linalg.det(z.covariance_m2[ROW["noise varies"], :23]))
    assert spread.max() > 10.0 * spread.min()


@pytest.mark.parametrize("name", BANKS)
def test_options_change_what_happens_to_outliers(name: str) -> None:
    """One outlier is turned down by the gate; four in a row begin the track anew; a tail uses all but weighs less."""
    valid = table().valid
    assert (cases.reference(name, "plain").used == valid).all()
    assert (cases.reference(name, "tail").used == valid).all()
    used = cases.reference(name, "gate").used
    assert not used[ROW["one outlier"], 11]
    assert used[ROW["one outlier"], [10, 12]].all()
    again = ROW["outliers reopen the gate"]
    assert not used[again, 9:12].any()
    assert used[again, 12]
    assert not cases.reference(name, "gate+tail").used[again, 9]
    assert cases.reference(name, "gate+tail").used[again, 10]
    plain, tail = cases.reference(name, "plain"), cases.reference(name, "tail")
    jump = [np.abs(h.mean - h.predicted_mean)[ROW["one outlier"], 11, :2].max() for h in (tail, plain)]
    assert jump[0] < 0.8 * jump[1]
