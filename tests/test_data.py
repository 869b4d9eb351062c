"""The tables: shapes, absent values, ranges, freezing, joining."""

import numpy as np
import pytest

from ssrtrack.data import NO_TRUTH, Origin, Plots, Radar, Tracks, Truth
from ssrtrack.errors import DataError


def plots(n: int = 4) -> Plots:
    return Plots(
        time_s=np.arange(n, dtype=float),
        radar_id=np.zeros(n, int),
        range_m=np.full(n, 50e3),
        azimuth_rad=np.linspace(0, 6, n),
    )


def test_absent_columns_take_their_fill_value_and_no_memory() -> None:
    table = plots(1000)
    assert (table.mode3a == -1).all()
    assert np.isnan(table.pressure_altitude_m).all()
    assert (table.truth_id == NO_TRUTH).all()
    assert (table.callsign == b"").all()
    assert table.roll_rad.strides == (0,)


def test_columns_have_their_declared_dtype() -> None:
    for table in (plots(), Radar(name=np.array([b"A"])), Truth.empty(), Tracks.empty(), Plots.empty()):
        for name, spec in table.specs().items():
            assert getattr(table, name).dtype == np.dtype(spec.dtype), name


def test_tables_are_read_only() -> None:
    table = plots()
    with pytest.raises(ValueError, match="read-only"):
        table.range_m[0] = 1.0
    with pytest.raises(AttributeError):
        table.range_m = np.zeros(4)  # type: ignore[misc]


def test_freezing_leaves_the_callers_array_writable() -> None:
    time_s = np.zeros(2)
    Plots(time_s=time_s, radar_id=[0, 0], range_m=[1.0, 2.0], azimuth_rad=[0.0, 0.0])
    time_s[0] = 1.0


def test_slices_masks_and_indices() -> None:
    table = plots(5)
    assert table[1:3].time_s.tolist() == [1.0, 2.0]
    assert table[table.time_s > 2].time_s.tolist() == [3.0, 4.0]
    assert table[np.array([4, 0])].time_s.tolist() == [4.0, 0.0]


def test_concat_keeps_rows_and_origin() -> None:
    joined = Plots.concat([plots(2), plots(3)])
    assert joined.time_s.tolist() == [0, 1, 0, 1, 2]
    assert len(Plots.concat([])) == 0
    track = Tracks(
        time_s=[0.0], track_id=[1], x_m=[0.0], y_m=[0.0], vx_mps=[1.0], vy_mps=[0.0],
        covariance=np.ones((1, 10)), origin=Origin(41.0, 2.0, 30.0),
    )  # fmt: skip
    assert Tracks.concat([track, track]).origin == Origin(41.0, 2.0, 30.0)
    assert Tracks.concat([track, track]).covariance.shape == (2, 10)


BAD_TABLES = {
    "unequal lengths": ({"range_m": np.ones(3)}, "lengths"),
    "missing column": ({"range_m": None}, "'range_m' is required"),
    "scalar": ({"range_m": 5.0}, "lengths"),
    "fractional code": ({"mode3a": np.full(4, 0.5)}, "whole numbers"),
    "code that does not fit": ({"mode3a": np.full(4, 10**6)}, "whole numbers"),
    "text": ({"range_m": np.array(["a", "b", "c", "d"])}, "cannot hold"),
}


@pytest.mark.parametrize(("change", "message"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_malformed_tables_are_refused(change: dict[str, object], message: str) -> None:
    base = {"time_s": np.zeros(4), "radar_id": np.zeros(4, int), "range_m": np.ones(4), "azimuth_rad": np.zeros(4)}
    with pytest.raises(DataError, match=message):
        Plots(**(base | change))


BAD_VALUES = {
    "negative range": ("range_m", [-1.0]),
    "azimuth in degrees": ("azimuth_rad", [180.0]),
    "time not a number": ("time_s", [np.nan]),
    "infinite altitude": ("pressure_altitude_m", [np.inf]),
    "code beyond 7777 octal": ("mode3a", [0o10000]),
    "radar before the first": ("radar_id", [-1]),
}


@pytest.mark.parametrize(("column", "value"), BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_values_out_of_range_name_column_and_row(column: str, value: list[float]) -> None:
    table = plots(1).replace(**{column: np.array(value)})
    with pytest.raises(DataError, match=f"{column}.*row 0"):
        table.validate()


def test_absent_values_pass_validation() -> None:
    assert len(plots().validate()) == 4


def test_replace_refuses_an_unknown_column() -> None:
    with pytest.raises(DataError, match="no columns"):
        plots().replace(range=np.zeros(4))


def test_to_dataframe() -> None:
    frame = plots().replace(callsign=np.array([b"KLM12", b"", b"", b""])).to_dataframe()
    assert frame["callsign"].tolist() == ["KLM12", "", "", ""]
    assert len(frame) == 4
    assert frame["range_m"].iloc[0] == 50e3
    assert "covariance_9" in Tracks.empty().to_dataframe().columns


def test_site_is_known_only_when_whole() -> None:
    radar = Radar(name=[b"A", b"B"], latitude_deg=[41.0, 41.0], longitude_deg=[2.0, 2.0], height_m=[27.0, np.nan])
    assert radar.has_site().tolist() == [True, False]
