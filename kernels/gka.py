"""Gated KalmaNet's operator (arXiv 2511.21016), public: a backend's choice, its gradient, and one step at a time.

The formulas and letters are those of `gka_form`, the specification is `gka_reference`.
"""

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any, Literal, overload

import torch
from torch.autograd.function import once_differentiable

from ssrtrack.kernels import gka_reference, gka_torch
from ssrtrack.kernels.gka_form import (
    EMPTY,
    LOWEST,
    GkaForm,
    GkaInputs,
    State,
    check_step,
    fitting_state,
    readied,
    readied_state,
    relaxations,
    shortest_step,
    state_dtype,
)

Tensor = torch.Tensor
BACKENDS = ("auto", "reference", "torch", "triton")
MANY = 128  # heads of sequences in one step from which a CPU's compiled step is worth its call


def gka(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    alpha: Tensor | None = None,
    *,
    ridge: float = 0.02,
    steps: int = 30,
    scale: float | None = None,
    initial_state: State | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, State | None]:
    """Recall by gated ridge regression over all keys and values so far, for every step of B sequences.

    For each step t and head, with γ = exp(log_decay) (arXiv 2511.21016, section 4):

        H_t = γ_t H_{t−1} + k_t k_tᵀ,  U_t = γ_t U_{t−1} + k_t v_tᵀ,  λ_t = ridge · ‖H_t‖_F
        x_t = (H_t + λ_t I)⁻¹ q_t by `steps` Chebyshev iterations
        o_t = scale · U_tᵀ (q_t + α_t (x_t − q_t))

    α = 1 is ridge regression alone, α = 0 gated linear attention. Where ‖H_t‖_F ≤ 1e-12 the memory is empty and x = 0.

    Args:
        q, k: queries and keys (B, T, H, D). v: values (B, T, H, V); V may differ from D. One precision for all three:
            bfloat16, float16, float32 or float64 (under autocast, where they differ, they are cast to autocast's). A
            gate β goes into k and v beforehand; keys and queries of norm 1 are what the paper has.
        log_decay: log γ ≤ 0 (B, T, H); below −100 is −100. alpha: α in [0, 1] (B, T, H), or None: 1.
        ridge: a > 0; the condition number is at most (1 + a)/a. steps: r ≥ 1; 30 leave 3e-4 of q unsolved, 10 leave
            9e-2 (`gka_form.unsolved`).
        scale: of the outputs; None: D^-0.5.
        initial_state: (H, U) before the first step, (N, H, D, D) symmetric positive semidefinite (what is not symmetric
            is averaged with its transpose) and (N, H, D, V), float32 or float64; None: zeros. N is B.
        output_final_state: whether (H, U) after the last step are handed back.
        cu_seqlens: (N + 1,) int32 or None: N sequences of unequal length, 0 too, lie one after another in tensors
            (1, ΣT, …), sequence n from cu_seqlens[n] to cu_seqlens[n + 1].
        backend: "reference" (exact solutions by loops in float64), "torch" (chunks, everywhere), "triton" (a CUDA
            device, or a CPU in Triton's interpreter), "auto": triton on a CUDA device where it has the form, or torch.

    Returns:
        o (B, T, H, V) in v's precision, and (H, U) in float32, float64 where q is, or None. Differentiable once with
        respect to every tensor; torch and triton solve the adjoint equations by as many iterations, so their gradient
        is the exact solution's, as near as their output is (`reference`: exactly).

    Raises:
        ValueError: a tensor's shape, precision or device does not fit the others; cu_seqlens do not part the steps;
            ridge, steps or scale out of range; a backend that is none, or has no kernel for this.
    """
    scale = q.shape[-1] ** -0.5 if scale is None and q.ndim and q.shape[-1] else scale
    form = GkaForm(ridge=ridge, steps=steps, scale=1.0 if scale is None else scale)
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    run: Any = _outside_graphs(_run)
    o, H, U = run(q, k, v, log_decay, alpha, initial_state, cu_seqlens, form, backend)
    return o, (H, U) if output_final_state else None


@overload
def gka_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, alpha: Tensor | None, state: State | None, *,
    ridge: float = ..., steps: int = ..., scale: float | None = ..., variance: Literal[False] = ...,
) -> tuple[Tensor, State]: ...  # fmt: skip


@overload
def gka_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, alpha: Tensor | None, state: State | None, *,
    ridge: float = ..., steps: int = ..., scale: float | None = ..., variance: Literal[True],
) -> tuple[Tensor, State, Tensor]: ...  # fmt: skip


