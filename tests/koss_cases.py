"""The one table of cases of KOSS's closed loop, its inputs, and the float64 loops' answers to them.

A new row joins every test: each backend on a CPU, the kernels in Triton's interpreter, the kernels on a card.
"""

import sys
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from ssrtrack.kernels.koss_form import CLOSED, LoopForm, LoopInputs
from ssrtrack.kernels.reference import koss_loop

FOLDER = str(Path(__file__).parents[1] / "benchmarks")
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)

from koss_gpu_rounding import as_multiplied as as_multiplied  # noqa: E402

Tensor = torch.Tensor
NAMES = LoopInputs._fields[:-1]
TIMED = ("x", "delta", "read", "bias", "slope")
PRECISIONS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# RMS of the error over RMS of the value, per tensor. What is handed back in 8 or 11 bits is off by 1.7e-3 or 2e-4 for
# that alone; kernels that also round their gate's operands to bfloat16 were found within 5e-3.
NEAR = {"float64": 1e-11, "float32": 2e-5, "float16": 2e-3, "bfloat16": 1.5e-2}
# The same beside `as_multiplied`, which rounds the gate's operands too: what is left is the precision of what is handed
# back, and sums that fall on the other side of a rounding: they move a hidden unit over its kink now and then.
NEAR_ROUNDED = NEAR | {"bfloat16": 4e-3}
BEHIND_RELU = {"w1": 1e-2, "b1": 1e-2}
KINK = 2e-6  # how near 0 a hidden unit is on either side of its ReLU to sums in float32


@dataclass(frozen=True)
class Case:
    """One row.

    lengths: of sequences packed one after another, in place of B × T. time_first: views of (T, B, …) tensors.
    mixed: x and slope in `dtype`, what steers the loop in float32, as a layer's autocast leaves them. seen: the gain
    sees the prediction too.
    """

    operator: str = "discrete"
    B: int = 2
    T: int = 7
    H: int = 1
    C: int = 16
    N: int = 4
    S: int = 1
    J: int = 0
    dtype: str = "float32"
    mask: bool = False
    lengths: tuple[int, ...] = ()
    slope: bool = False
    lead: bool = False
    start: bool = True
    innovate: bool = True
    time_first: bool = False
    mixed: bool = False
    seen: bool = False

    @property
    def form(self) -> LoopForm:
        return LoopForm(self.operator, self.S, self.J, self.innovate)


CASES: dict[str, Case] = {
    "one step": Case(T=1, B=1),
    "odd": Case(T=9, B=3, mask=True),
    "two heads": Case(T=5, H=2, lead=True, slope=True),
    "time first": Case(T=6, B=3, H=2, N=3, time_first=True, mask=True),
    "packed": Case(lengths=(3, 1, 5), N=2, mask=True),
    "more sequences than a block has": Case(T=2, B=37, N=2),
    "bf16": Case(T=7, dtype="bfloat16", mask=True),
    "bf16, steered in float32": Case(T=5, dtype="bfloat16", mask=True, mixed=True, slope=True, lead=True),
    "float16, where a closed gate is -inf": Case(lengths=(3, 1, 2), dtype="float16", mask=True, N=2),
    "input only": Case(T=5, innovate=False),
    "16 states": Case(T=3, N=16, start=False),
    "neumann": Case("neumann", T=6, slope=True, mask=True),
    "neumann, no slope": Case("neumann", T=6, N=2),
    "kalman": Case("kalman", T=6, slope=True, lead=True, mask=True),
    "exact": Case("exact", T=6, slope=True, N=3, mask=True),
    "bucy": Case("bucy", T=5, mask=True, N=2),
    "bucy, led, packed": Case("bucy", lengths=(4, 1, 6), slope=True, lead=True),
    "segments": Case(T=8, B=1, S=4),
    "odd segments, two heads": Case(T=7, B=1, S=4, H=2, mask=True, slope=True, lead=True),
    "refined": Case(T=5, S=4, J=1, mask=True),
    "refined twice": Case(T=6, B=1, S=4, J=2, N=2),
    "a segment longer than the sequence": Case(T=5, B=1, S=8, J=1),
    "bf16 segments": Case(T=10, B=1, S=8, J=1, dtype="bfloat16", mask=True),
    "bf16 segments, steered in float32": Case(T=18, B=1, S=16, dtype="bfloat16", mixed=True, time_first=True),
    "float16 segments": Case(T=5, B=1, S=4, dtype="float16", mask=True, N=2),
    "packed segments": Case(lengths=(6, 1, 4), S=4, J=1, N=2),
    "segments, input only": Case(T=6, B=1, S=4, J=1, innovate=False),
    "neumann segments": Case("neumann", T=6, B=1, S=4, J=1, slope=True, mask=True),
    "kalman segments": Case("kalman", T=6, B=1, S=4, J=1, mask=True),
    "exact segments": Case("exact", T=6, S=4, J=1, slope=True, time_first=True),
    "bucy segments": Case("bucy", T=5, B=1, S=2, J=1, slope=True, lead=True),
    "16 states, 32 steps a segment": Case(T=31, S=32, N=16, B=1, start=False),
    "prediction seen": Case(T=9, B=3, mask=True, seen=True),
    "prediction seen, two heads": Case(T=5, B=3, H=2, N=3, time_first=True, mask=True, seen=True),
    "prediction seen, packed": Case(lengths=(3, 1, 5), N=2, mask=True, seen=True),
    "prediction seen, bf16": Case(T=7, dtype="bfloat16", mask=True, seen=True),
    "prediction seen, float16": Case(lengths=(3, 1, 2), dtype="float16", mask=True, N=2, seen=True),
    "prediction seen, neumann": Case("neumann", T=5, N=2, slope=True, mask=True, seen=True),
    "prediction seen, kalman": Case("kalman", T=6, slope=True, lead=True, mask=True, seen=True),
    "prediction seen, exact": Case("exact", T=5, slope=True, N=3, mask=True, seen=True),
    "prediction seen, bucy": Case("bucy", T=5, mask=True, N=2, seen=True),
    "prediction seen, segments": Case(T=8, B=1, S=4, H=2, seen=True),
    "prediction seen, segments refined": Case(T=6, S=4, J=2, N=2, mask=True, seen=True),
    "prediction seen, packed segments": Case(lengths=(6, 1, 4), S=4, J=1, N=2, seen=True),
    "prediction seen, kalman segments": Case("kalman", T=6, B=1, S=4, J=1, mask=True, seen=True),
}


