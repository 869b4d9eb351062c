"""The one table of cases of Gated KalmaNet's operator, its inputs, and the float64 loops' answers to them.

A new row joins every test: each backend on a CPU, the kernels in Triton's interpreter, the kernels on a card. Outputs
are compared with the loops' own Chebyshev iterations, gradients with the exact solution's (arXiv 2511.21016, lemma 1).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch

from ssrtrack.kernels import gka_reference
from ssrtrack.kernels.gka import gka
from ssrtrack.kernels.gka_form import GkaForm, GkaInputs, unsolved

Tensor = torch.Tensor
Answers = dict[str, Tensor]
Run = Callable[[GkaInputs, GkaForm], tuple[Tensor, Tensor, Tensor]]
NAMES = GkaInputs._fields[:-1]
OUTPUTS = ("o", "H", "U")
PRECISIONS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# RMS of the error over RMS of the value, per tensor. What is handed back in 8 or 11 bits is off by 1.7e-3 or 2e-4 for
# that alone; float32 goes through equations of condition number 51, once for an output and twice for a gradient.
NEAR = {"float64": (1e-11, 1e-11), "float32": (5e-5, 2e-4), "float16": (1e-3, 1e-3), "bfloat16": (4e-3, 4e-3)}
SOLVED = 150  # iterations after which nothing is left unsolved in float64


@dataclass(frozen=True)
class Case:
    """One row.

    lengths: of sequences packed one after another, in place of B × T. decay: −log γ is uniform in [0, decay].
    alpha: "none" (1), "some" (a gate's numbers), or a number everywhere. keys: "unit", "loose" (norms around 1),
    "zero" (none in the first five steps, and in 3 of 10 after), "repeated" (three keys again and again), "collinear".
    mixed: the gates in float32, whatever q is.
    """

    B: int = 2
    T: int = 7
    H: int = 2
    D: int = 16
    V: int = 16
    steps: int = 30
    ridge: float = 0.02
    dtype: str = "float32"
    decay: float = 0.2
    alpha: str | float = "some"
    keys: str = "unit"
    start: bool = True
    lengths: tuple[int, ...] = ()
    mixed: bool = False

    @property
    def form(self) -> GkaForm:
        return GkaForm(self.ridge, self.steps, self.D**-0.5)


# Where a memory is of rank one, what the iterations leave unsolved is multiplied by 51: such rows have more of them.
CASES: dict[str, Case] = {
    "one step": Case(T=1),
    "one step of nothing": Case(T=1, start=False, steps=60, keys="loose"),
    "short": Case(T=7, B=3, H=1),
    "a chunk": Case(T=64, B=1),
    "a chunk and a step": Case(T=65, B=1, start=False),
    "two chunks and two steps": Case(T=130, B=1, H=1),
    "ten iterations": Case(T=20, steps=10),
    "one iteration": Case(T=9, steps=1),
    "a wider ridge": Case(T=33, ridge=0.1, steps=20),
    "no gate": Case(T=40, decay=0.0, start=False, alpha="none"),
    "strong decay": Case(T=70, B=1, decay=12.0, steps=60, keys="loose"),
    "resets": Case(T=9, decay=2000.0, steps=60, keys="loose"),
    "only attention": Case(T=20, alpha=0.0),
    "only ridge": Case(T=20, alpha=1.0),
    "loose keys": Case(T=30, keys="loose"),
    "zero keys": Case(T=30, keys="zero"),
    "zero keys from nothing": Case(T=70, B=1, keys="zero", start=False),
    "repeated keys": Case(T=70, B=1, keys="repeated", start=False),
    "collinear keys": Case(T=40, keys="collinear", start=False, decay=0.02),
    "collinear keys, no gate": Case(T=30, keys="collinear", start=False, decay=0.0, alpha="none"),
    "wider values": Case(T=20, D=16, V=32),
    "narrower values": Case(T=20, D=32, V=16),
    "32": Case(T=66, B=1, H=1, D=32, V=32),
    "64": Case(T=67, B=1, H=1, D=64, V=64),
    "64, narrow values": Case(T=9, B=1, D=64, V=32, start=False, steps=40),
    "packed": Case(lengths=(3, 1, 9)),
    "packed, an empty one": Case(lengths=(5, 0, 2)),
    "packed chunks": Case(lengths=(65, 4, 64), H=1, start=False),
    "24 and 16, packed": Case(lengths=(5, 65, 4), H=2, D=24, V=16),
    "bf16": Case(T=20, dtype="bfloat16"),
    "bf16, gates in float32": Case(T=66, B=1, D=32, V=32, dtype="bfloat16", mixed=True, start=False),
    "bf16, packed": Case(lengths=(7, 30), dtype="bfloat16", mixed=True),
    "bf16, collinear keys": Case(T=40, keys="collinear", dtype="bfloat16", mixed=True, start=False),
    "float16": Case(T=20, dtype="float16", mixed=True),
    "float64": Case(T=20, dtype="float64"),
}


def on_a_card(case: Case) -> Case:
    """The same row as a GPU is given it: heads of 64 or, from 64 up, 128 numbers, more sequences and steps."""
    wide = 128 if case.D >= 64 else 64
    lengths = 3 * tuple(n * 3 if n > 1 else n for n in case.lengths)
    T = case.T * 3 if case.T > 1 else 1
    return replace(case, B=case.B * 3, T=T, D=wide, V=case.V * wide // case.D, lengths=lengths)


def inputs_of(case: Case, seed: int = 0) -> GkaInputs:
    """Inputs of the sizes and scales of a layer, rounded to the case's precision, on the CPU."""
    g = torch.Generator().manual_seed(seed)
    B, T, N = case.B, case.T, case.B
    if case.lengths:
        B, T, N = 1, sum(case.lengths), len(case.lengths)
    full = PRECISIONS[case.dtype]
    state = torch.float64 if case.dtype == "float64" else torch.float32
    gates = state if case.mixed else full

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=g)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=g)

    k, q = _keys(case.keys, normal(B, T, case.H, case.D), uniform(B, T, case.H)), normal(B, T, case.H, case.D)
    alpha = uniform(B, T, case.H) if isinstance(case.alpha, str) else torch.full((B, T, case.H), case.alpha)
    past = normal(N, case.H, case.D, 3)
    return GkaInputs(
        q=(q / q.norm(dim=-1, keepdim=True)).to(full),
        k=k.to(full),
        v=normal(B, T, case.H, case.V).to(full),
        log_decay=(-case.decay * uniform(B, T, case.H)).to(gates),
        alpha=None if case.alpha == "none" else alpha.to(gates),
        H0=(0.3 * past @ past.mT / case.D).to(state) if case.start else None,
        U0=normal(N, case.H, case.D, case.V).to(state) / case.D if case.start else None,
        offsets=torch.tensor([0, *torch.tensor(case.lengths).cumsum(0).tolist()], dtype=torch.int32)
        if case.lengths
        else None,
    )


