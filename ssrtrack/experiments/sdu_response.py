"""How well a derivative unit differentiates: against frequency, noise, the window's end, and irregular time stamps.

    python -m ssrtrack.experiments.sdu_response --output DIR

The spectral unit of arXiv 2512.16723 (SDU, three cut-offs) beside differences that look one sample ahead, causal ones
that filtering may use, and the Fourier transform of segments of 16 samples that the paper's authors published. All is
per sample, in windows of WINDOW samples; frequencies in cycles per sample, so that the ideal is |out|/|in| = 2πf.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssrtrack.experiments.evidence import Row, main, rounded
from ssrtrack.models.koss_causal import nothing_seen, past_of, slope_of
from ssrtrack.models.koss_derivative import SpectralDifferentiation
from ssrtrack.models.koss_published import WIDTH_OF_LOW_PASS, published_slope
from ssrtrack.report.figures_koss import sdu_figure

Array = NDArray[np.float64]
Unit = Callable[[Array, Array], Array]  # x (M, L) and its times (M, L) in samples → dx/dt (M, L)

WINDOW = 192  # samples, as the SDU's accuracy is stated for in docs/koss.md
SEGMENT = 16  # of the published unit
FREQUENCIES = tuple(np.round(np.linspace(0.01, 0.49, 49), 2))
NOISES_DB = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
JITTERS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)  # of a sample, peak to peak
BAND = (0.01, 0.08)  # of the signal under noise, cycles per sample
SINE = 0.03  # of the last-sample and jitter rows
TRIALS = 64


@dataclass(frozen=True, eq=False)
class SduResponse:
    """What each unit did; every mapping goes from its name to one number for each entry of the axis.

    gain, error: |out|/|in| and RMS(out − x')/RMS(x') on sines of `frequency` (cycles per sample), in the middle half
    of the window. noisy: RMS(out − x')/RMS(x') of a signal within BAND under white noise, whose power is `noise_db`
    below the signal's. jittered: the same of a sine at SINE sampled at irregular times, `jitter` samples peak to
    peak; units whose name ends in "stamps ignored" take the samples for evenly spaced. ramp_last, sine_last: error
    at the last sample, of a ramp (in units of its slope) and of a sine at SINE (RMS over phases, of its derivative's).
    lookahead: how many samples ahead a change still moves the output by 1 % of its greatest effect.
    """

    frequency: Array
    gain: Mapping[str, Array]
    error: Mapping[str, Array]
    noise_db: Array
    noisy: Mapping[str, Array]
    jitter: Array
    jittered: Mapping[str, Array]
    ramp_last: Mapping[str, float]
    sine_last: Mapping[str, float]
    lookahead: Mapping[str, int]


def spectral(cutoff: float) -> Unit:
    """The SDU with f_c = cutoff (cycles per sample), told of the true times."""
    unit = SpectralDifferentiation(cutoff)

    def apply(x: Array, time: Array) -> Array:
        even = np.array_equal(time, np.broadcast_to(np.arange(float(x.shape[1])), x.shape))
        given = torch.from_numpy(x.T[..., None].copy())
        out = unit(given, None if even else torch.from_numpy(time.T.copy()))
        return np.asarray(out[..., 0].T.numpy())

    return apply


def forward(x: Array, time: Array) -> Array:
    """(x_{t+1} − x_t)/(t_{t+1} − t_t); the last sample repeats."""
    slope = np.diff(x, axis=1) / np.diff(time, axis=1)
    return np.concatenate([slope, slope[:, -1:]], 1)


def causal(taps: int) -> Unit:
    """A KOSS layer's own derivatives for filtering: of two taps the backward difference, of more a fitted parabola's.

    Where nothing came before they say 0.
    """

    def apply(x: Array, time: Array) -> Array:
        given = torch.from_numpy(x.T[..., None].copy())
        gap = torch.from_numpy(gaps(time).T.copy())
        past = past_of(given, gap, None, nothing_seen(given, x.shape[0], taps - 1))
        return np.asarray(slope_of(past, taps)[..., 0].T.numpy())

    return apply


def gaps(time: Array) -> Array:
    """Distance of each sample from the one before; the first one's is the second's."""
    return np.diff(time, axis=1, prepend=2.0 * time[:, :1] - time[:, 1:2])


def central(x: Array, time: Array) -> Array:
    """The slope of the parabola through three samples; one-sided at both ends."""
    return np.stack([np.gradient(*pair, edge_order=2) for pair in zip(x, time, strict=True)])


def segment_fft(x: Array, time: Array) -> Array:
    """The unit that the authors published, in segments of SEGMENT: `koss_published.published_slope` with Δ the gaps.

    It divides frequency k by the gap of sample k: right where all gaps are equal, meaningless where they are not.
    """
    given, gap = (torch.split(torch.from_numpy(v[..., None].copy()), SEGMENT, 1) for v in (x, gaps(time)))
    width = torch.tensor(WIDTH_OF_LOW_PASS, dtype=torch.float64)
    out = torch.cat([published_slope(*part, width) for part in zip(given, gap, strict=True)], 1)
    return np.asarray(out[..., 0].numpy())


def unaware(unit: Unit) -> Unit:
    """The same unit, told that the samples lie evenly."""
    return lambda x, time: unit(x, np.broadcast_to(np.arange(float(x.shape[1])), x.shape))


def rms(x: Array) -> float:
    """Root mean square of all entries."""
    return float(np.sqrt(np.mean(np.square(x))))


def sines(frequency: float, time: Array, phases: int = 8) -> tuple[Array, Array]:
    """Sines (phases, L) at evenly spread phases, and their derivatives, at times (L,) in samples."""
    angle = 2 * np.pi * (frequency * time + np.arange(phases)[:, None] / phases)
    return np.sin(angle), 2 * np.pi * frequency * np.cos(angle)


def on_frequencies(unit: Unit) -> tuple[Array, Array]:
    """|out|/|in| and the relative error at FREQUENCIES, in the middle half of the window."""
    time, middle = np.arange(float(WINDOW)), slice(WINDOW // 4, -WINDOW // 4)
    found = []
    for f in FREQUENCIES:
        x, slope = sines(f, time)
        out = unit(x, np.broadcast_to(time, x.shape))
        found.append((rms(out[:, middle]) / rms(x[:, middle]), rms((out - slope)[:, middle]) / rms(slope[:, middle])))
    gain, error = np.array(found).T
    return gain, error


def under_noise(unit: Unit, rng: np.random.Generator) -> Array:
    """Relative error over the whole window, ends included, for each of NOISES_DB."""
    time = np.arange(float(WINDOW))
    f, phase = rng.uniform(*BAND, (TRIALS, 8, 1)), rng.uniform(0, 2 * np.pi, (TRIALS, 8, 1))
    x = np.sin(2 * np.pi * f * time + phase).sum(1)
    slope = (2 * np.pi * f * np.cos(2 * np.pi * f * time + phase)).sum(1)
    white = rng.standard_normal(x.shape) * rms(x)
    times = np.broadcast_to(time, x.shape)
    return np.array([rms(unit(x + 10 ** (-db / 20) * white, times) - slope) / rms(slope) for db in NOISES_DB])


def on_irregular_times(unit: Unit, rng: np.random.Generator) -> Array:
    """Relative error in the middle half of the window for each of JITTERS."""
    middle = slice(WINDOW // 4, -WINDOW // 4)
    shift, phase = rng.uniform(-0.5, 0.5, (TRIALS, WINDOW)), rng.uniform(0, 2 * np.pi, (TRIALS, 1))
    found = []
    for jitter in JITTERS:
        time = np.arange(float(WINDOW)) + jitter * shift
        slope = 2 * np.pi * SINE * np.cos(2 * np.pi * SINE * time + phase)
        out = unit(np.sin(2 * np.pi * SINE * time + phase), time)
        found.append(rms((out - slope)[:, middle]) / rms(slope[:, middle]))
    return np.array(found)


def at_the_end(unit: Unit) -> tuple[float, float]:
    """Error at the last sample: of a ramp, and of a sine (RMS over phases, relative to its derivative's)."""
    time = np.arange(float(WINDOW))
    ramp = float(unit(time[None] + 3.0, time[None])[0, -1] - 1.0)
    x, slope = sines(SINE, time)
    out = unit(x, np.broadcast_to(time, x.shape))
    return ramp, rms((out - slope)[:, -1]) / rms(slope[:, -1])


def lookahead(unit: Unit, share: float = 0.01) -> int:
    """Samples ahead of an output whose change by one still moves it by `share` of the greatest effect."""
    time, at = np.arange(float(WINDOW))[None], WINDOW // 2 + SEGMENT - 1
    bump = np.zeros((1, WINDOW))
    bump[0, at] = 1.0
    moved = np.abs(unit(bump, time) - unit(0.0 * bump, time))[0]
    before = np.flatnonzero(moved[:at] > share * moved.max())
    return int(at - before[0]) if before.size else 0


def sdu_response(seed: int = 0) -> SduResponse:
    """Every unit through every test; a second or two on one core."""

    def each(test: Callable[[Unit], Array], some: Mapping[str, Unit] = UNITS) -> dict[str, Array]:
        return {name: test(unit) for name, unit in some.items()}

    curves = {name: on_frequencies(unit) for name, unit in UNITS.items()}
    ends = {name: at_the_end(unit) for name, unit in UNITS.items()}
    return SduResponse(
        frequency=np.array(FREQUENCIES),
        gain={name: curve[0] for name, curve in curves.items()},
        error={name: curve[1] for name, curve in curves.items()},
        noise_db=np.array(NOISES_DB),
        noisy=each(lambda unit: under_noise(unit, np.random.default_rng(seed))),
        jitter=np.array(JITTERS),
        jittered=each(lambda unit: on_irregular_times(unit, np.random.default_rng(seed)), UNITS | UNAWARE),
        ramp_last={name: end[0] for name, end in ends.items()},
        sine_last={name: end[1] for name, end in ends.items()},
        lookahead={name: lookahead(unit) for name, unit in UNITS.items()},
    )


def table(result: SduResponse) -> list[Row]:
    """One row for each unit and point: `test` says which, `at` where, `value` what."""
    axes = {
        "gain": (result.frequency, result.gain),
        "relative_error": (result.frequency, result.error),
        "ideal_gain": (result.frequency, {"2 pi f": 2 * math.pi * result.frequency}),
        "noise_db_relative_error": (result.noise_db, result.noisy),
        "jitter_relative_error": (result.jitter, result.jittered),
    }
    rows: list[Row] = [
        {"test": test, "unit": name, "at": rounded(float(at)), "value": rounded(float(v))}
        for test, (axis, units) in axes.items()
        for name, values in units.items()
        for at, v in zip(axis, values, strict=True)
    ]
    singles: dict[str, Mapping[str, float]] = {
        "ramp_last_sample_error": result.ramp_last,
        "sine_last_sample_error": result.sine_last,
        "lookahead_1_percent": result.lookahead,
    }
    for test, values in singles.items():
        rows += [{"test": test, "unit": name, "at": "", "value": rounded(v)} for name, v in values.items()]
    return rows


UNITS: dict[str, Unit] = {
    "SDU f_c 0.10": spectral(0.10),
    "SDU f_c 0.25": spectral(0.25),
    "SDU f_c 0.35": spectral(0.35),
    "central difference": central,
    "forward difference": forward,
    "backward difference": causal(2),
    "causal parabola, 5 taps": causal(5),
    "published, segments of 16": segment_fft,
}
UNAWARE: dict[str, Unit] = {
    f"{name}, stamps ignored": unaware(UNITS[name]) for name in ("SDU f_c 0.25", "backward difference")
}


def draw(result: SduResponse) -> Any:
    """The figure of `figures_koss.sdu_figure`."""
    r = result
    return sdu_figure(r.frequency, r.gain, r.error, r.noise_db, r.noisy, r.jitter, r.jittered)


if __name__ == "__main__":
    sys.exit(main("sdu_response", __doc__ or "", sdu_response, table, draw))
