"""What the Gated KalmaNet benchmark runs: sizes, targets, inputs drawn on the device, and the least that each costs."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from koss_gpu_cases import Ceilings

from ssrtrack.kernels.gka_form import GkaForm

Tensor = torch.Tensor
RIDGE = 0.02
DECAY = 0.05  # −log γ is uniform from 0 to it
CHUNK = 64  # steps, the kernels' in bfloat16
SMALL = 64  # numbers of a key up to which the way back adds up shares of states
WIDE, FINE = 2, 4  # bytes of bfloat16 and float16, of float32
DIRECTIONS = ("forward", "forward+backward")


@dataclass(frozen=True)
class Case:
    """One row: B sequences of T steps, H heads of keys and values of D numbers in bfloat16, r Chebyshev iterations.

    target_ms: forward, and forward and backward. peers: whether others are timed at this size too.
    """

    name: str
    batch: int
    steps: int
    heads: int
    width: int
    rounds: int = 30
    target_ms: tuple[float, float] | None = None
    peers: bool = False

    @property
    def form(self) -> GkaForm:
        return GkaForm(RIDGE, self.rounds, self.width**-0.5)

    @property
    def token_heads(self) -> int:
        """B T H."""
        return self.batch * self.steps * self.heads

    @property
    def short(self) -> "Case":
        """The same kernels at a length that ends within a chunk; what they are compiled for are heads and widths."""
        return replace(self, batch=min(self.batch, 2), steps=min(self.steps, 2 * CHUNK + 3))


TABLE = (
    Case("D 128, 30 iterations", 4, 4096, 8, 128, 30, (0.80, 2.3), peers=True),
    Case("D 64, 30 iterations", 4, 4096, 8, 64, 30, (0.22, 0.80), peers=True),
    Case("D 128, 10 iterations", 4, 4096, 8, 128, 10, (0.40, 1.6)),
    Case("D 64, 10 iterations", 4, 4096, 8, 64, 10),
    Case("D 128, 30 iterations, large", 8, 8192, 16, 128, 30, peers=True),
    Case("D 64, 30 iterations, large", 8, 8192, 16, 64, 30),
    Case("D 128, 10 iterations, large", 8, 8192, 16, 128, 10),
    Case("D 64, 10 iterations, large", 8, 8192, 16, 64, 10),
)


def drawn(case: Case, where: str, seed: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """q, k, v, log γ, α as a layer gives them, leaves that want a gradient, and what comes back to o.

    Queries and keys have norm 1; keys are normal numbers behind a SiLU, which makes them alike. The gates are float32.
    """
    g = torch.Generator(where).manual_seed(seed)
    B, T, H, D = case.batch, case.steps, case.heads, case.width

    def normal() -> Tensor:
        return torch.randn((B, T, H, D), generator=g, device=where)

    def uniform() -> Tensor:
        return torch.rand((B, T, H), generator=g, device=where)

    def unit(rows: Tensor) -> Tensor:
        return (rows / rows.norm(dim=-1, keepdim=True)).bfloat16()

    q, k, v = unit(normal()), unit(torch.nn.functional.silu(normal())), normal().bfloat16()
    leaves = tuple(part.requires_grad_() for part in (q, k, v, -DECAY * uniform(), uniform()))
    return leaves, normal().bfloat16()


class Cost(NamedTuple):
    """Of one kernel, a token and head: operations of matrix products (2 a multiply-add), and bytes."""

    flop: float
    bytes: float


def costs(case: Case) -> dict[str, dict[str, Cost]]:
    """What each kernel has to do, each operand read once and each result written once.

    With D = V and chunks of C: a product of the chunk's rows with a state is 2 D² operations a token, with the chunk's
    other rows 2 C D, none of them halved for being triangular. One iteration is 2 D² + 4 C D. States are bfloat16, two
    of D² numbers a chunk. Gates and other single numbers a token are 4 bytes each.
    """
    D, C, r = case.width, CHUNK, case.rounds
    state, cross, inner = 2.0 * D * D, 2.0 * C * D, 2.0 * C * C
    row, states = float(WIDE * D), 2.0 * WIDE * D * D / C
    walk = Cost(2 * state, 2 * row + states + FINE)
    iterations = r * (state + 2 * cross)
    norm, readout = state + cross, state + 2 * cross
    return {
        "forward": {
            "gates": Cost(0.0, 2 * FINE),
            "states": walk,
            "solve": Cost(iterations + norm + readout, 4 * row + states + 2 * FINE),
        },
        # adjoint: ∂L/∂q̃ (one product with U0, two inside the chunk) and d·(H0 x). states_back, or shares: what a
        # chunk adds to ∂L/∂H0 (three products) and ∂L/∂U0, and it reads H0 again; sums: those added up in place.
        "backward": {
            "states": walk,
            "adjoint": Cost(iterations + readout + state, 7 * row + states + 8 * FINE),
            **(
                {"shares": Cost(4 * state, 5 * row + 1.5 * states + 5 * FINE), "sums": Cost(0.0, 2 * states)}
                if D <= SMALL
                else {"states_back": Cost(4 * state, 5 * row + 1.5 * states + 5 * FINE)}
            ),
            "keys": Cost(2 * state + 6 * cross + 2 * inner, 4 * row + states + 6 * FINE),
            "values": Cost(2 * state + 4 * cross + inner, 8 * row + states + 5 * FINE),
        },
    }


def kept(case: Case) -> Cost:
    """What the forward's solve writes further where a backward follows: x in float16, its size and ‖H‖_F."""
    return Cost(0.0, float(WIDE * case.width) + 2 * FINE)


def parts_of(case: Case, direction: str) -> list[Cost]:
    """Of a direction's kernels, one after another; where a backward follows, the solve writes more."""
    table = costs(case)
    if direction == "forward":
        return list(table["forward"].values())
    solve = Cost(*(a + b for a, b in zip(table["forward"]["solve"], kept(case), strict=True)))
    return [*(table["forward"] | {"solve": solve}).values(), *table["backward"].values()]


def floor_of(case: Case, cost: Cost, found: Ceilings) -> tuple[float, str]:
    """Least milliseconds of a kernel, and what sets it."""
    both = {"products": cost.flop / found.matmul_flop_per_s, "memory": cost.bytes / found.copy_bytes_per_s}
    by = max(both, key=lambda name: both[name])
    return 1e3 * case.token_heads * both[by], by


def floor_ms(case: Case, direction: str, found: Ceilings) -> tuple[float, str]:
    """The kernels' floors summed, since one does not overlap the other, and what sets most of that.

    Ceilings are a bfloat16 product's rate and a copy's, measured in the same process. Not counted, so that no kernel
    can come to 100 %: elementwise work between products, products of gates (TensorFloat32, half the rate), and that a
    walk through chunks is sequential.
    """
    parts = parts_of(case, direction)
    found_by = [floor_of(case, cost, found) for cost in parts]
    sums = {by: sum(ms for ms, other in found_by if other == by) for _, by in found_by}
    return sum(sums.values()), max(sums, key=lambda by: sums[by])


def columns_of(case: Case) -> dict[str, Any]:
    """A case as a row has it."""
    sizes = {"B": case.batch, "T": case.steps, "H": case.heads, "D": case.width}
    return {"case": case.name} | sizes | {"iterations": case.rounds, "dtype": "bf16"}
