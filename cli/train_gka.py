"""`ssrtrack train gka`: the tracker of `train koss`, made of Gated KalmaNet layers."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssrtrack.cli import train_options as shared

_GKA = "Gated KalmaNet layer"


def gka(
    context: typer.Context,
    logs: shared.Logs = None,
    scenario: shared.ScenarioName = "",
    output: shared.Output = Path("runs/gka"),
    resume: shared.Resume = None,
    validation: shared.Validation = None,
    start: shared.Start = "",
    base: shared.Base = "imm",
    size: shared.Size = "small",
    width: shared.Width = 0,
    layers: shared.Layers = 0,
    history: shared.History = -1,
    residual: shared.Residual = True,
    timed: shared.Timed = True,
    heads: Annotated[int, typer.Option(help="Memories side by side.", min=1, rich_help_panel=_GKA)] = 2,
    key: Annotated[int, typer.Option(help="Numbers of a key, and of a value.", min=1, rich_help_panel=_GKA)] = 32,
    hidden: Annotated[
        int,
        typer.Option(
            help="Of the second part of a layer; 0: none; left out: as many weights as KOSS has.",
            min=0,
            rich_help_panel=_GKA,
            show_default=False,
        ),
    ] = 0,
    ridge: Annotated[float, typer.Option(help="Regularisation, of the memory's norm.", rich_help_panel=_GKA)] = 0.02,
    iterations: Annotated[int, typer.Option(help="Of the solver.", min=1, rich_help_panel=_GKA)] = 30,
    decay: Annotated[bool, typer.Option(help="The memory fades.", rich_help_panel=_GKA)] = True,
    alpha: Annotated[bool, typer.Option(help="Ridge regression beside plain attention.", rich_help_panel=_GKA)] = True,
    beta: Annotated[bool, typer.Option(help="Writing is gated.", rich_help_panel=_GKA)] = True,
    minutes: shared.Minutes = 5.0,
    steps: shared.Steps = 0,
    batch: shared.Batch = 64,
    window: shared.Window = 100,
    learning_rate: shared.LearningRate = 8e-3,
    loss: shared.Loss = "nll+mse",
    seed: shared.Seed = 1,
    validate_every: shared.ValidateEvery = 0,
    patience: shared.Patience = 0,
    device: shared.Device = "auto",
    dtype: shared.Dtype = "float32",
    flights: shared.Flights = "auto",
    workers: shared.Workers = 1,
    tensorboard: shared.TensorBoard = False,
    force: shared.Force = False,
) -> None:
    """Train a learned tracker of Gated KalmaNet layers, with as many weights as KOSS's of that size.

    Under torchrun every process takes its part of each batch.
    """
    given = dict(locals())
    from ssrtrack.cli.train_learned import only_changed, train_learned

    names = {name: name for name in ("heads", "hidden", "ridge", "decay", "alpha", "beta")}
    names |= {"head": "key", "steps": "iterations"}
    options = only_changed(context, {name: (argument, given[argument]) for name, argument in names.items()})
    own: dict[str, Any] = {"block": "gka"} | ({"options": options} if options else {})
    train_learned(context, "gka", given, own)
