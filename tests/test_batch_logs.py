"""What the user names becomes a list of logs: folders, patterns, manifests, URLs."""

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ssrtrack.batch.logs import find_logs, names_of
from ssrtrack.errors import BatchError, LogError
from ssrtrack.io.storage import content_hash, fetched, opened, stamp
from tests.scoring_fixture import simple_log


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.h5", "sub/b.hdf5", "sub/deep/c.nc", "sub/notes.txt", "sub/.d.h5.123.part", "x[1].h5"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "some.txt").write_text("# two logs\n\na.h5  # the first\nsub/b.hdf5\n*.h5\n")
    (tmp_path / "some.json").write_text(json.dumps(["sub", "gone.h5"]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (["a.h5"], ["a.h5"]),
        (["gone.h5"], ["gone.h5"]),  # fails later, alone
        (["sub"], ["sub/b.hdf5", "sub/deep/c.nc"]),
        (["."], ["a.h5", "sub/b.hdf5", "sub/deep/c.nc", "x[1].h5"]),
        (["*.h5"], ["a.h5", "x[1].h5"]),
        (["x[1].h5"], ["x[1].h5"]),  # a file of that name is no pattern
        (["**/*.nc"], ["sub/deep/c.nc"]),
        (["a.h5", "./a.h5", "sub/../a.h5", "*.h5"], ["a.h5", "x[1].h5"]),  # each once
        (["some.txt"], ["a.h5", "sub/b.hdf5", "x[1].h5"]),
        (["some.json"], ["sub/b.hdf5", "sub/deep/c.nc", "gone.h5"]),
        ([300 * "x" + ".h5"], [300 * "x" + ".h5"]),  # no name a file can have, which is found out later, alone
    ],
)
def test_local_names(folder: Path, named: list[str], expected: list[str]) -> None:
    assert find_logs(named) == [str(folder / name) for name in expected]
    assert find_logs([f"file://{folder}/a.h5"]) == [str(folder / "a.h5")]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ([], "no log to evaluate"),
        (["nothing*.h5"], "no log found there"),
        (["empty"], "no log found there"),
        (["gone.txt"], "cannot be read"),
        (["binary.txt"], "cannot be read"),
        (["broken.json"], "is no JSON"),
        (["number.json"], "expected a list of texts"),
        (["nested.txt"], "names another manifest"),
    ],
)
def test_what_names_no_log(folder: Path, named: list[str], message: str) -> None:
    (folder / "empty").mkdir()
    (folder / "binary.txt").write_bytes(b"\x89HDF\xff\xfe")
    (folder / "broken.json").write_text("[")
    (folder / "number.json").write_text("[1]")
    (folder / "nested.txt").write_text("some.txt\n")
    with pytest.raises(BatchError, match=message):
        find_logs(named)


def test_odd_names_are_not_lost(tmp_path: Path) -> None:
    """Capitals, line breaks, links that lead nowhere; # within a name, and a mark of byte order before a manifest."""
    names = ["A.H5", "dangling.h5", "new\nline ü.h5"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "dangling.h5").unlink()
    (tmp_path / "dangling.h5").symlink_to(tmp_path / "gone.h5")
    (tmp_path / "folder.h5").mkdir()
    assert find_logs([tmp_path]) == [str(tmp_path / name) for name in names]
    (tmp_path / "some.txt").write_text("\ufeffone#1.h5\n#two.h5\nthree 3.h5 # the third\n")
    assert find_logs([tmp_path / "some.txt"]) == [str(tmp_path / name) for name in ("one#1.h5", "three 3.h5")]


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logs must not be passed over in silence."""
    (tmp_path / "a.h5").write_bytes(b"")
    (tmp_path / "locked").mkdir()

    def scandir(path: str) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return list_folder(path)

    list_folder = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(BatchError, match=r"locked cannot be listed \(Permission denied\)"):
        find_logs([tmp_path])


def test_names_are_what_locations_do_not_share() -> None:
    assert names_of(["/x/y/a.h5"]) == ["a.h5"]
    assert names_of(["/x/y/a.h5", "/x/y/b.h5"]) == ["a.h5", "b.h5"]
    assert names_of(["/x/one/a.h5", "/x/other/a.h5"]) == ["one/a.h5", "other/a.h5"]
    assert names_of(["/x/a.h5", "s3://bucket/a.h5"]) == ["/x/a.h5", "s3://bucket/a.h5"]


def test_urls_of_a_memory_file_system(tmp_path: Path) -> None:
    """Listing, reading and hashing through fsspec, without any file of that name on disk."""
    log = simple_log(tmp_path / "log.h5", flights=3)
    memory = fsspec.filesystem("memory")
    memory.pipe({"/store/a.h5": log.read_bytes(), "/store/deep/b.h5": b"nothing", "/store/m.txt": b"a.*\ndeep/b.h5\n"})
    both = ["memory:///store/a.h5", "memory:///store/deep/b.h5"]
    try:
        assert find_logs(["memory://store"]) == both
        assert find_logs(["memory://store/*.h5"]) == both[:1]
        assert [url.replace(":///", "://") for url in find_logs(["memory://store/m.txt"])] == [
            url.replace(":///", "://") for url in both
        ]
        with pytest.raises(BatchError, match="no log found"):
            find_logs(["memory://store/*.nc"])
        with opened(both[0]) as reader, fetched(both[0]) as (copy, sha256):
            assert reader.read_plots().time_s.tolist() == copy.read_plots().time_s.tolist()
        assert sha256 == content_hash(both[0]) == content_hash(str(log))
        assert stamp(both[0]) == ""  # this storage does not say when a file changed: its content is compared
        for reading in (opened, fetched):
            with pytest.raises(LogError, match=r"memory:///store/deep/b\.h5: is not an HDF5 file"), reading(both[1]):
                pass
            with pytest.raises(LogError, match=r"memory://gone\.h5: no such file"), reading("memory://gone.h5"):
                pass
        with pytest.raises(LogError, match="ssrtrack\\[dask\\]"):
            stamp("nosuchprotocol://x/a.h5")
    finally:
        memory.rm("/store", recursive=True)
