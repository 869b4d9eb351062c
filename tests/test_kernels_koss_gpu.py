"""KOSS's Triton kernels on a card against the loop in float64, φ's operands rounded alike. Skips without a card.

The float64 answers are `koss_torch`'s, on the card, which `test_kernels_koss_loop` holds to the float64 loops. A row's
kernels take seconds to compile, so one test asks of a row all there is to ask.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from ssrtrack.kernels import koss_closed_loop as public
from ssrtrack.kernels.koss_closed_loop import koss_closed_loop
from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from tests.koss_cases import (
    CASES,
    FUSED,
    NEAR,
    NEAR_ROUNDED,
    Case,
    answers,
    assert_rounded_alike,
    doubled,
    drawn_clear,
    gap,
    inputs_of,
    on_a_card,
    reference,
    worst,
)

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

Tensor = torch.Tensor
# Head widths beside the table's 64 channels, programs of two sequences, and lengths that a recording has.
MORE: dict[str, Case] = {
    **{f"{C} channels, {S} steps a segment": Case(T=11, C=C, S=S, J=int(S > 1)) for C in (16, 32) for S in (1, 4)},
    # In float32 the kernels end at 64 channels.
    "128 channels, 4 steps a segment": Case(T=11, C=128, S=4, J=1, dtype="bfloat16"),
    "128 channels, step by step": Case(T=11, C=128, dtype="bfloat16"),
    "128 channels, prediction seen": Case(T=11, C=128, dtype="bfloat16", seen=True),
    "prediction seen, 8 states": Case(T=24, B=130, C=64, N=8, dtype="bfloat16", mask=True, seen=True),
    "shorter than its segment": Case(T=5, C=64, S=8, J=1),
    "two sequences a program": Case(T=9, B=256, C=64, N=2, S=4, J=1, mask=True),
    "two sequences a program, bf16": Case(T=35, B=256, C=64, N=2, S=16, dtype="bfloat16", mask=True),
    "a tracker's batch": Case(T=24, B=130, C=64, dtype="bfloat16", mask=True, time_first=True),
    # What takes minutes to compile in one, apart: many states a channel, and many steps a segment.
    "16 states, bf16 segments": Case(T=35, B=3, C=64, N=16, S=16, dtype="bfloat16"),
    "16 states, 4 steps a segment": Case(T=21, C=64, N=16, S=4, start=False),
    "32 steps a segment": Case(T=101, C=64, N=2, S=32, mask=True),
    "long": Case(T=1030, B=1, C=64, S=16, J=1, mask=True),
    "long, step by step": Case(T=1030, B=2, C=64, N=2, mask=True),
}
ROWS = {name: on_a_card(case) for name, case in FUSED.items() if case.N * case.S <= 256} | MORE
# Where nothing is kept for a gradient, another kernel runs.
PLAIN = ("odd", "packed", "bf16", "odd segments, two heads", "refined", "bf16 segments")
triton = partial(koss_closed_loop, backend="triton")
ROOM = 28 << 30  # bytes that the largest test takes, and its neighbours beside it


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


@pytest.mark.parametrize("name", ROWS)
def test_triton_gives_float64s_outputs_and_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And twice the same bits, of the weights too: nothing is summed in the order in which programs happen to end."""
    case = ROWS[name]
    inputs, want = drawn_clear(case, "cuda")
    poison(monkeypatch)
    first, second = (answers(triton, case, on_card(inputs)) for _ in range(2))
    assert_rounded_alike(case, first, want)
    assert not [part for part, value in first.items() if not torch.equal(value, second[part])]
    if name in PLAIN:
        y, last = triton(on_card(inputs), case.form)
        assert not y.requires_grad
        assert gap(y, first["y"]) <= NEAR_ROUNDED[case.dtype] and gap(last, first["last"]) <= NEAR["float32"]


@pytest.mark.parametrize(
    "case",
    [
        Case(C=24), Case(C=128, S=4), Case(dtype="float64"), Case(N=17), Case(S=3, T=7), Case(S=64, T=65),
        Case(S=4, seen=True),
    ],
)  # fmt: skip
def test_what_has_no_kernel_runs_on_the_card_all_the_same(case: Case) -> None:
    inputs = inputs_of(case)
    want = answers(reference, case, doubled(inputs))
    where, found = worst(answers(koss_closed_loop, case, on_card(inputs)), want)
    assert found <= NEAR[case.dtype], where


@pytest.mark.parametrize("segment", [1, 4])
def test_a_card_takes_triton_by_itself(segment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    plain = public._on_triton

    def noted(inputs: LoopInputs, form: LoopForm) -> tuple[Tensor, Tensor]:
        taken.append(form.segment)
        return plain(inputs, form)

    monkeypatch.setattr(public, "_on_triton", noted)
    case = on_a_card(CASES["odd" if segment == 1 else "segments"])
    koss_closed_loop(on_card(inputs_of(case)), case.form)
    assert taken == [segment]


@pytest.mark.parametrize("case", [Case(B=520, T=4096, N=16), Case(B=1040, T=4096, N=16, S=2)])
def test_more_than_two_billion_numbers_are_kept_in_the_right_place(case: Case) -> None:
    """States of 2³¹ numbers and more: the last sequences among many get what they get alone."""
    case = replace(case, C=64, dtype="bfloat16")
    free, _ = torch.cuda.mem_get_info()
    if free < ROOM:
        pytest.skip(f"needs {ROOM >> 30} GiB of the card's memory, {free >> 30} GiB are free")
    few = on_card(inputs_of(replace(case, B=3)))
    try:
        got = gradients(repeated(few, case.B), case.form)
    except torch.cuda.OutOfMemoryError as error:  # another process has taken it meanwhile
        pytest.skip(f"needs {ROOM >> 30} GiB of the card's memory: {error}")
    last = [(case.B - 3 + k) % 3 for k in range(3)]
    want = gradients(repeated(few, 3, last), case.form)
    for a, b in zip(got, want, strict=True):
        assert gap(a[-3:], b) < NEAR_ROUNDED["bfloat16"]


def repeated(few: LoopInputs, count: int, order: Sequence[int] = (0, 1, 2)) -> LoopInputs:
    """`count` sequences, three in turn."""
    index = torch.tensor(order, device="cuda").repeat(-(-count // 3))[:count]
    return few._replace(**{name: getattr(few, name)[index] for name in ("x", "delta", "read", "bias", "start")})


def gradients(inputs: LoopInputs, form: LoopForm) -> list[Tensor]:
    """y, the last state, ∂L/∂x and ∂L/∂Δ."""
    x, delta = inputs.x.detach().requires_grad_(), inputs.delta.detach().requires_grad_()
    y, last = koss_closed_loop(inputs._replace(x=x, delta=delta), form, backend="triton")
    return [y.detach(), last.detach(), *torch.autograd.grad((y, last), (x, delta), (torch.ones_like(y), last.detach()))]
