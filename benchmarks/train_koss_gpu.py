"""Steps per second of `ssrtrack train koss` on one GPU with the fused KOSS kernels and with plain torch, side by side.

    python benchmarks/train_koss_gpu.py            (about 3 minutes; --quick: one)

The same model from the same seed on the same device-made flights, in one process, four ways: the fused kernels with
loss and gradient replayed as a CUDA graph and the next batch made beside it, as a training does it; the same, operation
by operation; and both with the layer's loop in plain torch. First, on one batch, loss and gradient of the ways must
agree: what does not gets no time. Then each trains for the same number of steps. Accuracy is the mean loss of the last
20 steps and the errors on held-out flights, made on the device too, beside the tuned IMM's on the same flights; a
second seed of the first way says how much of a difference means nothing. A step's seconds are by the wall clock, the
device waited for at its end; parts of a step are timed apart, each waited for. Writes results/train_koss_gpu.csv.
Without a GPU, `--device cpu --steps 3 --batch 8` goes through the same motions, with the kernels that a CPU has.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from koss_gpu_clock import first_line
from setting import RESULTS, cuda_device, device, setting, write_csv
from torch import nn

from ssrtrack.filters.bank import Bank
from ssrtrack.models.load import load_tracker
from ssrtrack.models.residual_inputs import base_history
from ssrtrack.simulators.suite import load_suite
from ssrtrack.training.device_sampler import DeviceFlights, device_flights
from ssrtrack.training.distributed import Ranks, device_named
from ssrtrack.training.loop import Training
from ssrtrack.training.loop_model import keep_within_bounds, loss_of, new_model
from ssrtrack.training.loop_recipe import Recipe
from ssrtrack.training.loop_validation import HeldOut, held_out

HELD_OUT, HELD_OUT_PLOTS, HELD_OUT_SEED = 1024, 200, 987_654_321
WARM = 10  # steps whose seconds do not count: kernels compile, the graph is recorded
LAST = 20  # steps over which the final loss is averaged
LOSS_OFF, GRADIENT_OFF = 1e-4, 1e-2  # relative, of float32 sums in another order
PARTS = ("flights", "base filter", "forward", "backward", "clip and optimiser", "cap")
COLUMNS = (
    "way", "seed", "steps", "batch", "window", "size", "seconds_p20", "seconds_p50", "seconds_p80", "steps_per_s",
    "plots_per_s", "times_torch", "loss_first", "loss_last", "position_rmse_m", "velocity_rmse_mps",
    "position_over_imm", "velocity_over_imm", "loss_off", "gradient_off",
    *(f"ms_{part.replace(' ', '_')}" for part in PARTS), "launches", "peak_device_mib", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """A name, the backend of the layers' loops, and whether steps are replayed as a graph, with batches made ahead."""

    name: str
    backend: str | None
    replay: bool


WAYS = (
    Way("fused, replayed", None, True),
    Way("fused", None, False),
    Way("plain torch, replayed", "torch", True),
    Way("plain torch", "torch", False),
)


@dataclass(frozen=True)
class Setup:
    """What all ways share."""

    recipe: Recipe
    bank: Bank
    flights: DeviceFlights
    there: HeldOut
    gap_s: float
    where: torch.device

    def training(self, way: Way, seed: int) -> Training:
        """A training at its start."""
        recipe = replace(self.recipe, seed=seed)
        model = with_backend(new_model(recipe.size, self.bank, self.gap_s, seed), way.backend)
        ranks, fast = Ranks(0, 1, self.where), way.replay
        return Training(recipe, model, self.bank, self.flights, self.there, ranks, replay=fast, ahead=fast)


def with_backend(model: nn.Module, backend: str | None) -> Any:
    """The model with its layers' loops on a backend; None leaves the choice to `koss_closed_loop`."""
    for block in model.blocks:  # type: ignore[union-attr]
        block.koss.backend = backend  # type: ignore[union-attr]
    return model


