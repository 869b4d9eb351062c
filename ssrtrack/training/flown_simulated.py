"""Endless windows of simulated flights: batch k is a function of the scenario, the seed and k alone.

The flights come from the simulator itself, so that whatever a scenario may say is trained on exactly. Processes beside
the training one simulate ahead: one core makes several times as many plots in a second as a small network's training
uses on it (benchmarks/train_koss_cpu.py measures both). For GPUs with few cores beside them there is `device_sampler`.

A batch is shared out over slots. Each slot follows its own sequence of blocks, a block being the whole scenario under
a seed of its own, cut into windows and shuffled; it serves the next batches with as many windows as it holds. Which
process works on which slots does not change a batch, so neither a restart nor another number of processes does.
"""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from ssrtrack.errors import ScenarioError, TrainingError
from ssrtrack.simulators.processes import Processes, WorkerDied
from ssrtrack.simulators.scenario import radars, simulate
from ssrtrack.simulators.schema import Scenario
from ssrtrack.training.flown_windows import MIN_PLOTS, Windows, windows_of

# What a random stream is for: the first word of its spawn key. None is a key that the simulator derives from a seed.
TRAINING, VALIDATION, SHUFFLE = 101, 102, 103
BLOCK_PLOTS = 150_000  # a block ends with the chunk that has this many, so that it stays a few ten megabytes
SLOT_ROWS, MOST_SLOTS = 32, 8
FLIGHTS_APART = 1 << 32  # between the numbers of the flights of two simulations or logs


@dataclass(frozen=True)
class Endless:
    """What to simulate: windows of `length` plots, `batch` of them at a time, all from `seed`."""

    scenario: Scenario
    seed: int
    batch: int
    length: int

    @property
    def slots(self) -> int:
        """Into how many parts a batch is split: as many as divide it, of about 32 windows, 2 to 8 of them."""
        wanted = int(np.clip(self.batch // SLOT_ROWS, 2, MOST_SLOTS))
        return max((n for n in range(1, wanted + 1) if self.batch % n == 0), default=1)


def block(plan: Endless, purpose: int, slot: int, number: int) -> Windows:
    """The shuffled windows of one block.

    Raises:
        ScenarioError: the scenario gives no flight of MIN_PLOTS plots.
    """
    return _shuffled(plan, block_seed(plan.seed, purpose, slot, number))


def _shuffled(plan: Endless, seed: int) -> Windows:
    plots, truth = [], []
    for some, states in simulate(plan.scenario, seed):
        plots.append(some)
        truth.append(states)
        if sum(map(len, plots)) >= BLOCK_PLOTS:
            break
    found = windows_of(plots, truth, radars(plan.scenario), plan.length)
    if found is None:
        raise ScenarioError(
            f"{plan.scenario.name or 'the scenario'}: no flight has {MIN_PLOTS} plots, so nothing to train on; "
            "give more traffic, a longer duration or a greater coverage"
        )
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(SHUFFLE,))))
    return found.take(order.permutation(len(found)))


def block_seed(seed: int, purpose: int, slot: int, number: int) -> int:
    """The simulator's seed for a block: 63 bits, so that two blocks hardly ever share one."""
    words = np.random.SeedSequence(seed, spawn_key=(purpose, slot, number)).generate_state(1, np.uint64)
    return int(words[0] >> 1)


class SimulatedFlights:
    """The slots of one process: `windows(k)` is its part of batch k. Use it in a `with` of `simulated_flights`."""

    def __init__(self, plan: Endless, rank: int, world: int, pool: Processes | None) -> None:
        if plan.slots % world:
            raise ScenarioError(
                f"a batch of {plan.batch} windows is made in {plan.slots} parts, which {world} processes cannot share "
                f"evenly; give a batch of {SLOT_ROWS * world} windows or a multiple of it, and 2, 4 or 8 processes"
            )
        share = plan.slots // world
        self._plan, self._pool = plan, pool
        self._slots = range(rank * share, (rank + 1) * share)
        self._rows = plan.batch // plan.slots
        self._blocks: dict[tuple[int, int], Future[Windows]] = {}
        # Every slot goes over to its next block at the same batch: after as many as the first block of all can serve.
        self._serves = max(1, len(self._block(0, 0)) // self._rows)

    def windows(self, k: int) -> Windows:
        """This process's windows of batch k."""
        number, turn = divmod(k, self._serves)
        self._blocks = {key: value for key, value in self._blocks.items() if key[1] >= number}
        parts = []
        for slot in self._slots:
            whole = self._block(slot, number)
            # A block with fewer windows than the first one begins again.
            parts.append(whole.take((turn * self._rows + np.arange(self._rows)) % len(whole)))
        if self._pool is not None:
            for slot in self._slots:
                self._submit(slot, number + 1)
        return Windows.concat(parts)

    def _block(self, slot: int, number: int) -> Windows:
        try:
            return self._submit(slot, number).result()
        except WorkerDied as error:
            raise TrainingError(
                "a process that simulates for the training was killed (the system does that when memory runs out); "
                "go on with --resume, with fewer --workers or 0"
            ) from error

    def _submit(self, slot: int, number: int) -> "Future[Windows]":
        key = slot, number
        if key not in self._blocks:
            if self._pool is not None:
                self._blocks[key] = self._pool.submit(block, self._plan, TRAINING, slot, number)
            else:
                self._blocks[key] = Future()
                self._blocks[key].set_result(block(self._plan, TRAINING, slot, number))
        return self._blocks[key]


@contextmanager
def simulated_flights(plan: Endless, rank: int = 0, world: int = 1, workers: int = 1) -> Iterator[SimulatedFlights]:
    """Part `rank` of `world` of the endless batches, simulated ahead by `workers` processes (0: none, in place).

    Raises:
        ScenarioError: the batch cannot be shared out, or the scenario gives no flights.
    """
    if workers < 1:
        yield SimulatedFlights(plan, rank, world, None)
        return
    with Processes(workers) as pool:
        yield SimulatedFlights(plan, rank, world, pool)


def held_out_flights(plan: Endless, windows: int, seed: int | None = None) -> Windows:
    """Windows of flights that no training block shares: `windows` of them from seeds of their own.

    With `seed`, at most that many from the scenario under just this seed: a split of the benchmark suite.
    """
    if seed is not None:
        return _shuffled(plan, seed).take(slice(0, windows))
    parts: list[Windows] = []
    while sum(map(len, parts)) < windows:
        part = block(plan, VALIDATION, 0, len(parts))
        parts.append(replace(part, flight=part.flight + len(parts) * FLIGHTS_APART))
    return Windows.concat(parts).take(slice(0, windows))
