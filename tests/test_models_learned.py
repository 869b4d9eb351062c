"""A learned tracker keeps the promises of the Estimator protocol, step by step and over whole flights."""

from typing import Any

import numpy as np
import pytest

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.protocol import Estimator, join, put, take
from ssrtrack.filters.run import run
from ssrtrack.filters.smoother import smooth
from ssrtrack.models import learned
from ssrtrack.models.learned import LearnedEstimator, _plots
from ssrtrack.models.learned_base import BaseState, BaseSteps
from tests.models_fixture import BASES, base, network, plots, shortened

# Of the base's standard deviations: what float32 leaves of the network's numbers after 40 recursive steps.
TOLERANCE = 1e-3


def tracker(name: str = "imm", **config: Any) -> LearnedEstimator:
    bank = base(name)
    return LearnedEstimator(bank, network(bank, **config))


def close(mean: Any, covariance: Any, other_mean: Any, other_covariance: Any) -> None:
    """Equal within TOLERANCE standard deviations, NaN in the same places."""
    sigma = np.sqrt(np.diagonal(other_covariance, axis1=-2, axis2=-1))
    np.testing.assert_array_equal(np.isnan(mean), np.isnan(other_mean))
    assert np.nanmax(np.abs(mean - other_mean) / sigma) < TOLERANCE
    scale = sigma[..., :, None] * sigma[..., None, :]
    assert np.nanmax(np.abs(covariance - other_covariance) / scale) < TOLERANCE


@pytest.mark.parametrize("config", [{}, {"history": 0, "blocks": 1, "states": 2}])
@pytest.mark.parametrize("name", sorted(BASES))
def test_step_by_step_equals_whole_flights(name: str, config: dict[str, Any]) -> None:
    estimator = tracker(name, **config)
    z, _ = plots(estimator.bank, flights=5, length=30, missed=0.15, outliers=0.05)
    z = shortened(z, {2: 17, 4: 1})
    whole, steps = run(estimator, z), run(estimator, z, backend="filterpy")
    close(whole.mean, whole.covariance, steps.mean, steps.covariance)
    close(whole.predicted_mean, whole.predicted_covariance, steps.predicted_mean, steps.predicted_covariance)
    np.testing.assert_array_equal(whole.used, steps.used)
    if steps.mode_probability is None:
        assert whole.mode_probability is None
    else:
        np.testing.assert_allclose(whole.mode_probability, steps.mode_probability, atol=1e-9)


@pytest.mark.parametrize("name", sorted(BASES))
def test_the_base_is_stepped_as_the_filter_steps_itself(name: str) -> None:
    """Against filterpy, with misses and outliers, some of which a gate turns down until it begins anew."""
    bank = base(name)
    steps = BaseSteps.of(bank)
    z, _ = plots(bank, flights=6, length=25, missed=0.15, outliers=0.2)
    mine, its = steps.begun(_plots(z.at(0))), bank.init(z.at(0))
    turned_down = 0
    for k in range(25):
        if k:
            dt = z.time_s[:, k] - z.time_s[:, k - 1]
            mine, its = steps.moved(mine.own, dt), bank.predict(its, dt)
            same_estimate(mine, *bank.estimate(its))
            seen = np.flatnonzero(z.valid[:, k])
            mine = put(mine, seen, steps.seen(mine.own[seen], _plots(z.at(k).select(seen))))
            its = bank.update(its, z.at(k), z.valid[:, k])
            assert mine.used[seen].tolist() == (its.gated == 0)[seen].tolist()
        same_estimate(mine, *bank.estimate(its))
        np.testing.assert_array_equal(mine.gated, its.gated)
        turned_down = max(turned_down, int(mine.gated.max()))
        probability = bank.mode_probability(its)
        np.testing.assert_allclose(mine.modes, np.zeros((6, 0)) if probability is None else probability, atol=1e-9)
    assert (turned_down > 0) == (name == "imm-gated")
    with pytest.raises(EstimatorError, match="time step of nan"):
        steps.moved(mine.own, np.full(6, np.nan))


def same_estimate(state: BaseState, mean: Any, covariance: Any) -> None:
    upper = np.triu_indices(4)
    wanted = np.concatenate([mean, covariance[:, upper[0], upper[1]]], 1)
    np.testing.assert_allclose(state.now, wanted, rtol=1e-8, atol=1e-6)


