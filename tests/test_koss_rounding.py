"""The measure of kernels that multiply in bfloat16: the loop in float64 with φ's operands rounded where they round."""

from functools import partial
from typing import Any

import pytest
import torch

from ssrtrack.kernels import koss_torch
from ssrtrack.kernels.koss_form import LoopInputs
from tests.koss_cases import (
    BEHIND_RELU,
    CASES,
    KINK,
    Answers,
    Case,
    answers,
    as_multiplied,
    assert_rounded_alike,
    doubled,
    drawn_clear,
    gap,
    inputs_of,
    worst,
)

Tensor = torch.Tensor
ROUGH = {
    "step by step": Case(T=40, B=6, C=64, dtype="bfloat16", mask=True),
    "refined, led": Case(T=43, B=4, C=64, S=8, J=1, dtype="bfloat16", slope=True, lead=True, mixed=True),
    "bucy": Case("bucy", T=30, B=6, C=64, S=4, dtype="bfloat16"),
}


def in_float32(case: Case, inputs: LoopInputs) -> Answers:
    """What a right kernel gives: sums in float32, operands and what is handed back in the case's precision."""
    single: Any = [v if v is None else v.float() for v in inputs]
    found = answers(partial(as_multiplied, True, nearest=[]), case, LoopInputs(*single))
    given = inputs._asdict() | {"y": inputs.x, "last": inputs.start}
    return {name: v.to(given[name].dtype) for name, v in found.items()}


@pytest.mark.parametrize("name", ["odd", "bucy", "packed", "refined", "kalman segments", "segments, input only"])
def test_without_rounding_it_is_the_loop(name: str) -> None:
    case, inputs, nearest = CASES[name], doubled(inputs_of(CASES[name])), list[float]()
    got = answers(partial(as_multiplied, False, nearest=nearest), case, inputs)
    assert worst(got, answers(koss_torch.forward, case, inputs))[1] < 1e-12
    assert min(nearest) > 0.0


@pytest.mark.parametrize("name", ROUGH)
def test_a_right_kernel_is_near_it_and_not_near_the_exact_gate(name: str) -> None:
    case = ROUGH[name]
    inputs, want = drawn_clear(case, "cpu")
    got = in_float32(case, inputs)
    assert_rounded_alike(case, got, want)
    exact = answers(koss_torch.forward, case, doubled(inputs))
    # Units on the other side of the kink: the gap to the exact gate is theirs, and wider than any limit here.
    assert all(gap(got[name], exact[name]) > 2.0 * limit for name, limit in BEHIND_RELU.items())
    assert gap(got["y"], exact["y"]) < 3e-3


@pytest.mark.parametrize("part", ["y", "last", "x", "w1", "w2", "start"])
def test_two_percent_too_much_is_seen(part: str) -> None:
    case = ROUGH["step by step"]
    inputs, want = drawn_clear(case, "cpu")
    got = in_float32(case, inputs)
    with pytest.raises(AssertionError, match=part):
        assert_rounded_alike(case, got | {part: 1.02 * got[part]}, want)


def test_what_lies_on_the_kink_is_drawn_again() -> None:
    case = Case(T=9, B=256, C=64, N=2, S=4, J=1, mask=True)
    inputs, _ = drawn_clear(case, "cpu")
    assert not torch.equal(inputs.x, inputs_of(case).x)
    nearest: list[float] = []
    as_multiplied(False, doubled(inputs_of(case)), case.form, nearest)
    assert min(nearest) <= KINK
