"""Gated KalmaNet's operator: every backend against the float64 loops, its refusals, and the choice of a backend."""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.kernels import gka as public
from ssrtrack.kernels import gka_chunks, gka_reference, gka_torch
from ssrtrack.kernels.gka import gka, gka_step
from ssrtrack.kernels.gka_form import GkaForm, GkaInputs, relaxations, shortest_step, unsolved
from tests.gka_cases import (
    CASES,
    NEAR,
    OUTPUTS,
    SOLVED,
    Case,
    answers,
    by,
    doubled,
    exact,
    expected,
    faults,
    gap,
    inputs_of,
)

Tensor = torch.Tensor
BRIEF = Case(T=6, D=4, V=3)


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
def interpreted() -> Iterator[None]:
    if public._triton() is None:
        pytest.skip("there are no Triton kernels of this operator here")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton compiles for the card here")
    # The interpreter says what numpy warns of where e^z under- or overflows on the way to 0.
    with np.errstate(all="ignore"):
        yield


def assert_answers(name: str, backend: str) -> None:
    """Outputs, last state and every gradient of a row; and the same output where no gradient is asked for."""
    case = CASES[name]
    inputs, want = inputs_of(case), expected(name)
    got = answers(by(backend), case, inputs)
    state = torch.float64 if case.dtype == "float64" else torch.float32
    for part, value in got.items():
        given = {"o": inputs.v.dtype, "H": state, "U": state}.get(part) or getattr(inputs, part).dtype
        assert value.dtype == given, part
    assert faults(got, want, case) == {}
    plain = by(backend)(inputs, case.form)
    assert not any(part.requires_grad for part in plain)
    assert all(torch.equal(part, got[of]) for part, of in zip(plain, OUTPUTS, strict=True))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", CASES)
def test_torch_gives_the_references_outputs_and_gradients(name: str) -> None:
    assert_answers(name, "torch")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("chunk", [gka_chunks.CHUNK, 5])
