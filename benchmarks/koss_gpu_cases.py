"""What the KOSS benchmark runs: sizes and targets, inputs drawn on the device, and the least that each must cost."""

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch

from ssrtrack.kernels.koss_form import CLOSED, LoopForm, LoopInputs

Tensor = torch.Tensor
STEP_RANGE = (1e-3, 0.1)  # Δ, log-uniform, as a layer begins
MISSED = 0.05  # share of steps without input
DIRECTIONS = ("forward", "backward", "forward+backward")
DTYPES = {"bf16": torch.bfloat16, "mixed": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Case:
    """One row: B sequences of T steps, D channels in heads of `head`, N states, segments of S steps, J passes.

    kind: loop (gains from the innovation), gains (koss_scan) or selective (Mamba's scan). dtype: bf16 for x, Δ, c and
    z; mixed has Δ, c and z in float32; float32 has all so. State, weights and A are float32 always. target_ms: forward,
    and forward and backward; target_share: of the copy's bandwidth; target_times: of plain torch's time over the
    kernel's.
    """

    name: str
    batch: int
    steps: int
    states: int
    segment: int = 1
    passes: int = 0
    channels: int = 64
    head: int = 64
    dtype: str = "bf16"
    operator: str = "discrete"
    kind: str = "loop"
    target_ms: tuple[float, float] | None = None
    target_share: float = 0.0
    target_times: tuple[float, float] | None = None

    @property
    def form(self) -> LoopForm:
        """How the loop is closed."""
        return LoopForm(self.operator, self.segment, self.passes)

    @property
    def heads(self) -> int:
        """H = D / C."""
        return self.channels // self.head

    @property
    def tokens(self) -> int:
        """B T."""
        return self.batch * self.steps

    @property
    def small(self) -> "Case":
        """The same with little of everything, for the kernels that the timed size compiles.

        Those are made for a class of sizes: whether strides are multiples of 16, whether a program has sequences to
        pair. So steps are a multiple of 16 where the timed ones are, and a large batch of few states stays large.
        """
        if self.kind != "loop":
            return self.odd
        pairs = self.segment > 1 and self.states <= 4 and self.batch >= 256
        batch = min(self.batch, 512) if pairs else 3 if self.segment > 1 else 17
        steps = max(32, 2 * self.segment)
        return replace(self, batch=batch, steps=steps + self.steps % 16, channels=min(self.channels, 2 * self.head))

    @property
    def odd(self) -> "Case":
        """Odd sizes, which have kernels of their own: more sequences than one program takes, several blocks in time."""
        batch, steps = (17, 19) if self.kind == "loop" else (3, 67)
        return replace(self, batch=batch, steps=steps, channels=min(self.channels, 2 * self.head))

    @property
    def checks(self) -> tuple["Case", ...]:
        """What is compared with the float64 loops. Odd ends of segments, slow to compile, are left to the tests."""
        return (self.small,) if self.segment > 1 or self.kind != "loop" else (self.small, self.odd)

    @property
    def compiled(self) -> tuple["Case", ...]:
        """Sizes that between them need every kernel of the case, as small as may be."""
        # How a scan cuts its time depends on its length; a loop's length is a class only.
        timed = self if self.kind != "loop" else replace(self, steps=min(self.steps, 64 + self.steps % 16))
        return (*self.checks, timed)


# Where a speed is asked for; "small batch" is where the ratios to plain torch are.
TABLE = (
    Case("long, 16 states", 128, 4096, 16, 16, 0, target_ms=(0.50, 2.0)),
    Case("flights in segments", 512, 720, 2, 16, 0, target_ms=(0.15, 0.45)),
    Case("long, refined segments", 512, 4096, 4, 16, 1, target_ms=(1.2, 4.0)),
    Case("a tracker's batch", 512, 96, 4, 1, 0, target_ms=(0.12, 0.40)),
    Case("gains given, wide", 32, 4096, 16, channels=1024, kind="gains", target_share=0.5),
)
BESIDE = (
    Case("small batch", 32, 720, 2, 16, 0, target_times=(50.0, 30.0)),
    Case("small batch, step by step", 32, 720, 4, 1, 0),
)
ALSO = (
    Case("a tracker's batch, mixed", 512, 96, 4, 1, 0, dtype="mixed"),
    Case("a tracker's batch, float32", 512, 96, 4, 1, 0, dtype="float32"),
    Case("a training's batch, float32", 256, 100, 4, 1, 0, dtype="float32"),
    Case("long, 16 states, mixed", 128, 4096, 16, 16, 0, dtype="mixed"),
    Case("long, 16 states, neumann", 128, 4096, 16, 16, 0, operator="neumann"),
)


def drawn(case: Case, device: str, seed: int) -> LoopInputs:
    """Inputs of the scales a layer has at its start, leaves that want a gradient."""
    g = torch.Generator(device).manual_seed(seed)
    B, T, D, N, H, C = case.batch, case.steps, case.channels, case.states, case.heads, case.head

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=g, device=device)

    def normal(scale: float, *shape: int) -> Tensor:
        return scale * torch.randn(shape, generator=g, device=device)

    low, high = (torch.tensor(v).log().item() for v in STEP_RANGE)
    bias = uniform(-4.0, 0.0, 1, 1, D) + normal(0.5, B, T, D)
    bias[torch.rand((B, T), generator=g, device=device) < MISSED] = CLOSED
    steering = torch.bfloat16 if case.dtype == "bf16" else torch.float32
    rate = -torch.arange(1.0, N + 1.0, device=device)[:, None] * uniform(0.9, 1.1, N, D)
    made = LoopInputs(
        x=normal(1.0, B, T, D).to(DTYPES[case.dtype]),
        delta=uniform(low, high, B, T, D).exp_().to(steering),
        read=normal(1.0, B, T, N).sigmoid_().to(steering),
        bias=bias.to(steering),
        rate=rate,
        w1=normal((2.0 / C) ** 0.5, H, C, C),
        b1=normal(0.1, H, C),
        w2=normal(C**-0.5, H, C, C),
        start=normal(0.1, B, N, D),
        slope=normal(1.0, B, T, D).to(DTYPES[case.dtype]) if case.operator in ("neumann", "exact") else None,
    )
    return LoopInputs(*(v if v is None else v.requires_grad_() for v in made))


