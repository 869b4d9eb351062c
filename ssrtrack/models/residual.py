"""A recurrent network that corrects a base filter: x = x_b + W u, P = W L Lᵀ Wᵀ in the frame W of the base's estimate.

Its blocks are KOSS's, Gated KalmaNet's or one of their peers', by name (`ssrtrack.models.residual_blocks`).

The network reads each plot once, in order, with the true time since the plot before; a miss leaves it alone, so that a
missed plot and a longer gap are the same thing. Its heads start at zero: u = 0, L = I, the base filter itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ssrtrack.kernels.kalman_algebra import Matrix, Vector, times_vector
from ssrtrack.models.features import feature_count, offset_count, told_of
from ssrtrack.models.koss import KossBlock
from ssrtrack.models.residual_bare import bare_base
from ssrtrack.models.residual_blocks import blocks_of, stepped
from ssrtrack.models.residual_config import ResidualConfig
from ssrtrack.models.residual_frames import Frame, corrected, frame_of, where_known, whitening_of_move
from ssrtrack.models.residual_inputs import Base, Flown
from ssrtrack.models.residual_rows import Rows, rows_of

Tensor = torch.Tensor
SHIFT_LIMIT = 10.0  # of each component of u, in the base's standard deviations
SCALE_LIMIT = 3.0  # of log L_ii: a standard deviation is changed by at most e³
SHEAR_LIMIT = 3.0  # of L_ij
RAW = 14  # numbers of a correction before their limits: u (4), diagonal of L (4), below it by rows (6)


@dataclass(frozen=True, eq=False)
class Correction:
    """What the network says of some estimates (...), in the frame of the base's.

    shift u (..., 4); log_diagonal (..., 4) of the lower triangular L; below (..., 6) its other entries, row by row.
    """

    frame: Frame
    shift: Tensor
    log_diagonal: Tensor
    below: Tensor

    def factor(self) -> Matrix:
        """L as rows of components."""
        return factor_of(self.log_diagonal.exp().unbind(-1), self.below.unbind(-1))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Corrected mean (..., 4) and covariance (..., 4, 4) of x, y, vx, vy, float64."""
        return corrected(self.frame, list(self.shift.double().unbind(-1)), self.factor())

    def where(self, condition: Tensor, other: "Correction") -> "Correction":
        """This where the condition (...) holds, else the other's numbers in this frame."""
        mine, its = (self.shift, self.log_diagonal, self.below), (other.shift, other.log_diagonal, other.below)
        picked = (torch.where(condition[..., None], a, b) for a, b in zip(mine, its, strict=True))
        return Correction(self.frame, *picked)


@dataclass(frozen=True, eq=False)
class Outputs:
    """Corrections of all estimates, filtered and predicted, time first (T, N); the properties have flights first.

    In column 0 and in the padding `predicted` holds numbers without meaning; so does `filtered` in the padding.
    """

    filtered: Correction
    predicted: Correction

    @property
    def mean(self) -> Tensor:
        """Filtered x, y, vx, vy (N, T, 4), float64; so are the other three."""
        return self.filtered.moments()[0].transpose(0, 1)

    @property
    def covariance(self) -> Tensor:
        """Filtered covariance (N, T, 4, 4)."""
        return self.filtered.moments()[1].transpose(0, 1)

    @property
    def predicted_mean(self) -> Tensor:
        """Predicted x, y, vx, vy (N, T, 4)."""
        return self.predicted.moments()[0].transpose(0, 1)

    @property
    def predicted_covariance(self) -> Tensor:
        """Predicted covariance (N, T, 4, 4)."""
        return self.predicted.moments()[1].transpose(0, 1)


