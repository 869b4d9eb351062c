"""That what the KOSS benchmark times is right: small sizes against float64, the timed size against plain torch.

Loops are measured by `as_multiplied`, `rough` where the way multiplies in bfloat16. Over thousands of steps even that
is no exact measure: a state's last digit decides now and then how φ's operand is rounded, from there on the two run
apart by what rounding is worth, and the gradients of what is summed over time feel it most (16 states, 4,096 steps:
that of A 2e-2 between the reference's own float32 and float64). So a timed size may be off as far as the reference in
float32 is off from itself in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from koss_gpu_cases import Case
from koss_gpu_rounding import as_multiplied
from koss_gpu_ways import Call, Problem, Result, call_of, problem

from ssrtrack.kernels import reference
from ssrtrack.kernels.koss_form import LoopInputs

Tensor = torch.Tensor
Limits = tuple[float, float, float]
# RMS(err)/RMS(ref): of y and the final state; of gradients; of those of W1 and b1, where a hidden unit that comes to
# lie on the other side of its ReLU shows most. Measured by `as_multiplied`, bfloat16 kernels have what rounding leaves
# in what they hand back (1.7e-3) and the few units that a sum's last digit moves. Plain torch rounds each product too,
# and its gradient: LOOSE.
LIMITS = {"bf16": (4e-3, 8e-3, 3e-2), "mixed": (4e-3, 8e-3, 3e-2), "float32": (1e-4, 1e-3, 1e-2)}
LOOSE = {"bf16": (1e-2, 1e-1, 2e-1), "mixed": (1e-2, 1e-1, 2e-1), "float32": (1e-4, 1e-3, 1e-2)}
BEHIND_RELU = ("gradient of w1", "gradient of b1")
SLICE = 4  # sequences of the timed size that plain torch runs too
SPREAD = 1.5  # times the reference's own distance between float32 and float64: two draws of the same rounding
PER_TOKEN = ("x", "delta", "read", "bias", "start", "slope")  # inputs of which each sequence has its own


@dataclass(frozen=True)
class Found:
    """The worst error of outputs and of gradients, whose the worst is, and what share of its limit."""

    output: float
    gradient: float
    worst: str
    share: float

    @property
    def right(self) -> bool:
        """Whether all are within the limits."""
        return self.share <= 1.0

    def columns(self) -> dict[str, Any]:
        """As a row has it."""
        told = {"error_y": f"{self.output:.1e}", "error_gradient": f"{self.gradient:.1e}"}
        return told if self.right else told | {"note": f"wrong beyond the limits ({self.worst}); not timed"}


def off_by(found: Tensor, expected: Tensor) -> float:
    """RMS of the difference over the expected values' RMS; NaN where something is NaN."""
    found, expected = found.detach().double(), expected.detach().double()
    scale = expected.square().mean().sqrt().clamp(min=1e-30)
    return float((found - expected).square().mean().sqrt() / scale)


def judged(
    names: Sequence[str], found: Sequence[Tensor], expected: Sequence[Tensor], limit: Limits,
    spread: Sequence[float] | None = None,
) -> Found:  # fmt: skip
    """Errors of y, final state and gradients, in that order; `spread`: what the reference itself leaves open."""
    errors = [off_by(a, b) for a, b in zip(found, expected, strict=True)]
    limits = [limit[0 if i < 2 else 2 if name in BEHIND_RELU else 1] for i, name in enumerate(names)]
    limits = [max(own, SPREAD * open_) for own, open_ in zip(limits, spread or [0.0] * len(limits), strict=True)]
    shares = [e / limit if e == e else float("inf") for e, limit in zip(errors, limits, strict=True)]
    worst = max(range(len(errors)), key=lambda i: shares[i])
    told = f"{names[worst]}: {errors[worst]:.1e}"
    return Found(max(errors[:2]), max(errors[2:]), told, max(shares))


def names_of(inputs: LoopInputs) -> list[str]:
    """Names of a problem's leaves, in order."""
    return [n for n, v in zip(inputs._fields, inputs, strict=True) if isinstance(v, Tensor) and v.requires_grad]


def limits_of(case: Case, way: str) -> Limits:
    """How far a way may be off."""
    return (LIMITS if way in ("fused", "selective scan") else LOOSE)[case.dtype]


def rough(case: Case, way: str, backend: str) -> bool:
    """Whether a way multiplies in bfloat16 what φ is given."""
    return case.kind == "loop" and case.dtype != "float32" and (way != "fused" or backend == "triton")


def against_reference(case: Case, way: str, call: Call, backend: str, where: str, seed: int = 1) -> Found:
    """A case's small sizes, all outputs and gradients, against float64 on the host."""
    rounded, limits = rough(case, way, backend), limits_of(case, way)
    found = [_against_reference(size, call, rounded, limits, where, seed) for size in case.checks]
    return max(found, key=lambda one: one.share)


