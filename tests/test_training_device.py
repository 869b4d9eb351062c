"""Flights made on the training device: consistent truth, a radar's errors, and the simulator's own statistics."""

import inspect
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.errors import ScenarioError
from ssrtrack.models.load import load_tracker
from ssrtrack.models.residual_inputs import Flown, base_history
from ssrtrack.simulators.scenario import load_scenario
from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.schema_effects import Bias, Clock, Fading, Jumps, NorthStamp, Tails, Transponder
from ssrtrack.simulators.schema_radar import Detection, Noise, Outliers, RadarSpec
from ssrtrack.simulators.suite import load_suite
from ssrtrack.training import device_radar
from ssrtrack.training.device_motion import flown_paths
from ssrtrack.training.device_plan import planned
from ssrtrack.training.device_radar import left_out, observed, site_of
from ssrtrack.training.device_sampler import DeviceFlights, device_flights, not_on_device
from ssrtrack.training.flown_simulated import Endless, block
from ssrtrack.training.flown_tensors import to_flown
from ssrtrack.units import DEG_RAD

EXACT = Noise(sigma_range_m=1e-9, sigma_azimuth_deg=1e-12)
PLAIN = RadarSpec(name="X", latitude_deg=45.0, longitude_deg=7.0, rotation_period_s=4.0, noise=EXACT)


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_suite("suite:tma-4s", "train")[0]


def meetings(scenario: Scenario, spec: RadarSpec, count: int = 200, m: int = 60) -> tuple[Any, Any]:
    """(flights, plots) of a radar without resolution, so that single effects show."""
    q = replace(spec.quantisation, range=False, azimuth=False, time=False, altitude=False)
    spec = replace(spec, quantisation=q)
    scenario = replace(scenario, radar=(spec,))
    plans, rng = planned(scenario, 3, (1,), count, 4.0 * m + 60.0), torch.Generator().manual_seed(5)
    paths = flown_paths(plans, site_of(spec, "cpu"), 300.0 + 4.0 * m + 60.0, 0.0, rng)
    args = torch.as_tensor(plans.mode_s) > 0.5, torch.as_tensor(plans.age_s)
    return paths, observed(spec, site_of(spec, "cpu"), paths, *args, m, rng)


def test_truth_is_consistent(scenario: Scenario) -> None:
    """Velocity is the slope of position, banked turns turn at g tan(bank)/V, and speed is what was planned."""
    plans, rng = planned(scenario, 1, (7,), 50, 400.0), torch.Generator().manual_seed(1)
    spec = scenario.radar[0]
    paths = flown_paths(plans, site_of(spec, "cpu"), 400.0, 0.0, rng)
    t = torch.linspace(5.0, 390.0, 777, dtype=torch.float64).expand(50, -1)
    here, after = paths.at(t)[0], paths.at(t + 1e-4)[0]
    torch.testing.assert_close((after[:2] - here[:2]) / 1e-4, 0.5 * (here[2:] + after[2:]), rtol=0, atol=1e-5)
    speed = torch.as_tensor(np.array([np.interp(t[0], *(p[n] for p in plans.speed)) for n in range(50)]))
    # Where a speed change begins between grid points, its kink is rounded off.
    torch.testing.assert_close(torch.hypot(here[2], here[3]), speed, rtol=0, atol=0.1)
    bank = np.array([np.interp(t[0], *(p[n] for p in plans.bank)) for n in range(50)])
    rate = 9.80665 * np.tan(bank) / speed.numpy()
    left, right = (torch.atan2(*paths.at(t + d)[0][2:]) for d in (-0.5, 0.5))
    turned = (torch.remainder(right - left + torch.pi, 2 * torch.pi) - torch.pi).numpy()
    assert np.abs(rate).max() > np.radians(1.5)
    np.testing.assert_allclose(turned, rate, atol=4e-3)  # half a second around a kink of the bank


