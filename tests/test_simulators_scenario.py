"""Scenario files: what they may say and how they fail; simulations: the same for any chunks, anew for a seed."""

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.data import Plots, Truth
from ssrtrack.errors import ScenarioError
from ssrtrack.simulators import blocks
from ssrtrack.simulators.blocks import allowed, keys_of
from ssrtrack.simulators.scenario import list_scenarios, load_scenario, parse_scenario, radars, simulate
from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.units import NM_M

DOC = Path(__file__).parent.parent / "docs" / "scenario.md"
RADAR = """
[[radar]]
name = "R"
latitude_deg = 50
longitude_deg = 10
rotation_period_s = 4
"""
HEAD = "epoch = 2025-01-01T00:00:00Z\nduration_s = 600\n"
FLOW = "[[traffic]]\nnumber = 3\nradius_nm = 30\n"
PLANE = "[[aircraft]]\nlatitude_deg = 50.2\nlongitude_deg = 10\nflight_level = 100\nspeed_kt = 250\ntrack_deg = 0\n"

EVERYTHING = """
epoch = 2025-03-30T23:55:00Z
duration_s = 1310
truth_step_s = 3.0
turbulence_m2ps3 = 0.05
[[radar]]
name = "EAST"
latitude_deg = 50
longitude_deg = 10
rotation_period_s = 4.2
rotation_jitter = 0.004
outliers = { fraction = 0.02 }
false_plots = { per_scan = 1.5 }
registers = { bds50 = true, bds60 = true }
[[radar]]
name = "WEST"
latitude_deg = 50.1
longitude_deg = 8.9
rotation_period_s = 9.0
north_time_s = 2.0
coverage = { max_range_nm = 120 }
[[traffic]]
number = 12
radius_nm = 50
flight_time_s = [100, 500]
mode_s_share = 0.7
[[aircraft]]
callsign = "TEST1"
mode3a = "4321"
address = 0x3C4A5B
start_s = 500.5
end_s = 900
latitude_deg = 50.2
longitude_deg = 10
flight_level = 100
speed_kt = 250
track_deg = 30
legs = [{ duration_s = 30 }, { turn_deg = 90, flight_level = 150, speed_kt = 300 }, { duration_s = 60 }]
"""


def run(text: str, seed=1, **options) -> tuple[Plots, Truth]:
    parts = list(simulate(parse_scenario(text, "x", "x"), seed, **options))
    return Plots.concat([p for p, _ in parts]), Truth.concat([t for _, t in parts])


def same(a, b) -> bool:
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(
        a.columns().values(), b.columns().values(), strict=True
    ))  # fmt: skip


@pytest.mark.parametrize("chunk_s", [7.3, 100.0, 600.0, 599.999, 1e9])
def test_chunks_do_not_change_a_bit_and_cut_at_their_edges(chunk_s):
    plots, truth = run(EVERYTHING)
    parts = list(simulate(parse_scenario(EVERYTHING, "x", "x"), 1, chunk_s=chunk_s))
    assert same(plots, Plots.concat([p for p, _ in parts]))
    assert same(truth, Truth.concat([t for _, t in parts]))
    assert len(parts) == int(np.ceil(1310 / chunk_s))
    for number, (p, t) in enumerate(parts):
        for times in (p.time_s, t.time_s):
            assert np.all(times >= number * chunk_s)
            assert np.all(times < (number + 1) * chunk_s)


def test_seeds_repeat_and_differ():
    assert same(run(EVERYTHING, 7)[0], run(EVERYTHING, 7)[0])
    assert not np.array_equal(run(EVERYTHING, 7)[0].time_s[:20], run(EVERYTHING, 8)[0].time_s[:20])


def test_a_second_radar_and_more_traffic_leave_the_first_flights_plots_alone():
    head = EVERYTHING.replace("turbulence_m2ps3 = 0.05", "")
    one, _ = run(head[: head.index('[[radar]]\nname = "WEST"')] + head[head.index("[[traffic]]") :])
    both, _ = run(head + "[[traffic]]\nnumber = 2\nradius_nm = 20\n")
    first = both[(both.radar_id == 0) & (both.truth_id >= 0) & (both.truth_id <= 12)]
    alone = one[(one.truth_id >= 0) & (one.truth_id <= 12)]
    assert len(alone) > 800
    for name in ("time_s", "range_m", "azimuth_rad", "truth_id", "mode3a", "mach"):
        np.testing.assert_array_equal(getattr(first, name), getattr(alone, name), err_msg=name)


