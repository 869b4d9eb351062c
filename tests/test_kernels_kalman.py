"""The scan and the smoother themselves: packed layouts, blocks, handed-on states, likelihoods, threads."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssrtrack.kernels import kalman_numba, kalman_numba_smooth, reference
from ssrtrack.kernels.kalman import scan, smooth, track_blocks
from ssrtrack.kernels.kalman_layout import Layout
from tests.engine_cases import OPTIONS
from tests.filters_fixture import cartesian
from tests.kernels_fixture import Packed, flights, gap, outputs_of, packed

LENGTHS = st.lists(st.integers(0, 9), max_size=12)
UNEQUAL = (4, 9, 1, 6, 0, 9, 5, 7, 2, 3)
# kf with all that needs care, and a bank that mixes.
FORMS = [("kf", "gate+tail"), ("imm2", "gate+tail")]


def last_places(layout: Layout) -> Any:
    """The packed place of every track's last plot."""
    return [int(layout.offsets[k]) + n for n in range(layout.tracks) for k in [int((layout.alive > n).sum()) - 1]]


@given(LENGTHS)
def test_a_layout_holds_every_plot_once(lengths: list[int]) -> None:
    layout = Layout.of(np.array(lengths, np.int64))
    row, column = layout.cells()
    expected = {(n, k) for n, length in enumerate(lengths) for k in range(length)}
    assert set(zip(row.tolist(), column.tolist(), strict=True)) == expected
    assert layout.plots == len(row) == sum(lengths)
    assert (layout.tracks, layout.steps) == (sum(n > 0 for n in lengths), max(lengths, default=0))
    for k in range(layout.steps):
        begin, end = layout.rows(k)
        # Column k is one run, its tracks in the layout's order: neighbours stay neighbours.
        assert (column[begin:end] == k).all()
        np.testing.assert_array_equal(row[begin:end], layout.order[: layout.alive[k]])
    assert sorted(layout.order.tolist()) == list(range(len(lengths)))


@given(LENGTHS, st.integers(0, 12), st.integers(0, 12))
def test_a_part_of_a_layout_is_the_layout_of_these_tracks(lengths: list[int], a: int, b: int) -> None:
    layout = Layout.of(np.array(lengths, np.int64))
    begin, end = min(a, b, layout.tracks), min(max(a, b), layout.tracks)
    part, runs = layout.part(begin, end)
    row, column = layout.cells()
    taken = np.concatenate([np.arange(x, y) for x, y in runs]) if len(runs) else np.zeros(0, np.int64)
    # In the part's own order, the plots of these tracks and no others.
    wanted = np.isin(row, layout.order[begin:end])
    assert sorted(taken.tolist()) == np.flatnonzero(wanted).tolist()
    rows, columns = part.cells()
    np.testing.assert_array_equal(rows, row[taken])
    np.testing.assert_array_equal(columns, column[taken])
    assert part.tracks == end - begin
    assert part.plots == taken.size == int(part.offsets[-1])


@given(LENGTHS, st.integers(1, 3), st.integers(0, 3), st.none() | st.integers(1, 50))
def test_blocks_cover_all_tracks_once_within_the_limit(
    lengths: list[int], row_bytes: int, track_bytes: int, limit: int | None
) -> None:
    layout = Layout.of(np.array(lengths, np.int64))
    blocks = list(track_blocks(layout, row_bytes, track_bytes, limit))
    assert [n for begin, end in blocks for n in range(begin, end)] == list(range(layout.tracks))
    ordered = sorted((n for n in lengths if n), reverse=True)
    cost = [row_bytes * n + track_bytes for n in ordered]
    for begin, end in blocks:
        if limit is None:
            assert (begin, end) == (0, layout.tracks)
            continue
        assert end == begin + 1 or sum(cost[begin:end]) <= limit
        # No block could have taken one track more.
        assert end == layout.tracks or sum(cost[begin : end + 1]) > limit


def test_layouts_of_nothing_and_of_one_plot() -> None:
    for lengths in ([], [0], [0, 0]):
        layout = Layout.of(np.array(lengths, np.int64))
        assert (layout.tracks, layout.steps, layout.plots) == (0, 0, 0)
        assert list(track_blocks(layout, 8, 8, 100)) == list(track_blocks(layout, 8, 8, None)) == []
    assert Layout.of(np.array([0, 1])).cells()[0].tolist() == [1]


