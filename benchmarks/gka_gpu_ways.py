"""Ways to compute a case of the Gated KalmaNet benchmark, each as a problem: leaves, a call, a gradient to send back.

Ours, torch's softmax attention, and, from a flash-linear-attention that is installed, three of its operators. They are
different operators of the same sizes: compared are times, not values.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from gka_gpu_cases import DIRECTIONS, Case, drawn
from koss_gpu_clock import Deadline, first_line, free, graph_ms, side_stream, time_columns, within
from torch.nn.functional import scaled_dot_product_attention

from ssrtrack.kernels.gka import gka

Tensor = torch.Tensor
Call = Callable[..., Tensor]
Row = dict[str, Any]
OURS, ATTENTION = "gka", "softmax attention (torch, causal)"
CACHE_BYTES, MOST_SETS = 200 << 20, 8  # several times an H100's L2
LEAST_RIDGE = 0.25  # of chunk_mesa_net's λ, a number a head and key's number


@dataclass(frozen=True)
class Problem:
    """One set of inputs: `call` gives o from the leaves; go is what comes back to o."""

    leaves: tuple[Tensor, ...]
    call: Call
    go: Tensor

    def forward(self) -> Tensor:
        """o, nothing kept."""
        with torch.no_grad():
            return self.call(*self.leaves)

    def both(self) -> tuple[Tensor, ...]:
        """The gradients of all leaves."""
        return torch.autograd.grad(self.call(*self.leaves), self.leaves, self.go)

    @property
    def nbytes(self) -> int:
        """Of leaves and go."""
        return sum(v.nbytes for v in (*self.leaves, self.go))


Make = Callable[[tuple[Tensor, ...], Tensor, Case], Problem]


def ours(backend: str) -> Make:
    """The package's operator on a backend."""

    def made(leaves: tuple[Tensor, ...], go: Tensor, case: Case) -> Problem:
        form = case.form

        def call(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, alpha: Tensor) -> Tensor:
            return gka(q, k, v, log_decay, alpha, ridge=form.ridge, steps=form.steps, backend=backend)[0]

        return Problem(leaves, call, go)

    return made


def attention(leaves: tuple[Tensor, ...], go: Tensor, case: Case) -> Problem:
    """Heads first and side by side, as torch's own wants them; no decay."""
    q, k, v = (part.detach().transpose(1, 2).contiguous().requires_grad_() for part in leaves[:3])
    go = go.transpose(1, 2).contiguous()
    return Problem((q, k, v), lambda *qkv: scaled_dot_product_attention(*qkv, is_causal=True), go)


def mesa(leaves: tuple[Tensor, ...], go: Tensor, case: Case) -> Problem:
    """MesaNet: the same memories, λ constant, conjugate gradients, no α; keys' gate β in the place of α."""
    operator = importlib.import_module("fla.ops.mesa_net").chunk_mesa_net
    ridges = torch.full((case.heads, case.width), LEAST_RIDGE, device=go.device, requires_grad=True)
    rounds = case.rounds
    return Problem((*leaves, ridges), lambda *v: operator(*v, max_CG_iteration=rounds)[0], go)


def gated_delta(leaves: tuple[Tensor, ...], go: Tensor, case: Case) -> Problem:
    """Gated DeltaNet."""
    operator = importlib.import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule
    return Problem(leaves, lambda *v: operator(*v)[0], go)


def simple_gla(leaves: tuple[Tensor, ...], go: Tensor, case: Case) -> Problem:
    """Linear attention with a decay a head, Mamba-2's form."""
    operator = importlib.import_module("fla.ops.simple_gla").chunk_simple_gla
    return Problem(leaves[:4], lambda *v: operator(*v)[0], go)


FLA: dict[str, Make] = {
    "chunk_mesa_net": mesa,
    "chunk_gated_delta_rule": gated_delta,
    "chunk_simple_gla": simple_gla,
}


def problem(case: Case, make: Make, where: str, seed: int) -> Problem:
    """Inputs of a case and a call on them."""
    return make(*drawn(case, where, seed), case)


def sets_of(first: Problem, case: Case, make: Make, where: str) -> list[Problem]:
    """As many sets of inputs as it takes to exceed the cache."""
    count = max(2, min(MOST_SETS, -(-CACHE_BYTES // first.nbytes))) if where == "cuda" else 1
    return [first, *(problem(case, make, where, 10 + n) for n in range(1, count))]


def timed_rows(
    sets: Sequence[Problem],
    where: str,
    budget_s: float,
    deadline: Deadline,
    directions: Sequence[str] = DIRECTIONS,
) -> Iterator[Row]:
    """Each direction by both timings; one that does not run says so."""
    for direction in directions:
        row = {"direction": direction}
        if deadline.over():
            yield row | {"note": deadline.note}
            continue
        works = [p.forward if direction == "forward" else p.both for p in sets]
        try:
            yield row | {"timing": "call"} | time_columns(within(works, where, min(budget_s, deadline.left_s())))
        except Exception as error:  # what does not run here is a finding, not an end
            yield row | {"note": f"does not run: {first_line(error)}"}
            continue
        if where == "cuda":
            yield row | {"timing": "graph"} | _graph_columns(works, budget_s)


def _graph_columns(works: Sequence[Callable[[], object]], budget_s: float) -> Row:
    free()
    try:
        return time_columns(graph_ms(works, side_stream("cuda"), budget_s))
    except Exception as error:
        return {"note": f"no graph: {first_line(error)}"}
    finally:
        free()


def not_finite(p: Problem) -> str:
    """Which of output and gradients are not numbers all over; empty of what does not run, since timing it says so."""
    found = []
    for name, work in (("the output", lambda: [p.forward()]), ("a gradient", p.both)):
        with suppress(Exception):
            found += [name] * (not all(bool(torch.isfinite(v).all()) for v in work()))
    return f"{' and '.join(found)} not finite" if found else ""
