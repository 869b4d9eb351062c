"""Streaming quantiles: within half a percent of numpy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.scoring.histogram import HIGHEST, LOWEST, LogHistogram

SAMPLES = {
    "rayleigh": lambda rng: rng.rayleigh(70.0, 20_001),
    "heavy tail": lambda rng: 10.0 * np.abs(rng.standard_t(2, 20_001)),
    "ten decades": lambda rng: 10.0 ** rng.uniform(-4, 6, 20_001),
    "one value": lambda rng: np.full(100, 12.34),
    "few": lambda rng: rng.uniform(1.0, 1.001, 3),
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("q", [0.05, 0.5, 0.95, 0.99])
def test_quantiles_are_numpys_within_half_a_percent(name: str, q: float) -> None:
    values = SAMPLES[name](np.random.default_rng(2))
    histogram = LogHistogram()
    for part in np.array_split(values, 7):
        histogram.add(part)
    # Between two order statistics numpy interpolates; ours must lie within half a percent of that bracket.
    low, high = (np.quantile(values, q, method=method) for method in ("lower", "higher"))
    found = histogram.quantile(q)
    assert found is not None
    assert 0.995 * low <= found <= 1.005 * high


@settings(max_examples=100)
@given(st.lists(st.floats(-1e6, 1e6).filter(lambda v: v == 0 or abs(v) > 1e-5), min_size=1, max_size=60))
def test_signed_medians(values: list[float]) -> None:
    histogram = LogHistogram(signed=True)
    histogram.add(np.array(values))
    low, high = (float(np.quantile(values, 0.5, method=m)) for m in ("lower", "higher"))
    found = histogram.quantile(0.5)
    assert found is not None
    assert low - 0.006 * abs(low) - LOWEST <= found <= high + 0.006 * abs(high) + LOWEST


def test_nothing_zeros_nan_and_giants() -> None:
    histogram = LogHistogram()
    assert histogram.quantile(0.5) is None
    histogram.add(np.array([np.nan, 0.0, 0.0, 0.0, 1e20]))
    assert len(histogram) == 4
    assert 0.0 <= (histogram.quantile(0.5) or 0.0) <= LOWEST
    assert histogram.quantile(1.0) == pytest.approx(HIGHEST, rel=0.01)


@pytest.mark.parametrize("values", [[], [5.0], [0.0], [1e-9, 3.0, 1e30], [20.0, 21.0, 500.0]])
def test_result_keeps_every_count_between_zero_and_infinity(values: list[float]) -> None:
    histogram = LogHistogram()
    histogram.add(np.array(values))
    result = histogram.result()
    assert result.edges.size == result.counts.size + 1
    assert result.edges[0] == 0.0 and result.edges[-1] == np.inf
    assert (np.diff(result.edges) > 0).all()
    assert result.counts.sum() == len(values)
    counted = np.histogram(values, result.edges)[0]
    assert (counted == result.counts).all()