def gka_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    alpha: Tensor | None,
    state: State | None,
    *,
    ridge: float = 0.02,
    steps: int = 30,
    scale: float | None = None,
    variance: bool = False,
) -> tuple[Tensor, State] | tuple[Tensor, State, Tensor]:
    """One step of `gka` for B sequences: what runs online, in time and memory that do not grow with the past.

    Args:
        q, k: (B, H, D). v: (B, H, V). log_decay, alpha: (B, H); alpha may be None: 1.
        state: (H, U) as `gka` or the step before gave it, (B, H, D, D) and (B, H, D, V), float32 or float64; None:
            zeros. It is not written to.
        ridge, steps, scale: as in `gka`.
        variance: whether qᵀ (H + λ I)⁻¹ q is handed back: how uncertain the recall is, in units of the values' noise
            variance, this being a Kalman filter of a constant that it forgets. Infinite where the memory is empty.

    Returns:
        o (B, H, V) in v's precision, the new state in float32, float64 where q is, and, `variance`, (B, H) in the
        state's precision. Differentiable as any torch code: the gradient is that of the iterations.

    Raises:
        ValueError: as `gka`.
    """
    check_step(q, k, v, log_decay, alpha)
    form = GkaForm(ridge=ridge, steps=steps, scale=q.shape[-1] ** -0.5 if scale is None else scale)
    dtype, kind = state_dtype(q), v.dtype
    if _for_cores(q, k, v, log_decay, alpha, *(state if isinstance(state, tuple | list) else ())):
        o, after, spread = _on_cores(q, k, v, log_decay, alpha, state, form)
        return (o.to(kind), after, spread) if variance else (o.to(kind), after)
    with torch.autocast(q.device.type, enabled=False):
        B, heads, D = q.shape
        if state is None:
            zeros = q.new_zeros(B, heads, D, D + v.shape[-1], dtype=dtype)
            H, U = zeros[..., :D], zeros[..., D:]
        else:
            H, U = readied_state(state, q, v, B)
        q, k, v = (part.to(dtype)[..., None] for part in (q, k, v))
        gamma = log_decay.to(dtype).clamp(min=LOWEST).exp()[..., None, None]
        H, U = gamma * H + k * k.mT, gamma * U + k * v.mT
        x, empty = _solved(H, q, form)
        mixed = x if alpha is None else q + alpha.to(dtype)[..., None, None] * (x - q)
        o = form.scale * (U.mT @ mixed).squeeze(-1)
        if not variance:
            return o.to(kind), (H, U)
        spread = torch.where(empty, torch.inf, (q * x).sum(-2, keepdim=True))
        return o.to(kind), (H, U), spread[..., 0, 0]


def _for_cores(*given: Tensor | None) -> bool:
    """Whether the compiled step can run: on a CPU, for many sequences, where nothing is differentiated or compiled."""
    if torch.compiler.is_compiling() or not all(isinstance(v, Tensor | None) for v in given):
        return False
    tensors = [v for v in given if v is not None]
    mapped: Any = torch._C._functorch.is_functorch_wrapped_tensor
    many = tensors[0].shape[:2].numel() >= MANY
    plain = many and all(v.device.type == "cpu" and type(v) is Tensor and not mapped(v) for v in tensors)
    return plain and not (torch.is_grad_enabled() and any(v.requires_grad for v in tensors))


def _on_cores(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, alpha: Tensor | None, state: State | None, form: GkaForm
) -> tuple[Tensor, State, Tensor]:
    """`gka_step` by `gka_numba`, which is loaded when first used."""
    from ssrtrack.kernels import gka_numba

    dtype, (B, heads, D), V = state_dtype(q), q.shape, v.shape[-1]
    if state is None:
        state = q.new_zeros(B, heads, D, D, dtype=dtype), q.new_zeros(B, heads, D, V, dtype=dtype)
    gamma = log_decay.to(dtype).clamp(min=LOWEST).exp()
    mix = torch.ones_like(gamma) if alpha is None else alpha.to(dtype)
    given = (q, k, v, gamma, mix, *fitting_state(state, q, v, B))
    rows: Any = [part.detach().to(dtype).flatten(0, 1).contiguous().numpy() for part in given]
    compiled: Any = gka_numba.step
    found = compiled(*rows, form, threads=torch.get_num_threads())
    o, H, U, spread = (torch.from_numpy(part).view(B, heads, *part.shape[1:]) for part in found)
    return o, (H, U), spread


def _solved(H: Tensor, q: Tensor, form: GkaForm) -> tuple[Tensor, Tensor]:
    """x (B, H, D, 1) by Chebyshev on H / ‖H‖_F + ridge · I, and where the memory is empty (B, H, 1, 1)."""
    square = H.square().sum((-1, -2), keepdim=True)
    empty = square <= EMPTY**2
    F = torch.where(empty, 1.0, square).sqrt()
    short, rho = shortest_step(form.ridge)
    A = (-short / F * H).flatten(0, 1)
    A = A + (1.0 - short * form.ridge) * torch.eye(q.shape[-2], dtype=A.dtype, device=A.device)
    right = (short / F * q).flatten(0, 1)
    before, x = torch.zeros_like(right), right
    for w in relaxations(rho, form.steps):
        x, before = torch.lerp(before, torch.baddbmm(right, A, x), w), x
    return torch.where(empty, 0.0, x.view_as(q)), empty


