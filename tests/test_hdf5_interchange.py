"""Other software opens a log: xarray through netCDF-4, and plain h5py; and the documentation says what is there."""

from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest

from ssrtrack.data import PLOT_TYPES, Origin, Phase, PlotFlag, Plots, Radar, Tracks, Truth
from ssrtrack.io.hdf5 import LogWriter, Provenance
from ssrtrack.io.hdf5_schema import FORMAT, FORMAT_VERSION, KINDS, columns_markdown, provenance_texts

xarray = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")

EPOCH = datetime(2023, 5, 2, 8, 0, 0, 500_000, tzinfo=UTC)
MADE = Provenance("ssrtrack test", EPOCH, "0.1.0", "2024-02-29T12:00:00Z", scenario="[a]\n", seed=7)
DOCUMENT = Path(__file__).parents[1] / "docs" / "log-format.md"
N = 6


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("interchange") / "log.h5"
    ones, time_s = np.ones(N), np.arange(N) * 4.0
    with LogWriter(path, MADE, Radar(name=np.array([b"Barcelona", b"Palma"]))) as log:
        log.append_plots(
            Plots(
                time_s=time_s, radar_id=np.arange(N) % 2, range_m=1000.0 * ones, azimuth_rad=ones,
                mode3a=np.array([-1, 0, 0o7700, 1, 2, 3]), address=np.array([-1, 0, 0xFFFFFF, 1, 2, 3]),
                callsign=np.array([b"", b"BAW12", b"EZY45JK", b"", b"", b""]), plot_type=np.arange(N) % 8,
                flags=np.array([0, 1, PlotFlag.X_PULSE, 3, 4, 5]), truth_id=np.array([-2, -1, 0, 1, 2, 3]),
            )
        )  # fmt: skip
        log.append_truth(
            Truth(
                time_s=time_s, truth_id=np.arange(N), latitude_deg=41.0 * ones, longitude_deg=2.0 * ones,
                height_m=ones, v_east_mps=ones, v_north_mps=ones, v_up_mps=ones, phase=np.arange(N) % 8,
            )
        )  # fmt: skip
        log.append_tracks(
            "imm",
            Tracks(
                time_s=time_s, track_id=np.arange(N), x_m=ones, y_m=ones, vx_mps=ones, vy_mps=ones,
                covariance=np.arange(10.0 * N).reshape(N, 10), origin=Origin(41.0, 2.0, 30.0),
            ),
        )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("group", "kind"), [("plots", "plots"), ("truth", "truth"), ("radars", "radars"), ("tracks/imm", "tracks")]
)
def test_xarray_opens_every_group(log: Path, group: str, kind: str) -> None:
    table, dimension = KINDS[kind]
    with xarray.open_dataset(log, group=group, engine="h5netcdf") as found:
        assert set(found.variables) == set(table.specs())
        assert found.sizes[dimension] == (2 if kind == "radars" else N)
        assert all(found[name].dims[0] == dimension for name in table.specs())
        for name, spec in table.specs().items():
            assert found[name].attrs["long_name"] == spec.description
            if name != "time_s":
                assert found[name].attrs["units"] == spec.unit
        found.load()


def test_xarray_decodes_times_absent_values_and_text(log: Path) -> None:
    with xarray.open_dataset(log, group="plots", engine="h5netcdf") as plots:
        assert "time_s" in plots.coords
        assert plots.time_s.values[1] == np.datetime64("2023-05-02T08:00:04.500")
        np.testing.assert_array_equal(plots.mode3a, [np.nan, 0, 0o7700, 1, 2, 3])
        np.testing.assert_array_equal(plots.address, [np.nan, 0, 0xFFFFFF, 1, 2, 3])
        np.testing.assert_array_equal(plots.truth_id, [np.nan, -1, 0, 1, 2, 3])
        assert np.isnan(plots.mach).all()
        assert plots.callsign.values.tolist()[:3] == [b"", b"BAW12", b"EZY45JK"]
        # 0 of bits and codes is a value, not an absent one.
        assert plots["flags"].dtype == np.uint32
        assert plots.plot_type.values.tolist() == [0, 1, 2, 3, 4, 5]
    with xarray.open_dataset(log, group="tracks/imm", engine="h5netcdf") as tracks:
        assert tracks.covariance.dims == ("track_point", "covariance_element")
        assert (tracks.attrs["origin_latitude_deg"], tracks.attrs["origin_height_m"]) == (41.0, 30.0)
    with xarray.open_dataset(log, engine="h5netcdf") as root:
        assert root.attrs["Conventions"] == "CF-1.11"
        assert root.attrs["scenario"] == "[a]\n"


