"""`ssrtrack simulate`: a scenario in, a log with truth out."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ssrtrack.simulators.replay import RecordedTraffic
    from ssrtrack.simulators.schema import Scenario

DEFAULT_SEED = 1
CENTRE = "centre"  # --site: in the middle of the flights


def simulate(
    scenario: Annotated[
        str,
        typer.Argument(metavar="SCENARIO", help="Built-in scenario, suite:NAME, or a TOML file.", show_default=False),
    ] = "",
    output: Annotated[Path, typer.Option("-o", "--output", help="Log to write (HDF5).")] = Path("simulated.h5"),
    seed: Annotated[
        int | None, typer.Option(help=f"Seed of all randomness; {DEFAULT_SEED} if absent.", min=0, show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="Of suite:NAME: train, validation or test (default).")] = "",
    truth: Annotated[Path | None, typer.Option(help="Recorded trajectories to fly: CSV, JSON or Parquet.")] = None,
    truth_start: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S"], help="UTC start in the recording."),
    ] = None,
    site: Annotated[str, typer.Option(help="With --truth: radar at LAT,LON,HEIGHT or 'centre' of the flights.")] = "",
    workers: Annotated[int, typer.Option(help="Processes; the log is the same for any number.", min=1)] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing log.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List scenarios, suite and radar profiles.")] = False,
) -> None:
    """Simulate aircraft, or fly recorded ones, and the plots a rotating SSR makes of them."""
    if list_:
        _list()
        return
    if not scenario:
        raise typer.BadParameter("give a scenario's name or file; --list shows the built-in ones")
    for name, given in (("--truth-start", truth_start), ("--site", site)):
        if given and truth is None:
            raise typer.BadParameter(f"{name} is of use only with --truth")

    from datetime import UTC

    from ssrtrack import __version__
    from ssrtrack.cli.common import command_line, new_output, now_utc, progress_bar
    from ssrtrack.io.hdf5 import LogWriter, Provenance
    from ssrtrack.simulators.scenario import radars
    from ssrtrack.simulators.scenario import simulate as run
    from ssrtrack.simulators.suite import is_suite

    plan, number, extra = _plan(scenario, split, seed)
    path = new_output(output, force)
    traffic = None
    if truth is None:
        extra["turbulence_m2ps3"] = plan.turbulence_m2ps3
    else:
        start = truth_start.replace(tzinfo=UTC) if truth_start else None
        plan, traffic, more = _replayed(plan, truth, start, site or (CENTRE if is_suite(scenario) else ""))
        # Neither the flights nor the plots are those of a split: only the radar is the suite's.
        extra = more | ({"suite_variant": extra["suite"]} if "suite" in extra else {})
    provenance = Provenance(
        command=command_line(),
        epoch=plan.epoch,
        software_version=__version__,
        created=now_utc(),
        scenario=plan.text,
        seed=number,
        sources=() if truth is None else (str(truth),),
        extra=extra,
    )
    plot_count = 0
    with progress_bar() as progress, LogWriter(path, provenance, radars(plan)) as log:
        progress("simulating", 0, 1)
        for plots, rows in run(plan, number, workers=workers, traffic=traffic):
            log.append_plots(plots)
            log.append_truth(rows)
            plot_count += len(plots)
            if len(plots):
                progress("simulating", int(plots.time_s[-1]), int(plan.duration_s))
    if traffic:
        print(traffic.summary)
    nobody = "" if plot_count else ": no radar saw anybody; compare the places of the radars and of the traffic"
    print(f"{plot_count:,} plots of {plan.duration_s / 60:.0f} min written to {output}{nobody}")


def _plan(scenario: str, split: str, seed: int | None) -> tuple["Scenario", int, dict[str, float | str]]:
    """The scenario, its seed, and what the log is to carry of where they come from."""
    from ssrtrack.simulators.scenario import load_scenario
    from ssrtrack.simulators.suite import is_suite, load_suite, suite_provenance

    if not is_suite(scenario):
        if split:
            raise typer.BadParameter(f"--split is of use only with suite:NAME, and the scenario is {scenario}")
        return load_scenario(scenario), DEFAULT_SEED if seed is None else seed, {}
    if seed is not None:
        raise typer.BadParameter("--seed cannot be given with suite:NAME: each split has its own; choose a --split")
    split = split or "test"
    plan, number = load_suite(scenario, split)
    return plan, number, suite_provenance(scenario, split)


def _replayed(
    plan: "Scenario", truth: Path, start: datetime | None, site: str
) -> tuple["Scenario", "RecordedTraffic", dict[str, float | str]]:
    """The scenario over recorded flights, these flights, and what the log is to carry of them."""
    from hashlib import file_digest

    from ssrtrack.io.sites import parse_site
    from ssrtrack.io.trajectories import read_trajectories
    from ssrtrack.simulators.replay_scenario import Site, centre, with_truth

    given = parse_site(site) if site not in ("", CENTRE) else {}  # before a long recording is read
    trajectories, summary = read_trajectories(truth)
    print(summary)
    place: Site | None = None
    if given:
        place = given["latitude_deg"], given["longitude_deg"], given["height_m"]
    elif site:
        place = (*centre(trajectories), None)
    placed, traffic = with_truth(plan, trajectories, start=start, site=place)
    with truth.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    extra: dict[str, float | str] = {
        "truth": truth.name,
        "truth_sha256": digest,
        "truth_start": f"{placed.epoch:%Y-%m-%dT%H:%M:%SZ}",
        "truth_rows": float(summary.kept),
    }
    if place:
        latitude, longitude, height = place
        # As --site takes it, to the last bit.
        extra["site"] = f"{latitude!r},{longitude!r},{plan.radar[0].height_m if height is None else height!r}"
    return placed, traffic, extra


def _list() -> None:
    from ssrtrack.simulators.profile import list_profiles, load_profile
    from ssrtrack.simulators.scenario import list_scenarios, load_scenario
    from ssrtrack.simulators.suite import PREFIX, VERSION, list_suite, load_suite

    rows = {
        "Scenarios": [(name, load_scenario(name).description) for name in list_scenarios()],
        f"Benchmark suite, version {VERSION} (--split train, validation or test)": [
            (PREFIX + name, load_suite(name)[0].description.removeprefix("Suite: ")) for name in list_suite()
        ],
        'Radar profiles (profile = "NAME" in a scenario\'s [[radar]])': [
            (name, str(load_profile(name).get("description", ""))) for name in list_profiles()
        ],
    }
    width = max(len(name) for entries in rows.values() for name, _ in entries)
    for title, entries in rows.items():
        print(title)
        for name, description in entries:
            print(f"  {name:{width}}  {description}")