@pytest.mark.parametrize("backend", ["numba", "torch", "triton"])
def test_no_tracks_give_empty_outputs(backend: str) -> None:
    x = packed("kf", flights(0, (0, 0)))
    found, final = scan(x.form, x.vector, x.columns, x.layout, ("filtered", "state"), backend=backend)
    assert found["filtered"].shape == (14, 0)
    assert found["state"].shape == final.shape == (x.form.state_size, 0)
    assert smooth(x.form, x.vector, x.columns, x.layout, backend=backend).shape == (14, 0)


@pytest.mark.parametrize("memory_bytes", [1, 10_000])  # each track alone; several in three to five blocks
@pytest.mark.parametrize("given_state", [False, True])
@pytest.mark.parametrize(("name", "option"), FORMS)
def test_many_blocks_are_one_scan(name: str, option: str, given_state: bool, memory_bytes: int) -> None:
    x = packed(name, flights(2, UNEQUAL), **OPTIONS[option])
    outputs = outputs_of(x.form)
    arguments: tuple[Any, ...] = (x.form, x.vector, x.columns, x.layout)
    options: dict[str, Any] = {"backend": "torch", "device": "cpu"}
    start = scan(*arguments, ("used",), **options)[1][:, ::-1].copy() if given_state else None
    whole, final = scan(*arguments, outputs, state=start, **options)
    parts, state = scan(*arguments, outputs, state=start, memory_bytes=memory_bytes, **options)
    for output in outputs:
        np.testing.assert_array_equal(parts[output], whole[output], err_msg=output)
    np.testing.assert_array_equal(state, final)
    if not given_state:
        smoothed = smooth(*arguments, lag=2, **options)
        np.testing.assert_array_equal(smooth(*arguments, lag=2, memory_bytes=memory_bytes, **options), smoothed)


def split(x: Packed, k: int) -> tuple[Packed, Packed]:
    """Columns before the k-th, and from it on the tracks that are alive there."""
    lengths = (np.arange(x.layout.tracks)[:, None] < x.layout.alive).sum(1)
    cut = int(x.layout.offsets[k])
    early, late = Layout.of(np.minimum(lengths, k)), Layout.of(lengths[lengths > k] - k)
    return Packed(x.form, x.vector, x.columns[:, :cut], early), Packed(x.form, x.vector, x.columns[:, cut:], late)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(("name", "option"), FORMS)
@pytest.mark.parametrize("k", [1, 4, 8])
def test_a_scan_goes_on_from_the_state_another_ended_in(backend: str, name: str, option: str, k: int) -> None:
    x = packed(name, flights(2, UNEQUAL), **OPTIONS[option])
    outputs = outputs_of(x.form)
    whole, final = scan(x.form, x.vector, x.columns, x.layout, outputs, backend=backend)
    a, b = split(x, k)
    first, between = scan(a.form, a.vector, a.columns, a.layout, outputs, backend=backend)
    handed = between[:, : b.layout.tracks].copy()
    second, after = scan(b.form, b.vector, b.columns, b.layout, outputs, backend=backend, state=handed)
    for output in outputs:
        joined = np.concatenate([first[output], second[output]], 1)
        np.testing.assert_array_equal(joined, whole[output], err_msg=output)
    np.testing.assert_array_equal(np.concatenate([after, between[:, b.layout.tracks :]], 1), final)
    # The state handed over is not written to.
    np.testing.assert_array_equal(handed, between[:, : b.layout.tracks])


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(("name", "option"), FORMS)
def test_the_final_state_is_the_last_one_of_each_track(backend: str, name: str, option: str) -> None:
    x = packed(name, flights(2, UNEQUAL), **OPTIONS[option])
    found, final = scan(x.form, x.vector, x.columns, x.layout, ("state",), backend=backend)
    np.testing.assert_array_equal(final, found["state"][:, last_places(x.layout)])


