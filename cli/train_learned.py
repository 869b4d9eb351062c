"""What `ssrtrack train koss`, `gka` and `residual` do: options to a recipe, the training, its last words."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import typer

_WITH_RESUME = {"resume", "device", "workers", "tensorboard", "learning_rate"}
_RECIPE = (
    "size", "base", "steps", "minutes", "batch", "window", "learning_rate", "dtype", "seed", "validate_every",
    "patience", "loss", "start",
)  # fmt: skip


def train_learned(context: typer.Context, command: str, given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Begin a run, or go on with one.

    Args:
        command: its name, as in `ssrtrack train NAME`.
        given: the command's arguments by name, those of `ssrtrack.cli.train_options` among them.
        own: what the command's own options say of the network, as `ResidualConfig` names it.
    """
    from ssrtrack.cli.common import command_line, now_utc, progress_bar
    from ssrtrack.training.loop_data import data_of
    from ssrtrack.training.loop_koss import resume_koss, train_koss
    from ssrtrack.training.loop_recipe import Recipe
    from ssrtrack.training.loop_telling import Telling, tensorboard_scalars

    resume, output = given["resume"], given["output"]
    where = {name: given[name] for name in ("device", "workers")}
    if resume is not None:
        _only_with_resume(context)
        output = resume
    with (
        _told_how_to_go_on(output, command),
        progress_bar() as bar,
        tensorboard_scalars(output, given["tensorboard"]) as scalars,
    ):
        telling = Telling(
            line=partial(print, flush=True),
            step=lambda progress, loss: bar(f"loss {loss:.3f}", max(1, int(1000 * progress)), 1000),
            scalars=scalars,
        )
        if resume is not None:
            rate = only_changed(context, {"learning_rate": ("learning_rate", given["learning_rate"])})
            outcome = resume_koss(output, telling=telling, created=now_utc(), **rate, **where)
        else:
            recipe = Recipe(**{name: given[name] for name in _RECIPE}, network=network_of(given, own))
            data = data_of(given["scenario"], given["logs"] or [], given["validation"] or [], given["flights"])
            outcome = train_koss(
                data, recipe, output, force=given["force"], telling=telling, command=command_line(), created=now_utc(),
                **where,
            )  # fmt: skip
    if outcome.summary:
        from ssrtrack.models.load import written_as

        use = f"ssrtrack evaluate LOG -t imm -t {written_as(output)}"
        print(f"{outcome.summary}\nBest model in {output}; use it with: {use}")


def network_of(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What of the network is not as the size has it: the shared options', then the command's own."""
    shared = {"width": given["width"] or None, "blocks": given["layers"] or None}
    shared |= {"history": None if given["history"] < 0 else given["history"]}
    switches = {"residual": given["residual"], "timed": given["timed"]}
    return {name: value for name, value in shared.items() if value is not None} | {
        name: value for name, value in switches.items() if not value
    } | dict(own)  # fmt: skip


def only_changed(context: typer.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a command's options by name in the network, (argument's name, value), those that were given."""
    return {
        name: value
        for name, (argument, value) in options.items()
        if getattr(context.get_parameter_source(argument), "name", "") == "COMMANDLINE"
    }


@contextmanager
def _told_how_to_go_on(run: Path, command: str) -> Iterator[None]:
    """A Ctrl-C need not be the end."""
    from ssrtrack.training.loop_folder import STATE

    try:
        yield
    except KeyboardInterrupt:
        if (run / STATE).exists():
            print(f"Go on with: ssrtrack train {command} --resume {run}", file=sys.stderr)
        raise


def _only_with_resume(context: typer.Context) -> None:
    """A run goes on as it was begun: of its own options the learning rate alone may change, should it diverge."""
    names = context.params
    given = [name for name in names if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if foreign := [name for name in given if name not in _WITH_RESUME]:
        options = ", ".join("--" + name.replace("_", "-") for name in foreign)
        raise typer.BadParameter(f"{options} cannot go with --resume: a run goes on as it was begun")