class ResidualKoss(nn.Module):
    """Features → linear → blocks → two heads: the filtered state, and the prediction of any later time.

    Raises:
        CheckpointError, EstimatorError: the config names a block or an option that is none, or out of range.
    """

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.inward = nn.Linear(feature_count(config.modes, config.history), width)
        self.blocks = blocks_of(config)
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.filter_head = _zero(nn.Linear(width, RAW + 4 * offset_count(config.history)))
        self.ahead_inward = nn.Linear(width + ASIDE, config.hidden)
        self.ahead_head = _zero(nn.Linear(config.hidden, RAW))

    def forward(self, base: Base, flown: Flown, whole: bool | None = None) -> Outputs:
        """Corrections of the base's estimates of whole flights; `whole` as in `rows_of`."""
        if not self.config.residual:
            base = bare_base(flown, self.config.modes)
        rows = rows_of(base, flown, self.config.history, self.config.nominal_gap_s, whole)
        told = told_of(rows.newest, self.config.nominal_gap_s)
        frame = told.frame
        y, _ = self.sequence(told.features, rows.newest.gap_s.float(), None)
        raw = self.read_out(y, told.offsets)
        predicted = self._before_plots(base, flown, rows, frame, y, raw)
        if rows.whole:
            return Outputs(correction(frame, raw), predicted)
        # The k-th plot's correction goes back to its column; a miss keeps the prediction.
        own = (rows.last + 1).clamp(max=raw.shape[0] - 1)
        here = frame_of(where_known(base.filtered, torch.isfinite(flown.time_s.T)))
        filtered = correction(here, _gathered(raw, own)).where(rows.seen, predicted)
        return Outputs(filtered, predicted)

    def read_out(self, y: Tensor, offsets: Tensor) -> Tensor:
        """Numbers (..., 14) of the filtered correction: u = u₀ + M ρ, a gain M on the offsets ρ as a Kalman filter has.

        The gain lets a correction be proportional to what was seen, which a normalised network output cannot be.
        """
        raw, gain = self.filter_head(y).float().split((RAW, 4 * offsets.shape[-1]), -1)
        moved = (gain.reshape(*gain.shape[:-1], 4, -1) * offsets[..., None, :]).sum(-1)
        return torch.cat([raw[..., :4] + moved, raw[..., 4:]], -1)

    def sequence(self, told: Tensor, gap_s: Tensor, state: list[Any] | None) -> tuple[Tensor, list[Any]]:
        """The network's output (K, N, D) for features (K, N, F) at gaps (K, N), and what its blocks remember."""
        x, after = self.inward(told).float(), []
        gap = gap_s / self.config.nominal_gap_s if self.config.timed else None
        for k, block in enumerate(self.blocks):
            x, end = stepped(block, x, gap, None if state is None else state[k])
            after.append(end)
        return self.norm(x), after

    def ahead(self, y: Tensor, raw: Tensor, before: Frame, after: Frame, dt_s: Tensor) -> Correction:
        """Correction of the base's prediction dt_s later, from the network's output y (..., D) and raw (..., 14) there.

        The filtered correction is carried along by straight flight and what is learned is added in proportion to
        1 − exp(−dt/τ): at dt = 0 the prediction is the filtered estimate.
        """
        move = whitening_of_move(before, after, dt_s)
        carry = torch.stack([torch.stack(row, -1) for row in move], -2).float()
        shift = (carry @ limited(raw[..., :4], SHIFT_LIMIT)[..., None])[..., 0]
        gap = dt_s / self.config.nominal_gap_s
        aside = torch.stack([v.float() for v in aside_of(before, after, gap)], -1)
        told = torch.cat([y.float(), aside, torch.asinh(shift)], -1)
        later = self.ahead_numbers(told)
        share = share_of(gap).float()[..., None]
        whole = correction(after, raw + share * (later - raw))
        return replace(whole, shift=shift + share * limited(later[..., :4], SHIFT_LIMIT))

    def ahead_numbers(self, told: Tensor) -> Tensor:
        """Numbers (..., 14) that are learned of a prediction, from y, `aside_of` and the squashed carried shift."""
        later: Tensor = self.ahead_head(functional.silu(self.ahead_inward(told))).float()
        return later

    def project_(self) -> None:
        """Keep the gains' weights of KOSS within their spectral cap; call after every step of the optimiser."""
        for block in self.blocks:
            if isinstance(block, KossBlock):
                block.cap()

    def _before_plots(self, base: Base, flown: Flown, rows: Rows, frame: Frame, y: Tensor, raw: Tensor) -> Correction:
        """Corrections of the predictions to every column."""
        alive = torch.isfinite(flown.time_s.T) & (rows.last >= 0)
        last = rows.last.clamp(min=0)
        time = torch.where(alive, flown.time_s.T.double(), 0.0)
        dt = torch.where(alive, time - rows.time_s.gather(0, last), 0.0)
        # Where nothing is missing the last plot is the row above, and no gradient has to be gathered.
        behind = [torch.cat([v[:1], v[:-1]]) if rows.whole else _gathered(v, last) for v in (y, raw)]
        after = frame_of(where_known(base.predicted, alive))
        return self.ahead(behind[0], behind[1], _picked(frame, last), after, dt)


