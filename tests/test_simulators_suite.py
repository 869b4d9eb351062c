"""The benchmark suite: every split stands for itself, and says what it is."""

import hashlib
import itertools

import numpy as np
import pytest

from ssrtrack.errors import ScenarioError
from ssrtrack.simulators import suite
from ssrtrack.simulators.scenario import simulate
from ssrtrack.simulators.suite import SEEDS, SPLITS, list_suite, load_suite, suite_provenance

NAMES = ["tma-4s", "enroute-8s", "legacy-12s", "degraded"]
# Of each file's text: whoever changes one changes every figure made with it, and must raise suite.VERSION.
DIGESTS = {1: "a7cf97b673f12939"}
# Plots of the test split's first five minutes: another simulator is another suite, whatever the files say.
PLOTS = {1: {"tma-4s": 5802, "enroute-8s": 5410, "legacy-12s": 3180, "degraded": 4882}}


def first_minutes(name: str, split: str):
    scenario, seed = load_suite(name, split)
    return next(iter(simulate(scenario, seed, chunk_s=300.0)))


def places(truth) -> set[tuple[float, float]]:
    return set(zip(truth.latitude_deg.tolist(), truth.longitude_deg.tolist(), strict=True))


def test_the_suite_holds_the_four_scenarios():
    assert list_suite() == NAMES


def test_a_changed_file_needs_a_new_version():
    text = "".join(load_suite(name, "test")[0].text for name in NAMES)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[suite.VERSION]


def test_a_changed_simulator_needs_a_new_version():
    """Counts, as the last bits of a range may differ from one processor to the next."""
    found = {name: len(first_minutes(name, "test")[0]) for name in NAMES}
    assert found == PLOTS[suite.VERSION], "this simulator makes other plots: raise VERSION, and note both here"


def test_no_two_splits_share_a_seed():
    seeds = [seed for splits in SEEDS.values() for seed in splits.values()]
    assert len(set(seeds)) == len(seeds) == len(NAMES) * len(SPLITS)


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_truth_row_and_repeat_themselves(name):
    rows = [first_minutes(name, split) for split in SPLITS]
    assert all(len(plots) > 1000 and len(truth) > 1000 for plots, truth in rows)
    for (_, a), (_, b) in itertools.combinations(rows, 2):
        assert not places(a) & places(b)
    plots, truth = first_minutes(name, "train")
    assert np.array_equal(plots.range_m, rows[0][0].range_m)
    assert np.array_equal(truth.latitude_deg, rows[0][1].latitude_deg)


@pytest.mark.parametrize("name", NAMES)
def test_a_split_has_its_own_length_and_the_same_world(name):
    train, validation, test = (load_suite(name, split)[0] for split in SPLITS)
    assert train.radar == validation.radar == test.radar and train.traffic == test.traffic
    assert test.duration_s > train.duration_s > validation.duration_s
    # Flights in all: those in the air at first, and as many again each time they have been replaced.
    for scenario, least in ((train, 1000), (validation, 1000), (test, 4000)):
        mean_s = [0.5 * sum(flow.flight_time_s) for flow in scenario.traffic]
        flights = sum(f.number * (0.9 + scenario.duration_s / s) for f, s in zip(scenario.traffic, mean_s, strict=True))
        assert flights > least
        assert f"duration_s = {scenario.duration_s:.1f}" in scenario.text  # the text alone repeats the split


def test_the_prefix_may_stand_and_provenance_says_all():
    assert load_suite("suite:degraded", "test")[1] == load_suite("degraded")[1] == SEEDS["degraded"]["test"]
    assert suite_provenance("suite:degraded", "train") == {
        "suite": "degraded",
        "suite_version": float(suite.VERSION),
        "suite_split": "train",
    }


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("suite:tma4s", "test", "did you mean suite:tma-4s"),
        ("suite:x", "test", "the suite holds tma-4s, enroute-8s"),
        ("degraded", "dev", "found 'dev', expected one of train, validation, test"),
    ],
)
def test_an_unknown_scenario_or_split_is_refused(name, split, message):
    with pytest.raises(ScenarioError, match=message):
        load_suite(name, split)
