"""Gated KalmaNet on a GPU: what `gka` asks of a backend, put together from the Triton kernels.

Forward: `gka_states` walks through the chunks, `gka_solve` does the rest for all chunks at once. Backward: the states
again, the adjoint equations (`gka_solve_backward`), the walk back (`gka_states_backward`, or by `gka_shares_backward`),
and what keys, values and decays get (`gka_gradient`). Time goes in spans of chunks, one after another, so that the
states of a span's chunks take little beside inputs and gradients; the states between spans are kept for the backward.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from ssrtrack.kernels.gka_form import GkaForm, GkaGradients, GkaInputs, State, shortest_step
from ssrtrack.kernels.gka_gates import gates_kernel
from ssrtrack.kernels.gka_gradient import keys_kernel, values_kernel
from ssrtrack.kernels.gka_launch import ALIGNED, Launcher
from ssrtrack.kernels.gka_shares_backward import shares_kernel, sums_kernel
from ssrtrack.kernels.gka_solve import solve_kernel
from ssrtrack.kernels.gka_solve_backward import adjoint_kernel
from ssrtrack.kernels.gka_states import states_kernel
from ssrtrack.kernels.gka_states_backward import states_back_kernel

Tensor = torch.Tensor
CHUNK = 64  # steps; half as many for wide heads in float32
WIDEST = 128  # numbers of a key
# Columns of the narrowest tile on a card: 32 and 16 in float32 died of an illegal access on an H200 (Triton 3.6), while
# no index lies outside its tensor.
NARROWEST = 64
BLOCK = 128  # of the values' columns that a chunk-wise program has at a time
ADDED = 512  # numbers of a state that a program adds up from chunk to chunk
SHARE = 0.25  # of inputs, outputs, their gradients and x: what the states of a span's chunks may take, both ways
SHARE_ALONE = 0.5  # of inputs and outputs: the same of a forward pass that keeps nothing
ROUGH = 1.0 / 512.0  # ridge from which x, up to 1/ridge times as large as q, has room in float16
FREE = 1 << 24  # bytes of states that are not worth a second span


class Tiling(NamedTuple):
    """How the kernels are cut, for tuning: how much of a state to walk with, and each kernel's (warps, stages)."""

    columns: int = 64
    states: tuple[int, int] = (8, 4)
    solve: tuple[int, int] = (4, 1)
    adjoint: tuple[int, int] = (4, 1)
    columns_back: int = 32
    states_back: tuple[int, int] = (8, 3)
    columns_shares: int = 64
    shares: tuple[int, int] = (4, 1)
    keys: tuple[int, int] = (4, 1)
    values: tuple[int, int] = (4, 1)


# Where states are small the walk forward is shared by twice as many programs.
SMALL = Tiling(columns=32)
# What four warps' registers do not hold.
WIDE = Tiling(columns_back=64, values=(8, 1))
# float32 takes three products of twice as wide numbers for each.
SINGLE = Tiling(states=(8, 2), states_back=(8, 1), solve=(8, 1), adjoint=(8, 1), keys=(8, 1), values=(8, 1))


class Plan(NamedTuple):
    """What follows from the inputs' shapes.

    table: offsets, each sequence's first chunk and each chunk's sequence, where sequences have unequal lengths. span:
    the chunks of a sequence whose states are held at once on the way back. ahead: the same where nothing is kept; a
    forward pass that keeps x holds them all, less than its way back needs beside them. known: what the kernels know at
    compile time. dtype and fine: of the chunks' states, and of x.
    """

    sequences: int
    heads: int
    D: int
    V: int
    DP: int
    VP: int
    chunks: int
    span: int
    ahead: int
    dtype: torch.dtype
    fine: torch.dtype
    table: tuple[Tensor, Tensor, Tensor] | None
    known: dict[str, Any]

    @property
    def chunk_rows(self) -> int:
        """Chunks of all sequences."""
        return self.chunks * (self.sequences if self.table is None else 1)

    @property
    def tiling(self) -> Tiling:
        if self.fine != torch.float16:
            return SINGLE
        small = self.DP <= 64 and self.table is None
        return SMALL if small else WIDE if self.DP > 64 else Tiling()

    @property
    def by_shares(self) -> bool:
        """Whether the walk back adds shares up: of wider states they would be more than a cache holds."""
        return self.DP <= 64 and self.table is None and (self.fine == torch.float16 or _interpreted())

    def spans(self, span: int) -> Iterator[tuple[int, int]]:
        """First chunk and number of chunks."""
        return ((begin, min(span, self.chunks - begin)) for begin in range(0, self.chunks, span))


