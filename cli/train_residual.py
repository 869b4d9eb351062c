"""`ssrtrack train residual`: the tracker of `train koss`, made of any block there is, to compare KOSS with."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssrtrack.cli import train_options as shared


def residual_(
    context: typer.Context,
    block: Annotated[str, typer.Option(help="gru, s6 (Mamba's), transformer; or koss, gka.")] = "gru",
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Of the block, NAME=VALUE; repeat for more.")
    ] = None,
    logs: shared.Logs = None,
    scenario: shared.ScenarioName = "",
    output: shared.Output = Path("runs/residual"),
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
    """Train a learned tracker of KOSS's peers, with as many weights as KOSS's of that size; to compare.

    Under torchrun every process takes its part of each batch.
    """
    given = dict(locals())
    from ssrtrack.cli.train_learned import train_learned

    options = dict(_parsed(text) for text in option or [])
    own: dict[str, Any] = {"block": block} | ({"options": options} if options else {})
    train_learned(context, "residual", given, own)


def _parsed(text: str) -> tuple[str, Any]:
    """NAME=VALUE with a value as the block will check it: true, false, a number or a word."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise typer.BadParameter(f"--option {text!r}: expected NAME=VALUE, such as inner=96")
    if value in ("true", "false"):
        return name, value == "true"
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value
