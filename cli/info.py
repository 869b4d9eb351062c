"""`ssrtrack info`: what is in a log."""

from pathlib import Path
from typing import Annotated

import typer


def info(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="HDF5 log.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Print a log's radars, counts, time span, rates, gaps and plot types."""
    import json

    from ssrtrack.cli.common import progress_bar
    from ssrtrack.io.info import format_summary, summarise

    with progress_bar() as progress:
        summary = summarise(log, lambda share: progress("reading", round(1000 * share), 1000))
    print(json.dumps(summary.to_dict(), indent=2) if as_json else format_summary(summary))
