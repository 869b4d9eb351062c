"""The next batch and its base filter, made while the device is busy with the step before.

Making a batch on the device is two thousand small operations, which take as long for few windows as for thousands, and
longer than a step's gradient. So several batches may be made together, and on a stream of its own that goes on beside
the steps. Which batch is which does not change, so neither do the losses.
"""

from typing import Any, Protocol

import torch

from ssrtrack.filters.bank import Bank
from ssrtrack.models.residual_inputs import Base, Flown, base_history
from ssrtrack.training.flown_tensors import to_flown
from ssrtrack.training.flown_windows import Windows
from ssrtrack.training.loop_graph import tensors_of


class Flights(Protocol):
    """Where batches come from: `windows(k)` is this process's part of batch k, always the same.

    Some have an attribute `together` above 1: as many batches are made at a time, and `windows(k)` is its part of all
    from k·together on, one after the other.
    """

    def windows(self, k: int) -> Windows | Flown:
        """Part of batch k; a Flown is on the training device."""


class Batches:
    """Batches with their base filter's history; on a GPU the next ones are made ahead."""

    def __init__(self, flights: Flights, bank: Bank, device: torch.device) -> None:
        self._flights, self._bank, self._device = flights, bank, device
        self._together = int(getattr(flights, "together", 1))
        self._stream: Any = None
        self._now: tuple[int, Flown, Base] | None = None
        self._ahead: tuple[int, Flown, Base] | None = None

    def take(self, k: int) -> tuple[Flown, Base]:
        """Batch k, made now unless it was prepared or came with the one before."""
        number, part = divmod(k, self._together)
        if self._now is None or self._now[0] != number:
            self._now = (number, *self._taken(number))
        _, flown, base = self._now
        if self._together == 1:
            self._now = None  # nothing is kept that is not asked for again
            return flown, base
        rows = len(flown.valid) // self._together
        mine = slice(part * rows, (part + 1) * rows)
        return flown.select(mine), base.flights(mine)

    def _taken(self, number: int) -> tuple[Flown, Base]:
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[0] != number:
            return self._made(number)
        _, flown, base = ahead
        now = torch.cuda.current_stream(self._device)
        now.wait_stream(self._stream)
        for tensor in tensors_of(base, flown):
            if tensor is not None:
                tensor.record_stream(now)  # its memory is not reused before this stream has read it
        return flown, base

    def prepare(self, k: int) -> None:
        """Begin batch k beside what the device is doing; nothing on a CPU, or where it is there already.

        Raises:
            What making the batch raises, a step early.
        """
        number = k // self._together
        if self._device.type != "cuda" or (self._now is not None and self._now[0] == number):
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            self._ahead = (number, *self._made(number))

    def _made(self, number: int) -> tuple[Flown, Base]:
        batch = self._flights.windows(number)
        flown = batch if isinstance(batch, Flown) else to_flown(batch, self._device)
        return flown, base_history(self._bank, flown)