def test_the_beam_points_at_the_target(scenario: Scenario) -> None:
    """Without jitter the azimuth of a meeting is that of an evenly turning beam, and no pass is lost or doubled."""
    _, plots = meetings(scenario, PLAIN)
    phase = plots.time_s / 4.0 - plots.azimuth_rad / (2.0 * torch.pi)
    north = phase - phase.floor()
    spread = torch.remainder(north - north[:, :1] + 0.5, 1.0) - 0.5
    seen = plots.detected
    assert float(spread[seen & seen[:, :1]].abs().max()) < 1e-6
    both = seen[:, 1:] & seen[:, :-1]
    gap = torch.diff(plots.time_s, dim=1)[both]
    assert float(gap.min()) > 3.0 and float(gap.max()) < 5.0
    place = plots.truth[:2]
    azimuth = torch.remainder(torch.atan2(place[0], place[1]), 2.0 * torch.pi)
    off = torch.remainder(plots.azimuth_rad - azimuth + torch.pi, 2 * torch.pi) - torch.pi
    assert float(off[seen].abs().max()) < 1e-9


def errors_of(scenario: Scenario, **effects: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Errors of range (m) and azimuth (deg) of the detected plots, beside those of a radar without the effect."""
    noisy, clean = (meetings(scenario, replace(PLAIN, **e), 400, 40)[1] for e in (effects, {}))
    seen = noisy.detected & clean.detected
    # The meetings themselves do not depend on the effects drawn after them.
    assert torch.equal(noisy.time_s, clean.time_s)
    in_azimuth = (noisy.azimuth_rad - clean.azimuth_rad + torch.pi) % (2 * torch.pi) - torch.pi
    in_range = torch.where(seen, noisy.range_m - clean.range_m, torch.nan)
    return in_range.numpy(), torch.where(seen, in_azimuth, torch.nan).numpy() / DEG_RAD, clean


def test_noise_and_outliers(scenario: Scenario) -> None:
    noise = Noise(sigma_range_m=50.0, sigma_azimuth_deg=0.1)
    r, a, _ = errors_of(scenario, noise=noise, outliers=Outliers(fraction=0.05, scale=8.0))
    n = np.isfinite(r).sum()
    share = np.nanmean(np.where(np.isnan(r), np.nan, np.abs(r) > 4.0 * 50.0))
    assert abs(share - 0.05 * 0.617) < 4.0 * np.sqrt(0.031 / n)  # P(|8 z| > 4) = 0.617
    middle = np.nanquantile(np.abs(r), 0.5), np.nanquantile(np.abs(a), 0.5)
    # The median of |z| over 95 % sigma 1 and 5 % sigma 8 is 0.716.
    np.testing.assert_allclose(middle, (0.716 * 50.0, 0.716 * 0.1), rtol=0.03)


def test_tails(scenario: Scenario) -> None:
    noise = Noise(sigma_range_m=50.0, sigma_azimuth_deg=0.1)
    r, _, _ = errors_of(scenario, noise=noise, tails=Tails(range_dof=3.0))
    share, n = np.nanmean(np.where(np.isnan(r), np.nan, np.abs(r) > 200.0)), np.isfinite(r).sum()
    assert abs(share - 0.02801) < 4.0 * np.sqrt(0.028 / n)  # P(|t3| > 4)


def test_bias_and_transponder(scenario: Scenario) -> None:
    bias = Bias(range_m=30.0, gain_m_per_nm=1.0, azimuth_deg=0.1, eccentricity_deg=0.05, eccentricity_phase_deg=40.0)
    r, a, clean = errors_of(scenario, bias=bias)
    seen = np.isfinite(r)
    np.testing.assert_allclose(r[seen], 30.0 + clean.range_m.numpy()[seen] / 1852.0, atol=1e-6)
    wanted = 0.1 + 0.05 * np.sin(clean.azimuth_rad.numpy()[seen] + 40.0 * DEG_RAD)
    np.testing.assert_allclose(a[seen], wanted, atol=1e-9)
    r, _, _ = errors_of(scenario, transponder=Transponder(sigma_m=20.0, mode_s_limit_m=1000.0, mode_ac_limit_m=1000.0))
    r = r[np.isfinite(r).any(1)]
    known = np.nanmean(r, 1)
    assert np.nanmax(np.abs(r - known[:, None])) < 1e-6  # constant over a flight
    assert abs(known.std() - 20.0) < 4.0 * 20.0 / np.sqrt(2.0 * len(known))


def test_a_late_clock_is_an_error_of_position(scenario: Scenario) -> None:
    """Truth is that of the time which a plot states, as in scoring: the plot lies where the aircraft was before."""
    paths, plots = meetings(scenario, replace(PLAIN, clock=Clock(latency_s=0.7, offset_s=0.3)))
    seen = plots.detected
    assert torch.equal(plots.truth, paths.at(plots.time_s)[0])
    before = paths.at(plots.time_s - 1.0)[0]
    off = plots.azimuth_rad - torch.remainder(torch.atan2(before[0], before[1]), 2.0 * torch.pi)
    assert float(torch.remainder(off + torch.pi, 2.0 * torch.pi).sub(torch.pi)[seen].abs().max()) < 1e-9
    behind = torch.hypot(*(plots.truth - before)[:2])[seen]
    assert 50.0 < float(behind.median()) < 350.0


def test_jumps(scenario: Scenario) -> None:
    r, a, _ = errors_of(scenario, jumps=Jumps(fraction=0.1))
    far = (np.abs(r) > 1.0) | (np.abs(a) > 0.01)
    share, n = far[np.isfinite(r)].mean(), np.isfinite(r).sum()
    assert abs(share - 0.1) < 4.0 * np.sqrt(0.09 / n)
    sizes = np.abs(r[np.abs(np.nan_to_num(r)) > 1.0])
    assert sizes.min() > 699.0 and sizes.max() < 2001.0


@pytest.mark.parametrize(
    "effects", [{"detection": Detection(probability=0.8)}, {"fading": Fading(share=0.2, mean_scans=4.0)}]
)
def test_misses(scenario: Scenario, effects: dict[str, Any]) -> None:
    base = replace(PLAIN, detection=Detection(probability=1.0))
    full, some = (meetings(scenario, replace(base, **e), 600, 60)[1].detected.numpy() for e in ({}, effects))
    missed = full & ~some
    whole = full.all(1)
    runs = np.diff(missed[whole].astype(int), axis=1)
    share = missed[whole].mean()
    # Runs make the share vary more: by the mean length of a run and back.
    length = 4.0 if "fading" in effects else 1.25
    assert abs(share - 0.2) < 4.0 * np.sqrt(0.16 * 2.0 * length / whole.sum() / 60)
    assert missed[whole].sum() / max((runs == 1).sum(), 1) == pytest.approx(length, rel=0.15)


def test_the_statistics_are_the_simulators(scenario: Scenario) -> None:
    """The tuned filter's errors and calibration, the gaps, speeds and ranges agree: a copy that drifts is noticed."""
    device = DeviceFlights(scenario, 1, 384, 100, "cpu", 0, 1).windows(0)
    simulated = to_flown(block(Endless(replace(scenario, duration_s=1800.0), 1, 256, 100), 101, 0, 0))
    ours, theirs = summary(device), summary(simulated)
    for name, tolerance in TOLERANCES.items():
        assert ours[name] == pytest.approx(theirs[name], rel=tolerance), name


# About three standard errors of the difference, from ten seeds of each.
TOLERANCES = {
    "position": 0.12, "velocity": 0.15, "nees": 0.12, "speed": 0.08, "speed spread": 0.12, "range": 0.10, "raw": 0.06,
    "usual gap": 0.002, "long gaps": 0.30,
}  # fmt: skip


def summary(flown: Flown) -> dict[str, float]:
    base = base_history(load_tracker("imm"), flown)
    scored = flown.valid.clone()
    scored[:, :8] = False
    assert flown.truth is not None
    error, covariance = (base.mean - flown.truth)[scored], base.covariance[scored]
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), error[..., None], upper=False)
    gap = torch.diff(flown.time_s, dim=1)
    gap = gap[torch.isfinite(gap)]
    speed = torch.hypot(flown.truth[..., 2], flown.truth[..., 3])[flown.valid]
    raw = torch.hypot(*(flown.position_m - flown.truth[..., :2])[flown.valid].T)
    found = {
        "position": (error[:, :2] ** 2).sum(1).mean().sqrt(), "velocity": (error[:, 2:] ** 2).sum(1).mean().sqrt(),
        "nees": (whitened**2).mean(), "speed": speed.mean(), "speed spread": speed.std(), "raw": raw.median(),
        "range": flown.range_m[flown.valid].mean(), "usual gap": gap.median(),
        "long gaps": (gap > 1.5 * gap.median()).double().mean(),
    }  # fmt: skip
    return {name: float(value) for name, value in found.items()}


