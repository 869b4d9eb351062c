"""True states at plot times: cubic Hermite, streamed, NaN where the truth is silent."""

from math import radians
from typing import Any

import numpy as np
import pytest

from ssrtrack.data import Phase, Truth
from ssrtrack.errors import ScoringError
from ssrtrack.geodesy import enu_rotation, enu_to_geodetic, geodetic_to_enu
from ssrtrack.tracking.flights import Cutting, flights
from ssrtrack.tracking.truth import MAX_SPACING_S, TruthWindow
from tests.scoring_fixture import SITE, TURN_RADPS, chunked, paths, plots_table, truth_table


def window(table: Truth, sizes: tuple[int, ...] = (10**6,)) -> TruthWindow:
    return TruthWindow(chunked_truth(table, sizes), SITE)


def chunked_truth(table: Truth, sizes: tuple[int, ...]) -> list[Truth]:
    return chunked(table, sizes)  # type: ignore[arg-type,return-value]


def test_rows_are_met_exactly_and_a_turn_between_them_closely() -> None:
    rng = np.random.default_rng(0)
    position, velocity = paths(5, 30, rng, turn=True)
    truth = truth_table(position, velocity, turn=True)
    fine = window(truth)
    rows = np.argsort(truth.truth_id, kind="stable")
    at_rows = fine.at(truth.truth_id[rows], truth.time_s[rows])
    np.testing.assert_allclose(at_rows.position_m, position.reshape(-1, 2), atol=1e-5)
    np.testing.assert_allclose(at_rows.velocity_mps, velocity.reshape(-1, 2), atol=1e-8)
    assert (at_rows.phase == truth.phase[rows]).all()
    coarse = window(truth[truth.time_s % 4.0 == 0.0])  # 8 deg between rows
    odd = truth.time_s % 4.0 == 2.0
    odd &= truth.time_s < truth.time_s.max()
    between = coarse.at(truth.truth_id[odd], truth.time_s[odd])
    exact = fine.at(truth.truth_id[odd], truth.time_s[odd])
    # Hermite's error is at most h^4 / 384 times the fourth derivative, V w^3; at the turn's ends w jumps within a row.
    np.testing.assert_allclose(between.position_m, exact.position_m, atol=4**4 / 384 * 200 * TURN_RADPS**3 + 1e-4)


def test_velocity_and_height_rate_far_from_the_origin_are_turned_into_the_frame() -> None:
    lat, lon = radians(48.5), radians(12.0)
    local = np.array([120.0, 160.0, 8.0])
    rotation = enu_rotation(np.array(lat), np.array(lon))
    ecef = rotation.T @ local
    expected = enu_rotation(SITE[0], SITE[1]) @ ecef
    start = geodetic_to_enu(np.array(lat), np.array(lon), np.array(9000.0), SITE)
    steps = np.array([0.0, 2.0, 4.0])
    place = start + steps[:, None] * expected
    la, lo, h = enu_to_geodetic(place, SITE)
    n = np.full(3, 0)
    table = Truth(
        time_s=steps, truth_id=n, latitude_deg=np.degrees(la), longitude_deg=np.degrees(lo), height_m=h,
        v_east_mps=n + local[0], v_north_mps=n + local[1], v_up_mps=n + local[2],
    )  # fmt: skip
    found = window(table).at(np.array([0]), np.array([3.0]))
    np.testing.assert_allclose(found.position_m[0], (start + 3.0 * expected)[:2], atol=0.05)
    np.testing.assert_allclose(found.velocity_mps[0], expected[:2], atol=0.02)
    np.testing.assert_allclose(found.up_m[0], (start + 3.0 * expected)[2], atol=0.05)
    assert found.height_rate_mps[0] == pytest.approx(8.0)


def straight(times: Any, ids: Any) -> Truth:
    t, i = np.asarray(times, float), np.asarray(ids)
    zero = np.zeros(t.size)
    return Truth(
        time_s=t, truth_id=i, latitude_deg=zero + 47.0, longitude_deg=zero + 8.0, height_m=zero,
        v_east_mps=zero, v_north_mps=zero, v_up_mps=zero, phase=(t / 2 % 2).astype(int) * int(Phase.TURN),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("truth_id", "time_s", "known"),
    [
        (1, 2.0, True),
        (1, 5.9, True),
        (1, 6.0, True),
        (1, 1.99, False),
        (1, 6.01, False),
        (2, 2.0, False),
        (-1, 4.0, False),
        (3, 4.0, True),
        (3, 25.0, False),
        (3, 40.0, True),
        (9, 4.0, False),
    ],
)
def test_known_only_between_rows_of_that_aircraft(truth_id: int, time_s: float, known: bool) -> None:
    table = straight([2, 4, 4, 6, 6, 38, 42], [1, 1, 3, 1, 3, 3, 3])
    states = window(table).at(np.array([truth_id]), np.array([time_s]))
    assert np.isfinite(states.position_m).all() == known
    assert np.isfinite(states.velocity_mps).all() == known
    if not known:
        assert states.phase[0] == 0


def test_a_lone_row_or_none_is_no_truth() -> None:
    for table in (straight([2], [1]), Truth.empty()):
        assert np.isnan(window(table).at(np.array([1, 1]), np.array([2.0, 3.0])).position_m).all()


def test_two_rows_at_one_time_are_refused() -> None:
    with pytest.raises(ScoringError, match=r"aircraft 1 has two rows at 4\.000 s"):
        window(straight([2, 4, 4], [1, 1, 1])).at(np.array([1]), np.array([3.0]))


def test_chunks_do_not_matter_and_rows_are_forgotten() -> None:
    rng = np.random.default_rng(5)
    position, velocity = paths(6, 200, rng, turn=True)
    truth, plots = truth_table(position, velocity, turn=True), plots_table(position, rng)
    rule = Cutting(max_plots=20)

    def states(plot_sizes: tuple[int, ...], truth_sizes: tuple[int, ...]) -> tuple[dict[Any, Any], int]:
        source, found, largest = window(truth, truth_sizes), {}, 0
        for batch in flights(chunked(plots, plot_sizes), identity="truth", cutting=rule):
            if len(batch):
                at = source.at(batch.plots.truth_id, batch.plots.time_s)
                keys = zip(batch.plots.truth_id.tolist(), batch.plots.time_s.tolist(), strict=True)
                found |= dict(zip(keys, map(tuple, at.position_m), strict=True))
            source.forget(batch)
            largest = max(largest, source.rows)
        return found, largest

    whole, _ = states((10**6,), (10**6,))
    pieces, largest = states((31, 17), (50, 9))
    assert pieces == whole
    assert all(np.isfinite(p).all() for p in whole.values())
    # Six aircraft, at most 21 waiting plots of 4 s each, rows every 2 s, and the margin for interpolation.
    assert largest <= 6 * (2 * 21 + 2 * (MAX_SPACING_S / 2 + 2) + 20) < len(truth) / 4
