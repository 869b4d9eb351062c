"""The strips of the error-over-time figure: each curve in its own place, on its own scale, cut at its own edge."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssrtrack.report import figures_base, figures_time, prepare
from ssrtrack.report.figures_time import PITCH
from tests.report_fixture import make_result

TRACKERS = {"kf": (5.0, 1.0), "imm": (2.0, 1.0), "slow": (0.05, 3.0)}


def _painted(monkeypatch: pytest.MonkeyPatch) -> tuple[Axes, float, dict[str, np.ndarray], np.ndarray]:
    """The figure's axes, the height of a strip, each tracker's error, and the minutes."""
    result = make_result(flights=2, scans=60, examples=1, trackers=TRACKERS)
    example, painted = result.examples[0], list[Figure]()

    def keep(height_in: float, prefix: str, alt: str, paint: Callable[[Figure], None]) -> str:
        painted.append(Figure(figsize=(10.0, height_in)))
        paint(painted[0])
        return ""

    monkeypatch.setattr(figures_time, "draw", keep)
    figures_time.error_over_time(result, example, "t")
    top = prepare.error_limit(example, list(TRACKERS), result.warmup_plots)
    return painted[0].axes[0], top, dict(example.error_m), (example.time_s - example.time_s[0]) / 60.0


def test_every_tracker_has_its_strip_in_order_from_the_top(monkeypatch: pytest.MonkeyPatch) -> None:
    axes, top, errors, minutes = _painted(monkeypatch)
    curves = [line for line in axes.lines if np.shape(line.get_xdata()) == minutes.shape]
    assert [text.get_text().split()[0] for text in axes.texts] == list(errors)
    for place, (curve, error) in enumerate(zip(curves, errors.values(), strict=True)):
        base = (len(errors) - 1 - place) * PITCH * top
        np.testing.assert_allclose(np.asarray(curve.get_ydata(), float) - base, error, atol=1e-9 * top)
        box = curve.get_clip_box()
        assert box is not None
        window = box.transformed(axes.transData.inverted())
        np.testing.assert_allclose([window.y0, window.y1], [base, base + top], atol=1e-6 * top)


def test_ticks_read_from_each_strip_s_own_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    axes, top, errors, _ = _painted(monkeypatch)
    places, labels = axes.get_yticks(), [float(text.get_text()) for text in axes.get_yticklabels()]
    base = np.floor(np.asarray(places) / (PITCH * top)) * PITCH * top
    np.testing.assert_allclose(places - base, labels, atol=1e-9 * top)
    assert labels.count(0.0) == len(errors)
    low, high = axes.get_ylim()
    assert low == 0.0 and high == pytest.approx(len(errors) * PITCH * top)


@pytest.mark.parametrize("scans", [11, 60])
def test_a_flight_of_any_length_is_drawn_alike_each_time(scans: int) -> None:
    result = make_result(flights=1, scans=scans, examples=1, trackers=TRACKERS)
    first, again = (figures_time.error_over_time(result, result.examples[0], "t") for _ in range(2))
    assert first == again and first.startswith("<svg") and "nan" not in first.lower()
    bare = replace(result.examples[0], turning=None, truth_m=None, smoothed_m=None)
    assert figures_time.error_over_time(result, bare, "t").count("clip-path") >= 2 * len(TRACKERS)


def test_a_figure_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Laying a figure out by drawing it doubles the time of a report."""
    drawn, real = list[Figure](), Figure.draw

    def count(figure: Figure, renderer: Any) -> None:
        drawn.append(figure)
        real(figure, renderer)

    def paint(figure: Figure) -> None:
        figure.subplots().set_xlabel("a label that needs its place")

    monkeypatch.setattr(Figure, "draw", count)
    figures_base.draw(2.0, "a", "axes alone", paint)
    assert len(drawn) == 1
