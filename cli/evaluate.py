"""`ssrtrack evaluate`: run trackers over logs, score them, write the report."""

from pathlib import Path
from typing import Annotated

import typer

from ssrtrack.cli.options import (
    Backend,
    ForceTrainingData,
    Gap,
    Identity,
    Seed,
    SigmaAzimuth,
    SigmaRange,
    Warmup,
    azimuth_sigma_rad,
)


def evaluate(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG", help="HDF5 logs.", show_default=False)],
    tracker: Annotated[
        list[str],
        typer.Option(
            "-t",
            "--tracker",
            metavar="NAME",
            help="NAME or NAME:key=value,... such as imm:gate=0.9999 (classical), koss or gka (learned, shipped), a "
            "FILE.toml of `train imm`, a folder of `train koss`; repeat. The first is the reference.",
        ),
    ] = ["kf", "ekf", "imm"],  # noqa: B006 (typer reads the default, nobody changes it)
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the report.")] = Path("report"),
    identity: Identity = "auto",
    warmup: Warmup = 8,
    sigma_range: SigmaRange = None,
    sigma_azimuth: SigmaAzimuth = None,
    gap: Gap = 60.0,
    backend: Backend = "auto",
    seed: Seed = 1,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS",
            help="Also on plots made worse step by step: pd, pd-runs, sigma, sigma-told, jitter, bias, bias-range, "
            "outliers, gap or period; repeat.",
            show_default=False,
        ),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(metavar="X,Y,...", help="Levels of the one --sweep instead of the default ones."),
    ] = None,
    force_training_data: ForceTrainingData = False,
    save_tracks: Annotated[bool, typer.Option("--save-tracks", help="Also write tracks.h5 into the folder.")] = False,
) -> None:
    """Track with the chosen estimators, score accuracy and calibration, write report.html and scores.json."""
    import sys
    from contextlib import ExitStack

    from rich.console import Console

    from ssrtrack import __version__
    from ssrtrack.cli.common import check_folder, command_line, now_utc, progress_bar, tell_hidden_folders

    if save_tracks and len(logs) > 1:
        raise typer.BadParameter("--save-tracks takes one log: track numbers of several would clash")
    sigma_azimuth_rad = azimuth_sigma_rad(sigma_range, sigma_azimuth)
    axes = _axes(sweep or [], levels)
    if output.exists() and not output.is_dir():
        raise typer.BadParameter(f"{output} is a file, expected a folder for the report")
    check_folder(output)
    with ExitStack() as stack:
        progress = stack.enter_context(progress_bar())
        progress("starting", 0, 1)
        from ssrtrack.report.html import make_report
        from ssrtrack.report.table import format_table
        from ssrtrack.scoring.evaluate import evaluate as score

        tell_hidden_folders(tracker)
        save = None
        if save_tracks:
            from ssrtrack.tracking.tracks_log import tracks_log

            output.mkdir(parents=True, exist_ok=True)
            writer = tracks_log(
                output / "tracks.h5",
                logs[0],
                command=command_line(),
                software_version=__version__,
                created=now_utc(),
            )
            save = stack.enter_context(writer).append_tracks
        result = score(
            logs,
            tracker,
            identity=identity,
            warmup_plots=warmup,
            sigma_range_m=sigma_range,
            sigma_azimuth_rad=sigma_azimuth_rad,
            gap_s=gap,
            backend=backend,
            seed=seed,
            progress=progress,
            tracks_writer=save,
            sweep=axes,
            allow_training_data=force_training_data,
        )
        page = make_report(
            result,
            output,
            title=", ".join(path.stem for path in logs),
            command=command_line(),
            software_version=__version__,
            created=now_utc(),
            progress=progress,
        )
    # A pipe or file has no width of its own; the table needs 100 columns.
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(format_table(result))
    if result.sweeps:
        from ssrtrack.report.sweep_table import format_sweeps

        console.print()
        console.print(format_sweeps(result.sweeps))
    print(f"Report: {page}")


def _axes(sweep: list[str], levels: str | None) -> dict[str, list[float] | None]:
    """Levels by axis, None for the default ones.

    Raises:
        typer.BadParameter: an axis named twice, levels without exactly one axis, or levels that are no numbers.
    """
    if len(set(sweep)) < len(sweep):
        raise typer.BadParameter(f"--sweep names an axis twice: {', '.join(sweep)}")
    if levels is None:
        return dict.fromkeys(sweep)
    if len(sweep) != 1:
        raise typer.BadParameter(f"--levels belongs to one --sweep, there are {len(sweep)}; sweep one axis at a time")
    try:
        return {sweep[0]: [float(level) for level in levels.split(",")]}
    except ValueError:
        raise typer.BadParameter(f"--levels is {levels!r}, expected numbers with commas, such as 0.9,0.7") from None