def supported(inputs: GkaInputs, form: GkaForm) -> bool:
    """Keys of up to 128 numbers, λ = a ‖H‖_F, no float64; heads of sequences fit a grid's second axis."""
    fits = inputs.q.shape[-1] <= WIDEST and inputs.sequences * inputs.q.shape[2] < 1 << 16
    return fits and form.adaptive and inputs.q.dtype != torch.float64


def forward(
    inputs: GkaInputs, form: GkaForm, keep: bool, *, tiling: Tiling | None = None, span: int | None = None
) -> tuple[Tensor, State, tuple[Tensor, ...]]:
    """o (B, T, H, V) in v's precision, the last state, and where `keep` what backward wants.

    That is x (B, T, H, D) and what it was divided by (B, T, H), ‖H‖_F (B, T, H), the gates, and the states H and U
    between spans. span: chunks, for tests and tuning.
    """
    plan, (q, k, v, log_decay) = plan_of(inputs, form, span), inputs[:4]
    tiling = plan.tiling if tiling is None else tiling
    launch = _launcher(plan, tiling, inputs)
    o = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    x = torch.empty(q.shape if keep else (0,), dtype=plan.fine, device=q.device)
    size, F = (torch.empty(q.shape[:3] if keep else (0,), dtype=torch.float32, device=q.device) for _ in range(2))
    alpha, mixes = (log_decay, False) if inputs.alpha is None else (inputs.alpha, True)
    log_z, indices = _gates(inputs, plan, launch), _indices(inputs, plan)
    span = plan.chunks if keep else plan.ahead
    state, before, last = _start(inputs), _buffers(plan, k, span), _ends(plan, k)
    tensors = (q, k, v, log_z, alpha, *before, o, x, size, F, *indices)
    sizes = (plan.heads, plan.D, plan.V, *_schedule(form), float(form.scale), *_strides(plan, q, k, v))
    known = _known(plan, mixes) | {"KEEP": keep}
    for begin, count in plan.spans(span):
        _walk(inputs, plan, tiling, launch, log_z, (begin, count), state, before, last)
        numbers = (q.shape[1], begin, count, *sizes)
        launch(solve_kernel, _grid(plan, count), tensors, numbers, known, tiling.solve, keep)
        state = last
    return o, last, (x, size, F, log_z, *_between(plan, before)) if keep else ()


