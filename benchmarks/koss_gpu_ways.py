"""Ways to compute a case of the KOSS benchmark, each as a problem: tensors, a call, a gradient to send back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import koss_gpu_peers as peers
import torch
from koss_gpu_cases import Case, drawn

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs

Tensor = torch.Tensor
Result = tuple[Tensor, Tensor]
Call = Callable[[LoopInputs], Result]


@dataclass(frozen=True)
class Problem:
    """One set of inputs: `call` gives y and the final state; gy is what comes back to y."""

    inputs: LoopInputs
    call: Call
    gy: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        """What gradients are taken of."""
        return [v for v in self.inputs if isinstance(v, Tensor) and v.requires_grad]

    def forward(self) -> Tensor:
        """y, nothing kept."""
        with torch.no_grad():
            return self.call(self.inputs)[0]

    def both(self) -> tuple[Tensor, ...]:
        """All gradients."""
        y = self.call(self.inputs)[0]
        return torch.autograd.grad(y, self.leaves, self.gy)

    def backward_of(self, y: Tensor) -> tuple[Tensor, ...]:
        """All gradients of a y whose record stays."""
        return torch.autograd.grad(y, self.leaves, self.gy, retain_graph=True)

    @property
    def nbytes(self) -> int:
        """Of its inputs."""
        return sum(v.nbytes for v in (*self.leaves, self.gy))


def gain_of(inputs: LoopInputs) -> LoopInputs:
    """Inputs of a scan: in place of the gain's logit the gain itself, and no φ."""
    gain = inputs.bias.detach().sigmoid().requires_grad_()
    w1, b1, w2 = (v.detach() for v in (inputs.w1, inputs.b1, inputs.w2))
    return inputs._replace(bias=gain, w1=w1, b1=b1, w2=w2)


def write_of(inputs: LoopInputs, seed: int) -> LoopInputs:
    """Inputs of Mamba's scan: b (B, T, N) in place of the gain's logit, and no φ."""
    g = torch.Generator(inputs.x.device).manual_seed(seed)
    b = torch.randn(inputs.read.shape, generator=g, device=inputs.x.device).to(inputs.read.dtype).requires_grad_()
    return gain_of(inputs)._replace(bias=b)


def call_of(case: Case, backend: str | None) -> Call:
    """The package's own function for a case."""
    if case.kind == "loop":
        from ssrtrack.kernels.koss_closed_loop import koss_closed_loop

        return lambda v: koss_closed_loop(v, case.form, backend=backend)
    from ssrtrack.kernels import koss_scan as scans

    if case.kind == "selective":
        return lambda v: scans.selective_scan(v.x, v.delta, v.bias, v.read, v.rate, v.start, backend=backend)
    return lambda v: scans.koss_scan(
        v.x, v.delta, v.bias, v.read, v.rate, v.start, operator=case.operator, slope=v.slope, backend=backend
    )


def way_of(case: Case, way: str, backend: str) -> Any:
    """The function of a way by its name; `backend` is that of the package's own kernels."""
    if way == "parallel scan in a Python loop":
        form: LoopForm = case.form
        return lambda v: peers.loop(v, form)
    if way == "eager" and case.kind == "loop":
        eager: LoopForm = case.form
        return lambda v: peers.eager(v, eager)
    return call_of(case, "torch" if way == "eager" else backend)


def problem(case: Case, call: Call, where: str, seed: int) -> Problem:
    """Inputs of a case, and a call on them."""
    inputs = drawn(case, where, seed)
    if case.kind != "loop":
        inputs = gain_of(inputs) if case.kind == "gains" else write_of(inputs, seed + 1)
    g = torch.Generator(where).manual_seed(seed + 2)
    gy = torch.randn(inputs.x.shape, generator=g, device=where).to(inputs.x.dtype)
    return Problem(inputs, call, gy)
