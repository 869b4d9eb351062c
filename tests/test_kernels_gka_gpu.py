"""Gated KalmaNet's Triton kernels on a card against float64 on the card. Skips without a card.

The float64 answers are the torch backend's, which `test_kernels_gka` holds to the loops: outputs after as many
iterations, gradients of the exact solution (150 iterations leave nothing). On a card bfloat16 inputs take another way
through the kernels than in the interpreter: states in bfloat16, equations in float16. Kernels take seconds to compile,
so one test asks of a row all there is to ask.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from ssrtrack.kernels import gka as public
from ssrtrack.kernels.gka import gka, gka_step
from ssrtrack.kernels.gka_form import GkaInputs
from tests.gka_cases import OUTPUTS, SOLVED, Answers, Case, answers, by, doubled, faults, gap, inputs_of

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

Tensor = torch.Tensor
ROUGH: dict[str, Any] = {"dtype": "bfloat16", "mixed": True}
WIDE: dict[str, Any] = {"D": 128, "V": 128, **ROUGH}
MIDDLE: dict[str, Any] = {"D": 64, "V": 64, **ROUGH}
ROWS: dict[str, Case] = {
    "128": Case(T=333, **WIDE),
    "128, ten iterations": Case(B=1, T=130, steps=10, start=False, **WIDE),
    "128, no alpha": Case(B=1, T=200, alpha="none", start=False, **WIDE),
    "128, no gate": Case(B=1, T=1000, decay=0.0, **WIDE),
    "128, a decay of 1.2 a step": Case(B=1, T=200, decay=2.4, **WIDE),
    "128, strong decay": Case(B=1, T=200, decay=12.0, steps=60, keys="loose", **WIDE),
    "128, repeated keys": Case(B=1, T=200, keys="repeated", start=False, **WIDE),
    "128, zero keys": Case(B=1, T=150, keys="zero", start=False, **WIDE),
    "128, packed": Case(lengths=(65, 1, 0, 300, 64), **WIDE),
    "128, spans": Case(T=1500, **WIDE),
    "64": Case(B=3, T=500, H=3, **MIDDLE),
    "64, one step": Case(B=3, T=1, **MIDDLE),
    "64, a wider ridge": Case(T=129, ridge=0.1, steps=20, **MIDDLE),
    "64, collinear keys": Case(B=1, T=300, keys="collinear", start=False, **MIDDLE),
    # Of norm 0.02, where nothing came before: 1/‖H‖ times what is in the equations leaves float16's range.
    "64, collinear keys, a small one first": Case(B=1, T=200, keys="collinear", start=False, **MIDDLE),
    "64, zero keys": Case(B=1, T=300, keys="zero", start=False, **MIDDLE),
    "64, spans": Case(T=1500, **MIDDLE),
    "64, values of 256": Case(B=1, T=100, **MIDDLE | {"V": 256}),
    "48, values of 80": Case(B=1, T=100, **MIDDLE | {"D": 48, "V": 80}),
    "float32, 64": Case(T=200, D=64, V=64),
    "float32, 64, strong decay": Case(B=1, T=200, D=64, V=64, decay=12.0, steps=60, keys="loose"),
    "float32, 64, collinear keys": Case(B=1, T=200, D=64, V=64, keys="collinear", start=False, steps=60),
    "float32, 128": Case(B=1, T=200, D=128, V=128),
    "float32, 128, repeated keys": Case(B=1, T=200, D=128, V=128, keys="repeated", start=False, steps=60),
    "float32, 128, one step of nothing": Case(T=1, D=128, V=128, start=False, steps=60),
    "float16, 64": Case(T=130, D=64, V=64, dtype="float16", mixed=True),
    # Last, since where it dies of an illegal access, as unpadded it did, no row behind it runs.
    "float32, 24, values of 16, packed": Case(lengths=(65, 4, 130), D=24, V=16),
}
# RMS of the error over RMS of the value, of outputs and of gradients, to which `faults` adds what the iterations leave
# of gradients. bfloat16: what is rounded to 8 bits (states and values: 1.7e-3 each) goes into some four products behind
# one another, and into ∂L/∂log γ as sums that cancel. float32 and float16: three products of TF32 for one, so 2e-6 of
# rounding times a condition number of 51, once for outputs and twice for gradients; float16's own last digit is 2e-4.
NEAR_ON_CARD = {"bfloat16": (2.5e-2, 2.5e-2), "float32": (2e-4, 5e-4), "float16": (1e-3, 2e-3)}
# A memory of rank one has the whole condition number: what M, K and x lose in float16 (2.4e-4 each) and H0 in bfloat16
# (2e-3, but spread over the memory's D directions) is up to 51 times as much across the keys, and where a query is
# across them, an output's small part along them is that much off. In the interpreter, float16 alone, a third to a
# fifth of these limits was found: strong decays leave such a memory at every step, decays of 1.2 at some; of collinear
# keys the first ones' steps make most of it, the more the smaller they are. In float32 the same is seen in ∂L/∂α after
# one key, g·(x − q) with x 50 times as large across the key as g is along it.
LOOSER = {
    "128, strong decay": (0.05, 0.15),
    "128, a decay of 1.2 a step": (0.05, 0.10),
    "64, collinear keys": (0.08, 0.15),
    "64, collinear keys, a small one first": (0.15, 0.20),
    "float32, 128, one step of nothing": (2e-4, 6e-3),
}
PLAIN = ("128", "128, packed", "64", "float32, 128")  # rows of which the kernel that keeps nothing is asked, too


def on_card(inputs: GkaInputs) -> GkaInputs:
    moved: Any = [v if v is None else v.to("cuda") for v in inputs]
    return GkaInputs(*moved)


def wanted(case: Case, inputs: GkaInputs) -> Answers:
    """The iterations' outputs and the exact solution's gradients, in float64."""
    exact = answers(by("torch"), replace(case, steps=SOLVED), doubled(inputs))
    few = by("torch")(doubled(inputs), case.form)
    return {**exact, **dict(zip(OUTPUTS, few, strict=True))}


def along(answers: Answers, inputs: GkaInputs) -> Answers:
    """∂L/∂k in proportion to the keys: that of a small one is as large as it is small, and would be all there is."""
    return answers | {"k": answers["k"].double() * inputs.k.double().norm(dim=-1, keepdim=True)}


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is asked for empty comes full of NaN, so that an output nobody writes shows."""

    def filled(make: Any) -> Any:
        def made(*given: Any, **options: Any) -> Any:
            v = make(*given, **options)
            return v.fill_(float("nan")) if v.is_floating_point() else v

        return made

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, filled(getattr(owner, name)))


