"""Steps per second of the KOSS scan with its gradient on a CPU: autograd's own record, by hand in torch, compiled.

    python benchmarks/koss_scan.py

A step is one sequence's at one plot: forward and backward through a layer of 64 channels with 4 states. All three
have to agree on outputs and gradients first; nothing is timed or written otherwise. On one thread, by the process's
own CPU time, so that other load on the machine counts little. Writes results/koss_scan.csv.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from setting import RESULTS, device, setting, write_csv

from ssrtrack.models.koss_scan import _Fused, _Scan

Tensor = torch.Tensor
Scan = Callable[..., tuple[Tensor, Tensor]]
STEPS, BATCH, CHANNELS, STATES, ROUNDS = 80, 64, 64, 4, 15


def recorded(
    x: Tensor, delta: Tensor, rate: Tensor, read: Tensor, bias: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """The scan as one writes it down, its gradient left to autograd."""
    E, c = torch.exp(delta[:, None] * rate[:, :, None]), read[:, :, None, :, None]
    out = []
    for t in range(x.shape[0]):
        p = E[t] * h
        e = x[t] - (c[t] * p).sum(0)
        hidden = torch.relu((e * e / (1.0 + e * e)) @ w1 + b1[:, None])
        h = p + torch.sigmoid(hidden @ w2 + bias[t]) * (x[t] - c[t] * p)
        out.append((c[t] * h).sum(0))
    return torch.stack(out), h


WAYS: dict[str, Scan] = {"autograd": recorded, "by hand, torch": _Scan.apply, "by hand, compiled": _Fused.apply}


def arguments() -> list[Tensor]:
    """x, Δ, A, c, z, W1, b1, W2 and the first state, of the sizes and scales of a layer."""
    g = torch.Generator().manual_seed(0)
    shape, weight = (STEPS, 1, BATCH, CHANNELS), (1, CHANNELS, CHANNELS)
    made = [
        torch.randn(shape, generator=g),
        0.1 * torch.rand(shape, generator=g),
        -torch.arange(1.0, STATES + 1.0)[:, None, None].expand(STATES, 1, CHANNELS).clone(),
        torch.rand(STEPS, STATES, BATCH, generator=g),
        torch.randn(shape, generator=g) - 2.0,
        torch.randn(weight, generator=g) * (2.0 / CHANNELS) ** 0.5,
        torch.zeros(1, CHANNELS),
        torch.randn(weight, generator=g) / CHANNELS**0.5,
        torch.zeros(STATES, 1, BATCH, CHANNELS),
    ]
    return [v.requires_grad_() for v in made]


def result(scan: Scan, given: list[Tensor]) -> list[Tensor]:
    """y and the gradients of Σ y²."""
    y, _ = scan(*given)
    return [y, *torch.autograd.grad(y.square().sum(), given)]


def agree(given: list[Tensor]) -> bool:
    """Whether all ways give the first one's outputs and gradients."""
    first, *others = [result(scan, given) for scan in WAYS.values()]
    worst = max(((a - b).norm() / b.norm()).item() for other in others for a, b in zip(other, first, strict=True))
    print(f"outputs and gradients agree to {worst:.1e}")
    return worst < 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "koss_scan.csv")
    output = parser.parse_args().output
    given = arguments()
    torch.set_num_threads(1)
    if not agree(given):
        print("they do not agree: nothing is timed")
        return 1
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, scan in WAYS.items():
            begin = time.process_time()
            result(scan, given)
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
