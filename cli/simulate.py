"""`ssrtrack simulate`: a scenario in, a log with truth out."""

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    scenario: Annotated[
        str, typer.Argument(metavar="SCENARIO", help="Built-in scenario's name or a TOML file.", show_default=False)
    ] = "",
    output: Annotated[Path, typer.Option("-o", "--output", help="Log to write (HDF5).")] = Path("simulated.h5"),
    seed: Annotated[int, typer.Option(help="Seed of all randomness.", min=0)] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing log.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the built-in scenarios.")] = False,
) -> None:
    """Simulate aircraft and the plots a rotating SSR makes of them."""
    from ssrtrack.simulators.scenario import list_scenarios, load_scenario

    if list_:
        for name in list_scenarios():
            print(f"{name:12} {load_scenario(name).description}")
        return
    if not scenario:
        raise typer.BadParameter("give a scenario's name or file; --list shows the built-in ones")

    from ssrtrack import __version__
    from ssrtrack.cli.common import command_line, new_output, now_utc, progress_bar
    from ssrtrack.io.hdf5 import LogWriter, Provenance
    from ssrtrack.simulators.scenario import radars
    from ssrtrack.simulators.scenario import simulate as run

    plan = load_scenario(scenario)
    provenance = Provenance(
        command=command_line(),
        epoch=plan.epoch,
        software_version=__version__,
        created=now_utc(),
        scenario=plan.text,
        seed=seed,
        extra={"turbulence_m2ps3": plan.turbulence_m2ps3},
    )
    plot_count = 0
    with (
        progress_bar() as progress,
        LogWriter(new_output(output, force), provenance, radars(plan)) as log,
    ):
        progress("simulating", 0, 1)
        for plots, truth in run(plan, seed):
            log.append_plots(plots)
            log.append_truth(truth)
            plot_count += len(plots)
            if len(plots):
                progress("simulating", int(plots.time_s[-1]), int(plan.duration_s))
    print(f"{plot_count:,} plots of {plan.duration_s / 60:.0f} min written to {output}")
