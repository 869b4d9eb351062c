"""What the device benchmark filters, how it is checked and how it is timed."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import engine_numpy
import numpy as np
import torch
from engine_numpy import Problem

Q_M2S3, SPEED_SIGMA_MPS, SCAN_S, SAMPLE = 15.0, 170.0, 4.0, 512
LIMITS = (1.0, 0.1, 0.01)  # of the RMS errors in m, m/s and sigma²
COPY_BYTES = 4 << 30
Array = Any


def seconds_of(works: Sequence[Callable[[], object]], repeats: int, where: str, warm: int = 2) -> list[float]:
    """Seconds of each of `repeats` runs after `warm` that do not count, the works taking turns.

    On "cuda" by events around each run; elsewhere, and for "wall", by the wall clock with the device waited for.
    """
    for i in range(warm):
        works[i % len(works)]()
    return [(_by_events if where == "cuda" else _by_wall)(works[i % len(works)]) for i in range(repeats)]


def _by_events(work: Callable[[], object]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _by_wall(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def copy_bytes_per_s(where: str) -> float:
    """Bytes read plus bytes written per second, the median of 20 copies of an array far larger than the cache."""
    count = (COPY_BYTES if where == "cuda" else 1 << 26) // 4
    source = torch.randn(count, device=where)
    target = torch.empty_like(source)
    seconds = sorted(seconds_of([lambda: target.copy_(source)], 20, where))
    return 2.0 * source.nbytes / (0.5 * (seconds[9] + seconds[10]))


def drawn(tracks: int, steps: int, where: str, seed: int, shared: bool = False) -> Problem:
    """Plots of straight flights up to 280 km away; with `shared`, all steps and covariances are the same."""
    rng = torch.Generator(where).manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape, generator=rng, device=where)

    plots = steps + 1
    dt = torch.full((plots, tracks), SCAN_S, device=where) if shared else SCAN_S * uniform(0.6, 1.4, plots, tracks)
    dt[0] = 0.0
    sigma = torch.full((plots, 2, tracks), 150.0, device=where) if shared else uniform(50.0, 300.0, plots, 2, tracks)
    across = torch.zeros_like(dt) if shared else uniform(-0.7, 0.7, plots, tracks)
    noise = torch.stack([sigma[:, 0] ** 2, across * sigma[:, 0] * sigma[:, 1], sigma[:, 1] ** 2], 1)
    position = uniform(-120e3, 120e3, 1, 2, tracks) + uniform(-200.0, 200.0, 1, 2, tracks) * dt.cumsum(0)[:, None]
    e = torch.randn((plots, 2, tracks), generator=rng, device=where)
    position[:, 0] += sigma[:, 0] * e[:, 0]
    position[:, 1] += sigma[:, 1] * (across * e[:, 0] + (1.0 - across**2).sqrt() * e[:, 1])
    return Problem(dt, position, noise, Q_M2S3, SPEED_SIGMA_MPS)


def sampled(p: Problem, count: int = SAMPLE) -> tuple[Any, Problem]:
    """Tracks from all over the batch, the last included, and their problem in float64 on the host."""
    tracks = p.dt_s.shape[1]
    key = torch.linspace(0, tracks - 1, min(count, tracks), dtype=torch.float64).long()
    part = p.tracks(key.to(p.dt_s.device))
    arrays = (a.double().cpu().numpy() for a in (part.dt_s, part.position_m, part.noise_m2))
    return key.to(p.dt_s.device), Problem(*arrays, p.q_m2s3, p.speed_sigma_mps)


def reference(p: Problem, smooth: bool) -> tuple[Array, Array]:
    """Means (T, 4, n) and covariances (T, n, 4, 4) by numpy in float64."""
    mean, packed = (engine_numpy.component_smoother if smooth else engine_numpy.component_filter)(p)
    return mean, engine_numpy.unpacked(packed)


def errors(mean: Array, covariance: Array, expected: tuple[Array, Array]) -> tuple[float, float, float]:
    """RMS of position (m) and velocity (m/s) against the reference, and of P against Pref in units of Pref's sigmas.

    NaN, also that of an output no one wrote, comes out as NaN.
    """
    off = np.asarray(mean, np.float64) - expected[0]
    scale = np.sqrt(np.einsum("...ii->...i", expected[1]))
    relative = (np.asarray(covariance, np.float64) - expected[1]) / (scale[..., :, None] * scale[..., None, :])
    return tuple(float(np.sqrt((v**2).mean())) for v in (off[:, :2], off[:, 2:], relative))  # type: ignore[return-value]


def refuse_if_wrong(name: str, found: tuple[float, float, float]) -> None:
    """Raises SystemExit where an error is above its limit or NaN."""
    if not all(e <= limit for e, limit in zip(found, LIMITS, strict=True)):
        sys.exit(f"{name}: off by {found} (m, m/s, relative covariance), expected {LIMITS} at most; nothing timed")


def of_packed(mean: Any, packed: Any, expected: tuple[Array, Array]) -> tuple[float, float, float]:
    """`errors` of tensors with packed covariances."""
    return errors(mean.cpu().numpy(), engine_numpy.unpacked(packed.cpu().numpy()), expected)


def error_columns(found: tuple[float, float, float]) -> dict[str, Any]:
    names = "error_position_m", "error_velocity_mps", "error_covariance"
    return {name: f"{e:.1e}" for name, e in zip(names, found, strict=True)}
