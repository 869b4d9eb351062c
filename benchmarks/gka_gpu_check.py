"""That what the Gated KalmaNet benchmark times is right: some heads of the timed size, and a short one, in float64.

Heads know nothing of each other, so a few of them with all their steps say what all do. Outputs are compared with as
many iterations in float64, gradients with the exact solution's; both by the torch backend, which the tests hold to the
loops as they are written down.
"""

from dataclasses import dataclass
from typing import Any

import torch
from gka_gpu_cases import Case
from gka_gpu_ways import Problem

from ssrtrack.kernels.gka import gka, gka_step
from ssrtrack.kernels.gka_form import unsolved

Tensor = torch.Tensor
NAMES = ("q", "k", "v", "log decay", "alpha")
SOLVED = 150  # iterations after which nothing is left unsolved in float64
# RMS(err)/RMS(ref) of bfloat16: what is rounded to 8 bits goes into some four products behind one another. To gradients
# comes what the iterations leave, in both equations.
LIMIT = 2.5e-2
LIMIT_STEP = 4e-3  # of one step, whose output alone is rounded
PLACES = ((0, 0), (-1, -1))  # sequences and heads


@dataclass(frozen=True)
class Found:
    """The worst error of the output and of gradients, whose the worst is, and what share of its limit."""

    output: float
    gradient: float
    worst: str
    share: float

    @property
    def right(self) -> bool:
        return self.share <= 1.0

    def columns(self) -> dict[str, Any]:
        """As a row has it."""
        told = {"error_o": f"{self.output:.1e}", "error_gradient": f"{self.gradient:.1e}"}
        return told if self.right else told | {"note": f"wrong beyond the limits ({self.worst}); not timed"}


def off_by(found: Tensor, expected: Tensor) -> float:
    """RMS of the difference over the expected values' RMS; infinite where something is no number."""
    scale = expected.square().mean().sqrt().clamp(min=1e-30)
    error = float((found.detach().double() - expected).square().mean().sqrt() / scale)
    return error if error == error else float("inf")


def checked(p: Problem, case: Case) -> Found:
    """A problem's output and gradients at PLACES against float64's."""
    o = p.call(*p.leaves)
    found = [o, *torch.autograd.grad(o, p.leaves, p.go)]
    pairs: list[list[tuple[Tensor, Tensor]]] = [[] for _ in found]
    for b, h in PLACES:
        for k, want in enumerate(_expected(p, case, b, h)):
            pairs[k].append((_of(found[k], b, h), want))
    return judged([off_by(*(torch.cat(side) for side in zip(*pair, strict=True))) for pair in pairs], case)


def judged(errors: list[float], case: Case) -> Found:
    """Errors of o and the gradients in the leaves' order."""
    limits = [LIMIT, *(LIMIT + 2.0 * unsolved(case.form.ridge, case.rounds) for _ in NAMES)]
    shares = [error / limit for error, limit in zip(errors, limits, strict=True)]
    worst = max(range(len(errors)), key=lambda k: shares[k])
    told = ("o", *(f"gradient of {name}" for name in NAMES))[worst]
    return Found(errors[0], max(errors[1:]), f"{told}: {errors[worst]:.1e}", shares[worst])


def _of(v: Tensor, b: int, h: int) -> Tensor:
    """One head of one sequence, (1, T, 1, …)."""
    return v[b][None, :, h, None]


def _expected(p: Problem, case: Case, b: int, h: int) -> list[Tensor]:
    leaves = [_of(v.detach(), b, h).double().requires_grad_() for v in p.leaves]
    form: dict[str, Any] = {"ridge": case.form.ridge, "backend": "torch"}
    with torch.no_grad():
        few, _ = gka(*leaves, steps=case.rounds, **form)
    o, _ = gka(*leaves, steps=SOLVED, **form)
    return [few, *torch.autograd.grad(o, leaves, _of(p.go, b, h).double())]


def step_error(given: tuple[Tensor, ...], state: tuple[Tensor, Tensor], case: Case) -> float:
    """Error of a step's output and state against the same in float64."""
    o, after = gka_step(*given, state, ridge=case.form.ridge, steps=case.rounds)
    twice = [v.double() for v in given]
    exact = state[0].double(), state[1].double()
    want, last = gka_step(*twice, exact, ridge=case.form.ridge, steps=case.rounds)
    return max(off_by(a, b) for a, b in zip((o, *after), (want, *last), strict=True))
