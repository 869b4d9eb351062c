"""Which models have a compiled step, and that it is taken, with the weights as they are."""

from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.filters.run import run
from ssrtrack.kernels import koss_rows_numba
from ssrtrack.kernels.head_numba import head_numbers, packed_head
from ssrtrack.models.koss_packed import Packed, compiles
from ssrtrack.models.learned import LearnedEstimator
from ssrtrack.models.learned_rows import gained
from ssrtrack.models.load import load_tracker
from tests.models_fixture import base, network, plots

KNOWN: dict[str, dict[str, Any]] = {
    "plain": {},
    "seen": {"options": {"see_prediction": True}},
    "no linear gain": {"options": {"input_gain": False}},
    "without time": {"timed": False},
    "without its base": {"residual": False},
    "no history": {"history": 0},
}
UNKNOWN: dict[str, dict[str, Any]] = {
    "kalman": {"options": {"operator": "kalman"}},
    "segments": {"options": {"segment": 3}},
    "derivative": {"options": {"derivative": "difference"}},
    "blind": {"options": {"innovate": False}},
    "gru": {"block": "gru"},
}


def stepped(estimator: LearnedEstimator, flights: int = 9) -> float:
    """Whole flights beside step by step, largest difference in standard deviations."""
    z, _ = plots(estimator.bank, flights=flights, length=10, missed=0.2)
    whole, steps = run(estimator, z), run(estimator, z, backend="filterpy")
    sigma = np.sqrt(np.diagonal(whole.covariance, axis1=-2, axis2=-1))
    return float(np.nanmax(np.abs(whole.mean - steps.mean) / sigma))


@pytest.mark.parametrize("name", [*KNOWN, *UNKNOWN])
def test_a_step_is_compiled_where_it_is_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    own = koss_rows_numba.step

    def counted(*args: Any, **named: Any) -> Any:
        calls.append(len(args[1]))
        return own(*args, **named)

    monkeypatch.setattr(koss_rows_numba, "step", counted)
    estimator = LearnedEstimator(base("imm"), network(base("imm"), **(KNOWN | UNKNOWN)[name]))
    assert compiles(estimator.model) == (name in KNOWN)
    assert stepped(estimator) < 1e-3
    assert len(calls) == (10 if name in KNOWN else 0)


def test_other_precisions_and_backends_are_torchs() -> None:
    model = network(base("imm"))
    assert compiles(model)
    layer: Any = model.blocks[0].koss
    layer.backend = "torch"
    assert not compiles(model)
    assert not compiles(network(base("imm")).double())


def test_changed_weights_are_seen() -> None:
    estimator = LearnedEstimator(base("imm"), network(base("imm")))
    assert stepped(estimator) < 1e-3
    before = Packed.of(estimator.model)
    with torch.no_grad():
        for weight in estimator.model.blocks.parameters():
            weight.mul_(1.5)
    assert not before.fits() and Packed.of(estimator.model).fits()
    assert stepped(estimator) < 1e-3


def test_weights_without_a_count_of_changes() -> None:
    with torch.inference_mode():
        model = network(base("imm"))
    assert Packed.of(model).fits()


def test_the_shipped_koss_is_compiled() -> None:
    estimator = load_tracker("koss")
    assert isinstance(estimator, LearnedEstimator) and compiles(estimator.model)
    assert stepped(estimator, flights=70) < 1e-3


@pytest.mark.parametrize("config", [{}, {"hidden": 5, "width": 24}, {"block": "gka"}])
@pytest.mark.parametrize("count", [0, 1, 700])
def test_the_head_of_predictions_is_torchs(config: dict[str, Any], count: int) -> None:
    model, rng = network(base("imm"), **config), np.random.default_rng(6)
    y, aside = rng.normal(size=(count, model.config.width)).astype(np.float32), rng.normal(size=(count, 9))
    with torch.no_grad():
        wanted = model.ahead_numbers(torch.from_numpy(np.concatenate([y, aside], 1)).float()).numpy()
    np.testing.assert_allclose(Packed.of(model).ahead_numbers(y, aside), wanted, rtol=1e-5, atol=1e-5)


def test_a_head_that_does_not_fit_is_refused() -> None:
    w, b = np.zeros((7, 5), np.float32), np.zeros(5, np.float32)
    with pytest.raises(ValueError, match=r"expected \(K, hidden\)"):
        packed_head(w, b, w, b)
    head = packed_head(w, b, w.T, np.zeros(7, np.float32))
    for x in (np.zeros((3, 6), np.float32), np.zeros((3, 7)), np.zeros((7, 3), np.float32).T):
        with pytest.raises(ValueError, match=r"expected contiguous float32 \(N, 7\)"):
            head_numbers(head, x, threads=1)


def test_a_model_of_another_precision_predicts_by_torch() -> None:
    assert Packed.of(network(base("imm")).double()).head is None


def test_the_filtered_correction_of_its_heads_numbers() -> None:
    model, rng = network(base("imm")), np.random.default_rng(4)
    y, offsets = rng.normal(size=(6, model.config.width)), rng.normal(size=(6, 12))
    y_, offsets_ = (torch.from_numpy(v.astype(np.float32)) for v in (y, offsets))
    with torch.no_grad():
        said, wanted = model.filter_head(y_).numpy(), model.read_out(y_, offsets_).numpy()
    kept = said.copy()
    np.testing.assert_allclose(gained(said, offsets_.numpy()), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(said, kept)
