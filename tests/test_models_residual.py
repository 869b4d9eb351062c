"""The residual model: starts at its base, sees no frame, reads no future, stays a covariance, learns."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.errors import CheckpointError, EstimatorError, TrainingError
from ssrtrack.filters.alphabeta import AlphaBeta
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.options import Options
from ssrtrack.filters.run import run
from ssrtrack.models.features import feature_count, offset_count, told_of
from ssrtrack.models.residual import Correction, Outputs, ResidualKoss, correction
from ssrtrack.models.residual_config import SIZES, ResidualConfig
from ssrtrack.models.residual_frames import frame_of
from ssrtrack.models.residual_inputs import Base, Flown, base_history, flown_from
from ssrtrack.models.residual_loss import FAR, LossWeights, _terms, residual_loss
from ssrtrack.models.residual_rows import rows_of
from tests.filters_fixture import cartesian
from tests.models_fixture import BASES, base, network, plots, shortened

LENGTHS = {1: 17, 3: 1}


def ragged(name: str) -> tuple[Any, Any, Flown]:
    """A base, plots with misses, outliers and flights that end early, and the same as tensors with truth."""
    bank = base(name)
    z, truth = plots(bank, missed=0.1, outliers=0.05)
    z = shortened(z, LENGTHS)
    return bank, z, flown_from(z, truth)


def said(model: ResidualKoss, base_: Base, flown: Flown) -> Outputs:
    with torch.no_grad():
        return model(base_, flown)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("name", ["imm", "imm-gated", "kf"])
def test_base_history_is_the_filter_run(name: str, backend: str) -> None:
    bank, z, flown = ragged(name)
    got, want = base_history(bank, flown, backend), run(bank, z)
    pairs = [(got.mean, want.mean), (got.covariance, want.covariance)]
    pairs += [(got.predicted_mean, want.predicted_mean), (got.predicted_covariance, want.predicted_covariance)]
    if want.mode_probability is not None:
        assert got.mode_probability is not None
        pairs.append((got.mode_probability, want.mode_probability))
    else:
        assert got.mode_probability is None
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-9, atol=1e-6)
    np.testing.assert_array_equal(got.used.T.numpy(), want.used)


@pytest.mark.parametrize("name", sorted(BASES))
def test_an_untrained_model_is_its_base(name: str) -> None:
    bank, z, flown = ragged(name)
    history = base_history(bank, flown)
    outputs = said(network(bank, trained=False), history, flown)
    alive, later = np.isfinite(z.time_s), np.isfinite(z.time_s)
    later[:, 0] = False
    for mine, theirs, known in (
        (outputs.mean, history.mean, alive),
        (outputs.predicted_mean, history.predicted_mean, later),
    ):
        assert np.array_equal(mine.numpy()[known], theirs.numpy()[known])
    for mine, theirs, known in (
        (outputs.covariance, history.covariance, alive),
        (outputs.predicted_covariance, history.predicted_covariance, later),
    ):
        sigma = np.sqrt(np.diagonal(theirs.numpy(), axis1=-2, axis2=-1))
        scaled = (mine.numpy() - theirs.numpy()) / (sigma[..., :, None] * sigma[..., None, :])
        assert np.abs(scaled[known]).max() < 1e-12


@pytest.mark.parametrize("angle", [0.3, 2.0, -1.5])
def test_turning_the_world_about_the_radar_turns_the_estimates(angle: float) -> None:
    bank = base("imm")
    z, _ = plots(bank, missed=0.1, outliers=0.05)
    R = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = cartesian(z.time_s, z.position_m @ R.T, R @ z.covariance_m2 @ R.T, z.valid)
    # The fixture's polar standard deviations are not read; its ranges and azimuths agree with the positions.
    model = network(bank)
    flat, other = (flown_from(v) for v in (z, turned))
    before, after = (said(model, base_history(bank, f), f) for f in (flat, other))
    R4 = np.kron(np.eye(2), R)
    for mine, theirs, cov in (
        (after.mean, before.mean, before.covariance),
        (after.predicted_mean[:, 1:], before.predicted_mean[:, 1:], before.predicted_covariance[:, 1:]),
    ):
        sigma = np.sqrt(np.diagonal(R4 @ cov.numpy() @ R4.T, axis1=-2, axis2=-1))
        assert (np.abs(mine.numpy() - theirs.numpy() @ R4.T) / sigma).max() < 1e-3
    np.testing.assert_allclose(
        after.covariance.numpy(), R4 @ before.covariance.numpy() @ R4.T, rtol=1e-3, atol=1e-3 * sigma.max()
    )


def test_the_future_changes_nothing() -> None:
    bank, _, flown = ragged("imm")
    model = network(bank)
    moved = replace(flown, position_m=flown.position_m.clone())
    moved.position_m[:, 21:] += 4e3
    before, after = (said(model, base_history(bank, f), f) for f in (flown, moved))
    alive = torch.isfinite(flown.time_s)[:, :21]
    assert torch.equal(before.mean[:, :21][alive], after.mean[:, :21][alive])
    assert torch.equal(before.predicted_mean[:, 1:22][alive], after.predicted_mean[:, 1:22][alive])
    assert not torch.allclose(before.mean[:, 21:], after.mean[:, 21:])


def test_a_missed_plot_is_the_same_as_a_longer_gap() -> None:
    """Of a linear base with one model: two steps of prediction are one, and the network reads plots alone."""
    bank = base("kf")
    z, truth = plots(bank, flights=4, length=30)
    missed = [7, 8, 19]
    with_misses = flown_from(z, truth)
    with_misses.valid[:, missed] = False
    kept = [k for k in range(30) if k not in missed]
    without = flown_from(z.select((slice(None), kept)), truth[:, kept])
    model = network(bank)
    long, short = (said(model, base_history(bank, f), f) for f in (with_misses, without))
    for mine, theirs, cov in (
        (long.mean[:, kept], short.mean, short.covariance),
        (long.predicted_mean[:, kept][:, 1:], short.predicted_mean[:, 1:], short.predicted_covariance[:, 1:]),
    ):
        sigma = torch.diagonal(cov, dim1=-2, dim2=-1).sqrt()
        assert float(((mine - theirs).abs() / sigma).max()) < 2e-4
    assert torch.equal(long.mean[:, missed], long.predicted_mean[:, missed])
    assert torch.equal(long.covariance[:, missed], long.predicted_covariance[:, missed])


def test_a_prediction_begins_at_the_filtered_estimate_and_stays_sane() -> None:
    bank = base("imm")
    z, _ = plots(bank, flights=3, length=12)
    flown = flown_from(z)
    model, history = network(bank), base_history(bank, flown)
    with torch.no_grad():
        told = told_of(rows_of(history, flown, 4, 5.0).newest, 5.0)
        frame = told.frame
        y, _ = model.sequence(told.features, torch.full(told.features.shape[:2], 5.0), None)
        raw = model.read_out(y, told.offsets)
        here = model.ahead(y, raw, frame, frame, torch.zeros(y.shape[:2], dtype=torch.float64))
        _, covariance = said(model, history, flown).filtered.moments()
    close = here.moments()
    sigma = torch.diagonal(covariance, dim1=-2, dim2=-1).sqrt()
    # Only the network's first gap differs from the true ones here, so compare with its own correction.

    own = correction(frame, raw).moments()
    assert float(((close[0] - own[0]).abs() / sigma).max()) < 1e-4
    torch.testing.assert_close(close[1], own[1], rtol=1e-5, atol=1e-6)
    for gap_s in (300.0, 3600.0):
        late = z.select((slice(None), slice(0, 11)))
        late.time_s[:, 10] = late.time_s[:, 9] + gap_s
        far = flown_from(late)
        base_far = base_history(bank, far)
        ahead = said(model, base_far, far).predicted_covariance[:, 10]
        ratio = torch.linalg.eigvals(torch.linalg.solve(base_far.predicted_covariance[:, 10], ahead)).real
        assert bool((ratio > 1e-6).all()) and bool((ratio < 1e4).all())
        torch.linalg.cholesky(ahead)


def test_covariances_stay_positive_definite_over_10000_steps() -> None:
    bank = base("imm")
    z, _ = plots(bank, flights=1, length=10_000, outliers=0.05)
    flown = flown_from(z)
    outputs = said(network(bank, width=8, blocks=1), base_history(bank, flown), flown)
    for covariance in (outputs.covariance, outputs.predicted_covariance[:, 1:]):
        torch.linalg.cholesky(covariance)
        assert bool(torch.isfinite(covariance).all())
    assert bool(torch.isfinite(outputs.mean).all())


def test_features_are_small_and_as_many_as_said() -> None:

    for name in ("imm", "kf"):
        bank, _, flown = ragged(name)
        modes = len(bank.motions) if len(bank.motions) > 1 else 0
        told = told_of(rows_of(base_history(bank, flown), flown, 4, 5.0).newest, 5.0)
        assert told.features.shape[-1] == feature_count(modes, 4)
        assert told.offsets.shape[-1] == offset_count(4)
        assert bool(torch.isfinite(told.features).all()) and bool(torch.isfinite(told.offsets).all())
        assert float(told.features.abs().max()) < 12.0


def test_a_standing_estimate_has_a_frame() -> None:
    rows = torch.zeros(14, 2, dtype=torch.float64)
    rows[:2, 0] = torch.tensor([3e4, 4e4])
    rows[[4, 8, 11, 13]] = 4.0
    frame = frame_of(rows)
    assert frame.east.tolist() == pytest.approx([0.6, 0.0]) and frame.north.tolist() == pytest.approx([0.8, 1.0])
    assert all(bool(torch.isfinite(torch.as_tensor(v)).all()) for row in frame.factor for v in row)


def test_the_untrained_loss_is_the_base_filters_own() -> None:
    bank, z, flown = ragged("imm")
    assert flown.truth is not None
    history = base_history(bank, flown)
    loss = residual_loss(
        said(network(bank, trained=False), history, flown), flown, LossWeights(ahead=0.0, warmup_plots=4)
    )
    counted = z.valid & (np.cumsum(z.valid, 1) > 4)
    error = (history.mean - flown.truth).numpy()[counted]
    P = history.covariance.numpy()[counted]
    nees = np.einsum("pi,pi->p", error, np.linalg.solve(P, error[..., None])[..., 0])
    nees = np.where(nees > FAR, 2 * np.sqrt(FAR * nees) - FAR, nees)
    traces = [np.trace(P[:, a : a + 2, a : a + 2], axis1=1, axis2=2) for a in (0, 2)]
    shares = [((error[:, a : a + 2] ** 2).sum(1) / t).mean() for a, t in zip((0, 2), traces, strict=True)]
    assert int(loss.count) == counted.sum()
    assert loss.parts["nll"].item() == pytest.approx(0.5 * nees.mean() + 2 * np.log(2 * np.pi), rel=1e-5)
    assert loss.parts["position"].item() == pytest.approx(shares[0], rel=1e-5)
    assert loss.parts["velocity"].item() == pytest.approx(shares[1], rel=1e-5)
    assert loss.total.item() == pytest.approx(
        sum(loss.parts[k].item() for k in ("nll", "position", "velocity")), rel=1e-6
    )


def test_the_nll_has_its_minimum_at_the_true_shift_and_scale() -> None:
    """Many plots whose whitened truth is N(m, s²): the least mean loss is at u = m, L = s, whatever the frame."""

    rng = torch.Generator().manual_seed(0)
    rows = torch.tensor([1e4, 2e4, 90.0, -70.0, 900.0, 100.0, 20.0, 5.0, 1600.0, 9.0, 30.0, 25.0, 2.0, 36.0])
    frame = frame_of(rows.double()[:, None, None].expand(14, 1, 20_000))
    m, s = torch.tensor([0.5, -0.3, 0.2, 0.8]), torch.tensor([0.6, 1.4, 0.9, 1.1])
    white = m + s * torch.randn(1, 20_000, 4, generator=rng)
    truth = Correction(frame, white, torch.zeros(1, 20_000, 4), torch.zeros(1, 20_000, 6)).moments()[0].permute(2, 0, 1)
    every = torch.ones(1, 20_000, dtype=torch.bool)

    def loss(shift: torch.Tensor, log_scale: torch.Tensor) -> float:
        out = Correction(frame, shift.expand(1, 20_000, 4), log_scale.expand(1, 20_000, 4), torch.zeros(1, 20_000, 6))
        return float(_terms(out, truth, every)["nll"].mean())

    best = loss(m, s.log())
    # Mean excess of a shift by 0.1 s, of a scale by 10 %: 0.005 and 0.01 nats, with standard errors below 0.001.
    for k in range(4):
        unit = torch.eye(4)[k]
        for sign in (1.0, -1.0):
            assert loss(m + sign * 0.1 * s * unit, s.log()) > best + 0.002
            assert loss(m, s.log() + sign * 0.1 * unit) > best + 0.004


def test_gradients_reach_every_weight() -> None:
    bank, _, flown = ragged("imm")
    model = network(bank)
    residual_loss(model(base_history(bank, flown), flown), flown, LossWeights()).total.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
    assert silent == []
    assert [name for name, p in model.named_parameters() if float(p.grad.abs().max()) == 0.0] == []  # type: ignore[union-attr]


def test_training_removes_the_error_of_a_base_that_is_wrong() -> None:
    """Straight flights behind a filter that expects turns: much of its variance is needless, and is soon gone."""
    nervous, calm = make_estimator("kf", q_m2s3=20.0, gate=None), make_estimator("kf", q_m2s3=0.05, gate=None)
    z, truth = plots(calm, flights=192, length=30, seed=5)  # type: ignore[arg-type]
    flown = flown_from(z, truth)
    history = base_history(nervous, flown)  # type: ignore[arg-type]
    train, held = slice(0, 128), slice(128, 192)
    parts = [(history_rows(history, rows), flown.select(rows)) for rows in (train, held)]
    model = network(nervous, trained=False, width=16, blocks=1).train()  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        residual_loss(model(*parts[0]), parts[0][1], LossWeights()).total.backward()
        optimiser.step()
        model.project_()
    outputs = said(model, *parts[1])
    error = (outputs.mean - parts[1][1].truth)[:, 10:]
    plain = (parts[1][0].mean - parts[1][1].truth)[:, 10:]
    ratio = (error**2).mean((0, 1)).sqrt() / (plain**2).mean((0, 1)).sqrt()
    assert float(ratio[:2].max()) < 0.9 and float(ratio[2:].max()) < 0.75
    nees = torch.einsum("nti,nti->nt", error, torch.linalg.solve(outputs.covariance[:, 10:], error[..., None])[..., 0])
    assert 2.8 < float(nees.mean()) < 6.0  # 4 if honest


def history_rows(history: Base, rows: slice) -> Base:
    return Base(*(getattr(history, name)[..., rows] for name in ("predicted", "filtered", "modes", "used")))


def test_bfloat16_gives_nearly_the_same() -> None:
    bank, _, flown = ragged("imm")
    model, history = network(bank), base_history(bank, flown)
    whole = said(model, history, flown)
    with torch.autocast("cpu", torch.bfloat16):
        low = said(model, history, flown)
    sigma = torch.diagonal(whole.covariance, dim1=-2, dim2=-1).sqrt()
    alive = torch.isfinite(flown.time_s)
    assert float(((low.mean - whole.mean).abs() / sigma)[alive].mean()) < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: replace(f, valid=f.valid.index_fill(1, torch.tensor([0]), False)), "no plot in column 0"),
        (lambda f: replace(f, time_s=f.time_s.index_fill(1, torch.tensor([5]), float("nan"))), "has padding"),
        (lambda f: replace(f, time_s=f.time_s.flip(1)), "must be in time order"),
        (lambda f: replace(f, position_m=f.position_m * float("inf")), "no finite time, position or covariance"),
        (lambda f: replace(f, covariance_m2=f.covariance_m2 * 0.0), "no position covariance"),
    ],
)
def test_plots_that_cannot_be_tracked_are_refused(change: Callable[[Flown], Flown], message: str) -> None:
    bank = base("kf")
    with pytest.raises(EstimatorError, match=message):
        base_history(bank, change(flown_from(plots(bank)[0])))


def test_bases_that_cannot_be_one_are_refused() -> None:
    flown = flown_from(plots(base("kf"))[0])
    with pytest.raises(EstimatorError, match="AlphaBeta cannot be the base"):
        base_history(AlphaBeta(1.0, Options()), flown)  # type: ignore[arg-type]
    with pytest.raises(EstimatorError, match="this one observes polar"):
        base_history(make_estimator("ekf"), flown)  # type: ignore[arg-type]


def test_training_needs_truth() -> None:
    bank = base("kf")
    flown = flown_from(plots(bank)[0])
    with pytest.raises(TrainingError, match="plots without truth"):
        residual_loss(said(network(bank), base_history(bank, flown), flown), flown, LossWeights())


@pytest.mark.parametrize(
    "wrong",
    [{"width": 0}, {"width": 64.0}, {"blocks": True}, {"width": 10**9}, {"nominal_gap_s": float("nan")}, {"head": 48}],
)
def test_sizes_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        ResidualConfig.from_dict(ResidualConfig().to_dict() | wrong)


def test_the_small_size_is_small() -> None:
    count = sum(p.numel() for p in ResidualKoss(SIZES["small"]).parameters())
    assert 20_000 < count < 65_000
