"""KOSS's Triton kernels on a card, at the sizes they are for, against the float64 loops. Skips without a card."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from ssrtrack.kernels import koss_closed_loop as public
from ssrtrack.kernels import koss_torch
from ssrtrack.kernels.koss_closed_loop import koss_closed_loop
from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from tests.koss_cases import CASES, NEAR, Answers, Case, answers, doubled, gap, inputs_of, on_a_card, reference, worst

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

Tensor = torch.Tensor
# Head widths beside the table's 64 channels, and lengths that a tracker or a long recording has.
MORE: dict[str, Case] = {
    **{f"{C} channels, {S} steps a segment": Case(T=5, C=C, S=S, J=int(S > 1)) for C in (16, 32) for S in (1, 16)},
    "128 channels, 16 steps a segment": Case(T=5, C=128, S=16, J=1),
    # In float32 the step kernels end at 64 channels.
    "128 channels, step by step": Case(T=5, C=128, dtype="bfloat16"),
    "a tracker's batch": Case(T=96, B=512, C=64, dtype="bfloat16", mask=True, time_first=True),
    "long": Case(T=4096, B=2, C=64, S=16, J=1, mask=True),
    "long, step by step": Case(T=4096, B=2, C=64, N=2, mask=True),
}
triton = partial(koss_closed_loop, backend="triton")


def on_card(inputs: LoopInputs) -> LoopInputs:
    """On the device, strides kept."""
    moved: Any = [v if v is None else v.to("cuda") for v in inputs]
    return LoopInputs(*moved)


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory asked for empty comes full of NaN, so that an output nobody writes shows."""

    def filled(make: Any) -> Any:
        def made(*given: Any, **options: Any) -> Tensor:
            v: Tensor = make(*given, **options)
            return v.fill_(float("nan")) if v.is_floating_point() else v

        return made

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, filled(getattr(owner, name)))


def assert_answers(case: Case, want: Answers, inputs: LoopInputs) -> None:
    where, found = worst(answers(triton, case, on_card(inputs)), want)
    assert found <= NEAR[case.dtype], f"{where}: {found:.2e}"


@pytest.mark.parametrize("name", CASES)
def test_triton_gives_the_references_outputs_and_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = on_a_card(CASES[name])
    inputs = inputs_of(case)
    want = answers(reference, case, doubled(inputs))
    poison(monkeypatch)
    assert_answers(case, want, inputs)


@pytest.mark.parametrize("name", MORE)
def test_triton_at_other_sizes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch in float64, which another test holds to the float64 loops."""
    case, inputs = MORE[name], inputs_of(MORE[name])
    want = answers(koss_torch.forward, case, on_card(doubled(inputs)))
    poison(monkeypatch)
    assert_answers(case, want, inputs)


@pytest.mark.parametrize("name", ["odd", "packed", "odd segments, two heads", "refined"])
def test_without_a_gradient_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = on_a_card(CASES[name])
    inputs = on_card(inputs_of(case))
    poison(monkeypatch)
    kept = koss_closed_loop(inputs._replace(x=inputs.x.clone().requires_grad_()), case.form)
    with torch.no_grad():
        plain = koss_closed_loop(inputs, case.form)
    assert max(map(gap, plain, kept)) < NEAR["float32"]


@pytest.mark.parametrize("name", ["odd", "two heads", "kalman", "refined", "odd segments, two heads"])
def test_twice_gives_the_same_bits(name: str) -> None:
    """Weights' gradients too: nothing is summed in the order in which programs happen to end."""
    case = on_a_card(CASES[name])
    inputs = on_card(inputs_of(case))
    first, second = (answers(triton, case, inputs) for _ in range(2))
    for part, value in first.items():
        assert torch.equal(value, second[part]), part


@pytest.mark.parametrize("case", [Case(C=24), Case(dtype="float64"), Case(N=17), Case(S=3, T=7), Case(S=64, T=65)])
def test_what_has_no_kernel_runs_on_the_card_all_the_same(case: Case) -> None:
    inputs = inputs_of(case)
    want = answers(reference, case, doubled(inputs))
    where, found = worst(answers(koss_closed_loop, case, on_card(inputs)), want)
    assert found <= NEAR[case.dtype], where


@pytest.mark.parametrize("segment", [1, 16])
def test_a_card_takes_triton_by_itself(segment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    plain = public._on_triton

    def noted(inputs: LoopInputs, form: LoopForm) -> tuple[Tensor, Tensor]:
        taken.append(form.segment)
        return plain(inputs, form)

    monkeypatch.setattr(public, "_on_triton", noted)
    case = on_a_card(Case(S=segment))
    koss_closed_loop(on_card(inputs_of(case)), case.form)
    assert taken == [segment]


@pytest.mark.parametrize("case", [Case(B=520, T=4096, N=16), Case(B=1040, T=4096, N=16, S=2)])
def test_more_than_two_billion_numbers_are_kept_in_the_right_place(case: Case) -> None:
    """States of 2³¹ numbers and more: the last sequences among many get what they get alone."""
    case = replace(case, C=64, dtype="bfloat16")
    free, _ = torch.cuda.mem_get_info()
    if free < 40 << 30:
        pytest.skip(f"needs 40 GiB of the card's memory, {free >> 30} GiB are free")
    few = on_card(inputs_of(replace(case, B=3)))
    many = {
        name: v.expand(-(-case.B // 3), *v.shape).flatten(0, 1)[: case.B].contiguous()
        for name in ("x", "delta", "read", "bias", "start")
        if (v := getattr(few, name)) is not None
    }
    last = slice(case.B - 3, None)
    got = gradients(few._replace(**many), case.form)
    want = gradients(few._replace(**{name: v[last].contiguous() for name, v in many.items()}), case.form)
    for a, b in zip(got, want, strict=True):
        assert gap(a[last], b) < NEAR["bfloat16"]


def gradients(inputs: LoopInputs, form: LoopForm) -> list[Tensor]:
    """y, the last state, ∂L/∂x and ∂L/∂Δ."""
    x, delta = inputs.x.detach().requires_grad_(), inputs.delta.detach().requires_grad_()
    y, last = koss_closed_loop(inputs._replace(x=x, delta=delta), form, backend="triton")
    return [y.detach(), last.detach(), *torch.autograd.grad((y, last), (x, delta), (torch.ones_like(y), last.detach()))]
