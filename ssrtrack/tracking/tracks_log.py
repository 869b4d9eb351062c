"""A log that holds the tracks made of another log's plots."""

from dataclasses import replace
from pathlib import Path

from ssrtrack.io.hdf5 import LogReader, LogWriter


def tracks_log(path: Path, source: Path, *, command: str, software_version: str, created: str) -> LogWriter:
    """A writer of a new log at `path` with the radars, epoch and scenario of the log `source`, ready for tracks.

    Raises:
        LogError: `source` is not a log.
    """
    with LogReader(source) as log:
        provenance = replace(
            log.provenance,
            command=command,
            software_version=software_version,
            created=created,
            sources=(str(source),),
        )
        return LogWriter(path, provenance, log.radars)
