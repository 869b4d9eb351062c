"""Every block of a residual model, and every switch of its config: one protocol, one size of state, one effect each."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ssrtrack.errors import CheckpointError, EstimatorError
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.protocol import join, put, take
from ssrtrack.filters.run import run
from ssrtrack.models.baselines import AttentionBlock, GruBlock, S6Block
from ssrtrack.models.checkpoint import load_run, save_run
from ssrtrack.models.learned import LearnedEstimator, octets_per_track
from ssrtrack.models.residual import ResidualKoss
from ssrtrack.models.residual_bare import bare_base, carried, two_plots
from ssrtrack.models.residual_blocks import BLOCKS, MOST_OCTETS, fitted, memory_octets, parameters_of
from ssrtrack.models.residual_config import SIZES, ResidualConfig
from ssrtrack.models.residual_inputs import Base, Flown, base_history, flown_from, mean_of
from ssrtrack.models.residual_loss import LossWeights, residual_loss
from ssrtrack.models.residual_peers import AttentionPeer, GruPeer, S6Peer
from tests.models_fixture import base, network, plots, shortened

GOLDEN = Path(__file__).parent / "golden" / "learned_first"
SMALL_GKA = {"head": 4, "heads": 2, "steps": 12}
# Name -> changes of a small config.
VARIANTS: dict[str, dict[str, Any]] = {
    "koss": {},
    "koss sees its prediction": {"options": {"see_prediction": True}},
    "koss segments": {"options": {"segment": 4, "passes": 1}},
    "koss segments, three passes": {"options": {"segment": 8, "passes": 3, "operator": "bucy"}},
    "koss neumann": {"options": {"operator": "neumann"}},
    "koss kalman, causal, segments": {"options": {"operator": "kalman", "derivative": "causal", "segment": 4}},
    "koss exact": {"options": {"operator": "exact"}},
    "koss without its innovation": {"options": {"innovate": False}},
    "gka": {"block": "gka", "options": SMALL_GKA},
    "gka with a second part": {"block": "gka", "options": {**SMALL_GKA, "hidden": 8, "alpha": False}},
    "gru": {"block": "gru", "options": {"inner": 12}},
    "s6": {"block": "s6", "options": {"states": 3}},
    "transformer": {"block": "transformer", "options": {"plots": 6, "heads": 2}},
    "transformer of one plot": {"block": "transformer", "options": {"plots": 1, "heads": 2}},
    "no base": {"residual": False},
    "no base, no history": {"residual": False, "history": 0, "block": "gru"},
    "untimed": {"timed": False},
    "untimed gka": {"timed": False, "block": "gka", "options": SMALL_GKA},
}


def tracker(name: str, bank: Any = None, **changes: Any) -> LearnedEstimator:
    bank = bank or base("imm3")
    return LearnedEstimator(bank, network(bank, **(VARIANTS[name] | changes)))


def off(mean: Any, covariance: Any, other_mean: Any, other_covariance: Any) -> float:
    """Greatest difference of estimates in standard deviations; they stand in the same places."""
    sigma = np.sqrt(np.diagonal(other_covariance, axis1=-2, axis2=-1))
    np.testing.assert_array_equal(np.isnan(mean), np.isnan(other_mean))
    scale = sigma[..., :, None] * sigma[..., None, :]
    return float(max(np.nanmax(abs(mean - other_mean) / sigma), np.nanmax(abs(covariance - other_covariance) / scale)))


@pytest.mark.parametrize("name", VARIANTS)
def test_step_by_step_equals_whole_flights(name: str) -> None:
    estimator = tracker(name)
    z, _ = plots(estimator.bank, flights=4, length=22, missed=0.15, outliers=0.05)
    z = shortened(z, {2: 13, 3: 1})
    whole, steps = run(estimator, z), run(estimator, z, backend="filterpy")
    assert off(whole.mean, whole.covariance, steps.mean, steps.covariance) < 1e-3
    later = off(whole.predicted_mean, whole.predicted_covariance, steps.predicted_mean, steps.predicted_covariance)
    assert later < 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_two_plots_at_once_and_long_silences_are_survived(name: str) -> None:
    """Steps of 0 s and of 300 s, and a gap of ten scans: finite, a covariance, and as over whole flights."""
    estimator = tracker(name)
    z, _ = plots(estimator.bank, flights=3, length=16)
    gap_s = np.full(16, 4.0)
    gap_s[[4, 9, 12]] = 0.0, 300.0, 40.0
    z.time_s[:] = np.cumsum(gap_s)
    whole, steps = run(estimator, z), run(estimator, z, backend="filterpy")
    for history in (whole, steps):
        for mean, covariance in (
            (history.mean, history.covariance),
            (history.predicted_mean[:, 1:], history.predicted_covariance[:, 1:]),
        ):
            assert np.isfinite(mean).all()
            np.linalg.cholesky(covariance)
    assert off(whole.mean, whole.covariance, steps.mean, steps.covariance) < 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_the_future_changes_nothing(name: str) -> None:
    bank = base("imm3")
    flown = flown_from(plots(bank, flights=3, length=20, missed=0.1)[0])
    model, moved = network(bank, **VARIANTS[name]), replace(flown, position_m=flown.position_m.clone())
    moved.position_m[:, 13:] += 4e3
    with torch.no_grad():
        before, after = (model(base_history(bank, f), f).mean for f in (flown, moved))
    torch.testing.assert_close(after[:, :13], before[:, :13], rtol=1e-6, atol=1e-3)  # of sums in another order
    assert not torch.allclose(after[:, 13:], before[:, 13:])


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_reach_every_weight(name: str) -> None:
    bank = base("imm3")
    z, truth = plots(bank, flights=4, length=14)
    model, flown = network(bank, **VARIANTS[name]), flown_from(z, truth)
    residual_loss(model(base_history(bank, flown), flown), flown, LossWeights()).total.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
    assert silent == []
    none = {n for n, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().max()) == 0.0}
    # Where no time passes that a block could know, and in a window of one row, there is nothing to learn of it.
    idle = {"untimed": "gain_gap", "transformer of one plot": "inward.weight"}.get(name, "-")
    assert {n for n in none if not n.endswith(idle)} == set()


LONG = ["koss segments", "koss kalman, causal, segments", "gka", "gru", "s6", "transformer", "no base"]


@pytest.fixture(scope="module")
def long_flight() -> tuple[Bank, Flown, Base]:
    """10,000 plots, a twentieth of them outliers, and what the base made of them."""
    bank = base("imm3")
    flown = flown_from(plots(bank, flights=1, length=10_000, outliers=0.05)[0])
    return bank, flown, base_history(bank, flown)


@pytest.mark.parametrize("name", LONG)
def test_nothing_diverges_in_10000_plots(name: str, long_flight: tuple[Bank, Flown, Base]) -> None:
    bank, flown, history = long_flight
    with torch.no_grad():
        outputs = network(bank, **(VARIANTS[name] | {"blocks": 1}))(history, flown)
    for covariance in (outputs.covariance, outputs.predicted_covariance[:, 1:]):
        torch.linalg.cholesky(covariance)
    assert bool(torch.isfinite(outputs.mean).all())


AGES = ["koss segments", "koss kalman, causal, segments", "gka", "s6", "transformer", "no base"]


@pytest.mark.parametrize("name", AGES)
def test_tracks_of_any_age_are_stepped_together(name: str) -> None:
    """Tracks that begin at different times, taken, put and joined, go on as each would alone."""
    estimator = tracker(name)
    z, _ = plots(estimator.bank, flights=4, length=12)

    def stepped(state: Any, rows: Any, k: int) -> Any:
        ahead = estimator.predict(state, (z.time_s[:, k] - z.time_s[:, k - 1])[rows])
        return estimator.update(ahead, z.at(k).select(rows), np.ones(len(rows), bool))

    alone = []
    for n, begin in enumerate((0, 1, 3, 6)):
        rows = np.array([n])
        state = estimator.init(z.at(begin).select(rows))
        for k in range(begin + 1, 12):
            state = stepped(state, rows, k)
        alone.append(estimator.estimate(state))
    together, rows = estimator.init(z.at(0).select(np.array([0]))), np.array([0])
    for k in range(1, 12):
        together = stepped(together, rows, k)
        if k in (1, 3, 6):
            n = len(rows)
            together = join([together, estimator.init(z.at(k).select(np.array([n])))])
            rows = np.arange(n + 1)
    order = np.array([2, 0, 3, 1])
    mixed = put(take(together, order), np.array([1]), take(together, np.array([0])))
    mean, covariance = estimator.estimate(mixed)
    for at, n in enumerate(order):
        assert off(mean[at], covariance[at], alone[n][0][0], alone[n][1][0]) < 1e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_of_one_size_have_as_many_weights_and_states_that_fit(block: str, size: str) -> None:
    """Of KOSS's at the same width; the state of a track is counted, and is no more than what was said beforehand."""
    wanted = parameters_of(SIZES[size])
    config = fitted(replace(SIZES[size], block=block), wanted)
    if (block, size) != ("gka", "tiny"):  # whose keys are twice as wide as its stream
        assert parameters_of(config) == pytest.approx(wanted, rel=0.011)
    bank = base("imm")
    with torch.random.fork_rng(devices=[]):
        estimator = LearnedEstimator(bank, ResidualKoss(config))
    assert parameters_of(config) == sum(p.numel() for p in estimator.model.blocks.parameters())
    held = octets_per_track(estimator.init(plots(bank, flights=2, length=1)[0].at(0)))
    assert held <= memory_octets(config) <= MOST_OCTETS


