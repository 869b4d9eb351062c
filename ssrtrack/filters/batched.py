"""The batched engine: banks of Kalman filters over all flights at once, on cores or a GPU.

The same estimators as `ssrtrack.filters.bank` with filterpy, to rounding; `ssrtrack.kernels` has the formulas.
"""

import os
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.history import TrackHistory
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.packing import form_of, packed_measurements, parameters_of
from ssrtrack.kernels.kalman import has_gpu, scan, smooth

Array = NDArray[Any]
BACKENDS = ("auto", "filterpy", "numba", "torch", "triton")
GPU_FROM_PLOTS = 1_000_000  # fewer are done on the cores before they have reached the GPU and come back


def batched_backend(estimator: Any, backend: str, dtype: str) -> str | None:
    """The batched backend that "auto" or a name means for this estimator; None for its own methods.

    Raises:
        EstimatorError: unknown backend or dtype, or one that does not fit the estimator.
    """
    if backend not in BACKENDS:
        raise EstimatorError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    if dtype not in ("float64", "float32"):
        raise EstimatorError(f"dtype is {dtype!r}, expected float64 or float32")
    reason = "filterpy computes in float64" if backend == "filterpy" else why_not(estimator)
    if not reason:
        return backend
    if dtype != "float64":
        raise EstimatorError(f"dtype {dtype} needs a batched backend: {reason}")
    if backend not in ("auto", "filterpy"):
        raise EstimatorError(f"backend {backend!r} cannot run this estimator: {reason}; use 'auto' or 'filterpy'")
    return None


def why_not(estimator: Any) -> str | None:
    """Why an estimator has no batched path; None if it has: the engine's for a bank, or its own `run_batch`."""
    if hasattr(estimator, "run_batch"):
        return None
    if not isinstance(estimator, Bank):
        return f"{type(estimator).__name__} is no bank of Kalman filters"
    try:
        form_of(estimator)
        parameters_of(estimator)
    except EstimatorError as error:
        return str(error)
    return None


def run_batched(bank: Bank, measurements: Measurements, backend: str, dtype: str) -> TrackHistory:
    """`ssrtrack.filters.run.run` for a bank, on one of the batched backends or "auto"."""
    from ssrtrack.kernels.kalman_tables import moments, table

    start = perf_counter()
    form = form_of(bank)
    columns, layout = packed_measurements(measurements, form.observation == "polar")
    several = len(bank.motions) > 1
    outputs = ("predicted", "filtered", *(("modes",) if several else ()), "used")
    found, _ = scan(
        form,
        parameters_of(bank),
        columns.astype(dtype),
        layout,
        outputs,
        backend=chosen(backend, layout.plots),
        final_state=False,
    )
    steps = measurements.time_s.shape[1]
    predicted, filtered = (moments(found[name], layout, steps) for name in ("predicted", "filtered"))
    modes = table(found["modes"], layout, steps) if several else None
    used = table(found["used"], layout, steps)[..., 0] == 1.0
    return TrackHistory(*predicted, *filtered, used, modes, perf_counter() - start)


def smooth_batched(
    bank: Bank, measurements: Measurements, lag: int | None, backend: str, dtype: str
) -> tuple[Array, Array]:
    """`ssrtrack.filters.smoother.smooth` for a bank, on one of the batched backends or "auto"."""
    from ssrtrack.kernels.kalman_tables import moments

    form = form_of(bank)
    several = len(bank.motions) > 1
    if several and backend == "triton":
        raise EstimatorError("backend 'triton' smooths single models only; use 'auto', 'numba' or 'torch' for an IMM")
    columns, layout = packed_measurements(measurements, form.observation == "polar")
    backend = "numba" if several and backend == "auto" else chosen(backend, layout.plots)
    rows = smooth(form, parameters_of(bank), columns.astype(dtype), layout, backend=backend, lag=lag)
    return moments(rows, layout, measurements.time_s.shape[1])


def chosen(backend: str, plots: int) -> str:
    """The backend behind "auto"; checks that triton has a device.

    Raises:
        EstimatorError: triton without a GPU or its interpreter.
    """
    if backend == "auto":
        return "triton" if plots >= GPU_FROM_PLOTS and has_gpu() else "numba"
    if backend == "triton" and not (has_gpu() or _interpreting()):
        raise EstimatorError(
            "backend 'triton' needs a CUDA device and there is none; use 'auto' or 'numba' (or, for tests alone, set "
            "TRITON_INTERPRET=1)"
        )
    return backend


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
