"""Steps per second of KOSS's closed loop with its gradient on a CPU: as written down, torch by segments, compiled.

    python benchmarks/koss_cpu.py

A step is one sequence's at one plot: forward and backward through a loop of 64 channels with 4 states, one step a
segment. All ways have to agree on outputs and gradients first; nothing is timed or written otherwise. On one thread,
by the process's own CPU time, so that other load on the machine counts little. Writes results/koss_cpu.csv.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from setting import RESULTS, device, setting, write_csv

from ssrtrack.kernels.koss_closed_loop import koss_closed_loop
from ssrtrack.kernels.koss_form import LoopInputs

Tensor = torch.Tensor
Loop = Callable[[LoopInputs], tuple[Tensor, Tensor]]
STEPS, BATCH, CHANNELS, STATES, ROUNDS = 80, 64, 64, 4, 15


def recorded(inputs: LoopInputs) -> tuple[Tensor, Tensor]:
    """The loop as one writes it down, its gradient left to autograd."""
    x, delta, c, bias, rate, w1, b1, w2, h = inputs[:9]
    out = []
    for t in range(x.shape[1]):
        p = torch.exp(delta[:, t, None] * rate) * h
        read = c[:, t, :, None]
        e = x[:, t] - (read * p).sum(1)
        hidden = torch.relu((e * e / (1.0 + e * e)) @ w1[0] + b1[0])
        K = torch.sigmoid(hidden @ w2[0] + bias[:, t])[:, None]
        h = p + K * (x[:, t, None] - read * p)
        out.append((read * h).sum(1))
    return torch.stack(out, 1), h


WAYS: dict[str, Loop] = {
    "as written down": recorded,
    "torch": partial(koss_closed_loop, backend="torch"),
    "compiled (numba)": partial(koss_closed_loop, backend="numba"),
}


def arguments() -> tuple[LoopInputs, list[Tensor]]:
    """Inputs of the sizes and scales of a layer, views of time-first tensors, and the leaves to differentiate by."""
    g = torch.Generator().manual_seed(0)
    shape, weight = (STEPS, BATCH, CHANNELS), (1, CHANNELS, CHANNELS)
    timed = [
        torch.randn(shape, generator=g),
        0.1 * torch.rand(shape, generator=g),
        torch.rand(STEPS, BATCH, STATES, generator=g),
        torch.randn(shape, generator=g) - 2.0,
    ]
    whole = [
        -torch.arange(1.0, STATES + 1.0)[:, None].repeat(1, CHANNELS),
        torch.randn(weight, generator=g) * (2.0 / CHANNELS) ** 0.5,
        torch.zeros(1, CHANNELS),
        torch.randn(weight, generator=g) / CHANNELS**0.5,
        torch.zeros(BATCH, STATES, CHANNELS),
    ]
    leaves = [v.requires_grad_() for v in (*timed, *whole)]
    return LoopInputs(*(v.transpose(0, 1) for v in timed), *whole), leaves


def result(loop: Loop, inputs: LoopInputs, leaves: list[Tensor]) -> list[Tensor]:
    """y and the gradients of Σ y²."""
    y, _ = loop(inputs)
    return [y, *torch.autograd.grad(y.square().sum(), leaves, retain_graph=True)]


def agree(inputs: LoopInputs, leaves: list[Tensor]) -> bool:
    """Whether all ways give the first one's outputs and gradients."""
    first, *others = [result(loop, inputs, leaves) for loop in WAYS.values()]
    worst = max(((a - b).norm() / b.norm()).item() for other in others for a, b in zip(other, first, strict=True))
    print(f"outputs and gradients agree to {worst:.1e}")
    return worst < 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "koss_cpu.csv")
    output = parser.parse_args().output
    inputs, leaves = arguments()
    torch.set_num_threads(1)
    if not agree(inputs, leaves):
        print("they do not agree: nothing is timed")
        return 1
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, loop in WAYS.items():
            begin = time.process_time()
            result(loop, inputs, leaves)
            seconds[name].append(time.process_time() - begin)
    rows = []
    for name, taken in seconds.items():
        rate = STEPS * BATCH / np.percentile(taken, [80, 50, 20])
        print(f"{name:18s} {rate[1]:9,.0f} steps/s")
        figures = {f"p{p}_steps_per_s": round(v) for p, v in zip((20, 50, 80), rate, strict=True)}
        rows.append({"way": name, **figures, **setting("torch", "numba", on=device())})
    write_csv(output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
