"""The batched Kalman scan: one function, three backends, any number of tracks."""

from collections.abc import Callable, Iterator, Sequence
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
    final_state: bool = True,
) -> tuple[dict[str, Array], Array | None]:
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
        final_state: whether the states after each track's last plot are wanted.

    Returns:
        Outputs by name, each (rows, P), and the final states (S, N) or None.

    Raises:
        ValueError: no such backend.
    """
    _check(backend)
    if backend == "numba":
        from ssrtrack.kernels import kalman_numba

        found, final = kalman_numba.scan(form, vector, columns, layout, outputs, state)
        return found, final if final_state else None
    return _scan_on_device(form, vector, columns, layout, outputs, backend, state, device, memory_bytes, final_state)


def _check(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")


def has_gpu() -> bool:
    """Whether PyTorch sees a CUDA device; cheap where there is no driver."""
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    import torch

    return bool(torch.cuda.is_available())


def smooth(
    form: Form,
    vector: Array,
    columns: Array,
    layout: Layout,
    *,
    backend: str,
    lag: int | None = None,
    device: str | None = None,
    memory_bytes: int | None = None,
) -> Array:
    """Estimates (14, P) given all plots of each track, or those up to `lag` columns later; arguments as for `scan`.

    Raises:
        ValueError: no such backend, or triton for several models: their pairs make code too long for it.
    """
    _check(backend)
    if backend == "numba":
        from ssrtrack.kernels import kalman_numba, kalman_numba_smooth

        found, _ = kalman_numba.scan(form, vector, columns, layout, ("state",), None)
        return kalman_numba_smooth.smooth(form, vector, columns[0], found["state"], layout, lag)
    if backend == "triton" and len(form.kinds) > 1:
        raise ValueError("triton smooths banks of one model only; use numba or torch")
    scan_on, smooth_on = _functions(backend)

    def work(numbers: Any, block: Any, part: Layout, start: Any) -> dict[str, Any]:
        states = scan_on(form, numbers, block, part, ("state",), None, False)[0]["state"]
        return {"smoothed": smooth_on(form, numbers, block[0], states, part, lag)}

    kept = {"smoothed": np.empty((14, layout.plots), columns.dtype)}
    _in_blocks(work, kept, vector, columns, layout, None, 2 * form.state_size + 14, 0, device, memory_bytes)
    return kept["smoothed"]


def _functions(backend: str) -> tuple[Any, Any]:
    """Scan and smoother on a device."""
    if backend == "torch":
        from ssrtrack.kernels import kalman_torch

        return kalman_torch.scan, kalman_torch.smooth
    from ssrtrack.kernels import kalman_triton, kalman_triton_smooth

    return kalman_triton.scan, kalman_triton_smooth.smooth


def _scan_on_device(
    form: Form,
    vector: Array,
    columns: Array,
    layout: Layout,
    outputs: Sequence[str],
    backend: str,
    state: Array | None,
    device: str | None,
    memory_bytes: int | None,
    final_state: bool,
) -> tuple[dict[str, Array], Array | None]:
    scan_on, _ = _functions(backend)

    def work(numbers: Any, block: Any, part: Layout, start: Any) -> dict[str, Any]:
        found, last = scan_on(form, numbers, block, part, outputs, start, final_state)
        return {**found, "final": last} if final_state else dict(found)

    sizes = output_sizes(form)
    kept = {name: np.empty((sizes[name], layout.plots), columns.dtype) for name in outputs}
    if final_state:
        kept["final"] = np.empty((form.state_size, layout.tracks), columns.dtype)
    rows = sum(sizes[name] for name in outputs)
    _in_blocks(work, kept, vector, columns, layout, state, rows, 2 * form.state_size, device, memory_bytes)
    final = kept.pop("final", None)
    return kept, final


def _in_blocks(
    work: Callable[[Any, Any, Layout, Any], dict[str, Any]],
    kept: dict[str, Array],
    vector: Array,
    columns: Array,
    layout: Layout,
    state: Array | None,
    rows: int,
    track_rows: int,
    device: str | None,
    memory_bytes: int | None,
) -> None:
    """Run `work` on the device over blocks of tracks that fit its memory; its results go to their places in `kept`.

    rows and track_rows: numbers that a plot takes beside its columns, and a track.
    """
    import torch

    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if memory_bytes is None and target.type == "cuda":
        memory_bytes = int(MEMORY_SHARE * torch.cuda.mem_get_info(target)[0])
    kind = torch.float32 if columns.dtype == np.float32 else torch.float64
    numbers = torch.from_numpy(vector).to(target, kind)
    size = columns.itemsize
    with torch.no_grad():
        for begin, end in track_blocks(layout, size * (columns.shape[0] + rows), size * track_rows, memory_bytes):
            part, runs = layout.part(begin, end)
            block = torch.from_numpy(_gathered(columns, runs)).to(target)
            start = None if state is None else torch.from_numpy(state[:, begin:end]).to(target, kind)
            for name, found in work(numbers, block, part, start).items():
                if name == "final":
                    kept[name][:, begin:end] = found.cpu().numpy()
                else:
                    _scatter(kept[name], runs, found.cpu().numpy())


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
