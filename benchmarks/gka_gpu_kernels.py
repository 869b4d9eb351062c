"""Gated KalmaNet's kernels one by one: the time of each in a pass forward and back, and what memory a pass needs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from gka_gpu_cases import Case
from gka_gpu_ways import Problem, Row
from koss_gpu_clock import peak_bytes, time_columns

from ssrtrack.kernels.gka_form import GkaInputs

ENDING = "_kernel"
WAIT_CYCLES = 40_000_000  # before the first launch, so that all lie ready behind one another
REPEATS = 9
Log = list[tuple[str, Any, Any]]


class _Timed:
    """A kernel with an event before and after each launch."""

    def __init__(self, name: str, kernel: Any, log: Log) -> None:
        self.name, self.kernel, self.log = name, kernel, log

    def __getitem__(self, grid: Any) -> Any:
        def launched(*given: Any, **options: Any) -> None:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            self.kernel[grid](*given, **options)
            last.record()
            self.log.append((self.name, first, last))

        return launched

    def __getattr__(self, name: str) -> Any:
        """What a launcher asks a kernel for."""
        return getattr(self.kernel, name)


@contextmanager
def timed(kernels: Any, log: Log) -> Iterator[None]:
    """The module's kernels with events around them."""
    plain = {name: kernel for name, kernel in vars(kernels).items() if name.endswith(ENDING)}
    try:
        for name, kernel in plain.items():
            setattr(kernels, name, _Timed(name.removesuffix(ENDING), kernel, log))
        yield
    finally:
        for name, kernel in plain.items():
            setattr(kernels, name, kernel)


def _module(backend: str) -> Any:
    from ssrtrack.kernels import gka_torch

    if backend != "triton":
        return gka_torch
    from ssrtrack.kernels import gka_triton

    return gka_triton


def _inputs(p: Problem) -> GkaInputs:
    return GkaInputs(*(leaf.detach() for leaf in p.leaves))


def kernel_rows(sets: Sequence[Problem], case: Case) -> Iterator[Row]:
    """A row for each kernel of the pass forward, which keeps what the backward wants, and of the pass back.

    A kernel's milliseconds are those of all its launches in a pass, one a span of chunks.
    """
    kernels = _module("triton")
    found: dict[tuple[str, str], list[float]] = {}
    for repeat in range(REPEATS + 1):
        p = sets[repeat % len(sets)]
        logs: dict[str, Log] = {"forward": [], "backward": []}
        inputs = _inputs(p)
        torch.cuda._sleep(WAIT_CYCLES)
        with timed(kernels, logs["forward"]):
            *_, saved = kernels.forward(inputs, case.form, True)
        with timed(kernels, logs["backward"]):
            kernels.backward(inputs, case.form, saved, p.go, None, None)
        torch.cuda.synchronize()
        if repeat:  # the first may have compiled
            for place, ms in _sums(logs).items():
                found.setdefault(place, []).append(ms)
    for (direction, name), ms_all in found.items():
        yield {"direction": direction, "kernel": name, "timing": "kernel"} | time_columns(ms_all)


def _sums(logs: dict[str, Log]) -> dict[tuple[str, str], float]:
    sums: dict[tuple[str, str], float] = {}
    for direction, log in logs.items():
        for name, first, last in log:
            sums[direction, name] = sums.get((direction, name), 0.0) + float(first.elapsed_time(last))
    return sums


def memory_columns(p: Problem, case: Case, backend: str, where: str) -> dict[str, Row]:
    """Of both directions: bytes at the peak, and bytes of what there must be at once, by name.

    Needed are the leaves and o; where gradients are made also ∂L/∂o, a gradient of each leaf, and what is kept for the
    backward: x and what it was divided by, ‖H‖_F, and the states between spans. No kernel's states count as needed.
    """
    if where != "cuda":
        return {"forward": {}, "forward+backward": {}}
    leaves, go = sum(v.nbytes for v in p.leaves), p.go.nbytes
    kept = sum(v.nbytes for v in _module(backend).forward(_inputs(p), case.form, True)[2])
    needed = {"forward": leaves + go, "forward+backward": 2 * leaves + 2 * go + kept}
    peaks = {
        "forward": leaves + peak_bytes(p.forward, where),
        "forward+backward": leaves + go + peak_bytes(p.both, where),
    }
    return {name: {"peak_bytes": peaks[name], "needed_bytes": needed[name]} for name in needed}
