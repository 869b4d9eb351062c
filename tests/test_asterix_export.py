"""Plots written as CAT048/CAT034: exact to the LSB when read back, octet for octet when written again."""

from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.data import PlotFlag, Plots, Radar
from ssrtrack.errors import AsterixError
from ssrtrack.io.asterix import CHARS6
from ssrtrack.io.asterix_export import encode, rotation_messages, rotation_period_s
from ssrtrack.io.asterix_plots import BDS_COLUMNS, Service
from ssrtrack.io.asterix_stream import PlotStream
from tests.asterix_fixture import recordings, same

GOLDEN = Path(__file__).parent / "golden" / "asterix_two_radars.ast"
ANGLES = ("azimuth_rad", "track_angle_rad", "magnetic_heading_rad")
CARRIED = [n for n in Plots.specs() if n not in ("sigma_range_m", "sigma_azimuth_rad", "truth_id")]
# Half an LSB of each rounded column (see the item tables), and its ends.
HALF_LSB = {
    "time_s": 1 / 256, "range_m": 1852 / 512, "azimuth_rad": pi / 65536, "pressure_altitude_m": 3.81,
    "mcp_altitude_m": 8 * 0.3048, "fms_altitude_m": 8 * 0.3048, "baro_setting_pa": 5.0,
    "roll_rad": 45 / 512 * pi / 180, "track_angle_rad": 90 / 1024 * pi / 180, "ground_speed_mps": 1852 / 3600,
    "track_angle_rate_radps": 4 / 256 * pi / 180, "true_airspeed_mps": 1852 / 3600,
    "magnetic_heading_rad": 90 / 1024 * pi / 180, "indicated_airspeed_mps": 0.5 * 1852 / 3600, "mach": 0.002,
    "baro_altitude_rate_mps": 16 * 0.3048 / 60, "inertial_vertical_velocity_mps": 16 * 0.3048 / 60,
}  # fmt: skip
ENDS = {
    "pressure_altitude_m": (-3900, 38000), "mcp_altitude_m": (0, 19900), "fms_altitude_m": (0, 19900),
    "baro_setting_pa": (80000, 120900), "roll_rad": (-1.5, 1.5), "track_angle_rad": (0, 2 * pi),
    "ground_speed_mps": (0, 1000), "track_angle_rate_radps": (-0.27, 0.27), "true_airspeed_mps": (0, 1000),
    "magnetic_heading_rad": (0, 2 * pi), "indicated_airspeed_mps": (0, 526), "mach": (0, 4.09),
    "baro_altitude_rate_mps": (-83, 83), "inertial_vertical_velocity_mps": (-83, 83),
}  # fmt: skip


def some_radars() -> Radar:
    return Radar(
        name=np.array([b"north", b"south"]), sac=[20, 21], sic=[129, 7], latitude_deg=[41.3007, np.nan],
        longitude_deg=[182.1, np.nan], height_m=[27.257, np.nan], rotation_period_s=[4.0, 8.5],
    )  # fmt: skip


def some_plots(rng: np.random.Generator, n: int) -> Plots:
    """Random plots over everything the items can hold; absent values among them."""
    alphabet = [c.encode() for c in CHARS6 if c != "?"]
    columns: dict[str, Any] = {
        "time_s": np.sort(rng.uniform(86300, 86500, n)), "radar_id": rng.integers(0, 2, n),
        "range_m": rng.uniform(0, 255.99 * 1852, n), "azimuth_rad": rng.uniform(0, 2 * pi, n),
        "mode3a": rng.integers(-1, 4096, n), "address": np.where(rng.random(n) < 0.2, -1, rng.integers(0, 1 << 24, n)),
        "callsign": np.array([b"".join(rng.choice(alphabet, rng.integers(0, 9))).strip() for _ in range(n)], "S8"),
        "plot_type": rng.integers(0, 8, n), "flags": rng.integers(0, 1 << len(PlotFlag), n),
    }  # fmt: skip
    for name, (low, high) in ENDS.items():
        columns[name] = np.where(rng.random(n) < 0.4, np.nan, rng.uniform(low, high, n))
    return Plots(**columns).validate()


def read(path: Path, data: bytes) -> tuple[Plots, Service, Radar]:
    path.write_bytes(data)
    stream = PlotStream(path)
    chunks = list(stream)
    assert stream.summary.error_count == 0 and not stream.summary.dropped_plots
    return Plots.concat([c.plots for c in chunks]), Service.concat([c.service for c in chunks]), stream.radars()


def in_order(radars: Radar, like: Radar) -> np.ndarray:
    """Rows of `radars` that are the rows of `like`."""
    return np.array([int(np.flatnonzero(radars.sac == sac)[0]) for sac in like.sac])


