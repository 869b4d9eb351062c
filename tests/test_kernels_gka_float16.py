"""Gated KalmaNet's equations in float16, as a card solves them for bfloat16 inputs, in Triton's interpreter.

There the interpreter cannot follow (it multiplies bfloat16 as if its bits were integers), so states stay in float32.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.kernels import gka as public
from ssrtrack.kernels import gka_reference
from ssrtrack.kernels.gka_form import GkaInputs
from tests.gka_cases import OUTPUTS, Answers, Case, answers, by, doubled, faults, inputs_of

Tensor = torch.Tensor
CASE = Case(B=1, T=20, start=False, dtype="bfloat16", mixed=True)
NEAR = {"bfloat16": (2.5e-2, 2.5e-2)}


@pytest.fixture(autouse=True)
def _in_float16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Operands as on a card."""
    kernels: Any = public._triton()
    if kernels is None:
        pytest.skip("there are no Triton kernels of this operator here")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton compiles for the card here, where test_kernels_gka_gpu asks the same")
    plain = kernels.plan_of

    def planned(*given: Any, **options: Any) -> Any:
        plan = plain(*given, **options)
        return plan._replace(fine=torch.float16, known=plan.known | {"OT": kernels.tl.float16, "DOT": "tf32"})

    monkeypatch.setattr(kernels, "plan_of", planned)
    with np.errstate(all="ignore"):
        yield


def small_at_first(inputs: GkaInputs) -> GkaInputs:
    """A first key of norm 0.002, then none for two steps: 1/‖H‖ is 250,000, more than float16 has.

    Queries are along it: across it, what float16 rounds would be 51 times as large.
    """
    q, k = inputs.q.clone(), inputs.k.clone()
    q[:, :3] = k[:, :1] / k[:, :1].norm(dim=-1, keepdim=True)
    k[:, 0] *= 0.002 / k[:, 0].norm(dim=-1, keepdim=True)
    k[:, 1:3] = 0.0
    return inputs._replace(q=q, k=k)


def along(answers: Answers, inputs: GkaInputs) -> Answers:
    """∂L/∂k in proportion to the keys: that of a small one is as large as it is small."""
    return answers | {"k": answers["k"] * inputs.k.double().norm(dim=-1, keepdim=True)}


@pytest.mark.parametrize(
    "case",
    [
        CASE, replace(CASE, T=66, D=32, V=16, start=True), replace(CASE, keys="repeated"), replace(CASE, keys="zero"),
        replace(CASE, lengths=(7, 9)), replace(CASE, decay=1.0, start=True),
    ],
)  # fmt: skip
def test_outputs_and_gradients_are_float64s(case: Case) -> None:
    inputs = inputs_of(case)
    want = answers(gka_reference.forward, case, doubled(inputs))
    o, H, U = gka_reference.forward(doubled(inputs), case.form, exact=False)
    want |= dict(zip(OUTPUTS, (o, H, U), strict=True))
    assert faults(answers(by("triton"), case, inputs), want, case, NEAR) == {}


@pytest.mark.parametrize("keys", ["unit", "collinear"])
def test_small_keys_at_the_start_of_a_sequence_leave_the_range_of_float16(keys: str) -> None:
    """Where nothing came before, H0 is 0: its product with what 1/‖H‖ is too large for is 0 all the same."""
    case = replace(CASE, keys=keys, decay=0.02)
    inputs = small_at_first(inputs_of(case))
    want = answers(gka_reference.forward, case, doubled(inputs))
    o, H, U = gka_reference.forward(doubled(inputs), case.form, exact=False)
    want |= {"o": o, "H": H, "U": U}
    got = answers(by("triton"), case, inputs)
    assert all(torch.isfinite(part).all() for part in got.values())
    # Where nothing is written a decay scales H and U alike, and the output not at all: ∂L/∂log γ is what cancels.
    assert faults(along(got, inputs), along(want, inputs), case, {"bfloat16": (2.5e-2, 0.15)}) == {}