@pytest.mark.parametrize("backend", ["numba", "torch", "triton"])
@pytest.mark.parametrize("given_state", [False, True])
def test_without_the_final_state_all_else_is_the_same(backend: str, given_state: bool) -> None:
    x = packed("kf", flights(2, (3, 1, 5)))
    arguments: tuple[Any, ...] = (x.form, x.vector, x.columns, x.layout, ("filtered", "used"))
    start = scan(*arguments, backend="numba")[1] if given_state else None
    kept, final = scan(*arguments, backend=backend, state=start)
    left, none = scan(*arguments, backend=backend, state=start, final_state=False)
    assert none is None and final is not None
    assert kept.keys() == left.keys()
    for output, values in kept.items():
        np.testing.assert_array_equal(left[output], values)


def cv(q: float, dt: float) -> tuple[Any, Any]:
    """F and Q of constant velocity, x, y, vx, vy."""
    F, one = np.eye(4), np.eye(2)
    F[0, 2] = F[1, 3] = dt
    return F, q * np.block([[dt**3 / 3.0 * one, dt**2 / 2.0 * one], [dt**2 / 2.0 * one, dt * one]])


def track_of(x: Packed, n: int) -> Any:
    """The columns (C, T) of the track in place n."""
    return x.columns[:, [int(x.layout.offsets[k]) + n for k in range(x.layout.steps) if x.layout.alive[k] > n]]


def begun(column: Any, speed_sigma_mps: float) -> tuple[Any, Any, Any]:
    """Mean and covariance after the first plot; and H."""
    R = np.array([[column[3], column[4]], [column[4], column[5]]])
    P = np.zeros((4, 4))
    P[:2, :2], P[2, 2], P[3, 3] = R, speed_sigma_mps**2, speed_sigma_mps**2
    return np.r_[column[1:3], 0.0, 0.0], P, np.eye(2, 4)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_the_log_likelihood_of_one_model_is_the_plain_filters(backend: str) -> None:
    x = packed("kf", flights(2, UNEQUAL), q_m2s3=12.0, speed_sigma_mps=150.0)
    found, _ = scan(x.form, x.vector, x.columns, x.layout, ("log_likelihood",), backend=backend)
    for n in range(x.layout.tracks):
        track = track_of(x, n)
        mean, P, H = begun(track[:, 0], 150.0)
        models = [cv(12.0, dt) for dt in track[0, 1:]]
        if not models:
            continue
        F, Q = (np.stack(part) for part in zip(*models, strict=True))
        R = np.moveaxis(track[[[3, 4], [4, 5]]], -1, 0)[1:]
        total = reference.kalman_filter(mean, P, F, Q, track[1:3, 1:].T, H, R, track[3, 1:] > 0.0)[4]
        places = [int(x.layout.offsets[k]) + n for k in range(track.shape[1])]
        assert found["log_likelihood"][0, places].sum() == pytest.approx(total, rel=1e-11)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_the_log_likelihood_of_two_models_is_the_plain_imms(backend: str) -> None:
    # No outliers: the kernel's floor under a model's probability then says nothing.
    rng = np.random.default_rng(1)
    time_s = np.cumsum(rng.uniform(3.0, 5.0, (3, 8)), 1)
    position = 2e4 + 150.0 * time_s[..., None] + 60.0 * rng.standard_normal((3, 8, 2))
    valid = rng.uniform(size=(3, 8)) < 0.8
    valid[:, 0] = True
    z = cartesian(time_s, position, np.array([[3600.0, 500.0], [500.0, 4900.0]]), valid)
    sojourn, q = (90.0, 25.0), (2.0, 80.0)
    x = packed(
        "imm2", z, q_m2s3=q[0], q_high_m2s3=q[1], speed_sigma_mps=150.0, sojourn_s=sojourn[0], sojourn_high_s=sojourn[1]
    )
    found, _ = scan(x.form, x.vector, x.columns, x.layout, ("log_likelihood", "modes"), backend=backend)
    rates = 1.0 / np.array(sojourn)
    share = rates[::-1] / rates.sum()
    for n in range(3):
        track = track_of(x, n)
        mean, P, H = begun(track[:, 0], 150.0)
        log_mu, means, spreads, total = np.log(share), np.stack([mean] * 2), np.stack([P] * 2), 0.0
        for column in track[:, 1:].T:
            stay = np.exp(-rates.sum() * column[0])
            transition = share[None] * (1.0 - stay) + np.eye(2) * stay
            F, Q = (np.stack(part) for part in zip(*[cv(value, column[0]) for value in q], strict=True))
            log_mu, means, spreads = reference.imm_predict(log_mu, means, spreads, transition, F, Q)
            if column[3] > 0.0:
                R = np.array([[column[3], column[4]], [column[4], column[5]]])
                seen = [
                    reference.psd_log_density(column[1:3] - H @ m, H @ S @ H.T + R)
                    for m, S in zip(means, spreads, strict=True)
                ]
                total += float(np.logaddexp.reduce(log_mu + np.array(seen)))
                log_mu, means, spreads = reference.imm_update(log_mu, means, spreads, column[1:3], H, R)
        places = [int(x.layout.offsets[k]) + n for k in range(8)]
        assert found["log_likelihood"][0, places].sum() == pytest.approx(total, rel=1e-10)
        np.testing.assert_allclose(found["modes"][:, places[-1]], np.exp(log_mu), rtol=1e-9)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(("name", "option"), FORMS)
