"""The one place where the engine's benchmarks call the package: everything else is peers, checks and clocks."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from engine_numpy import PACKED, Problem

Array = Any
# Case, estimator and backend of every row of ours on a device.
DEVICE_ROWS = (
    ("KF CV", "kf", "triton"),
    ("KF CV and RTS smoother", "kf", "triton"),
    ("IMM, CV CV-high CT CT", "imm", "triton"),
    ("IMM, CV CV-high CT CT", "imm", "torch"),
)
# The package packs a covariance row by row; where each of PACKED stands there, behind the four means.
_PLACE = {(i, j): 4 + n for n, (i, j) in enumerate((i, j) for i in range(4) for j in range(i, 4))}
ROWS = [_PLACE[pair] for pair in PACKED]


def filtered(estimator: Any, z: Any, backend: str | None, dtype: str, cores: int) -> Array:
    """Posterior means (N, T, 4) of a whole run, with all it gives a user; no backend means the default one."""
    from ssrtrack.filters.run import run

    with on_cores(cores):
        return (run(estimator, z, backend=backend, dtype=dtype) if backend else run(estimator, z)).mean


def smoothed(estimator: Any, z: Any, backend: str, dtype: str, cores: int) -> Array:
    """Smoothed means (N, T, 4)."""
    from ssrtrack.filters.smoother import smooth

    with on_cores(cores):
        return smooth(estimator, z, backend=backend, dtype=dtype)[0]


def packed(estimator: Any, z: Any, dtype: str, cores: int, smooth: bool) -> Callable[[], Array]:
    """The numba kernels on columns packed beforehand, as the peers' arrays are: posterior or smoothed rows (14, P)."""
    from ssrtrack.filters.packing import form_of, packed_measurements, parameters_of
    from ssrtrack.kernels.kalman import scan
    from ssrtrack.kernels.kalman import smooth as smooth_rows

    form, vector = form_of(estimator), parameters_of(estimator)
    columns, layout = packed_measurements(z, form.observation == "polar")
    columns = columns.astype(dtype)

    def work() -> Array:
        with on_cores(cores):
            if smooth:
                return smooth_rows(form, vector, columns, layout, backend="numba")
            return scan(form, vector, columns, layout, ("filtered",), backend="numba")[0]["filtered"]

    return work


def means_of_packed(rows: Array, tracks: int) -> Array:
    """Means (N, T, 4) of packed rows of tracks of one length."""
    return np.moveaxis(rows[:4].reshape(4, -1, tracks), (0, 1, 2), (2, 1, 0))


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Let this thread and those it starts run on so many cores only; torch keeps threads, so it is told as well."""
    import torch

    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, sorted(cores)[:count])
    torch.set_num_threads(count)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


@dataclass(frozen=True, eq=False)
class DeviceWork:
    """A kernel's work on arrays that stay where they are: `run` reads and fills them, `moments` gives means
    (T, 4, n) and covariances packed as PACKED (T, 10, n) of some tracks."""

    run: Callable[[], None]
    moments: Callable[[Any], tuple[Array, Array]]
    read: tuple[Array, ...]
    written: tuple[Array, ...]


def device_work(estimator: str, p: Problem, backend: str, smoothed: bool = False) -> DeviceWork:
    """The estimator over a problem of torch tensors, in its precision, on its device."""
    import torch

    from ssrtrack.kernels import kalman_torch
    from ssrtrack.kernels.kalman_layout import Layout

    form, numbers = _bank(estimator, p.q_m2s3, p.speed_sigma_mps)
    steps, tracks = p.dt_s.shape
    columns, layout = rows_of(p).reshape(6, -1), Layout.of(np.full(tracks, steps))
    vector = torch.as_tensor(numbers).to(columns)
    out, written = columns.new_empty((14, layout.plots)), []
    if backend == "triton":
        from ssrtrack.kernels import kalman_triton, kalman_triton_smooth

        places = kalman_triton.device_layout(layout, columns.device)
        if smoothed:
            written.append(columns.new_empty((form.state_size, layout.plots)))

        def work() -> None:
            if not smoothed:
                kalman_triton.launch(form, vector, columns, places, ("filtered",), None, out, fresh=True)
                return
            kalman_triton.launch(form, vector, columns, places, ("state",), None, written[0], fresh=True)
            kalman_triton_smooth.launch(form, vector, columns[0], written[0], places, None, out)

    else:

        def work() -> None:
            out.copy_(kalman_torch.scan(form, vector, columns, layout, ("filtered",), None)[0]["filtered"])

    return DeviceWork(work, lambda key: cells(out, steps, key), (columns,), (out, *written))


def cells(out: Array, steps: int, key: Any) -> tuple[Array, Array]:
    """Means (T, 4, n) and covariances packed as PACKED (T, 10, n) of some tracks from packed moments (14, T·N)."""
    rows = out.reshape(14, steps, -1)[:, :, key].swapaxes(0, 1)
    return rows[:, :4], rows[:, ROWS]


def reference(estimator: str, p: Problem) -> tuple[Array, Array]:
    """Means (T, 4, n) and packed covariances (T, 10, n) of a float64 problem on the host, by the torch backend."""
    import torch

    arrays = (torch.from_numpy(a) for a in (p.dt_s, p.position_m, p.noise_m2))
    work = device_work(estimator, Problem(*arrays, p.q_m2s3, p.speed_sigma_mps), "torch")
    work.run()
    mean, covariance = work.moments(slice(None))
    return mean.numpy(), covariance.numpy()


def _bank(estimator: str, q_m2s3: float, speed_sigma_mps: float) -> tuple[Any, Array]:
    """The estimator's form and numbers."""
    from ssrtrack.filters.estimators import make_estimator, untuned_parameters
    from ssrtrack.filters.packing import form_of, parameters_of

    own = {"q_m2s3": q_m2s3} if estimator == "kf" else {}
    rest = untuned_parameters(estimator) | own  # Gaussian noise, like its peers
    bank = make_estimator(estimator, **(rest | {"speed_sigma_mps": speed_sigma_mps}))
    return form_of(bank), parameters_of(bank)  # type: ignore[arg-type]


def rows_of(p: Problem) -> Array:
    """Step, position and covariance as the package's columns (6, T, N)."""
    import torch

    rows = [p.dt_s, p.position_m[:, 0], p.position_m[:, 1], *(p.noise_m2[:, c] for c in range(3))]
    return torch.stack(rows)


def streamed(
    columns: Array, steps: int, q_m2s3: float, speed_sigma_mps: float, memory_bytes: int, where: str
) -> Callable[[], Array]:
    """The filter over packed columns (6, plots) in host memory, no more than `memory_bytes` on the device at a time;
    gives packed moments (14, plots)."""
    from ssrtrack.kernels.kalman import scan
    from ssrtrack.kernels.kalman_layout import Layout

    form, numbers = _bank("kf", q_m2s3, speed_sigma_mps)
    layout = Layout.of(np.full(columns.shape[1] // steps, steps))
    backend = "triton" if where == "cuda" else "torch"

    def work() -> Array:
        found, _ = scan(
            form,
            numbers,
            columns,
            layout,
            ("filtered",),
            backend=backend,
            device=where,
            memory_bytes=memory_bytes,
            final_state=False,
        )
        return found["filtered"]

    return work
