"""A log's plots as an ASTERIX file: CAT048 target reports between CAT034 north markers and sector crossings."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from ssrtrack.data import Plots
from ssrtrack.errors import AsterixError
from ssrtrack.io.asterix_export import encode, rotation_messages
from ssrtrack.io.hdf5 import LogReader

ROWS = 200_000
# Plots of the piece before that are read again, so that the antenna's rotation is told alike on both sides of a cut.
OVERLAP_S = 60.0


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote."""

    plots: int
    service_messages: int
    octets: int


def export(log_path: Path, output: Path, *, progress: Callable[[str, int, int], None] | None = None) -> ExportReport:
    """Write the plots of a log as CAT048/034 blocks; the file appears under its name only when it is whole.

    False plots and other records without an identity are written too; truth is not.

    Raises:
        LogError: the log cannot be read.
        AsterixError: the log has no plots or is the output too, or a value does not fit its item (the column and row
            are named).
    """
    if output.resolve() == log_path.resolve():
        raise AsterixError(f"{output} is both input and output; give the ASTERIX file another name")
    plots_written = messages = octets = 0
    with LogReader(log_path) as log:
        if not log.plot_count:
            raise AsterixError(f"{log_path} holds no plots; there is nothing to export")
        epoch = log.provenance.epoch
        time_of_day_s = epoch.hour * 3600.0 + epoch.minute * 60.0 + epoch.second + epoch.microsecond * 1e-6
        with NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}.", delete=False) as file:
            try:
                for before, plots in _with_overlap(log.plots(ROWS)):
                    service = rotation_messages(Plots.concat([before, plots]), log.radars)
                    first = -float("inf") if not plots_written else float(before.time_s[-1])
                    service = service[(service.time_s > first) & (service.time_s <= float(plots.time_s[-1]))]
                    for block in encode(plots, log.radars, service, time_of_day_s):
                        octets += file.write(block)
                    plots_written += len(plots)
                    messages += len(service)
                    if progress:
                        progress("exporting", plots_written, log.plot_count)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).chmod(0o644)
                Path(file.name).replace(output)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    return ExportReport(plots_written, messages, octets)


def _with_overlap(chunks: Iterator[Plots]) -> Iterator[tuple[Plots, Plots]]:
    """Each chunk with the last plots of those before it."""
    before = Plots.empty()
    for plots in chunks:
        yield before, plots
        before = plots[plots.time_s >= plots.time_s[-1] - OVERLAP_S]
