"""A trained residual model as an estimator like any other: step by step in a tracker, or whole flights at once.

The network computes in float32, the base filter and all sums of coordinates in float64. Step by step and whole flights
agree to the rounding of float32 in the network's numbers: some 1e-5 of the base's standard deviations.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.history import TrackHistory, flight_lengths
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.protocol import put, take
from ssrtrack.models.features import offset_count
from ssrtrack.models.koss_packed import Packed
from ssrtrack.models.learned_base import BaseState, BaseSteps
from ssrtrack.models.learned_memory import rows_for
from ssrtrack.models.learned_rows import Programs, gained, programs, table
from ssrtrack.models.residual import ASIDE, RAW, ResidualKoss
from ssrtrack.models.residual_bare import carried, two_plots
from ssrtrack.models.residual_blocks import memory_size, packed, segment_of, unpacked
from ssrtrack.models.residual_inputs import base_form, base_history, flown_from

Array = NDArray[Any]
Tensor = torch.Tensor
CELLS = 1 << 17  # plots whose features and states are in memory at once


@dataclass(frozen=True, eq=False)
class LearnedState:
    """N flights: the base filter's state (`ssrtrack.models.learned_base.BaseState`), then what the network remembers.

    memory (N, M) of its blocks (`ssrtrack.models.residual_blocks.packed`); output (N, width) and raw (N, 14) at the
    last plot, which base_rows (N, 14) are the base's estimate of, since_s (N,) ago; past (N, history, 5) and age_s
    (N, history) the last plots, newest first, as x, y, xx, xy, yy; count (N,) plots so far.
    """

    own: Array
    now: Array
    modes: Array
    gated: Array
    used: Array
    memory: Array
    output: Array
    raw: Array
    base_rows: Array
    since_s: Array
    past: Array
    age_s: Array
    count: Array

    def with_base(self, state: BaseState) -> "LearnedState":
        """The same with another state of the base filter."""
        return replace(self, **vars(state))


def octets_per_track(state: Any) -> int:
    """Octets that a state of N flights holds for each of them, the base filter's included; of any estimator."""
    columns = [getattr(state, f.name) for f in fields(state)]
    return sum(column.nbytes // max(1, len(column)) for column in columns)


@dataclass(frozen=True, eq=False)
class LearnedEstimator:
    """A base filter and the network that corrects it. sources: what it was trained on, as its checkpoint lists it."""

    bank: Bank
    model: ResidualKoss
    sources: tuple[dict[str, Any], ...] = ()
    _base: BaseSteps = field(init=False, repr=False)
    _packed: Packed | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        modes = len(self.bank.motions) if len(self.bank.motions) > 1 else 0
        base_form(self.bank)
        if self.model.config.modes != modes:
            raise EstimatorError(
                f"the network expects a base with {self.model.config.modes} motion models, this one has {modes}; "
                "use the base that it was trained with"
            )
        self.model.eval()
        object.__setattr__(self, "_base", BaseSteps.of(self.bank))

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.model.inward.weight.device

    def init(self, first: Measurements) -> LearnedState:
        """State of N flights from one plot each: the network reads its first plot."""
        count, config, plot = len(first), self.model.config, _plots(first)
        blank = LearnedState(
            **vars(self._base.begun(plot)),
            memory=np.zeros((count, memory_size(self.model.blocks)), np.float32),
            output=np.zeros((count, config.width), np.float32),
            raw=np.zeros((count, RAW), np.float32),
            base_rows=np.zeros((count, 14)),
            since_s=np.full(count, config.nominal_gap_s),
            past=np.zeros((count, self._kept, 5)),
            age_s=np.zeros((count, self._kept)),
            count=np.zeros(count, np.int64),
        )
        return self._read(blank, blank.base_rows, plot, first)

    def predict(self, state: LearnedState, dt_s: Array) -> LearnedState:
        """State dt_s (N,) seconds later; the network only notes the time."""
        ahead = state.with_base(self._base.moved(state.own, dt_s))
        dt = np.broadcast_to(np.asarray(dt_s, np.float64), state.since_s.shape)
        return replace(ahead, since_s=state.since_s + dt, age_s=state.age_s + dt[:, None])

    def update(self, state: LearnedState, z: Measurements, valid: Array) -> LearnedState:
        """State given one plot per flight; a plot that the base turned down is read by the network all the same."""
        rows = np.flatnonzero(valid)
        if rows.size == 0:
            return state
        every = rows.size == len(state.count)
        before, plots = (state, z) if every else (take(state, rows), z.select(rows))
        predicted, plot = self._now(before), _plots(plots)
        after = self._read(before.with_base(self._base.seen(before.own, plot)), predicted, plot, plots)
        return after if every else put(state, rows, after)

    def estimate(self, state: LearnedState) -> tuple[Array, Array]:
        """Mean (N, 4) and covariance (N, 4, 4): the corrected base, filtered at a plot, predicted after it."""
        now, raw, since_s = self._now(state), table(state.raw), table(state.since_s)
        found = np.empty((len(now), 20))
        if not since_s.any():
            self._programs.here([now, raw], found)
            return found[:, :4], found[:, 4:].reshape(-1, 4, 4)
        aside = np.empty((len(now), ASIDE + 4))
        self._programs.ahead([state.base_rows, now, raw, since_s], aside)
        head = self._ahead_numbers(state.output, aside[:, :ASIDE])
        self._programs.later([now, raw, since_s, table(head), table(aside[:, ASIDE:])], found)
        return found[:, :4], found[:, 4:].reshape(-1, 4, 4)

    def mode_probability(self, state: LearnedState) -> Array | None:
        """The base's probability (N, M) of each motion model, None for a single one."""
        return state.modes if self.model.config.modes else None

    def run_batch(self, measurements: Measurements, backend: str = "auto", dtype: str = "float64") -> TrackHistory:
        """`ssrtrack.filters.run.run` of whole flights: the base by `backend`, then the network over all plots.

        dtype must be float64, which is the base's; the network has its own.

        Raises:
            EstimatorError: as `run`.
        """
        if dtype != "float64":
            raise EstimatorError(
                f"dtype is {dtype!r}; a learned tracker's base runs in float64, its network in float32"
            )
        start, (flights, steps) = perf_counter(), measurements.time_s.shape
        means, covariances = (np.full((2, flights, steps, 4, *extra), np.nan) for extra in ((), (4,)))
        used = np.zeros((flights, steps), bool)
        modes = np.full((flights, steps, self.model.config.modes), np.nan) if self.model.config.modes else None
        for rows, length in _parts(flight_lengths(measurements)):
            flown = flown_from(measurements.select((rows, slice(0, length))), device=self.device)
            base = base_history(self.bank, flown, backend)
            with torch.no_grad():
                outputs = self.model(base, flown)
            alive = torch.isfinite(flown.time_s)
            for k, (said, known) in enumerate(((outputs.predicted, _behind(alive)), (outputs.filtered, alive))):
                mean, covariance = said.moments()
                means[k, rows, :length] = torch.where(known[..., None], mean.transpose(0, 1), np.nan).cpu()
                covariances[k, rows, :length] = torch.where(
                    known[..., None, None], covariance.transpose(0, 1), np.nan
                ).cpu()
            used[rows, :length] = base.used.T.cpu()
            if modes is not None:
                modes[rows, :length] = base.modes.permute(2, 1, 0).cpu()
        seconds = perf_counter() - start
        return TrackHistory(means[0], covariances[0], means[1], covariances[1], used, modes, seconds)

    def _read(self, state: LearnedState, predicted: Array, plot: Array, plots: Measurements) -> LearnedState:
        """The state, in which the base has taken a plot (N, 5), once the network has read it as well.

        predicted: the base's estimate (N, 14) before it.
        """
        azimuth, config = plots.azimuth_rad, self.model.config
        filtered = state.now if config.residual else self._bare(state, plot)
        told = [
            table(predicted), table(filtered), table(state.base_rows[:, 2:4]), plot,
            table(state.past[:, : config.history]), table(state.age_s[:, : config.history]),
            state.modes if config.residual else np.zeros_like(state.modes),
            table(
                state.since_s, state.used | (not config.residual), plots.range_m, np.sin(azimuth), np.cos(azimuth),
                state.count,
            ),
        ]  # fmt: skip
        numbers = np.empty((len(plot), self.model.inward.in_features + offset_count(config.history)), np.float32)
        self._programs.told(told, numbers)
        output, raw, memory = self._network(numbers, state)
        return replace(
            state,
            memory=memory,
            output=output,
            raw=raw,
            base_rows=filtered,
            since_s=np.zeros_like(state.since_s),
            past=np.concatenate([plot[:, None], state.past], 1)[:, : state.past.shape[1]],
            age_s=np.concatenate([np.zeros_like(state.age_s[:, :1]), state.age_s], 1)[:, : state.age_s.shape[1]],
            count=state.count + 1,
        )

    def _network(self, numbers: Array, state: LearnedState) -> tuple[Array, Array, Array]:
        """Output (N, D), raw (N, 14) and memory (N, M) once the network has read features and offsets (N, F + O)."""
        F, packed_ = self.model.inward.in_features, self._packed_now()
        if packed_.network is not None:
            output, said, memory = packed_.step(numbers, state.since_s, state.memory)
            return output, gained(said, numbers[:, F:]), memory
        with torch.inference_mode():
            given = self._tensor(numbers)
            y, after = self._stepped(given[:, :F], self._tensor(state.since_s).float(), state)
            raw = self.model.read_out(y, given[:, F:])
            return y.cpu().numpy(), raw.cpu().numpy(), after.cpu().numpy()

    def _ahead_numbers(self, output: Array, aside: Array) -> Array:
        """What is learned of a prediction, (N, 14)."""
        packed_ = self._packed_now()
        if packed_.head is not None:
            return packed_.ahead_numbers(output, aside)
        with torch.inference_mode():
            told = torch.cat([self._tensor(output), self._tensor(aside).float()], -1)
            head: Array = self.model.ahead_numbers(told).cpu().numpy()
            return head

    def _packed_now(self) -> Packed:
        """The weights for the compiled step, read again where they have been changed."""
        if self._packed is None or not self._packed.fits():
            object.__setattr__(self, "_packed", Packed.of(self.model))
        assert self._packed is not None
        return self._packed

    def _stepped(self, features: Tensor, gap_s: Tensor, state: LearnedState) -> tuple[Tensor, Tensor]:
        """The network's output (N, D) for a row of features (N, F), and what its blocks remember then (N, M)."""
        memory, blocks = self._tensor(state.memory), self.model.blocks
        segment = max(segment_of(block) for block in blocks)
        if segment == 1:
            into = torch.from_numpy(rows_for(*memory.shape)) if memory.device.type == "cpu" else None
            y, after = self.model.sequence(features[None], gap_s[None], unpacked(blocks, memory, 0, into))
            return y[0], packed(blocks, after, into)
        # Blocks are stepped with tracks that stand at one place of a segment.
        place = state.count % segment
        output, rest = features.new_empty(len(features), self.model.config.width), torch.empty_like(memory)
        for at in np.unique(place):
            rows = torch.from_numpy(np.flatnonzero(place == at)).to(self.device)
            remembered = unpacked(blocks, memory[rows], int(at))
            y, after = self.model.sequence(features[rows][None], gap_s[rows][None], remembered)
            output[rows], rest[rows] = y[0], packed(blocks, after)
        return output, rest

    @property
    def _programs(self) -> Programs:
        config = self.model.config
        return programs(config.modes, config.history, config.nominal_gap_s)

    @property
    def _kept(self) -> int:
        """Past plots in the state: those shown to the network, and the one that an estimate without a base needs."""
        config = self.model.config
        return config.history if config.residual else max(1, config.history)

    def _now(self, state: LearnedState) -> Array:
        """What the network corrects now, (N, 14): the base's estimate, or what stands in for it."""
        if self.model.config.residual:
            return state.now
        return self._rows(carried(self._columns(state.base_rows), self._tensor(state.since_s)))

    def _bare(self, state: LearnedState, plot: Array) -> Array:
        """Estimates (N, 14) from the plots (N, 5) and the ones before them."""
        past, known = self._columns(state.past[:, 0]), self._tensor(state.count > 0)
        return self._rows(two_plots(self._columns(plot), past, self._tensor(state.since_s), known))

    def _rows(self, columns: Tensor) -> Array:
        rows: Array = columns.T.contiguous().cpu().numpy()
        return rows

    def _tensor(self, values: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def _columns(self, values: Array) -> Tensor:
        """Arrays (N, ...) by component, (..., N)."""
        return self._tensor(np.moveaxis(values, 0, -1))


def _plots(z: Measurements) -> Array:
    """Plots (N, 5): x, y, xx, xy, yy."""
    cov = z.covariance_m2
    return np.stack([*np.moveaxis(z.position_m, -1, 0), cov[:, 0, 0], cov[:, 0, 1], cov[:, 1, 1]], -1)


def _behind(alive: Tensor) -> Tensor:
    """Cells that have a prediction: all but each flight's first."""
    known = alive.clone()
    known[:, :1] = False
    return known


def _parts(lengths: Array) -> Iterator[tuple[Array, int]]:
    """Flights of like length together, longest first, and the longest one's plots: at most CELLS in a part."""
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    begin = 0
    while begin < order.size:
        longest = int(lengths[order[begin]])
        end = begin + max(1, CELLS // longest)
        yield order[begin:end], longest
        begin = end