@pytest.fixture
def drawn() -> Iterator[GkaInputs]:
    """Inputs of a layer's sizes in bfloat16, without a state."""
    yield on_card(inputs_of(Case(T=150, start=False, **MIDDLE)))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", ROWS)
def test_triton_gives_float64s_outputs_and_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same bits twice: nothing is summed in the order in which programs happen to end."""
    case, inputs = ROWS[name], on_card(inputs_of(ROWS[name]))
    if "spans" in name:
        kernels: Any = public._triton()
        monkeypatch.setattr(kernels, "FREE", 0)
        plan = kernels.plan_of(inputs, case.form)
        assert plan.span < plan.chunks
    first, second = (answers(by("triton"), case, inputs) for _ in range(2))
    near = {**NEAR_ON_CARD, case.dtype: LOOSER.get(name, NEAR_ON_CARD[case.dtype])}
    got, want = first, wanted(case, inputs)
    if case.keys == "collinear":
        got, want = along(got, inputs), along(want, inputs)
    assert faults(got, want, case, near) == {}
    assert not [part for part, value in first.items() if not torch.equal(value, second[part])]
    if name in PLAIN:
        plain = dict(zip(OUTPUTS, by("triton")(inputs, case.form), strict=True))
        assert not any(part.requires_grad for part in plain.values())
        assert faults(plain, {part: first[part] for part in OUTPUTS}, case, {case.dtype: (4e-3, 0.0)}) == {}


def test_a_card_takes_triton_by_itself_and_torch_where_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels: Any = public._triton()
    taken, plain = [], kernels.forward

    def noted(inputs: GkaInputs, *given: Any, **options: Any) -> Any:
        taken.append(inputs.q.shape[-1])
        return plain(inputs, *given, **options)

    monkeypatch.setattr(kernels, "forward", noted)
    for case in (Case(T=150, **MIDDLE), Case(T=9, D=144, V=16), Case(T=9, dtype="float64")):
        inputs = on_card(inputs_of(case))
        auto, torch_ = by("auto")(inputs, case.form)[0], by("torch")(inputs, case.form)[0]
        assert gap(auto, torch_) < (NEAR_ON_CARD["bfloat16"][0] if case.D == 64 else 1e-6)
    assert taken == [64]


def test_two_halves_are_the_whole() -> None:
    case = Case(B=2, T=201, **WIDE)
    inputs = on_card(inputs_of(case))
    whole = by("triton")(inputs, case.form)
    parts = [GkaInputs(*(v if v is None else v[:, at] for v in inputs[:5])) for at in (slice(0, 77), slice(77, None))]
    first, H, U = by("triton")(parts[0]._replace(H0=inputs.H0, U0=inputs.U0), case.form)
    second, H, U = by("triton")(parts[1]._replace(H0=H, U0=U), case.form)
    halves = torch.cat([first, second], 1), H, U
    assert all(gap(a, b) < 1.5e-2 for a, b in zip(halves, whole, strict=True))


def test_steps_are_the_sequence() -> None:
    """`gka_step` has float32 all the way, so has this sequence."""
    case = Case(T=130, D=64, V=64)
    inputs = on_card(inputs_of(case))
    want = by("triton")(inputs, case.form)
    state, found = (inputs.H0, inputs.U0), []
    for t in range(case.T):
        o, state = gka_step(*(v[:, t] for v in inputs[:5]), state)
        found.append(o)
    assert gap(torch.stack(found, 1), want[0]) < 2e-4
    assert all(gap(part, last) < 1e-5 for part, last in zip(state, want[1:], strict=True))


def test_tensors_in_any_order_of_memory_are_taken() -> None:
    """A layer's are time first; heads first, and numbers that do not lie side by side, come too."""
    case = Case(B=3, T=100, **MIDDLE)
    inputs = on_card(inputs_of(case))
    want = answers(by("triton"), case, inputs)
    for axes in ((0, 1), (1, 2), (1, 3)):
        turned = [v.transpose(*axes).contiguous().transpose(*axes) for v in inputs[:3]]
        got = answers(by("triton"), case, GkaInputs(*turned, *inputs[3:]))
        assert all(gap(got[name], want[name]) < 1e-3 for name in want)


