"""`ssrtrack train imm`: tune the parameters of a classical estimator, write them to a TOML file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ssrtrack.training.tune import Tuning


def imm(
    logs: Annotated[
        list[Path] | None, typer.Option("-l", "--log", help="Log to tune on, with or without truth; repeat for more.")
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option("-s", "--scenario", help="Scenario to simulate: a name, a file, or suite:NAME; repeat for more."),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="TOML file to write.")] = Path("tuned.toml"),
    estimator: Annotated[
        str,
        typer.Option(
            "-e",
            "--estimator",
            help="Any classical one: imm, kf, ekf, ...; what NAME:key=value gives stays fixed.",
        ),
    ] = "imm",
    variant: Annotated[
        str, typer.Option(help="Outliers are met by noise with a tail (mixture), a gate (gated), or not (plain).")
    ] = "",
    validation: Annotated[
        list[Path] | None,
        typer.Option(help="Log to judge by; by default another seed, a suite split, or 30 % of the logs' aircraft."),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="likelihood of the plots; or with truth rmse (position) or nll (of the true state).")
    ] = "likelihood",
    method: Annotated[str, typer.Option(help="L-BFGS-B, Powell or Nelder-Mead.")] = "L-BFGS-B",
    iterations: Annotated[int, typer.Option(help="At most so many.", min=1)] = 60,
    max_plots: Annotated[int, typer.Option(help="Plots used of each scenario, and of all logs.", min=1)] = 60_000,
    seed: Annotated[int | None, typer.Option(help="Seed of simulated flights; 1 by default.", min=0)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Tune a classical estimator by the likelihood of the plots, and say what it gains on other flights.

    `ssrtrack evaluate -t FILE.toml` then tracks with it.
    """
    import sys

    from rich.console import Console

    from ssrtrack import __version__
    from ssrtrack.cli.common import command_line, new_output, now_utc, progress_bar

    new_output(output, force)
    with progress_bar() as progress:
        progress("starting", 0, 1)
        from ssrtrack.training.tune_job import flights_of, tune_text, tuned_of, write_tuned

        found = flights_of(
            scenario or [], logs or [], validation or [], seed=seed, max_plots=max_plots, progress=progress
        )
        tuning = tune_text(
            estimator,
            found,
            variant=variant or None,
            objective=objective,
            method=method,
            max_iterations=iterations,
            progress=progress,
        )
        tuned = tuned_of(tuning, found, software=__version__, created=now_utc(), command=command_line())
        write_tuned(output, tuned)
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(_parameters(tuning))
    console.print(_validation(tuning, [group.name for group in found.validation]))
    print(
        f"{tuning.estimator}, {tuning.variant}: {tuning.evaluations} evaluations of "
        f"{sum(g.plots for g in found.training):,} plots in {tuning.seconds:.1f} s"
    )
    print(f"Tuned parameters: {output}")


def _parameters(tuning: "Tuning") -> Any:
    from rich.table import Table

    table = Table("parameter", "before", "tuned", title="Parameters")
    for key in tuning.searched:
        bound = " (the bound of the search)" if key in tuning.at_bounds else ""
        table.add_row(key, f"{tuning.before[key]:.4g}", f"{tuning.after[key]:.4g}{bound}")
    return table


_OBJECTIVES = {
    "likelihood": "the filter's own log-likelihood per plot",
    "rmse": "-log of the position RMSE",
    "nll": "-NLL of the true state",
}
# Figure -> what a reader calls it.
_ROWS = {
    "log_likelihood": "log-density of the next plot",
    "position_rmse_m": "position RMSE (m)",
    "velocity_rmse_mps": "velocity RMSE (m/s)",
    "anees": "ANEES",
    "nll": "NLL of the true state",
}


def _validation(tuning: "Tuning", names: list[str]) -> Any:
    from rich.table import Table

    table = Table("flights", "figure", "before", "tuned", title="On validation flights")
    values = tuning.validation_objective_before, tuning.validation_objective_after
    table.add_row("all", f"objective: {_OBJECTIVES[tuning.objective]}", *(f"{v:.4f}" for v in values))
    for name, first, last in zip(names, tuning.validation_before, tuning.validation_after, strict=True):
        before, after = first.to_dict(), last.to_dict()
        for row, (key, words) in enumerate((k, w) for k, w in _ROWS.items() if k in before and k in after):
            table.add_row(name if row == 0 else "", words, f"{before[key]:.3f}", f"{after[key]:.3f}")
    return table
