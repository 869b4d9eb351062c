"""One column of the scan over scalars: what goes in, what comes out. Every backend runs these two functions."""

from collections.abc import Sequence
from typing import Any

from ssrtrack.kernels.kalman_algebra import Scalar, Vector, where
from ssrtrack.kernels.kalman_form import POSITION_COLUMNS, Form, Parameters
from ssrtrack.kernels.kalman_step import Plot, State, estimate, init, packed, predict, unpacked, update, upper

Results = dict[str, Vector]
UNKNOWN = float("nan")


def output_sizes(form: Form) -> dict[str, int]:
    """Rows of every output there is: estimates are x, y, vx, vy and the upper triangle of their covariance."""
    models = len(form.kinds)
    return {
        "predicted": 14,
        "filtered": 14,
        "modes": models if models > 1 else 0,
        "used": 1,
        "log_likelihood": 1,
        "state": form.state_size,
    }


def parted(form: Form, outputs: Sequence[str], rows: Any) -> dict[str, Any]:
    """Rows (D, …) of all outputs, one below the other, by name."""
    sizes, parts, at = output_sizes(form), {}, 0
    for name in outputs:
        parts[name], at = rows[at : at + sizes[name]], at + sizes[name]
    return parts


def row_count(form: Form, outputs: Sequence[str]) -> int:
    """Rows D of all outputs together."""
    sizes = output_sizes(form)
    return sum(sizes[name] for name in outputs)


def first(form: Form, p: Parameters, column: Sequence[Scalar], outputs: Sequence[str]) -> tuple[Vector, Results]:
    """The state after a track's first plot, and the outputs there."""
    state = init(form, p, _plot(form, column))
    values = packed(form, state)
    known: Results = {"predicted": [UNKNOWN] * 14, "used": [1.0], "log_likelihood": [0.0]}
    return values, {name: known[name] if name in known else _output(form, state, values, name) for name in outputs}


def advance(
    form: Form, p: Parameters, values: Sequence[Scalar], column: Sequence[Scalar], outputs: Sequence[str]
) -> tuple[Vector, Results]:
    """The state one column later, and the outputs there."""
    plot = _plot(form, column)
    ahead = predict(form, p, unpacked(form, values), column[0])
    after, log_likelihood = update(form, p, ahead, plot)
    out = packed(form, after)
    results: Results = {}
    for name in outputs:
        if name == "predicted":
            results[name] = _estimate(form, ahead)
        elif name == "used":
            taken = plot.valid & ~(after.gated > 0.0) if form.gate else plot.valid
            results[name] = [where(taken, 1.0, 0.0)]
        elif name == "log_likelihood":
            results[name] = [log_likelihood]
        else:
            results[name] = _output(form, after, out, name)
    return out, results


def _plot(form: Form, column: Sequence[Scalar]) -> Plot:
    _, x, y, xx, xy, yy = column[: len(POSITION_COLUMNS)]
    polar = list(column[len(POSITION_COLUMNS) :]) if form.observation == "polar" else None
    return Plot([x, y], [[xx, xy], [xy, yy]], xx > 0.0, polar)


def _output(form: Form, state: State, values: Vector, name: str) -> Vector:
    if name == "filtered":
        return _estimate(form, state)
    if name == "modes":
        return [v.exp() for v in state.log_probability] if len(form.kinds) > 1 else []
    return values


def _estimate(form: Form, state: State) -> Vector:
    mean, covariance = estimate(form, state)
    return [*mean, *upper(covariance)]
