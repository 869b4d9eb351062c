"""The plain reference kernels against textbook identities and dense Gaussian conditioning."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from ssrtrack.kernels import reference
from ssrtrack.kernels.linalg import psd_log_density, psd_solve

H = np.eye(2, 4)


def spd(rng: np.random.Generator, *shape: int) -> np.ndarray:
    a = rng.standard_normal((*shape, shape[-1]))
    return a @ np.swapaxes(a, -1, -2) + 0.5 * np.eye(shape[-1])


def problem(seed: int, steps: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    F = np.eye(4) + 0.3 * rng.standard_normal((steps, 4, 4))
    return {
        "x": rng.standard_normal(4),
        "P": spd(rng, 4),
        "F": F,
        "Q": spd(rng, steps, 4),
        "z": 3.0 * rng.standard_normal((steps, 2)),
        "R": spd(rng, steps, 2),
        "valid": rng.uniform(size=steps) < 0.7,
    }


def joint_gaussian(p: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of all T states stacked, before any measurement."""
    steps = p["F"].shape[0]
    mean, blocks = [], np.zeros((steps, steps, 4, 4))
    m, C = p["x"], p["P"]
    for k in range(steps):
        m, C = p["F"][k] @ m, p["F"][k] @ C @ p["F"][k].T + p["Q"][k]
        mean.append(m)
        blocks[k, k] = C
        for i in range(k):
            blocks[k, i] = p["F"][k] @ blocks[k - 1, i]
            blocks[i, k] = blocks[k, i].T
    return np.concatenate(mean), blocks.transpose(0, 2, 1, 3).reshape(4 * steps, 4 * steps)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_filter_and_smoother_equal_dense_gaussian_conditioning(seed: int) -> None:
    p = problem(seed, 6)
    p["valid"][-1] = True
    *_, filtered_x, filtered_P, log_likelihood = reference.kalman_filter(H=H, **p)
    smoothed_x, smoothed_P = reference.rts_smoother(filtered_x, filtered_P, p["F"], p["Q"])
    mean, joint = joint_gaussian(p)
    rows = np.concatenate([4 * k + np.arange(2) for k in range(6) if p["valid"][k]])
    noise = np.zeros((rows.size, rows.size))
    for n, k in enumerate(np.flatnonzero(p["valid"])):
        noise[2 * n : 2 * n + 2, 2 * n : 2 * n + 2] = p["R"][k]
    S = joint[np.ix_(rows, rows)] + noise
    z = p["z"][p["valid"]].ravel()
    gain = np.linalg.solve(S, joint[rows]).T
    posterior, covariance = mean + gain @ (z - mean[rows]), joint - gain @ joint[rows]
    np.testing.assert_allclose(smoothed_x.ravel(), posterior, atol=1e-8)
    blocks = covariance.reshape(6, 4, 6, 4)[np.arange(6), :, np.arange(6)]
    np.testing.assert_allclose(smoothed_P, blocks, atol=1e-8)
    np.testing.assert_allclose(filtered_x[-1], posterior[-4:], atol=1e-8)
    expected = multivariate_normal.logpdf(z, mean[rows], S)
    assert log_likelihood == pytest.approx(expected, abs=1e-7)


def test_an_imm_of_equal_models_is_that_model() -> None:
    p = problem(3, 8)
    p["valid"][:] = True
    _, _, filtered_x, filtered_P, _ = reference.kalman_filter(H=H, **p)
    log_mu, x, P = np.log([0.2, 0.3, 0.5]), np.stack([p["x"]] * 3), np.stack([p["P"]] * 3)
    transition = np.array([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]])
    for k in range(8):
        log_mu, x, P = reference.imm_predict(log_mu, x, P, transition, *(np.stack([p[n][k]] * 3) for n in "FQ"))
        log_mu, x, P = reference.imm_update(log_mu, x, P, p["z"][k], H, p["R"][k])
        mean, covariance = reference.imm_estimate(log_mu, x, P)
        np.testing.assert_allclose(mean, filtered_x[k], atol=1e-10)
        np.testing.assert_allclose(covariance, filtered_P[k], atol=1e-10)
    np.testing.assert_allclose(
        np.exp(log_mu), np.array([0.2, 0.3, 0.5]) @ np.linalg.matrix_power(transition, 8), rtol=1e-9
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=40)
def test_psd_solve_solves_batches(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, right = spd(rng, 3, size), rng.standard_normal((3, size, 2))
    np.testing.assert_allclose(matrix @ psd_solve(matrix, right), right, atol=1e-8)
    offset = rng.standard_normal((3, size))
    expected = [multivariate_normal.logpdf(o, np.zeros(size), m) for o, m in zip(offset, matrix, strict=True)]
    np.testing.assert_allclose(psd_log_density(offset, matrix), np.reshape(expected, 3), rtol=1e-9, atol=1e-9)


def test_psd_solve_refuses_an_indefinite_matrix() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        psd_solve(np.diag([1.0, -1e-3]), np.ones((2, 1)))
