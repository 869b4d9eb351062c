"""The batched Kalman scan: one function, three backends, any number of tracks."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.kernels.kalman_form import Form
from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.kernels.kalman_scan import output_sizes

Array = NDArray[Any]
BACKENDS = ("numba", "torch", "triton")
MEMORY_SHARE = 0.8  # of a GPU's free memory that one block may take


def scan(
    form: Form,
    vector: Array,
    columns: Array,
    layout: Layout,
    outputs: Sequence[str],
    *,
    backend: str,
    state: Array | None = None,
    device: str | None = None,
    memory_bytes: int | None = None,
) -> tuple[dict[str, Array], Array]:
    """Filter packed plots; computes in the precision of `columns`, float64 or float32.

    Args:
        form, vector: the bank (`kalman_form.Form`) and its parameters, in the order of `kalman_form.parameters`.
        columns: (C, P) plots in packed order, rows as named by `form.columns`; a variance xx of 0 says "no plot here".
        layout: which tracks the packed places belong to.
        outputs: of `kalman_scan.output_sizes`: what to keep.
        backend: "numba" (this machine's cores), "torch" (any device), "triton" (a GPU; a CPU in its interpreter only).
        state: (S, N) states in the layout's order to go on from; None starts every track with its first plot.
        device: for torch and triton; None is the GPU if there is one.
        memory_bytes: device memory one block of tracks may take; None is four fifths of what is free. What does not fit
            at once is streamed through in blocks.

    Returns:
        Outputs by name, each (rows, P), and the final states (S, N).
    """
    if backend == "numba":
        from ssrtrack.kernels import kalman_numba

        return kalman_numba.scan(form, vector, columns, layout, outputs, state)
    return _on_device(form, vector, columns, layout, outputs, backend, state, device, memory_bytes)


def has_gpu() -> bool:
    """Whether PyTorch sees a CUDA device; cheap where there is no driver."""
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _on_device(
    form: Form,
    vector: Array,
    columns: Array,
    layout: Layout,
    outputs: Sequence[str],
    backend: str,
    state: Array | None,
    device: str | None,
    memory_bytes: int | None,
) -> tuple[dict[str, Array], Array]:
    import torch

    if backend == "triton":
        from ssrtrack.kernels.kalman_triton import scan as run
    else:
        from ssrtrack.kernels.kalman_torch import scan as run
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if memory_bytes is None and target.type == "cuda":
        memory_bytes = int(MEMORY_SHARE * torch.cuda.mem_get_info(target)[0])
    sizes = output_sizes(form)
    kept = {name: np.empty((sizes[name], layout.plots), columns.dtype) for name in outputs}
    final = np.empty((form.state_size, layout.tracks), columns.dtype)
    row_bytes = columns.itemsize * (len(form.columns) + sum(sizes[name] for name in outputs))
    track_bytes = columns.itemsize * form.state_size * 2
    numbers = torch.from_numpy(vector).to(target, _torch_type(columns))
    with torch.no_grad():
        for begin, end in track_blocks(layout, row_bytes, track_bytes, memory_bytes):
            part, runs = layout.part(begin, end)
            block = torch.from_numpy(_gathered(columns, runs)).to(target)
            start = None if state is None else torch.from_numpy(state[:, begin:end].astype(columns.dtype)).to(target)
            found, last = run(form, numbers, block, part, outputs, start)
            for name, rows in found.items():
                _scatter(kept[name], runs, rows.cpu().numpy())
            final[:, begin:end] = last.cpu().numpy()
    return kept, final


def track_blocks(layout: Layout, row_bytes: int, track_bytes: int, limit: int | None) -> Iterator[tuple[int, int]]:
    """Neighbouring tracks (begin, end) whose plots and states together stay within the limit; at least one track."""
    if limit is None:
        if layout.tracks:
            yield 0, layout.tracks
        return
    lengths = np.searchsorted(-layout.alive, -np.arange(layout.tracks), side="left")
    cost = np.cumsum(lengths * row_bytes + track_bytes)
    begin = 0
    while begin < layout.tracks:
        spent = cost[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(cost, spent + limit, side="right")))
        yield begin, end
        begin = end


def _gathered(columns: Array, runs: Array) -> Array:
    """The packed places of the runs (begin, end), one after the other."""
    if runs.shape[0] == 1 or (runs[1:, 0] == runs[:-1, 1]).all():
        return np.ascontiguousarray(columns[:, runs[0, 0] : runs[-1, 1]])
    return np.concatenate([columns[:, a:b] for a, b in runs], axis=1)


def _scatter(into: Array, runs: Array, rows: Array) -> None:
    at = 0
    for begin, end in runs:
        into[:, begin:end] = rows[:, at : at + end - begin]
        at += end - begin


def _torch_type(columns: Array) -> Any:
    import torch

    return torch.float32 if columns.dtype == np.float32 else torch.float64