def test_flags_and_codes_say_what_they_mean(log: Path) -> None:
    with h5py.File(log) as file:
        for name, flags in (("plots/flags", PlotFlag), ("truth/phase", Phase)):
            attributes = file[name].attrs
            assert attributes["flag_masks"].dtype == file[name].dtype
            meanings = attributes["flag_meanings"].decode().split()
            assert dict(zip(meanings, attributes["flag_masks"], strict=True)) == {
                f.name.lower(): f.value for f in flags if f.name
            }
        attributes = file["plots/plot_type"].attrs
        assert attributes["flag_values"].tolist() == list(range(len(PLOT_TYPES)))
        assert attributes["flag_meanings"].decode().split() == [
            "no_detection", "PSR", "SSR", "SSR+PSR", "Mode_S_all-call", "Mode_S_roll-call", "Mode_S_all-call+PSR",
            "Mode_S_roll-call+PSR",
        ]  # fmt: skip


def test_attributes_of_the_file_and_its_columns(log: Path) -> None:
    with h5py.File(log) as file:
        assert file.attrs["format"] == FORMAT.encode()
        assert file.attrs["format_version"] == FORMAT_VERSION
        assert file.attrs["complete"] == 1
        assert file.attrs["history"] == b"2024-02-29T12:00:00Z: ssrtrack test"
        assert file["plots/time_s"].attrs["units"] == b"seconds since 2023-05-02 08:00:00.500000"
        assert file["truth/latitude_deg"].attrs["standard_name"] == b"latitude"
        assert file["plots/range_m"].attrs["valid_max"] == 1e6
        assert file["plots/mode3a"].attrs["_FillValue"] == -1
        for name in ("range_m", "plot_type", "flags", "callsign"):
            assert "_FillValue" not in file["plots"][name].attrs
        assert list(file["plots"])[:3] == ["time_s", "radar_id", "range_m"]  # in table order
        for dataset in (file["plots/range_m"], file["tracks/imm/covariance"]):
            assert (dataset.compression, dataset.shuffle, dataset.fletcher32) == ("gzip", True, True)
        assert file["plots/callsign"][:3].tolist() == [b"", b"BAW12", b"EZY45JK"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_document_lists_every_column_as_the_code_declares_it(kind: str) -> None:
    expected = columns_markdown(KINDS[kind][0])
    assert expected in DOCUMENT.read_text(encoding="utf-8"), (
        f"docs/log-format.md differs from ssrtrack/data.py; replace its table of {kind} by:\n\n{expected}"
    )


def test_the_document_names_every_attribute_bit_and_code(log: Path) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    names = set(provenance_texts(MADE)) | {"format", "format_version", "Conventions", "complete"}
    with h5py.File(log) as file:
        assert set(file.attrs) == names
        for group in ("plots", "truth", "tracks/imm"):
            names |= set(file[group].attrs)
        names |= {key for name in KINDS["plots"][0].specs() for key in file["plots"][name].attrs}
    # HDF5's own, for dimension scales
    names -= {"DIMENSION_LIST"}
    missing = [name for name in sorted(names) if f"`{name}`" not in text]
    assert missing == []
    for flags in (PlotFlag, Phase):
        assert all(f"| {flag.value} | `{str(flag.name).lower()}` |" in text for flag in flags)
    assert all(f"| {code} | {name} |" in text for code, name in enumerate(PLOT_TYPES))
