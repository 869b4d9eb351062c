"""KOSS's closed loop: every backend against the float64 loops, its refusals, and the choice of a backend."""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.kernels import koss_closed_loop as public
from ssrtrack.kernels import koss_cpu, koss_torch
from ssrtrack.kernels.koss_closed_loop import koss_closed_loop
from ssrtrack.kernels.koss_form import OPERATORS, LoopForm, LoopInputs
from ssrtrack.kernels.reference import koss_loop
from tests.koss_cases import CASES, FUSED, NEAR, Case, answers, doubled, expected, gap, inputs_of, reference, worst

Tensor = torch.Tensor
COMPILED = [name for name, case in CASES.items() if not koss_cpu.refusal(inputs_of(case), case.form)]


# Where nothing is kept for a gradient, another kernel runs.
PLAIN = ("one step", "odd", "packed", "refined", "packed segments", "prediction seen, packed")


@pytest.fixture(scope="module")
def compiled() -> None:
    """The CPU's loop compiled, which has to know numpy's own functions, for the precision of the table."""
    answers(partial(koss_closed_loop, backend="numba"), Case(T=1), inputs_of(Case(T=1)))


@pytest.fixture
def poisoned(compiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is asked for empty comes full of NaN, so that an output nobody writes shows."""

    def filled(make: Any) -> Any:
        def made(*given: Any, **options: Any) -> Any:
            v = make(*given, **options)
            if isinstance(v, np.ndarray):
                if v.dtype.kind == "f":
                    v.fill(np.nan)
            elif v.is_floating_point():
                v.fill_(float("nan"))
            return v

        return made

    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (torch.Tensor, "new_empty"),
        (np, "empty"),
        (np, "empty_like"),
    ):
        monkeypatch.setattr(owner, name, filled(getattr(owner, name)))


@pytest.fixture
def interpreted() -> Iterator[None]:
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton compiles for the card here: test_kernels_koss_gpu.py compares its kernels")
    pytest.importorskip("triton")
    # The interpreter says what numpy warns of where e^z under- or overflows on the way to 0 or 1.
    with np.errstate(all="ignore"):
        yield


def assert_answers(name: str, backend: str, *, plain: bool = True) -> None:
    """Output, last state and every gradient of a row; and, `plain`, the same output where no gradient is asked for."""
    case = CASES[name]
    run, inputs = partial(koss_closed_loop, backend=backend), inputs_of(case)
    got, want = answers(run, case, inputs), expected(name)
    for part, value in got.items():
        given = {"y": inputs.x, "last": inputs.start}.get(part, getattr(inputs, part, None))
        assert given is not None and value.dtype == given.dtype, part
    where, found = worst(got, want)
    assert found <= NEAR[case.dtype], f"{where}: {found:.2e}"
    if plain:
        y, last = run(inputs, case.form)
        assert not y.requires_grad
        assert max(gap(y, want["y"]), gap(last, want["last"])) <= NEAR[case.dtype]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", CASES)
def test_torch_gives_the_references_outputs_and_gradients(name: str) -> None:
    assert_answers(name, "torch")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", COMPILED)
def test_numba_gives_the_references_outputs_and_gradients(
    name: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(koss_cpu, "CHUNK", 1000)  # so that what keeps nothing runs in several pieces
    assert_answers(name, "numba")


@pytest.mark.usefixtures("poisoned", "interpreted")
@pytest.mark.parametrize("name", FUSED)
def test_triton_gives_the_references_outputs_and_gradients(name: str) -> None:
    assert_answers(name, "triton", plain=name in PLAIN)


@pytest.mark.parametrize("name", CASES)
def test_torch_in_float64_is_the_reference_to_rounding(name: str) -> None:
    where, found = worst(answers(koss_torch.forward, CASES[name], doubled(inputs_of(CASES[name]))), expected(name))
    assert found <= NEAR["float64"], where


@pytest.mark.parametrize("segment, passes, seen", [(1, 0, False), (2, 1, False), (2, 1, True)])
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_references_gradient_is_that_of_finite_differences(
    operator: str, segment: int, passes: int, seen: bool
) -> None:
    """What every gradient is compared with rests on autograd, and on the formulas being smooth."""
    led = operator in ("discrete", "kalman", "bucy")
    case = Case(operator, B=1, T=3, C=2, N=2, S=segment, J=passes, dtype="float64", slope=True, lead=led, seen=seen)
    inputs = inputs_of(case)
    one = LoopInputs(*(v[0] if name in ("x", "delta", "read", "bias", "slope", "start") else v
                       for name, v in inputs._asdict().items()))  # fmt: skip
    leaves = {name: v.requires_grad_() for name, v in one._asdict().items() if v is not None}

    def run(*values: Tensor) -> tuple[Tensor, Tensor]:
        return koss_loop(one._replace(**dict(zip(leaves, values, strict=True))), case.form)

    assert torch.autograd.gradcheck(run, tuple(leaves.values()), atol=1e-7)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("name", ["x", "rate", "w1", "start"])
def test_gradients_of_one_input_alone(name: str, backend: str) -> None:
    inputs = inputs_of(CASES["odd"])
    leaf = getattr(inputs, name).requires_grad_()
    y, _ = koss_closed_loop(inputs._replace(**{name: leaf}), backend=backend)
    (alone,) = torch.autograd.grad(y.square().sum(), leaf)
    every = doubled(inputs)
    leaf = getattr(every, name).detach().requires_grad_()
    y, _ = reference(every._replace(**{name: leaf}), LoopForm())
    assert gap(alone, torch.autograd.grad(y.square().sum(), leaf)[0]) < NEAR["float32"]


def test_tensors_in_any_order_of_memory_are_taken() -> None:
    inputs, case = inputs_of(CASES["odd"]), CASES["odd"]
    turned = {
        name: v.transpose(1, 2).contiguous().transpose(1, 2)
        for name, v in inputs._asdict().items()
        if v is not None and v.ndim == 3
    }
    spread = inputs.delta[:1, :, :1].expand(inputs.delta.shape)
    want = koss_closed_loop(inputs._replace(delta=spread.contiguous()), case.form)
    for backend in ("torch", "numba"):
        got = koss_closed_loop(inputs._replace(**{**turned, "delta": spread}), case.form, backend=backend)
        assert max(map(gap, got, want)) < NEAR["float32"]


def test_autocast_leaves_the_loop_in_its_own_precision() -> None:
    inputs = inputs_of(CASES["odd"])
    want = koss_closed_loop(inputs, backend="torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = koss_closed_loop(inputs, backend="torch")
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_torch_compile_takes_the_loop(backend: str) -> None:
    case = CASES["one step"]
    compiled = torch.compile(partial(koss_closed_loop, backend=backend), backend="eager")
    where, found = worst(answers(compiled, case, inputs_of(case)), expected("one step"))
    assert found <= NEAR[case.dtype], where


@pytest.mark.parametrize("shape", [{"T": 0}, {"B": 0}])
def test_nothing_in_nothing_out(shape: dict[str, int]) -> None:
    inputs = inputs_of(Case(**shape))  # type: ignore[arg-type]
    y, last = koss_closed_loop(inputs)
    assert y.shape == inputs.x.shape
    assert torch.equal(last, inputs.start)


FAULTS: dict[str, tuple[dict[str, Any], LoopForm, str]] = {
    "x flat": ({"x": torch.zeros(2, 7)}, LoopForm(), r"x \(2, 7\).*must be \(B, T, D\)"),
    "delta short": ({"delta": torch.zeros(2, 6, 16)}, LoopForm(), r"delta has the shape \(2, 6, 16\), expected \(2, 7"),
    "read too wide": ({"read": torch.zeros(2, 7, 5)}, LoopForm(), r"read.*expected \(2, 7, 4\)"),
    "heads do not fit": ({"b1": torch.zeros(2, 16)}, LoopForm(), "x has 16 channels, b1 2 heads of 16"),
    "a matrix transposed": ({"rate": torch.zeros(16, 4)}, LoopForm(), r"rate.*expected \(4, 16\)"),
    "integers": ({"x": torch.zeros(2, 7, 16, dtype=torch.int32)}, LoopForm(), "x is torch.int32, expected one of"),
    "another device": ({"bias": torch.zeros(2, 7, 16, device="meta")}, LoopForm(), "bias is on meta and x on cpu"),
    "w1 of three parts": (
        {"w1": torch.zeros(1, 48, 16)},
        LoopForm(),
        r"w1 has the shape \(1, 48, 16\), expected \(1, 16, 16\).*or \(1, 32, 16\), for a gain that also sees",
    ),
    "w1 flat": ({"w1": torch.zeros(32)}, LoopForm(), r"w1 has the shape \(32,\), expected \(1, 16, 16\)"),
    "w1 of no head": ({"w1": torch.zeros(32, 16)}, LoopForm(), r"w1 has the shape \(32, 16\), expected \(1, 16, 16\)"),
    "no prediction to see": (
        {"w1": torch.zeros(1, 32, 16)},
        LoopForm(innovate=False),
        r"w1 \(1, 32, 16\) has rows for the prediction.*innovate=False does not see: give \(1, 16, 16\)",
    ),
    "exact without a slope": ({}, LoopForm("exact"), "exact looks back .* give x_t − x_.t−1. as slope"),
    "lead without a slope": ({"lead": torch.zeros(16)}, LoopForm(), "lead weighs the slope, and there is none"),
    "lead unread": (
        {"lead": torch.zeros(16), "slope": torch.zeros(2, 7, 16)},
        LoopForm("neumann"),
        "neumann reads no lead",
    ),
    "offsets of a batch": ({"offsets": torch.tensor([0, 3, 7])}, LoopForm(), r"\(2, 7, 16\): with offsets"),
    "offsets too few": ({"offsets": torch.tensor([0, 7])}, LoopForm(), r"offsets are \(2,\).*expected \(3,\)"),
    "offsets in seconds": ({"offsets": torch.tensor([0.0, 3.0, 7.0])}, LoopForm(), "float32, expected .* int32"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_does_not_fit_is_refused(name: str) -> None:
    wrong, form, words = FAULTS[name]
    with pytest.raises(ValueError, match=words):
        koss_closed_loop(inputs_of(Case())._replace(**wrong), form)


@pytest.mark.parametrize("offsets", [[0, 5, 4, 9], [1, 3, 4, 9], [0, 3, 4, 8], [0, 3, 4, 10]])
def test_offsets_that_do_not_part_the_steps_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="must rise from 0 to the number of steps, 9"):
        koss_closed_loop(inputs_of(CASES["packed"])._replace(offsets=torch.tensor(offsets, dtype=torch.int32)))


@pytest.mark.parametrize(
    "backend, case, words",
    [
        ("cuda", Case(), "expected one of triton, numba, torch"),
        ("numba", Case("kalman"), "no kernel for this: .*kalman"),
        ("numba", Case(S=4), "no kernel for this: .*segment=4"),
        ("numba", Case(dtype="float64"), "x is float64"),
        ("numba", Case(slope=True, lead=True), "there is a slope"),
        ("triton", Case(dtype="float64"), "x is float64|not on a CUDA device"),
        ("triton", Case(C=12), "heads of 12 channels|not on a CUDA device"),
        ("triton", Case(C=128, S=4), "heads of 128 channels|not on a CUDA device"),
        ("triton", Case(S=4, seen=True), "a gain that sees the prediction|not on a CUDA device"),
    ],
)
def test_a_backend_without_the_form_is_refused(backend: str, case: Case, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        koss_closed_loop(inputs_of(case), case.form, backend=backend)


def test_triton_needs_a_card_or_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="x is on cpu, not on a CUDA device"):
        koss_closed_loop(inputs_of(Case()), backend="triton")


def noted(run: Any, name: str, taken: list[str]) -> Any:
    def noting(*given: Any) -> Any:
        taken.append(name)
        return run(*given)

    return noting


@pytest.mark.parametrize(
    "case, backend",
    [
        (Case(T=8, B=128, C=64), "numba"),
        (Case(T=8, B=128, C=64, slope=True), "numba"),  # which nothing reads without a lead
        (Case(T=8, B=128, C=64, S=4), "torch"),
        (Case("kalman", T=8, B=128, C=64), "torch"),
        (Case(T=8, B=4, C=64), "torch"),
        (Case(T=1, B=1024, C=64), "torch"),
    ],
)
def test_what_a_cpu_takes(case: Case, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for name, module in (("numba", koss_cpu), ("torch", koss_torch)):
        monkeypatch.setattr(module, "forward", noted(module.forward, name, taken))
    koss_closed_loop(inputs_of(case), case.form)
    assert taken == [backend]


def test_without_triton_none_of_its_kernels_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "_kernels", lambda step: None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="Triton is not installed"):
        koss_closed_loop(inputs_of(Case()), backend="triton")
