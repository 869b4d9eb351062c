"""A KOSS layer: the projections that steer the closed loop, and the loop (arXiv 2512.16723)."""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from ssrtrack.errors import EstimatorError
from ssrtrack.kernels.koss_closed_loop import koss_closed_loop
from ssrtrack.kernels.koss_form import CLOSED, LoopForm, LoopInputs
from ssrtrack.models.koss_causal import TAPS as SLOPE_TAPS
from ssrtrack.models.koss_causal import Past, Seen, change_of, nothing_seen, past_of, slope_of
from ssrtrack.models.koss_derivative import SpectralDifferentiation
from ssrtrack.models.koss_gain import InnovationGain
from ssrtrack.models.koss_published import PublishedKoss
from ssrtrack.models.koss_stream import LayerState, run_segments, step_inside
from ssrtrack.models.koss_taps import sequence_of_rows

Tensor = torch.Tensor
STEP_RANGE = (1e-3, 0.1)  # Δ at the start, log-uniform: memories of 1/Δ steps
GAIN_RANGE = (-4.0, 0.0)  # its logit at the start: K from 0.02 to 0.5, a spread of time constants
LEAD = 0.1  # τ at the start
LEAST_GAP = 1e-3  # of the nominal one, where the logarithm of a gap is taken
STALE_FROM = 5  # steps a segment from which an open-loop innovation is too old to be used unrefined
DERIVATIVES = ("none", "difference", "causal", "spectral")