def test_memory_that_begins_anywhere_is_taken() -> None:
    """Kernels compiled for tensors at multiples of 16 bytes are remembered; a view may begin between."""
    case = Case(B=2, T=100, **MIDDLE)
    inputs = on_card(inputs_of(case))
    want = answers(by("triton"), case, inputs)
    for place in range(len(inputs)):
        moved = [v if v is None or i != place else between(v) for i, v in enumerate(inputs)]
        got = answers(by("triton"), case, GkaInputs(*moved))
        assert all(gap(got[name], want[name]) < 1e-3 for name in want)


def between(v: Tensor) -> Tensor:
    """The same numbers, one further on in memory than a tensor of its own begins."""
    return torch.cat([v.new_zeros(1), v.flatten()])[1:].view(v.shape)


def test_torch_compile_takes_the_operator(drawn: GkaInputs) -> None:
    """What is around the operator is compiled, the operator is called from between."""

    def around(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, alpha: Tensor) -> Tensor:
        o, _ = gka(2.0 * q, k, v, -log_decay.abs(), alpha.clamp(0.0, 1.0))
        return o.float().tanh()

    found = []
    for run in (around, torch.compile(around)):
        leaves = [v.clone().requires_grad_() for v in drawn[:5] if v is not None]
        y = run(*leaves)
        found.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    assert all(gap(got, want) < 4e-3 for got, want in zip(found[1], found[0], strict=True))


def test_autocast_leaves_the_operator_in_its_own_precision(drawn: GkaInputs) -> None:
    """Gates and the state stay in float32; what differs in precision is taken in autocast's."""
    want, state = gka(*drawn[:5], output_final_state=True)
    single = [v.float() for v in drawn[:3]]
    alone, _ = gka(*single, *drawn[3:5])
    with torch.autocast("cuda", dtype=torch.bfloat16):
        got, last = gka(*drawn[:5], output_final_state=True)
        mixed, _ = gka(drawn.q, drawn.k, single[2], *drawn[3:5])
        inside, _ = gka(*single, *drawn[3:5])
    assert state is not None and last is not None
    assert torch.equal(got, want) and torch.equal(mixed, want) and torch.equal(last[1], state[1])
    assert last[0].dtype == torch.float32
    assert inside.dtype == torch.float32 and torch.equal(inside, alone)