def gradient_of(setup: Setup, way: Way) -> tuple[float, torch.Tensor]:
    """Loss of a fixed batch and the gradient of all weights in a row."""
    run = setup.training(way, 1)
    # A net at its start is the base filter itself, and hardly any weight has a gradient: its heads are moved.
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=g).to(parameter))
    keep_within_bounds(run.model)
    flown = setup.flights.windows(0)
    loss, _ = loss_of(run.model, base_history(setup.bank, flown), flown)
    found = torch.autograd.grad(loss, [p for p in run.model.parameters() if p.requires_grad])
    return float(loss.detach()), torch.cat([v.flatten() for v in found])


def apart(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor]) -> tuple[float, float]:
    """Relative differences of loss and gradient."""
    loss_off = abs(found[0] - expected[0]) / abs(expected[0])
    return loss_off, float((found[1] - expected[1]).norm() / expected[1].norm())


def wait(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize()


def trained(setup: Setup, way: Way, seed: int) -> dict[str, Any]:
    """A row: a whole training of the recipe's steps."""
    if setup.where.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    run, recipe = setup.training(way, seed), setup.recipe
    losses, seconds = [], []
    for step in range(recipe.steps):
        wait(setup.where)
        begin = time.perf_counter()
        losses.append(run._step(recipe.rate(step / recipe.steps, step)))
        wait(setup.where)
        seconds.append(time.perf_counter() - begin)
    report = run.report_on(run.model)
    p20, p50, p80 = np.percentile(seconds[min(WARM, len(seconds) - 1) :], [20, 50, 80])
    ratio = report.ratio
    row = {
        "seconds_p20": f"{p20:.4g}", "seconds_p50": f"{p50:.4g}", "seconds_p80": f"{p80:.4g}",
        "steps_per_s": f"{1.0 / p50:.4g}", "plots_per_s": round(recipe.batch * recipe.window / p50),
        "loss_first": f"{losses[0]:.5g}", "loss_last": f"{np.mean(losses[-LAST:]):.5g}",
        "position_rmse_m": f"{report.errors.position_rmse_m:.2f}",
        "velocity_rmse_mps": f"{report.errors.velocity_rmse_mps:.3f}",
        "position_over_imm": f"{ratio[0]:.4f}", "velocity_over_imm": f"{ratio[1]:.4f}",
    }  # fmt: skip
    if setup.where.type == "cuda":
        row["peak_device_mib"] = str(round(torch.cuda.max_memory_allocated() / 2**20))
    return row | parts_of(setup, run) | launches_of(run)


def parts_of(setup: Setup, run: Training) -> dict[str, Any]:
    """Milliseconds of a step's parts, operation by operation, the device waited for after each."""
    taken: dict[str, list[float]] = {part: [] for part in PARTS}

    def clocked(part: str, work: Callable[[], Any]) -> Any:
        wait(setup.where)
        begin = time.perf_counter()
        out = work()
        wait(setup.where)
        taken[part].append(1e3 * (time.perf_counter() - begin))
        return out

    for k in range(3 if setup.where.type == "cpu" else 7):
        flown = clocked("flights", lambda k=k: setup.flights.windows(k))  # type: ignore[misc]
        base = clocked("base filter", lambda flown=flown: base_history(setup.bank, flown))  # type: ignore[misc]
        loss = clocked("forward", lambda base=base, flown=flown: loss_of(run.model, base, flown)[0])  # type: ignore[misc]
        clocked("backward", loss.backward)
        clocked("clip and optimiser", lambda: (clipped(run), run.optimizer.step()))
        clocked("cap", lambda: keep_within_bounds(run.model))
        run.optimizer.zero_grad(set_to_none=True)
    return {f"ms_{part.replace(' ', '_')}": f"{np.median(ms):.3g}" for part, ms in taken.items()}


def clipped(run: Training) -> float:
    return float(nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.clip))


def launches_of(run: Training) -> dict[str, Any]:
    """How many launches a step asks of the processor: of kernels, and of graphs."""
    if run.ranks.device.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
            run._step(1e-6)
        names = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaLaunchKernelExC", "cuLaunchKernelEx")
        return {"launches": sum(event.count for event in record.key_averages() if event.key in names)}
    except Exception as error:
        return {"note": f"not profiled: {first_line(error)}"}


