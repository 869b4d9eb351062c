"""Tuning: finds the numbers that flights were made with, gains on other flights, and says what it did."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssrtrack.errors import EstimatorError, LogError, SsrtrackError, TrainingError
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.estimators import TUNED, make_estimator, parameters_of, untuned_parameters
from ssrtrack.filters.gaussian import LOG_TWO_PI
from ssrtrack.filters.run import run
from ssrtrack.filters.tuned_file import read_tuned
from ssrtrack.models.load import load_tracker
from ssrtrack.scoring.evaluate import evaluate
from ssrtrack.training.likelihood import OUTLIER_SCALE, OUTLIER_WEIGHT, Likelihood, figures, whitened
from ssrtrack.training.tune import BOUNDS, METHODS, Tuning, start_of, tune
from ssrtrack.training.tune_flights import Block, Group, log_group, simulated_group, split_group
from ssrtrack.training.tune_job import flights_of, tune_text, tuned_of, write_tuned
from tests import filters_fixture as made
from tests.scenario_text import SCENARIO
from tests.scoring_fixture import simple_log

Q = 8.0
R = np.diag([60.0, 40.0]) ** 2


def matched(seed: int, flights: int = 40, plots: int = 60, outliers: float = 0.0) -> Group:
    """Flights drawn from the very filter that is tuned."""
    rng = np.random.default_rng(seed)
    time_s = made.times(rng, flights, plots)
    bank = make_estimator("kf", q_m2s3=Q)
    assert isinstance(bank, Bank)
    truth, _ = made.bank_flights(rng, bank, time_s, np.full(2, 40e3))
    z = made.noisy(rng, time_s, truth, R)
    if outliers:
        far = rng.uniform(size=time_s.shape) < outliers
        z = made.cartesian(time_s, z.position_m + far[..., None] * rng.normal(0.0, 500.0, z.position_m.shape), R)
    return Group("matched", (Block(z, truth, np.arange(flights)),))


def test_the_process_noise_of_a_matched_filter_is_found_within_its_own_interval() -> None:
    training, validation = matched(1), matched(2)
    found = tune("kf", [training], [validation], variant="plain", start={"q_m2s3": 0.3})
    q, value = found.after["q_m2s3"], Likelihood(training)
    step, plots = 0.05, 40 * 52  # counted plots: those after the warm-up
    up, here, down = (value(make_estimator("kf", q_m2s3=q * np.exp(s))) for s in (step, 0.0, -step))
    sigma = (plots * (2.0 * here - up - down) / step**2) ** -0.5  # of log q: 1/sqrt(Fisher information)
    assert sigma < 0.06  # or an estimate 25 % off would pass
    assert abs(np.log(q / Q)) < 3.5 * sigma
    assert found.validation_objective_after > found.validation_objective_before + 0.05
    before, after = found.validation_before[0], found.validation_after[0]
    assert after.position_rmse_m < 0.97 * before.position_rmse_m
    assert abs(after.anees - 1.0) < abs(before.anees - 1.0)
    assert abs(after.anees - 1.0) < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_search_finds_the_same_maximum(method: str) -> None:
    group = matched(3, flights=15)
    found = tune("singer", [group], [group], variant="plain", method=method)
    best = tune("singer", [group], [group], variant="plain", start=found.after)
    assert found.objective_after == pytest.approx(best.objective_after, abs=2e-3)


def test_a_tail_is_found_where_there_are_outliers_and_the_gate_lives_with_them_too() -> None:
    training, validation = matched(4, outliers=0.05), matched(5, outliers=0.05)
    plain, mixture, gated = (tune("kf", [training], [validation], variant=v) for v in ("plain", "mixture", "gated"))
    assert 0.025 < mixture.after["tail_weight"] < 0.1
    assert 4.0 < mixture.after["tail_scale"] < 20.0  # 500 m over 40 to 60 m
    assert mixture.after["q_m2s3"] == pytest.approx(Q, rel=0.3)
    assert plain.after["q_m2s3"] > 1.5 * Q  # without a defence outliers look like manoeuvres
    assert gated.after["gate"] == 0.9999
    assert "tail_weight" not in gated.searched
    for better in (mixture, gated):
        assert better.validation_after[0].position_rmse_m < 0.9 * plain.validation_after[0].position_rmse_m
        assert better.validation_after[0].log_likelihood > plain.validation_after[0].log_likelihood + 0.1


@pytest.mark.parametrize("objective", ["rmse", "nll"])
def test_with_truth_the_objective_may_be_the_error_itself(objective: str) -> None:
    group = matched(6, flights=15)
    found = tune("kf", [group], [group], variant="plain", objective=objective, start={"q_m2s3": 0.3})
    key = {"rmse": "position_rmse_m", "nll": "nll"}[objective]
    by_likelihood = tune("kf", [group], [group], variant="plain", start={"q_m2s3": 0.3})
    assert getattr(found.validation_after[0], key) <= getattr(by_likelihood.validation_after[0], key) + 1e-3
    # Root mean squares are compared by their logarithm, in which groups of unlike radars weigh alike.
    value = getattr(found.validation_after[0], key)
    assert found.objective_after == pytest.approx(-np.log(value) if objective == "rmse" else -value, rel=1e-3)
    blind = Group("blind", tuple(Block(b.z, None, b.keys) for b in group.blocks))
    with pytest.raises(TrainingError, match="needs true states"):
        tune("kf", [blind], [blind], objective=objective)


def test_figures_agree_with_plain_linear_algebra() -> None:
    group, rng = matched(7, flights=6, plots=20), np.random.default_rng(0)
    bank = make_estimator("kf", q_m2s3=3.0)
    history, z, truth = run(bank, group.blocks[0].z), group.blocks[0].z, group.blocks[0].truth
    assert truth is not None
    logs, nees, square = [], [], []
    for n in range(6):
        for k in range(8, 20):
            y, P = z.position_m[n, k] - history.predicted_mean[n, k, :2], history.predicted_covariance[n, k, :2, :2]
            dense = []
            for weight, scale in ((1 - OUTLIER_WEIGHT, 1.0), (OUTLIER_WEIGHT, OUTLIER_SCALE)):
                S = P + scale**2 * R
                dense.append(weight * np.exp(-0.5 * y @ np.linalg.solve(S, y)) / (2 * np.pi * np.linalg.det(S) ** 0.5))
            logs.append(np.log(sum(dense)))
            e = history.mean[n, k] - truth[n, k]
            nees.append(e @ np.linalg.solve(history.covariance[n, k], e))
            square.append(e[:2] @ e[:2])
    found = figures(bank, group)
    assert found.plots == len(logs)
    assert found.log_likelihood == pytest.approx(np.mean(logs), rel=1e-9)
    assert found.anees == pytest.approx(np.mean(nees) / 4, rel=1e-9)
    assert found.position_rmse_m == pytest.approx(np.sqrt(np.mean(square)), rel=1e-9)
    A = rng.standard_normal((7, 3, 3))
    P, e = A @ np.swapaxes(A, 1, 2) + np.eye(3), rng.standard_normal((7, 3))
    white, log_det = whitened(e.T, P[:, *np.triu_indices(3)].T)
    np.testing.assert_allclose(white, [x @ np.linalg.solve(p, x) for x, p in zip(e, P, strict=True)])
    np.testing.assert_allclose(log_det, 0.5 * np.linalg.slogdet(P)[1])
    assert np.isnan(whitened(e.T, -P[:, *np.triu_indices(3)].T)[1]).all()


def test_the_likelihood_of_a_gated_filter_counts_what_it_turns_down() -> None:
    """Or a gate that turns everything down would be the best."""
    group = matched(8, flights=10, outliers=0.02)
    loose, tight = (Likelihood(group)(make_estimator("kf", q_m2s3=Q, gate=gate)) for gate in (0.9999, 0.2))
    assert loose > tight + 0.3
    exact, none = Likelihood(group)(make_estimator("kf", q_m2s3=Q)), Likelihood(group)(make_estimator("kf", q_m2s3=1e4))
    assert exact > none + 1.0
    assert exact > -20.0 - LOG_TWO_PI


def test_start_and_what_is_searched() -> None:
    start, free = start_of("imm", "mixture", {"q_m2s3": 0.05})
    assert "q_m2s3" not in free and start["q_m2s3"] == 0.05
    assert {"tail_weight", "tail_scale", "turn_rate_dps"} <= set(free)
    assert start_of("imm-gated", "gated")[0]["gate"] == 0.9999
    start, free = start_of("kf", "plain")
    assert free == ("q_m2s3",) and start["tail_weight"] == 0.0
    assert start_of("kf", "mixture", {"tail_scale": 5.0})[1] == ("q_m2s3", "tail_weight")
    for name in ("kf", "imm", "singer", "kf-ca", "ukf-ct", "alpha-beta"):
        for key, value in untuned_parameters(name).items():
            low, high = BOUNDS.get(key, (-np.inf, np.inf))
            assert value is None or key == "tail_weight" or low < value < high, f"{name}: {key} begins at a bound"


NOTHING_LEFT = {"q_m2s3": 1.0, "tail_weight": 0.01, "tail_scale": 5.0}
WRONG: dict[str, tuple[dict[str, Any], type[SsrtrackError], str]] = {
    "variant": ({"variant": "best"}, TrainingError, "mixture, gated, plain"),
    "objective": ({"objective": "mse"}, TrainingError, "likelihood, rmse, nll"),
    "method": ({"method": "SGD"}, TrainingError, "Powell"),
    "fixed": ({"fixed": {"q": 1.0}}, EstimatorError, "q_m2s3"),
    "nothing left": ({"fixed": NOTHING_LEFT}, TrainingError, "nothing|no parameter left"),
}


@pytest.mark.parametrize(("options", "error", "named"), WRONG.values(), ids=WRONG.keys())
def test_wrong_wishes(options: dict[str, Any], error: type[SsrtrackError], named: str) -> None:
    group = matched(9, flights=3, plots=12)
    with pytest.raises(error, match=named):
        tune("kf", [group], [group], **options)


def test_flights_of_a_log_are_those_of_scoring(tmp_path: Path) -> None:
    """The same plots, measured alike: an estimator has the same errors here and in `evaluate`."""
    log = simple_log(tmp_path / "a.h5", flights=12, plots=40)
    here = figures(make_estimator("kf"), log_group([log]))
    scores = evaluate([log], ["kf"], bootstrap=0).trackers[0].scores
    assert (here.plots, here.flights) == (scores.updates, scores.flights)
    assert here.position_rmse_m == pytest.approx(scores.position_rmse_m, rel=1e-9)
    assert here.velocity_rmse_mps == pytest.approx(scores.velocity_rmse_mps, rel=1e-9)
    assert here.anees == pytest.approx(scores.anees, rel=1e-9)
    assert here.nll == pytest.approx(scores.nll, rel=1e-9)


def test_validation_flights_are_others(tmp_path: Path) -> None:
    log = simple_log(tmp_path / "a.h5", flights=30, plots=15)
    group = log_group([log])
    training, validation = split_group(group, 0.3)
    keys = [set(np.concatenate([b.keys for b in g.blocks]).tolist()) for g in (training, validation)]
    assert not keys[0] & keys[1]
    assert len(keys[0] | keys[1]) == 30
    assert 3 <= len(keys[1]) <= 16
    again = split_group(log_group([simple_log(tmp_path / "b.h5", flights=30, plots=14)]), 0.3)[1]
    assert {int(k) for b in again.blocks for k in b.keys} == keys[1]  # the same aircraft, whatever log they are in
    assert log_group([log], max_plots=100).plots <= 100
    with pytest.raises(TrainingError, match="--validation"):
        split_group(log_group([simple_log(tmp_path / "c.h5", flights=1)]), 0.3)
    with pytest.raises(TrainingError, match="some logs have truth"):
        log_group([log, simple_log(tmp_path / "d.h5", truth=False)])
    with pytest.raises(TrainingError, match="no flight"):
        log_group([simple_log(tmp_path / "e.h5", flights=2, plots=5)])
    with pytest.raises(LogError, match=r"none\.h5"):
        log_group([tmp_path / "none.h5"])


def test_a_recording_is_tuned_without_truth(tmp_path: Path) -> None:
    log = simple_log(tmp_path / "a.h5", flights=40, plots=40, truth=False, stated=False)
    found = flights_of([], [log])
    tuning = tune_text("kf:tail_weight=0", found, variant="plain")
    assert tuning.validation_objective_after > tuning.validation_objective_before
    assert "position_rmse_m" not in tuning.validation_after[0].to_dict()
    assert tuning.after["tail_weight"] == 0.0


def test_from_a_scenario_to_a_file_that_tracks(tmp_path: Path) -> None:
    scenario = tmp_path / "small.toml"
    scenario.write_text(SCENARIO)
    found = flights_of([str(scenario)], [], seed=5)
    assert [g.name for g in found.training] == ["small"]
    one, other = found.training[0], found.validation[0]
    assert not np.array_equal(one.blocks[0].z.position_m[:2, :8], other.blocks[0].z.position_m[:2, :8])
    tuning = tune_text("imm2", found, max_iterations=15)
    assert tuning.variant == "mixture"
    assert tuning.validation_objective_after > tuning.validation_objective_before
    path = tmp_path / "tuned.toml"
    write_tuned(path, tuned_of(tuning, found, software="1", created="2026-01-01T00:00:00Z"))
    back = read_tuned(path)
    assert dict(back.parameters) == tuning.after
    assert back.validation["after"]["position_rmse_m"] == [
        pytest.approx(tuning.validation_after[0].position_rmse_m, rel=1e-4)
    ]
    assert figures(load_tracker(str(path)), other) == tuning.validation_after[0]
    with pytest.raises(TrainingError, match="cannot be written"):
        write_tuned(tmp_path / "none" / "x.toml", back)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.toml", "tuned.toml"]


def test_validation_logs_of_the_same_flights_are_refused(tmp_path: Path) -> None:
    log = simple_log(tmp_path / "a.h5", flights=30, plots=30)
    (tmp_path / "b.h5").write_bytes(log.read_bytes())
    with pytest.raises(TrainingError, match=r"b\.h5: holds flights that are tuned on"):
        flights_of([], [log], [tmp_path / "b.h5"])
    assert flights_of([], [log], [simple_log(tmp_path / "c.h5", seed=8)]).validation


def test_parameters_at_a_bound_are_named() -> None:
    found = Tuning(
        "kf", "plain", "likelihood", "Powell", ("q_m2s3", "tail_scale"), {}, {"q_m2s3": 1e3, "tail_scale": 8.0},
        0.0, 0.0, 0.0, 0.0, (), (), 1, 0.0,
    )  # fmt: skip
    assert found.at_bounds == ("q_m2s3",)


def test_a_split_of_the_suite_has_its_own_seed() -> None:
    with pytest.raises(TrainingError, match="leave --seed out"):
        flights_of(["suite:tma-4s"], [], seed=1)
    with pytest.raises(TrainingError, match="nothing to tune on"):
        flights_of([], [])


def test_what_comes_with_the_package_beats_the_rule_of_thumb() -> None:
    """On flights of a scenario that it was not tuned on, in the errors and in the density of the next plot."""
    from ssrtrack.simulators.scenario import load_scenario

    group = simulated_group(load_scenario("demo"), 77)
    for name, path in TUNED.items():
        tuned = read_tuned(path)
        assert tuned.estimator == name
        assert dict(tuned.parameters) == parameters_of(name)
        assert {s["suite_split"] for s in tuned.sources} == {"train"}
        assert {s["suite"] for s in tuned.sources} == {"tma-4s", "enroute-8s", "legacy-12s", "degraded"}
        rule = untuned_parameters("imm") | {k: tuned.parameters[k] for k in ("gate", "tail_weight", "tail_scale")}
        before, after = figures(make_estimator(name, **rule), group), figures(make_estimator(name), group)
        assert after.log_likelihood > before.log_likelihood
        assert after.position_rmse_m < before.position_rmse_m
        assert after.velocity_rmse_mps < before.velocity_rmse_mps