ASIDE = 9  # numbers that the head of the prediction sees beside y: gap, growth of the frame (4), carried shift (4)


def correction(frame: Frame, raw: Tensor) -> Correction:
    """Numbers (..., 14) as a correction, within limits: L stays invertible whatever the network says."""
    shift = limited(raw[..., :4], SHIFT_LIMIT)
    log_diagonal = limited(raw[..., 4:8], SCALE_LIMIT)
    return Correction(frame, shift, log_diagonal, limited(raw[..., 8:], SHEAR_LIMIT))


def limited(x: Tensor, limit: float) -> Tensor:
    """x, bent to stay within ± limit."""
    return limit * torch.tanh(x / limit)


def limits_of(raw: Sequence[Any]) -> list[Any]:
    """The 14 numbers of a correction, scalars, within their limits."""
    limits = [SHIFT_LIMIT] * 4 + [SCALE_LIMIT] * 4 + [SHEAR_LIMIT] * 6
    return [limit * (v / limit).tanh() for v, limit in zip(raw, limits, strict=True)]


def factor_of(diagonal: Sequence[Any], below: Sequence[Any]) -> Matrix:
    """L as rows of components, from its diagonal and the entries below it, row by row."""
    return [
        [below[i * (i - 1) // 2 + j] if j < i else diagonal[i] if i == j else 0.0 for j in range(4)] for i in range(4)
    ]


def aside_of(before: Frame, after: Frame, gap: Any) -> Vector:
    """Of what the head of the prediction sees beside y: the gap in nominal ones, and how far the frame has grown."""
    return [(gap + 0.1).log(), *((after.factor[i][i] / before.factor[i][i]).log() for i in range(4))]


def share_of(gap: Any) -> Any:
    """1 − exp(−dt/τ): how much of what is learned of a prediction is added after so many nominal gaps."""
    return -(-gap).expm1()


def carried_shift(before: Frame, after: Frame, dt_s: Any, raw: Sequence[Any]) -> Vector:
    """u of a filtered correction, as scalars, carried along by straight flight into another frame."""
    return times_vector(whitening_of_move(before, after, dt_s), limits_of(raw)[:4])


def _gathered(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (K, N, D) at index (T, N)."""
    return rows.gather(0, index[..., None].expand(*index.shape, rows.shape[-1]))


def _picked(frame: Frame, index: Tensor) -> Frame:
    """The frames of plots index (T, N) of frames (K, N)."""

    def pick(v: Tensor) -> Tensor:
        return v.gather(0, index)

    factor = [[pick(v) if isinstance(v, torch.Tensor) else v for v in row] for row in frame.factor]
    return Frame([pick(v) for v in frame.mean], pick(frame.east), pick(frame.north), factor)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
