"""What every mixer is to be, a loop in float64, and how far off it is; and graphs beside plain steps."""

from collections.abc import Callable
from math import sqrt

import torch

from ssrtrack.errors import TrainingError
from ssrtrack.experiments.recall import tasks
from ssrtrack.experiments.recall_mixers import delta_rule_loop, linear_attention_loop
from ssrtrack.experiments.recall_models import EPS, MIXERS, recaller
from ssrtrack.experiments.recall_train import RecallRecipe, RecallTraining
from ssrtrack.experiments.train import PRECISIONS
from ssrtrack.kernels.gka import gka

Tensor = torch.Tensor
Gates = dict[str, Tensor]
STEPS, WIDTH = 70, 32  # more than a chunk


def _gka(q: Tensor, k: Tensor, v: Tensor, gates: Gates) -> Tensor:
    decay = gates.get("decay", q.new_zeros(q.shape[:2]))
    if "beta" in gates:
        k, v = ((gates["beta"] + EPS)[..., None] * part for part in (k, v))
    alpha = gates["alpha"][:, :, None] if "alpha" in gates else None
    o, _ = gka(q[:, :, None], k[:, :, None], v[:, :, None], decay[:, :, None], alpha, backend="reference")
    return o[:, :, 0]


def softmax_attention_loop(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax attention, query by query; numbers i and i + D/2 of step t turned by t · 10000^(−2i/D)."""
    half = q.shape[-1] // 2
    speed = 10_000.0 ** (-torch.arange(half, device=q.device, dtype=torch.float64) / half)
    outputs = []
    for t in range(q.shape[1]):
        # Only the difference of positions counts: the query stays, keys are turned back by how long ago they were.
        ago = torch.arange(t, -1, -1, device=q.device)[:, None] * speed
        a, b = k[:, : t + 1, :half], k[:, : t + 1, half:]
        turned = torch.cat([a * ago.cos() + b * ago.sin(), b * ago.cos() - a * ago.sin()], -1)
        weight = torch.softmax((turned @ q[:, t, :, None])[..., 0] / sqrt(q.shape[-1]), -1)
        outputs.append((weight[..., None] * v[:, : t + 1]).sum(1))
    return torch.stack(outputs, 1)


LOOPS: dict[str, Callable[[Tensor, Tensor, Tensor, Gates], Tensor]] = {
    "gka": _gka,
    "gka gated": _gka,
    "delta": lambda q, k, v, gates: delta_rule_loop(q, k, v, gates["beta"]),
    "delta gated": lambda q, k, v, gates: delta_rule_loop(q, k, v, gates["beta"], gates["decay"]),
    "linear": lambda q, k, v, gates: linear_attention_loop(q, k, v),
    "linear gated": lambda q, k, v, gates: linear_attention_loop(q, k, v, gates["decay"]),
    "softmax": lambda q, k, v, gates: softmax_attention_loop(q, k, v),
}


def off_by(name: str, device: str, precision: str) -> float:
    """The largest of RMS(mixer − loop)/RMS(loop) over the output and its gradients to q, k, v and every gate.

    precision: of q, k and v, as in training; the loop has the same numbers in float64.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, STEPS, WIDTH, generator=generator) for _ in range(3))
    k, q = (part / part.norm(dim=-1, keepdim=True) for part in (k, q))
    gates = {gate: torch.rand(2, STEPS, generator=generator) for gate in MIXERS[name][0]}
    if "decay" in gates:
        gates["decay"] = -0.1 * gates["decay"]
    weight = torch.randn(2, STEPS, WIDTH, generator=generator)
    kind = PRECISIONS[precision]
    given = [*(part.to(kind) for part in (q, k, v)), *gates.values()]
    found = _with_gradients(MIXERS[name][1], list(gates), [part.to(device) for part in given], weight.to(device))
    wanted = _with_gradients(LOOPS[name], list(gates), [part.double() for part in given], weight.double())
    pairs = zip(found, wanted, strict=True)
    return max(float((a.double().cpu() - b).norm() / b.norm()) for a, b in pairs)


def graph_off_by(name: str, device: str, precision: str, steps: int = 16) -> float:
    """Largest relative difference of a small training's losses with graphs from those without, two lengths in turn.

    A TrainingError where no graph could be captured.
    """
    losses = []
    for captured in (True, False):
        found = tuple(tasks(64, (64, 128), 8))
        recipe = RecallRecipe(found, 1e-3, 1, steps, tokens=1024, first=0.0, precision=precision)
        training = RecallTraining(recaller(name, WIDTH, 64, 1), recipe, device)
        training.captured = captured
        while not training.advance():
            pass
        losses.append(training.history()[0])
        if captured and not training.captured:
            raise TrainingError(f"no graph of a step of {name!r} can be captured on {device}: {training.why_not}")
    return float(max(abs(a / b - 1.0) for a, b in zip(*losses, strict=True)))


def _with_gradients(
    mix: Callable[[Tensor, Tensor, Tensor, Gates], Tensor], names: list[str], given: list[Tensor], weight: Tensor
) -> list[Tensor]:
    leaves = [part.detach().requires_grad_() for part in given]
    q, k, v, *gates = leaves
    o = mix(q, k, v, dict(zip(names, gates, strict=True)))
    return [o.detach(), *torch.autograd.grad((o.to(weight.dtype) * weight).sum(), leaves)]
