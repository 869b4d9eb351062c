"""Steps per second of plain filterpy loops and of the estimators, on the same plots in one process.

    python benchmarks/filterpy_steps.py

A step is one predict and one update with the plot's own covariance; seconds are those of the process's own CPU time,
so that other load on the machine counts little, and the two sides' repeats take turns. Both sides first have to agree
on every posterior mean; nothing is timed or written otherwise. Writes results/filterpy_steps.csv.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filterpy.kalman import (
    ExtendedKalmanFilter,
    IMMEstimator,
    KalmanFilter,
    MerweScaledSigmaPoints,
    UnscentedKalmanFilter,
)
from setting import RESULTS, setting, write_csv

from ssrtrack.data import Plots, Radar
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.chain import Chain
from ssrtrack.filters.estimators import ESTIMATORS, Estimator, make_estimator
from ssrtrack.filters.measurement import Measurements, make_measurements, tracking_frame
from ssrtrack.filters.motion import constant_velocity
from ssrtrack.filters.options import Options
from ssrtrack.filters.run import run as run_on
from ssrtrack.units import DEG_RAD

# The estimators as filterpy computes them; the batched engine is measured by engine_cpu.py.
run = partial(run_on, backend="filterpy")
FLIGHTS, PLOTS, SCAN_S, REPEATS, WIDE = 40, 50, 4.0, 7, 20000
Q_M2S3, Q_IMM = 4.0, (0.1, 4.0, 50.0)
SPEED_SIGMA_MPS = Options().speed_sigma_mps
Array = Any


def simulated(flights: int) -> Measurements:
    """Straight flights at 10 km seen every 4 s by a 70 m, 0.08° radar."""
    rng = np.random.default_rng(1)
    time_s = np.broadcast_to(SCAN_S * np.arange(float(PLOTS)), (flights, PLOTS))
    start, heading = rng.uniform(40e3, 90e3, (flights, 1, 2)), rng.uniform(0.0, 2 * np.pi, (flights, 1))
    velocity = 200.0 * np.stack([np.sin(heading), np.cos(heading)], -1)
    position = start + velocity * time_s[..., None]
    slant = np.hypot(np.hypot(position[..., 0], position[..., 1]), 9000.0)
    azimuth = np.arctan2(position[..., 0], position[..., 1])
    plots = Plots(
        time_s=time_s.ravel(),
        radar_id=np.zeros(time_s.size, "i2"),
        range_m=(slant + 70.0 * rng.standard_normal(slant.shape)).ravel(),
        azimuth_rad=((azimuth + 0.08 * DEG_RAD * rng.standard_normal(slant.shape)) % (2 * np.pi)).ravel(),
        pressure_altitude_m=np.full(time_s.size, 10e3, "f4"),
    )
    radar = Radar(
        name=np.array([b"A"]),
        latitude_deg=np.array([45.0]),
        longitude_deg=np.array([0.0]),
        height_m=np.array([0.0]),
    )
    index = np.arange(time_s.size).reshape(time_s.shape)
    return make_measurements(
        plots, index, tracking_frame(radar), sigma_range_m=70.0, sigma_azimuth_rad=0.08 * DEG_RAD, sigma_height_m=50.0
    )


def matrices(q: float) -> tuple[Array, Array]:
    F, Q = constant_velocity(q).matrices(np.array([SCAN_S]))
    assert F is not None
    return F[0], Q[0]


def start(z: Measurements, n: int) -> tuple[Array, Array]:
    P = np.diag([0.0, 0.0, SPEED_SIGMA_MPS**2, SPEED_SIGMA_MPS**2])
    P[:2, :2] = z.covariance_m2[n, 0]
    return np.r_[z.position_m[n, 0], 0.0, 0.0], P


def plain_kf(z: Measurements) -> Array:
    """filterpy's KalmanFilter, F and Q set anew at every step as irregular plots demand."""
    out = np.empty((FLIGHTS, PLOTS - 1, 4))
    F, Q = matrices(Q_M2S3)
    for n in range(FLIGHTS):
        kf = KalmanFilter(4, 2)
        kf.H = np.eye(2, 4)
        kf.x, kf.P = start(z, n)
        for k in range(1, PLOTS):
            kf.predict(F=F, Q=Q)
            kf.update(z.position_m[n, k], R=z.covariance_m2[n, k])
            out[n, k - 1] = kf.x
    return out


