"""Options that the commands which train a learned tracker share: one wording, whatever the network is made of."""

from pathlib import Path
from typing import Annotated

import typer

_NETWORK, _TRAINING = "Network", "Training"

Logs = Annotated[list[Path] | None, typer.Option("-l", "--log", help="Log with truth to train on; repeat for more.")]
ScenarioName = Annotated[
    str,
    typer.Option("-s", "--scenario", help="Scenario to simulate without end: a name, a file, suite:NAME, or spread."),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the run.")]
Resume = Annotated[Path | None, typer.Option(help="Go on with the run in this folder, from its last saved state.")]
Validation = Annotated[
    list[Path] | None, typer.Option(help="Log of held-out flights; by default simulated, or a tenth of the logs'.")
]
Start = Annotated[
    str,
    typer.Option(help="Begin with the network, weights and base of a learned tracker: koss, gka, a folder of a run."),
]
Base = Annotated[str, typer.Option("-b", "--base", help="Estimator to correct: imm, kf, a TOML, ...")]
Flights = Annotated[
    str, typer.Option(help="Who makes a scenario's flights: simulator, device (the training's), or auto.")
]
Workers = Annotated[int, typer.Option(help="Processes that simulate ahead.", min=0)]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write a TensorBoard log into the run.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the run in the folder.")]

Minutes = Annotated[float, typer.Option(help="Time to train.", min=0.0, rich_help_panel=_TRAINING)]
Steps = Annotated[
    int,
    typer.Option(help="Steps to train, instead of minutes: repeatable to the bit.", min=0, rich_help_panel=_TRAINING),
]
Batch = Annotated[int, typer.Option(help="Windows in a step, over all processes.", min=1, rich_help_panel=_TRAINING)]
Window = Annotated[int, typer.Option(help="Plots in a window.", rich_help_panel=_TRAINING)]
LearningRate = Annotated[
    float, typer.Option(help="Highest learning rate; with --resume, from there on.", rich_help_panel=_TRAINING)
]
Loss = Annotated[
    str, typer.Option(help="nll (of the truth), mse, or nll+mse: both.", rich_help_panel=_TRAINING, show_default=True)
]
Seed = Annotated[int, typer.Option(help="Seed of flights and weights.", min=0, rich_help_panel=_TRAINING)]
ValidateEvery = Annotated[
    int, typer.Option(help="Steps between validations; 0: twenty in a run.", min=0, rich_help_panel=_TRAINING)
]
Patience = Annotated[
    int,
    typer.Option(help="Validations without a new best until it stops; 0: never.", min=0, rich_help_panel=_TRAINING),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_TRAINING)]
Dtype = Annotated[str, typer.Option(help="float32, or bf16 for the network's products.", rich_help_panel=_TRAINING)]

Size = Annotated[str, typer.Option(help="Size of the network: tiny, small, medium or large.", rich_help_panel=_NETWORK)]
Width = Annotated[int, typer.Option(help="Its width; 0: as the size has it.", min=0, rich_help_panel=_NETWORK)]
Layers = Annotated[int, typer.Option(help="Its layers; 0: as the size has it.", min=0, rich_help_panel=_NETWORK)]
History = Annotated[
    int,
    typer.Option(help="Past plots shown beside the newest; -1: as the size has it.", min=-1, rich_help_panel=_NETWORK),
]
Residual = Annotated[
    bool,
    typer.Option(
        "--residual/--no-residual",
        help="Correct the base, or (to compare) the last two plots alone.",
        rich_help_panel=_NETWORK,
    ),
]
Timed = Annotated[
    bool,
    typer.Option(
        "--true-time/--nominal-time",
        help="Layers step by the true time between plots, or (to compare) by a nominal one.",
        rich_help_panel=_NETWORK,
    ),
]
