"""The classical estimators by name, with defaults for airliners seen by a secondary radar every 4 to 12 s.

One fixed process noise cannot serve straight flight and turns alike, so the single models stand between them: white
acceleration of q = 15 m²/s³ (between 10 and 20 both position RMSE and likelihood are at their best over the built-in
scenarios), and Singer's 1.5 m/s² over 15 s, a gentle turn's.
An IMM has one model for each: straight flight (q = 0.1: 2.6 m/s of velocity error for a 70 m, 0.08° radar at 60 NM),
turns to either side at 1.8 ± 0.9 °/s (0.8 °/s is a 20° bank at 250 m/s, 3 °/s the standard rate), and q = 20 for what
is neither. A flight stays straight for two minutes on average and in a turn for 40 s. These round numbers are the
defaults of the code; "imm" and "imm-gated" come with parameters tuned on the benchmark suite in their place (`TUNED`,
docs/tuning.md). The single models do not: with one process noise for straight flight and turns, tuning gains little.
"""

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from inspect import signature
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.alphabeta import AlphaBeta
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.chain import Chain
from ssrtrack.filters.motion import Motion, constant_acceleration, constant_velocity, coordinated_turn, singer
from ssrtrack.filters.options import Options
from ssrtrack.filters.protocol import Estimator, join, put, take
from ssrtrack.filters.tuned_file import FOLDER, read_tuned
from ssrtrack.units import DEG_RAD

__all__ = [
    "ESTIMATORS",
    "TUNED",
    "Estimator",
    "join",
    "make_estimator",
    "parameters_of",
    "parse_estimator",
    "put",
    "take",
    "untuned_parameters",
]

Array = NDArray[Any]
PLAIN = Options()
ONE = Chain(np.ones(1), np.zeros((1, 1)))


def _one(motion: Motion, engine: str, observation: str, options: Options) -> Bank:
    return Bank((motion,), ONE, engine, observation, options)


def _alpha_beta(options: Options = PLAIN, *, q_m2s3: float = 15.0) -> Estimator:
    if not (isfinite(q_m2s3) and q_m2s3 > 0.0):
        raise EstimatorError(f"alpha-beta: q_m2s3={q_m2s3} must be a positive number")
    return AlphaBeta(q_m2s3, options)


def _kf(options: Options = PLAIN, *, q_m2s3: float = 15.0) -> Estimator:
    return _one(constant_velocity(q_m2s3), "extended", "position", options)


def _kf_ca(options: Options = PLAIN, *, q_m2s5: float = 0.1, entry_sigma_mps2: float = 2.0) -> Estimator:
    motion = constant_acceleration(q_m2s5, entry_sigma_mps2)
    return _one(motion, "extended", "position", options)


def _singer(options: Options = PLAIN, *, sigma_mps2: float = 1.5, tau_s: float = 15.0) -> Estimator:
    motion = singer(sigma_mps2, tau_s)
    return _one(motion, "extended", "position", options)


def _polar_cv(engine: str) -> Callable[..., Estimator]:
    def factory(options: Options = PLAIN, *, q_m2s3: float = 15.0) -> Estimator:
        return _one(constant_velocity(q_m2s3), engine, "polar", options)

    return factory


def _polar_ct(engine: str) -> Callable[..., Estimator]:
    def factory(
        options: Options = PLAIN, *, q_m2s3: float = 2.0, rate_sigma_dps: float = 1.0, tau_s: float = 30.0
    ) -> Estimator:
        motion = _turn(0.0, rate_sigma_dps, tau_s, q_m2s3, "CT")
        return _one(motion, engine, "polar", options)

    return factory


