"""Resampling flights: intervals that cover, pairs that cancel; sums and series behind the scores."""

import numpy as np
import pytest
from scipy.stats import chi2

from ssrtrack.scoring.bootstrap import interval, resampled_sums
from ssrtrack.scoring.result import Scores
from ssrtrack.scoring.summary import tracker_results
from ssrtrack.scoring.tally import EFFICIENCY, MEAN, QUANTILES, RMS, SERIES_STEP_S, SeriesSums, Tally


def test_intervals_of_a_mean_cover_as_often_as_they_claim() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(300):
        flights = rng.exponential(2.0, 80)
        sums = resampled_sums([np.stack([flights, np.ones(80)], -1)], 300, rng)[0]
        pair = interval(sums[:, 0] / sums[:, 1])
        assert pair is not None
        hits += pair[0] <= 2.0 <= pair[1]
    # 95 % nominal; percentile intervals of skewed means cover a little less. Standard deviation of the count is 4.
    assert 270 <= hits <= 297


def test_all_tables_are_resampled_alike_in_blocks_or_not() -> None:
    table = np.random.default_rng(1).random((30, 3))
    a, b = resampled_sums([table, 2.0 * table], 50, np.random.default_rng(7))
    np.testing.assert_allclose(b, 2.0 * a)
    big = np.ones((200_000, 1))
    assert resampled_sums([big], 45, np.random.default_rng(7))[0].tolist() == [[200_000.0]] * 45


def test_no_interval_where_resamples_have_no_value() -> None:
    samples = np.arange(100.0)
    assert interval(samples) == pytest.approx((2.475, 96.525))
    samples[:6] = np.nan
    assert interval(samples) is None


def filled(scale: float, flights: int = 40) -> Tally:
    rng = np.random.default_rng(9)  # the same errors for every tracker, scaled
    tally = Tally()
    error = scale * rng.rayleigh(30.0, (flights, 20)) * rng.uniform(0.3, 3.0, (flights, 1))
    values = {"next_plot_rmse_m": error**2, "anis": np.ones_like(error), "nll": error}
    tally.add(values, {"innovation_lag1": (0.25 * np.ones_like(error), np.ones_like(error))})
    tally.histograms["next_plot"].add(error)
    return tally


def test_paired_ratios_are_much_sharper_than_the_intervals() -> None:
    results = tracker_results(
        {"a": filled(1.0), "b": filled(0.8)}, np.arange(40), has_truth=False, bootstrap=400, seed=1
    )
    first, second = results
    ratio, low, high = second.ratio["next_plot_rmse_m"]
    assert (ratio, low, high) == pytest.approx((0.8, 0.8, 0.8))
    assert first.ratio == {}
    wide = first.intervals["next_plot_rmse_m"]
    assert wide[1] / wide[0] > 1.2
    assert wide[0] < (first.scores.next_plot_rmse_m or 0.0) < wide[1]
    assert first.scores.innovation_lag1 == pytest.approx(0.25)
    assert first.scores.updates == 800 and first.scores.flights == 40
    assert first.per_flight_rmse_m.shape == (40,)
    assert first.nees is None and first.scores.position_rmse_m is None
    again = tracker_results({"a": filled(1.0)}, np.arange(40), has_truth=False, bootstrap=400, seed=1)
    assert again[0].intervals == first.intervals
    other = tracker_results({"a": filled(1.0)}, np.arange(40), has_truth=False, bootstrap=400, seed=2)
    assert other[0].intervals != first.intervals


def test_few_flights_have_no_intervals() -> None:
    result = tracker_results({"a": filled(1.0, 4)}, np.arange(4), has_truth=False, bootstrap=100, seed=1)[0]
    assert result.intervals == {} and result.scores.next_plot_rmse_m is not None


def test_flights_without_scored_updates_count_nowhere() -> None:
    tally = filled(1.0)
    nothing = np.full((3, 20), np.nan)
    tally.add({"next_plot_rmse_m": nothing, "anis": nothing}, {})
    result = tracker_results({"a": tally}, np.arange(43), has_truth=False, bootstrap=50, seed=1)[0]
    assert result.scores.flights == 40 and np.isfinite(result.per_flight_rmse_m).all()


def test_every_score_is_made_somewhere() -> None:
    made = {*RMS, *MEAN, *QUANTILES, *EFFICIENCY, "updates", "flights", "seconds"}
    assert made == set(Scores.units())


def test_series_means_and_bounds() -> None:
    sums = SeriesSums(4, independent=False)
    rng = np.random.default_rng(3)
    flights, steps = 200, 50
    age = np.broadcast_to(4.0 * np.arange(steps), (flights, steps))
    statistic = chi2.rvs(4, size=(flights, steps), random_state=rng)
    statistic[:, 0] = np.nan
    for part in range(0, flights, 60):
        sums.add(age[part : part + 60], statistic[part : part + 60])
    series = sums.series()
    first = (age[0] < SERIES_STEP_S) & (age[0] > 0)
    assert series.time_s[0] == SERIES_STEP_S / 2
    assert series.mean[0] == pytest.approx(statistic[:, first].mean() / 4)
    # One flight's errors are not independent: the bounds are those of 200 values, not of 400.
    assert series.low[0] == pytest.approx(chi2.ppf(0.025, 4 * flights) / (4 * flights))
    inside = (series.mean > series.low) & (series.mean < series.high)
    assert inside.mean() >= 0.9


def test_a_long_series_is_thinned() -> None:
    sums = SeriesSums(2, independent=True)
    age = np.broadcast_to(np.arange(0.0, 30_000.0, 4.0), (25, 7500))
    sums.add(age, np.full(age.shape, 2.0))
    series = sums.series()
    assert series.time_s.size <= 120
    np.testing.assert_allclose(series.mean, 1.0)
    assert SeriesSums(2, independent=True).series().time_s.size == 0
