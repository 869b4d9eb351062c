"""`ssrtrack train koss`: a scenario or logs in, the folder of a learned tracker out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssrtrack.cli import train_options as shared

_KOSS = "KOSS layer"


def koss(
    context: typer.Context,
    logs: shared.Logs = None,
    scenario: shared.ScenarioName = "",
    output: shared.Output = Path("runs/koss"),
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
    operator: Annotated[
        str, typer.Option(help="discrete, neumann, kalman, exact or bucy.", rich_help_panel=_KOSS)
    ] = "discrete",
    segment: Annotated[int, typer.Option(help="Steps that share one prediction.", min=1, rich_help_panel=_KOSS)] = 1,
    passes: Annotated[
        int, typer.Option(help="Refinements of a segment; -1: as its length needs.", min=-1, rich_help_panel=_KOSS)
    ] = -1,
    derivative: Annotated[
        str, typer.Option(help="none, difference or causal; empty: as the operator needs.", rich_help_panel=_KOSS)
    ] = "",
    heads: Annotated[
        int, typer.Option(help="Heads of the gain; 0: of 64 channels each.", min=0, rich_help_panel=_KOSS)
    ] = 0,
    states: Annotated[
        int, typer.Option(help="States of a channel; 0: as the size has it.", min=0, rich_help_panel=_KOSS)
    ] = 0,
    innovation: Annotated[
        bool, typer.Option(help="The gain sees the innovation, or (to compare) the input.", rich_help_panel=_KOSS)
    ] = True,
    see_prediction: Annotated[
        bool, typer.Option(help="The gain sees the prediction too.", rich_help_panel=_KOSS)
    ] = False,
    input_gain: Annotated[
        bool, typer.Option(help="The gain has a part linear in the input.", rich_help_panel=_KOSS)
    ] = True,
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
    """Train a learned tracker: a small KOSS network that corrects an IMM, which it equals before the first step.

    Under torchrun every process takes its part of each batch.
    """
    given = dict(locals())
    from ssrtrack.cli.train_learned import only_changed, train_learned

    names = {name: name for name in ("operator", "segment", "passes", "derivative", "see_prediction", "input_gain")}
    names["innovate"] = "innovation"
    options = only_changed(context, {name: (argument, given[argument]) for name, argument in names.items()})
    own: dict[str, Any] = {"options": options} if options else {}
    train_learned(context, "koss", given, own | ({"states": states} if states else {}) | _headed(given))


def _headed(given: dict[str, Any]) -> dict[str, Any]:
    """Channels of a head, from how many heads there are to be."""
    if not given["heads"]:
        return {}
    from ssrtrack.models.residual_config import SIZES

    width = given["width"] or (SIZES[given["size"]].width if given["size"] in SIZES else given["heads"])
    if width % given["heads"]:
        raise typer.BadParameter(f"--heads is {given['heads']}, which does not part a width of {width} evenly")
    return {"head": width // given["heads"]}
