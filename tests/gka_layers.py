"""Gated KalmaNet layers for tests, their inputs, and the whole layer computed row by row, head by head, in float64."""

from typing import Any

import torch
from torch.nn import functional

from ssrtrack.kernels.gka_form import GkaForm
from ssrtrack.kernels.gka_reference import one_step
from ssrtrack.models.gka import GatedKalmaNet

Tensor = torch.Tensor
WIDTH, HEAD = 8, 4

# One row a form of the layer; a new one joins every test that is run on all of them.
OPTIONS: list[dict[str, Any]] = [
    {},
    {"heads": 3, "value_head": 5},
    {"beta": False, "alpha": False, "decay": False},
    {"timed": False},
    {"ridge": 0.1, "steps": 5},
    {"backend": "reference", "steps": 100},
]


def name(options: dict[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in options.items()) or "default"


def rows(T: int, B: int = 2, width: int = WIDTH, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """x (T, B, width), gap (T, B) and valid (T, B), with a few rows missing."""
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(T, B, generator=g) > 0.25
    x = torch.randn(T, B, width, generator=g, dtype=dtype)
    return x, 0.1 + 2.0 * torch.rand(T, B, generator=g, dtype=dtype), valid


def layer(width: int = WIDTH, head: int = HEAD, seed: int = 3, **options: Any) -> GatedKalmaNet:
    """In float64, forgetting within a few rows, with nothing left at a value that would hide a fault."""
    torch.manual_seed(seed)
    made = GatedKalmaNet(width, head, **options).double()
    with torch.no_grad():
        made.o_norm.weight.uniform_(0.5, 1.5)
        if made.a_proj is not None:
            made.dt_bias.uniform_(-2.0, 0.0)
            made.A_log.clamp_(-1.0, 1.0)
    return made


def by_rows(
    made: GatedKalmaNet, x: Tensor, gap: Tensor, valid: Tensor, exact: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (T, width), and what is remembered at the end: H (heads, D, D), U (heads, D, V), taps (3, C).

    Of one sequence x (T, width), gap, valid (T,), all float64, by the formulas of `GatedKalmaNet`.
    """
    w = dict(made.named_parameters())
    heads, D, V = made.heads, made.head, made.value_head
    form = GkaForm(made.form.ridge, made.form.steps, D**-0.5)
    weights = torch.cat([w["q_proj.weight"], w["k_proj.weight"], w["v_proj.weight"]])
    tail = [x.new_zeros(weights.shape[0])] * 3
    memory = [(x.new_zeros(D, D), x.new_zeros(D, V)) for _ in range(heads)]
    out = []
    for h, time, there in zip(x, gap, valid, strict=True):
        line = [*tail, weights @ h]
        u = functional.silu(sum(w["taps"][j] * line[j] for j in range(4)))
        tail = line[1:] if there else tail
        q, k, v = (part.view(heads, -1) for part in torch.split(u, [heads * D, heads * D, heads * V]))
        q, k = (part / (part.square().sum(1, keepdim=True) + 1e-6).sqrt() for part in (q, k))
        recalled = []
        for n in range(heads):
            beta, alpha, log_decay = x.new_ones(()), x.new_ones(()), x.new_zeros(())
            if made.beta_proj is not None:
                beta = torch.sigmoid(w["beta_proj.weight"][n] @ h + w["beta_proj.bias"][n]) + 1e-6
            if made.alpha_proj is not None:
                alpha = torch.sigmoid(w["alpha_proj.weight"][n] @ h + w["alpha_proj.bias"][n])
            if made.a_proj is not None:
                a = w["a_proj.weight"][n] @ h if there else 0.0
                log_decay = -torch.exp(w["A_log"][n]) * torch.log1p(torch.exp(a + w["dt_bias"][n]))
                log_decay = log_decay * time if made.timed else log_decay
            written = beta if there else 0.0 * beta
            o, _, H, U = one_step(q[n], written * k[n], written * v[n], log_decay, alpha, *memory[n], form, exact)
            memory[n] = (H, U)
            recalled.append(o / (o.square().mean() + 1e-6).sqrt() * w["o_norm.weight"])
        gate = w["g_proj.weight"] @ h
        out.append(w["o_proj.weight"] @ (torch.cat(recalled) * gate * torch.sigmoid(gate)))
    return torch.stack(out), torch.stack([H for H, _ in memory]), torch.stack([U for _, U in memory]), torch.stack(tail)
