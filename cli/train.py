"""`ssrtrack train`: parameters tuned, trackers trained."""

import typer

from ssrtrack.cli.train_gka import gka
from ssrtrack.cli.train_imm import imm
from ssrtrack.cli.train_koss import koss
from ssrtrack.cli.train_residual import residual_

train = typer.Typer(no_args_is_help=True, help="Tune the classical estimators, or train a learned tracker.")
train.command()(imm)
train.command()(koss)
train.command()(gka)
train.command("residual")(residual_)