def test_a_state_that_is_counted_is_all_that_is_kept() -> None:
    estimator = tracker("gka")
    z, _ = plots(estimator.bank, flights=3, length=4)
    state, sizes = estimator.init(z.at(0)), set()
    for k in range(1, 4):
        sizes.add(octets_per_track(state))
        state = estimator.update(estimator.predict(state, np.full(3, 5.0)), z.at(k), np.ones(3, bool))
    assert len(sizes) == 1
    # Two blocks: of two heads H and U of 4 × 4, three rows of 24 channels.
    assert state.memory.shape == (3, 2 * (2 * (16 + 16) + 3 * 24))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_tracker_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    estimator = tracker(name)
    save_run(tmp_path, estimator.model, estimator.bank)
    back = load_run(tmp_path)
    assert back.model.config == estimator.model.config
    z, _ = plots(base("kf"), flights=2, length=8, missed=0.1)
    np.testing.assert_array_equal(run(back, z).mean, run(estimator, z).mean)


def test_a_folder_of_the_first_format_says_what_it_said() -> None:
    """Written before there were other blocks; the last estimates as they came out then."""
    estimator = load_run(GOLDEN)
    assert estimator.model.config == ResidualConfig(
        modes=3, history=1, width=8, head=4, blocks=2, states=2, rank=2, hidden=4, nominal_gap_s=5.0
    )
    z, _ = plots(base("kf"), flights=2, length=8, seed=3, missed=0.1)
    wanted = [37291.34273032, -5522.57205981, -41.13119958, 95.97882448]
    np.testing.assert_allclose(run(estimator, z).mean[0, -1], wanted, rtol=1e-6)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no block": ({"block": "lstm"}, "block is 'lstm', expected one of koss, gka, gru, s6, transformer"),
    "no option": ({"options": {"speed": 1}}, "block koss has no option 'speed'; known: operator, segment"),
    "another's option": ({"block": "gru", "options": {"segment": 2}}, "block gru has no option 'segment'"),
    "a number for a word": ({"options": {"operator": 3}}, "option operator of koss is 3, expected a str"),
    "true for a count": ({"options": {"segment": True}}, "option segment of koss is True, expected a int"),
    "a word for a switch": ({"options": {"innovate": "no"}}, "option innovate of koss is 'no', expected a bool"),
    "a count too large": ({"options": {"segment": 10**9}}, "option segment is 1000000000"),
    "a list": ({"options": {"segment": [1]}}, "option segment is"),
    "looking ahead": ({"options": {"derivative": "spectral"}}, "looks ahead, which a tracker cannot"),
    "no operator": ({"options": {"operator": "magic"}}, "magic"),
    "no table": ({"options": 3}, "options 3 a table"),
    "no switch": ({"residual": 1}, "residual is 1, expected true or false"),
    "no time to lose": ({"block": "gru", "timed": False}, "timed=False says nothing of gru"),
    "a window of nothing": ({"block": "transformer", "options": {"plots": 0}}, "plots 0 is below 1"),
    "odd heads": ({"block": "transformer", "options": {"heads": 3}}, "3 heads do not part width"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_no_block_is_made_of_is_refused(fault: str) -> None:
    changes, words = WRONG[fault]
    with pytest.raises((CheckpointError, EstimatorError), match=words):
        ResidualKoss(ResidualConfig(width=16, head=8, **changes))


def layers(model: ResidualKoss) -> list[Any]:
    return [block.koss for block in model.blocks]  # type: ignore[union-attr]


SWITCHES: dict[str, tuple[dict[str, Any], Any]] = {
    "operator": ({"operator": "bucy"}, lambda k: k.form.operator == "bucy"),
    "segment": ({"segment": 4}, lambda k: (k.form.segment, k.form.passes) == (4, 0)),
    "passes": ({"segment": 4, "passes": 1}, lambda k: (k.form.segment, k.form.passes) == (4, 1)),
    "derivative": ({"derivative": "difference"}, lambda k: k.derivative == "difference"),
    "innovation": ({"innovate": False}, lambda k: k.form.innovate is False),
    "prediction": ({"see_prediction": True}, lambda k: k.gain.w1.shape[1] == 2 * k.gain.w1.shape[2]),
    "input gain": ({"input_gain": False}, lambda k: k.gain_input is None),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_of_koss_changes_what_it_says_and_nothing_else(name: str) -> None:
    """Everything of the layer that is not the switch's is as in the plain model, and the estimates differ."""
    options, changed = SWITCHES[name]
    bank = base("imm3")
    before = {"segment": 4} if name == "passes" else {}
    plain, other = network(bank, options=before), network(bank, options=options)
    own, its = plain.state_dict(), other.state_dict()
    for key in set(own) & set(its):
        if own[key].shape == its[key].shape:
            its[key] = own[key]
    other.load_state_dict(its)
    kept = {"gain.w1": "prediction", "gain_input.weight": "input gain", "lead": "derivative"}
    assert all(kept.get(k.split("koss.")[1]) == name for k in set(own) ^ set(its))
    assert all(kept.get(k.split("koss.")[1]) == name for k in set(own) & set(its) if own[k].shape != its[k].shape)
    assert all(changed(layer) for layer in layers(other)) and not any(changed(layer) for layer in layers(plain))
    facts = [
        {"operator": k.form.operator, "segment": k.form.segment, "passes": k.form.passes, "innovation": k.form.innovate,
         "derivative": k.derivative, "prediction": k.gain.w1.shape, "input gain": k.gain_input is None}
        for k in (layers(plain)[0], layers(other)[0])
    ]  # fmt: skip
    assert {k for k in facts[0] if facts[0][k] != facts[1][k]} == {name}
    told = torch.randn(12, 2, plain.inward.in_features, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        said = [model.sequence(told, torch.full((12, 2), 5.0), None)[0] for model in (plain, other)]
    assert float((said[0] - said[1]).abs().max()) > 1e-4


def test_without_a_base_nothing_of_it_is_seen() -> None:
    """Two filters that think differently, one network: the same estimates to the last bit; with a base they differ."""
    banks: Any = base("imm3"), make_estimator("imm3", gate=0.99, q_m2s3=9.0)
    z, _ = plots(banks[0], flights=3, length=15, missed=0.1, outliers=0.1)
    for residual in (False, True):
        model = network(banks[0], residual=residual)
        for backend in ("auto", "filterpy"):
            said = [run(LearnedEstimator(bank, model), z, backend=backend) for bank in banks]
            same = np.array_equal(said[0].mean, said[1].mean) and np.array_equal(said[0].covariance, said[1].covariance)
            assert same != residual


@pytest.mark.parametrize("block", ["koss", "gka", "s6"])
def test_an_untimed_block_takes_every_step_for_a_nominal_one(block: str) -> None:
    options = SMALL_GKA if block == "gka" else {}
    told, gap = torch.randn(9, 2, 42, generator=torch.Generator().manual_seed(1)), torch.full((9, 2), 5.0)
    gaps = gap, gap * torch.linspace(0.5, 3.0, 9)[:, None]
    for timed in (True, False):
        model = network(base("imm"), block=block, options=options, timed=timed)
        with torch.no_grad():
            steady, uneven = (model.sequence(told, g, None)[0] for g in gaps)
        assert torch.equal(steady, uneven) != timed
        if not timed:
            with torch.no_grad():
                model.config = replace(model.config, timed=True)
                torch.testing.assert_close(model.sequence(told, gap, None)[0], steady)


PEERS: dict[str, tuple[nn.Module, nn.Module]] = {
    "gru": (GruPeer(16, 16), GruBlock(16)),
    "s6": (S6Peer(16, 12, 4), S6Block(16, 12, 4)),
    "transformer": (AttentionPeer(16, 20, 2, 40), AttentionBlock(16, 20, 2)),
}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_the_block_that_koss_is_compared_with(name: str) -> None:
    """The same weights give the same output, where a transformer's window holds the whole sequence."""
    mine, its = PEERS[name]
    its.load_state_dict(mine.state_dict())
    x = torch.randn(33, 3, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(mine(x)[0], its(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(EstimatorError, match="rows that are there only"):
        mine(x, None, torch.ones(33, 3, dtype=torch.bool))


@pytest.mark.parametrize("plots_", [1, 2, 5, 16])
def test_attention_sees_its_window_and_no_further(plots_: int) -> None:
    torch.manual_seed(0)
    block, x = AttentionPeer(8, 8, 2, plots_), torch.randn(29, 1, 8)
    moved = x.clone()
    moved[9] += 1.0
    with torch.no_grad():
        change = (block(moved)[0] - block(x)[0]).abs().amax((1, 2))
    assert bool((change[9 : 9 + plots_] > 0.0).all())
    assert float(change[:9].max()) < 1e-6 and float(change[9 + plots_ :].max()) < 1e-6


def test_two_plots_make_the_least_squares_track() -> None:
    """Over many draws of noise: unbiased on a straight line, and its errors have the covariance stated."""
    rng, gap, count = np.random.default_rng(0), 4.0, 20_000
    R = np.array([[900.0, 200.0], [200.0, 2500.0]])
    noise = rng.multivariate_normal(np.zeros(2), R, (2, count))
    velocity = np.array([120.0, -80.0])
    old, new = (noise[0], noise[1] + gap * velocity)
    told = [np.concatenate([p.T, np.repeat([[R[0, 0]], [R[0, 1]], [R[1, 1]]], count, 1)]) for p in (new, old)]
    plot, past = (torch.from_numpy(v) for v in told)
    every, dt = torch.ones(count, dtype=torch.bool), torch.full((count,), gap, dtype=torch.float64)
    rows = two_plots(plot, past, dt, every)
    error = rows[:4].numpy().T - np.concatenate([gap * velocity, velocity])
    upper = np.triu_indices(4)
    stated = rows[4:, 0].numpy().copy()
    stated[[7, 9]] -= (0.5 * 3.0 * gap) ** 2  # what an acceleration may do is not in these draws
    np.testing.assert_allclose(np.cov(error.T)[upper], stated, rtol=0.05, atol=20.0)
    later = carried(rows, 2.0 * dt)
    F = np.eye(4)
    F[[0, 1], [2, 3]] = 2.0 * gap
    P = np.zeros((4, 4))
    P[upper] = rows[4:, 0].numpy()
    P = P + P.T - np.diag(P.diagonal())
    G = np.kron(np.array([[0.5 * (2 * gap) ** 2], [2 * gap]]), np.eye(2))
    np.testing.assert_allclose(later[4:, 0].numpy(), (F @ P @ F.T + 9.0 * G @ G.T)[upper], rtol=1e-12)
    np.testing.assert_allclose(later[:4, 0].numpy(), F @ rows[:4, 0].numpy(), rtol=1e-12)


def test_a_track_without_a_base_is_of_the_last_two_plots_there_are() -> None:
    z, _ = plots(base("kf"), flights=2, length=9)
    flown = flown_from(z)
    flown.valid[:, [4, 5]] = False
    found = bare_base(flown, 3)
    moved = replace(flown, position_m=flown.position_m.clone())
    moved.position_m[:, [2, 4, 5]] = 1e9  # a plot seen until the next two, and two that are missed
    same = mean_of(found.filtered) == mean_of(bare_base(moved, 3).filtered)
    assert same.all(2)[0].tolist() == [k not in (2, 3, 4, 5) for k in range(9)]
    velocity = (z.position_m[:, 6] - z.position_m[:, 3]) / (z.time_s[:, 6] - z.time_s[:, 3])[:, None]
    np.testing.assert_allclose(mean_of(found.filtered)[:, 6, 2:].numpy(), velocity, rtol=1e-9)
    here, there = mean_of(found.filtered)[:, 3], mean_of(found.predicted)[:, 5]
    ahead = torch.from_numpy(z.time_s[:, 5] - z.time_s[:, 3])[:, None]
    torch.testing.assert_close(there[:, :2], here[:, :2] + ahead * here[:, 2:])
    torch.testing.assert_close(mean_of(found.filtered)[:, 5], there)
    assert found.modes.shape == (3, 9, 2) and bool(found.used.all())