def test_tables_are_in_order_and_range_and_flights_follow_one_another():
    plots, truth = run(EVERYTHING)
    plots.validate(), truth.validate()
    assert np.all(np.diff(plots.time_s) >= 0)
    assert np.all(np.diff(truth.time_s) >= 0)
    assert set(plots.truth_id.tolist()) - {-1} <= set(truth.truth_id.tolist())
    lives = [truth.time_s[truth.truth_id == i][[0, -1]] for i in range(1, truth.truth_id.max() + 1)]
    lengths = np.diff(lives, axis=1).ravel()
    ended = np.array([life[1] for life in lives]) < 1310
    assert np.all((lengths[ended] > 99.999) & (lengths[ended] < 500.001))
    # At any time there are as many aircraft as the flow says, and the scripted one in its time.
    for t in (0.0, 250.25, 600.0, 1309.0):
        assert sum(life[0] <= t < life[1] for life in lives) == 12


def test_a_scripted_aircraft_flies_its_script_under_its_own_name():
    plots, truth = run(EVERYTHING.replace("turbulence_m2ps3 = 0.05", ""))
    flown = truth[truth.truth_id == 0]
    assert flown.time_s[[0, -1]].tolist() == [500.5, 900.0]
    seen = plots[plots.truth_id == 0]
    assert set(seen.callsign.tolist()) == {b"TEST1"}
    assert set(seen.mode3a.tolist()) == {0o4321}
    assert set(seen.address.tolist()) == {0x3C4A5B}
    speed = np.hypot(flown.v_east_mps, flown.v_north_mps) * 3600 / NM_M
    assert speed[[0, -1]] == pytest.approx([250, 300], abs=1e-3)
    assert flown.height_m[[0, -1]] / 30.48 == pytest.approx([100, 150], abs=1e-3)
    track = np.degrees(np.arctan2(flown.v_east_mps, flown.v_north_mps))
    assert track[[0, -1]] == pytest.approx([30, 120], abs=1.0)  # the meridians converge on the way
    assert not np.any(plots.callsign[plots.truth_id > 0] == b"TEST1")


def test_memory_does_not_grow_with_the_length_of_the_scenario():
    def peak(duration_s: int) -> int:
        text = f"epoch = 2025-01-01T00:00:00Z\nduration_s = {duration_s}\n{RADAR}{FLOW}"
        scenario = parse_scenario(text.replace("number = 3", "number = 10").replace("= 4", "= 12"), "x", "x")
        gc.collect()
        tracemalloc.start()
        for _ in simulate(scenario, 1):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(600)  # what is loaded or kept once for all is not the scenario's
    assert peak(18_000) < 1.3 * peak(9_000)


WILD = """
epoch = 2025-01-01T23:59:59Z
duration_s = {duration}
truth_step_s = {step}
turbulence_m2ps3 = {turbulence}
[[radar]]
name = "R"
latitude_deg = {lat}
longitude_deg = {lon}
rotation_period_s = {period}
rotation_jitter = 0.01
registers = {{ bds50 = true, bds60 = true }}
[[traffic]]
number = {number}
radius_nm = {radius}
speed_kt = [40, 1200]
flight_level = [0, 600]
manoeuvres_per_hour = {rate}
bank_deg = [1, 60]
turn_deg = [1, 360]
climb_fpm = [100, 10000]
flight_time_s = [60, {life}]
"""


