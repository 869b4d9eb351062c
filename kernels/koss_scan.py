"""The scans of KOSS whose gains are given, and Mamba's selective scan: public, with the choice of a backend.

The formulas are those of `reference.koss_given_gains` and `reference.selective_scan`, the letters those of `koss_form`.
"""

import importlib.util
import os
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ssrtrack.kernels import koss_scan_torch
from ssrtrack.kernels.koss_scan_form import (
    SELECTIVE,
    Pieces,
    ScanInputs,
    checked,
    chunks_for,
    kept_every,
    pieces_for,
    readied,
    triton_refusal,
)

Tensor = torch.Tensor
BACKENDS = ("triton", "torch")
CHANNELS_A_PROGRAM = 32


def koss_scan(
    x: Tensor,
    delta: Tensor,
    gain: Tensor,
    read: Tensor,
    rate: Tensor,
    start: Tensor,
    *,
    operator: str = "discrete",
    slope: Tensor | None = None,
    lead: Tensor | None = None,
    offsets: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """All steps of B sequences whose gains do not depend on the state (arXiv 2512.16723, elementwise operators).

    For κ = K c, v = x + τ ẋ, φ1(z) = (e^z − 1)/z, and y_t = c_t·h_t:

        discrete  h = (1 − κ) e^{ΔA} h + K v
        kalman    h = h⁻ + K c (v − c·h⁻), h⁻ = e^{ΔA} h
        exact     h = e^{ΔA} (h − K x_{t−1}) + K x_t, x_{t−1} = x − ẋ
        neumann   h = e^z h + φ1(z) K (ẋ − (1 − κ) Δ A x), z = Δ (1 − κ²) A
        bucy      h = e^z h + φ1(z) K (Δ x + τ ẋ), z = Δ (A − κ)

    Args:
        x: input (B, T, D). delta: step length Δ ≥ 0 (B, T, D). gain: K ≥ 0 (B, T, D), 0 where there is no input.
        read: c (B, T, N), shared by the channels. rate: A < 0 (N, D). start: the state before the first step (B, N, D).
        operator: one of `koss_form.OPERATORS`. slope: ẋ per sample (B, T, D) or None (0). lead: τ (D,) or None (0).
        offsets: (B + 1,) int32 or None: sequences of unequal length lie one after another in tensors (1, ΣT, …),
            sequence b from offsets[b] to offsets[b + 1]; start then still is (B, N, D).
        backend: "triton" (a CUDA device, or a CPU in Triton's interpreter), "torch" (everything). None: triton on a
            CUDA device where x is not float64 and N ≤ 16, else torch.

    x, delta, gain, read and slope may each be in float32, bfloat16, float16 or float64; their last axis lies side by
    side, else they are copied. On Triton few sequences and channels are cut into chunks of time that run side by side
    (`koss_scan_form.chunks_for`); packed sequences, and `kalman`, whose matrix is no diagonal, are not cut.

    Returns:
        y (B, T, D) in x's precision and the state after each sequence's last step (B, N, D) in the state's, which is
        float32, float64 where x is. Differentiable once with respect to every tensor.

    Raises:
        ValueError: shapes, precisions or devices that do not fit; offsets that do not part the steps; `exact` without
            a slope; a backend that is none, or cannot run this.
    """
    return _scan(ScanInputs(x, delta, gain, None, read, rate, start, slope, lead, offsets), operator, backend)


def selective_scan(
    x: Tensor,
    delta: Tensor,
    write: Tensor,
    read: Tensor,
    rate: Tensor,
    start: Tensor,
    *,
    offsets: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Mamba's selective scan (arXiv 2312.00752, algorithm 2): h = e^{ΔA} h + Δ b x, y = c·h, for b, c (B, T, N).

    `write` is b, shared by the channels as c is; all else, returned values and refusals too, as in `koss_scan`.
    """
    return _scan(ScanInputs(x, delta, None, write, read, rate, start, offsets=offsets), SELECTIVE, backend)


def _scan(inputs: ScanInputs, operator: str, backend: str | None) -> tuple[Tensor, Tensor]:
    checked(inputs, operator)
    inputs = readied(inputs, operator)
    if inputs.x.numel() == 0:
        return torch.zeros_like(inputs.x), inputs.start.clone()
    if _chosen(inputs, backend) == "torch":
        return koss_scan_torch.forward(inputs, operator)
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in inputs):
        found: tuple[Tensor, Tensor] = _Scan.apply(operator, *inputs)  # type: ignore[no-untyped-call]
        return found
    y, final, _, _ = _run(inputs, operator, keep=False)
    return y, final


def _chosen(inputs: ScanInputs, backend: str | None) -> str:
    refusal = triton_refusal(inputs)
    if refusal is None and importlib.util.find_spec("triton") is None:
        refusal = "triton is not installed"
    if backend is None:
        return "triton" if inputs.x.is_cuda and refusal is None else "torch"
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}, or None")
    if backend == "triton" and not inputs.x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        refusal = f"x is on {inputs.x.device}, not on a CUDA device"
    if backend == "triton" and refusal:
        raise ValueError(f"the backend triton has no kernel for this: {refusal}; use backend='torch' or None")
    return backend


def _pieces(inputs: ScanInputs, operator: str) -> Pieces:
    batch, steps, channels = inputs.x.shape
    if inputs.offsets is not None:
        return pieces_for(inputs.offsets.numel() - 1, steps, 1, kept_every(inputs.rate.shape[0]), packed=True)
    processors = 132
    if inputs.x.is_cuda:
        processors = torch.cuda.get_device_properties(inputs.x.device).multi_processor_count
    programs = batch * -(-channels // CHANNELS_A_PROGRAM)
    chunks = 1 if operator == "kalman" else chunks_for(programs, steps, processors)
    return pieces_for(batch, steps, chunks, kept_every(inputs.rate.shape[0]))


def _run(inputs: ScanInputs, operator: str, *, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    from ssrtrack.kernels import koss_scan_forward

    return koss_scan_forward.forward(inputs, operator, _pieces(inputs, operator), keep)


class _Scan(torch.autograd.Function):
    """The Triton kernels with their gradient."""

    @staticmethod
    def forward(ctx: Any, operator: str, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        inputs = ScanInputs(*tensors)  # type: ignore[arg-type]
        y, final, kept, product = _run(inputs, operator, keep=True)
        ctx.save_for_backward(*tensors, kept, product)
        ctx.operator = operator
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, g_final: Tensor) -> tuple[Any, ...]:
        from ssrtrack.kernels import koss_scan_backward

        *tensors, kept, product = ctx.saved_tensors
        inputs = ScanInputs(*tensors)
        pieces = _pieces(inputs, ctx.operator)
        found = koss_scan_backward.backward(inputs, ctx.operator, pieces, kept, product, gy, g_final)
        cast = [g if g is None or v is None else g.to(v.dtype) for g, v in zip(found, inputs, strict=True)]
        return None, *(g if needed else None for g, needed in zip(cast, ctx.needs_input_grad[1:], strict=True))
