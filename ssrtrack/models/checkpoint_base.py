"""A base filter as plain numbers, so that a learned tracker keeps the very base it was trained with."""

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from ssrtrack.errors import CheckpointError, EstimatorError
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.chain import Chain
from ssrtrack.filters.motion import Motion, constant_acceleration, constant_velocity, coordinated_turn, singer
from ssrtrack.filters.options import Options

MOTIONS: dict[str, Callable[..., Motion]] = {
    "cv": constant_velocity,
    "ca": constant_acceleration,
    "singer": singer,
    "ct": coordinated_turn,
}
KEYS = {"motions", "sojourn_s", "jump", "engine", "observation", "options"}


def bank_to_dict(bank: Bank) -> dict[str, Any]:
    """Every number of a base filter, in SI units and its constructors' order, as JSON has it."""
    return {
        "motions": [{"kind": m.kind, "name": m.name, "parameters": list(m.parameters)} for m in bank.motions],
        "sojourn_s": bank.chain.sojourn_s.tolist(),
        "jump": bank.chain.jump.tolist(),
        "engine": bank.engine,
        "observation": bank.observation,
        "options": asdict(bank.options),
    }


def bank_from_dict(table: Any) -> Bank:
    """The base filter that `bank_to_dict` wrote down.

    Raises:
        CheckpointError: something is missing, unknown, of another kind or out of range.
    """
    if not isinstance(table, dict) or set(table) != KEYS:
        came = sorted(table) if isinstance(table, dict) else type(table).__name__
        raise CheckpointError(f"the base filter names {came}, expected {sorted(KEYS)}")
    try:
        motions = tuple(_motion(m) for m in table["motions"])
        chain = Chain(np.array(table["sojourn_s"], np.float64), np.array(table["jump"], np.float64))
        options = _options(table["options"])
    except (EstimatorError, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"the base filter cannot be built: {error}") from error
    if not motions or chain.sojourn_s.size != len(motions) or not np.isfinite(chain.sojourn_s).all():
        raise CheckpointError(f"the base filter has {len(motions)} motion models and sojourn times {chain.sojourn_s}")
    if table["engine"] not in ("extended", "unscented", "cubature") or table["observation"] != "position":
        raise CheckpointError(
            f"the base filter has engine {table['engine']!r} and observation {table['observation']!r}, expected "
            "extended, unscented or cubature, and position"
        )
    return Bank(motions, chain, table["engine"], table["observation"], options)


def _motion(table: Any) -> Motion:
    if table["kind"] not in MOTIONS:
        raise ValueError(f"no motion model {table['kind']!r}; known: {', '.join(MOTIONS)}")
    return MOTIONS[table["kind"]](*(_number(v) for v in table["parameters"]), name=str(table["name"]))


def _options(table: Any) -> Options:
    if set(table) != {f.name for f in fields(Options)}:
        raise ValueError(f"options {sorted(table)}, expected {sorted(f.name for f in fields(Options))}")
    for key, value in table.items():
        if not (value is None and key == "gate"):
            _number(value)
    return Options(**table)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return value