# The rows that the Triton kernels take: a gain that sees the prediction has a kernel for one step a segment alone.
FUSED = {name: case for name, case in CASES.items() if not (case.seen and case.S > 1)}


def on_a_card(case: Case) -> Case:
    """The same row as a GPU tests it: 64 channels, several programs with an odd end, several segments and a rest."""

    def longer(steps: int) -> int:
        return 3 * steps + 2 * case.S if steps > 1 else 1

    lengths = 2 * tuple(longer(n) for n in case.lengths)
    return replace(case, C=64, B=case.B * 2 + 3, T=longer(case.T), lengths=lengths)


def inputs_of(case: Case, seed: int = 0) -> LoopInputs:
    """Inputs of the sizes and scales of a layer, rounded to the case's precision, on the CPU."""
    g = torch.Generator().manual_seed(seed)
    B, D = len(case.lengths) or case.B, case.H * case.C
    rows, T = (1, sum(case.lengths)) if case.lengths else (B, case.T)
    full, state = PRECISIONS[case.dtype], torch.float64 if case.dtype == "float64" else torch.float32
    steering = state if case.mixed else full

    def normal(*shape: int, dtype: torch.dtype = state, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, dtype=torch.float64, generator=g)).to(dtype)

    def uniform(*shape: int, dtype: torch.dtype = state) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=g).to(dtype)

    rows_seen = 2 * case.C if case.seen else case.C
    x, bias = normal(rows, T, D, dtype=full), normal(rows, T, D, dtype=steering) - 1.0
    if case.mask:
        missing = uniform(rows, T) < 0.3
        x = torch.where(missing[..., None], 0.0, x)
        bias = torch.where(missing[..., None], CLOSED, bias)
    read = uniform(rows, T, case.N, dtype=steering)
    if case.operator == "kalman":
        read = read / read.norm(dim=-1, keepdim=True)
    made = LoopInputs(
        x=x,
        delta=uniform(rows, T, D, dtype=steering),
        read=read,
        bias=bias,
        rate=-0.05 - 2.0 * uniform(case.N, D),
        w1=normal(case.H, rows_seen, case.C, scale=(2.0 / rows_seen) ** 0.5),
        b1=normal(case.H, case.C, scale=0.3),
        w2=normal(case.H, case.C, case.C, scale=case.C**-0.5),
        start=normal(B, case.N, D) * float(case.start),
        slope=normal(rows, T, D, dtype=full) if case.slope else None,
        lead=uniform(D) if case.lead else None,
        offsets=torch.tensor([0, *torch.tensor(case.lengths).cumsum(0).tolist()], dtype=torch.int32)
        if case.lengths
        else None,
    )
    if case.time_first:
        views = {name: _time_first(v) for name in TIMED if (v := getattr(made, name)) is not None}
        made = made._replace(**views)
    return made