class RawPolar:
    """Range and azimuth of one flight's target at a radar at the frame's origin, for filterpy's callbacks."""

    def __init__(self, up_m: float) -> None:
        self.up_m = up_m

    def expect(self, x: Array) -> Array:
        ground2 = x[0] * x[0] + x[1] * x[1]
        return np.array([np.sqrt(ground2 + self.up_m**2), np.arctan2(x[0], x[1])])

    def jacobian(self, x: Array) -> Array:
        ground2 = x[0] * x[0] + x[1] * x[1]
        slant = np.sqrt(ground2 + self.up_m**2)
        return np.array([[x[0] / slant, x[1] / slant, 0.0, 0.0], [x[1] / ground2, -x[0] / ground2, 0.0, 0.0]])

    @staticmethod
    def residual(a: Array, b: Array) -> Array:
        y = a - b
        y[1] = (y[1] + np.pi) % (2 * np.pi) - np.pi
        return y

    def noise(self, z: Measurements, n: int, k: int, x: Array) -> Array:
        height = self.up_m / self.expect(x)[0] * z.sigma_height_m[n, k]
        return np.diag([z.sigma_range_m[n, k] ** 2 + height**2, z.sigma_azimuth_rad[n, k] ** 2])


def plain_ekf(z: Measurements) -> Array:
    out = np.empty((FLIGHTS, PLOTS - 1, 4))
    F, Q = matrices(Q_M2S3)
    for n in range(FLIGHTS):
        ekf = ExtendedKalmanFilter(4, 2)
        ekf.x, ekf.P = start(z, n)
        for k in range(1, PLOTS):
            ekf.F, ekf.Q = F, Q
            ekf.predict()
            see = RawPolar(z.up_m[n, k])
            plot = np.array([z.range_m[n, k], z.azimuth_rad[n, k]])
            noise = see.noise(z, n, k, ekf.x)
            ekf.update(plot, see.jacobian, see.expect, R=noise, residual=see.residual)
            out[n, k - 1] = ekf.x
    return out


def plain_ukf(z: Measurements) -> Array:
    out = np.empty((FLIGHTS, PLOTS - 1, 4))
    F, Q = matrices(Q_M2S3)
    for n in range(FLIGHTS):
        see = RawPolar(0.0)
        points = MerweScaledSigmaPoints(4, alpha=1.0, beta=0.0, kappa=1.0)
        ukf = UnscentedKalmanFilter(
            4, 2, SCAN_S, see.expect, lambda x, dt: F @ x, points, residual_z=see.residual, z_mean_fn=circular_mean
        )
        ukf.x, ukf.P = start(z, n)
        for k in range(1, PLOTS):
            ukf.Q = Q
            ukf.predict(dt=SCAN_S)
            see.up_m = z.up_m[n, k]
            plot = np.array([z.range_m[n, k], z.azimuth_rad[n, k]])
            ukf.update(plot, R=see.noise(z, n, k, ukf.x))
            out[n, k - 1] = ukf.x
    return out


def circular_mean(sigmas: Array, weight: Array) -> Array:
    """Mean range, and mean azimuth about the first point's."""
    first = sigmas[0, 1]
    around = (sigmas[:, 1] - first + np.pi) % (2 * np.pi) - np.pi
    return np.array([weight @ sigmas[:, 0], first + weight @ around])


def imm_chain() -> Chain:
    jump = (np.ones((3, 3)) - np.eye(3)) / 2.0
    return Chain(np.array([120.0, 40.0, 20.0]), jump)


def plain_imm(z: Measurements) -> Array:
    out = np.empty((FLIGHTS, PLOTS - 1, 4))
    models, chain = [matrices(q) for q in Q_IMM], imm_chain()
    transition, share = chain.matrix(np.array([SCAN_S]))[0], np.exp(chain.log_start())
    for n in range(FLIGHTS):
        filters = []
        for F, Q in models:
            kf = KalmanFilter(4, 2)
            kf.F, kf.Q, kf.H = F, Q, np.eye(2, 4)
            kf.x, kf.P = start(z, n)
            filters.append(kf)
        imm = IMMEstimator(filters, share, transition)
        for k in range(1, PLOTS):
            for kf in filters:
                kf.R = z.covariance_m2[n, k]
            imm.predict()
            imm.update(z.position_m[n, k])
            out[n, k - 1] = imm.x
    return out


