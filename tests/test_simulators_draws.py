"""Random numbers by name: the published generator, uniform, normal, independent in every one of their arguments."""

import numpy as np
import pytest
from scipy import stats

from ssrtrack.simulators.draws import counters, generator, key_of, normals, philox, students, uniforms
from ssrtrack.simulators.interference_counts import poisson

SURE = 1e-5  # chance that a right generator fails a check; the seeds are fixed, so it does so always or never
N = 40_000
WHO = np.stack([np.arange(N) % 3, np.arange(N) // 3 % 50, np.arange(N) // 150], 1)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # Known answers that the authors of Random123 publish with it (philox4x32, 10 rounds).
        ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF,) * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_the_generator_is_philox_4x32_10(counter, key, expected):
    given = np.array(counter, np.uint64)[:, None]
    assert philox(given, key)[:, 0].tolist() == expected
    # The same at any place of a long array, also beyond the pieces that it is done in.
    many = np.repeat(given, 9000, 1)
    assert np.all(philox(many, key) == np.array(expected, np.uint64)[:, None])


def test_no_two_flights_turns_or_lanes_share_a_counter():
    who = np.array([[f, s, n] for f in (0, 1, 65535) for s in (0, 1, 20_000) for n in (0, 1, 10**6)])
    places = [(turn, lane) for turn in (-4, -1, 0, 1, 10**8) for lane in (0, 1, 65535)]
    seen = [tuple(c) for turn, lane in places for c in counters(who, turn, lane).T.tolist()]
    assert len(set(seen)) == len(seen) == 27 * 15
    assert max(max(c) for c in seen) < 2**32
    keys = {key_of(s, e, r) for s in (0, 1, 10**30) for e in ("noise", "detection") for r in (-1, 0, 1)}
    assert len(keys) == 18


def test_uniform_numbers_are_uniform_and_independent():
    u = uniforms(1, "test", 0, WHO, np.arange(N))
    assert u.min() >= 0.0
    assert u.max() < 1.0
    for x in u:
        assert stats.kstest(x, "uniform").pvalue > SURE
        pairs = np.histogram2d(x[:-1], x[1:], 16, [[0, 1]] * 2)[0]
        assert stats.chisquare(pairs.ravel()).pvalue > SURE
        low_bits = np.bincount((x * 2**53).astype(np.int64) & 15, minlength=16)
        assert stats.chisquare(low_bits).pvalue > SURE
    both = np.histogram2d(*u, 16, [[0, 1]] * 2)[0]
    assert stats.chisquare(both.ravel()).pvalue > SURE


CHANGES = {
    "seed": {"seed": 2},
    "effect": {"effect": "other"},
    "radar": {"radar": 1},
    "turn": {"turn": 1},
    "lane": {"lane": 1},
    "flow": {"who": WHO + np.array([3, 0, 0])},
    "slot": {"who": WHO + np.array([0, 50, 0])},
    "number": {"who": WHO + np.array([0, 0, 1000])},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_any_argument_gives_independent_numbers(name):
    usual = {"seed": 1, "effect": "test", "radar": 0, "who": WHO, "turn": 0, "lane": 0}
    a, b = normals(**usual), normals(**(usual | CHANGES[name]))
    for x in a:
        for y in b:
            assert abs(np.corrcoef(x, y)[0, 1]) * np.sqrt(N) < stats.norm.isf(SURE / 2)
            assert abs(np.corrcoef(x**2, y**2)[0, 1]) * np.sqrt(N) < stats.norm.isf(SURE / 2)


def test_numbers_do_not_depend_on_what_else_is_asked():
    turn = np.arange(N)
    whole, some = uniforms(7, "test", 2, WHO, turn, 3), np.array([5, 17, 4096, 39_999, 0])
    np.testing.assert_array_equal(uniforms(7, "test", 2, WHO[some], turn[some], 3), whole[:, some])
    assert uniforms(7, "test", 2, WHO[:0], turn[:0]).shape == (2, 0)


def test_normal_numbers_are_normal():
    z = normals(3, "test", 0, WHO, 0)
    for x in z:
        assert stats.kstest(x, "norm").pvalue > SURE
        assert stats.kurtosis(x) == pytest.approx(0.0, abs=stats.norm.isf(SURE / 2) * np.sqrt(24 / N))
    assert abs(np.corrcoef(*z)[0, 1]) * np.sqrt(N) < stats.norm.isf(SURE / 2)


@pytest.mark.parametrize("dof", [1.0, 2.5, 6.0, 1e6])
def test_student_numbers_have_their_degrees_of_freedom(dof):
    t = students(dof, 3, "test", 0, WHO, 0)
    assert stats.kstest(t, stats.t(dof).cdf).pvalue > SURE
    far = int(np.sum(np.abs(t) > stats.t(dof).isf(0.001)))
    assert stats.binomtest(far, N, 0.002).pvalue > SURE
    # Tails of 30 % more degrees are told apart, so the check above can fail.
    other = 2.0 * stats.t(1.3 * dof).sf(stats.t(dof).isf(0.001))
    assert dof > 100 or stats.binomtest(far, N, other).pvalue < SURE


@pytest.mark.parametrize("mean", [0.02, 3.0, 700.0, 9000.0])
def test_counts_by_inversion_are_poisson(mean):
    counts = poisson(mean, uniforms(5, "test", 0, WHO)[0])
    edges = np.unique(stats.poisson.ppf(np.linspace(0.02, 0.98, 20), mean))
    expected = np.diff(np.concatenate([[0.0], stats.poisson.cdf(edges, mean), [1.0]])) * N
    found = np.bincount(np.searchsorted(edges, counts), minlength=len(expected))
    assert stats.chisquare(found, expected).pvalue > SURE
    assert poisson(mean, np.array([0.0, 1.0 - 2.0**-53])).tolist()[0] <= mean


def test_sequential_generators_are_their_own():
    draws = [generator(1, e, r, n).random(4) for e in ("a", "b") for r in (0, 1) for n in (-1, 0, 1)]
    assert len({tuple(d) for d in draws}) == 12
    assert not set(generator(1, "a", 0, 0).random(1000)) & set(generator(1, "a", 0, 1).random(1000))
    np.testing.assert_array_equal(generator(1, "a", 0, -1).random(4), draws[0])
