"""What is compared: the cells of the grid, in order of importance."""

from dataclasses import replace

from ssrtrack.errors import TrainingError
from ssrtrack.experiments.grid import Cell

RATES = (1e-3, 2e-3, 4e-3)
LEVEL_RATES = (2e-3, 4e-3, 8e-3, 1.6e-2)
SEEDS = (1, 2, 3)
STEPS = {"short": 3000, "mode": 3000, "repeat": 3000, "levels": 2000, "long": 10_000}
LONG_TUNING = 2500  # steps, on the curriculum's first two strips
PEERS = ("s6", "gru", "transformer", "s4d")
MAIN = ("koss", *PEERS, "koss-input-only")
SEGMENTS = ("koss-s16-j1", "koss-s4", "koss-s16-j0")
GAINS = ("koss-no-input-gain", "koss-input-only-no-input-gain")
PREDICTION = ("koss-prediction", "koss-prediction-no-input-gain")
OPERATORS = (
    "koss-neumann", "koss-neumann-no-derivative", "koss-neumann-s1", "koss-kalman", "koss-exact", "koss-difference",
)  # fmt: skip
ONE_BLOCK = ("koss", "koss-input-only", "s6", "gru", *GAINS, "koss-s16-j1", "koss-kalman", "koss-neumann")
LONG = ("koss-s4", "s6", "koss", "transformer", "s4d", "koss-s16-j1", "koss-input-only", "gru")


def cells(part: str) -> list[Cell]:
    """Cells of "short", "long", "levels" or "all", the most important first; a TrainingError for another name."""
    parts = {
        "short": [*_short_first(), *_clean(), *_without_context(), *_short_rest()],
        "long": [*_long(LONG), *_long_clean()],
        "levels": [*_levels_first(), *_levels_rest()],
        "all": [
            *_long(LONG[:3]), *_short_first(), *_levels_first(), *_long(LONG[3:]), *_clean(), *_without_context(),
            *_levels_rest(), *_short_rest(), *_long_clean(),
        ],
    }  # fmt: skip
    if part not in parts:
        raise TrainingError(f"there is no part {part!r} of the grid; parts are {', '.join(parts)}")
    return parts[part]


def narrowed(
    plan: list[Cell], *, tasks: list[str] | None = None, models: list[str] | None = None, **changes: object
) -> list[Cell]:
    """The cells of these tasks and models, with those of the changes that are not None."""
    kept = [cell for cell in plan if cell.task in (tasks or [cell.task]) and cell.model in (models or [cell.model])]
    said = {name: value for name, value in changes.items() if value is not None}
    return [replace(cell, **said) for cell in kept]  # type: ignore[arg-type]


def _cell(task: str, model: str, *, tuned_on: str = "") -> Cell:
    kind = task.split("-")[0]
    return Cell(task, model, STEPS[kind], LEVEL_RATES if kind == "levels" else RATES, SEEDS, tuned_on)


def _short_first() -> list[Cell]:
    return [_cell(task, model) for task in ("mode", "short") for model in MAIN]


def _clean() -> list[Cell]:
    return [_cell("short-clean", model, tuned_on="short") for model in (*MAIN, "koss-neumann", "koss-published")]


def _without_context() -> list[Cell]:
    """Where the first block is alone, and where what misleads is a repetition; rates as on `mode`."""
    one = [_cell("mode-one-block", model, tuned_on="mode") for model in (*ONE_BLOCK, *PREDICTION)]
    one += [_cell("repeat-one-block", model, tuned_on="mode") for model in (*ONE_BLOCK[:4], *PREDICTION)]
    return one + [_cell("repeat", model, tuned_on="mode") for model in (*MAIN, *GAINS, *SEGMENTS[:1], *PREDICTION)]


def _short_rest() -> list[Cell]:
    rest = (*PREDICTION, *SEGMENTS, *GAINS, *OPERATORS)
    return [_cell(task, model) for task in ("short", "mode") for model in rest] + [_cell("short", "koss-published")]


def _long(models: tuple[str, ...]) -> list[Cell]:
    return [replace(_cell("long", model), tuning_steps=LONG_TUNING, tuning_stages=2) for model in models]


def _long_clean() -> list[Cell]:
    return [_cell("long-clean", model, tuned_on="long") for model in LONG[:5]]


def _levels_first() -> list[Cell]:
    return [_cell("levels", model) for model in ("koss", "gru", *PREDICTION, "koss-input-only", "s6")]


def _levels_rest() -> list[Cell]:
    rest = (*GAINS, *SEGMENTS, "koss-kalman", "koss-neumann-s1", "transformer", "s4d")
    with_conv = ("koss", "koss-input-only", "s6")
    return [_cell("levels", model) for model in rest] + [_cell("levels-conv", model) for model in with_conv]
