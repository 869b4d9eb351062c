"""Geodesy against independent definitions, finite differences and round trips."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from ssrtrack import geodesy

angles = st.floats(-np.pi / 2, np.pi / 2)
longitudes = st.floats(-np.pi, np.pi)
heights = st.floats(-500.0, 20000.0)
SITE = (np.radians(41.3007), np.radians(2.1021), 27.3)


@pytest.mark.parametrize(
    ("lat_deg", "lon_deg", "height_m", "ecef_m"),
    [
        # The axes' ends follow from the ellipsoid's definition; the last row from N = a/√(1 − e² sin²φ) worked by hand.
        (0.0, 0.0, 0.0, (6378137.0, 0.0, 0.0)),
        (0.0, 90.0, 100.0, (0.0, 6378237.0, 0.0)),
        (90.0, 0.0, 0.0, (0.0, 0.0, 6356752.314245)),
        (45.0, 0.0, 0.0, (4517590.878849, 0.0, 4487348.408866)),
    ],
)
def test_known_points(lat_deg: float, lon_deg: float, height_m: float, ecef_m: tuple[float, ...]) -> None:
    got = geodesy.geodetic_to_ecef(np.radians(lat_deg), np.radians(lon_deg), height_m)
    np.testing.assert_allclose(got, ecef_m, atol=1e-6)


@given(angles, longitudes, heights)
def test_ecef_round_trip(lat: float, lon: float, height: float) -> None:
    ecef = geodesy.geodetic_to_ecef(np.float64(lat), lon, height)
    back = geodesy.geodetic_to_ecef(*geodesy.ecef_to_geodetic(ecef))
    assert np.abs(back - ecef).max() < 1e-6
    assert abs(geodesy.ecef_to_geodetic(ecef)[2] - height) < 1e-6


@given(angles, longitudes, heights, st.lists(st.floats(-5e5, 5e5), min_size=3, max_size=3))
def test_enu_round_trip_below_a_millimetre(lat: float, lon: float, height: float, enu: list[float]) -> None:
    site = (np.float64(lat), np.float64(lon), height)
    point = np.array(enu)
    back = geodesy.ecef_to_enu(geodesy.enu_to_ecef(point, site), site)
    assert np.abs(back - point).max() < 1e-3


def test_enu_axes_point_east_north_and_up() -> None:
    lat, lon, height = SITE
    step = 1e-6
    moved = np.stack(
        [
            geodesy.geodetic_to_enu(lat, lon + step, height, SITE),
            geodesy.geodetic_to_enu(lat + step, lon, height, SITE),
            geodesy.geodetic_to_enu(lat, lon, height + 1.0, SITE),
        ]
    )
    np.testing.assert_allclose(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    ("enu", "azimuth_deg"),
    [((0, 1, 0), 0.0), ((1, 0, 0), 90.0), ((0, -1, 0), 180.0), ((-1, 0, 0), 270.0), ((-1e-20, 1, 0), 0.0)],
)
def test_azimuth_is_clockwise_from_north(enu: tuple[float, float, float], azimuth_deg: float) -> None:
    _, azimuth, _ = geodesy.enu_to_polar(np.array(enu, float))
    assert np.degrees(azimuth) == pytest.approx(azimuth_deg)
    assert 0.0 <= azimuth < 2.0 * np.pi


@given(st.floats(1.0, 470e3), st.floats(0, 2 * np.pi), st.floats(-500.0, 15000.0))
def test_slant_range_correction(range_m: float, azimuth: float, height_m: float) -> None:
    enu = geodesy.slant_to_enu(range_m, azimuth, height_m, SITE)
    slant, _, _ = geodesy.enu_to_polar(enu)
    assert slant == pytest.approx(range_m, abs=1e-6)
    if range_m > 1.0001 * abs(height_m - SITE[2]) + 1.0:
        assert geodesy.enu_to_geodetic(enu, SITE)[2] == pytest.approx(height_m, abs=1e-4)
    else:  # noise overhead: the point straight above, never NaN
        assert np.isfinite(enu).all()


def test_slant_range_correction_against_root_finding() -> None:
    """37.0 km at FL330 is 35.7 km on the ground: the correction the domain notes quote, and brentq's answer."""
    height = 330 * 30.48

    def height_error(elevation: float) -> float:
        enu = geodesy.polar_to_enu(np.float64(37000.0), 0.7, elevation)
        return float(geodesy.enu_to_geodetic(enu, SITE)[2] - height)

    expected = geodesy.polar_to_enu(np.float64(37000.0), 0.7, brentq(height_error, 0.0, 1.0, xtol=1e-14))
    got = geodesy.slant_to_enu(37000.0, 0.7, height, SITE)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.hypot(got[0], got[1]) == pytest.approx(35.6e3, abs=100.0)


