"""That what the KOSS benchmark times is right: small cases against float64 loops, full size against plain torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from koss_gpu_cases import Case
from koss_gpu_ways import Problem, Result, call_of, problem

from ssrtrack.kernels import reference
from ssrtrack.kernels.koss_form import LoopInputs

Tensor = torch.Tensor
# RMS(err)/RMS(ref): of y and the final state; of gradients; of those of W1 and b1. In bf16 the gate's products are so
# too, and a hidden unit within their rounding of 0 may be on the other side of the ReLU: a few in a thousand, whose
# whole term in ∂L/∂W1 and ∂L/∂b1 comes or goes (the root of their share is 5 %).
LIMITS = {"bf16": (1e-2, 3e-2, 1e-1), "mixed": (1e-2, 3e-2, 1e-1), "float32": (1e-4, 1e-3, 1e-2)}
BEHIND_RELU = ("gradient of w1", "gradient of b1")
SLICE = 4  # sequences of the timed size that plain torch runs too
PER_TOKEN = ("x", "delta", "read", "bias", "start", "slope")  # inputs of which each sequence has its own


@dataclass(frozen=True)
class Found:
    """The worst error of outputs and of gradients, whose they are, and whether both are within the limits."""

    output: float
    gradient: float
    worst: str
    right: bool

    def columns(self) -> dict[str, Any]:
        """As a row has it."""
        told = {"error_y": f"{self.output:.1e}", "error_gradient": f"{self.gradient:.1e}"}
        return told if self.right else told | {"note": f"wrong beyond the limits ({self.worst}); not timed"}


def off_by(found: Tensor, expected: Tensor) -> float:
    """RMS of the difference over the expected values' RMS; NaN where something is NaN."""
    found, expected = found.detach().double(), expected.detach().double()
    scale = expected.square().mean().sqrt().clamp(min=1e-30)
    return float((found - expected).square().mean().sqrt() / scale)


def judged(names: Sequence[str], found: Sequence[Tensor], expected: Sequence[Tensor], dtype: str) -> Found:
    """Errors of y, final state and gradients, in that order."""
    errors = [off_by(a, b) for a, b in zip(found, expected, strict=True)]
    limits = [LIMITS[dtype][0 if i < 2 else 2 if name in BEHIND_RELU else 1] for i, name in enumerate(names)]
    shares = [e / limit if e == e else float("inf") for e, limit in zip(errors, limits, strict=True)]
    worst = max(range(len(errors)), key=lambda i: shares[i])
    told = f"{names[worst]}: {errors[worst]:.1e}"
    return Found(max(errors[:2]), max(errors[2:]), told, max(shares) <= 1.0)


def names_of(inputs: LoopInputs) -> list[str]:
    """Names of a problem's leaves, in order."""
    return [n for n, v in zip(inputs._fields, inputs, strict=True) if isinstance(v, Tensor) and v.requires_grad]


def against_reference(case: Case, call: Callable[[LoopInputs], Result], where: str, seed: int = 1) -> Found:
    """A small case with odd lengths, all outputs and gradients, against `reference` in float64 on the host."""
    p = problem(case.small, call, where, seed)
    g_final = torch.randn(p.inputs.start.shape, generator=torch.Generator().manual_seed(seed)).to(where)
    outputs = p.call(p.inputs)
    found = [*outputs, *torch.autograd.grad(outputs, p.leaves, (p.gy, g_final))]
    exact = LoopInputs(*(v if v is None else v.detach().cpu().double() for v in p.inputs))
    exact = exact._replace(**{name: getattr(exact, name).requires_grad_() for name in names_of(p.inputs)})
    rows = [_of_one(case, exact, b) for b in range(exact.x.shape[0])]
    expected = [torch.stack(list(v)) for v in zip(*rows, strict=True)]
    leaves = [getattr(exact, name) for name in names_of(p.inputs)]
    expected += torch.autograd.grad(expected, leaves, (p.gy.cpu().double(), g_final.cpu().double()))
    names = ["y", "final", *(f"gradient of {n}" for n in names_of(p.inputs))]
    return judged(names, [v.cpu() for v in found], [v.detach() for v in expected], case.dtype)


def _of_one(case: Case, v: LoopInputs, b: int) -> Result:
    """One sequence by the reference."""
    one = LoopInputs(*(t[b] if n in PER_TOKEN and t is not None else t for n, t in zip(v._fields, v, strict=True)))
    if case.kind == "loop":
        return reference.koss_loop(one, case.form)
    if case.kind == "selective":
        return reference.selective_scan(one.x, one.delta, one.bias, one.read, one.rate, one.start)
    return reference.koss_given_gains(
        one.x, one.delta, one.bias, one.read, one.rate, one.start, one.slope, None, case.operator
    )


def against_torch(case: Case, p: Problem) -> Found:
    """A problem of the timed size against plain torch in float32 on a few of its sequences, from first to last.

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
    part = LoopInputs(
        *(
            v if v is None else (v.detach()[index] if n in PER_TOKEN else v.detach()).float()
            for n, v in zip(p.inputs._fields, p.inputs, strict=True)
        )
    )
    part = part._replace(**{name: getattr(part, name).requires_grad_() for name in names})
    expected = list(call_of(replace(case, dtype="float32"), "torch")(part))
    leaves = [getattr(part, name) for name in names]
    expected += torch.autograd.grad(expected[0], leaves, p.gy[index].float())
    told = ["y", "final", *(f"gradient of {n}" for n in names)]
    return judged(told, found, [v.detach() for v in expected], case.dtype)
