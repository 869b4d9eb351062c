"""What calls of Gated KalmaNet's operator refuse, and which backend they take."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ssrtrack.kernels import gka as public
from ssrtrack.kernels import gka_torch
from ssrtrack.kernels.gka import gka, gka_step
from ssrtrack.kernels.gka_form import GkaForm, GkaInputs
from tests.gka_cases import Case, answers, by, gap, inputs_of

Tensor = torch.Tensor


def zeros(*shape: int, **options: Any) -> Tensor:
    return torch.zeros(*shape, **options)


def given(**changed: Any) -> dict[str, Any]:
    """Arguments that fit: B 2, T 7, H 2, D 4, V 3, and what is changed in them."""
    inputs = inputs_of(Case(D=4, V=3))
    fit = {name: getattr(inputs, name) for name in ("q", "k", "v", "log_decay", "alpha")}
    return {**fit, "initial_state": (inputs.H0, inputs.U0), **changed}


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "q flat": ({"q": zeros(2, 7, 4)}, r"q \(2, 7, 4\) and v \(2, 7, 2, 3\) must be \(B, T, H, D\) and \(B, T, H, V\)"),
    "no width": ({"q": zeros(2, 7, 2, 0), "k": zeros(2, 7, 2, 0)}, "must have 1 number a head or more"),
    "k of another width": ({"k": zeros(2, 7, 2, 5)}, r"k has the shape \(2, 7, 2, 5\), expected \(2, 7, 2, 4\)"),
    "v of fewer heads": ({"v": zeros(2, 7, 1, 3)}, r"v has the shape .*expected \(2, 7, 2, 3\).*repeat k and v"),
    "decay a channel": ({"log_decay": zeros(2, 7, 2, 4)}, r"log_decay.*expected \(2, 7, 2\) beside q \(2, 7, 2, 4\)"),
    "alpha short": ({"alpha": zeros(2, 6, 2)}, r"alpha has the shape \(2, 6, 2\), expected \(2, 7, 2\)"),
    "alpha a number": ({"alpha": 0.5}, r"alpha is a float, expected a tensor \(2, 7, 2\)"),
    "integers": ({"log_decay": zeros(2, 7, 2, dtype=torch.int32)}, "log_decay is torch.int32, expected one of"),
    "a mixture": ({"v": zeros(2, 7, 2, 3).bfloat16()}, "v torch.bfloat16: cast them to one precision"),
    "another device": ({"k": zeros(2, 7, 2, 4, device="meta")}, "k is on meta and q on cpu: move all"),
    "half a state": ({"initial_state": zeros(2, 2, 4, 4)}, r"state is a Tensor, expected the pair \(H, U\)"),
    "three states": ({"initial_state": (1, 2, 3)}, "state is a tuple of 3, expected the pair"),
    "states turned round": (
        {"initial_state": (zeros(2, 2, 4, 3), zeros(2, 2, 4, 4))},
        r"state's H has the shape \(2, 2, 4, 3\), expected \(2, 2, 4, 4\)",
    ),
    "a state in bf16": (
        {"initial_state": (zeros(2, 2, 4, 4).bfloat16(), zeros(2, 2, 4, 3))},
        "state's H is torch.bfloat16, expected one of torch.float32, torch.float64",
    ),
    "a state of another batch": ({"initial_state": (zeros(3, 2, 4, 4), zeros(3, 2, 4, 3))}, r"expected \(2, 2, 4, 4\)"),
    "no ridge": ({"ridge": 0.0}, "ridge is 0.0, expected a number above 0"),
    "a ridge of nothing": ({"ridge": float("nan")}, "ridge is nan"),
    "no steps": ({"steps": 0}, "steps is 0, expected a whole number of iterations, 1 or more"),
    "half a step": ({"steps": 2.5}, "steps is 2.5"),
    "endless": ({"scale": float("inf")}, "scale is inf, expected a finite number, or None"),
    "offsets of a batch": ({"cu_seqlens": torch.tensor([0, 3, 7])}, r"q is \(2, 7, 2, 4\): with cu_seqlens"),
    "offsets in seconds": ({"cu_seqlens": torch.tensor([0.0, 7.0])}, "float32, expected int32"),
    "one offset": ({"cu_seqlens": torch.tensor([0])}, r"cu_seqlens are \(1,\).*expected int32 \(N \+ 1,\)"),
    "no backend": ({"backend": "cuda"}, "backend is 'cuda', expected one of auto, reference, torch, triton"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_does_not_fit_is_refused(name: str) -> None:
    changed, words = FAULTS[name]
    with pytest.raises(ValueError, match=words):
        gka(**given(**changed))


@pytest.mark.parametrize("offsets", [[0, 5, 4, 7], [1, 3, 4, 7], [0, 3, 4, 6], [0, 3, 4, 8]])
def test_offsets_that_do_not_part_the_steps_are_refused(offsets: list[int]) -> None:
    inputs = inputs_of(Case(lengths=(3, 1, 3)))
    with pytest.raises(ValueError, match="must rise from 0 to the number of steps, 7"):
        gka(*inputs[:5], cu_seqlens=torch.tensor(offsets, dtype=torch.int32))


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"q": zeros(2, 1, 2, 4)}, r"q \(2, 1, 2, 4\) and v \(2, 2, 3\) must be \(B, H, D\) and \(B, H, V\)"),
        ({"k": zeros(2, 2, 3)}, r"k has the shape \(2, 2, 3\), expected \(2, 2, 4\)"),
        ({"log_decay": zeros(2)}, r"log_decay has the shape \(2,\), expected \(2, 2\)"),
        ({"alpha": zeros(2, 2, dtype=torch.int64)}, "alpha is torch.int64"),
        ({"state": (zeros(2, 2, 4, 4), zeros(2, 2, 3, 4))}, r"state's U has the shape .*expected \(2, 2, 4, 3\)"),
        ({"ridge": -1.0}, "ridge is -1.0"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_a_step_refuses_what_does_not_fit(changed: dict[str, Any], words: str) -> None:
    fit = {"q": zeros(2, 2, 4), "k": zeros(2, 2, 4), "v": zeros(2, 2, 3), "log_decay": zeros(2, 2), "alpha": None}
    with pytest.raises(ValueError, match=words):
        gka_step(**{**fit, "state": None, **changed})


class Noted:
    """A backend that notes how it was called and leaves the work to torch."""

    def __init__(self, able: bool = True) -> None:
        self.able, self.calls = able, []

    def supported(self, inputs: GkaInputs, form: GkaForm) -> bool:
        return self.able

    def forward(self, inputs: GkaInputs, form: GkaForm, keep: bool) -> Any:
        assert all(part.stride(-1) == 1 for part in inputs[:3])
        assert all(part is None or part.is_contiguous() for part in inputs[3:])
        self.calls.append(("forward", keep))
        return gka_torch.forward(inputs, form, keep)

    def backward(self, inputs: GkaInputs, form: GkaForm, saved: Any, go: Tensor, gH: Any, gU: Any) -> Any:
        assert go.stride(-1) == 1
        self.calls.append(("backward", gH is not None))
        return gka_torch.backward(inputs, form, saved, go, gH, gU)


def noted(monkeypatch: pytest.MonkeyPatch, able: bool = True) -> Any:
    kernels = Noted(able)
    monkeypatch.setattr(public, "_triton", lambda: kernels)
    return kernels


def test_kernels_are_called_with_what_they_are_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the caller's strides; nothing is kept without a gradient, and none comes for a state not handed back."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    kernels, case = noted(monkeypatch), Case(D=4, V=3, mixed=True, dtype="bfloat16")
    inputs = inputs_of(case)
    turned = [v.transpose(1, 3).contiguous().transpose(1, 3) for v in inputs[:3]]
    gates = [v.transpose(0, 1).contiguous().transpose(0, 1) for v in inputs[3:5] if v is not None]
    crooked = GkaInputs(*turned, *gates, *inputs[5:])
    got, want = answers(by("triton"), case, crooked), answers(by("torch"), case, inputs)
    assert kernels.calls == [("forward", True), ("backward", True)]
    assert all(gap(got[name], want[name]) < 1e-6 for name in want)
    kernels.calls.clear()
    q = inputs.q.clone().requires_grad_()
    gka(q, *inputs[1:5], backend="triton")[0].float().sum().backward()
    with torch.no_grad():
        gka(q, *inputs[1:5], backend="triton")
    gka(*inputs[:5], backend="triton")
    assert kernels.calls == [("forward", True), ("backward", False), ("forward", False), ("forward", False)]
    assert q.grad is not None and q.grad.dtype == torch.bfloat16


def test_a_backend_that_cannot_is_refused_by_name_and_passed_over_by_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    kernels, inputs = noted(monkeypatch, able=False), inputs_of(Case(D=4, V=3))
    with pytest.raises(
        ValueError, match=r"no kernel for this: GkaForm.*keys of 4 numbers and values of 3; use backend="
    ):
        gka(*inputs[:5], backend="triton")
    single, double = (
        inputs._replace(q=SimpleNamespace(is_cuda=True, dtype=dtype, shape=inputs.q.shape))  # type: ignore[arg-type]
        for dtype in (torch.float32, torch.float64)
    )
    assert public._chosen(single, GkaForm(), "auto") is gka_torch
    kernels.able = True
    assert public._chosen(single, GkaForm(), "auto") is kernels
    assert public._chosen(double, GkaForm(), "auto") is gka_torch
    with pytest.raises(ValueError, match="q is float64"):
        gka(*(v.double() for v in inputs[:3]), inputs.log_decay, backend="triton")


def test_auto_takes_torch_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, inputs = noted(monkeypatch), inputs_of(Case(D=4, V=3))
    gka(*inputs[:5])
    assert kernels.calls == []


def test_triton_needs_a_card_or_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="q is on cpu, not on a CUDA device"):
        gka(**given(backend="triton"))


def test_without_triton_none_of_its_kernels_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "_triton", lambda: None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="not installed"):
        gka(**given(backend="triton"))
