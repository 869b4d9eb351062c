"""What a scan with given gains is given, what it refuses, and how its work is cut into pieces.

Letters as in `koss_form`: B sequences of T steps, D channels with N states each.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch

from ssrtrack.kernels.koss_form import OPERATORS

Tensor = torch.Tensor
SELECTIVE = "selective"  # Mamba's h = e^{ΔA} h + Δ b x, beside the operators of KOSS
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Programs of one warp that fill a multiprocessor at 255 registers a thread.
WARPS_A_PROCESSOR = 8
SHORTEST_CHUNK = 128  # steps: below, linking the chunks costs what they save
MOST_CHUNKS = 256
MOST_STATES = 16
LED = ("discrete", "kalman", "bucy")  # operators that read the lead τ


def state_dtype(x: Tensor) -> torch.dtype:
    """The state's precision: float64 where x is, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class ScanInputs(NamedTuple):
    """Tensors of a scan; shapes as in `koss_form.LoopInputs`. One of gain K (B, T, D) and write b (B, T, N) is None."""

    x: Tensor
    delta: Tensor
    gain: Tensor | None
    write: Tensor | None
    read: Tensor
    rate: Tensor
    start: Tensor
    slope: Tensor | None = None
    lead: Tensor | None = None
    offsets: Tensor | None = None


@dataclass(frozen=True)
class Pieces:
    """B sequences in `count` chunks each of `chunk` steps, the last one shorter; states kept every `every` steps.

    `packed` sequences lie one after another in `steps` steps, in one piece each.
    """

    sequences: int
    steps: int
    chunk: int
    count: int
    every: int
    packed: bool = False

    @property
    def kept_rows(self) -> int:
        """Rows of kept states; those of a packed sequence b begin at row offsets[b] // every + b."""
        if self.packed:
            return self.steps // self.every + self.sequences
        return self.sequences * math.ceil(self.steps / self.every)


def chunks_for(programs: int, steps: int, processors: int) -> int:
    """Chunks of time a sequence is cut into, from the programs there are without, T and the card's multiprocessors.

    A chunk is read twice (its effect on a state, then its outputs from the right start), about 1.7 times the work. So
    nothing is cut unless that leaves three chunks a sequence or more, and no chunk is shorter than SHORTEST_CHUNK.
    """
    room = WARPS_A_PROCESSOR * processors // max(programs, 1)
    chunks = min(room, steps // SHORTEST_CHUNK, MOST_CHUNKS)
    return chunks if chunks >= 3 else 1


def kept_every(states: int) -> int:
    """Steps between the states kept for the gradient, which so cost 4 bytes at most for each step and channel."""
    return 16 if states > 8 else 8


def pieces_for(sequences: int, steps: int, chunks: int, every: int, *, packed: bool = False) -> Pieces:
    """At most `chunks` equal chunks, as long as a multiple of `every`: kept states then stand at their starts."""
    chunk = math.ceil(math.ceil(steps / chunks) / every) * every
    return Pieces(sequences, steps, chunk, math.ceil(steps / chunk), every, packed)


def checked(inputs: ScanInputs, operator: str) -> None:
    """Refuse what no path can run.

    Raises:
        ValueError: what came, what was expected, what to do.
    """
    if operator not in (*OPERATORS, SELECTIVE):
        raise ValueError(f"operator {operator!r} is not one of {', '.join(OPERATORS)}")
    x, rate, offsets = inputs.x, inputs.rate, inputs.offsets
    if x.dim() != 3 or rate.dim() != 2:
        raise ValueError(f"x {tuple(x.shape)} and rate {tuple(rate.shape)} must be (B, T, D), time second, and (N, D)")
    (batch, steps, channels), states = x.shape, rate.shape[0]
    _check_offsets(offsets, batch, steps)
    sequences = batch if offsets is None else offsets.numel() - 1
    wanted = {
        "delta": (batch, steps, channels), "gain": (batch, steps, channels), "slope": (batch, steps, channels),
        "write": (batch, steps, states), "read": (batch, steps, states), "rate": (states, channels),
        "start": (sequences, states, channels), "lead": (channels,),
    }  # fmt: skip
    for name, shape in wanted.items():
        value = getattr(inputs, name)
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {shape} beside x {tuple(x.shape)}")
    for name, value in zip(inputs._fields, inputs, strict=True):
        if value is None:
            continue
        if value.device != x.device:
            raise ValueError(f"{name} is on {value.device}, x on {x.device}; move all to one device")
        if name != "offsets" and value.dtype not in FLOATS:
            raise ValueError(f"{name} is {value.dtype}, expected a floating-point tensor")
    if operator == "exact" and inputs.slope is None:
        raise ValueError("the operator exact looks back at x_{t−1}: give x_t − x_{t−1} as slope")
    if inputs.lead is not None and (inputs.slope is None or operator not in LED):
        raise ValueError(f"lead weighs a slope in {', '.join(LED)}; give a slope and one of these, or lead = None")


def _check_offsets(offsets: Tensor | None, batch: int, steps: int) -> None:
    """Kernels trust the offsets with the memory they write, so the values are read, also from a device."""
    if offsets is None:
        return
    if batch != 1:
        raise ValueError(f"with offsets the sequences are packed into one row (1, ΣT, D), but x has {batch} rows")
    if offsets.dim() != 1 or offsets.dtype not in (torch.int32, torch.int64) or offsets.numel() < 2:
        raise ValueError(f"offsets are {offsets.dtype} {tuple(offsets.shape)}, expected int32 (B + 1,)")
    if offsets.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    at = offsets.tolist()
    if at[0] != 0 or at[-1] != steps or any(a > b for a, b in pairwise(at)):
        raise ValueError(f"offsets {at[:4]} … {at[-1]} must rise from 0 to the number of steps, {steps}")


def readied(inputs: ScanInputs, operator: str) -> ScanInputs:
    """Rate, start and lead in the state's precision and contiguous; all others with their last axis side by side."""
    if inputs.slope is not None and (operator == SELECTIVE or (inputs.lead is None and operator in LED)):
        inputs = inputs._replace(slope=None)  # nothing weighs it
    state, ready = state_dtype(inputs.x), {}
    for name, value in inputs._asdict().items():
        if value is not None and name in ("rate", "start", "lead"):
            value = value.to(state).contiguous()
        ready[name] = value if value is None or value.stride(-1) == 1 else value.contiguous()
    return ScanInputs(**ready)


def triton_refusal(inputs: ScanInputs) -> str | None:
    """Why the Triton kernels cannot run this, or None where they can."""
    if inputs.x.dtype == torch.float64:
        return "x is float64"
    if inputs.rate.shape[0] > MOST_STATES:
        return f"{inputs.rate.shape[0]} states are more than {MOST_STATES}"
    return None