def test_a_batch_is_a_function_of_its_number(scenario: Scenario) -> None:
    with device_flights(scenario, 4, 16, 40, "cpu") as one:
        wanted = [one.windows(k) for k in (0, 1, 300)]
    other = DeviceFlights(scenario, 4, 16, 40, "cpu", 0, 1)
    for k, batch in zip((300, 0, 1), (wanted[2], wanted[0], wanted[1]), strict=True):
        again = other.windows(k)
        for name in ("time_s", "range_m", "truth"):
            torch.testing.assert_close(getattr(again, name), getattr(batch, name), rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(wanted[0].range_m[:, 0], wanted[1].range_m[:, 0])
    parts = [DeviceFlights(scenario, 4, 16, 40, "cpu", rank, 2).windows(0) for rank in (0, 1)]
    assert all(len(p.time_s) == 8 for p in parts)
    assert not torch.equal(parts[0].range_m[:, 0], parts[1].range_m[:, 0])


def test_what_cannot_be_made_is_refused(scenario: Scenario) -> None:
    assert not_on_device(scenario) == ""
    two = replace(scenario, radar=(scenario.radar[0], replace(scenario.radar[0], name="Y")))
    assert "2 radars" in not_on_device(two)
    with pytest.raises(ScenarioError, match="use the simulator"):
        DeviceFlights(two, 1, 8, 40, "cpu", 0, 1)
    far = replace(scenario.radar[0], latitude_deg=-40.0)
    flows = tuple(replace(f, latitude_deg=40.0, longitude_deg=0.0) for f in scenario.traffic)
    with pytest.raises(ScenarioError, match="and no silence"):
        DeviceFlights(replace(scenario, radar=(far,), traffic=flows), 1, 8, 40, "cpu", 0, 1).windows(0)
    coarse = replace(scenario.radar[0], noise=Noise(sigma_range_m=1.0, sigma_azimuth_deg=1.0))
    assert "coarse" in not_on_device(replace(scenario, radar=(coarse,)))


def test_every_effect_of_a_radar_is_here_or_named_as_left_out() -> None:
    """A key that a later radar has must not be ignored in silence."""
    of_no_effect = {"name", "profile", "latitude_deg", "longitude_deg", "height_m", "sac", "sic", "registers"}
    any_phase = {"north_time_s"}  # the device draws it
    source = inspect.getsource(device_radar)
    keys = {f.name for f in fields(RadarSpec) if "key" in f.metadata} - of_no_effect - any_phase
    assert {k for k in keys if f"spec.{k}" not in source} == set(device_radar.NOT_HERE)


def test_left_out_effects_are_named() -> None:
    assert left_out(PLAIN) == []
    assert left_out(load_scenario("demo").radar[0]) == ["false_plots"]
    late = replace(PLAIN, clock=Clock(drift_ppm=2.0), north_stamp=NorthStamp(spread_s=0.01))
    assert left_out(late) == ["north_stamp", "clock.drift_ppm"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_statistics_are_the_same(scenario: Scenario) -> None:
    there = DeviceFlights(scenario, 1, 384, 100, "cuda", 0, 1).windows(0)
    ours, theirs = summary(there.to("cpu")), summary(DeviceFlights(scenario, 1, 384, 100, "cpu", 0, 1).windows(0))
    for name, tolerance in TOLERANCES.items():
        assert ours[name] == pytest.approx(theirs[name], rel=tolerance), name
