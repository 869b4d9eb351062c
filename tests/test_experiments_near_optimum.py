"""The near-optimal reference: exact where the answer is known, and never lost on the suite."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.errors import EstimatorError
from ssrtrack.experiments import near_optimum_motion as motion
from ssrtrack.experiments import near_optimum_plots as plots
from ssrtrack.experiments import near_optimum_scores as scores
from ssrtrack.experiments.near_optimum import NearOptimum
from ssrtrack.experiments.near_optimum_prior import Errors, Habits, errors_of, habits_of, strata
from ssrtrack.simulators.suite import list_suite, load_suite
from ssrtrack.units import G_MPS2

Array = np.ndarray[Any, Any]
RATE, PSD, BANK, GAP_S = 0.087, 0.05, 0.35, 40.0
STEP_S = np.array([6.0, 5.0, 7.0, 6.0, 6.0])
RANGE_M, CROSS_M, BIAS_M = 40.0, 70.0, 20.0


def habits(gap_s: float = 1e15, **changes: Any) -> Habits:
    """One flow that turns alone, at one bank angle and through an angle that is not reached."""

    def pair(low: float, high: float) -> torch.Tensor:
        return torch.tensor([[low], [high]], dtype=torch.float64)

    one = torch.ones(1, dtype=torch.float64)
    told: dict[str, Any] = {
        "weight": one, "speed_mps": pair(90.0, 110.0), "gap_s": gap_s * one, "turn_share": one,
        "climb_share": 0.0 * one, "speed_share": 0.0 * one, "bank_rad": pair(BANK, BANK), "turn_rad": pair(3.0, 3.0),
        "turn_rate_radps": one, "level_m": pair(0.0, 1.0), "climb_mps": pair(1.0, 1.0),
        "acceleration_mps2": pair(0.5, 0.5), "radius_m": 1e5 * one, "roll_rate_radps": RATE, "turbulence_m2ps3": PSD,
        "least_straight_s": 0.0, "edge": False, "surprise": 0.0,
    }  # fmt: skip
    return Habits(**(told | changes))


def gaussian() -> Errors:
    one = torch.ones(1, dtype=torch.float64)
    return Errors(0.0 * one, one, one, 0.0 * one, 0.0 * one, jitter_m2=0.0, bias_m=BIAS_M)


def beginning(count: int, flights: int = 1) -> motion.Particles:
    """Particles that all know the same of the state: a normal distribution."""
    seen = plots.Seen(
        torch.tensor([[30e3, 40e3]]).double().expand(flights, 2),
        torch.tensor([[0.6, 0.8]]).double().expand(flights, 2),
        *torch.full((4, flights), 1.0).double(), torch.ones(flights, dtype=torch.bool),
    )  # fmt: skip
    p = plots.started(seen, habits(), gaussian(), count, torch.Generator().manual_seed(1))
    mean = torch.tensor([30e3, 40e3, 80.0, 60.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    spread = torch.diag(torch.tensor([50.0, 60.0, 4.0, 3.0, BIAS_M, 0.0, 0.0], dtype=torch.float64) ** 2)
    zero = torch.zeros_like(p.elapsed_s)
    return replace(p, mean=mean.expand_as(p.mean), covariance=spread.expand_as(p.covariance), elapsed_s=zero)


def plot(place: Array) -> plots.Seen:
    """A plot at (2,) as seen from the origin, with the noise of these tests."""
    z = torch.as_tensor(place, dtype=torch.float64)[None]
    radius = z / torch.linalg.vector_norm(z)
    across = torch.stack([radius[:, 1], -radius[:, 0]], -1)
    covariance = RANGE_M**2 * radius[:, :, None] * radius[:, None] + CROSS_M**2 * across[:, :, None] * across[:, None]
    return plots.seen_of(z, covariance, torch.tensor([RANGE_M], dtype=torch.float64), torch.ones(1, dtype=torch.bool))


def flown(x: Array, step_s: float, bank_at: Any, gain_at: Any = None, parts: int = 60) -> Array:
    """States (n, 5) after a step, by Runge and Kutta: the law of motion written down, nothing in closed form."""

    def slope(s: Array, t: float) -> Array:
        speed = np.hypot(s[:, 2], s[:, 3])
        ahead = s[:, 2:4] / speed[:, None]
        right = np.stack([ahead[:, 1], -ahead[:, 0]], 1)
        push = G_MPS2 * np.tan(bank_at(t))[:, None] * right
        if gain_at is not None:
            push = push + gain_at(t)[:, None] * ahead
        return np.concatenate([s[:, 2:4], push, np.zeros((len(s), 1))], 1)

    h = step_s / parts
    for i in range(parts):
        t = i * h
        k1 = slope(x, t)
        k2 = slope(x + 0.5 * h * k1, t + 0.5 * h)
        k3 = slope(x + 0.5 * h * k2, t + 0.5 * h)
        k4 = slope(x + h * k3, t + h)
        x = x + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    return x


def jacobian(x: Array, step_s: float, *laws: Any) -> Array:
    columns = []
    for axis in range(5):
        off = np.zeros(5)
        off[axis] = 1e-2
        columns.append((flown(x + off, step_s, *laws) - flown(x - off, step_s, *laws)) / 2e-2)
    return np.stack(columns, -1)


def kalman(mean: Array, spread: Array, z: Array) -> tuple[Array, Array, Array]:
    """The textbook update of (n, 5) states by a plot, and its log-likelihood (n,)."""
    radius = z / np.linalg.norm(z)
    h = np.array([[*radius, 0.0, 0.0, 1.0], [radius[1], -radius[0], 0.0, 0.0, 0.0]])
    nu = h[:, :2] @ z - mean @ h.T
    s = h @ spread @ h.T + np.diag([RANGE_M**2, CROSS_M**2])
    gain = spread @ h.T @ np.linalg.inv(s)
    score = -0.5 * np.einsum("ni,nij,nj->n", nu, np.linalg.inv(s), nu) - 0.5 * np.log(np.linalg.det(2 * np.pi * s))
    return mean + np.einsum("nij,nj->ni", gain, nu), spread - gain @ h @ spread, score


def noise_matrix(step_s: float) -> Array:
    q = np.zeros((5, 5))
    for a in range(2):
        q[a, a], q[a, a + 2], q[a + 2, a], q[a + 2, a + 2] = step_s**3 / 3, step_s**2 / 2, step_s**2 / 2, step_s
    return PSD * q


def test_a_straight_flight_is_the_kalman_filter() -> None:
    rng = np.random.default_rng(3)
    p, law = beginning(8), habits()
    mean, spread = p.mean[0, :1, :5].numpy(), p.covariance[0, :1, :5, :5].numpy()
    generator = torch.Generator().manual_seed(2)
    for step_s in STEP_S:
        move = np.eye(5)
        move[0, 2] = move[1, 3] = step_s
        mean, spread = mean @ move.T, move @ spread @ move.T + noise_matrix(step_s)
        z = mean[0, :2] + rng.normal(0.0, 80.0, 2)
        mean, spread, _ = kalman(mean, spread, z)
        p = motion.predicted(p, law, torch.tensor([step_s]), generator)
        p = plots.updated(p, plot(z), gaussian())
        p = plots.resampled(p, generator, share=1.1)
    found = plots.moments(p)
    assert np.abs(found[0][0].numpy() - mean[0, :4]).max() < 1e-6
    assert np.abs(found[1][0].numpy() - spread[0, :4, :4]).max() < 1e-6 * spread.max()


def test_two_models_are_the_exact_mixture() -> None:
    """Straight, or a turn to either side since any moment: against a fine grid of moments, each a Kalman filter."""
    grid = 0.25
    onset = np.arange(0.5 * grid, STEP_S.sum(), grid)
    onset = np.concatenate([onset, onset, [1e9]])
    side = np.repeat([1.0, -1.0, 0.0], [len(onset) // 2, len(onset) // 2, 1])
    prior = np.append(0.5 * grid / GAP_S * np.exp(-onset[:-1] / GAP_S), np.exp(-STEP_S.sum() / GAP_S))
    p, law, generator = beginning(20_000), habits(GAP_S), torch.Generator().manual_seed(5)
    start = p.mean[0, :1, :5].numpy()
    mean, spread = np.repeat(start, len(onset), 0), np.repeat(p.covariance[0, :1, :5, :5].numpy(), len(onset), 0)
    rng, score, now = np.random.default_rng(4), np.log(prior), 0.0
    true = start.copy()
    for step_s in STEP_S:

        def bank_at(t: float, since: Array = onset, side: Array = side, now: float = now) -> Array:
            return side * np.clip(RATE * (now + t - since), 0.0, BANK)

        def true_bank(t: float, now: float = now) -> Array:
            return np.clip(RATE * (now + t - np.array([8.0])), 0.0, BANK)

        f = jacobian(mean, step_s, bank_at)
        mean, spread = flown(mean, step_s, bank_at), f @ spread @ f.transpose(0, 2, 1) + noise_matrix(step_s)
        true = flown(true, step_s, true_bank)
        z = true[0, :2] + rng.normal(0.0, 40.0, 2)
        mean, spread, more = kalman(mean, spread, z)
        score, now = score + more, now + step_s
        p = motion.predicted(p, law, torch.tensor([step_s]), generator)
        p = plots.resampled(plots.updated(p, plot(z), gaussian()), generator)
        w = np.exp(score - score.max())
        w /= w.sum()
        exact = w @ mean[:, :4]
        off = mean[:, :4] - exact
        deviation = np.sqrt(np.diag(np.einsum("n,nij->ij", w, spread[:, :4, :4]) + (w * off.T) @ off))
        found, covariance = plots.moments(p)
        assert np.all(np.abs(found[0].numpy() - exact) < 0.03 * deviation)
        assert np.all(np.abs(torch.diagonal(covariance[0]).sqrt().numpy() / deviation - 1.0) < 0.03)
    turning = float((p.log_weight.exp() * ~p.straight)[0].sum())
    assert abs(turning - w[:-1].sum()) < 0.02


def test_motion_is_that_of_the_law() -> None:
    """Bank, angle and speed change of any size: places within metres, derivatives within a few percent."""
    n, law = 200, habits()
    rng = np.random.default_rng(6)
    bank = rng.uniform(0.05, 0.5, n) * rng.choice([-1.0, 1.0], n)
    out_s = np.abs(bank) / RATE + rng.uniform(0.0, 20.0, n)
    gain, gain_s = rng.uniform(-0.8, 0.8, n), rng.uniform(0.0, 30.0, n)
    elapsed = rng.uniform(-8.0, 30.0, n)
    columns = {"side": np.sign(bank), "out_s": out_s, "gain_s": gain_s, "elapsed_s": elapsed}
    told = {name: torch.as_tensor(value)[None] for name, value in columns.items()}
    p = beginning(n)
    mean, spread = p.mean.clone(), p.covariance.clone()
    mean[0, :, 5], mean[0, :, 6] = torch.as_tensor(np.abs(bank)), torch.as_tensor(gain)
    spread[..., 5, 5], spread[..., 6, 6] = 0.03**2, 0.1**2
    p = replace(p, **told, mean=mean, covariance=spread, straight=torch.zeros((1, n), dtype=torch.bool))
    after = motion._moved(p, law, torch.full((1, 1), 8.0, dtype=torch.float64))

    def later(x: Array) -> Array:
        """States (n, 7) after 8 s; bank and acceleration are the last two."""
        held, gained = x[:, 5], x[:, 6]

        def bank_at(t: float) -> Array:
            e = elapsed + t
            return np.sign(bank) * np.clip(np.minimum(RATE * e, held - RATE * (e - out_s)), 0.0, held)

        def gain_at(t: float) -> Array:
            return gained * ((elapsed + t > 0.0) & (elapsed + t < gain_s))

        return np.concatenate([flown(x[:, :5], 8.0, bank_at, gain_at, 200), x[:, 5:]], 1)

    start = mean[0].numpy()
    apart = after.mean[0].numpy() - later(start)
    assert np.abs(apart[:, :2]).max() < 3.0 and np.abs(apart[:, 2:4]).max() < 0.5
    step = np.array([1.0, 1.0, 0.1, 0.1, 1.0, 1e-3, 1e-2])
    f = np.stack([(later(start + h) - later(start - h)) / (2.0 * h.sum()) for h in np.diag(step)], -1)
    wanted = f @ spread[0].numpy() @ f.transpose(0, 2, 1)
    wanted[:, :5, :5] += noise_matrix(8.0)
    size = np.sqrt(np.einsum("nii,njj->nij", wanted, wanted))
    assert np.abs((after.covariance[0].numpy() - wanted) / size).max() < 0.03


def test_noise_mixture_has_the_variance_of_its_tails() -> None:
    for dof, unit in ((6.0, True), (4.0, True), (5.0, False), (float("inf"), True)):
        share, variance = np.array(strata(dof, unit)).T
        assert share.sum() == pytest.approx(1.0)
        wanted = 1.0 if unit or not np.isfinite(dof) else dof / (dof - 2.0)
        assert share @ variance == pytest.approx(wanted)
        assert np.all(np.diff(variance) > 0.0)
    with pytest.raises(EstimatorError, match="no variance"):
        strata(2.0, True)


@pytest.mark.parametrize("name", list_suite())
def test_knows_every_scenario_of_the_suite(name: str) -> None:
    scenario, _ = load_suite(name)
    errors = errors_of(scenario)
    assert float(errors.log_weight.exp().sum()) == pytest.approx(1.0)
    assert len(habits_of(scenario).weight) == len(scenario.traffic)


def test_refuses_what_it_does_not_know() -> None:
    scenario, _ = load_suite("tma-4s")
    with pytest.raises(EstimatorError, match="random traffic alone"):
        habits_of(replace(scenario, traffic=()))
    with pytest.raises(EstimatorError, match="gusts"):
        habits_of(replace(scenario, gusts="light"))
    with pytest.raises(EstimatorError, match="expected one"):
        errors_of(replace(scenario, radar=scenario.radar * 2))


def test_follows_flights_of_the_suite_without_losing_one() -> None:
    """Better than the better IMM, never far off, and as uncertain as it says."""
    scenario, seed = load_suite("tma-4s")
    of = scores.suite_flights(scenario, seed, 6, hours=0.2)
    imms = scores.imm_scores(of)
    ours = scores.reference_scores(scenario, of, 512, 1)
    assert ours.rmse("position_rmse_m") < min(s.rmse("position_rmse_m") for s in imms.values())
    assert ours.rmse("velocity_rmse_mps") < min(s.rmse("velocity_rmse_mps") for s in imms.values())
    assert ours.worst_m < 1.5 * min(s.worst_m for s in imms.values())
    assert 0.7 < ours.nees < 1.3 and 0.92 < ours.inside_95 < 0.98
    found = scores.ratio(ours, imms["imm"], "position_rmse_m", 1)
    assert found[1] <= found[0] <= found[2]


def test_a_flight_with_misses_and_a_long_silence_goes_on() -> None:
    """Misses only predict, a silence of a minute widens the covariance, and the same seed gives the same bits."""
    scenario, seed = load_suite("degraded")
    of = scores.suite_flights(scenario, seed, 2, hours=0.2)
    z = of.z.select((slice(None), slice(0, 30)))
    valid, time_s = z.valid.copy(), z.time_s.copy()
    valid[:, 12:15] = False
    time_s[:, 20:] += 60.0
    z = replace(z, valid=valid, time_s=time_s)
    reference = NearOptimum(habits_of(scenario), errors_of(scenario), 64, 3)
    one, two = reference.run_batch(z), reference.run_batch(z)
    assert np.array_equal(one.mean, two.mean, equal_nan=True)
    assert np.isfinite(one.mean[np.isfinite(time_s)]).all()
    assert np.array_equal(one.mean[:, 13], one.predicted_mean[:, 13])
    assert np.all(one.predicted_covariance[:, 20, 0, 0] > 4.0 * one.covariance[:, 19, 0, 0])
    with pytest.raises(EstimatorError, match="at least 2"):
        replace(reference, particles=1).run_batch(z)
    with pytest.raises(EstimatorError, match="time order"):
        reference.run_batch(replace(z, time_s=-np.abs(time_s)))


def test_trackers_beside_it_are_scored_on_the_same_flights() -> None:
    """Of the IMMs, asked for as trackers, the better one is its own reference in every score."""
    scenario, seed = load_suite("tma-4s")
    rows = list(scores.table(scenario, seed, count=16, particles=[], trackers=scores.IMMS, hours=0.4))
    assert [row["who"] for row in rows] == list(scores.IMMS) and {row["flights"] for row in rows} == {16}
    for score in scores.SCORES:
        assert min(float(row[f"{score}_over_imm"]) for row in rows) == 1.0
        assert len({row[f"{score}_imm"] for row in rows}) == 1