class KossLayer(nn.Module):
    """The closed loop and the projections that steer it: step length Δ, read-out c and the gain's logit z, from x.

    D channels in heads whose loops share nothing but c; N states a channel, A = −exp(A_log). Δ is proportional to the
    true time since the row before. A row that is missing is pure prediction: K = 0 and h = e^{ΔA} h. For K in (0, 1)
    (`bucy`: K > 0) and c as below every operator has |a| ≤ 1, whatever it is given; κ = K c:

    discrete  c in (0, 1)    h = (1 − κ) e^{ΔA} h + K (x + τ ẋ), stable for |1 − κ| ≤ e^{Δ|A|}: the discrete Kalman
                             filter's recursion for one state, the posterior fed back. N states are N such filters,
                             each of which takes x for its own c_n h_n: at rest c·h comes to as much as N x.
                             An adaptation: in the published form, taken exactly, the state does not remember its
                             input while the gain rests; in this one it does.
    neumann   c in (−1, 1)   the paper's A_K = (A − KCA)(I + KC), B_K = −(A − KCA) K, + K ẋ, elementwise: stable for
                             |κ| ≤ 1. ẋ is its main way to write.
    kalman    ‖c‖ = 1        h = h⁻ + K c (x + τ ẋ − c·h⁻): rank one, a contraction for 0 ≤ K ≤ 2
    exact     c in (0, 1)    h = e^{ΔA} (h − K x_last) + K x: A_K not truncated, elementwise A itself, free of
                             derivatives, always stable. While the gain rests it passes K x and remembers nothing of
                             x; what it remembers is how the gain moved, to 0 and back at a missing row too.
    bucy      c in (0, 1)    e^{Δ(A − κ)}, the Kalman–Bucy filter's posterior: stable for κ ≥ A

    Args:
        width: D. states: N. head: channels C of a head. rank: of the projection to Δ.
        operator: one of the five.
        segment: steps S that share one open-loop prediction; 1 is the exact loop.
        passes: refinements J of a segment's innovations. None: 0 for short segments, 1 from 5 steps on, for an
            innovation that old, used as it is, is worse than none.
        derivative: what makes ẋ. "none"; "difference", x − x_last over the true gap; "causal", a parabola through the
            last five samples; "spectral", `SpectralDifferentiation`, which looks ahead: not for filtering. None: the
            difference for `neumann`, none for the others. τ is learned from 0.1 on; `neumann` has no τ and takes ẋ
            times the time since the last sample, which is x − x_last where ẋ is the difference.
        cutoff: of the spectral derivative, cycles a nominal sample; "learned": from 0.25 on.
        input_gain: whether z has a linear part in x.
        innovate: False: the gain sees x in place of the innovation (an ablation).
        see_prediction: whether φ, the gain's network, sees the prediction ŷ⁻ = c·h⁻ beside s = e²/(1 + e²): what the
            state carries, and not only how far off it was (an extension of the paper's). K stays in its range, so |a|
            and the state are bounded as without. φ is not: s is at most 1, ŷ⁻ as large as the state, so a prediction
            far off can hold a gate shut, and φ's slope in ŷ⁻ does not die out as that in s does.
        published: the authors' scheme with its defects (`PublishedKoss`); of the options it takes states and rank.
        backend: as `koss_closed_loop` has it.

    Raises:
        EstimatorError: a width that its heads do not divide, an option that is unknown or does not go with another.
    """

    def __init__(
        self, width: int, states: int = 4, head: int = 64, rank: int = 4, *, operator: str = "discrete",
        segment: int = 1, passes: int | None = None, derivative: str | None = None, cutoff: float | str = 0.25,
        input_gain: bool = True, innovate: bool = True, see_prediction: bool = False, published: bool = False,
        backend: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.width, self.states, self.rank, self.backend = width, states, rank, backend
        self.form = _form(operator, segment, passes, innovate)
        self.derivative = _derivative(operator, derivative)
        self.published: PublishedKoss | None = None
        channels = min(head, width)
        if min(width, states, head, rank) < 1 or width % channels:
            raise EstimatorError(
                f"width {width} is not a multiple of the head's {channels} channels, or states {states} or rank {rank} "
                "is below 1"
            )
        self.heads = width // channels
        self.unit = _unit(cutoff) if self.derivative == "spectral" else None
        if see_prediction and not innovate:
            raise EstimatorError("with innovate=False the gain has no prediction to see; leave see_prediction out")
        if published:
            other = segment != 1 or passes or derivative or see_prediction or not innovate
            if other or operator not in ("discrete", "neumann"):
                raise EstimatorError("published=True is one fixed scheme; leave operator, segment and the others out")
            self.published = PublishedKoss(width, states, rank)
            return
        self.project = nn.Linear(width, rank + states, bias=False)
        # `step` is the name that checkpoints know; as an attribute it is the method.
        self._modules["step"] = nn.Linear(rank, width)
        low, high = (torch.tensor(v).log() for v in STEP_RANGE)
        start = torch.exp(low + (high - low) * torch.rand(width))
        with torch.no_grad():
            self.step_length.bias.copy_(torch.log(torch.expm1(start)))
        self.log_rate = nn.Parameter(torch.arange(1, states + 1.0).log()[:, None].repeat(1, width))
        self.read_bias = nn.Parameter(torch.zeros(states))
        self.gain_bias = nn.Parameter(torch.empty(width).uniform_(*GAIN_RANGE))
        self.gain_input = nn.Linear(width, width, bias=False) if input_gain else None
        self.gain_gap = nn.Parameter(torch.zeros(width))
        self.skip = nn.Parameter(torch.ones(width))
        self.gain = InnovationGain(self.heads, channels, see_prediction=see_prediction)
        led = self.derivative != "none" and operator in ("discrete", "kalman", "bucy")
        self.lead: nn.Parameter | None = nn.Parameter(torch.full((width,), LEAD)) if led else None

    @property
    def step_length(self) -> nn.Linear:
        """The linear layer that Δ is softplus of."""
        made = self._modules["step"]
        assert isinstance(made, nn.Linear)
        return made

    def cap(self) -> None:
        """Keep the gain's weights within their spectral cap; call after every step of training."""
        if self.published is None:
            self.gain.cap()

    def start(self, batch: int) -> LayerState:
        """What is remembered of `batch` sequences before their first row: nothing."""
        like: Tensor = next(self.parameters())
        like = like if like.dtype == torch.float64 else like.new_zeros((), dtype=torch.float32)
        scan = like.new_zeros(batch, self.states, self.width)
        depth = self._depth()
        return LayerState(scan, nothing_seen(scan, batch, depth) if depth else None)

    def step(self, x: Tensor, gap: Tensor | None, valid: Tensor | None, state: LayerState) -> tuple[Tensor, LayerState]:
        """One row online: y (B, D) and the state after it, for x (B, D), gap (B,) and valid (B,), as `forward`."""
        y, after = self(x[None], None if gap is None else gap[None], None if valid is None else valid[None], state)
        return y[0], after

    def forward(
        self, x: Tensor, gap: Tensor | None = None, valid: Tensor | None = None, state: LayerState | None = None, *,
        lengths: Tensor | None = None, offsets: Tensor | None = None,
    ) -> tuple[Tensor, LayerState]:  # fmt: skip
        """y (T, B, D), float32 or x's float64, and the state after the last row.

        A sequence cut anywhere and taken up with the state gives what one call gives, for every S and J.

        Args:
            x: input (T, B, D).
            gap: time since the row before, in units of the nominal step (T, B); None: 1.
            valid: where False, x is not there: the state is predicted only, and y is the prediction (T, B).
            state: of a call before, to go on from; None: `start`.
            lengths: rows of each sequence (B,), 0 to T, where those past them are padding: they leave the state alone
                and y there is 0. The next call begins a new segment.
            offsets: sequences of unequal length one after another, b from offsets[b] to offsets[b + 1] (B + 1,), in x
                (ΣT, 1, D), with gap and valid (ΣT, 1); the state is (B, …). The next call begins a new segment.

        Raises:
            EstimatorError: shapes that do not fit, a state that cannot be gone on from, or what the layer cannot do.
        """
        batch = self.checked(x, gap, valid, state, lengths, offsets)
        if self.published is not None:
            if any(v is not None for v in (gap, valid, state, lengths, offsets)):
                raise EstimatorError(
                    "the published scheme knows whole, evenly spaced sequences only: no gap, valid, state, lengths, "
                    "offsets"
                )
            return self.published(x), self.start(batch)
        gap, valid, inside = _rows_inside(x, gap, valid, lengths)
        if valid is not None:
            x = torch.where(valid[..., None], x, 0.0)
        state = self.start(batch) if state is None else state
        inputs, seen = self.loop_inputs(x, gap, valid, state, offsets)
        with torch.autocast(x.device.type, enabled=False):
            if lengths is None and offsets is None:
                y, after = run_segments(inputs, self.form, state, self._loop)
                scan, after = after.scan, replace(after, seen=seen)
            else:
                y, scan = self._loop(inputs, self.form)
                after = LayerState(scan, seen)
            out = y.transpose(0, 1) + self.skip * inputs.x.transpose(0, 1)
        return (out if inside is None else torch.where(inside[..., None], out, 0.0)), after

    def loop_inputs(
        self, x: Tensor, gap: Tensor | None = None, valid: Tensor | None = None, state: LayerState | None = None,
        offsets: Tensor | None = None,
    ) -> tuple[LoopInputs, Seen | None]:  # fmt: skip
        """All that the closed loop is given (batch first, as `LoopInputs` has it), and the samples to look back at."""
        state = self.start(x.shape[1]) if state is None else state
        full = x if x.dtype == torch.float64 else x.float()
        time = full.new_ones(x.shape[:2]) if gap is None else gap.to(full.dtype)
        low, read = self.project(x).split((self.rank, self.states), -1)
        delta = functional.softplus(self.step_length(low).to(full.dtype)) * time[..., None]
        bias: Tensor = self.gain_bias + self.gain_gap * time.clamp(min=LEAST_GAP).log()[..., None]
        if self.gain_input is not None:
            bias = self.gain_input(x).to(full.dtype) + bias
        if valid is not None:
            bias = torch.where(valid[..., None], bias, CLOSED)
        slope, seen = self._slope(full, gap, valid, state, offsets)
        return LoopInputs(
            x=_as_multiplied(full).transpose(0, 1),
            delta=delta.transpose(0, 1),
            read=self._read(read.to(full.dtype) + self.read_bias).transpose(0, 1),
            bias=bias.transpose(0, 1),
            rate=-torch.exp(self.log_rate),
            w1=self.gain.w1,
            b1=self.gain.b1,
            w2=self.gain.w2,
            start=state.scan,
            lead=self.lead,
            offsets=offsets,
            slope=None if slope is None else slope.transpose(0, 1),
        ), seen

    def _loop(self, inputs: LoopInputs, form: LoopForm) -> tuple[Tensor, Tensor]:
        x = inputs.x
        if self.backend is None and x.shape[1] == 1 and x.device.type == "cpu" and inputs.offsets is None:
            # Online, one row at a time: a quarter of the time would go to the choice of a backend and its copies.
            y, after = step_inside(inputs, replace(form, segment=1, passes=0), LayerState(inputs.start))
            return y, after.scan
        return koss_closed_loop(inputs, form, backend=self.backend)

    def _read(self, c: Tensor) -> Tensor:
        """c (T, B, N) in the range in which the operator is stable."""
        if self.form.operator == "neumann":
            return torch.tanh(c)
        return functional.normalize(c, dim=-1) if self.form.operator == "kalman" else torch.sigmoid(c)

    def _depth(self) -> int:
        """How many samples before its own a row looks back at, for ẋ or for the time since the last."""
        if self.published is not None:
            return 0
        if self.derivative in SLOPE_TAPS:
            return SLOPE_TAPS[self.derivative] - 1
        changing = self.form.operator == "exact" or (self.form.operator == "neumann" and self.derivative == "spectral")
        return int(changing)

    def _slope(
        self, x: Tensor, gap: Tensor | None, valid: Tensor | None, state: LayerState, offsets: Tensor | None
    ) -> tuple[Tensor | None, Seen | None]:
        """What the operator takes as ẋ (T, B, D), and the samples that the next call looks back at."""
        past = self._past(x, gap, valid, state, offsets) if self._depth() else None
        after = None if past is None or offsets is not None else past.after
        operator = self.form.operator
        if self.unit is not None:
            time = None if gap is None and valid is None else _clock(x, gap)
            rate = self.unit(x, time, valid)
        elif past is not None and operator in ("exact", "neumann") and self.derivative != "causal":
            return change_of(past), after
        elif past is not None:
            rate = slope_of(past, SLOPE_TAPS[self.derivative])
        else:
            return None, None
        if operator != "neumann" or past is None:
            return rate, after
        # Over a step the state takes up ẋ times the time in which x moved; its first sample rises from nothing.
        moved = rate * past.ago[1].to(x.dtype)[..., None]
        return torch.where(past.known[1][..., None], moved, change_of(past)), after

    def _past(
        self, x: Tensor, gap: Tensor | None, valid: Tensor | None, state: LayerState, offsets: Tensor | None
    ) -> Past:
        time = x.new_ones(x.shape[:2]) if gap is None else gap
        if offsets is None:
            if state.seen is None:
                raise EstimatorError(
                    "the state remembers no samples to look back at; go on from a call without offsets"
                )
            return past_of(x, time, valid, state.seen)
        begins = offsets.long()[sequence_of_rows(offsets, x.shape[0])][:, None]
        return past_of(x, time, valid, nothing_seen(x, 1, self._depth()), begins)

    def checked(
        self, x: Tensor, gap: Tensor | None, valid: Tensor | None, state: LayerState | None, lengths: Tensor | None,
        offsets: Tensor | None,
    ) -> int:  # fmt: skip
        """How many sequences a call has; an EstimatorError says what of its arguments (`forward`'s) does not fit."""
        if x.ndim != 3 or x.shape[2] != self.width or not x.is_floating_point():
            raise EstimatorError(
                f"x is {tuple(x.shape)} {x.dtype}, expected floating (T, B, {self.width}): time, sequences, channels"
            )
        for name, v in (("gap", gap), ("valid", valid)):
            if v is not None and v.shape != x.shape[:2]:
                raise EstimatorError(f"{name} is {tuple(v.shape)}, expected {tuple(x.shape[:2])}, as x's first two")
        if valid is not None and valid.dtype != torch.bool:
            raise EstimatorError(f"valid is {valid.dtype}, expected torch.bool: True where x is there")
        if offsets is not None and (lengths is not None or x.shape[1] != 1 or offsets.ndim != 1 or len(offsets) < 2):
            raise EstimatorError("packed sequences are x (ΣT, 1, D) with offsets (B + 1,) and without lengths")
        batch = x.shape[1] if offsets is None else offsets.shape[0] - 1
        if lengths is not None and lengths.shape != (batch,):
            raise EstimatorError(f"lengths is {tuple(lengths.shape)}, expected ({batch},), one for each sequence")
        _check_values(lengths, offsets, x.shape[0])
        if self.unit is not None and (state is not None or offsets is not None):
            raise EstimatorError(
                "the spectral derivative sees a sequence whole: it cannot go on from a state, nor be packed; for "
                "filtering take derivative='difference' or 'causal'"
            )
        if state is not None:
            self._check_state(state, batch, unequal=lengths is not None or offsets is not None)
            if offsets is not None and self._depth():
                raise EstimatorError("packed sequences of a layer that looks back at samples begin anew; use lengths")
        return batch

    def _check_state(self, state: LayerState, batch: int, *, unequal: bool) -> None:
        if state.scan.shape != (batch, self.states, self.width):
            raise EstimatorError(
                f"the state is {tuple(state.scan.shape)}, expected {(batch, self.states, self.width)} (B, N, D)"
            )
        if state.position and unequal:
            raise EstimatorError(
                "a state inside a segment goes on without lengths or offsets; finish the segment first"
            )
        S, J = self.form.segment, min(self.form.passes, self.form.segment - 1)
        kept = 0 if state.passes is None else len(state.passes)
        if state.position >= S or (state.position and kept != J):
            raise EstimatorError(
                f"the state is {state.position} steps into a segment, with {kept} passes: another layer's, for this "
                f"one has segments of {S} with {J}"
            )
        if state.seen is not None and len(state.seen.value) != self._depth():
            raise EstimatorError(
                f"the state remembers {len(state.seen.value)} samples: another layer's, for this one looks back at "
                f"{self._depth()}"
            )


def _check_values(lengths: Tensor | None, offsets: Tensor | None, rows: int) -> None:
    """On a CPU alone: a GPU would have to be waited for. There the loop itself looks at offsets."""
    for name, v in (("lengths", lengths), ("offsets", offsets)):
        if v is None:
            continue
        if v.dtype not in (torch.int32, torch.int64):
            raise EstimatorError(f"{name} is {v.dtype}, expected torch.int32 or torch.int64")
        at = v.tolist() if v.device.type == "cpu" else []
        if name == "lengths" and any(not 0 <= length <= rows for length in at):
            raise EstimatorError(f"lengths are {min(at)} to {max(at)}, expected 0 to {rows}, the rows of x")
        if name == "offsets" and at and (at[0] != 0 or at[-1] != rows or at != sorted(at)):
            raise EstimatorError(f"offsets {at[:4]} … {at[-1]} must rise from 0 to {rows}, the rows of x")


def _form(operator: str, segment: int, passes: int | None, innovate: bool) -> LoopForm:
    if passes is None:
        passes = int(segment >= STALE_FROM)
    try:
        return LoopForm(operator, segment, passes, innovate)
    except ValueError as error:
        raise EstimatorError(str(error)) from error


def _derivative(operator: str, derivative: str | None) -> str:
    chosen = derivative or ("difference" if operator == "neumann" else "none")
    if chosen not in DERIVATIVES:
        raise EstimatorError(f"derivative {derivative!r} is not one of {', '.join(DERIVATIVES)}")
    if operator == "exact" and chosen != "none":
        raise EstimatorError("the operator 'exact' is free of derivatives; leave derivative out")
    return chosen


def _unit(cutoff: float | str) -> SpectralDifferentiation:
    if isinstance(cutoff, str) and cutoff != "learned":
        raise EstimatorError(f"cutoff {cutoff!r} is neither a number nor 'learned'")
    return SpectralDifferentiation(learnable=True) if isinstance(cutoff, str) else SpectralDifferentiation(cutoff)


def _clock(x: Tensor, gap: Tensor | None) -> Tensor:
    """Times of the rows (T, B), nominal steps."""
    return (
        torch.ones(x.shape[:2], dtype=torch.float64, device=x.device).cumsum(0)
        if gap is None
        else gap.double().cumsum(0)
    )


def _rows_inside(
    x: Tensor, gap: Tensor | None, valid: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """gap and valid with the padding made steps that change nothing, and which rows are none (T, B)."""
    if lengths is None:
        return gap, valid, None
    inside = torch.arange(x.shape[0], device=x.device)[:, None] < lengths
    gap = torch.where(inside, 1.0 if gap is None else gap, 0.0)
    return gap, inside if valid is None else valid & inside, inside


def _as_multiplied(x: Tensor) -> Tensor:
    """x in the precision that autocast asks of matrix products on a GPU: the kernels multiply φ's operands in x's own.

    State, Δ and the gain's logit stay in float32 either way. On a CPU autocast gains nothing here and is left alone.
    """
    device = x.device.type
    rough = device == "cuda" and x.dtype == torch.float32 and torch.is_autocast_enabled(device)
    return x.to(torch.bfloat16) if rough and torch.get_autocast_dtype(device) == torch.bfloat16 else x
