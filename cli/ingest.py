"""`ssrtrack ingest`: ASTERIX recordings in, a log out."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer


def ingest(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Raw ASTERIX, pcap or pcapng files.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Log to write (HDF5).", show_default=False)],
    date: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="UTC day of the first report; captures know theirs.")
    ] = None,
    site: Annotated[str, typer.Option(help="LAT,LON,HEIGHT of the radar: degrees, m above WGS84.")] = "",
    radar: Annotated[Path | None, typer.Option(help="TOML file with sites and accuracies by SAC/SIC.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing log.")] = False,
) -> None:
    """Read CAT048 and CAT034 recordings into one log, merged in time."""
    from ssrtrack import __version__
    from ssrtrack.cli.common import command_line, new_output, now_utc, progress_bar
    from ssrtrack.io.ingest import format_report
    from ssrtrack.io.ingest import ingest as read
    from ssrtrack.io.sites import load_radar_file, parse_site

    known_site = parse_site(site) if site else None
    blocks = load_radar_file(radar) if radar else []
    with progress_bar() as progress:
        progress("ingesting", 0, 1)
        report = read(
            files,
            new_output(output, force),
            command=command_line(),
            software_version=__version__,
            created=now_utc(),
            on_date=date.date() if date else None,
            site=known_site,
            radar_blocks=blocks,
            progress=progress,
        )
    print(format_report(report, output))
