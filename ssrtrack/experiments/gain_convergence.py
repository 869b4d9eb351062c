"""Does the gain converge? The Riccati flow's from five starts, and a trained layer's own.

    python -m ssrtrack.experiments.gain_convergence --output DIR

First the theory's figure: h' = A h + w, x = C h + v with A = [[0, 1], [−1, −1]], C = [0, 1], Q = I, R = 1 (arXiv
2512.16723 keeps the steady gain of such a system in place of the Riccati equation's; the test system is that of the
same authors' earlier model). K(t) = P(t) Cᵀ R⁻¹ forgets P(0) within four seconds.

Then what theory leaves open: whether a layer whose gain is a learned function of its innovations finds the optimal
gain by itself. Channels of scalar problems m_t = a m_{t−1} + w, x_t = m_t + v with known, different Kalman gains are
given to one `KossLayer`, which is trained to put out m and never told a, Q or R.
"""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssrtrack.experiments.evidence import Row, main, rounded
from ssrtrack.models.koss import KossLayer
from ssrtrack.models.koss_theory import filter_gain, riccati_flow, steady_gain
from ssrtrack.models.koss_trace import trace
from ssrtrack.report.figures_koss import convergence_figure

Array = NDArray[np.float64]
A = np.array([[0.0, 1.0], [-1.0, -1.0]])
C = np.array([[0.0, 1.0]])
Q, R = np.eye(2), np.eye(1)
STARTS = {
    "I": np.eye(2),
    "2 I": 2.0 * np.eye(2),
    "0.5 I": 0.5 * np.eye(2),
    "[[2, 0.5], [0.5, 1]]": np.array([[2.0, 0.5], [0.5, 1.0]]),
    "[[1.5, −0.2], [−0.2, 0.8]]": np.array([[1.5, -0.2], [-0.2, 0.8]]),
}
TIMES_S = np.linspace(0.0, 10.0, 200)
TABLE = (20, 40, 60, 80, 100)  # of TIMES_S: the samples next to 1, 2, 3, 4 and 5 s
# Gains that the learned layer's channels should find (R = 1, a = PERSISTENCE).
PERSISTENCE = 0.98
GAINS = tuple(np.round(np.linspace(0.1, 0.8, 8), 1))
STEPS, BATCH, LENGTH, RATE = 1000, 64, 96, 0.02


@dataclass(frozen=True, eq=False)
class Convergence:
    """K(t) (200, 2) at `time_s` from each P(0), K∞ (2,), and max |K(t) − K∞| over the components (200,)."""

    time_s: Array
    gain: dict[str, Array]
    steady: Array
    distance: dict[str, Array]


@dataclass(frozen=True, eq=False)
class Learned:
    """A trained layer beside the Kalman filters of its D channels, over T steps from a known distribution of m_0.

    kalman (T, D): the filter's gains. low, median, high (T, D): the 10th, 50th and 90th percentiles over sequences of
    the layer's κ = K c. steady (D,): K∞. found, spread (D,): median of κ over the second half, and half the distance
    of its percentiles. error, floor (D,): mean squared error of y as m's estimate over the second half, and the
    Kalman filter's on the same sequences. steps: of training.
    """

    kalman: Array
    low: Array
    median: Array
    high: Array
    steady: Array
    found: Array
    spread: Array
    error: Array
    floor: Array
    steps: int


def convergence() -> Convergence:
    """The Riccati flow of the test system from all STARTS."""
    steady = steady_gain(A, C, Q, R)[0][:, 0]

    gain = {name: filter_gain(riccati_flow(A, C, Q, R, P, TIMES_S), C, R)[..., 0] for name, P in STARTS.items()}
    distance = {name: np.abs(K - steady).max(1) for name, K in gain.items()}
    return Convergence(TIMES_S, gain, steady, distance)


def noise_for(gain: Array) -> Array:
    """Q of a scalar filter with R = 1 and a = PERSISTENCE whose steady gain is `gain`.

    K = P⁻/(P⁻ + 1) and P⁻ = a² K + Q, since the posterior variance is K R.
    """
    return gain / (1.0 - gain) - PERSISTENCE**2 * gain


def kalman_gains(q: Array, steps: int) -> Array:
    """K_t (T, D) from m_0's own stationary distribution on, one prediction before the first sample."""
    P, out = q / (1.0 - PERSISTENCE**2), []
    for _ in range(steps):
        prior = PERSISTENCE**2 * P + q
        K = prior / (prior + 1.0)
        P = (1.0 - K) * prior
        out.append(K)
    return np.array(out)