def _outside_graphs(run: Any) -> Any:
    """`run`, which torch.compile is to leave as it is: kernels bring a compiler, chunks are laid out in Python."""
    disable: Any = torch.compiler.disable
    return disable(run) if torch.compiler.is_compiling() else run


def _run(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, alpha: Tensor | None,
    initial_state: State | None, offsets: Tensor | None, form: GkaForm, backend: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    inputs = readied(q, k, v, log_decay, alpha, initial_state, offsets)
    kernels = _chosen(inputs, form, backend)
    if inputs.q.shape[:3].numel() == 0 or inputs.sequences == 0:
        return _nothing(inputs)
    if kernels is None:
        o, H, U = gka_reference.forward(inputs, form)
        return o.to(inputs.v.dtype), H.to(state_dtype(inputs.q)), U.to(state_dtype(inputs.q))
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in inputs):
        found: tuple[Tensor, Tensor, Tensor] = _Backend.apply(kernels, form, *inputs)  # type: ignore[no-untyped-call]
        return found
    with _device_of(inputs.q):
        o, (H, U), _ = kernels.forward(inputs, form, False)
    return o, H, U


def _nothing(inputs: GkaInputs) -> tuple[Tensor, Tensor, Tensor]:
    """No steps: no outputs, and the state as it was."""
    (heads, D), V, N = inputs.q.shape[2:], inputs.v.shape[3], inputs.sequences
    dtype = state_dtype(inputs.q)
    H = inputs.q.new_zeros(N, heads, D, D, dtype=dtype) if inputs.H0 is None else inputs.H0.clone()
    U = inputs.q.new_zeros(N, heads, D, V, dtype=dtype) if inputs.U0 is None else inputs.U0.clone()
    return torch.zeros_like(inputs.v), H, U


def _chosen(inputs: GkaInputs, form: GkaForm, backend: str) -> Any:
    """The module that runs this, None for the reference."""
    if backend == "reference":
        return None
    if backend == "torch" or (backend == "auto" and not inputs.q.is_cuda):
        return gka_torch
    refusal = _triton_refusal(inputs, form)
    if refusal is None:
        return _triton()
    if backend == "auto":
        return gka_torch
    raise ValueError(f"the backend triton has no kernel for this: {refusal}; use backend='torch' or 'auto'")


def _triton_refusal(inputs: GkaInputs, form: GkaForm) -> str | None:
    """Why the Triton kernels cannot, or None where they can."""
    if not inputs.q.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"q is on {inputs.q.device}, not on a CUDA device"
    if inputs.q.dtype == torch.float64:
        return "q is float64"
    kernels: Any = _triton()
    if kernels is None:
        return "Triton or its kernels are not installed"
    if not kernels.supported(inputs, form):
        return f"{form} with keys of {inputs.q.shape[-1]} numbers and values of {inputs.v.shape[-1]}"
    return None


@cache
def _triton() -> ModuleType | None:
    """The kernels' module, loaded when first used: a CPU's process never loads Triton.

    Such a module has the three functions of `gka_torch`: supported(inputs, form), forward(inputs, form, keep) and
    backward(inputs, form, saved, go, gH, gU).
    """
    if any(importlib.util.find_spec(name) is None for name in ("triton", "ssrtrack.kernels.gka_triton")):
        return None
    return importlib.import_module("ssrtrack.kernels.gka_triton")


def _device_of(q: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, whatever the tensors' is."""
    return torch.cuda.device(q.device) if q.is_cuda else nullcontext()


class _Backend(torch.autograd.Function):
    """A backend's forward and backward as one differentiable function."""

    @staticmethod
    def forward(ctx: Any, kernels: Any, form: GkaForm, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        inputs = GkaInputs(*given)
        with _device_of(inputs.q):
            o, (H, U), saved = kernels.forward(inputs, form, True)
        ctx.save_for_backward(*given, *saved)
        ctx.kernels, ctx.form = kernels, form
        ctx.set_materialize_grads(False)
        return o, H, U

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, go: Tensor | None, gH: Tensor | None, gU: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(GkaInputs._fields)
        inputs = GkaInputs(*ctx.saved_tensors[:count])
        go = torch.zeros_like(inputs.v) if go is None else go
        go = go if go.stride(-1) == 1 else go.contiguous()
        gH, gU = (None if g is None else g.contiguous() for g in (gH, gU))
        with _device_of(go):
            found = ctx.kernels.backward(inputs, ctx.form, ctx.saved_tensors[count:], go, gH, gU)
        needed = ctx.needs_input_grad[2:]
        given: Any = zip((*found, None), inputs, needed, strict=True)
        return None, None, *(g.to(part.dtype) if need and g is not None else None for g, part, need in given)
