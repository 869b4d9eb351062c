"""Logs with every kind of interference are scored: extra plots never count as the aircraft's own."""

from pathlib import Path

import pytest

import ssrtrack
from ssrtrack.io.hdf5 import LogWriter, Provenance
from ssrtrack.scoring.evaluate import evaluate
from ssrtrack.simulators.scenario import parse_scenario, radars, simulate

EXTRA = """
false_plots = { per_scan = 2 }
fruit = { per_aircraft = 0.05 }
split = { probability = 0.02 }
ring_around = { per_plot = 1, max_range_nm = 15 }
reflector = [{ bearing_deg = 80, distance_m = 1500, facing_deg = 270, width_m = 1000, top_m = 800, probability = 0.8 }]
"""
CODES = """
replies = { primary_share = 0.3, all_call_share = 0.02, mode3a_error_share = 0.03, altitude_error_share = 0.03 }
garble = { probability = 0.8, swap_share = 0.1 }
"""


def log(folder: Path, name: str, radar: str, identity: str = "") -> Path:
    """A log of ten minutes with 40 aircraft, 30 % of them Mode A/C."""
    scenario = parse_scenario(
        f"""
        epoch = 2025-01-01T10:00:00Z
        duration_s = 600
        {identity}
        [[radar]]
        name = "R"
        latitude_deg = 48
        longitude_deg = 11
        rotation_period_s = 4
        noise = {{ sigma_range_m = 30, sigma_azimuth_deg = 0.05 }}
        {radar}
        [[traffic]]
        number = 40
        radius_nm = 45
        mode_s_share = 0.7
        """,
        name,
        name,
    )
    path = folder / f"{name}.h5"
    made = Provenance("test", scenario.epoch, ssrtrack.__version__, "2025-01-01T00:00:00Z", scenario.text, seed=3)
    with LogWriter(path, made, radars(scenario)) as writer:
        for plots, truth in simulate(scenario, 3):
            writer.append_plots(plots)
            writer.append_truth(truth)
    return path


def scored(path: Path, identity: str) -> tuple[int, float]:
    result = evaluate([path], ["kf"], identity=identity, bootstrap=0, examples=0)
    scores = result.trackers[0].scores
    assert scores.position_rmse_m is not None
    return result.plots_used, scores.position_rmse_m


def test_by_truth_extra_plots_change_nothing(tmp_path):
    assert scored(log(tmp_path, "quiet", ""), "truth") == scored(log(tmp_path, "loud", EXTRA), "truth")


@pytest.mark.parametrize("identity", ["truth", "address"])
def test_a_log_with_everything_is_scored_and_trackers_feel_it(tmp_path, identity):
    everything = "identity = { squawk_change_share = 0.3, ident_share = 0.3, no_altitude_share = 0.2 }"
    quiet, loud = log(tmp_path, "quiet", ""), log(tmp_path, "loud", EXTRA + CODES, everything)
    (used, rmse), (more, worse) = scored(quiet, identity), scored(loud, identity)
    assert more > 0.9 * used
    assert worse > rmse
    # By address reflections and side-lobe plots enter the tracks: kilometres off, and only where the tracker is told.
    assert worse > 5 * rmse if identity == "address" else worse < 5 * rmse
