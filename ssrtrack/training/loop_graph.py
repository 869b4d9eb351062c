"""Loss and gradient of a batch as one CUDA graph: thousands of small launches become one.

A step of a small network is short beside the time that a processor needs to start its operations one by one. Batches
of one shape go through the same operations, so these are recorded once and replayed on the numbers of each batch.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from ssrtrack.models.residual_inputs import Base, Flown
from ssrtrack.models.residual_loss import LossWeights
from ssrtrack.training.loop_model import WEIGHTS, loss_of

Tensor = torch.Tensor
# Mean loss, number of plots, and a gradient (or None) for every parameter.
Found = tuple[Tensor, Tensor, list[Tensor | None]]
EAGER_STEPS = 2  # before the recording: kernels compile, libraries take their workspaces
LOSS_OFF, GRADIENT_OFF = 1e-4, 1e-2  # relative: what sums in another order may differ by


@dataclass(frozen=True)
class Recorded:
    """A graph with the tensors it reads and writes."""

    graph: Any
    given: list[Tensor]
    found: Found


class Gradient:
    """Loss and gradients of batches, by replay where that is possible.

    precision: the context under which the model runs. weights: of the loss. A batch of another shape than the one
    recorded, one with missed plots between others, and everything on a CPU runs operation by operation.
    """

    def __init__(
        self, model: nn.Module, precision: Callable[[], AbstractContextManager[Any]], replay: bool = True,
        weights: LossWeights = WEIGHTS,
    ) -> None:  # fmt: skip
        self._model, self._precision, self._weights = model, precision, weights
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._recorded: Recorded | None = None
        self._eager_left, self._gave_up = EAGER_STEPS, not replay

    def __call__(self, base: Base, flown: Flown) -> Found:
        """Mean loss, number of plots and gradients; valid until the next call."""
        if self._gave_up or not replayable(flown):
            return self.eager(base, flown)
        if self._eager_left:
            self._eager_left -= 1
            return self.eager(base, flown)
        if self._recorded is None:
            return self._first(base, flown)
        given = tensors_of(base, flown)
        if shapes_of(given) != shapes_of(self._recorded.given):
            return self.eager(base, flown)
        return replayed(self._recorded, given)

    def eager(self, base: Base, flown: Flown) -> Found:
        """Operation by operation."""
        return self._found(base, flown, None)

    def _found(self, base: Base, flown: Flown, whole: bool | None) -> Found:
        with self._precision():
            loss, plots = loss_of(self._model, base, flown, whole, self._weights)
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        # Some come transposed, as `backward` would not leave them; an optimiser of one launch refuses such.
        return loss.detach(), plots, [None if g is None else g.contiguous() for g in gradients]

    def _first(self, base: Base, flown: Flown) -> Found:
        """Record, and keep the record only if its replay gives what the operations gave."""
        found = self.eager(base, flown)
        try:
            recorded = self._record(base, flown)
            if fault := unlike(found, replayed(recorded, tensors_of(base, flown))):
                raise RuntimeError(fault)
            self._recorded = recorded
        except Exception as error:  # slower, but right
            self._gave_up = True
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            warnings.warn(f"the step is not replayed as a CUDA graph: {error}", RuntimeWarning, stacklevel=2)
        return found

    def _record(self, base: Base, flown: Flown) -> Recorded:
        given = [v.clone(memory_format=torch.preserve_format) for v in tensors_of(base, flown)]
        count = len(fields(Base))
        inside = Base(*given[:count]), flown_of(given[count:])
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._found(*inside, True)  # once on the stream of the recording, for what it allocates there
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            found = self._found(*inside, True)
        return Recorded(graph, given, found)


def replayable(flown: Flown) -> bool:
    """Whether the operations on a batch follow from its shape alone: on a GPU, and every column a plot or padding."""
    if flown.device.type != "cuda" or flown.truth is None:
        return False
    return bool((flown.valid == torch.isfinite(flown.time_s)).all())


def tensors_of(base: Base, flown: Flown) -> list[Tensor]:
    """All that a step reads, in order."""
    return [getattr(it, f.name) for it in (base, flown) for f in fields(it)]


def flown_of(tensors: Sequence[Tensor]) -> Flown:
    """A Flown of its tensors, truth included."""
    return Flown(**dict(zip((f.name for f in fields(Flown)), tensors, strict=True)))


def shapes_of(tensors: Sequence[Tensor]) -> list[Any]:
    """What a record depends on."""
    return [(v.shape, v.dtype) for v in tensors]


def replayed(recorded: Recorded, given: Sequence[Tensor]) -> Found:
    """The record's results on other numbers."""
    for mine, its in zip(recorded.given, given, strict=True):
        mine.copy_(its)
    recorded.graph.replay()
    return recorded.found


def unlike(expected: Found, found: Found) -> str:
    """How a replay differs from the operations; empty if it does not."""
    off = float((found[0] - expected[0]).abs() / expected[0].abs().clamp(min=1e-12))
    pairs = [(a, b) for a, b in zip(expected[2], found[2], strict=True) if a is not None and b is not None]
    apart = torch.stack([(a - b).square().sum() for a, b in pairs]).sum().sqrt()
    size = torch.stack([a.square().sum() for a, _ in pairs]).sum().sqrt().clamp(min=1e-12)
    gradient_off = float(apart / size)
    if off <= LOSS_OFF and gradient_off <= GRADIENT_OFF and int(found[1]) == int(expected[1]):
        return ""
    return f"its loss is {off:.1e} and its gradient {gradient_off:.1e} off"
