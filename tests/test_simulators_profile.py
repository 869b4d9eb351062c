"""Profiles give a radar what the scenario does not write; workers and further radars change no bit of any of them."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ssrtrack.data import PlotFlag, Plots, Truth
from ssrtrack.errors import ScenarioError
from ssrtrack.geodesy import geodetic_to_enu
from ssrtrack.simulators import profile
from ssrtrack.simulators.profile import list_profiles, load_profile
from ssrtrack.simulators.scenario import parse_scenario, radars, simulate
from ssrtrack.simulators.schema import Scenario

SURE = 1e-5
FLOW = "[[traffic]]\nnumber = {number}\nradius_nm = 55\nmode_s_share = 0.7\n"


def scenario(*radars: str, duration=700, number=20, flow=FLOW) -> Scenario:
    head = f"epoch = 2025-01-01T00:00:00Z\nduration_s = {duration}\n"
    place = '[[radar]]\nname = "R{n}"\nlatitude_deg = 50\nlongitude_deg = 1{n}\n'
    blocks = [place.format(n=n) + text + "\n" for n, text in enumerate(radars)]
    return parse_scenario(head + "".join(blocks) + flow.format(number=number), "x", "x")


def of_profile(name: str, more="") -> str:
    period = "" if "rotation_period_s" in load_profile(name) else "rotation_period_s = 4\n"
    return f'profile = "{name}"\n{period}{more}'


def run(plan: Scenario, seed=1, **options) -> tuple[Plots, Truth]:
    parts = list(simulate(plan, seed, **options))
    return Plots.concat([p for p, _ in parts]), Truth.concat([t for _, t in parts])


def same(a, b) -> None:
    for name, column in a.columns().items():
        np.testing.assert_array_equal(getattr(b, name), column, err_msg=name)


def test_there_are_these_profiles():
    assert list_profiles() == ["barcelona", "degraded", "koss-paper", "legacy-12s", "modes-typical", "spec"]


def test_the_documentation_names_every_profile():
    lines = (Path(__file__).parent.parent / "docs" / "scenario.md").read_text("utf-8").splitlines()
    missing = [n for n in list_profiles() if f"- **{n}**: {load_profile(n)['description']}" not in lines]
    assert not missing


@pytest.mark.parametrize("name", list_profiles())
def test_every_profile_runs_and_is_what_the_scenario_would_have_written(name):
    assert len(load_profile(name)["description"]) > 20
    plan = scenario(of_profile(name), number=60)
    plots, truth = run(plan)
    plots.validate(), truth.validate()
    rotations = 700 / plan.radar[0].rotation_period_s
    assert np.sum(plots.truth_id >= 0) > 0.75 * 60 * rotations
    written = {k: v for k, v in load_profile(name).items() if k not in ("description", "rotation_period_s")}
    for key, body in written.items():
        value = getattr(plan.radar[0], key)
        if not isinstance(body, dict):
            assert value == body
            continue
        for inner, expected in body.items():
            found = getattr(value, inner)
            assert (list(found) if isinstance(expected, list) else found) == expected, (key, inner)


def test_the_scenario_comes_before_the_profile_key_by_key():
    radar = scenario(of_profile("spec", "noise = { sigma_range_m = 11 }\njumps = { fraction = 0 }\n")).radar[0]
    assert (radar.noise.sigma_range_m, radar.noise.sigma_azimuth_deg) == (11.0, 0.08)
    assert (radar.jumps.fraction, radar.bias.range_m) == (0.0, load_profile("spec")["bias"]["range_m"])
    assert scenario(of_profile("legacy-12s", "rotation_period_s = 10")).radar[0].rotation_period_s == 10.0


def test_a_scenarios_text_repeats_it_whatever_becomes_of_the_profiles(monkeypatch, tmp_path):
    plan = scenario(of_profile("degraded"), of_profile("spec"), of_profile("spec"))
    assert plan.text.count("[profile.") == 2
    monkeypatch.setattr(profile, "_FOLDER", tmp_path)  # none is there any more
    again = parse_scenario(plan.text, "x", "x")
    assert again == plan and again.text == plan.text
    same(run(again)[0], run(plan)[0])


def test_a_scenario_may_have_profiles_of_its_own():
    own = "\n[profile.mine]\nrotation_period_s = 5\nnoise.sigma_range_m = 11\n"
    both = scenario('profile = "mine"\n', 'profile = "mine"\nnoise = { sigma_azimuth_deg = 1 }\n', flow=FLOW + own)
    assert [(r.rotation_period_s, r.noise.sigma_range_m) for r in both.radar] == [(5.0, 11.0)] * 2
    assert [r.noise.sigma_azimuth_deg for r in both.radar] == [0.08, 1.0]
    before = scenario(of_profile("spec"), flow=FLOW + "\n[profile.spec]\nbias.range_m = 7\n")
    assert (before.radar[0].bias.range_m, before.radar[0].jumps.fraction) == (7.0, 0.0)


PERIOD = "rotation_period_s = 4\n"


def test_a_radar_without_mode_s_hears_everybody_in_mode_ac():
    """Its plots are those it has of the same flights without Mode S, to the last bit."""
    effects = (
        PERIOD
        + """
        registers = { bds50 = true, bds60 = true }
        transponder = { sigma_m = 40, mode_ac_jitter_m = 15, mode_s_jitter_m = 5 }
        garble = { probability = 0.7 }
        replies = { all_call_share = 0.1, mode3a_error_share = 0.1, altitude_error_share = 0.1 }
        fruit = { per_aircraft = 0.1 }
    """
    )
    with_s, without = (FLOW.replace("= 0.7", f"= {share}") for share in (1, 0))
    usual, _ = run(scenario(effects, number=60, flow=with_s))
    heard, _ = run(scenario(effects + "mode_s = false\n", number=60, flow=with_s))
    same(heard, run(scenario(effects, number=60, flow=without))[0])
    assert set(heard.plot_type) == {2} and set(usual.plot_type) == {2, 4, 5}
    assert np.any(heard.flags & PlotFlag.MODE3A_GARBLED) and not np.any(usual.flags & PlotFlag.MODE3A_GARBLED)


ERRORS = {
    "unknown": ('profile = "mode-s-typical"', r"x.radar\[0\].profile: found 'mode-s-typical'.* did you mean 'modes-"),
    "nothing like it": ('profile = "qq"', r"profiles: barcelona, degraded, koss-paper"),
    "own profile's key": (
        PERIOD + 'profile = "q"\n[profile.q]\nnois = 3',
        r"radar\[0\]: unknown key 'nois'; did you mean 'noise'",
    ),
    "own profile's name": (PERIOD + 'profile = "mime"\n[profile.mine]', "did you mean 'mine'"),
    "profile that is none": (PERIOD + "[profile]\nmine = 3", r"x.profile: found {'mine': 3}, expected tables"),
    "no text": (PERIOD + "profile = 3", r"profile: found 3 \(int\)"),
    "key of a profile's block": (
        PERIOD + 'profile = "spec"\nnoise = { sigma_m = 3 }',
        r"noise: unknown key 'sigma_m'",
    ),
    "block is no table": (PERIOD + 'profile = "spec"\nnoise = 3', r"noise: found 3"),
    "no period": ('profile = "spec"', "'rotation_period_s' is missing"),
    "fades too short": (
        PERIOD + "fading = { share = 0.5, mean_scans = 1.5 }",
        r"mean_scans: found 1.5, expected at least .*2",
    ),
    "no variance": (
        PERIOD + "tails = { range_dof = 2, unit_variance = true }",
        "unit_variance: found true, expected false",
    ),
    "lobes of no signal": (PERIOD + "lobing = { reflection = 0.5 }", "half_range_nm: missing"),
    "outage that ends before": (
        PERIOD + "outage = [{ from_s = 5, to_s = 5 }]",
        r"outage\[0\].to_s: found 5, expected more than from_s",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_wrong_radars_say_what_and_what_to_do(name):
    text, message = ERRORS[name]
    with pytest.raises(ScenarioError, match=message):
        scenario(text)


@pytest.mark.parametrize("name", ["degraded", "legacy-12s", "modes-typical"])
def test_a_further_radar_changes_no_bit_of_the_first(name):
    alone, truth = run(scenario(of_profile(name)))
    both, same_truth = run(scenario(of_profile(name), of_profile("degraded")))
    same(alone, both[both.radar_id == 0])
    same(truth, same_truth)
    # Two radars of one profile in one place draw their own numbers.
    twice, _ = run(scenario(of_profile(name), of_profile(name)))
    assert not np.array_equal(twice.range_m[twice.radar_id == 0][:50], twice.range_m[twice.radar_id == 1][:50])


def test_workers_and_chunks_change_no_bit():
    plan = scenario(of_profile("degraded"), of_profile("legacy-12s"), duration=1900)
    plots, truth = run(plan)
    for options in ({"workers": 2}, {"workers": 2, "chunk_s": 97.0}, {"chunk_s": 250.0}):
        more_plots, more_truth = run(plan, **options)
        same(plots, more_plots)
        same(truth, more_truth)
    with pytest.raises(ScenarioError, match="workers: found 0, expected 1 or more"):
        simulate(plan, 1, workers=0)


def test_workers_find_an_empty_sky_as_it_is():
    brief = (
        "[[aircraft]]\nend_s = 100\nlatitude_deg = 50.2\nlongitude_deg = 10\nflight_level = 90\nspeed_kt = 200\n"
        "track_deg = 0\n"
    )
    plan = scenario("rotation_period_s = 4\nfalse_plots = { per_scan = 1 }", flow=brief, duration=1900)
    plots, truth = run(plan)
    assert np.sum(plots.time_s > 700) > 200
    more_plots, more_truth = run(plan, workers=2)
    same(plots, more_plots)
    same(truth, more_truth)


def test_a_worker_that_dies_is_a_typed_error():
    parts = simulate(scenario(of_profile("spec"), duration=20_000), 1, workers=2)
    next(parts)
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(ScenarioError, match="a worker process ended before its work"):
        list(parts)


def test_flights_may_come_from_elsewhere():
    class Once:
        """The first flights of another scenario, as a recording gives its own."""

        def __init__(self) -> None:
            from ssrtrack.simulators.traffic import Traffic

            self._inner = Traffic(plan, 1)

        def until(self, time_s: float):
            return self._inner.until(time_s)

    plan = scenario(of_profile("spec"))
    same(run(plan)[0], run(scenario(of_profile("spec"), flow=""), traffic=Once())[0])


def test_false_plots_come_while_nobody_is_in_the_air():
    late = (
        "[[aircraft]]\nstart_s = 650\nlatitude_deg = 50.2\nlongitude_deg = 10\nflight_level = 90\nspeed_kt = 200\n"
        "track_deg = 0\n"
    )
    plots, _ = run(scenario("rotation_period_s = 4\nfalse_plots = { per_scan = 2 }", flow=late))
    early = plots[plots.time_s < 600]
    assert np.all(early.truth_id == -1)
    low, high = stats.poisson.ppf([SURE / 2, 1 - SURE / 2], 300)
    assert low < len(early) < high


def test_the_koss_papers_noise_is_white_on_x_and_y_at_its_signal_to_noise_ratio():
    plan = scenario(of_profile("koss-paper"), duration=3600, number=60)
    plots, truth = run(plan)
    assert np.isnan(radars(plan).sigma_range_m[0])
    site = (np.radians(50.0), np.radians(10.0), 0.0)
    signal, z = {}, []
    for flight in np.unique(truth.truth_id):
        t, p = truth[truth.truth_id == flight], plots[plots.truth_id == flight]
        enu = geodetic_to_enu(np.radians(t.latitude_deg), np.radians(t.longitude_deg), t.height_m, site)
        xy = enu[:, :2] * (np.linalg.norm(enu, axis=1) / np.linalg.norm(enu[:, :2], axis=1))[:, None]
        if len(p) < 50 or np.ptp(t.time_s) < 600:
            continue
        grid = np.arange(t.time_s[0], t.time_s[-1], 1.0)
        power = np.stack([np.interp(grid, t.time_s, xy[:, i]) for i in range(2)], 1)
        signal[flight] = np.sqrt(np.mean(power**2, 0))
        true = np.stack([np.interp(p.time_s, t.time_s, xy[:, i]) for i in range(2)], 1)
        measured = np.stack([p.range_m * np.sin(p.azimuth_rad), p.range_m * np.cos(p.azimuth_rad)], 1)
        sigma = signal[flight] * 10 ** (-33 / 20)
        z.append((measured - true) / sigma)
        np.testing.assert_allclose(p.sigma_range_m, np.sqrt(np.mean(sigma**2)), rtol=2e-3)
    z = np.concatenate(z)
    assert len(z) > 20_000
    # The ratio of sigmas is known to 0.2 % (interpolated truth), chance allows 2.2 %; 1 dB would be 12 %.
    low, high = np.sqrt(stats.chi2.ppf([SURE / 2, 1 - SURE / 2], len(z)) / len(z))
    assert np.all((np.sqrt(np.mean(z**2, 0)) > low - 0.002) & (np.sqrt(np.mean(z**2, 0)) < high + 0.002))
    assert abs(np.corrcoef(z.T)[0, 1]) * np.sqrt(len(z)) < stats.norm.isf(SURE / 2)
    assert stats.kstest(z[::7, 0], "norm").pvalue > SURE