def _against_reference(size: Case, call: Call, rounded: bool, limits: Limits, where: str, seed: int) -> Found:
    p = problem(size, call, where, seed)
    outputs = p.call(p.inputs)
    found = [*outputs, *torch.autograd.grad(outputs, p.leaves, (p.gy, _to_final(p, seed)))]
    names = ["y", "final", *(f"gradient of {n}" for n in names_of(p.inputs))]
    return judged(names, [v.cpu() for v in found], _expected(size, rounded, where, seed), limits)


def _to_final(p: Problem, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(p.inputs.start.shape, generator=g).to(p.gy.device)


@cache
def _expected(size: Case, rounded: bool, where: str, seed: int) -> list[Tensor]:
    """Outputs and gradients in float64, made once for all ways."""
    p = problem(size, lambda v: (v.x, v.start), where, seed)
    names = names_of(p.inputs)
    exact = LoopInputs(*(v if v is None else v.detach().cpu().double() for v in p.inputs))
    exact = exact._replace(**{name: getattr(exact, name).requires_grad_() for name in names})
    if size.kind == "loop":
        outputs = as_multiplied(rounded, exact, size.form)
    else:
        own = {name: v for name in PER_TOKEN if (v := getattr(exact, name)) is not None}
        outputs = torch.vmap(lambda one: _of_one(size, exact._replace(**one)))(own)
    leaves = [getattr(exact, name) for name in names]
    weights = (p.gy.cpu().double(), _to_final(p, seed).cpu().double())
    return [v.detach() for v in (*outputs, *torch.autograd.grad(outputs, leaves, weights))]


def _of_one(case: Case, one: LoopInputs) -> Result:
    """One sequence of a scan by the float64 loops."""
    if case.kind == "selective":
        return reference.selective_scan(one.x, one.delta, one.bias, one.read, one.rate, one.start)
    return reference.koss_given_gains(
        one.x, one.delta, one.bias, one.read, one.rate, one.start, one.slope, None, case.operator
    )


def against_torch(case: Case, way: str, p: Problem, backend: str) -> Found:
    """A problem of the timed size against plain torch in float64 on a few of its sequences, from first to last.

    Only those sequences get a gradient, so those of the weights, sums over the whole batch, must be the slice's too.
    """
    index = torch.linspace(0, case.batch - 1, min(SLICE, case.batch)).long().to(p.gy.device)
    gy = torch.zeros_like(p.gy)
    gy[index] = p.gy[index]
    outputs = p.call(p.inputs)
    gradients = torch.autograd.grad(outputs[0], p.leaves, gy)
    names = names_of(p.inputs)
    found = [v[index] for v in outputs]
    found += [g[index] if n in PER_TOKEN else g for n, g in zip(names, gradients, strict=True)]
    told = ["y", "final", *(f"gradient of {n}" for n in names)]
    expected, spread = _of_slice(case, p, index, names, rough(case, way, backend))
    return judged(told, found, expected, limits_of(case, way), spread)


_slices: dict[tuple[Case, str, bool], tuple[list[Tensor], list[float]]] = {}


def _of_slice(
    case: Case, p: Problem, index: Tensor, names: Sequence[str], rounded: bool
) -> tuple[list[Tensor], list[float]]:
    """Plain torch's outputs and gradients of some sequences, and how far float32 is off from them.

    Kept, since every way is given the same inputs.
    """
    key = case, str(p.gy.device), rounded
    if key not in _slices:
        exact = _slice_in(torch.float64, case, p, index, names, rounded)
        single = _slice_in(torch.float32, case, p, index, names, rounded)
        _slices[key] = exact, [off_by(a, b) for a, b in zip(single, exact, strict=True)]
    return _slices[key]


def _slice_in(
    dtype: torch.dtype, case: Case, p: Problem, index: Tensor, names: Sequence[str], rounded: bool
) -> list[Tensor]:
    part = LoopInputs(
        *(
            v if v is None else (v.detach()[index] if n in PER_TOKEN else v.detach()).to(dtype)
            for n, v in zip(p.inputs._fields, p.inputs, strict=True)
        )
    )
    part = part._replace(**{name: getattr(part, name).requires_grad_() for name in names})
    plain = call_of(replace(case, dtype="float32"), "torch")
    outputs = as_multiplied(rounded, part, case.form) if case.kind == "loop" else plain(part)
    leaves = [getattr(part, name) for name in names]
    gradients = torch.autograd.grad(outputs[0], leaves, p.gy[index].to(dtype))
    return [v.detach() for v in (*outputs, *gradients)]
