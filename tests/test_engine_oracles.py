"""Every backend against exact posteriors: dense Gaussians, and sums over all sequences of models and noise."""

import numpy as np
import pytest

from ssrtrack.filters.bank import Bank
from ssrtrack.filters.chain import Chain
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.motion import constant_velocity, singer
from ssrtrack.filters.options import Options
from tests import engine_cases as cases
from tests.engine_cases import EVERY
from tests.filters_fixture import cartesian
from tests.oracles import dense, linear, mixture

LINEAR = {
    "kf": ({"q_m2s3": 15.0}, linear.constant_velocity(15.0)),
    "kf-ca": ({"q_m2s5": 0.1, "entry_sigma_mps2": 2.0}, linear.constant_acceleration(0.1, 2.0)),
    "singer": ({"sigma_mps2": 1.5, "tau_s": 15.0}, linear.singer(1.5, 15.0)),
}
PAIR = np.array([[0.0, 1.0], [1.0, 0.0]])
NOISE = ((0.9, 1.0), (0.1, 16.0))
TAIL = {"tail_weight": 0.1, "tail_scale": 4.0}


def flights(seed: int, count: int, plots: int, q: float = 15.0, missing: float = 0.0) -> Measurements:
    """Straight flights with white acceleration, irregular steps (one of 0 s), noise of another shape at every plot."""
    rng = np.random.default_rng(seed)
    step = 4.0 * rng.uniform(0.5, 1.5, (count, plots))
    step[:, plots // 2] = 0.0
    time_s = np.cumsum(step, 1)
    velocity = 170.0 * rng.standard_normal((count, 1, 2)) + np.cumsum(
        np.sqrt(q * step)[..., None] * rng.standard_normal((count, plots, 2)), 1
    )
    root = np.array([[70.0, 0.0], [40.0, 120.0]]) * rng.uniform(0.4, 2.0, (count, plots, 1, 1))
    noise = np.einsum("ntij,ntj->nti", root, rng.standard_normal((count, plots, 2)))
    position = 40e3 + np.cumsum(step[..., None] * velocity, 1) + noise
    valid = rng.uniform(size=(count, plots)) >= missing
    valid[:, 0] = True
    return cartesian(time_s, position, root @ np.swapaxes(root, -1, -2), valid)


def problem(z: Measurements, n: int, columns: int | None = None) -> dense.Problem:
    keep = slice(0, columns)
    return dense.Problem(z.time_s[n, keep], z.position_m[n, keep], z.covariance_m2[n, keep], z.valid[n, keep])


def close(gaps: list[tuple[float, float]], sigma: tuple[float, float], nats: tuple[float, float]) -> None:
    """Median and greatest of the distances from the exact posterior, in standard deviations and as KL divergence."""
    for values, limits, unit in zip(np.transpose(gaps), (sigma, nats), ("σ", "nats"), strict=True):
        found = float(np.median(values)), float(values.max())
        assert found[0] < limits[0], f"median {found[0]:.3g} {unit}"
        assert found[1] < limits[1], f"greatest {found[1]:.3g} {unit}"


def switching(
    q: tuple[float, float], sojourn_s: tuple[float, float], **options: float
) -> tuple[Bank, list, np.ndarray]:
    """A bank of two constant velocities and the same for the oracle."""
    motions = tuple(constant_velocity(value) for value in q)
    bank = Bank(motions, Chain(np.array(sojourn_s), PAIR), "extended", "position", Options(**options))  # type: ignore[arg-type]
    return bank, [linear.constant_velocity(value) for value in q], linear.generator(np.array(sojourn_s), PAIR)


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", LINEAR)
def test_linear_filters_are_dense_conditioning_at_every_plot(backend: str, name: str) -> None:
    parameters, model = LINEAR[name]
    z = flights(1, 3, 9, missing=0.25)
    history = cases.run_with(backend, make_estimator(name, **parameters), z)
    for n in range(3):
        for k in range(9):
            x, P, _ = dense.posterior(problem(z, n), [model] * 9, k)
            got = history.mean[n, k], history.covariance[n, k]
            cases.assert_same_moments(got, (x[k], P[k]), 1e-9, f"flight {n} column {k}")
            if k:
                x, P, _ = dense.posterior(problem(z, n), [model] * 9, k - 1)
                got = history.predicted_mean[n, k], history.predicted_covariance[n, k]
                cases.assert_same_moments(got, (x[k], P[k]), 1e-9, f"flight {n} column {k}, predicted")


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("lag", [None, 0, 1, 3, 20])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_smoothers_are_dense_conditioning(backend: str, lag: int | None, name: str) -> None:
    """Fixed lag: the state at column k given the plots up to k + lag."""
    parameters, model = LINEAR[name]
    z = flights(2, 3, 9, missing=0.25)
    mean, covariance = cases.smooth_with(backend, make_estimator(name, **parameters), z, lag)
    for n in range(3):
        for k in range(9):
            x, P, _ = dense.posterior(problem(z, n), [model] * 9, 8 if lag is None else k + lag)
            got = mean[n, k], covariance[n, k]
            cases.assert_same_moments(got, (x[k], P[k]), 1e-9, f"flight {n} column {k}")


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("mixed", [False, True], ids=["two CV", "CV and Singer"])
def test_an_imm_is_exact_until_it_must_merge(backend: str, mixed: bool) -> None:
    """First plot, three misses: exact. Then a plot: still exact, and so is the prediction and miss after it.

    Up to the second update all hypotheses of one model have one mean and covariance, or only moments are asked for.
    """
    rng = np.random.default_rng(3)
    bank, models, rates = switching((0.5, 300.0), (20.0, 9.0))
    if mixed:
        bank = Bank((constant_velocity(0.5), singer(6.0, 8.0)), bank.chain, "extended", "position", Options())
        models = [linear.constant_velocity(0.5), linear.singer(6.0, 8.0)]
    for valid in ([1, 1, 0, 0], [1, 1, 1, 0]):
        z = flights(int(rng.integers(99)), 4, 4, q=100.0)
        z = cases.changed(z, valid=np.broadcast_to(np.array(valid, bool), (4, 4)))
        history = cases.run_with(backend, bank, z)
        for n in range(4):
            for k in range(1, 4):
                before, after = (mixture.exact(problem(z, n), models, rates, seen) for seen in (k - 1, k))
                if sum(valid[1:k]) < 2:
                    got = history.predicted_mean[n, k], history.predicted_covariance[n, k]
                    cases.assert_same_moments(got, (before.mean[k], before.covariance[k]), 1e-10, f"predicted {n} {k}")
                if sum(valid[1 : k + 1]) < 2:
                    got = history.mean[n, k], history.covariance[n, k]
                    cases.assert_same_moments(got, (after.mean[k], after.covariance[k]), 1e-10, f"{n} {k}")
                    np.testing.assert_allclose(history.mode_probability[n, k], after.mode_probability[k], rtol=1e-9)


@pytest.mark.parametrize("backend", EVERY)
def test_misses_before_the_first_update_keep_an_imm_exact(backend: str) -> None:
    """Equal means at the start: merging a mixture of predictions keeps its mean and covariance, however long."""
    bank, models, rates = switching((0.5, 300.0), (20.0, 9.0))
    z = flights(4, 3, 7)
    valid = np.zeros((3, 7), bool)
    valid[:, 0] = True
    z = cases.changed(z, valid=valid)
    history = cases.run_with(backend, bank, z)
    for n in range(3):
        true = mixture.exact(problem(z, n), models, rates, 6)
        cases.assert_same_moments(
            (history.mean[n, 1:], history.covariance[n, 1:]), (true.mean[1:], true.covariance[1:]), 1e-10, f"flight {n}"
        )
        np.testing.assert_allclose(history.mode_probability[n], true.mode_probability, rtol=1e-9)


@pytest.mark.parametrize("backend", EVERY)
def test_models_that_never_switch_are_weighed_exactly(backend: str) -> None:
    """Sojourns of 10³⁰ s: the IMM is the exact mixture of two filters, each run alone over all plots."""
    bank, models, _ = switching((0.5, 300.0), (1e30, 1e30))
    z = flights(5, 4, 9, q=60.0, missing=0.2)
    history = cases.run_with(backend, bank, z)
    for n in range(4):
        alone = [dense.posterior(problem(z, n), [model] * 9, 8) for model in models]
        logs = np.array([part[2] for part in alone])
        weight = np.exp(logs - np.logaddexp.reduce(logs))
        mean, spread = mixture.merged(weight, [part[0] for part in alone], [part[1] for part in alone])
        cases.assert_same_moments((history.mean[n, 8], history.covariance[n, 8]), (mean[8], spread[8]), 1e-9, f"{n}")
        np.testing.assert_allclose(history.mode_probability[n, 8], weight, rtol=1e-9)


@pytest.mark.parametrize("backend", EVERY)
def test_an_imm_stays_near_the_exact_posterior(backend: str) -> None:
    """Six plots, 2⁶ sequences: how far merging takes mean and covariance, in exact standard deviations and in nats."""
    bank, models, rates = switching((0.5, 300.0), (20.0, 9.0))
    z = flights(6, 20, 6, q=100.0)
    history = cases.run_with(backend, bank, z)
    gap = []
    for n in range(20):
        true = mixture.exact(problem(z, n), models, rates, 5)
        gap.append(mixture.distance(history.mean[n, 5], history.covariance[n, 5], true, 5))
    close(gap, (0.12, 0.4), (0.015, 0.09))


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", ["kf", "kf-ca", "singer"])
def test_the_first_update_with_two_component_noise_is_exact(backend: str, name: str) -> None:
    """Mean and covariance to 1e-10, and so are they one prediction later; the second update merges."""
    parameters, model = LINEAR[name]
    z = flights(7, 12, 4, q=100.0)
    z.valid[:, 3] = False
    history = cases.run_with(backend, make_estimator(name, **parameters, **TAIL), z)
    gap = []
    for n in range(12):
        for seen in (1, 2):
            true = mixture.exact(problem(z, n), [model], np.zeros((1, 1)), seen, NOISE)
            if seen == 1:
                got = history.mean[n, 1], history.covariance[n, 1]
                cases.assert_same_moments(got, (true.mean[1], true.covariance[1]), 1e-10, f"flight {n}")
                got = history.predicted_mean[n, 2], history.predicted_covariance[n, 2]
                cases.assert_same_moments(got, (true.mean[2], true.covariance[2]), 1e-10, f"flight {n}, predicted")
            else:
                gap.append(mixture.distance(history.mean[n, 2], history.covariance[n, 2], true, 2))
    close(gap, (0.25, 0.55), (0.08, 0.22))


@pytest.mark.parametrize("backend", EVERY)
def test_the_first_update_of_an_imm_with_two_component_noise_is_exact(backend: str) -> None:
    bank, models, rates = switching((0.5, 300.0), (20.0, 9.0), **TAIL)
    z = flights(8, 6, 2, q=100.0)
    history = cases.run_with(backend, bank, z)
    for n in range(6):
        true = mixture.exact(problem(z, n), models, rates, 1, NOISE)
        got = history.mean[n, 1], history.covariance[n, 1]
        cases.assert_same_moments(got, (true.mean[1], true.covariance[1]), 1e-10, f"flight {n}")
        np.testing.assert_allclose(history.mode_probability[n, 1], true.mode_probability[1], rtol=1e-9)
