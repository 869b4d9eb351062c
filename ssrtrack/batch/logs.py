"""What the user names (logs, folders, patterns, manifests, URLs) as a list of logs."""

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ssrtrack.errors import BatchError, SsrtrackError
from ssrtrack.io.storage import filesystem, is_url, local_path

LOGS = (".h5", ".hdf5", ".nc")
MANIFESTS = (".txt", ".list", ".json")


def find_logs(named: Iterable[str | Path]) -> list[str]:
    """Locations of logs, each once, in the order named; local ones as absolute paths.

    Args:
        named: logs; folders, searched with all folders below (not through links to folders) for .h5, .hdf5 and .nc
            files, sorted; patterns with `*`,
            `?`, `[…]` or `**`; manifests (.txt or .list: one location per line, # begins a comment; .json: a list of
            texts), relative to the manifest's own folder; or URLs of any of these.

    Raises:
        BatchError: a pattern or folder holds no log, a manifest cannot be read, or nothing was named. A log that does
            not exist is no error here: it fails alone.
    """
    found = {log: None for name in named for log in _expanded(str(name), Path.cwd())}
    if not found:
        raise BatchError("no log to evaluate; name logs, folders, patterns in quotes, or manifests")
    return list(found)


def names_of(locations: list[str]) -> list[str]:
    """Short names: locations without the folders they have in common."""
    split = [location.split("/") for location in locations]
    common = 0
    while all(len(parts) > common + 1 and parts[common] == split[0][common] for parts in split):
        common += 1
    return ["/".join(parts[common:]) for parts in split]


def _expanded(name: str, folder: Path) -> Iterator[str]:
    if is_url(name):
        yield from _remote(name)
        return
    path = folder / local_path(name).expanduser()
    # os.path: Path's own raise where a name is too long or a folder may not be entered; such a log fails alone.
    if os.path.isdir(path):  # noqa: PTH112
        yield from _some(_sorted(_below(path, name)), name)
    elif path.suffix in MANIFESTS:
        yield from _manifest(name, path)
    elif glob.has_magic(name) and not os.path.exists(path):  # noqa: PTH110
        yield from _some(_sorted(map(Path, glob.glob(str(path), recursive=True))), name)  # noqa: PTH207 (absolute pattern)
    else:
        yield str(_absolute(path))


def _below(folder: Path, name: str) -> Iterator[Path]:
    """Logs in a folder and those below, dangling links too, which then fail by themselves."""

    def unreadable(error: OSError) -> None:
        raise BatchError(f"{name}: folder {error.filename} cannot be listed ({error.strerror}); check access to it")

    for root, _, files in os.walk(folder, onerror=unreadable):
        yield from (Path(root, file) for file in files if file.lower().endswith(LOGS))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (Path.absolute keeps "..", resolve follows links)


def _sorted(paths: Iterable[Path]) -> list[str]:
    return sorted(str(_absolute(path)) for path in paths)


def _some(found: list[str], name: str) -> list[str]:
    if not found:
        raise BatchError(f"{name}: no log found there; expected {', '.join(LOGS)} files")
    return found


def _manifest(name: str, path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BatchError(f"{name}: the manifest cannot be read ({error}); expected a text file of locations") from error
    for line in _lines(name, path.suffix, text):
        if Path(line).suffix in MANIFESTS:
            raise BatchError(f"{name}: names another manifest, {line}; name both on the command line instead")
        yield from _expanded(line, path.parent)


def _lines(name: str, suffix: str, text: str) -> list[str]:
    if suffix != ".json":
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())  # log#2.h5 is no comment
        return [line for line in lines if line]
    try:
        items = json.loads(text)
    except ValueError as error:
        raise BatchError(f"{name}: the manifest is no JSON ({error}); expected a list of locations") from error
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise BatchError(f"{name}: the manifest holds {type(items).__name__}, expected a list of texts")
    return items


def _listed(url: str, manifest: str) -> Iterator[str]:
    """A line of a remote manifest: what may stand on the command line, but for another manifest."""
    if url.endswith(MANIFESTS):
        raise BatchError(f"{manifest}: names another manifest, {url}; name both on the command line instead")
    yield from _expanded(url, Path.cwd())


def _remote(url: str) -> Iterator[str]:
    if url.endswith(LOGS) and not glob.has_magic(url):
        yield url
        return
    fs, path = filesystem(url)
    try:
        if glob.has_magic(url):
            found = fs.glob(path)
        elif fs.isdir(path):
            found = [p for p in fs.find(path) if p.endswith(LOGS)]
        elif path.endswith(MANIFESTS):
            text = fs.cat_file(path).decode("utf-8-sig")
            lines = _lines(url, f".{path.rsplit('.', 1)[1]}", text)
            for line in lines:
                yield from _listed(line if "://" in line else f"{url.rsplit('/', 1)[0]}/{line}", url)
            return
        else:
            found = [path]
    except SsrtrackError:
        raise
    except Exception as error:  # packages of object storage raise their own
        raise BatchError(f"{url}: cannot be listed ({type(error).__name__}: {error}); check the address") from error
    yield from _some(sorted(fs.unstrip_protocol(p) for p in found), url)
