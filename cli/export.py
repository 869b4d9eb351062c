"""`ssrtrack export`: a log's plots as an ASTERIX file."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="HDF5 log.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="ASTERIX file to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a log's plots as ASTERIX CAT048, with CAT034 north markers and sector crossings."""
    from ssrtrack.cli.common import new_output, progress_bar
    from ssrtrack.io.export import export as write

    with progress_bar() as progress:
        progress("exporting", 0, 1)
        report = write(log, new_output(output, force), progress=progress)
    print(
        f"{report.plots:,} plots and {report.service_messages:,} service messages written to {output} "
        f"({report.octets / 1e6:.1f} MB)"
    )