def rows_of(
    setup: Setup, ways: Sequence[tuple[Way, int]], keep: Callable[[list[dict[str, Any]]], None]
) -> list[dict[str, Any]]:
    """A row for each way and seed; wrong ones get no time. `keep` is given all that are done after each."""
    expected, rows = gradient_of(setup, WAYS[-1]), []
    recipe = setup.recipe
    for way, seed in ways:
        row: dict[str, Any] = {
            "way": way.name, "seed": seed, "steps": recipe.steps, "batch": recipe.batch, "window": recipe.window,
            "size": recipe.size,
        }  # fmt: skip
        try:
            loss_off, gradient_off = apart(gradient_of(setup, way), expected)
            row |= {"loss_off": f"{loss_off:.1e}", "gradient_off": f"{gradient_off:.1e}"}
            if not (loss_off <= LOSS_OFF and gradient_off <= GRADIENT_OFF):
                row["note"] = "wrong beyond the limits; not timed"
            else:
                row |= trained(setup, way, seed)
        except Exception as error:
            row["note"] = f"does not run: {first_line(error)}"
        rows.append(row)
        keep(finished(rows))
        print("  ".join(f"{key} {value}" for key, value in row.items() if value != ""), flush=True)
    return rows


def finished(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All columns, with each way's steps per second over plain torch's."""
    plain = [r for r in rows if r["way"] == WAYS[-1].name and "steps_per_s" in r]
    out = []
    for r in rows:
        if plain and "steps_per_s" in r:
            r = r | {"times_torch": f"{float(r['steps_per_s']) / float(plain[0]['steps_per_s']):.3g}"}
        out.append({column: r.get(column, "") for column in COLUMNS})
    return out


def prepared(args: argparse.Namespace, flights: DeviceFlights, where: torch.device) -> Setup:
    """Filters and held-out flights."""
    recipe = Recipe(steps=args.steps, minutes=0.0, batch=args.batch, size=args.size)
    bank, reference = load_tracker("imm"), load_tracker("imm")
    if not isinstance(bank, Bank) or not isinstance(reference, Bank):
        raise TypeError("imm is no bank of filters")
    scenario = load_suite(args.scenario, "train")[0]
    count = min(HELD_OUT, 4 * args.batch)
    kept = DeviceFlights(scenario, HELD_OUT_SEED, count, HELD_OUT_PLOTS, where, 0, 1).windows(0)
    there = held_out(kept, np.arange(count), bank, reference)
    gaps = torch.diff(kept.time_s, dim=1)
    gap_s = float(gaps[torch.isfinite(gaps)].median())
    return Setup(recipe, bank, flights, there, gap_s, where)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "train_koss_gpu.csv", help="CSV to write")
    parser.add_argument("--device", default="cuda", help="cpu or cuda")
    parser.add_argument("--scenario", default="tma-4s", help="name in the suite")
    parser.add_argument("--size", default="small", help="tiny, small or medium")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=256, help="windows in a step")
    parser.add_argument("--quick", action="store_true", help="60 steps, one seed")
    args = parser.parse_args(given)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device; --device cpu --steps 3 --batch 8 goes through the same motions without")
    if args.quick:
        args.steps = 60
    where = device_named(args.device)
    ways = [(way, 1) for way in WAYS] + ([] if args.quick else [(WAYS[0], 2)])
    scenario = load_suite(args.scenario, "train")[0]
    cuda = where.type == "cuda"
    shared = setting("torch", "numpy", *(["triton"] if cuda else ["numba"]), on=cuda_device() if cuda else device())

    def keep(done: list[dict[str, Any]]) -> None:
        write_csv(args.output, [row | shared for row in done], told=False)

    with device_flights(scenario, 1, args.batch, Recipe().window, where) as flights:
        rows = finished(rows_of(prepared(args, flights, where), ways, keep))
    for row in rows:
        print(
            f"{row['way']:22s} seed {row['seed']}: {row['steps_per_s']} steps/s, {row['times_torch']} x torch, loss "
            f"{row['loss_last']}, position {row['position_over_imm']} of the IMM's {row['note']}"
        )
    return 1 if any("wrong" in row["note"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
