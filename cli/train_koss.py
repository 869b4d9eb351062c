"""`ssrtrack train koss`: a scenario or logs in, the folder of a learned tracker out."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

_WITH_RESUME = {"resume", "device", "workers", "tensorboard"}


def koss(
    context: typer.Context,
    logs: Annotated[
        list[Path] | None, typer.Option("-l", "--log", help="Log with truth to train on; repeat for more.")
    ] = None,
    scenario: Annotated[
        str, typer.Option("-s", "--scenario", help="Scenario to simulate without end: a name, a file, or suite:NAME.")
    ] = "",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the run.")] = Path("koss"),
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder, from its last saved state.")
    ] = None,
    validation: Annotated[
        list[Path] | None, typer.Option(help="Log of held-out flights; by default simulated, or a tenth of the logs'.")
    ] = None,
    base: Annotated[str, typer.Option("-b", "--base", help="Estimator to correct: imm, kf, a TOML, ...")] = "imm",
    size: Annotated[str, typer.Option(help="Size of the network: tiny, small or medium.")] = "small",
    minutes: Annotated[float, typer.Option(help="Time to train.", min=0.0)] = 5.0,
    steps: Annotated[int, typer.Option(help="Steps to train, instead of minutes: repeatable to the bit.", min=0)] = 0,
    batch: Annotated[int, typer.Option(help="Windows in a step, over all processes.", min=1)] = 64,
    window: Annotated[int, typer.Option(help="Plots in a window.")] = 100,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 8e-3,
    seed: Annotated[int, typer.Option(help="Seed of flights and weights.", min=0)] = 1,
    validate_every: Annotated[int, typer.Option(help="Steps between validations; 0: twenty in a run.", min=0)] = 0,
    patience: Annotated[int, typer.Option(help="Validations without a new best until it stops; 0: never.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, or bf16 for the network's products.")] = "float32",
    flights: Annotated[
        str, typer.Option(help="Who makes a scenario's flights: simulator, device (the training's), or auto.")
    ] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that simulate ahead.", min=0)] = 1,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write a TensorBoard log into the run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in the folder.")] = False,
) -> None:
    """Train a learned tracker: a small KOSS network that corrects an IMM, which it equals before the first step.

    Under torchrun every process takes its part of each batch.
    """
    from ssrtrack.cli.common import command_line, now_utc, progress_bar
    from ssrtrack.training.loop_data import data_of
    from ssrtrack.training.loop_koss import resume_koss, train_koss
    from ssrtrack.training.loop_recipe import Recipe
    from ssrtrack.training.loop_telling import Telling, tensorboard_scalars

    if resume is not None:
        _only_with_resume(context)
        output = resume
    with _told_how_to_go_on(output), progress_bar() as bar, tensorboard_scalars(output, tensorboard) as scalars:
        telling = Telling(
            line=partial(print, flush=True),
            step=lambda progress, loss: bar(f"loss {loss:.3f}", max(1, int(1000 * progress)), 1000),
            scalars=scalars,
        )
        if resume is not None:
            outcome = resume_koss(output, device=device, workers=workers, telling=telling, created=now_utc())
        else:
            recipe = Recipe(
                size=size, base=base, steps=steps, minutes=minutes, batch=batch, window=window,
                learning_rate=learning_rate, dtype=dtype, seed=seed, validate_every=validate_every, patience=patience,
            )  # fmt: skip
            outcome = train_koss(
                data_of(scenario, logs or [], validation or [], flights), recipe, output, force=force, device=device,
                workers=workers, telling=telling, command=command_line(), created=now_utc(),
            )  # fmt: skip
    if outcome.summary:
        print(f"{outcome.summary}\nBest model in {output}; use it with: ssrtrack evaluate LOG -t imm -t {output}")


@contextmanager
def _told_how_to_go_on(run: Path) -> Iterator[None]:
    """A Ctrl-C need not be the end."""
    from ssrtrack.training.loop_folder import STATE

    try:
        yield
    except KeyboardInterrupt:
        if (run / STATE).exists():
            print(f"Go on with: ssrtrack train koss --resume {run}", file=sys.stderr)
        raise


def _only_with_resume(context: typer.Context) -> None:
    """A run goes on as it was begun: its own options cannot change."""
    given = [
        name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if foreign := [name for name in given if name not in _WITH_RESUME]:
        options = ", ".join("--" + name.replace("_", "-") for name in foreign)
        raise typer.BadParameter(f"{options} cannot go with --resume: a run goes on as it was begun")
