"""What the engine refuses, and that "auto" runs what it cannot by the estimator's own methods."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.errors import EstimatorError
from ssrtrack.filters import batched
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.chain import Chain
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.run import run
from ssrtrack.filters.smoother import smooth
from tests.engine_cases import BANKS
from tests.kernels_fixture import flights

CYCLIC = Chain(np.array([30.0, 40.0, 50.0]), np.array([[0.0, 0.95, 0.05], [0.05, 0.0, 0.95], [0.95, 0.05, 0.0]]))
FEW = flights(3, (5, 4, 2))


def bank(name: str) -> Bank:
    estimator = make_estimator(name)
    assert isinstance(estimator, Bank)
    return estimator


@pytest.mark.parametrize("call", [run, smooth])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cuda"}, "backend is 'cuda', expected one of auto, filterpy, numba, torch, triton"),
        ({"dtype": "float16"}, "dtype is 'float16', expected float64 or float32"),
        ({"backend": "filterpy", "dtype": "float32"}, "dtype float32 needs a batched backend"),
    ],
)
def test_unknown_backends_and_precisions(call: Any, options: dict[str, str], message: str) -> None:
    with pytest.raises(EstimatorError, match=message):
        call(make_estimator("kf"), FEW, **options)


@pytest.mark.parametrize("backend", ["auto", "filterpy", "numba", "torch"])
def test_a_negative_lag(backend: str) -> None:
    with pytest.raises(EstimatorError, match="lag is -1, expected a number of columns from 0"):
        smooth("kf", FEW, lag=-1, backend=backend)


def test_triton_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "has_gpu", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for call in (run, smooth):
        with pytest.raises(EstimatorError, match=r"needs a CUDA device and there is none; use 'auto' or 'numba'"):
            call(make_estimator("kf"), FEW, backend="triton")
    # "auto" never comes to that, however many plots there are.
    assert batched.chosen("auto", 10**9) == "numba"


@pytest.mark.parametrize("name", [name for name in BANKS if name.startswith("imm")])
def test_triton_smooths_no_imm(name: str) -> None:
    with pytest.raises(EstimatorError, match="'triton' smooths single models only; use 'auto', 'numba' or 'torch'"):
        smooth(name, FEW, backend="triton")


def cyclic_bank() -> Bank:
    return replace(bank("imm3"), chain=CYCLIC)


def broken_motion() -> Bank:
    one = bank("kf")
    return replace(one, motions=(replace(one.motions[0], kind="spiral"),))


def other_observation() -> Bank:
    return replace(bank("kf"), observation="doppler")


CANNOT = [
    (cyclic_bank, "has no real spectrum, so the batched engine cannot run it; use backend='filterpy'"),
    (broken_motion, r"no motion models \['spiral'\]; known: cv, ca, singer, ct"),
    (lambda: make_estimator("alpha-beta"), "is no bank of Kalman filters"),
]


@pytest.mark.parametrize("backend", ["numba", "torch", "triton"])
@pytest.mark.parametrize(("made", "message"), CANNOT)
def test_a_named_backend_says_why_it_cannot(made: Any, message: str, backend: str) -> None:
    with pytest.raises(EstimatorError, match=f"backend '{backend}' cannot run this estimator: .*{message}"):
        run(made(), FEW, backend=backend)
    with pytest.raises(EstimatorError, match=message):
        run(made(), FEW, dtype="float32")


@pytest.mark.parametrize("made", [made for made, _ in CANNOT])
def test_auto_runs_it_by_its_own_methods(made: Any) -> None:
    auto, own = run(made(), FEW), run(made(), FEW, backend="filterpy")
    for column in ("predicted_mean", "mean", "covariance", "used"):
        np.testing.assert_array_equal(getattr(auto, column), getattr(own, column))
    alive = np.isfinite(FEW.time_s)
    assert np.isfinite(auto.mean[alive]).all()
    if auto.mode_probability is not None:
        np.testing.assert_allclose(auto.mode_probability[alive].sum(-1), 1.0, rtol=1e-12)


def test_auto_smooths_a_cyclic_bank() -> None:
    mean, covariance = smooth(cyclic_bank(), FEW)
    own = smooth(cyclic_bank(), FEW, backend="filterpy")
    np.testing.assert_array_equal(mean, own[0])
    np.testing.assert_array_equal(covariance, own[1])


def test_observations_that_the_engine_does_not_know() -> None:
    assert "no observation 'doppler'; known: position, polar" in str(batched.why_not(other_observation()))


def assert_spectrum(chain: Chain, dt_s: Any) -> None:
    rates, shares = chain.spectrum()
    models = chain.sojourn_s.size
    assert (rates < 0.0).all()
    assert rates.shape == (models - 1,) and shares.shape == (models - 1, models, models)
    again = np.eye(models) + np.einsum("sk,kij->sij", np.expm1(np.outer(dt_s, rates)), shares)
    np.testing.assert_allclose(again, chain.matrix(dt_s), rtol=0.0, atol=2e-12)
    # Each row of what a step changes sums to nothing.
    np.testing.assert_allclose(shares.sum(-1), 0.0, atol=1e-9)


STEPS_S = np.array([0.0, 1e-6, 0.01, 1.0, 4.0, 12.0, 100.0, 1e4])


@pytest.mark.parametrize("name", [name for name in BANKS if name.startswith("imm")])
def test_the_imms_chains_have_their_spectrum(name: str) -> None:
    assert_spectrum(bank(name).chain, STEPS_S)


@given(models=st.integers(2, 5), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_reversible_chains_have_a_spectrum(models: int, seed: int) -> None:
    """Flows w_ij = w_ji between models with stationary shares π: rates w_ij / π_i."""
    rng = np.random.default_rng(seed)
    flow = rng.uniform(0.05, 1.0, (models, models))
    flow = (flow + flow.T) * (1.0 - np.eye(models))
    share = rng.uniform(0.2, 1.0, models)
    rate = 0.05 * flow / share[:, None]
    chain = Chain(1.0 / rate.sum(1), rate / rate.sum(1, keepdims=True))
    assert_spectrum(chain, np.append(STEPS_S, rng.uniform(0.0, 300.0, 20)))
    np.testing.assert_allclose(np.exp(chain.log_start()), share / share.sum(), rtol=1e-9)


def test_a_chain_that_goes_round_has_none() -> None:
    with pytest.raises(EstimatorError, match="has no real spectrum"):
        CYCLIC.spectrum()
