"""What bfloat16 costs a KOSS loop, and whether its gradient stays in bounds over long sequences.

    python -m ssrtrack.experiments.koss_precision --output DIR

Two questions that decide whether the closed loop e → K → h → e may run in low precision. First, the relative error of
y against float64, block by block of time up to T steps: with float32 throughout, with the operands of the gain's
two products in bfloat16 (what tensor cores take) and the state in float32, with bfloat16 inputs as well, and with the
state itself rounded to bfloat16 after each segment. Second, ‖∂y_L/∂h_0‖ over L: it has to fall. Both depend on
ρ = ‖W1‖₂‖W2‖₂ of the gain's φ, which the layer caps at 16: beyond, the loop turns chaotic. A gain that sees the
prediction too, with ‖[W1; W_p]‖₂ in the place of ‖W1‖₂, does so earlier: its gradient is a row beside.

On a CPU rounding is emulated; where a CUDA device is found, the kernels' own error is a row beside it.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd import forward_ad

from ssrtrack.experiments.evidence import Row, main, rounded
from ssrtrack.kernels.koss_closed_loop import koss_closed_loop
from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from ssrtrack.kernels.koss_operators import gate_input, innovation_gain
from ssrtrack.models.koss_trace import trace_loop
from ssrtrack.report.figures_koss import precision_figure

Tensor = torch.Tensor
Array = NDArray[np.float64]
STEPS, BATCH, CHANNELS, STATES = 8192, 4, 64, 4
NORMS = (5.7, 16.0, 36.0)  # ρ: of the layer at its start, at its cap, and beyond
GRADIENT_NORMS = (5.7, 16.0, 23.0, 36.0, 51.0)
SEEING_NORMS = (4.8, 8.0, 11.3, 16.0)  # of a gain that sees the prediction: at its start, on the way, and at the cap
SEGMENTS = (1, 16)
GRADIENT_STEPS, PROBES, HEADS = 1024, 16, 4
BLOCK = 256  # steps of time over which an error is averaged


@dataclass(frozen=True, eq=False)
class Precision:
    """error: by (way, ρ, S) the relative error of y, RMS(err)/RMS(y), in every BLOCK of time, whose last steps are
    `end`. gradient: by (ρ, S) the Frobenius norm of ∂y_L/∂h_0 of HEADS heads with weights of their own (L, H), at
    every step L, from random probes. slope: by (ρ, S) its logarithm's mean growth per step over the second half (H,).
    seeing: the same norms where the gain sees the prediction, with their slopes.
    """

    end: Array
    error: Mapping[tuple[str, float, int], Array]
    gradient: Mapping[tuple[float, int], Array]
    slope: Mapping[tuple[float, int], Array]
    seeing: Mapping[tuple[float, int], tuple[Array, Array]]


def loop_inputs(
    steps: int, batch: int, norm: float, heads: int = 1, seed: int = 0, *, seeing: bool = False
) -> LoopInputs:
    """A layer's loop at its start with ρ = norm in every head, on white noise of unit variance, in float64.

    As `KossLayer` begins: Δ log-uniform in [0.001, 0.1] by channel, A = −1 … −N, z uniform in [−4, 0] by channel, c
    about a half; W1, or [W1; W_p] where `seeing`, and W2 Gaussian, each scaled to a spectral norm of √ρ.
    """
    g = torch.Generator().manual_seed(seed)
    wide: dict[str, Any] = {"generator": g, "dtype": torch.float64}
    w1, w2 = (torch.randn(heads, rows, CHANNELS, **wide) for rows in (CHANNELS * (1 + seeing), CHANNELS))
    w1, w2 = (w * norm**0.5 / torch.linalg.matrix_norm(w, ord=2, dim=(1, 2), keepdim=True) for w in (w1, w2))
    width = heads * CHANNELS
    step = torch.exp(torch.empty(width, dtype=torch.float64).uniform_(np.log(1e-3), np.log(0.1), generator=g))
    z = torch.empty(width, dtype=torch.float64).uniform_(-4.0, 0.0, generator=g)
    shape = (batch, steps, width)
    return LoopInputs(
        x=torch.randn(shape, **wide),
        delta=step * torch.exp(0.1 * torch.randn(shape, **wide)),
        read=torch.sigmoid(torch.randn(batch, steps, STATES, **wide)),
        bias=z + 0.3 * torch.randn(shape, **wide),
        rate=-torch.arange(1.0, STATES + 1.0, dtype=torch.float64)[:, None].repeat(1, width),
        w1=w1,
        b1=torch.zeros(heads, CHANNELS, dtype=torch.float64),
        w2=w2,
        start=torch.zeros(batch, STATES, width, dtype=torch.float64),
    )


def cast(inputs: LoopInputs, dtype: torch.dtype, *, through: torch.dtype | None = None) -> LoopInputs:
    """All tensors in `dtype`; x, Δ, c and z rounded to `through` on the way."""
    if through is not None:
        inputs = inputs._replace(**{name: getattr(inputs, name).to(through) for name in ROUNDED})
    return moved(inputs, dtype)


def moved(inputs: LoopInputs, to: torch.dtype | str) -> LoopInputs:
    """All tensors of `inputs` in a precision, or on a device."""
    there = {name: v.to(to) for name, v in inputs._asdict().items() if v is not None}
    return inputs._replace(**there)


ROUNDED = ("x", "delta", "read", "bias")


def gain_in_bfloat16(
    e: Tensor, bias: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, operator: str, prediction: Tensor | None = None
) -> Tensor:
    """`innovation_gain` as tensor cores compute it: the operands of both products in bfloat16, sums in float32."""
    hidden = torch.relu(torch.baddbmm(b1[:, None], low(gate_input(e, w1, prediction)), low(w1)))
    z = torch.bmm(low(hidden), low(w2)).transpose(0, 1).reshape(e.shape) + bias
    return torch.nn.functional.softplus(z, threshold=1e4) if operator == "bucy" else torch.sigmoid(z)


def low(v: Tensor) -> Tensor:
    """v rounded to bfloat16, in its own type."""
    return v.to(torch.bfloat16).to(v.dtype)


def outputs(inputs: LoopInputs, form: LoopForm, way: str) -> Tensor:
    """y (B, T, D) computed in one of WAYS."""
    through = torch.bfloat16 if way in ("bf16 gain and inputs", "bf16 state too") else None
    gain = innovation_gain if way in ("float64", "float32") else gain_in_bfloat16
    given = cast(inputs, torch.float64 if way == "float64" else torch.float32, through=through)
    if way != "bf16 state too":
        return trace_loop(given, form, gain).output
    # The carried state is rounded after every segment, so segment by segment.
    h, out = given.start, []
    for first in range(0, given.x.shape[1], form.segment):
        part = {name: getattr(given, name)[:, first : first + form.segment] for name in ROUNDED}
        inside = trace_loop(given._replace(start=h, **part), form, gain)
        h = low(inside.state[:, -1])
        out.append(inside.output)
    return torch.cat(out, 1)


WAYS = ("float32", "bf16 gain", "bf16 gain and inputs", "bf16 state too")


def by_block(y: Tensor, exact: Tensor, block: int = BLOCK) -> Array:
    """RMS(y − exact)/RMS(exact) over each `block` steps of (B, T, D)."""
    error, size = (torch.split((v.double() ** 2).mean((0, 2)), block) for v in (y - exact, exact))
    return np.array([float((a.mean() / b.mean()).sqrt()) for a, b in zip(error, size, strict=True)])


def errors(steps: int = STEPS, block: int = BLOCK) -> dict[tuple[str, float, int], Array]:
    """Relative errors of every way of computing, for every ρ and S."""
    found = {}
    with torch.no_grad():
        for norm in NORMS:
            inputs = loop_inputs(steps, BATCH, norm)
            for segment in SEGMENTS:
                form = LoopForm(segment=segment, passes=0 if segment == 1 else 1)
                exact = outputs(inputs, form, "float64")
                for way in WAYS:
                    found[way, norm, segment] = by_block(outputs(inputs, form, way), exact, block)
                if torch.cuda.is_available():
                    for way, dtype in KERNELS.items():
                        found[way, norm, segment] = by_block(on_cuda(inputs, form, dtype), exact, block)
    return found


def on_cuda(inputs: LoopInputs, form: LoopForm, dtype: torch.dtype) -> Tensor:
    """y of the kernels on a CUDA device, from x, Δ, c and z in `dtype` and all else in float32.

    Their gains' products take bfloat16 operands where x is bfloat16, else float32 (three TF32 products each).
    """
    given = cast(inputs, torch.float32)
    told = given._replace(**{name: getattr(given, name).to(dtype) for name in ROUNDED})
    return koss_closed_loop(moved(told, "cuda"), form)[0].cpu().double()


KERNELS = {"kernel, float32": torch.float32, "kernel, bf16 gain and inputs": torch.bfloat16}


def gradient_norms(
    norm: float, segment: int, steps: int = GRADIENT_STEPS, probes: int = PROBES, heads: int = HEADS, *,
    seeing: bool = False,
) -> Array:  # fmt: skip
    """‖∂y_L/∂h_0‖_F for L = 1 … steps in each head (steps, heads), in float64.

    For v ~ N(0, I) the mean of ‖J v‖² is ‖J‖²_F; J v of all L at once is one forward-mode pass, a probe in each row of
    the batch (one and the same sequence in all). Heads know nothing of each other.
    """
    inputs = loop_inputs(steps, 1, norm, heads, seeing=seeing)
    wide = inputs._replace(**{name: getattr(inputs, name).expand(probes, -1, -1) for name in (*ROUNDED, "start")})
    v = torch.randn(wide.start.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ad: Any = forward_ad
    with torch.no_grad(), ad.dual_level():
        dual = wide._replace(start=ad.make_dual(wide.start.contiguous(), v))
        inside = trace_loop(dual, LoopForm(segment=segment, passes=0 if segment == 1 else 1))
        tangent = ad.unpack_dual(inside.output).tangent
    if tangent is None:
        raise RuntimeError("no derivative came through the loop: an operation in it has no forward-mode formula")
    return np.asarray(tangent.reshape(probes, steps, heads, -1).square().sum(3).mean(0).sqrt().numpy())


def growth(norms: Array) -> Array:
    """Mean growth of the logarithm per step over the second half of (L, H): the Lyapunov slope of each head."""
    half = len(norms) // 2
    return np.asarray(np.polyfit(np.arange(half), np.log(np.maximum(norms[-half:], 1e-300)), 1)[0])


def koss_precision(steps: int = STEPS, gradient_steps: int = GRADIENT_STEPS) -> Precision:
    """All of it; two minutes on one core."""
    found = errors(steps)
    cases = [(norm, segment) for norm in GRADIENT_NORMS for segment in SEGMENTS]
    gradient = {case: gradient_norms(*case, steps=gradient_steps) for case in cases}
    seen = {(norm, segment): gradient_norms(norm, segment, gradient_steps, seeing=True)
            for norm in SEEING_NORMS for segment in SEGMENTS}  # fmt: skip
    blocks = len(next(iter(found.values())))
    return Precision(
        end=np.minimum(BLOCK * np.arange(1.0, blocks + 1.0), steps),
        error=found,
        gradient=gradient,
        slope={case: growth(norms) for case, norms in gradient.items()},
        seeing={case: (norms, growth(norms)) for case, norms in seen.items()},
    )


def table(result: Precision) -> list[Row]:
    """Errors of the first, the last and the worst block, then gradient norms at powers of four and their slopes."""
    rows: list[Row] = []
    ends = result.end
    for (way, norm, segment), error in result.error.items():
        marks = {f"steps 1 to {ends[0]:.0f}": error[0], f"last block of {ends[-1]:.0f} steps": error[-1]}
        rows += _rows("relative error of y", way, norm, segment, marks | {"greatest block": error.max()})
    plain = {case: (norms, result.slope[case]) for case, norms in result.gradient.items()}
    gradients = [("float64", plain), ("float64, prediction seen", result.seeing)]
    for way, norm, segment, norms, slope in ((way, *case, *v) for way, some in gradients for case, v in some.items()):
        lengths = [4**k for k in range(10) if 4**k < len(norms)] + [len(norms)]
        middle = np.exp(np.log(norms).mean(1))
        marks = {f"L = {n}, mean of heads": middle[n - 1] for n in lengths}
        marks |= {"log growth per step, least head": slope.min(), "log growth per step, greatest head": slope.max()}
        marks["log growth per step, mean of heads"] = slope.mean()
        rows += _rows("norm of dy_L/dh_0", way, norm, segment, marks)
    return rows


def _rows(test: str, way: str, norm: float, segment: int, marks: Mapping[str, float]) -> list[Row]:
    return [
        {"test": test, "way": way, "rho": norm, "segment": segment, "at": at, "value": rounded(float(v), 3)}
        for at, v in marks.items()
    ]


def draw(result: Precision) -> Any:
    """The figure of `figures_koss.precision_figure`."""
    return precision_figure(result.end, result.error, result.gradient)


if __name__ == "__main__":
    sys.exit(main("koss_precision", __doc__ or "", koss_precision, table, draw))