def _time_first(v: Tensor) -> Tensor:
    return v.transpose(0, 1).contiguous().transpose(0, 1)


def doubled(inputs: LoopInputs) -> LoopInputs:
    """The same values in float64."""
    whole: Any = [v.double() if v is not None and v.is_floating_point() else v for v in inputs]
    return LoopInputs(*whole)


Answers = dict[str, Tensor]


def answers(run: Any, case: Case, inputs: LoopInputs) -> Answers:
    """y, the last state and ∂L/∂ each input under its name, by run(inputs, form) → (y, last).

    L weighs y and the last state with random numbers, rounded to the case's precision.
    """
    leaves = {name: v.detach().requires_grad_() for name in NAMES if (v := getattr(inputs, name)) is not None}
    y, last = run(inputs._replace(**leaves), case.form)
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, dtype=torch.float64, generator=g) for o in (y, last)]
    weights[0] = weights[0].to(PRECISIONS[case.dtype])
    cotangents = [w.to(o.device, o.dtype) for w, o in zip(weights, (y, last), strict=True)]
    grads = torch.autograd.grad((y, last), list(leaves.values()), cotangents)
    return {"y": y.detach(), "last": last.detach(), **dict(zip(leaves, grads, strict=True))}


def reference(inputs: LoopInputs, form: LoopForm) -> tuple[Tensor, Tensor]:
    """`koss_loop` for every sequence."""
    timed = {name: v for name in TIMED if (v := getattr(inputs, name)) is not None}
    if inputs.offsets is None:

        def one(start: Tensor, sequence: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            return koss_loop(inputs._replace(start=start, **sequence), form)

        y, last = torch.vmap(one)(inputs.start, timed)
        return y, last
    ends = inputs.offsets.tolist()
    found = []
    for start, first, end in zip(inputs.start, ends[:-1], ends[1:], strict=True):
        sequence = {name: v[0, first:end] for name, v in timed.items()}
        found.append(koss_loop(inputs._replace(start=start, offsets=None, **sequence), form))
    return torch.cat([y for y, _ in found])[None], torch.stack([last for _, last in found])


def drawn_clear(case: Case, device: str) -> tuple[LoopInputs, Answers]:
    """Inputs, on the CPU, and float64's answers to them, from the first seed that puts no hidden unit on its kink.

    There even float32 sums decide by their rounding whether a unit counts, and one unit is 1 % of a small gradient.
    """
    for seed in range(40):
        inputs, nearest = inputs_of(case, seed), [1.0]
        whole: Any = [v if v is None else v.to(device) for v in doubled(inputs)]
        run = partial(as_multiplied, case.dtype == "bfloat16", nearest=nearest)
        want = answers(run, case, LoopInputs(*whole))
        if min(nearest) > KINK:
            return inputs, want
    raise AssertionError(f"40 seeds put a hidden unit within {KINK:.0e} of its kink: {case} is too large")


def assert_rounded_alike(case: Case, got: Answers, want: Answers) -> None:
    """Each tensor within what its precision leaves beside `as_multiplied`."""
    assert got.keys() == want.keys(), (sorted(got), sorted(want))
    limit = NEAR_ROUNDED[case.dtype]
    limits = {name: max(limit, BEHIND_RELU.get(name, 0.0)) if case.dtype == "bfloat16" else limit for name in want}
    errors = {name: gap(got[name], want[name]) for name in want}
    over = {name: f"{error:.1e} > {limits[name]:.1e}" for name, error in errors.items() if error > limits[name]}
    assert not over, over


@cache
def expected(name: str) -> Answers:
    """The reference's answers to a row of CASES, in float64."""
    return answers(reference, CASES[name], doubled(inputs_of(CASES[name])))


def gap(got: Tensor, want: Tensor) -> float:
    """RMS of the difference over RMS of what is wanted (over 1 where all of that is 0); NaN is infinite."""
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    if got.shape != want.shape:
        raise AssertionError(f"shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    size = want.square().mean().sqrt().item() or 1.0
    found = (got - want).square().mean().sqrt().item() / size
    return found if found == found else float("inf")


def worst(got: Answers, want: Answers) -> tuple[str, float]:
    """The tensor that is furthest off, and its gap; both must have the same tensors."""
    if got.keys() != want.keys():
        raise AssertionError(f"tensors {sorted(got)}, expected {sorted(want)}")
    return max(((name, gap(got[name], want[name])) for name in want), key=lambda item: item[1])