def sequences(q: Array, steps: int, batch: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """m and x = m + v (T, B, D)."""
    scale = torch.from_numpy(np.sqrt(q)).float()
    w, v = (torch.randn(steps, batch, len(q), generator=generator) for _ in range(2))
    level = torch.randn(batch, len(q), generator=generator) * scale / (1.0 - PERSISTENCE**2) ** 0.5
    truth = []
    for t in range(steps):
        level = PERSISTENCE * level + scale * w[t]
        truth.append(level)
    m = torch.stack(truth)
    return m, m + v


def kalman_estimates(x: Array, gains: Array) -> Array:
    """The filters' estimates for x (T, B, D) with gains (T, D), from m = 0."""
    m, out = np.zeros(x.shape[1:]), []
    for t in range(x.shape[0]):
        m = PERSISTENCE * m
        m = m + gains[t] * (x[t] - m)
        out.append(m)
    return np.array(out)


def trained(q: Array, steps: int, seed: int) -> KossLayer:
    """A layer of one state a channel, trained to put out m; loss in units of each channel's optimal error.

    Its skip is held at 0, so that y = c h is the state's own estimate: with a skip the first thing it learns is to
    pass x on, which costs this experiment its question. The gain sees innovations alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = KossLayer(len(q), states=1, head=len(q), input_gain=False, backend="numba")
    torch.nn.init.zeros_(layer.skip).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    floor = torch.from_numpy(kalman_gains(q, 200)[-1]).float()
    free = [weight for weight in layer.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(free, lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    gap = torch.ones(LENGTH, BATCH)
    for _ in range(steps):
        m, x = sequences(q, LENGTH, BATCH, generator)
        loss = ((layer(x, gap)[0] - m).square().mean((0, 1)) / floor).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        layer.gain.cap()
    return layer


def learned(steps: int = STEPS, seed: int = 0) -> Learned:
    """Train a layer and read its gains on sequences that it was not trained on; ten seconds on one core."""
    steady = np.array(GAINS)
    q = noise_for(steady)
    layer = trained(q, steps, seed)
    m, x = sequences(q, LENGTH, 512, torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        inside = trace(layer, x, torch.ones(x.shape[:2]))
    kappa = (inside.gain * inside.read[..., :1]).double().numpy()
    low, median, high = np.percentile(kappa, (10, 50, 90), axis=1)
    half, gains = slice(LENGTH // 2, None), kalman_gains(q, LENGTH)
    best = kalman_estimates(x.double().numpy(), gains)

    def squared(y: Array) -> Array:
        return np.asarray(np.square(y - m.double().numpy())[half].mean((0, 1)))

    return Learned(
        kalman=gains,
        low=low,
        median=median,
        high=high,
        steady=steady,
        found=np.median(kappa[half], axis=(0, 1)),
        spread=np.ptp(np.percentile(kappa[half], (10, 90), axis=(0, 1)), axis=0) / 2.0,
        error=squared(inside.output.double().numpy()),
        floor=squared(best),
        steps=steps,
    )


def gain_convergence(steps: int = STEPS, seed: int = 0) -> tuple[Convergence, Learned]:
    """The Riccati flow, and a layer trained for so many steps from `seed`; ten seconds on one core."""
    return convergence(), learned(steps, seed)


def table(result: tuple[Convergence, Learned]) -> list[Row]:
    """Rows of max |K − K∞| at TABLE's times for each start, then rows for each channel of the learned layer."""
    flow, layer = result
    what = "greatest component of |K - K_inf|"
    rows: list[Row] = [
        {"part": "riccati", "case": f"P(0) = {name}", "at": f"t = {flow.time_s[i]:.3f} s", "what": what,
         "value": rounded(float(values[i]))}
        for name, values in flow.distance.items()
        for i in TABLE
    ]  # fmt: skip
    rows += [
        {"part": "riccati", "case": "any", "at": "t = inf", "what": f"K_inf[{i}]", "value": rounded(v)}
        for i, v in enumerate(flow.steady.tolist())
    ]
    found = {
        "gain found, median of K c": layer.found,
        "half of its 10th to 90th percentile": layer.spread,
        "mean squared error over the Kalman filter's": layer.error / layer.floor,
    }
    return rows + [
        {"part": "learned", "case": f"K_inf = {k:g}", "at": f"{layer.steps} steps", "what": name, "value": rounded(v)}
        for name, values in found.items()
        for k, v in zip(layer.steady.tolist(), values.tolist(), strict=True)
    ]


def draw(result: tuple[Convergence, Learned]) -> Any:
    """The figure of `figures_koss.convergence_figure`."""
    flow, layer = result
    return convergence_figure(
        flow.time_s,
        flow.gain,
        flow.distance,
        flow.steady,
        layer.kalman,
        (layer.low, layer.median, layer.high),
        layer.steady,
    )


if __name__ == "__main__":
    sys.exit(main("gain_convergence", __doc__ or "", gain_convergence, table, draw))
