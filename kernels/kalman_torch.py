"""The scan over time on torch tensors: any device, differentiable, one column of all tracks at a time."""

from collections.abc import Sequence
from typing import Any

import torch

from ssrtrack.kernels.kalman_form import Form, parameters
from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.kernels.kalman_scan import advance, first

Tensor = Any


def scan(
    form: Form, vector: Tensor, columns: Tensor, layout: Layout, outputs: Sequence[str], state: Tensor | None
) -> tuple[dict[str, Tensor], Tensor]:
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
    final = columns.new_zeros((form.state_size, 0)) if now is None else torch.cat([now, *reversed(ended)], 1)
    return {name: torch.cat(found, 1) for name, found in parts.items()}, final


def stacked(values: Sequence[Any], like: Tensor) -> Tensor:
    """Scalars as rows (D, n); numbers and 0-d tensors are the same for all tracks."""
    if not values:
        return like.new_zeros((0, like.shape[1]))
    rows = [v if isinstance(v, torch.Tensor) else like.new_tensor(v) for v in values]
    return torch.stack([row.expand(like.shape[1]) for row in rows])
