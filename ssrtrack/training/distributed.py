"""One training in several processes, started by torchrun: each has its part of every batch, all the same weights."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ssrtrack.errors import TrainingError


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; one alone is rank 0 of 1."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes, prints and validates for all."""
        return self.rank == 0

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.world == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return float(tensor)

    def from_leader(self, values: list[float]) -> list[float]:
        """Rank 0's numbers, in every process: what all must agree on, such as the time that has passed."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return [float(v) for v in tensor.cpu()]

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.world > 1:
            dist.barrier()


def device_named(name: str) -> torch.device:
    """The device for "cpu", "cuda", "cuda:N" or "auto" (a GPU if there is one).

    Raises:
        TrainingError: an unknown name, or no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise TrainingError(f"device is {name!r}, expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise TrainingError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices that torch can use; "
            "use --device cpu, or a PyTorch build for your GPU"
        )
    return torch.device(name)


@contextmanager
def ranks(device: str) -> Iterator[Ranks]:
    """This process's place, from the environment that torchrun sets; by itself without one.

    On GPUs every process takes the one of its local rank, and gradients go through NCCL; on CPUs through gloo.

    Raises:
        TrainingError: see `device_named`; or more processes on a machine than it has GPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(0, 1, device_named(device))
        return
    chosen = device_named(device)
    if chosen.type == "cuda":
        chosen = device_named(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), world, chosen)
        # Together: while one still writes, another must not take its end of their connections down.
        dist.barrier()
    finally:
        dist.destroy_process_group()