def _keys(kind: str, loose: Tensor, chance: Tensor) -> Tensor:
    """Keys (B, T, H, D) of a kind, from normal numbers and uniform ones (B, T, H)."""
    unit = loose / loose.norm(dim=-1, keepdim=True)
    if kind == "zero":
        absent = chance < 0.3
        absent[:, :5] = True
        return torch.where(absent[..., None], 0.0, unit)
    if kind == "repeated":
        return unit[:, torch.arange(unit.shape[1]) % 3]
    if kind == "collinear":
        return unit[:, :1] * (2.0 * chance - 1.0)[..., None]
    return {"unit": unit, "loose": loose / unit.shape[-1] ** 0.5}[kind]


def doubled(inputs: GkaInputs) -> GkaInputs:
    """The same values in float64."""
    return GkaInputs(*(v.double() if v is not None and v.is_floating_point() else v for v in inputs))  # type: ignore[arg-type]


def by(backend: str) -> Run:
    """The public operator on a backend."""

    def run(inputs: GkaInputs, form: GkaForm) -> tuple[Tensor, Tensor, Tensor]:
        state = None if inputs.H0 is None or inputs.U0 is None else (inputs.H0, inputs.U0)
        o, last = gka(
            *inputs[:5], ridge=form.ridge, steps=form.steps, scale=form.scale, initial_state=state,
            output_final_state=True, cu_seqlens=inputs.offsets, backend=backend,
        )  # fmt: skip
        assert last is not None
        return o, *last

    return run


def answers(run: Run, case: Case, inputs: GkaInputs) -> Answers:
    """o, H, U and ∂L/∂ each input under its name, by `run`.

    L weighs o and the last H and U with random numbers, o's rounded to the case's precision.
    """
    leaves = {name: v.detach().requires_grad_() for name in NAMES if (v := getattr(inputs, name)) is not None}
    found = run(inputs._replace(**leaves), case.form)
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, dtype=torch.float64, generator=g) for o in found]
    weights[0] = weights[0].to(PRECISIONS[case.dtype])
    cotangents = [w.to(o.device, o.dtype) for w, o in zip(weights, found, strict=True)]
    grads = torch.autograd.grad(found, list(leaves.values()), cotangents)
    values = dict(zip(OUTPUTS, (o.detach() for o in found), strict=True))
    return {**values, **dict(zip(leaves, grads, strict=True))}


@cache
def exact(name: str) -> Answers:
    """The exact solution's answers to a row of CASES, in float64."""
    return answers(gka_reference.forward, CASES[name], doubled(inputs_of(CASES[name])))


@cache
def expected(name: str) -> Answers:
    """The iterations' outputs and the exact solution's gradients, in float64."""
    o, H, U = gka_reference.forward(doubled(inputs_of(CASES[name])), CASES[name].form, exact=False)
    return {**exact(name), "o": o, "H": H, "U": U}


def tolerance(case: Case, part: str, near: dict[str, tuple[float, float]] = NEAR) -> float:
    """Of an output: its precision's. Of a gradient: also what the iterations leave unsolved, twice over."""
    output, gradient = near[case.dtype]
    return output if part in OUTPUTS else gradient + 2.0 * unsolved(case.ridge, case.steps)


def gap(got: Tensor, want: Tensor) -> float:
    """RMS of the difference over RMS of what is wanted (over 1 where float32 has 0 for that); NaN is infinite."""
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    if got.shape != want.shape:
        raise AssertionError(f"shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    size = want.square().mean().sqrt().item()
    size = size if size > 1e-37 else 1.0
    found = (got - want).square().mean().sqrt().item() / size
    return found if found == found else float("inf")


def faults(got: Answers, want: Answers, case: Case, near: dict[str, tuple[float, float]] = NEAR) -> dict[str, str]:
    """The tensors that are too far off, and by how much; both must have the same tensors.

    near: of each precision, how far outputs and gradients may be off, for kernels that round on their way.
    """
    if got.keys() != want.keys():
        raise AssertionError(f"tensors {sorted(got)}, expected {sorted(want)}")
    gaps = {name: gap(got[name], want[name]) for name in want}
    limits = {name: tolerance(case, name, near) for name in want}
    return {name: f"{gaps[name]:.1e} > {limits[name]:.1e}" for name in want if not gaps[name] <= limits[name]}
