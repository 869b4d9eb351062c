"""Plots of a scenario in which every effect is off but those that a test asks for."""

import numpy as np
from scipy import stats

from ssrtrack.data import Plots
from ssrtrack.simulators.scenario import parse_scenario, simulate

SURE = 1e-5  # chance that a right simulator fails a check; the seeds are fixed, so it does so always or never
PERIOD_S = 4.0
EXACT = {
    "noise": "sigma_range_m = 0, sigma_azimuth_deg = 0",
    "detection": "probability = 1",
    "coverage": "min_range_nm = 0, max_range_nm = 250, max_elevation_deg = 90, horizon = false",
    "quantisation": "range = false, azimuth = false, time = false, altitude = false, bds = false",
}
CROWD = "[[traffic]]\nnumber = {number}\nradius_nm = 60\nmanoeuvres_per_hour = 30\nmode_s_share = {share}"


def plots_with(seed=1, number=40, share=1.0, world="", traffic=CROWD, duration_s=1200, **blocks: str) -> Plots:
    """Plots, with blocks of the radar given as bodies of inline tables and `world` as lines of the top level."""
    bodies = {name: f"{{ {body} }}" for name, body in (EXACT | blocks).items() if name != "reflector"}
    if "reflector" in blocks:
        bodies["reflector"] = blocks["reflector"]
    text = f"""
        epoch = 2025-01-01T23:00:30Z
        duration_s = {duration_s}
        {world}
        [[radar]]
        name = "R"
        latitude_deg = 48
        longitude_deg = 11
        height_m = 100
        rotation_period_s = {PERIOD_S}
        """ + "\n".join(f"{name} = {body}" for name, body in bodies.items())
    scenario = parse_scenario(f"{text}\n{traffic.format(number=number, share=share)}", "x", "x")
    return Plots.concat([p for p, _ in simulate(scenario, seed)]).validate()


def is_share(hits: int, of: int, share: float) -> bool:
    """Whether a count is what chance allows of a share."""
    return bool(stats.binomtest(int(hits), int(of), share).pvalue > SURE)


def is_poisson(count: int, mean: float) -> bool:
    """Whether a count is what chance allows of a mean."""
    low, high = stats.poisson.ppf([SURE / 2, 1 - SURE / 2], mean)
    return bool(low <= count <= high)


def same(a: Plots, b: Plots, *, but: tuple[str, ...] = ()) -> None:
    """Two tables are equal in all columns but some."""
    for name, column in a.columns().items():
        if name not in but:
            np.testing.assert_array_equal(getattr(b, name), column, err_msg=name)
