"""The README's table of learned trackers, as Markdown, from results/learned_trackers.csv; and its figure.

    python benchmarks/learned_trackers_table.py
    python benchmarks/learned_trackers_table.py --models koss gka --figures benchmarks/results --write README.md

With --write it goes into a page, between the lines of BEGIN and END, with the figure and where it was measured.

A line for each thing that is asked, a column for each model: its value over the suite with the 95 % interval over
flights, or, of a model with several seeds, the mean and from which to which the seeds go. What meets its target is
bold, what misses what is asked is in italics. Where a line sums up several rows (settings outside the suite, axes of
the sweep, hard cases), it says how many of them hold, and which is the worst.
"""

import argparse
import csv
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from learned_trackers_wanted import ABOVE_OWN, ABSENT, ACCURACY, FAILED, GAUSSIAN, OVER_OWN, Measure
from setting import RESULTS

Row = dict[str, str]
SUITE = "suite"
NOTHING = "–"
BEGIN, END = "<!-- learned_trackers_table.py writes from here -->", "<!-- to here -->"
FIGURE = "learned_trackers.png"
ABOUT = ("device", "commit", "date")


def main(given: Sequence[str] | None = None) -> int:
    """Print the table; draw the figure if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", default=RESULTS / "learned_trackers.csv")
    parser.add_argument("--models", nargs="+", default=[], metavar="MODEL", help="by default all of the table")
    parser.add_argument("--figures", type=Path, help="folder for learned_trackers.svg and .png")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page whose part between two marks is replaced")
    asked = parser.parse_args(given)
    with asked.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if unknown := set(asked.models) - {r["model"] for r in rows}:
        sys.exit(f"{asked.table} has no model {', '.join(sorted(unknown))}")
    rows = [r for r in rows if not asked.models or r["model"] in asked.models]
    print("\n".join(markdown(rows)))
    if asked.write is not None:
        page = asked.write.read_text("utf-8")
        if page.count(BEGIN) != 1 or page.count(END) != 1:
            sys.exit(f"{asked.write} lacks the lines {BEGIN} and {END}; put them where it belongs")
        link = Path(os.path.relpath(asked.table.parent, asked.write.parent), FIGURE).as_posix()
        head, tail = page.split(BEGIN)[0], page.split(END)[1]
        asked.write.write_text(f"{head}{BEGIN}\n\n{part_of_page(rows, link)}\n\n{END}{tail}", "utf-8")
    if asked.figures is not None:
        from ssrtrack.report.figures_koss import save
        from ssrtrack.report.figures_learned import learned_figure

        save(learned_figure(rows), asked.figures, "learned_trackers")
    return 0


def part_of_page(rows: Sequence[Row], figure: str) -> str:
    """The table, where and when it was measured on how many flights, and the figure."""
    flights: dict[str, int] = {}
    for r in rows:
        if (r["part"], r["set"]) == ("ratio", SUITE):
            flights[r["model"]] = max(flights.get(r["model"], 0), int(r["flights"]))
    alike = len(set(flights.values())) <= 1
    told = f"{max(flights.values(), default=0):,}" if alike else ", ".join(f"{n} {v:,}" for n, v in flights.items())
    device, commit, date = (" and ".join(dict.fromkeys(r[key] for r in rows if r["set"] != SUITE)) for key in ABOUT)
    where = f"Flights of the suite: {told}. {device}; commit {commit}, {date}.{missing_of(rows)}"
    return "\n".join(
        [*markdown(rows), "", where, "", f"![Error ratios and coverage of the learned trackers]({figure})"]
    )


def missing_of(rows: Sequence[Row]) -> str:
    """A sentence on what was not judged, so that a line's count is not taken for all of them; nothing if all was."""
    lost: dict[str, list[str]] = {}
    for r in rows:
        if r["part"] in (ABSENT, FAILED):
            lost.setdefault(f"{r['measure'].partition(':')[0]} {r['set']}", []).append(f"{r['model']} {r['seed']}")
    told = "; ".join(f"{where} ({', '.join(names)})" for where, names in lost.items())
    return f" Not judged: {told}." if told else ""