def _imm2(
    options: Options = PLAIN,
    *,
    q_m2s3: float = 0.1,
    q_high_m2s3: float = 40.0,
    sojourn_s: float = 120.0,
    sojourn_high_s: float = 30.0,
) -> Estimator:
    motions = constant_velocity(q_m2s3), constant_velocity(q_high_m2s3, "CV-high")
    chain = Chain(np.array([sojourn_s, sojourn_high_s]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    return Bank(motions, chain, "extended", "position", options)


def _imm3(
    options: Options = PLAIN,
    *,
    q_m2s3: float = 0.1,
    turn_rate_dps: float = 1.8,
    rate_sigma_dps: float = 0.9,
    tau_s: float = 60.0,
    q_turn_m2s3: float = 1.0,
    sojourn_s: float = 120.0,
    sojourn_turn_s: float = 40.0,
) -> Estimator:
    turns = _turns(turn_rate_dps, rate_sigma_dps, tau_s, q_turn_m2s3)
    jump = np.array([[0.0, 0.5, 0.5], [0.9, 0.0, 0.1], [0.9, 0.1, 0.0]])
    chain = Chain(np.array([sojourn_s, sojourn_turn_s, sojourn_turn_s]), jump)
    return Bank((constant_velocity(q_m2s3), *turns), chain, "extended", "position", options)


def _imm(
    options: Options = PLAIN,
    *,
    q_m2s3: float = 0.1,
    q_high_m2s3: float = 20.0,
    turn_rate_dps: float = 1.8,
    rate_sigma_dps: float = 0.9,
    tau_s: float = 60.0,
    q_turn_m2s3: float = 1.0,
    sojourn_s: float = 120.0,
    sojourn_high_s: float = 20.0,
    sojourn_turn_s: float = 40.0,
) -> Estimator:
    straight = constant_velocity(q_m2s3), constant_velocity(q_high_m2s3, "CV-high")
    turns = _turns(turn_rate_dps, rate_sigma_dps, tau_s, q_turn_m2s3)
    jump = np.array([[0.0, 0.4, 0.3, 0.3], [0.6, 0.0, 0.2, 0.2], [0.6, 0.3, 0.0, 0.1], [0.6, 0.3, 0.1, 0.0]])
    chain = Chain(np.array([sojourn_s, sojourn_high_s, sojourn_turn_s, sojourn_turn_s]), jump)
    return Bank((*straight, *turns), chain, "extended", "position", options)


# Name -> factory(options, **parameters). The polar ones observe range and azimuth, the others the converted position.
ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "alpha-beta": _alpha_beta,
    "kf": _kf,
    "kf-ca": _kf_ca,
    "singer": _singer,
    "ekf": _polar_cv("extended"),
    "ekf-ct": _polar_ct("extended"),
    "ukf": _polar_cv("unscented"),
    "ukf-ct": _polar_ct("unscented"),
    "ckf": _polar_cv("cubature"),
    "imm": _imm,
    "imm-gated": _imm,
    "imm2": _imm2,
    "imm3": _imm3,
}
# Names whose defaults are tuned parameters that come with the package (benchmarks/tune_suite.py makes them).
TUNED = {"imm": FOLDER / "imm.toml", "imm-gated": FOLDER / "imm-gated.toml"}


def make_estimator(name: str, **parameters: Any) -> Estimator:
    """The estimator `name`, with some of its parameters or of `Options` changed.

    Raises:
        EstimatorError: unknown name or parameter (the message lists the known ones), or a value out of range.
    """
    known = parameters_of(name)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise EstimatorError(f"estimator {name!r} has no parameters {unknown}; known: {_listed(known)}")
    for key, value in parameters.items():
        if not (isinstance(value, int | float | np.number) or (value is None and _may_be_none(key))):
            raise EstimatorError(f"parameter {key} of {name!r} must be a number, got {value!r}")
    common = {f.name for f in fields(Options)}
    chosen = known | parameters
    options = Options(**{k: v for k, v in chosen.items() if k in common})
    try:
        return ESTIMATORS[name](options, **{k: v for k, v in chosen.items() if k not in common})
    except OverflowError as error:
        raise EstimatorError(f"estimator {name!r}: a value is too large to compute with: {parameters}") from error


def parse_estimator(text: str, **defaults: Any) -> Estimator:
    """The estimator written as NAME or NAME:key=value,key=value, e.g. "imm:gate=0.9999,q_m2s3=0.2".

    `defaults` are parameters that hold where the text does not give them. "none" stands for None (no gate).

    Raises:
        EstimatorError: unknown name or key (the message lists the known ones), a key without a value or given twice,
            or a value that is no number or out of range.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    known = parameters_of(name)
    return make_estimator(name, **(defaults | given_parameters(text, rest if colon else None, known)))


def given_parameters(text: str, rest: str | None, known: dict[str, Any]) -> dict[str, Any]:
    """The parameters written as key=value,key=value in `rest`, the part of `text` after the colon (None: no colon).

    Raises:
        EstimatorError: as `parse_estimator`.
    """
    given: dict[str, Any] = {}
    for item in rest.split(",") if rest is not None else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value):
            raise EstimatorError(
                f"estimator {text!r}: found {item!r}, expected key=value; known keys: {_listed(known)}"
            )
        if key not in known:
            raise EstimatorError(f"estimator {text!r} has no parameter {key!r}; known: {_listed(known)}")
        if key in given:
            raise EstimatorError(f"estimator {text!r} gives {key!r} twice; give it once")
        given[key] = _number(text, key, value, known[key])
    return given


def _number(text: str, key: str, value: str, default: Any) -> float | None:
    """A parameter's value, of its default's kind."""
    optional = _may_be_none(key)
    if optional and value.lower() == "none":
        return None
    try:
        number = int(value) if isinstance(default, int) else float(value)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        kind = "a whole number" if isinstance(default, int) else "a number or none" if optional else "a number"
        raise EstimatorError(f"estimator {text!r}: {key} is {value!r}, expected {kind} such as {default or 1}")
    return number


def _may_be_none(key: str) -> bool:
    return getattr(PLAIN, key, 0) is None


def _listed(known: dict[str, Any]) -> str:
    return ", ".join(known)


def parameters_of(name: str) -> dict[str, Any]:
    """Parameters of an estimator and their defaults, its own first; tuned ones for the names in `TUNED`.

    Raises:
        EstimatorError: unknown name.
    """
    return untuned_parameters(name) | _shipped(name)


def untuned_parameters(name: str) -> dict[str, Any]:
    """Parameters of an estimator with the defaults of its code alone, which were chosen by rules of thumb.

    Raises:
        EstimatorError: unknown name.
    """
    if name not in ESTIMATORS:
        raise EstimatorError(f"no estimator {name!r}; known: {', '.join(ESTIMATORS)}")
    own = {k: p.default for k, p in signature(ESTIMATORS[name]).parameters.items() if k != "options"}
    return own | {f.name: getattr(PLAIN, f.name) for f in fields(Options)}


@cache
def _shipped(name: str) -> dict[str, Any]:
    """Tuned parameters that come with the package; none for most names."""
    return dict(read_tuned(TUNED[name]).parameters) if name in TUNED else {}


def _turn(rate_dps: float, sigma_dps: float, tau_s: float, q_m2s3: float, name: str) -> Motion:
    return coordinated_turn(rate_dps * DEG_RAD, sigma_dps * DEG_RAD, tau_s, q_m2s3, name)


def _turns(rate_dps: float, sigma_dps: float, tau_s: float, q_m2s3: float) -> tuple[Motion, Motion]:
    left = _turn(rate_dps, sigma_dps, tau_s, q_m2s3, "CT-left")
    return left, _turn(-rate_dps, sigma_dps, tau_s, q_m2s3, "CT-right")
