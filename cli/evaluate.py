"""`ssrtrack evaluate`: run trackers over logs, score them, write the report."""

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    logs: Annotated[list[Path], typer.Argument(help="HDF5 logs.", show_default=False)],
    tracker: Annotated[
        list[str], typer.Option("-t", "--tracker", help="Estimator by name; repeat. The first is the reference.")
    ] = ["kf", "ekf", "imm"],  # noqa: B006 (typer reads the default, nobody changes it)
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the report.")] = Path("report"),
    identity: Annotated[str, typer.Option(help="Plots to flights by: truth, address, or auto.")] = "auto",
    warmup: Annotated[int, typer.Option(help="Plots at each flight's start that are not scored.", min=1)] = 8,
    sigma_range: Annotated[float | None, typer.Option(help="Range sigma [m] for plots that state none.")] = None,
    sigma_azimuth: Annotated[float | None, typer.Option(help="Azimuth sigma [deg] for plots that state none.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap intervals.", min=0)] = 1,
    save_tracks: Annotated[bool, typer.Option("--save-tracks", help="Also write tracks.h5 into the folder.")] = False,
) -> None:
    """Track with the chosen estimators, score accuracy and calibration, write report.html and scores.json."""
    from contextlib import ExitStack
    from math import radians

    from ssrtrack import __version__
    from ssrtrack.cli.common import command_line, now_utc, progress_bar
    from ssrtrack.report.html import make_report, report_folder
    from ssrtrack.report.table import print_table
    from ssrtrack.scoring.evaluate import evaluate as score

    report_folder(output)  # fail before the work, not after it
    with ExitStack() as stack:
        progress = stack.enter_context(progress_bar())
        save = None
        if save_tracks:
            from ssrtrack.io.hdf5 import tracks_log

            save = stack.enter_context(
                tracks_log(output / "tracks.h5", logs[0], command_line(), __version__, now_utc())
            ).append_tracks
        result = score(
            logs,
            tracker,
            identity=identity,
            warmup_plots=warmup,
            sigma_range_m=sigma_range,
            sigma_azimuth_rad=None if sigma_azimuth is None else radians(sigma_azimuth),
            seed=seed,
            progress=progress,
            tracks_writer=save,
        )
    page = make_report(
        result,
        output,
        title=", ".join(path.stem for path in logs),
        command=command_line(),
        software_version=__version__,
        created=now_utc(),
    )
    print_table(result)
    print(f"Report: {page}")
