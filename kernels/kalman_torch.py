"""Scan and smoother on torch tensors: any device, differentiable, one column of all tracks at a time."""

from collections.abc import Sequence
from typing import Any

import torch

from ssrtrack.kernels.kalman_form import Form, parameters
from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.kernels.kalman_scan import advance, first
from ssrtrack.kernels.kalman_smooth import back
from ssrtrack.kernels.kalman_step import estimate, packed, unpacked, upper

Tensor = Any


def scan(
    form: Form,
    vector: Tensor,
    columns: Tensor,
    layout: Layout,
    outputs: Sequence[str],
    state: Tensor | None,
    final_state: bool = True,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """One backend of `ssrtrack.kernels.kalman.scan`; gradients reach `vector`, `columns` and `state`."""
    p = parameters(form, list(vector))
    parts: dict[str, list[Tensor]] = {name: [] for name in outputs}
    ended: list[Tensor] = []
    now = state
    for k in range(layout.steps):
        start, stop = layout.rows(k)
        column = columns[:, start:stop]
        if now is None:
            values, results = first(form, p, list(column), outputs)
        else:
            if now.shape[1] > stop - start:
                ended.append(now[:, stop - start :])
            values, results = advance(form, p, list(now[:, : stop - start]), list(column), outputs)
        now = stacked(values, column)
        for name in outputs:
            parts[name].append(stacked(results[name], column))
    found = {name: torch.cat(columns_, 1) for name, columns_ in parts.items()}
    if not final_state:
        return found, None
    return found, columns.new_zeros((form.state_size, 0)) if now is None else torch.cat([now, *reversed(ended)], 1)


def stacked(values: Sequence[Any], like: Tensor) -> Tensor:
    """Scalars as rows (D, n); numbers and 0-d tensors are the same for all tracks."""
    if not values:
        return like.new_zeros((0, like.shape[1]))
    rows = [v if isinstance(v, torch.Tensor) else like.new_tensor(v) for v in values]
    return torch.stack([row.expand(like.shape[1]) for row in rows])


def smooth(form: Form, vector: Tensor, dt_s: Tensor, filtered: Tensor, layout: Layout, lag: int | None) -> Tensor:
    """One backend of `ssrtrack.kernels.kalman.smooth`; gradients reach everything but the layout."""
    p = parameters(form, list(vector))
    found: dict[int, Tensor] = {}
    for first_column in range(1 if lag is None else layout.steps):
        top = layout.steps - 1 if lag is None else min(first_column + lag, layout.steps - 1)
        later: Tensor | None = None
        for k in range(top, first_column - 1, -1):
            start, stop = layout.rows(k)
            here = filtered[:, start:stop]
            if later is not None:
                count = later.shape[1]
                step = dt_s[stop : stop + count]
                state = back(form, p, unpacked(form, list(here[:, :count])), unpacked(form, list(later)), step)
                here = torch.cat([stacked(packed(form, state), later), here[:, count:]], 1)
            later = here
            if lag is None or k == first_column:
                mean, covariance = estimate(form, unpacked(form, list(here)))
                found[k] = stacked([*mean, *upper(covariance)], here)
    return torch.cat([found[k] for k in range(layout.steps)], 1) if found else filtered.new_zeros((14, 0))