@pytest.mark.parametrize("name", CASES)
def test_torch_with_enough_iterations_is_the_exact_solution(
    name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To rounding in float64, gradients too, so no path of any gradient is missing; whatever the chunk."""
    monkeypatch.setattr(gka_chunks, "CHUNK", chunk)
    case = replace(CASES[name], steps=SOLVED)
    got = answers(by("torch"), case, doubled(inputs_of(case)))
    assert faults(got, exact(name), replace(case, dtype="float64")) == {}


@pytest.mark.parametrize("name", ["short", "packed, an empty one", "zero keys", "bf16", "no gate"])
def test_the_backend_reference_is_the_loops(name: str) -> None:
    case, inputs = CASES[name], inputs_of(CASES[name])
    got = answers(by("reference"), case, inputs)
    assert got["o"].dtype == inputs.v.dtype and got["H"].dtype == torch.float32
    rounded = {**NEAR, "float32": (1e-6, 1e-6)}
    assert faults(got, exact(name), replace(case, steps=SOLVED), rounded) == {}


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("alpha", ["some", "none"])
def test_the_references_gradient_is_that_of_finite_differences(alpha: str, adaptive: bool) -> None:
    """What every gradient is compared with rests on autograd, and on the formulas being smooth."""
    case = Case(B=1, T=3, H=1, D=3, V=2, dtype="float64", alpha=alpha, keys="loose")
    inputs = inputs_of(case)
    leaves = {name: v.requires_grad_() for name, v in inputs._asdict().items() if v is not None}
    form = replace(case.form, adaptive=adaptive)

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        return gka_reference.forward(inputs._replace(**dict(zip(leaves, values, strict=True))), form)

    assert torch.autograd.gradcheck(run, tuple(leaves.values()), atol=1e-7)


@pytest.mark.parametrize("start", [True, False])
def test_a_constant_ridge_is_solved_and_differentiated_too(start: bool) -> None:
    """λ = a, for ablations: its iterations differ from step to step, its gradient has no path through ‖H‖_F."""
    case = Case(T=20, D=8, V=5, ridge=0.3, start=start, keys="zero", dtype="float64")
    inputs = inputs_of(case)

    def loops(inputs: GkaInputs, form: GkaForm) -> tuple[Tensor, Tensor, Tensor]:
        return gka_reference.forward(inputs, replace(form, adaptive=False))

    def chunks(inputs: GkaInputs, form: GkaForm) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = public._Backend.apply(  # type: ignore[no-untyped-call]
            gka_torch, replace(form, adaptive=False), *inputs
        )
        return found

    want = answers(loops, case, inputs)
    solved = replace(case, steps=SOLVED)
    assert faults(answers(chunks, solved, inputs), want, solved) == {}
    few = replace(case.form, steps=4, adaptive=False)
    o, _, _ = gka_reference.forward(inputs, few, exact=False)
    assert gap(gka_torch.forward(inputs, few, False)[0], o) < 1e-13
    assert gap(o, want["o"]) > 1e-5


# Products of bfloat16 numbers, and states between chunks kept in bfloat16, cost the kernels a digit more.
ROUNDED = {**NEAR, "bfloat16": (2e-2, 2e-2), "float16": (2e-2, 2e-2)}
SINGLE = [name for name, case in CASES.items() if case.dtype != "float64"]
# Rows whose way back in the kernels another row goes too: their outputs alone are asked for here, their gradients of
# the backend torch. Heads of 24 and of 16 values go it padded, below.
ALIKE_BACK = {
    "one step", "one step of nothing", "short", "a chunk", "a chunk and a step", "32", "packed", "packed chunks",
    "24 and 16, packed", "narrower values", "ten iterations", "a wider ridge", "only ridge", "loose keys", "zero keys",
    "repeated keys", "collinear keys", "collinear keys, no gate", "bf16, gates in float32", "bf16, packed",
    "bf16, collinear keys",
}  # fmt: skip


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", SINGLE)
def test_triton_gives_the_references_outputs(name: str) -> None:
    case, want = CASES[name], expected(name)
    plain = dict(zip(OUTPUTS, by("triton")(inputs_of(case), case.form), strict=True))
    assert faults(plain, {part: want[part] for part in OUTPUTS}, case, ROUNDED) == {}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", [name for name in SINGLE if name not in ALIKE_BACK])
def test_triton_gives_the_exact_solutions_gradients(name: str) -> None:
    case = CASES[name]
    assert faults(answers(by("triton"), case, inputs_of(case)), expected(name), case, ROUNDED) == {}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", ["24 and 16, packed", "narrower values"])
def test_narrow_heads_are_padded_to_64_for_a_card(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrower tiles died there of an illegal access; the padded ones run here."""
    kernels: Any = public._triton()
    monkeypatch.setattr(kernels, "_interpreted", lambda: False)
    case = CASES[name]
    plan = kernels.plan_of(inputs_of(case), case.form)
    assert (plan.DP, plan.VP) == (64, 64)
    assert faults(answers(by("triton"), case, inputs_of(case)), expected(name), case, ROUNDED) == {}


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("name", ["q", "k", "v", "log_decay", "alpha", "H0", "U0"])
def test_gradients_of_one_input_alone(name: str, backend: str) -> None:
    case = replace(BRIEF, dtype="float64", steps=SOLVED)
    inputs = inputs_of(case)
    leaf = getattr(inputs, name).requires_grad_()
    o, _, U = by(backend)(inputs._replace(**{name: leaf}), case.form)
    (alone,) = torch.autograd.grad(o.square().sum() + U.sum(), leaf)
    o, _, U = gka_reference.forward(inputs._replace(**{name: leaf}), case.form)
    assert gap(alone, torch.autograd.grad(o.square().sum() + U.sum(), leaf)[0]) < 1e-11


@pytest.mark.parametrize("part", ["o", "H", "U"])
def test_gradients_through_one_output_alone(part: str) -> None:
    """The other cotangents are no tensors then."""
    case = replace(BRIEF, dtype="float64", steps=SOLVED)
    found = []
    for run in (by("torch"), gka_reference.forward):
        inputs = inputs_of(case)
        leaves = [v.requires_grad_() for v in inputs[:7] if v is not None]
        loss = dict(zip("oHU", run(inputs, case.form), strict=True))[part].square().sum()
        grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        found.append(torch.cat([g.flatten() for g in grads]))
    assert gap(*found) < 1e-11


def test_tensors_in_any_order_of_memory_are_taken() -> None:
    case, inputs = CASES["short"], inputs_of(CASES["short"])
    turned = [v.transpose(1, 3).contiguous().transpose(1, 3) for v in inputs[:3]]
    spread = inputs.log_decay[:1, :1].expand(inputs.log_decay.shape)
    even = inputs._replace(log_decay=spread.contiguous())
    crooked = GkaInputs(*turned, spread, *inputs[4:])
    want, got = answers(by("torch"), case, even), answers(by("torch"), case, crooked)
    assert all(gap(got[name], want[name]) < 1e-6 for name in want)


def test_autocast_leaves_the_operator_in_its_own_precision() -> None:
    case, inputs = CASES["short"], inputs_of(CASES["short"])
    want = answers(by("torch"), case, inputs)
    step = [v[:, 0] for v in inputs[:4]]
    alone, _ = gka_step(*step, None, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = answers(by("torch"), case, inputs)
        inside, _ = gka_step(*step, None, None)
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert torch.equal(alone, inside)


def test_autocast_takes_a_mixture_in_its_own_precision() -> None:
    inputs = inputs_of(CASES["short"])
    given = inputs._replace(v=inputs.v.bfloat16(), H0=None, U0=None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o, _ = gka(*given[:5])
    want, _ = gka(*(v.bfloat16() for v in given[:3]), *given[3:5])
    assert o.dtype == torch.bfloat16
    assert torch.equal(o, want)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_torch_compile_takes_the_operator(backend: str) -> None:
    compiled: Any = torch.compile(by(backend), backend="eager")
    case = replace(BRIEF, T=9)
    inputs = inputs_of(case)
    want = answers(by(backend), case, inputs)
    got = answers(lambda inputs, form: compiled(summed(inputs), form), case, inputs)
    assert all(gap(got[name], want[name]) < 1e-6 for name in want)


def summed(inputs: GkaInputs) -> GkaInputs:
    """The same inputs as sums, so that there is something to compile around the operator."""
    return inputs._replace(q=inputs.q + 0.0, v=2.0 * inputs.v - inputs.v)


def test_torch_compile_takes_the_step_whole() -> None:
    inputs = inputs_of(BRIEF)
    given = [v[:, 0] for v in inputs[:4]]
    compiled: Any = torch.compile(gka_step, backend="eager", fullgraph=True)
    (o, state), (want, last) = compiled(*given, None, None), gka_step(*given, None, None)
    assert gap(o, want) < 1e-6
    assert gap(state[0], last[0]) < 1e-6


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("shape", [{"T": 0}, {"B": 0}, {"H": 0}, {"lengths": (0, 0)}])
def test_nothing_in_nothing_out(shape: dict[str, Any], backend: str) -> None:
    inputs = inputs_of(Case(**shape))
    assert inputs.H0 is not None and inputs.U0 is not None
    given = {"initial_state": (inputs.H0, inputs.U0), "cu_seqlens": inputs.offsets, "backend": backend}
    o, state = gka(*inputs[:5], **given, output_final_state=True)  # type: ignore[arg-type]
    assert o.shape == inputs.v.shape
    assert state is not None
    assert torch.equal(state[0], inputs.H0) and torch.equal(state[1], inputs.U0)
    assert gka(*inputs[:5], **given)[1] is None  # type: ignore[arg-type]


def test_an_unsymmetric_start_counts_as_its_symmetric_part() -> None:
    case, inputs = CASES["short"], inputs_of(CASES["short"])
    assert inputs.H0 is not None
    askew = inputs.H0 + torch.ones_like(inputs.H0).triu(1) - torch.ones_like(inputs.H0).tril(-1)
    for backend in ("torch", "reference"):
        got, want = (answers(by(backend), case, inputs._replace(H0=H0)) for H0 in (askew, inputs.H0))
        assert all(gap(got[name], want[name]) < 1e-5 for name in want)
        assert torch.equal(got["H0"], got["H0"].mT)


def test_work_is_never_read_from_the_given_state() -> None:
    """States handed in are not written to, so that two calls may go on from the same one."""
    case, inputs = CASES["short"], inputs_of(CASES["short"])
    assert inputs.H0 is not None and inputs.U0 is not None
    kept = inputs.H0.clone(), inputs.U0.clone()
    answers(by("torch"), case, inputs)
    gka_step(*(v[:, 0] for v in inputs[:4]), None, (inputs.H0, inputs.U0))
    assert torch.equal(inputs.H0, kept[0]) and torch.equal(inputs.U0, kept[1])


def test_the_iterations_numbers() -> None:
    """w falls to 2/(1 + √(1 − ρ²)) and stays in (1, 2); the bound of what is left is the paper's table."""
    for ridge in (0.01, 0.02, 0.1, 3.0):
        short, rho = shortest_step(ridge)
        weights = relaxations(rho, 400)
        assert len(weights) == 400
        assert all(1.0 < w < 2.0 for w in weights)
        assert all(a >= b for a, b in pairwise(weights))
        assert weights[-1] == pytest.approx(2.0 / (1.0 + (1.0 - rho**2) ** 0.5), rel=1e-9)
        # Eigenvalues up to ridge + 1, and a step of bfloat16 more, are within the bounds L = 2/ŝ − μ.
        widest = 2.0 / short - ridge
        assert widest >= (ridge + 1.0 + 2.0**-8) and widest < ridge + 1.02
        assert rho == pytest.approx((widest - ridge) / (widest + ridge))
    assert relaxations(0.5, 1) == [4.0 / 3.5]
    # The paper's bounds are without the padding, which costs a little.
    table = {(0.02, 10): 9.0e-2, (0.02, 30): 3.2e-4, (0.1, 15): 9.5e-5, (0.05, 10): 1.5e-2}
    for (ridge, steps), left in table.items():
        assert unsolved(ridge, steps) == pytest.approx(left, rel=0.06)