@settings(max_examples=25)
@given(
    duration=st.sampled_from([1, 3, 59, 601, 1500]), step=st.sampled_from([0.5, 2, 7.7]),
    turbulence=st.sampled_from([0, 5]), lat=st.floats(-80, 80), lon=st.floats(-180, 180),
    period=st.sampled_from([1, 4, 12, 30]), number=st.integers(1, 20), radius=st.sampled_from([1, 10, 200]),
    rate=st.sampled_from([0, 10, 360]), life=st.sampled_from([60, 500, 86400]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_whatever_is_allowed_flies(seed, duration, lat, lon, **rest):
    text = WILD.format(duration=duration, lat=f"{lat:.6f}", lon=f"{lon:.6f}", **rest)
    plots, truth = run(text, seed, chunk_s=100)
    plots.validate(), truth.validate()
    assert np.all(np.diff(plots.time_s) >= 0)
    assert np.all(np.diff(truth.time_s) >= 0)
    assert truth.time_s[-1] <= duration
    assert np.hypot(truth.v_east_mps, truth.v_north_mps).min() > 19.9
    for i in range(min(3, truth.truth_id.max() + 1)):
        assert np.all(np.diff(truth.time_s[truth.truth_id == i]) > 0)


@pytest.mark.parametrize("name", list_scenarios())
def test_built_in_scenarios_are_what_they_say(name):
    scenario = load_scenario(name)
    assert scenario.name == name
    assert parse_scenario(scenario.text, name, name) == scenario
    plots, truth = next(simulate(scenario, 1, chunk_s=120))
    plots.validate(), truth.validate(), radars(scenario).validate()
    assert len(plots) > 0.8 * 0.9 * sum(f.number for f in scenario.traffic) * 120 / scenario.radar[0].rotation_period_s


def test_the_demo_has_its_size():
    parts = list(simulate(load_scenario("demo"), 1))
    assert 8_000 < sum(len(p) for p, _ in parts) < 12_000


def test_there_are_these_scenarios():
    assert {"demo", "enroute", "tma", "crossing", "parallel-approach", "holding-stack", "low-level"} <= set(
        list_scenarios()
    )


GOOD = HEAD + RADAR + FLOW + PLANE
ERRORS = {
    "unknown key": (GOOD.replace("duration_s", "durations_s"), r"unknown key 'durations_s'; did you mean 'duration_s'"),
    "unknown block key": (
        GOOD.replace("radius_nm", "radius_km"),
        r"traffic\[0\]: unknown key 'radius_km'; did you mean 'r",
    ),
    "nothing like it": ("zzz = 1\n" + GOOD, r"unknown key 'zzz'; known keys: description, epoch"),
    "missing": (
        GOOD.replace("duration_s = 600\n", ""),
        r"'duration_s' is missing; give a number, 1 to 1e\+07 s \(length\)",
    ),
    "missing in radar": (
        GOOD.replace("rotation_period_s = 4\n", ""),
        r"radar\[0\]: key 'rotation_period_s' is missing",
    ),
    "text for number": (
        GOOD.replace("= 600", "= 'long'"),
        r"duration_s: found 'long' \(str\), expected a number, 1 to",
    ),
    "bool for number": (GOOD.replace("= 600", "= true"), r"duration_s: found True \(bool\), expected a number"),
    "nan": (GOOD.replace("= 600", "= nan"), r"duration_s: found nan"),
    "fraction for integer": (
        GOOD.replace("number = 3", "number = 3.5"),
        r"number: found 3.5 \(float\), expected an integer",
    ),
    "out of range": (
        GOOD.replace("latitude_deg = 50\n", "latitude_deg = 91\n"),
        r"radar\[0\].latitude_deg: found 91 .*-85 to 85 deg",
    ),
    "number for bool": (
        GOOD.replace("[[traffic]]", "coverage = {horizon = 1}\n[[traffic]]"),
        r"radar\[0\].coverage.horizon: found 1",
    ),
    "pair of one": (
        GOOD + "\n[[traffic]]\nnumber = 1\nradius_nm = 5\nspeed_kt = [200]",
        r"traffic\[1\].speed_kt: found \[200\]",
    ),
    "pair upside down": (
        HEAD + RADAR + FLOW + "bank_deg = [30, 20]",
        r"bank_deg: found \[30, 20\] \(list\), expected \[low, high\], 1 to 60 deg",
    ),
    "table for list": (
        HEAD + RADAR.replace("[[radar]]", "[radar]") + FLOW,
        r"radar: found .*expected a list of tables \(\[\[radar\]\]\)",
    ),
    "number for table": (
        GOOD.replace("[[traffic]]", "noise = 3\n[[traffic]]"),
        r"radar\[0\].noise: found 3 \(int\), expected a table",
    ),
    "no radar": ("radar = []\n" + HEAD + FLOW, r"no radar"),
    "two of a name": (HEAD + RADAR + RADAR + FLOW, r"'R' is given 2 times"),
    "local time": (GOOD.replace("00:00Z", "00:00"), r"epoch: .*expected a UTC time, in whole seconds"),
    "fraction of a second": (GOOD.replace("00:00Z", "00:00.5Z"), r"epoch: "),
    "empty ring": (
        GOOD.replace("[[traffic]]", "coverage = {min_range_nm = 20, max_range_nm = 10}\n[[traffic]]"),
        r"min_range_nm: found 20, expected less than max_range_nm = 10",
    ),
    "half a centre": (GOOD.replace("radius_nm", "latitude_deg = 50\nradius_nm"), r"traffic\[0\]: found only one of"),
    "not octal": (GOOD + 'mode3a = "8000"', r"aircraft\[0\].mode3a: found '8000', expected four octal digits"),
    "short code": (GOOD + 'mode3a = "123"', r"four octal digits"),
    "lower case": (GOOD + 'callsign = "abc"', r"aircraft\[0\].callsign: found 'abc', expected A-Z and 0-9"),
    "made-up callsign": (GOOD + 'callsign = "SIM00001"', r"kept for made-up"),
    "same code": (
        HEAD + RADAR + (PLANE + 'mode3a = "1234"\n') * 2,
        r"aircraft\[1\].mode3a: '1234' is aircraft\[0\]'s as well",
    ),
    "kept address": (GOOD + "address = 0xD00001", r"address: found 13631489 "),
    "starts too late": (GOOD + "start_s = 600", r"aircraft\[0\].start_s: found 600, expected at least 1 s before"),
    "ends too early": (GOOD + "start_s = 100\nend_s = 100.5", r"aircraft\[0\].start_s: found 100"),
    "leg": (
        GOOD + "legs = [{turn_deg = 90}, {bank_deg = 89}]",
        r"aircraft\[0\].legs\[1\].bank_deg: found 89 .*1 to 75 deg",
    ),
    "not TOML": ("epoch = = 3", r"not valid TOML: .*line 1"),
    "number without end": (GOOD + "start_s = " + "9" * 5000, r"not valid TOML: .*4300 digits"),
    "number beyond floats": (GOOD + "start_s = " + "9" * 400, r"aircraft\[0\].start_s: found 9999"),
    "nesting without end": ("a = " + "[" * 100_000, r"not valid TOML: .*recursion"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_wrong_scenarios_say_where_what_and_what_to_do(case, tmp_path):
    text, message = ERRORS[case]
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    with pytest.raises(ScenarioError, match=message) as caught:
        load_scenario(file)
    assert str(caught.value).startswith(str(file))


def test_the_text_those_errors_spoil_is_right():
    assert parse_scenario(GOOD, "good", "good").text == GOOD


def test_missing_files_and_names(tmp_path):
    with pytest.raises(ScenarioError, match="did you mean 'enroute'"):
        load_scenario("en-route")
    with pytest.raises(ScenarioError, match=r"built-in scenarios: .*demo, enroute"):
        load_scenario(tmp_path / "nothing.toml")
    with pytest.raises(ScenarioError, match="cannot read"):
        load_scenario(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScenarioError, match="not UTF-8"):
        load_scenario(binary)


@pytest.mark.parametrize(
    ("seed", "chunk_s", "message"), [(-1, 600, "seed"), (1, 0, "chunk_s"), (1, float("nan"), "chunk_s")]
)
def test_wrong_arguments_are_refused_at_once(seed, chunk_s, message):
    with pytest.raises(ScenarioError, match=message):
        simulate(load_scenario("demo"), seed, chunk_s=chunk_s)


def test_a_scenario_without_aircraft_needs_recorded_ones():
    with pytest.raises(ScenarioError, match=r"nobody to see; give a \[\[traffic\]\], an \[\[aircraft\]\] or recorded"):
        simulate(parse_scenario(HEAD + RADAR, "x", "x"), 1)


def doc_row(name: str, rule: blocks.Key, default: object) -> str:
    """How docs/scenario.md says a key."""
    if rule.kind in ("block", "blocks"):
        default = "required" if default is blocks.REQUIRED else "see below" if rule.kind == "block" else "none"
    elif default is blocks.REQUIRED:
        default = "required"
    else:
        default = {"nan": "none", "inf": "none", "-1": "none"}.get(str(default), f"`{default}`".replace("'", ""))
        default = default.replace("True", "true").replace("False", "false").replace("``", "empty")
        default = default.replace("(", "[").replace(")", "]")
    return f"| `{name}` | {rule.unit or '–'} | {default} | {allowed(rule)} | {rule.meaning} | {rule.source or '–'} |"


def blocks_of(block: type) -> list[type]:
    """A block and those within it, each once."""
    inner = [rule.block for rule, _ in keys_of(block).values() if rule.block]
    return [block, *(b for i in inner for b in blocks_of(i))]


def test_the_documentation_says_every_key_as_the_code_does():
    lines = DOC.read_text("utf-8").splitlines()
    rows = [doc_row(n, r, d) for block in blocks_of(Scenario) for n, (r, d) in keys_of(block).items()]
    assert RadarSpec in blocks_of(Scenario)
    missing = [row for row in rows if row not in lines]
    assert not missing, "docs/scenario.md lacks:\n" + "\n".join(missing)
    stray = [line for line in lines if line.startswith("| `") and line not in rows]
    assert not stray, "docs/scenario.md has rows that the code does not:\n" + "\n".join(stray)


def test_the_example_in_the_documentation_works():
    text = DOC.read_text("utf-8")
    example = text.split("```toml\n")[1].split("```")[0]
    plots, _ = next(simulate(parse_scenario(example, "example", "example"), 1))
    assert len(plots) > 100