def test_lags_lie_between_the_filter_and_the_whole_flight(backend: str, name: str, option: str) -> None:
    x = packed(name, flights(2, UNEQUAL), **OPTIONS[option])
    arguments: tuple[Any, ...] = (x.form, x.vector, x.columns, x.layout)
    filtered = scan(*arguments, ("filtered",), backend=backend)[0]["filtered"]
    whole = smooth(*arguments, backend=backend)
    assert gap(smooth(*arguments, backend=backend, lag=0), filtered) < 1e-12
    for lag in (x.layout.steps - 1, x.layout.steps, 1000):
        assert gap(smooth(*arguments, backend=backend, lag=lag), whole) < 1e-12
    # And a lag of 3 is what the whole flight would be if it ended there.
    found = smooth(*arguments, backend=backend, lag=3)
    short, _ = split(x, 5)
    ended = smooth(short.form, short.vector, short.columns, short.layout, backend=backend)
    begin, end = int(x.layout.offsets[1]), int(x.layout.offsets[2])
    assert gap(found[:, begin:end], ended[:, begin:end]) < 1e-12
    assert gap(found[:, begin:end], whole[:, begin:end]) > 1e-3


@pytest.mark.parametrize(("name", "option"), FORMS)
def test_threads_and_blocks_of_tracks_change_no_bit(name: str, option: str) -> None:
    """300 tracks are three blocks; each track alone is one, its registers filled with others' leavings."""
    rng = np.random.default_rng(8)
    x = packed(name, flights(6, tuple(int(n) for n in rng.integers(1, 8, 300))), **OPTIONS[option])
    assert x.layout.tracks > 2 * kalman_numba.BLOCK
    outputs = outputs_of(x.form)
    given_to = (x.form, x.vector, x.columns, x.layout, outputs, None)
    (one, final), (two, other) = kalman_numba.scan(*given_to, threads=1), kalman_numba.scan(*given_to, threads=2)
    for output in outputs:
        np.testing.assert_array_equal(one[output], two[output], err_msg=output)
    np.testing.assert_array_equal(final, other)
    smoothed = [
        kalman_numba_smooth.smooth(x.form, x.vector, x.columns[0], one["state"], x.layout, None, threads=count)
        for count in (1, 2)
    ]
    np.testing.assert_array_equal(*smoothed)
    for n in range(0, 300, 7):
        part, runs = x.layout.part(n, n + 1)
        places = runs[:, 0]
        alone, state = kalman_numba.scan(x.form, x.vector, x.columns[:, places], part, outputs, None)
        for output in outputs:
            np.testing.assert_array_equal(alone[output], one[output][:, places], err_msg=f"{output} of track {n}")
        np.testing.assert_array_equal(state[:, 0], final[:, n])
        back = kalman_numba_smooth.smooth(x.form, x.vector, x.columns[0, places], alone["state"], part, None)
        np.testing.assert_array_equal(back, smoothed[0][:, places])