@pytest.mark.parametrize("seed", range(5))
def test_plots_are_read_back_to_the_lsb_and_written_again_octet_for_octet(tmp_path: Path, seed: int) -> None:
    plots, radars = some_plots(np.random.default_rng(seed), 600), some_radars()
    data = b"".join(encode(plots, radars, rotation_messages(plots, radars)))
    back, service, found = read(tmp_path / "a.ast", data)
    assert len(back) == len(plots)
    ids = in_order(radars, found)
    assert same(ids[back.radar_id], plots.radar_id)
    for name in CARRIED:
        before, after = getattr(plots, name), getattr(back, name)
        if name in HALF_LSB:
            error = after.astype(float) - before
            error = (error + pi) % (2 * pi) - pi if name in ANGLES else error
            assert (np.isnan(after) == np.isnan(before)).all(), name
            assert np.nanmax(np.abs(error)) <= HALF_LSB[name] * (1 + 1e-3), name
        elif name == "flags":
            assert same(after, _carried_flags(plots)), name
        elif name != "radar_id":
            assert same(after, before), name
    assert b"".join(encode(back, found, service)) == data


def _carried_flags(plots: Plots) -> np.ndarray:
    """Flags of an absent code or altitude have no item."""
    a = PlotFlag.MODE3A_NOT_VALIDATED | PlotFlag.MODE3A_GARBLED | PlotFlag.MODE3A_FROM_SMOOTHER
    c = PlotFlag.ALTITUDE_NOT_VALIDATED | PlotFlag.ALTITUDE_GARBLED
    flags = np.where(plots.mode3a < 0, plots.flags & ~np.uint32(a), plots.flags)
    return np.where(np.isnan(plots.pressure_altitude_m), flags & ~np.uint32(c), flags).astype(np.uint32)


def test_reading_and_writing_is_exact_from_the_second_time_on(tmp_path: Path) -> None:
    plots, radars = some_plots(np.random.default_rng(9), 300), some_radars()
    first, service, found = read(tmp_path / "1.ast", b"".join(encode(plots, radars)))
    second, *_ = read(tmp_path / "2.ast", b"".join(encode(first, found, service)))
    assert all(same(getattr(first, name), getattr(second, name)) for name in Plots.specs())


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(BDS_COLUMNS)), share=st.floats(0, 1), epoch_s=st.floats(-1e5, 1e5), t=st.floats(0, 1e6)
)
def test_each_register_column_and_time(
    tmp_path_factory: pytest.TempPathFactory, name: str, share: float, epoch_s: float, t: float
) -> None:
    low, high = ENDS[name]
    value = low + share * (high - low)
    plots = Plots(time_s=[t], radar_id=[0], range_m=[1.0], azimuth_rad=[2 * pi], **{name: [value]})
    data = b"".join(encode(plots, some_radars(), epoch_time_of_day_s=epoch_s))
    back, *_ = read(tmp_path_factory.mktemp("bds") / "x.ast", data)
    error = getattr(back, name)[0] - value
    error = (error + pi) % (2 * pi) - pi if name in ANGLES else error
    assert abs(error) <= HALF_LSB[name] * (1 + 1e-3)
    assert [n for n in BDS_COLUMNS if not np.isnan(getattr(back, n)[0])] == [name]
    assert back.azimuth_rad[0] == 0.0
    tod = (t + epoch_s) % 86400
    assert min(abs(back.time_s[0] - tod), 86400 - abs(back.time_s[0] - tod)) <= 1 / 256 + 1e-9


# A column, a value its item cannot hold, and what the message has to say.
TOO_FAR = [
    ("range_m", 256 * 1852.0, "'range_m', row 1 is 474112.0: RHO holds 0 to 474105"),
    ("pressure_altitude_m", 63000.0, "'pressure_altitude_m', row 1 is 63000.0: FL holds -62423 to 62415"),
    ("mach", 4.2, "'mach', row 1"),
    ("roll_rad", 1.6, "'roll_rad', row 1"),
    ("baro_setting_pa", 79000.0, "BARO holds 80000 to 120950"),
    ("ground_speed_mps", -2.0, "'ground_speed_mps', row 1"),
    ("callsign", b"abc", "'callsign', row 1 is b'abc'"),
    ("time_s", np.nan, "time_s"),
    ("radar_id", 2, "row 2, there are 2"),
]


@pytest.mark.parametrize(("name", "value", "said"), TOO_FAR)
def test_what_does_not_fit_is_named_with_its_row(name: str, value: Any, said: str) -> None:
    plots = some_plots(np.random.default_rng(0), 2)
    column = getattr(plots, name).copy()
    column[1] = value
    with pytest.raises(AsterixError) as error:
        list(encode(plots.replace(**{name: column}), some_radars()))
    assert said in str(error.value)


