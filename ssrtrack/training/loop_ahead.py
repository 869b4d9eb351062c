"""The next batch and its base filter, made while the device is busy with the step before.

Making a batch on the device is two thousand small operations, which a processor takes as long to start as the device
takes for a step's gradient. On a stream of its own the one goes on beside the other. Which batch is which does not
change, so neither do the losses.
"""

from typing import Any, Protocol

import torch

from ssrtrack.filters.bank import Bank
from ssrtrack.models.residual_inputs import Base, Flown, base_history
from ssrtrack.training.flown_tensors import to_flown
from ssrtrack.training.flown_windows import Windows
from ssrtrack.training.loop_graph import tensors_of


class Flights(Protocol):
    """Where batches come from: `windows(k)` is this process's part of batch k, always the same."""

    def windows(self, k: int) -> Windows | Flown:
        """Part of batch k; a Flown is on the training device."""


class Batches:
    """Batches with their base filter's history, one of them made ahead on a GPU."""

    def __init__(self, flights: Flights, bank: Bank, device: torch.device) -> None:
        self._flights, self._bank, self._device = flights, bank, device
        self._stream: Any = None
        self._ahead: tuple[int, Flown, Base] | None = None

    def take(self, k: int) -> tuple[Flown, Base]:
        """Batch k, made now unless it was prepared."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[0] != k:
            return self._made(k)
        _, flown, base = ahead
        now = torch.cuda.current_stream(self._device)
        now.wait_stream(self._stream)
        for tensor in tensors_of(base, flown):
            if tensor is not None:
                tensor.record_stream(now)  # its memory is not reused before this stream has read it
        return flown, base

    def prepare(self, k: int) -> None:
        """Begin batch k beside what the device is doing; nothing on a CPU.

        Raises:
            What making the batch raises, a step early.
        """
        if self._device.type != "cuda":
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            self._ahead = (k, *self._made(k))

    def _made(self, k: int) -> tuple[Flown, Base]:
        batch = self._flights.windows(k)
        flown = batch if isinstance(batch, Flown) else to_flown(batch, self._device)
        return flown, base_history(self._bank, flown)
