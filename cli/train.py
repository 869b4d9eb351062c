"""`ssrtrack train`: parameters tuned, trackers trained."""

import typer

from ssrtrack.cli.train_imm import imm
from ssrtrack.cli.train_koss import koss

train = typer.Typer(no_args_is_help=True, help="Tune the classical estimators, or train a learned tracker.")
train.command()(imm)
train.command()(koss)