def test_bad_options_are_refused() -> None:
    plots = some_plots(np.random.default_rng(0), 2)
    with pytest.raises(AsterixError, match="records_per_block is 0"):
        list(encode(plots, some_radars(), records_per_block=0))
    with pytest.raises(AsterixError, match="divisor of 256"):
        rotation_messages(plots, some_radars(), sectors=30)


def test_records_share_blocks_up_to_the_given_number(tmp_path: Path) -> None:
    plots = some_plots(np.random.default_rng(2), 100).replace(radar_id=np.zeros(100, np.int16))
    for most, blocks in ((1, 100), (7, 15), (1000, 1)):
        data = list(encode(plots, some_radars(), records_per_block=most))
        assert len(data) == blocks
        assert len(read(tmp_path / "b.ast", b"".join(data))[0]) == 100


def rotating(period: float, seconds: float, rng: np.random.Generator, north_s: float = 1.3) -> Plots:
    """Plots of 60 aircraft on circles of slowly changing azimuth, when the beam meets them; some are missed."""
    start, rate = rng.uniform(0, 2 * pi, 60), rng.uniform(-0.002, 0.002, 60)
    rows = []
    for scan in range(int(seconds / period)):
        azimuth = (start + rate * scan * period) % (2 * pi)
        time_s = north_s + (scan + azimuth / (2 * pi)) * period
        rows += [(t, a, i) for i, (t, a) in enumerate(zip(time_s, azimuth, strict=True)) if rng.random() < 0.9]
    time_s, azimuth, address = (np.array(column) for column in zip(*sorted(rows), strict=True))
    return Plots(
        time_s=time_s, radar_id=np.zeros(len(rows), int), range_m=np.full(len(rows), 1e5), azimuth_rad=azimuth,
        address=address, plot_type=np.full(len(rows), 5),
    )  # fmt: skip


@pytest.mark.parametrize("period", [1.0, 4.0, 4.97, 12.2])
@pytest.mark.parametrize("told", [True, False])
def test_rotation_is_found_from_the_plots(period: float, told: bool) -> None:
    plots = rotating(period, 300.0, np.random.default_rng(1))
    assert rotation_period_s(plots) == pytest.approx(period, rel=1e-6)
    radars = some_radars().replace(rotation_period_s=np.array([period if told else np.nan, np.nan]))
    service = rotation_messages(plots, radars)
    north = service.time_s[service.message_type == 1]
    assert (np.diff(service.time_s) >= 0).all()
    scans = np.rint((north - 1.3) / period)
    assert np.abs(north - 1.3 - scans * period).max() < 1e-3
    assert (np.diff(scans) == 1).all()
    crossings = service[service.message_type == 2]
    azimuth = crossings.sector / 256
    assert (
        np.abs((crossings.time_s - 1.3) / period - np.rint((crossings.time_s - 1.3) / period - azimuth) - azimuth).max()
        < 1e-3
    )
    assert (service.radar_id == 0).all()


def test_no_rotation_without_plots_or_repeats() -> None:
    assert len(rotation_messages(Plots.empty(), some_radars())) == 0
    once = Plots(time_s=[1.0], radar_id=[1], range_m=[1.0], azimuth_rad=[0.0])
    assert np.isnan(rotation_period_s(once))
    assert len(rotation_messages(once, some_radars().replace(rotation_period_s=np.array([np.nan, np.nan])))) == 0


def golden() -> bytes:
    plots, radars = some_plots(np.random.default_rng(2024), 40), some_radars()
    plots = plots.replace(time_s=np.sort((plots.time_s - 86300) / 10 + 86390))
    return b"".join(encode(plots, radars, rotation_messages(plots, radars, sectors=4), records_per_block=3))


def test_golden_octets(tmp_path: Path) -> None:
    """Octets that this encoder made; they must never change by accident, for files out there were written so."""
    kept = GOLDEN.read_bytes()
    back, service, radars = read(tmp_path / "g.ast", kept)
    assert b"".join(encode(back, radars, service, records_per_block=3)) == kept
    assert len(back) == 40 and len(service) > 40
    assert golden() == kept


def test_the_real_hour_is_written_and_read_back_whole(tmp_path: Path) -> None:
    stream = PlotStream(recordings() / "barcelona_cat048_1h.ast")
    plots = Plots.concat([c.plots for c in stream])[:8000]
    radars = stream.radars()
    assert rotation_period_s(plots) == pytest.approx(4.0, abs=0.005)
    service = rotation_messages(plots, radars)
    data = b"".join(encode(plots, radars, service))
    back, service_back, radars_back = read(tmp_path / "h.ast", data)
    assert all(same(getattr(plots, name), getattr(back, name)) for name in Plots.specs())
    assert b"".join(encode(back, radars_back, service_back)) == data
    north = service.time_s[service.message_type == 1]
    assert np.abs(np.diff(north) - 4.0).max() < 0.03
