"""Flights of all kinds under radars of all kinds: drawn as said, seen as stated, and a training on them."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.errors import ScenarioError, TrainingError
from ssrtrack.filters.measurement import DEBIAS_LIMIT
from ssrtrack.models.checkpoint_base import bank_to_dict
from ssrtrack.models.load import load_tracker
from ssrtrack.models.residual_inputs import Flown, base_history
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.simulators.schema_traffic import Flow
from ssrtrack.training import device_spread, flown_simulated, loop_data
from ssrtrack.training.device_motion import flown_paths
from ssrtrack.training.device_radar import NOT_HERE, observed, site_of
from ssrtrack.training.device_spread import (
    ALL_RADARS,
    Spread,
    SpreadFlights,
    drawn_fleet,
    drawn_flow,
    drawn_radars,
    spread_flights,
)
from ssrtrack.training.device_suite import ELSEWHERE, scenes
from ssrtrack.training.flown_windows import MIN_PLOTS
from ssrtrack.training.loop_data import SPREAD, Data, data_of, settings_of
from ssrtrack.training.loop_koss import train_koss
from ssrtrack.training.loop_recipe import Recipe
from ssrtrack.training.loop_validation import Errors, HeldOut
from ssrtrack.units import DEG_RAD, NM_M

PLAIN = {
    "sigma_range_m": (50.0, 50.0), "sigma_azimuth_deg": (0.06, 0.06), "outlier_fraction": (0.0, 0.0), "gaussian": 1.0,
    "biased": 0.0, "jump_fraction": (0.0, 0.0), "clock_jitter_s": (0.0, 0.0), "rotation_jitter": (0.0, 0.0),
    "probability": (0.99, 0.99), "fading_share": (0.0, 0.0),
    "suite_share": 0.0,
}  # fmt: skip

SAMPLED = (
    "noise.sigma_range_m", "outliers.fraction", "jumps.fraction", "transponder.sigma_m", "bias.range_m",
    "detection.half_range_nm",
)  # fmt: skip


@pytest.fixture(scope="module")
def batch() -> Flown:
    return SpreadFlights(replace(ALL_RADARS, suite_share=0.2), 3, 128, 60, "cpu").windows(0)


def radars(spread: Spread, count: int = 4000) -> Any:
    return drawn_radars(spread, torch.full((count,), 100.0, dtype=torch.float64), torch.Generator().manual_seed(1))


def test_radars_are_drawn_from_the_spread() -> None:
    spec, s = radars(ALL_RADARS), ALL_RADARS
    ends = [
        (spec.noise.sigma_range_m, s.sigma_range_m),
        (spec.noise.sigma_azimuth_deg, s.sigma_azimuth_deg),
        (spec.detection.probability, s.probability),
        (spec.outliers.fraction, s.outlier_fraction),
        (spec.outliers.scale, s.outlier_scale),
        (spec.fading.share, s.fading_share),
        (spec.clock.latency_jitter_s, s.clock_jitter_s),
        (spec.coverage.max_range_nm, (110.0, 185.0)),
    ]
    for values, (low, high) in ends:
        assert values.shape == (4000, 1)
        # Drawn up to both ends, and not beyond them.
        span = high - low
        assert low <= float(values.min()) < low + 0.03 * span and high - 0.03 * span < float(values.max()) <= high
    assert float(spec.noise.sigma_range_m.log().mean()) == pytest.approx(math.log(2.5 * 160) / 2, abs=0.05)
    gaussian = (spec.tails.range_dof > 1e5).double().mean()
    assert float(gaussian) == pytest.approx(s.gaussian, abs=0.03)
    assert float(spec.tails.range_dof.min()) >= s.least_dof
    biased = spec.bias.range_m != 0.0
    assert float(biased.double().mean()) == pytest.approx(s.biased, abs=0.02)
    assert float(spec.bias.range_m[biased].std()) == pytest.approx(s.bias_range_m, rel=0.1)
    assert torch.equal(biased, spec.bias.azimuth_deg != 0.0)


def test_no_radar_needs_what_the_device_does_not_do() -> None:
    """The conversion's bias matters nowhere within a radar's reach (`not_on_device`), and few azimuths are cut."""
    spec = radars(ALL_RADARS)
    variance = (spec.noise.sigma_azimuth_deg * DEG_RAD) ** 2
    worst = spec.coverage.max_range_nm * NM_M * variance / spec.noise.sigma_range_m
    assert float(worst.max()) <= DEBIAS_LIMIT * (1.0 + 1e-12)
    assert 0.0 < float((worst > 0.999 * DEBIAS_LIMIT).double().mean()) < 0.1


def test_periods_between_the_pieces_are_never_seen(batch: Flown) -> None:
    period = radars(ALL_RADARS).rotation_period_s
    inside = [(period >= low) & (period <= high) for low, high in ALL_RADARS.period_s]
    assert bool(torch.stack(inside).any(0).all())
    for piece, (low, high) in zip(inside, ALL_RADARS.period_s, strict=True):
        share = (high - low) / sum(b - a for a, b in ALL_RADARS.period_s)
        assert float(piece.double().mean()) == pytest.approx(share, abs=0.03)
    # The median gap of a window is its radar's period, but for aircraft that turn about the radar.
    gap = torch.nanmedian(torch.diff(batch.time_s, dim=1), 1).values
    between = ((gap > 5.8) & (gap < 6.4)) | ((gap > 9.6) & (gap < 10.4))
    assert float(between.double().mean()) < 0.05 and float(gap.min()) > 3.6 and float(gap.max()) < 13.0


def test_flows_can_be_flown_and_differ() -> None:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(5)))
    flows = [drawn_flow(rng) for _ in range(300)]
    limits = {f.name: f.metadata for f in fields(Flow)}
    for name in ("radius_nm", "manoeuvres_per_hour", "turn_share"):
        values = [getattr(flow, name) for flow in flows]
        assert len(set(values)) == 300 and name in limits
    for name in ("speed_kt", "bank_deg", "turn_deg", "climb_fpm", "acceleration_mps2", "flight_level"):
        assert all(low <= high for low, high in (getattr(flow, name) for flow in flows))
    bank = [flow.bank_deg for flow in flows]
    assert min(low for low, _ in bank) < 9.0 and max(high for _, high in bank) > 35.0


def test_stated_errors_are_the_true_ones() -> None:
    """Of radars without outliers: plots are as far from the truth as their covariance says, turned and mirrored."""
    flown = SpreadFlights(Spread(**PLAIN), 1, 96, 40, "cpu").windows(0)
    assert flown.truth is not None
    error = (flown.position_m - flown.truth[..., :2])[flown.valid]
    nees = (error[:, None] @ torch.linalg.solve(flown.covariance_m2[flown.valid], error[..., None]))[:, 0, 0]
    # 2 but for the transponders' own delay, 28 m beside 50 m at most.
    assert 1.9 < float(nees.mean()) < 2.4
    assert bool(((flown.sigma_range_m == 50.0) == flown.valid).all())


def test_each_window_states_its_own_radars_errors(batch: Flown) -> None:
    sigma = torch.where(batch.valid, batch.sigma_range_m, torch.nan)
    first = sigma[:, :1].expand_as(sigma)
    assert bool((sigma == first)[batch.valid].all()) and len(first[:, 0].unique()) > 80
    ends = torch.linalg.eigvalsh(batch.covariance_m2[:, 0]).sqrt()
    across = batch.range_m[:, 0] * batch.sigma_azimuth_rad[:, 0]
    far = batch.range_m[:, 0] > 3e4  # nearer, height has a part in it
    wanted = torch.stack([first[:, 0], across]).sort(0).values.T
    torch.testing.assert_close(ends[far], wanted[far], rtol=0.05, atol=1.0)


def test_windows_are_as_a_tracker_meets_them(batch: Flown) -> None:
    assert batch.truth is not None
    count = batch.valid.sum(1)
    assert int(count.min()) >= MIN_PLOTS and float((count == 60).double().mean()) > 0.7
    assert torch.equal(batch.valid, torch.isfinite(batch.time_s)) and bool(batch.valid[:, 0].all())
    gap = torch.diff(batch.time_s, dim=1)[batch.valid[:, 1:]]
    assert float(gap.min()) > 0.0 and float(gap.max()) <= 60.0
    speed = torch.hypot(*batch.truth[..., 2:][batch.valid].T)
    assert float(speed.min()) >= 20.0 and float(speed.max()) < 320.0
    moved = torch.diff(batch.truth[..., :2], dim=1) / torch.diff(batch.time_s, dim=1)[..., None]
    mean = 0.5 * (batch.truth[:, 1:, 2:] + batch.truth[:, :-1, 2:])
    off = (moved - mean).norm(dim=-1)[batch.valid[:, 1:]]
    assert float(off.median()) < 0.5  # m/s: straight flight mostly; truth is one path
    history: Any = base_history(load_tracker("imm"), batch)  # type: ignore[arg-type]
    assert bool(torch.isfinite(history.mean[batch.valid]).all())


def test_turned_and_mirrored_flights_fly_as_before() -> None:
    fleet, rng = drawn_fleet(Spread(**PLAIN), 1, (1,), 20, 400.0), torch.Generator().manual_seed(2)
    spec = radars(Spread(**PLAIN), 20)
    site = site_of(spec, "cpu")
    paths = flown_paths(fleet.plans, site, 400.0, torch.zeros(20, 1, dtype=torch.float64), rng)
    angle = torch.linspace(0.0, 6.0, 20, dtype=torch.float64)[:, None]
    mirrored = torch.arange(20)[:, None] % 2 == 0
    other = paths.turned(angle, mirrored)
    for a, b in ((paths.state[:2], other.state[:2]), (paths.state[2:], other.state[2:])):
        torch.testing.assert_close(torch.hypot(*a), torch.hypot(*b))
    turn = torch.diff(torch.atan2(other.state[2], other.state[3]), dim=1)
    before = torch.diff(torch.atan2(paths.state[2], paths.state[3]), dim=1) * torch.where(mirrored, -1.0, 1.0)
    torch.testing.assert_close(turn.sin(), before.sin(), rtol=0, atol=1e-9)
    for k in range(0, 400, 40):  # the azimuth that the beam is to meet is that of the place
        place = other.at(torch.full((20, 1), float(k), dtype=torch.float64))[0]
        apart = other.coarse_azimuth(torch.full((20, 1), float(k), dtype=torch.float64)) - torch.atan2(*place[:2])
        torch.testing.assert_close(apart.cos(), torch.ones_like(apart), rtol=0, atol=1e-4)
    seen = observed(spec, site, other, torch.ones(20) > 0, torch.zeros(20, dtype=torch.float64), 20, rng)
    assert float(seen.detected.double().mean()) > 0.3


def test_the_suites_flights_are_there_under_its_own_radars() -> None:
    fleet = drawn_fleet(replace(ALL_RADARS, suite_share=0.25, suite_traffic=1.0), 1, (1,), 512, 400.0)
    share = [float((fleet.scene == k).mean()) for k in range(4)]
    assert share == pytest.approx([0.0625] * 4) and set(fleet.scene) == {ELSEWHERE, 0, 1, 2, 3}
    for k, scenario in enumerate(scenes()):
        assert set(fleet.radius_nm[fleet.scene == k]) <= {flow.radius_nm for flow in scenario.traffic}
    scene = torch.as_tensor(fleet.scene)
    spec: Any = drawn_radars(ALL_RADARS, torch.as_tensor(fleet.radius_nm), torch.Generator().manual_seed(1), scene)
    for k, scenario in enumerate(scenes()):
        its, found = scenario.radar[0], (scene == k)
        for name in SAMPLED:
            block, key = name.split(".")
            assert set(getattr(getattr(spec, block), key)[found, 0].tolist()) == {getattr(getattr(its, block), key)}
        assert set(spec.rotation_period_s[found, 0].tolist()) == {its.rotation_period_s}
    assert len(spec.noise.sigma_range_m[scene == ELSEWHERE].unique()) > 300


def test_under_the_suites_radars_others_fly_too() -> None:
    fleet = drawn_fleet(replace(ALL_RADARS, suite_share=0.5, suite_traffic=0.5), 1, (1,), 512, 400.0)
    own = {flow.radius_nm for scenario in scenes() for flow in scenario.traffic}
    for k in range(4):
        flown = np.isin(fleet.radius_nm[fleet.scene == k], list(own))
        assert float(flown.mean()) == 0.5
    assert not np.isin(fleet.radius_nm[fleet.scene == ELSEWHERE], list(own)).any()


def test_nothing_of_the_suites_radars_is_left_out_unnoticed() -> None:
    """What a scenario sets is drawn here, or is known not to be on the device, or to matter nowhere in a window."""
    known = {"name", "sac", "sic", "latitude_deg", "longitude_deg", "height_m", "registers", *NOT_HERE}
    inside = {"min_range_nm", "max_elevation_deg"}  # of the coverage: some flights are in sight a little longer
    drawn = radars(ALL_RADARS, 1)
    for scenario in scenes():
        spec = scenario.radar[0]
        for name in [f.name for f in fields(RadarSpec) if getattr(spec, f.name) != f.default and f.name not in known]:
            value = getattr(drawn, name)
            if isinstance(value, torch.Tensor):
                continue
            its = getattr(spec, name)
            for key in fields(its):
                if getattr(its, key.name) == key.default or key.name in inside:
                    continue
                ours = getattr(value, key.name)
                assert isinstance(ours, torch.Tensor) or ours == getattr(its, key.name), f"{name}.{key.name}"


def test_windows_of_the_suite_state_its_errors() -> None:
    flown = SpreadFlights(replace(ALL_RADARS, suite_share=1.0), 3, 64, 40, "cpu").windows(0)
    stated = {round(it.radar[0].noise.sigma_range_m) for it in scenes()}
    assert {round(v) for v in flown.sigma_range_m[:, 0].tolist()} == stated
    period = {round(it.radar[0].rotation_period_s) for it in scenes()}
    gaps = torch.nanmedian(torch.diff(flown.time_s, dim=1), 1).values
    assert {round(v) for v in gaps.tolist()} == period


def test_a_run_goes_on_with_the_share_it_was_begun_with() -> None:
    data = replace(data_of(SPREAD, [], []), suite_share=0.5)
    assert Data.from_dict(data.to_dict()) == data
    old = data.to_dict()
    del old["suite_share"]
    assert Data.from_dict(old).suite_share == 0.0


def test_a_batch_is_a_function_of_its_number() -> None:
    one, other = SpreadFlights(ALL_RADARS, 7, 8, 20, "cpu"), SpreadFlights(ALL_RADARS, 7, 8, 20, "cpu")
    late = other.windows(3)
    early = [one.windows(k) for k in range(4)]
    assert torch.equal(early[3].time_s.nan_to_num(), late.time_s.nan_to_num())
    assert not torch.equal(early[2].time_s.nan_to_num(), late.time_s.nan_to_num())
    with spread_flights(ALL_RADARS, 7, 8, 20, "cpu") as ahead:
        assert torch.equal(ahead.windows(3).range_m.nan_to_num(), late.range_m.nan_to_num())
    halves = [SpreadFlights(ALL_RADARS, 7, 8, 20, "cpu", rank, 2).windows(0) for rank in range(2)]
    assert len(halves[0].time_s) == 4 and not torch.equal(halves[0].range_m, halves[1].range_m)
    assert len(SpreadFlights(ALL_RADARS, 7, 8, 20, "cpu", together=3).windows(0).time_s) == 24
    with pytest.raises(ScenarioError, match="cannot be shared by 3"):
        SpreadFlights(ALL_RADARS, 7, 8, 20, "cpu", 0, 3)


def test_a_plan_is_used_again_under_another_radar_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_spread, "PLANNED", 8)
    flights = SpreadFlights(ALL_RADARS, 7, 8, 16, "cpu")
    assert flights._per_plan == 1  # so the same flights are in the next batch
    first, again = flights.windows(0), flights.windows(1)
    assert list(flights._fleets) == [0]
    assert not bool(torch.isclose(first.position_m[:, 0], again.position_m[:, 0], atol=100.0).all(1).any())


def test_settings_count_alike_however_large_their_errors_are() -> None:
    plots, group = np.full(4, 10.0), np.array([0, 0, 1, 1])
    reference = Errors(np.array([10.0, 10.0, 4e6, 4e6]), np.full(4, 10.0), plots)
    ours = Errors(np.array([2.5, 2.5, 4e6, 4e6]), np.array([10.0, 10.0, 40.0, 40.0]), plots)
    there = HeldOut([], reference, reference, np.arange(4), group)
    assert there.ratios(ours) == [(0.5, 1.0), (1.0, 2.0)]
    assert HeldOut([], reference, reference, np.arange(4)).ratios(ours)[0][0] == pytest.approx(1.0, abs=1e-5)


def test_a_training_on_all_radars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flown_simulated, "BLOCK_PLOTS", 3000)
    monkeypatch.setattr(device_spread, "PLANNED", 64)
    monkeypatch.setattr(loop_data, "HELD_OUT", 16)
    monkeypatch.setattr(loop_data, "HELD_OUT_PLOTS", 30)
    data, recipe = data_of(SPREAD, [], []), Recipe(size="tiny", steps=2, batch=6, window=24)
    assert Data.from_dict(data.to_dict()) == data
    lines: list[str] = []
    telling: Any = type("Told", (), {"line": lines.append, "step": lambda *_: None, "scalars": lambda *_: None})
    outcome = train_koss(data, recipe, tmp_path / "run", device="cpu", workers=0, telling=telling)
    assert outcome.report is not None
    assert len(outcome.report.held_out.ratios(outcome.report.errors)) == len(settings_of(data)) == 6
    assert "by setting 1.000/1.000, 1.000/1.000" in lines[0]
    tracker: Any = load_tracker(str(tmp_path / "run"))
    assert {"kind": "endless simulation", "name": "spread", "first_seed": 1} in list(tracker.sources)
    with pytest.raises(TrainingError, match="made on the training device"):
        data_of(SPREAD, [], [], "simulator")
    # Another run begins where this one ended: with its network, weights and base.
    again = Recipe(steps=1, batch=6, window=24, learning_rate=1e-9, start=str(tmp_path / "run"))
    assert Recipe.from_dict(again.to_dict()) == again
    outcome = train_koss(data, again, tmp_path / "again", device="cpu", workers=0)
    other: Any = load_tracker(str(tmp_path / "again"))
    assert other.model.config == tracker.model.config and bank_to_dict(other.bank) == bank_to_dict(tracker.bank)
    for name, weight in tracker.model.state_dict().items():
        torch.testing.assert_close(other.model.state_dict()[name], weight, rtol=0, atol=1e-7)
    assert {"kind": "endless simulation", "name": "spread", "first_seed": 1} in list(other.sources)


def test_a_run_cannot_start_from_what_is_no_learned_tracker(tmp_path: Path) -> None:
    data = data_of(SPREAD, [], [])
    with pytest.raises(TrainingError, match="start 'imm' is no learned tracker; give koss, gka or the folder"):
        train_koss(data, Recipe(steps=1, start="imm"), tmp_path / "run", device="cpu", workers=0)
    assert not (tmp_path / "run").exists()
    for change in ({"base": "kf"}, {"network": {"width": 64}}):
        with pytest.raises(TrainingError, match="starts from 'koss' has its network and base; leave others out"):
            Recipe(steps=1, start="koss", **change)  # type: ignore[arg-type]