def imm3() -> Estimator:
    return Bank(tuple(constant_velocity(q) for q in Q_IMM), imm_chain(), "extended", "position", Options())


# Case -> (plain filterpy, the estimator with the same models).
PAIRS: dict[str, tuple[Callable[[Measurements], Array], Estimator]] = {
    "KF CV": (plain_kf, make_estimator("kf", q_m2s3=Q_M2S3)),
    "EKF CV, range-azimuth": (plain_ekf, make_estimator("ekf", q_m2s3=Q_M2S3)),
    "UKF CV, range-azimuth": (plain_ukf, make_estimator("ukf", q_m2s3=Q_M2S3)),
    "IMM, 3 CV models": (plain_imm, imm3()),
}


def disagreement(z: Measurements) -> dict[str, float]:
    """Largest difference of any posterior mean (m, m/s) between the two sides, by case."""
    return {
        name: float(np.abs(plain(z) - run(estimator, z).mean[:, 1:]).max())
        for name, (plain, estimator) in PAIRS.items()
    }


def rates(works: list[Callable[[], object]], steps: int) -> list[list[float]]:
    """Steps per CPU second of each work (p20, p50, p80); repeats take turns, so that load falls on all alike."""
    out = np.empty((REPEATS, len(works)))
    for work in works:
        work()
    for repeat in range(REPEATS):
        for i, work in enumerate(works):
            begin = time.process_time()
            work()
            out[repeat, i] = steps / (time.process_time() - begin)
    return [[float(v) for v in np.percentile(column, [20, 50, 80])] for column in out.T]


def measured() -> list[tuple[str, str, int, list[float]]]:
    """Rows (case, implementation, flights, rates)."""
    z, wide = simulated(FLIGHTS), simulated(WIDE)
    rows = []
    steps = FLIGHTS * (PLOTS - 1)
    for name, (plain, estimator) in PAIRS.items():
        both = rates([partial(plain, z), partial(run, estimator, z)], steps)
        rows += [(name, "filterpy loop", FLIGHTS, both[0]), (name, "ssrtrack", FLIGHTS, both[1])]
    for name in ESTIMATORS:
        rows.append(
            (f"estimator {name}", "ssrtrack", FLIGHTS, rates([partial(run, make_estimator(name), z)], steps)[0])
        )
    streaming = partial(unrolled, make_estimator("alpha-beta"), wide)
    rows.append(("estimator alpha-beta, wide batch", "ssrtrack", WIDE, rates([streaming], WIDE * (PLOTS - 1))[0]))
    return rows


def unrolled(estimator: Estimator, z: Measurements) -> None:
    """The protocol's calls alone, keeping no history: what a streaming tracker does."""
    state = estimator.init(z.at(0))
    for k in range(1, PLOTS):
        plots = z.at(k)
        state = estimator.update(estimator.predict(state, plots.time_s - z.time_s[:, k - 1]), plots, plots.valid)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--output", type=Path, default=RESULTS / "filterpy_steps.csv", help="CSV to write")
    output = arguments.parse_args().output
    worst = disagreement(simulated(FLIGHTS))
    print("largest difference of posterior means:", {k: f"{v:.1e}" for k, v in worst.items()})
    if not max(worst.values()) < 1e-5:
        print("the two sides disagree; nothing timed", file=sys.stderr)
        return 1
    rows = []
    for case, implementation, flights, speeds in measured():
        print(f"{case:34s} {implementation:14s} {speeds[1]:12,.0f} steps/s")
        row = {"case": case, "implementation": implementation, "flights": flights, "plots": PLOTS}
        row |= {f"steps_per_s_{name}": round(speed) for name, speed in zip(("p20", "p50", "p80"), speeds, strict=True)}
        rows.append(row | setting("numpy", "filterpy"))
    write_csv(output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
