"""What a residual model sees of N flights: their plots on one device, and the base filter's estimates of them."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.batched import batched_backend, chosen
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.packing import form_of, parameters_of
from ssrtrack.kernels.kalman_form import Form
from ssrtrack.kernels.kalman_layout import Layout

Array = NDArray[Any]
Tensor = torch.Tensor
OUTPUTS = ("predicted", "filtered", "modes", "used")
# Where the ten entries of a covariance's upper triangle, row by row, stand in the full matrix.
UPPER = ((0, 1, 2, 3), (1, 4, 5, 6), (2, 5, 7, 8), (3, 6, 8, 9))


@dataclass(frozen=True, eq=False)
class Flown:
    """Plots of N flights at T columns each, all on one device; the tensors' counterpart of `Measurements`.

    time_s (N, T) float64; position_m (N, T, 2) x east, y north of the converted plot in the tracking frame, float64,
    with covariance_m2 (N, T, 2, 2); sigma_range_m, sigma_azimuth_rad, range_m, azimuth_rad (N, T) as the radar
    measured; valid (N, T) bool. A flight starts with a plot in column 0. Where `valid` is False there is no plot: a
    miss if time_s is finite, else padding after the flight's end; what the other columns hold there is not read.
    truth (N, T, 4), if known, is the true x, y (m), vx, vy (m/s) at each plot's time; NaN where it is not known.
    """

    time_s: Tensor
    position_m: Tensor
    covariance_m2: Tensor
    sigma_range_m: Tensor
    sigma_azimuth_rad: Tensor
    range_m: Tensor
    azimuth_rad: Tensor
    valid: Tensor
    truth: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.time_s.device

    def select(self, key: Any) -> Self:
        """The same with every tensor indexed by `key` (rows, a slice, or a tuple of both)."""
        return self._mapped(lambda tensor: tensor[key])

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return self._mapped(lambda tensor: tensor.to(device))

    def _mapped(self, change: Any) -> Self:
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(column) for name, column in columns.items() if column is not None})


@dataclass(frozen=True, eq=False)
class Base:
    """A base filter's estimates of N flights, by component and time first: what elementwise formulas want.

    predicted and filtered (14, T, N): x, y (m), vx, vy (m/s), then the upper triangle of their covariance row by row,
    before and after the plot of each column (predicted is NaN in column 0, both are in the padding); modes (M, T, N):
    probability of each motion model, M = 0 for a single one; used (T, N) bool: the plot entered the base's estimate.
    """

    predicted: Tensor
    filtered: Tensor
    modes: Tensor
    used: Tensor

    @property
    def mean(self) -> Tensor:
        """Filtered x, y, vx, vy (N, T, 4)."""
        return mean_of(self.filtered)

    @property
    def covariance(self) -> Tensor:
        """Filtered covariance (N, T, 4, 4)."""
        return covariance_of(self.filtered)

    @property
    def predicted_mean(self) -> Tensor:
        """Predicted x, y, vx, vy (N, T, 4)."""
        return mean_of(self.predicted)

    @property
    def predicted_covariance(self) -> Tensor:
        """Predicted covariance (N, T, 4, 4)."""
        return covariance_of(self.predicted)

    @property
    def mode_probability(self) -> Tensor | None:
        """Mode probabilities (N, T, M), None for a single model."""
        return self.modes.permute(2, 1, 0) if self.modes.shape[0] else None

    def flights(self, part: slice) -> "Base":
        """Those of some flights, as views."""
        return Base(*(getattr(self, f.name)[..., part] for f in fields(self)))


def mean_of(rows: Tensor) -> Tensor:
    """The means (N, T, 4) of estimates (14, T, N)."""
    return rows[:4].permute(2, 1, 0)


def covariance_of(rows: Tensor) -> Tensor:
    """The covariances (N, T, 4, 4) of estimates (14, T, N)."""
    return rows[4:][torch.tensor(UPPER, device=rows.device)].permute(3, 2, 0, 1)


def flown_from(z: Measurements, truth: Array | None = None, device: torch.device | str = "cpu") -> Flown:
    """Measurements (N, T), and the true states (N, T, 4) where they are known, as tensors on a device."""
    names = [f.name for f in fields(Flown) if f.name != "truth"]
    columns = {name: _tensor(getattr(z, name), device) for name in names}
    return Flown(**columns, truth=None if truth is None else _tensor(truth, device))


def _tensor(values: Array, device: torch.device | str) -> Tensor:
    # A broadcast column shares memory between its cells: a tensor must not.
    owned = values if values.flags.c_contiguous and values.flags.writeable else values.copy("C")
    return torch.from_numpy(owned).to(device)


def base_history(bank: Bank, flown: Flown, backend: str = "auto") -> Base:
    """The base filter over all flights, without gradient, in float64.

    Args:
        bank: a Kalman filter or IMM that observes converted positions.
        flown: plots, on any device; the results are on the same one.
        backend: "numba" on a CPU, "triton" or "torch" anywhere; "auto" is numba on a CPU and triton on a GPU.

    Raises:
        EstimatorError: a base that needs more than converted positions or that the batched engine does not know; no
            plot in a flight's first column, padding before its end, times that run backwards, or values that are not
            finite.
    """
    form = base_form(bank)
    if backend == "auto":
        backend = "triton" if flown.device.type == "cuda" else "numba"
    batched_backend(bank, backend, "float64")
    chosen(backend, 0)  # raises for triton without a GPU
    layout = _layout(flown)
    with torch.no_grad():
        found = _scanned(form, parameters_of(bank), _columns(flown, layout), layout, backend)
        predicted, filtered, modes, used = (_unpacked(found[name], layout, flown.time_s.shape) for name in OUTPUTS)
    return Base(predicted, filtered, modes, used[0] == 1.0)


def base_form(bank: Any) -> Form:
    """What of the base filter decides the code.

    Raises:
        EstimatorError: see `base_history`.
    """
    if not isinstance(bank, Bank):
        raise EstimatorError(
            f"{type(bank).__name__} cannot be the base of a learned tracker; use imm, kf or another bank"
        )
    if bank.observation != "position":
        raise EstimatorError(
            f"the base of a learned tracker must observe converted positions, this one observes {bank.observation}; "
            "use imm, imm2, imm3, kf, kf-ca or singer"
        )
    return form_of(bank)


def _layout(flown: Flown) -> Layout:
    alive = torch.isfinite(flown.time_s)
    lengths = alive.sum(1)
    steps = torch.arange(alive.shape[1], device=alive.device)
    if bool((alive != (steps < lengths[:, None])).any()):
        raise EstimatorError("a flight has padding (NaN time) before its last plot; a miss needs its time, valid=False")
    if bool(((lengths > 0) & ~flown.valid[:, 0]).any()):
        raise EstimatorError("a flight has no plot in column 0; start every flight at its first plot")
    return Layout.of(lengths.cpu().numpy())


def _columns(flown: Flown, layout: Layout) -> Tensor:
    """Packed columns dt, x, y, xx, xy, yy (6, P); zeros for a miss."""
    step = torch.diff(flown.time_s, dim=1, prepend=flown.time_s[:, :1])
    cov = flown.covariance_m2
    seen = [flown.position_m[..., 0], flown.position_m[..., 1], cov[..., 0, 0], cov[..., 0, 1], cov[..., 1, 1]]
    rows = [step, *(torch.where(flown.valid, value, 0.0) for value in seen)]
    packed = _packed(torch.stack([row.T.to(torch.float64) for row in rows]), layout)
    _check(packed, _packed(flown.valid.T[None], layout)[0])
    return packed


def _check(columns: Tensor, valid: Tensor) -> None:
    """Refuse what would be taken for a miss (no variance) or make a whole flight NaN; one look at the device."""
    step, _, _, xx, xy, yy = columns
    unknown = ~torch.isfinite(columns).all(0)
    backwards = step < 0.0
    flat = valid & ~((xx > 0.0) & (yy > 0.0) & (xx * yy >= xy * xy))
    if not bool((unknown | backwards | flat).any()):
        return
    if bool(unknown.any()):
        raise EstimatorError(
            f"{int(unknown.sum())} plots have no finite time, position or covariance; mark them valid=False"
        )
    if bool(backwards.any()):
        raise EstimatorError(
            f"time step of {float(step.min())} s; plots must be in time order with finite times (sort them first)"
        )
    raise EstimatorError(
        f"{int(flat.sum())} plots have no position covariance; it must be positive definite: give every plot its "
        "standard deviations"
    )


def _packed(rows: Tensor, layout: Layout) -> Tensor:
    """Rows (D, T, N) in packed order (D, P)."""
    if layout.plots == rows.shape[1] * rows.shape[2]:
        return rows.reshape(rows.shape[0], -1)
    flight, column = (torch.from_numpy(index).to(rows.device) for index in layout.cells())
    return rows[:, column, flight]


def _unpacked(rows: Tensor, layout: Layout, shape: torch.Size) -> Tensor:
    """Packed rows (D, P) as (D, T, N) for `shape` (N, T); NaN in the padding."""
    flights, steps = shape
    if layout.plots == flights * steps:
        return rows.reshape(rows.shape[0], steps, flights)
    out = rows.new_full((rows.shape[0], steps, flights), float("nan"))
    flight, column = (torch.from_numpy(index).to(rows.device) for index in layout.cells())
    out[:, column, flight] = rows
    return out


def _scanned(form: Form, numbers: Array, columns: Tensor, layout: Layout, backend: str) -> dict[str, Tensor]:
    if backend == "numba":
        from ssrtrack.kernels import kalman_numba

        rows, _ = kalman_numba.scan(form, numbers, columns.cpu().numpy(), layout, OUTPUTS, None)
        return {name: torch.from_numpy(row).to(columns.device) for name, row in rows.items()}
    scan_on: Any
    if backend == "triton":
        from ssrtrack.kernels.kalman_triton import scan as scan_on
    else:
        from ssrtrack.kernels.kalman_torch import scan as scan_on
    vector = torch.from_numpy(numbers).to(columns.device)
    found: dict[str, Tensor] = scan_on(form, vector, columns, layout, OUTPUTS, None, False)[0]
    return found
