"""A step in rows of memory: the numbers of the step elsewhere, and states that stay what they were."""

from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.filters.protocol import take
from ssrtrack.filters.run import run
from ssrtrack.kernels import gka_rows_numba
from ssrtrack.kernels.gka import gka_step
from ssrtrack.kernels.gka_form import GkaForm
from ssrtrack.models import learned_memory
from ssrtrack.models.learned import LearnedEstimator
from ssrtrack.models.learned_memory import rows_for
from ssrtrack.models.residual_blocks import MANY, memory_size, packed, unpacked
from tests.models_fixture import base, network, plots

GKA: dict[str, Any] = {"block": "gka", "options": {"head": 12, "heads": 2, "hidden": 8}}


@pytest.mark.parametrize("heads, D, V, alpha, threads", [(2, 16, 16, True, 1), (3, 12, 7, False, 2)])
def test_a_step_in_rows_is_the_step(heads: int, D: int, V: int, alpha: bool, threads: int) -> None:
    """Several steps from nothing, among numbers that are not its own."""
    rng, count, at = np.random.default_rng(3), 130, 5
    state: Any = None
    form = GkaForm(0.02, 30, D**-0.5)
    first, middle, last = gka_rows_numba.bounds(at, heads, D, V)
    rows = np.zeros((count, last + 3), np.float32)
    for _ in range(4):
        q, k, v = (rng.normal(size=(count, heads, n)).astype(np.float32) / 3.0 for n in (D, D, V))
        log_decay = -rng.exponential(0.3, (count, heads)).astype(np.float32)
        log_decay[0] = -np.inf
        k[1] = 0.0  # a memory that stays empty
        mix = rng.uniform(size=(count, heads)).astype(np.float32) if alpha else np.ones((count, heads), np.float32)
        after = np.full_like(rows, np.nan)
        found = gka_rows_numba.step(q, k, v, np.exp(log_decay), mix, rows, after, at, form, threads=threads)
        q_, k_, v_, decay_ = (torch.from_numpy(part) for part in (q, k, v, log_decay))
        o, state, spread = gka_step(
            q_, k_, v_, decay_, torch.from_numpy(mix) if alpha else None, state, scale=form.scale, variance=True
        )
        H, U = after[:, first:middle].reshape(count, heads, D, D), after[:, middle:last].reshape(count, heads, D, V)
        np.testing.assert_allclose(found.o, o.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.variance, spread.numpy(), rtol=1e-4)
        np.testing.assert_allclose(H, state[0].numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(U, state[1].numpy(), rtol=1e-5, atol=1e-6)
        assert np.isinf(found.variance[1]).all()
        assert np.isnan(after[:, :at]).all() and np.isnan(after[:, last:]).all()
        rows = np.nan_to_num(after)


def test_rows_that_are_too_short_are_refused() -> None:
    q, gates, rows = np.ones((3, 1, 8), np.float32), np.ones((3, 1), np.float32), np.zeros((3, 100), np.float32)
    with pytest.raises(ValueError, match=r"expected twice \(3, 138 or more\)"):
        gka_rows_numba.step(q, q, q, gates, gates, rows, rows, 10, GkaForm(), threads=1)


@pytest.mark.parametrize("config", [GKA, {}])
def test_many_tracks_step_by_step_are_whole_flights(config: dict[str, Any]) -> None:
    bank = base("imm")
    estimator = LearnedEstimator(bank, network(bank, **config))
    z, _ = plots(bank, flights=MANY + 6, length=12, missed=0.1)
    whole, steps = run(estimator, z), run(estimator, z, backend="filterpy")
    sigma = np.sqrt(np.diagonal(whole.covariance, axis1=-2, axis2=-1))
    assert np.nanmax(np.abs(whole.mean - steps.mean) / sigma) < 1e-3
    assert np.nanmax(np.abs(whole.predicted_mean - steps.predicted_mean)[:, 1:] / sigma[:, 1:]) < 1e-2


@pytest.mark.parametrize("config", [GKA, {}])
def test_a_state_is_never_written_to(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps a state, or a part of one, finds it as it was however many steps are taken from it."""
    monkeypatch.setattr(learned_memory, "LEAST_OCTETS", 0)
    bank = base("imm")
    estimator = LearnedEstimator(bank, network(bank, **config))
    z, _ = plots(bank, flights=MANY + 6, length=8)
    state, kept = estimator.init(z.at(0)), []
    for k in range(1, 8):
        kept.append((state, state.memory.copy(), take(state, slice(0, 3)).memory, state.memory[:3].copy()))
        twice = [estimator.update(estimator.predict(state, np.full(len(z), 4.0)), z.at(k), z.valid[:, k]) for _ in "ab"]
        np.testing.assert_array_equal(twice[0].memory, twice[1].memory)
        state = twice[k % 2]
        del twice
    for then, memory, part, numbers in kept:
        np.testing.assert_array_equal(then.memory, memory)
        np.testing.assert_array_equal(part, numbers)


def test_packing_into_rows_is_packing() -> None:
    model = network(base("imm"), **GKA)
    memory = torch.rand(MANY, memory_size(model.blocks))
    into = torch.full_like(memory, torch.nan)
    assert packed(model.blocks, unpacked(model.blocks, memory, 0), into) is into
    for rows in (into, packed(model.blocks, unpacked(model.blocks, memory, 0))):
        torch.testing.assert_close(rows, memory, rtol=0, atol=0)


def test_a_block_is_filled_again_only_once_nobody_holds_it() -> None:
    shape = 700, 1000
    block = rows_for(*shape)
    place, tensor = block.ctypes.data, torch.from_numpy(block)
    held = [tensor, block[5:6, 3:4], block]
    del block, tensor
    while held:
        assert rows_for(*shape).ctypes.data != place
        held.pop()
    assert rows_for(*shape).ctypes.data == place
