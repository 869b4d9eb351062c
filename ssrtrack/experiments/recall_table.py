"""What the trainings of recall say together: a row for every mixer, width, length and number of pairs."""

from collections.abc import Iterable, Sequence
from math import isfinite
from statistics import mean, stdev
from typing import Any

from ssrtrack.experiments.grid import Record
from ssrtrack.experiments.recall_models import MIXERS

SETTING = ("device", "versions", "commit", "date")
Row = dict[str, str | int | float]
Surface = dict[tuple[int, int], float]


def finals(records: Iterable[Record]) -> dict[tuple[str, str, int], list[Record]]:
    """Trainings that count, by plan, mixer and width, mixers in the order of MIXERS.

    One that is in the files twice counts once; one at another rate than the best that was tried does not count.
    """
    once = list({r["key"]: r for r in records}.values())
    best = {(r["plan"], r["mixer"]): _tried(r, once) for r in once}
    found: dict[tuple[str, str, int], list[Record]] = {}
    kept = [r for r in once if r["kind"] == "final"]
    for r in sorted(kept, key=lambda r: (r["plan"], list(MIXERS).index(r["mixer"]), r["width"], r["seed"])):
        tried = best[r["plan"], r["mixer"]]
        if not tried or r["lr"] == max(sorted(tried), key=lambda rate: tried[rate]):
            found.setdefault((r["plan"], r["mixer"], r["width"]), []).append(r)
    return found


def table(records: Sequence[Record]) -> list[Row]:
    """Mean, spread, least and largest accuracy over the seeds of every cell, with how it was trained."""
    rows: list[Row] = []
    for (_, mixer, width), some in finals(records).items():
        for cell in some[0]["cells"]:
            length, pairs = (int(part) for part in cell.split("/"))
            accuracy = [float(r["cells"][cell]) for r in some]
            row: Row = {
                "mixer": mixer,
                "width": width,
                "length": length,
                "pairs": pairs,
                "accuracy": f"{mean(accuracy):.4f}",
                "spread": f"{stdev(accuracy):.4f}" if len(accuracy) > 1 else "",
                "least": f"{min(accuracy):.4f}",
                "largest": f"{max(accuracy):.4f}",
                "one_of_pairs": f"{1.0 / pairs:.4f}",  # for one who knows the values but not whose they are
            }
            rows.append(row | _training(some, records))
    return rows


def surfaces(records: Sequence[Record]) -> dict[tuple[str, int], Surface]:
    """Mean accuracy by mixer and width, then by length and pairs; of several plans the one with the most trainings."""
    found = finals(records)
    count: dict[str, int] = {}
    for (plan, _, _), some in found.items():
        count[plan] = count.get(plan, 0) + len(some)
    chosen = max(count, key=lambda plan: count[plan], default="")
    return {
        (mixer, width): {
            (int(cell.split("/")[0]), int(cell.split("/")[1])): mean(float(r["cells"][cell]) for r in some)
            for cell in some[0]["cells"]
        }
        for (plan, mixer, width), some in found.items()
        if plan == chosen
    }


def _tried(like: Record, records: Sequence[Record]) -> dict[float, float]:
    """Validation scores by rate of a plan's mixer."""
    same = [r for r in records if (r["plan"], r["mixer"], r["kind"]) == (like["plan"], like["mixer"], "tune")]
    return {r["lr"]: r["score"] if isfinite(r["score"]) else -1.0 for r in same}


def _training(some: Sequence[Record], records: Sequence[Record]) -> Row:
    first: dict[str, Any] = some[0]
    tried = _tried(first, records)
    return {
        "seeds": len(some),
        "test_sequences": first["test_sequences"],
        "chance": f"{2.0 / first['vocabulary']:.6f}",
        "vocabulary": first["vocabulary"],
        "parameters": first["parameters"],
        "lr": first["lr"],
        "lr_tried": " ".join(f"{rate:g}" for rate in sorted(tried)),
        "steps": first["steps"],
        "tokens": first["tokens"],
        "precision": first["precision"],
        "graph": all(r["captured"] for r in some),
        "ms_per_step": f"{mean(r['ms_per_step'] for r in some):.2f}",
        "diverged": sum(bool(r["diverged"]) for r in some),
        **{name: "; ".join(dict.fromkeys(r[name] for r in some)) for name in SETTING},
    }