@dataclass(frozen=True)
class Ceilings:
    """What the device reaches in the same process: bytes/s of a copy, bf16 FLOP/s, exponentials/s, multiprocessors."""

    copy_bytes_per_s: float
    matmul_flop_per_s: float
    exps_per_s: float
    exps_how: str
    processors: int


CLOCK_HZ = 1.755e9  # an H100 SXM's under load: only for the latency model, whose cycles are an estimate themselves
RESIDENT = 4  # programs on a multiprocessor at once
# Cycles from one segment's carried state to the next one's, each stage waiting for the one before it: open-loop
# prediction, s = e²/(1 + e²), layout, W1, layout, W2, σ, scan. A further pass repeats s … scan.
CHAIN = {"prediction": 120, "s": 40, "layout": 60, "W1": 170, "layout again": 70, "W2": 170, "σ": 60, "scan": 130}
CHAIN_STEP = CHAIN | {"prediction": 90}  # of one step: no product over a segment


def floor_ms(case: Case, direction: str, ceilings: Ceilings) -> tuple[float, str]:
    """The least time of a case, and what sets it: the largest of three.

    memory: bytes of every input read once and every output written once, over a copy's bandwidth; saved states are a
    choice of the kernel's and do not count. mufu: N exponentials of Δ A for each token and channel (A is not tied
    between states), with the gate three more a pass (two reciprocals and an exponential), and for neumann and bucy 2 N
    more that depend on the gain; the backward pass must make them again. chain: segments one after another, each at
    least CHAIN's cycles (twice backward), times the rounds in which all programs get a place. CHAIN is a model, not a
    measurement: more than 100 % of that floor would mean the model is wrong.
    """
    if direction == "forward+backward":
        parts = [floor_ms(case, one, ceilings) for one in ("forward", "backward")]
        return sum(ms for ms, _ in parts), max(parts)[1]
    found = {
        "memory": bytes_moved(case, direction) / ceilings.copy_bytes_per_s,
        "mufu": mufu_count(case) / ceilings.exps_per_s,
        "chain": chain_s(case, direction, ceilings.processors),
    }
    by = max(found, key=lambda name: found[name])
    return 1e3 * found[by], by


def bytes_moved(case: Case, direction: str) -> int:
    """Each input read once, each output written once."""
    if direction == "forward+backward":
        return bytes_moved(case, "forward") + bytes_moved(case, "backward")
    wide, steering = DTYPES[case.dtype].itemsize, 2 if case.dtype == "bf16" else 4
    inputs = case.tokens * case.channels * (wide + 2 * steering) + case.tokens * case.states * steering
    if case.operator in ("neumann", "exact"):
        inputs += case.tokens * case.channels * wide
    if case.kind == "selective":  # Δ but no gain; b beside c
        inputs += case.tokens * steering * (case.states - case.channels)
    state = 4 * case.batch * case.states * case.channels
    weights = 4 * (case.channels * (2 * case.head + 1) if case.kind == "loop" else 0) + 4 * case.states * case.channels
    y = case.tokens * case.channels * wide
    if direction == "forward":
        return inputs + state + weights + y + state
    return 2 * (inputs + state + weights) + y + state  # inputs and ∂L/∂y in, a gradient of each input out


def mufu_count(case: Case) -> int:
    """Exponentials and reciprocals."""
    gate = 3 * (case.passes + 1) if case.kind == "loop" else 0
    late = 2 * case.states * (case.passes + 1) if case.operator in ("neumann", "bucy") else 0
    return case.tokens * case.channels * (case.states + gate + late)


def chain_s(case: Case, direction: str, processors: int) -> float:
    """The latency model of koss_closed_loop; 0 for scans, whose time axis may be cut."""
    if case.kind != "loop":
        return 0.0
    stages = CHAIN_STEP if case.segment == 1 else CHAIN
    again = sum(cycles for name, cycles in stages.items() if name != "prediction")
    cycles = ceil(case.steps / case.segment) * (sum(stages.values()) + case.passes * again)
    programs = ceil(case.batch / max(1, 16 // case.segment)) * case.heads
    rounds = ceil(programs / (RESIDENT * processors))
    return rounds * cycles * (2 if direction == "backward" else 1) / CLOCK_HZ


def columns_of(case: Case) -> dict[str, Any]:
    """A case as a row has it."""
    sizes = {"B": case.batch, "T": case.steps, "D": case.channels, "N": case.states}
    loop = {"S": case.segment, "J": case.passes} if case.kind == "loop" else {"S": "", "J": ""}
    return {"case": case.name} | sizes | loop | {"operator": case.operator, "dtype": case.dtype}
