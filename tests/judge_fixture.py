"""What tests of the judge of learned trackers share: models, rows, and work done here instead of in processes."""

import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import learned_trackers_wanted as wanted

from ssrtrack.filters.bank import Bank
from ssrtrack.models.checkpoint import save_run
from ssrtrack.models.load import load_tracker
from ssrtrack.training.loop_model import new_model


class Here:
    """In place of processes: the work is done here."""

    def __init__(self, count: int) -> None:
        assert count == 2

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *what: object) -> None:
        pass

    def submit(self, function: Any, *given: Any) -> Any:
        done: Future[Any] = Future()
        try:
            done.set_result(function(*given))
        except Exception as error:
            done.set_exception(error)
        return done


def save_model(path: Path, size: float, sources: Any = ()) -> None:
    bank = load_tracker("imm")
    assert isinstance(bank, Bank)
    model = new_model("tiny", bank, 5.0, 0)
    with torch.no_grad():
        for head in (model.filter_head, model.ahead_head):
            head.bias += size * torch.arange(head.bias.numel(), dtype=head.bias.dtype).cos()
    save_run(path, model, bank, training={"recipe": {"seed": 3}}, sources=sources)


def some_rows() -> list[dict[str, Any]]:
    """Rows of two sets for two seeds of one model and one of another, as the judge makes them."""
    found: list[dict[str, Any]] = []
    for name, seed, size in (("koss", "1", 0.8), ("koss", "2", 0.9), ("gka", "1", 0.7)):
        for i, where in enumerate(("tma-4s", "degraded")):
            model, value = (name, seed), size + 0.02 * i
            given = {"interval": (value - 0.05, value + 0.05), "updates": 100}
            velocity = wanted.ACCURACY["all updates, velocity"].wanted
            found += [
                wanted.row("ratio", where, model, "all updates, velocity", value, wanted=velocity, **given),
                wanted.row("ratio", where, model, "turns, position", value, **given),
                wanted.row("transfer", f"{where} x", model, "all updates, position", value, wanted=wanted.AREA),
                wanted.row("sweep", where, model, "gap", value + 0.2, wanted=wanted.AREA),
                wanted.row("hard", where, model, "no altitude: NaN", float(i), wanted=wanted.NO_NAN),
                wanted.row(
                    "range bands", where, model, "coverage_95, 20-40 NM", 0.95 + 0.03 * i, wanted=wanted.COVERAGE_PART,
                    reference_value=0.9, **given,
                ),
            ]  # fmt: skip
    return found
