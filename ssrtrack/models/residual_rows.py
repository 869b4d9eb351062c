"""The plots of whole flights, each with what a residual model is told of it: misses left out, by component."""

from dataclasses import dataclass

import torch

from ssrtrack.models.features import Newest
from ssrtrack.models.residual_frames import constants, where_known
from ssrtrack.models.residual_inputs import Base, Flown

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """The k-th plots of N flights, (K, N), and where they stand among the T columns.

    newest: what is known of each; time_s (K, N) float64; column (K, N) of each plot; there (K, N): the flight has a
    k-th plot. last (T, N): which plot is the last one before each column, −1 for none; seen (T, N): a plot is here.
    whole: every column is a plot or padding, so the k-th plot is column k.
    """

    newest: Newest
    time_s: Tensor
    column: Tensor
    there: Tensor
    last: Tensor
    seen: Tensor
    whole: bool


def rows_of(base: Base, flown: Flown, history: int, nominal_gap_s: float, whole: bool | None = None) -> Rows:
    """All plots of all flights, float64; what is not there holds harmless numbers.

    whole: what `Rows.whole` is, where that is known and the device should not be asked.
    """
    seen = flown.valid.T
    count = seen.cumsum(0)
    column, whole = _columns(flown, seen, whole)
    there = torch.arange(column.shape[0], device=seen.device)[:, None] < count[-1:]

    def at(rows: Tensor) -> Tensor:
        return rows if whole else rows.gather(-2, column.expand(*rows.shape[:-2], *column.shape))

    time = torch.where(there, at(flown.time_s.T.double()), 0.0)
    gap = torch.diff(time, dim=0, prepend=time[:1] - nominal_gap_s)
    plot = torch.where(there, at(_plots(flown)), _harmless(time))
    filtered = where_known(at(base.filtered), there)
    started = there.clone()
    started[0] = False
    azimuth = at(flown.azimuth_rad.T.double())
    newest = Newest(
        predicted=where_known(at(base.predicted), started),
        filtered=filtered,
        before=_shifted(filtered[2:4], 1),
        gap_s=torch.where(there, gap, nominal_gap_s),
        plot=plot,
        past=torch.stack([_shifted(plot, j + 1) for j in range(history)]) if history else plot[:0, None],
        past_age_s=torch.stack([time - _shifted(time, j + 1) for j in range(history)]) if history else time[None][:0],
        modes=torch.where(there, at(base.modes), 0.0),
        used=torch.where(there, at(base.used), True),
        range_m=torch.where(there, at(flown.range_m.T.double()), 1.0),
        sin_azimuth=torch.where(there, azimuth.sin(), 0.0),
        cos_azimuth=torch.where(there, azimuth.cos(), 1.0),
        count=torch.arange(time.shape[0], device=time.device)[:, None].expand(time.shape),
    )
    return Rows(newest, time, column, there, count - 1 - seen.long(), seen, whole)


def _columns(flown: Flown, seen: Tensor, whole: bool | None) -> tuple[Tensor, bool]:
    """Column (K, N) of each flight's k-th plot; whether these are simply 0, 1, 2, …"""
    if whole is None:
        whole = bool((seen == torch.isfinite(flown.time_s.T)).all())
    if whole:
        return torch.arange(seen.shape[0], device=seen.device)[:, None].expand(seen.shape), True
    most = int(seen.sum(0).max())
    return torch.argsort((~seen).to(torch.uint8), dim=0, stable=True)[:most], False


def _plots(flown: Flown) -> Tensor:
    """x, y, xx, xy, yy (5, T, N)."""
    position, cov = flown.position_m, flown.covariance_m2
    rows = [position[..., 0], position[..., 1], cov[..., 0, 0], cov[..., 0, 1], cov[..., 1, 1]]
    return torch.stack([row.T.double() for row in rows])


def _harmless(like: Tensor) -> Tensor:
    """A plot at the origin with unit covariance, to stand where there is none."""
    return constants((0.0, 0.0, 1.0, 0.0, 1.0), like)[:, None, None]


def _shifted(rows: Tensor, by: int) -> Tensor:
    """Rows (..., K, N) with those `by` plots earlier; the first ones repeat."""
    kept = rows[..., : max(rows.shape[-2] - by, 0), :]
    first = rows[..., :1, :].expand(*rows.shape[:-2], min(by, rows.shape[-2]), rows.shape[-1])
    return torch.cat([first, kept], -2)
