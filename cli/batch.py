"""`ssrtrack batch`: the evaluation of one log over many, on this machine's cores or a Dask cluster."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
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

LINE_EVERY_S = 60.0  # in a journal or file, where no bar can be drawn
TERMINATED = 128 + signal.SIGTERM  # exit code, as shells have it


def batch(
    logs: Annotated[
        list[str],
        typer.Argument(
            metavar="LOGS",
            help="Logs, folders, quoted patterns, manifests (.txt, .json) or URLs of these.",
            show_default=False,
        ),
    ],
    tracker: Annotated[
        list[str],
        typer.Option(
            "-t",
            "--tracker",
            metavar="NAME",
            help="NAME or NAME:key=value,... (classical), koss or gka (learned, shipped), a FILE.toml of `train "
            "imm`, a folder of `train koss`; repeat. The first is the reference and ranks the logs.",
        ),
    ] = ["kf", "ekf", "imm"],  # noqa: B006 (typer reads the default, nobody changes it)
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the results.")] = Path("batch"),
    workers: Annotated[
        int | None,
        typer.Option(help="Processes on this machine; 0 works in this one.", min=0, show_default="one per core"),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://HOST:PORT", help="Dask scheduler whose workers do the work.")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Only Dask workers that announce the resource GPU.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep an earlier run's results where nothing they depend on changed.")
    ] = False,
    retries: Annotated[int, typer.Option(help="Further tries of a log whose worker died.", min=0)] = 2,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which a local worker still at one log is killed, as if it had died.",
            min=1.0,
            show_default="none",
        ),
    ] = None,
    max_plots: Annotated[
        int, typer.Option(help="A longer log is cut by time into tasks of about so many plots.", min=1)
    ] = 2_000_000,
    identity: Identity = "auto",
    warmup: Warmup = 8,
    sigma_range: SigmaRange = None,
    sigma_azimuth: SigmaAzimuth = None,
    gap: Gap = 60.0,
    seed: Seed = 1,
    backend: Backend = "auto",
    force_training_data: ForceTrainingData = False,
    sweep: Annotated[list[str] | None, typer.Option("--sweep", hidden=True)] = None,
) -> None:
    """Evaluate many logs: one result per log, overall scores, report.html and summary.json.

    Exit code 1 says that some logs failed; the others' results stand. After Ctrl-C or a crash go on with --resume.
    """
    import os

    from ssrtrack import __version__
    from ssrtrack.cli.common import command_line, now_utc, progress_bar, tell_hidden_folders

    if sweep:
        raise typer.BadParameter("batch sweeps nothing; sweep logs together with `ssrtrack evaluate LOG... --sweep`")
    if scheduler is not None and workers is not None:
        raise typer.BadParameter("--workers are processes here, --scheduler uses a cluster's; give one of the two")
    if gpu and scheduler is None:
        raise typer.BadParameter("--gpu chooses among a cluster's workers; it needs --scheduler")
    if timeout is not None and (scheduler is not None or workers == 0):
        raise typer.BadParameter(
            "--timeout kills worker processes of this machine; a cluster's, or this one, it cannot"
        )
    sigma_azimuth_rad = azimuth_sigma_rad(sigma_range, sigma_azimuth)
    # This process waits for its workers. Where these or others keep the cores busy, OpenBLAS's threads wait for each
    # other by spinning: the intervals over 100,000 flights took 20 to 90 s with two threads, 1.6 s with one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with _orderly_end(), progress_bar() as bar:
        bar("starting", 0, 1)
        progress = bar if _is_terminal(sys.stderr) else _lines()
        from ssrtrack.batch.run import batch as run
        from ssrtrack.report.batch_page import make_batch_report

        tell_hidden_folders(tracker)
        try:
            result = run(
                logs,
                tracker,
                output,
                workers=workers,
                scheduler=scheduler,
                resources={"GPU": 1} if gpu else None,
                resume=resume,
                retries=retries,
                timeout_s=timeout,
                max_plots=max_plots,
                seed=seed,
                progress=progress,
                on_failure=lambda log: _say(f"failed: {log.name}: {log.cause}"),
                identity=identity,
                warmup_plots=warmup,
                sigma_range_m=sigma_range,
                sigma_azimuth_rad=sigma_azimuth_rad,
                gap_s=gap,
                backend=backend,
                allow_training_data=force_training_data,
            )
        except (KeyboardInterrupt, SystemExit):
            _say(f"finished results are in {output}; go on there with --resume")
            raise
        page = make_batch_report(
            result, output, command=command_line(), software_version=__version__, created=now_utc()
        )
    from rich.console import Console

    from ssrtrack.report.table import format_table

    for overall in result.overall:
        # A pipe or file has no width of its own; the table needs 100 columns.
        Console(width=None if _is_terminal(sys.stdout) else 100).print(format_table(overall))
    print(f"{result.count('scored')} logs scored, {result.count('reused')} reused, {result.count('failed')} failed")
    print(f"Report: {page}")
    if result.count("failed"):
        raise typer.Exit(1)


@contextmanager
def _orderly_end() -> Iterator[None]:
    """On SIGTERM, which ends a service or a queued job, leave as after Ctrl-C: workers ended, summary written."""

    def terminated(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough; a second must not break off the writing
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_terminal(stream: object) -> bool:
    """False also for a stream that was closed before the start, which Python makes None."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty())


def _say(text: str) -> None:
    """One line on stderr; that nobody reads it any more must not end a batch."""
    with suppress(OSError, ValueError):
        print(" ".join(text.split()), file=sys.stderr, flush=True)


def _lines(clock: Callable[[], float] = time.monotonic) -> Callable[[str, int, int], None]:
    """Progress for a journal: a line now and then, none in a short run."""
    said_s = clock()

    def show(what: str, done: int, total: int) -> None:
        nonlocal said_s
        if done and clock() - said_s >= LINE_EVERY_S:
            said_s = clock()
            _say(f"{done} of {total} {what}")

    return show
