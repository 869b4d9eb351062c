"""Radar sites from the command line and from TOML."""

from pathlib import Path

import numpy as np
import pytest

from ssrtrack.data import Radar
from ssrtrack.errors import ScenarioError
from ssrtrack.io.sites import load_radar_file, parse_site, with_radar_file, with_site

TWO = Radar(name=[b"20/129", b"20/130"], sac=[20, 20], sic=[129, 130])


def test_site_text() -> None:
    assert parse_site("41.3, 2.1,-3") == {"latitude_deg": 41.3, "longitude_deg": 2.1, "height_m": -3.0}


@pytest.mark.parametrize("text", ["", "41.3,2.1", "a,b,c", "91,2,3", "41,181,0", "41,2,nan", "41,2,3,4", "41;2;3"])
def test_bad_site_text(text: str) -> None:
    with pytest.raises(ScenarioError, match="site"):
        parse_site(text)


def test_one_site_for_one_radar_only() -> None:
    site = parse_site("41.3,2.1,27")
    assert with_site(TWO[:1], site).has_site().all()
    with pytest.raises(ScenarioError, match=r"2 radars \(20/129, 20/130\)"):
        with_site(TWO, site)


def test_radar_file_fills_the_radar_it_names(tmp_path: Path) -> None:
    path = tmp_path / "radar.toml"
    path.write_text(
        '[[radar]]\nsac=20\nsic=130\nname="BCN"\nlatitude_deg=41\nlongitude_deg=2\nheight_m=27.3\n'
        "max_range_nm=60\nsigma_azimuth_deg=0.05\n"
    )
    table = with_radar_file(TWO, load_radar_file(path))
    assert table.has_site().tolist() == [False, True]
    assert table.name.tolist() == [b"20/129", b"BCN"]
    assert table.max_range_m[1] == 60 * 1852
    assert np.isclose(table.sigma_azimuth_rad[1], np.radians(0.05))


BAD_FILES = {
    "not TOML": "[[radar",
    "no block": "a = 1",
    "a table, not blocks": "[radar]\nsac=1",
    "unknown key": "[[radar]]\nsac=1\nsic=2\nlatitude=41",
    "no identity": "[[radar]]\nlatitude_deg=41",
    "identity out of range": "[[radar]]\nsac=1\nsic=256",
    "text for a number": '[[radar]]\nsac=1\nsic=2\nheight_m="27"',
    "out of range": "[[radar]]\nsac=1\nsic=2\nlatitude_deg=95",
    "number for a name": "[[radar]]\nsac=1\nsic=2\nname=5",
}


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_radar_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "radar.toml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=r"radar\.toml"):
        load_radar_file(path)