def markdown(rows: Sequence[Row]) -> list[str]:
    """Lines of the table."""
    models = list(dict.fromkeys(r["model"] for r in rows))
    lines = [("", "asked (aimed at)", *models)]
    for part, measures, before in (("ratio", ACCURACY, ""), ("gaussian", GAUSSIAN, "Gaussian noise: ")):
        for measure, wanted in measures.items():
            if wanted.wanted.must[1] < 1.0:
                lines.append((before + measure, asked_of(wanted), *each(rows, models, over_suite(part, measure))))
    for measure in ("all updates, position", "all updates, velocity"):
        own = over_suite("ratio" + OVER_OWN, measure)
        lines.append(
            (f"over an IMM tuned on each set: {measure}", asked_of(ACCURACY[measure]), *each(rows, models, own))
        )
    for what in ("position", "velocity"):
        bound = over_suite("efficiency", f"{what}_efficiency")
        lines.append((f"Cramér–Rao bound over the error, {what}", NOTHING, *each(rows, models, bound)))
    lines.append(
        ("95 % ellipses hold", "94–96 %", *each(rows, models, over_suite("calibration", "coverage_95", shared)))
    )
    lines.append(("ANEES", "0.9–1.1", *each(rows, models, over_suite("calibration", "anees"))))
    lines.append(("NLL below the IMM's", "all sets", *each(rows, models, counted("calibration", "nll less IMM"))))
    radars = counted("calibration", "coverage_95")
    lines.append(("coverage of each radar of the suite", "93–97 % in all", *each(rows, models, radars)))
    for kind in ("range", "speed"):
        some = counted(f"{kind} bands", "coverage_95")
        lines.append((f"coverage in {kind} bands", "93–97 % in all", *each(rows, models, some)))
    phases = counted("phase bands", "anees")
    lines.append(("ANEES by phase and set", "nearer to 1 than the IMM's", *each(rows, models, phases)))
    lines.append(
        (
            "settings outside the suite, position",
            "≤ 0.93, other traffic ≤ 1",
            *each(rows, models, worst("transfer", "position")),
        )
    )
    lines.append(
        (
            "settings outside the suite, velocity",
            "≤ 0.92, other traffic ≤ 1",
            *each(rows, models, worst("transfer", "velocity")),
        )
    )
    for what in ("position", "velocity"):
        line = f"… ratio less that of the set it is made from, {what}"
        lines.append((line, "≤ 0.05", *each(rows, models, worst(ABOVE_OWN, what))))
    lines.append(("recorded flights, position and velocity", "≤ 1", *each(rows, models, worst("real", "all updates"))))
    for what in ("next plot", "BDS 5,0 ground speed", "BDS 5,0 track angle"):
        lines.append((f"a real hour: {what}", "≤ 1", *each(rows, models, single("real", what))))
    lines.append(("area under a sweep's curve", "< 1 on all axes", *each(rows, models, worst("sweep", ""))))
    lines.append(
        ("hard cases: flights lost", "no more than the IMM", *each(rows, models, counted("hard", ": lost flights")))
    )
    lines.append(("hard cases: NaN", "none", *each(rows, models, counted("hard", ": NaN"))))
    lines.append(("a step of 1,000 tracks, ms", "≤ 10", *each(rows, models, single("cost", "step,"))))
    kept = [line for line in lines if set(line[2:]) - {NOTHING}]
    return ["| " + " | ".join(line) + " |" for line in (kept[0], ("---",) * len(kept[0]), *kept[1:])]


def asked_of(measure: Measure) -> str:
    """What is asked of a ratio, and what is aimed at."""
    target = measure.wanted.target
    return f"≤ {measure.wanted.must[1]:.2f}" + (f" ({target[1]:.2f})" if target else "")


Cell = Callable[[Sequence[Row]], str]


def each(rows: Sequence[Row], models: Sequence[str], cell: Cell) -> list[str]:
    """A cell for every model."""
    return [cell([r for r in rows if r["model"] == model]) or NOTHING for model in models]


def plain(value: float) -> str:
    """A ratio as it is read."""
    return f"{value:.3f}"


def shared(value: float) -> str:
    """A share as it is read."""
    return f"{100.0 * value:.1f} %"


def over_suite(part: str, measure: str, told: Callable[[float], str] = plain) -> Cell:
    """The value over the suite, over all seeds where there are several."""

    def cell(rows: Sequence[Row]) -> str:
        some = [r for r in rows if (r["part"], r["set"], r["measure"]) == (part, SUITE, measure)]
        if not some:
            return ""
        some.sort(key=lambda r: r["seed"].startswith("all"))
        last = some[-1]
        between = f" ({told(float(last['low']))}–{told(float(last['high']))})" if last["low"] else ""
        return marked(last["met"], told(float(last["value"])) + between)

    return cell


def marked(met: str, text: str) -> str:
    """Bold where a target is met, in italics where not even what is asked is."""
    return f"**{text}**" if met == "target" else f"*{text}*" if met == "no" else text


def of_sets(rows: Sequence[Row], part: str, measure: str) -> list[Row]:
    """Rows of single sets of which something is asked."""
    return [
        r
        for r in rows
        if r["part"] == part and measure in r["measure"] and r["met"] and r["set"] != SUITE and r["value"]
    ]


def counted(part: str, measure: str) -> Cell:
    """How many of a part's rows hold."""

    def cell(rows: Sequence[Row]) -> str:
        some = of_sets(rows, part, measure)
        held = sum(r["met"] != "no" for r in some)
        return marked("no" if held < len(some) else "must", f"{held} of {len(some)}") if some else ""

    return cell


def worst(part: str, measure: str) -> Cell:
    """How many of a part's rows hold, and the greatest value of all."""

    def cell(rows: Sequence[Row]) -> str:
        some = of_sets(rows, part, measure)
        if part == "real":
            some = [r for r in some if r["set"].startswith("recorded flights")]
        if not some:
            return ""
        held, last = sum(r["met"] != "no" for r in some), max(some, key=lambda r: float(r["value"]))
        where = (
            f"{last['set']}, {last['measure']}" if part == "sweep" else last["set"].removeprefix("recorded flights, ")
        )
        return (
            marked("no" if held < len(some) else "must", f"{held} of {len(some)}; worst {plain(float(last['value']))}")
            + f" ({where})"
        )

    return cell


def single(part: str, measure: str) -> Cell:
    """The value of the one row of which something is asked; of several seeds the greatest."""

    def cell(rows: Sequence[Row]) -> str:
        some = [r for r in of_sets(rows, part, measure) if r["measure"].startswith(measure)]
        if not some:
            return ""
        last = max(some, key=lambda r: float(r["value"]))
        return marked(last["met"], f"{float(last['value']):.3g}")

    return cell


if __name__ == "__main__":
    sys.exit(main())
