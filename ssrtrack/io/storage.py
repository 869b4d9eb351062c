"""Where logs lie: local files, or whatever fsspec reaches by URL (s3://, gs://, http://, memory://)."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ssrtrack.errors import LogError, SsrtrackError
from ssrtrack.io.hdf5 import LogReader

BLOCK_OCTETS = 4 << 20  # read at a time: a request to object storage costs as much as some megabytes
BLOCKS = 16  # kept in memory
# Keys of a file's description that change with its content, by kind of storage.
CHANGES = ("ETag", "etag", "mtime", "LastModified", "last_modified")
WITHOUT = "pip install 'ssrtrack[dask]' (and the package of the storage: s3fs, gcsfs, …)"


def is_url(location: str) -> bool:
    """Whether a location is a URL and not a local path; file:// is local, see `local_path`."""
    return "://" in location and not location.startswith("file://")


def local_path(location: str) -> Path:
    """The path of a location that is not a URL."""
    return Path(location.removeprefix("file://"))


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path inside it.

    Raises:
        LogError: fsspec, or the package of that kind of storage, is missing, or the URL is unknown.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise LogError(f"{url}: reading URLs needs fsspec; {WITHOUT}") from error
    try:
        fs, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise LogError(f"{url}: {error}; {WITHOUT}") from error
    return fs, str(path)


def stamp(location: str) -> str:
    """What changes when a file is replaced: size with time of change or entity tag; "" where that is not known.

    Raises:
        LogError: there is no such file.
    """
    with _named(location):
        if not is_url(location):
            found = local_path(location).stat()
            return f"{found.st_size} {found.st_mtime_ns}"
        fs, path = filesystem(location)
        about = fs.info(path)
        tag = next((about[key] for key in CHANGES if key in about), "")
        return f"{about.get('size')} {tag}" if tag else ""


@contextmanager
def opened(location: str) -> Iterator[LogReader]:
    """A log wherever it lies; of a URL only the parts that are asked for are fetched.

    Raises:
        LogError: it cannot be read; the message names the location.
    """
    with _named(location), _remote(location) as file, LogReader(local_path(location), file) as reader:
        yield reader


@contextmanager
def fetched(location: str) -> Iterator[tuple[LogReader, str]]:
    """A log with its SHA-256, both from one pass over a URL: it is copied to local disk first.

    Raises:
        LogError: it cannot be read; the message names the location.
    """
    if not is_url(location):
        digest = content_hash(location)
        with opened(location) as reader:
            yield reader, digest
        return
    with TemporaryDirectory(prefix="ssrtrack-") as folder:
        copy, sha256 = Path(folder) / "log.h5", hashlib.sha256()
        with _named(location), _stream(location) as source, copy.open("wb") as target:
            while block := source.read(BLOCK_OCTETS):
                sha256.update(block)
                target.write(block)
        with _named(location, copy), LogReader(copy) as reader:
            yield reader, sha256.hexdigest()


def content_hash(location: str) -> str:
    """SHA-256 of a file's octets.

    Raises:
        LogError: it cannot be read.
    """
    with _named(location), _stream(location) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stream(location: str) -> Any:
    """Octets from beginning to end."""
    if not is_url(location):
        return local_path(location).open("rb")
    fs, path = filesystem(location)
    return fs.open(path, "rb", block_size=BLOCK_OCTETS)


def _remote(location: str) -> Any:
    """A context with an open file for a URL, None for a local path, which HDF5 opens itself."""
    if not is_url(location):
        return nullcontext()
    fs, path = filesystem(location)
    # HDF5 reads to and fro among columns: recent blocks are kept, and each is fetched once. fsspec's default cache
    # keeps one and fetched a log nine times over: 26 s instead of 2 s for 4 M plots at 20 ms and 200 MB/s.
    return fs.open(path, "rb", block_size=BLOCK_OCTETS, cache_type="background", cache_options={"maxblocks": BLOCKS})


@contextmanager
def _named(location: str, copy: Path | None = None) -> Iterator[None]:
    """Errors that name the location the user gave, whatever file was read in its place."""
    try:
        yield
    except FileNotFoundError as error:
        raise LogError(f"{location}: no such file; give the path of a log") from error
    except (OSError, EOFError) as error:
        raise LogError(f"{location}: cannot be read ({type(error).__name__}: {error}); check access to it") from error
    except SsrtrackError as error:
        shown = str(copy if copy is not None else local_path(location))
        raise type(error)(str(error).replace(shown, location)) from error