def test_slant_jacobian_against_differences() -> None:
    rng = np.random.default_rng(3)
    n = 500
    r, az, h = rng.uniform(20e3, 450e3, n), rng.uniform(0, 2 * np.pi, n), rng.uniform(0, 13e3, n)

    def f(r: np.ndarray, az: np.ndarray, h: np.ndarray) -> np.ndarray:
        return geodesy.slant_to_enu(r, az, h, SITE)[..., :2]

    numeric = np.stack(
        [
            (f(r + 1, az, h) - f(r - 1, az, h)) / 2,
            (f(r, az + 1e-5, h) - f(r, az - 1e-5, h)) / 2e-5,
            (f(r, az, h + 1) - f(r, az, h - 1)) / 2,
        ],
        -1,
    )
    got = geodesy.slant_jacobian(geodesy.slant_to_enu(r, az, h, SITE), SITE)
    assert (np.abs(got - numeric) / np.abs(numeric).max(0)).max() < 1e-7


def test_slant_jacobian_is_finite_overhead() -> None:
    enu = geodesy.slant_to_enu(np.array([0.0, 5000.0]), 0.3, np.array([27.3, 9000.0]), SITE)
    jacobian = geodesy.slant_jacobian(enu, SITE)
    assert np.isfinite(jacobian).all()
    # A plot that noise put straight overhead still has a covariance that can be factored, metres wide across.
    spread = jacobian[1] * [150.0, np.radians(0.15), 50.0]
    covariance = spread @ spread.T
    assert np.linalg.cond(covariance) < 1e11
    assert 1.0 < np.sqrt(np.linalg.eigvalsh(covariance)[0]) < 10.0


@pytest.mark.parametrize("range_m", [0.0, 1e-3, 40.0, 299.0])
@pytest.mark.parametrize("height_m", [27.3, 2500.0])
def test_a_range_that_no_aircraft_has_says_nothing(range_m: float, height_m: float) -> None:
    """An outlier whose noise took the range below zero is reported as 0: still a covariance, and never a sure one."""
    spread = geodesy.slant_jacobian(geodesy.slant_to_enu(range_m, 2.6, height_m, SITE), SITE)
    spread = spread * [100.0, np.radians(0.05), 50.0]
    sigma_m = np.sqrt(np.linalg.eigvalsh(spread @ spread.T))
    assert sigma_m[0] > 5000.0 and sigma_m[1] < 20.0 * sigma_m[0]


def test_polar_jacobian_against_differences() -> None:
    rng = np.random.default_rng(4)
    point = rng.uniform(-1e5, 1e5, (200, 3))
    columns = []
    for axis in range(3):
        step = np.zeros(3)
        step[axis] = 0.5
        high, low = geodesy.enu_to_polar(point + step), geodesy.enu_to_polar(point - step)
        turn = (high[1] - low[1] + np.pi) % (2 * np.pi) - np.pi
        columns.append(np.stack([high[0] - low[0], turn], -1))
    np.testing.assert_allclose(geodesy.polar_jacobian(point), np.stack(columns, -1), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_torch_answers_like_numpy(device: str) -> None:
    rng = np.random.default_rng(5)
    r, az, h = rng.uniform(5e3, 4e5, 50), rng.uniform(0, 6, 50), rng.uniform(0, 12e3, 50)
    site = tuple(torch.tensor(v, dtype=torch.float64, device=device) for v in SITE)
    tensors = [torch.tensor(v, device=device) for v in (r, az, h)]
    enu = geodesy.slant_to_enu(r, az, h, SITE)
    enu_t = geodesy.slant_to_enu(*tensors, site)
    assert isinstance(enu_t, torch.Tensor)
    assert enu_t.device.type == device
    np.testing.assert_allclose(enu_t.cpu().numpy(), enu, atol=1e-8)
    np.testing.assert_allclose(geodesy.slant_jacobian(enu_t, site).cpu().numpy(), geodesy.slant_jacobian(enu, SITE))
    np.testing.assert_allclose(geodesy.polar_jacobian(enu_t).cpu().numpy(), geodesy.polar_jacobian(enu))
    for got, expected in zip(geodesy.enu_to_polar(enu_t), geodesy.enu_to_polar(enu), strict=True):
        np.testing.assert_allclose(got.cpu().numpy(), expected)


def test_torch_gradient_is_the_jacobian() -> None:
    """Learned trackers differentiate through the correction: autograd and the closed form agree."""
    site = tuple(torch.tensor(v, dtype=torch.float64) for v in SITE)
    z = torch.tensor([80e3, 1.2, 9000.0], dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda z: geodesy.slant_to_enu(z[0], z[1], z[2], site)[:2], z)
    closed = geodesy.slant_jacobian(geodesy.slant_to_enu(80e3, 1.2, 9000.0, SITE), SITE)
    np.testing.assert_allclose(jacobian.numpy(), closed, rtol=1e-6, atol=1e-6)