def backward(
    inputs: GkaInputs, form: GkaForm, saved: tuple[Tensor, ...], go: Tensor, gH: Tensor | None, gU: Tensor | None,
    *, tiling: Tiling | None = None, span: int | None = None,
) -> GkaGradients:  # fmt: skip
    """Gradients in the order of `GkaInputs`, without offsets', from those of o and of the last H and U."""
    plan, (q, k, v, log_decay), (x, size, F, log_z, *between) = plan_of(inputs, form, span), inputs[:4], saved
    tiling = plan.tiling if tiling is None else tiling
    launch = _launcher(plan, tiling, inputs, go, gH, gU, *saved)
    gq, gk, gv = (torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in (q, k, v))
    # d is not needed any more where ∂L/∂k is written.
    adjoint = gk if gk.dtype == plan.dtype else torch.empty(k.shape, dtype=plan.dtype, device=k.device)
    g_decay, g_alpha, w, b, reach = (torch.empty_like(log_decay) for _ in range(5))
    alpha, mixes = (log_decay, False) if inputs.alpha is None else (inputs.alpha, True)
    before, (dH, dU) = _buffers(plan, k, plan.span), _buffers(plan, k, plan.span)
    H0, U0 = before
    drift = torch.empty(H0.shape[:2], dtype=torch.float32, device=k.device)
    last, ends, indices = _ends(plan, k), _ends(plan, k), _indices(inputs, plan)
    state, columns = _ends_gradient(gH, gU, last), _columns(plan, tiling.columns_back)
    wide = _columns(plan, tiling.columns_shares)
    shape = (plan.heads, plan.D, plan.V)
    scale, of_q, of_k, of_v, of_go = float(form.scale), *(_strides(plan, part) for part in (q, k, v, go))
    starts = [_start(inputs), *zip(*between, strict=True)]
    known = _known(plan, mixes) | {"BN": columns, "BE": min(ADDED, plan.DP * min(plan.DP, plan.VP))}
    for (begin, count), start in reversed(list(zip(plan.spans(plan.span), starts, strict=True))):
        sizes, grid = (q.shape[1], begin, count), _grid(plan, count)
        _walk(inputs, plan, tiling, launch, log_z, (begin, count), start, before, last)
        launch(
            adjoint_kernel, grid,
            (q, k, v, log_z, alpha, x, size, F, go, H0, U0, gq, adjoint, g_alpha, w, b, reach, drift, *indices),
            (*sizes, *shape, *_schedule(form), scale, *of_q, *of_k, *of_v, *of_go), known, tiling.adjoint,
        )  # fmt: skip
        if plan.by_shares:
            launch(
                shares_kernel, (count * ((plan.DP + plan.VP) // wide), grid[1]),
                (q, k, log_z, alpha, x, size, go, adjoint, drift, b, H0, dH, dU),
                (*sizes, *shape, scale, *of_q, *of_k, *of_go), known | {"BN": wide}, tiling.shares,
            )  # fmt: skip
            launch(
                sums_kernel, (plan.DP * (plan.DP + plan.VP) // known["BE"], grid[1]),
                (log_z, *(state or ends), dH, dU, *ends), (*sizes, int(state is not None), *shape), known, (4, 1),
            )  # fmt: skip
        else:
            launch(
                states_back_kernel, ((plan.DP + plan.VP) // columns, plan.sequences * plan.heads),
                (q, k, log_z, alpha, x, size, go, adjoint, drift, b, H0, *(state or ends), dH, dU, *ends, *indices[:2]),
                (*sizes, int(state is not None), *shape, scale, *of_q, *of_k, *of_go), known, tiling.states_back,
            )  # fmt: skip
        launch(
            keys_kernel, grid, (k, log_z, x, size, adjoint, w, b, reach, H0, dH, gk, g_decay, *indices),
            (*sizes, plan.heads, plan.D, *of_k), known, tiling.keys,
        )  # fmt: skip
        launch(
            values_kernel, grid, (q, k, v, log_z, alpha, x, size, go, U0, dU, gk, gv, g_decay, *indices),
            (*sizes, *shape, scale, *of_q, *of_k, *of_v, *of_go), known, tiling.values,
        )  # fmt: skip
        state = ends
    gH0, gU0 = (None, None) if state is None or inputs.H0 is None else state
    return gq, gk, gv, g_decay, g_alpha if mixes else None, gH0, gU0


def plan_of(inputs: GkaInputs, form: GkaForm, span: int | None = None) -> Plan:
    """Sequences of unequal length have their chunks counted on the device, and all of them in one span."""
    q, v, offsets = inputs.q, inputs.v, inputs.offsets
    T, heads, D, V = *q.shape[1:], v.shape[3]
    least = 16 if _interpreted() else NARROWEST
    DP, VP = (max(least, _power_from(size)) for size in (D, V))
    VP = VP if VP <= BLOCK else _over(V, BLOCK) * BLOCK
    # Triton's interpreter multiplies bfloat16 as if its bits were integers.
    rough = q.dtype == torch.bfloat16 and form.ridge >= ROUGH and not _interpreted()
    dtype, fine = (torch.bfloat16, torch.float16) if rough else (torch.float32, torch.float32)
    # Four float32 tiles of a state have no room in a multiprocessor beside chunks of that length.
    chunk = CHUNK if rough or DP <= 64 else CHUNK // 2
    chunks, table = _over(T, chunk), None
    if offsets is not None:
        table = _tabled(offsets, T, chunk)
        chunks = span = len(table[2])
    if span is not None:
        ahead = span
    else:
        states = DP * DP + DP * VP
        free = 2 * states * chunks * inputs.sequences * heads * dtype.itemsize <= FREE
        back = _over(2 * states, int(SHARE * chunk * (6 * D + 3 * V)))
        forth = _over(states, int(SHARE_ALONE * chunk * (2 * D + 2 * V)))
        span, ahead = (chunks if free else _over(chunks, spans) for spans in (back, forth))
    known = {
        "C": chunk,
        "DP": DP,
        "VP": VP,
        "DT": tl.bfloat16 if rough else tl.float32,
        "OT": tl.float16 if rough else tl.float32,
        "DOT": "tf32" if rough else "tf32x3",
        "VARLEN": offsets is not None,
        "EVEN": DP == D,
        "EVEN_V": VP == V,
    }
    return Plan(inputs.sequences, heads, D, V, DP, VP, chunks, span, ahead, dtype, fine, table, known)


def _interpreted() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return bool(triton.knobs.runtime.interpret)


def _tabled(offsets: Tensor, steps: int, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, each sequence's first chunk, and each chunk's sequence; surplus chunks lie beyond the last one's end."""
    ends = ((offsets[1:] - offsets[:-1] + chunk - 1) // chunk).cumsum(0)
    firsts = torch.nn.functional.pad(ends, (1, 0))
    places = torch.arange(steps // chunk + len(ends), device=offsets.device)
    owners = torch.searchsorted(ends, places, right=True).clamp(max=len(ends) - 1)
    return offsets, firsts.to(torch.int32), owners.to(torch.int32)


def _launcher(plan: Plan, tiling: Tiling, inputs: GkaInputs, *others: Tensor | None) -> Launcher:
    """Of a call; others: what a backward pass is given beside the inputs."""
    given = (*inputs, *others)
    strides = tuple(part.stride() for part in (*inputs[:3], *others[:1]) if part is not None)
    shape = (inputs.q.device, inputs.q.dtype, plan.heads, plan.D, plan.V, inputs.alpha is None, strides)
    return Launcher((*shape, plan.dtype, plan.fine, tiling, *plan.known.values()), given)


def _known(plan: Plan, mixes: bool) -> dict[str, Any]:
    """What a chunk-wise kernel knows at compile time."""
    return plan.known | {"BV": min(BLOCK, plan.VP), "ALPHA": mixes}


def _gates(inputs: GkaInputs, plan: Plan, launch: Launcher) -> Tensor:
    """log₂ z (chunks of all sequences, H, C)."""
    log_decay, C, grid = inputs.log_decay, plan.known["C"], (plan.chunks, plan.chunk_rows // plan.chunks)
    log_z = torch.empty((plan.chunk_rows, plan.heads, C), dtype=torch.float32, device=log_decay.device)
    known = {"C": C, "HEADS": min(16, _power_from(plan.heads)), "VARLEN": plan.known["VARLEN"]}
    tensors, sizes = (log_decay, log_z, *_indices(inputs, plan)), (inputs.q.shape[1], plan.heads)
    launch(gates_kernel, grid, tensors, sizes, known, (4, 1))
    return log_z


def _walk(
    inputs: GkaInputs, plan: Plan, tiling: Tiling, launch: Launcher, log_z: Tensor, part: tuple[int, int],
    start: State | None, before: State, last: State,
) -> None:  # fmt: skip
    """The states before each chunk of a span, and the one after it."""
    k, v, BN = inputs.k, inputs.v, _columns(plan, tiling.columns)
    kinds = tuple((part.dtype, part.data_ptr() % ALIGNED) for part in start or last)
    launch(
        states_kernel, ((plan.DP + plan.VP) // BN, plan.sequences * plan.heads),
        (k, v, log_z, *(start or last), *before, *last, *_indices(inputs, plan)[:2]),
        (k.shape[1], *part, int(start is not None), plan.heads, plan.D, plan.V, *_strides(plan, k, v)),
        plan.known | {"BN": BN}, tiling.states, kinds,
    )  # fmt: skip


def _schedule(form: GkaForm) -> tuple[int, float, float, float]:
    """Iterations; ŝ, a and ρ² of the equations divided by ‖H‖_F."""
    short, rho = shortest_step(form.ridge)
    return form.steps, short, float(form.ridge), rho * rho


def _start(inputs: GkaInputs) -> State | None:
    return None if inputs.H0 is None or inputs.U0 is None else (inputs.H0, inputs.U0)


def _ends_gradient(gH: Tensor | None, gU: Tensor | None, like: State) -> State | None:
    """Those of the last state, H's symmetrised; zeros for one that is missing, None where both are."""
    if gH is None and gU is None:
        return None
    gH = torch.zeros_like(like[0]) if gH is None else (0.5 * (gH + gH.mT)).contiguous()
    return gH, torch.zeros_like(like[1]) if gU is None else gU


def _columns(plan: Plan, columns: int) -> int:
    """Of a program that walks: those asked for, if H and U have so many."""
    return min(columns, plan.DP, plan.VP)


def _buffers(plan: Plan, like: Tensor, span: int) -> State:
    """Room for the states before each chunk of a span."""
    rows = span * (1 if plan.table is not None else plan.sequences)
    lead = (rows, plan.heads, plan.DP)
    return (
        torch.empty((*lead, plan.DP), dtype=plan.dtype, device=like.device),
        torch.empty((*lead, plan.VP), dtype=plan.dtype, device=like.device),
    )


def _between(plan: Plan, before: State) -> Iterator[Tensor]:
    """Of the states before all chunks those where the way back will begin a span: H and U (spans − 1, N, heads, …)."""
    for states, width in zip(before, (plan.D, plan.V), strict=True):
        rows = states.view(-1, plan.chunks, *states.shape[1:])
        chosen = rows[:, plan.span :: plan.span, :, : plan.D, :width].transpose(0, 1)
        # A copy even where they lie side by side: a view would keep all chunks' states in memory.
        yield chosen.clone(memory_format=torch.contiguous_format)


def _ends(plan: Plan, like: Tensor) -> State:
    """Room for (H, U) of each sequence."""
    lead = (plan.sequences, plan.heads, plan.D)
    return (
        torch.empty((*lead, plan.D), dtype=torch.float32, device=like.device),
        torch.empty((*lead, plan.V), dtype=torch.float32, device=like.device),
    )


def _grid(plan: Plan, count: int) -> tuple[int, int]:
    """Of a chunk-wise kernel."""
    return count, plan.heads if plan.table is not None else plan.sequences * plan.heads


def _indices(inputs: GkaInputs, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """offsets, firsts and owners; where there are none their places take what is not read."""
    return (inputs.log_decay,) * 3 if plan.table is None else plan.table


def _strides(plan: Plan, *tensors: Tensor) -> list[int]:
    """Over batch, time and heads, of each."""
    first = 0 if plan.table is None else 1
    return [stride for part in tensors for stride in (*(0,) * first, *part.stride()[first:3])]


# Triton's own take ten times as long, at every call.
def _over(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def _power_from(size: int) -> int:
    """The power of two from `size` up."""
    return 1 << (size - 1).bit_length()