def test_whole_flights_do_not_depend_on_how_they_are_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = tracker()
    z = shortened(plots(estimator.bank, flights=7, length=25, missed=0.1)[0], {0: 3, 3: 20, 5: 24})
    whole = run(estimator, z)
    monkeypatch.setattr(learned, "CELLS", 50)
    parts = run(estimator, z)
    close(parts.mean, parts.covariance, whole.mean, whole.covariance)
    np.testing.assert_array_equal(parts.used, whole.used)


def test_used_and_modes_are_the_bases() -> None:
    estimator = tracker("imm-gated")
    z, _ = plots(estimator.bank, missed=0.1, outliers=0.1)
    mine, its = run(estimator, z), run(estimator.bank, z)
    np.testing.assert_array_equal(mine.used, its.used)
    assert not mine.used[z.valid].all()
    assert mine.mode_probability is not None and its.mode_probability is not None
    np.testing.assert_array_equal(mine.mode_probability, its.mode_probability)


def test_states_can_be_taken_put_and_joined() -> None:
    estimator: Estimator = tracker()
    z, _ = plots(base("imm"), flights=6, length=4)
    state = estimator.init(z.at(0))
    for k in (1, 2):
        state = estimator.predict(state, z.time_s[:, k] - z.time_s[:, k - 1])
        state = estimator.update(state, z.at(k), z.valid[:, k])
    order = np.array([3, 0, 5])
    for changed, rows in (
        (take(state, order), order),
        (join([take(state, slice(0, 2)), take(state, slice(2, 6))]), np.arange(6)),
        (put(state, np.array([1]), take(state, np.array([4]))), np.array([0, 4, 2, 3, 4, 5])),
    ):
        dt = (z.time_s[:, 3] - z.time_s[:, 2])[rows]
        mine = estimator.estimate(estimator.update(estimator.predict(changed, dt), z.at(3).select(rows), rows >= 0))
        ahead = estimator.predict(state, z.time_s[:, 3] - z.time_s[:, 2])
        its = estimator.estimate(estimator.update(ahead, z.at(3), np.ones(6, bool)))
        close(*mine, its[0][rows], its[1][rows])


def test_a_step_of_no_time_changes_nothing() -> None:
    estimator = tracker()
    z, _ = plots(estimator.bank, flights=3, length=2)
    state = estimator.init(z.at(0))
    before = estimator.estimate(state)
    after = estimator.estimate(estimator.predict(state, np.zeros(3)))
    close(*after, *before)
    almost = estimator.estimate(estimator.predict(state, np.full(3, 1e-4)))
    sigma = np.sqrt(np.diagonal(before[1], axis1=-2, axis2=-1))
    assert (np.abs(almost[0] - before[0]) / sigma).max() < 0.01


def test_an_update_without_plots_keeps_the_prediction() -> None:
    estimator = tracker()
    z, _ = plots(estimator.bank, flights=4, length=2)
    ahead = estimator.predict(estimator.init(z.at(0)), np.full(4, 5.0))
    some = np.array([True, False, True, False])
    after = estimator.update(ahead, z.at(1), some)
    for given, kept in zip(estimator.estimate(after), estimator.estimate(ahead), strict=True):
        np.testing.assert_array_equal(given[~some], kept[~some])
        assert (given[some] != kept[some]).any()
    assert estimator.update(ahead, z.at(1), np.zeros(4, bool)) is ahead


def test_a_flight_starts_on_one_plot() -> None:
    estimator = tracker()
    z, _ = plots(estimator.bank, flights=2, length=1)
    history = run(estimator, z)
    assert np.isfinite(history.mean).all() and np.isnan(history.predicted_mean).all()
    np.linalg.cholesky(history.covariance)


def test_a_time_that_runs_backwards_is_refused() -> None:
    estimator = tracker()
    state = estimator.init(plots(estimator.bank, flights=2, length=1)[0].at(0))
    with pytest.raises(EstimatorError, match="time step of -1"):
        estimator.predict(state, np.array([1.0, -1.0]))


def test_a_network_behind_another_base_is_refused() -> None:
    with pytest.raises(EstimatorError, match="expects a base with 4 motion models, this one has 3"):
        LearnedEstimator(base("imm3"), network(base("imm")))


def test_what_it_cannot_do_is_refused() -> None:
    estimator = tracker()
    z, _ = plots(estimator.bank, flights=2, length=3)
    with pytest.raises(EstimatorError, match="base runs in float64"):
        run(estimator, z, dtype="float32")
    with pytest.raises(EstimatorError, match="LearnedEstimator has no smoother"):
        smooth(estimator, z)
    with pytest.raises(EstimatorError, match="backend is 'abacus'"):
        run(estimator, z, backend="abacus")
