"""`ssrtrack info`: what is in a log."""

from pathlib import Path
from typing import Annotated

import typer


def info(
    log: Annotated[Path, typer.Argument(help="HDF5 log.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Print a log's radars, counts, time span, rates, gaps and plot types."""
    import json

    from ssrtrack.io.info import format_summary, summarise

    summary = summarise(log)
    print(json.dumps(summary.to_dict(), indent=2) if as_json else format_summary(summary))
