"""KOSS's peers are what they are named after: each block against its equations, one step after another."""

import math

import torch
from torch.nn import functional

from ssrtrack.models.baselines import AttentionBlock, GruBlock, S4dBlock, S6Block
from ssrtrack.models.koss_taps import TAPS

Tensor = torch.Tensor
WIDTH, INNER, STATES, STEPS = 8, 6, 4, 19


def sequence() -> Tensor:
    """x (T, B, WIDTH)."""
    return torch.randn(STEPS, 2, WIDTH, generator=torch.Generator().manual_seed(1))


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def convolved(u: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """SiLU of bias + Σ_k taps_k u_{t−3+k}, zeros before the beginning."""
    out = []
    for t in range(u.shape[0]):
        at = bias.expand_as(u[0])
        for k in range(TAPS):
            back = t - (TAPS - 1) + k
            at = at + (taps[k] * u[back] if back >= 0 else 0.0)
        out.append(functional.silu(at))
    return torch.stack(out)


def mixed(block: S6Block | S4dBlock, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the mixer is given, and what its output is gated by."""
    u, gate = (normed(x, block.norm.weight) @ block.inward.weight.T).chunk(2, -1)
    return convolved(u, block.taps, block.taps_bias), functional.silu(gate)


@torch.no_grad()
def test_s6_is_mambas_recurrence() -> None:
    torch.manual_seed(0)
    block, x = S6Block(WIDTH, INNER, STATES, 2), sequence()
    block.step.bias.add_(2.0)  # long enough steps for every state to matter
    u, gate = mixed(block, x)
    told = u @ block.project.weight.T
    low, b, c = told[..., :2], told[..., 2 : 2 + STATES], told[..., 2 + STATES :]
    delta = torch.log1p(torch.exp(low @ block.step.weight.T + block.step.bias))
    A, h, out = -torch.exp(block.log_rate), torch.zeros(2, STATES, INNER), []
    for t in range(STEPS):
        h = torch.exp(delta[t, :, None] * A) * h + delta[t, :, None] * b[t, ..., None] * u[t, :, None]
        out.append((c[t, ..., None] * h).sum(1) + block.skip * u[t])
    wanted = x + (torch.stack(out) * gate) @ block.outward.weight.T
    torch.testing.assert_close(block(x), wanted, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_s4d_is_its_held_input_recurrence() -> None:
    """h' = A h + u with u held over a step, y = 2 Re c·h: the convolution is that, in steps."""
    torch.manual_seed(0)
    block, x = S4dBlock(WIDTH, INNER, STATES), sequence()
    block.log_step.add_(2.0)
    u, gate = mixed(block, x)
    A = torch.complex(-torch.exp(block.log_decay), block.frequency)
    assert A[0].tolist() == [complex(-0.5, 0.0), complex(-0.5, torch.tensor(math.pi).item())]
    a, c = torch.exp(torch.exp(block.log_step)[:, None] * A), torch.view_as_complex(block.read)
    h, out = torch.zeros(2, INNER, STATES // 2, dtype=torch.complex64), []
    for t in range(STEPS):
        h = a * h + (a - 1.0) / A * u[t, ..., None]
        out.append(2.0 * (c * h).sum(-1).real + block.skip * u[t])
    wanted = x + (torch.stack(out) * gate) @ block.outward.weight.T
    torch.testing.assert_close(block(x), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_sees_the_past_and_how_far_back_it_lies() -> None:
    """Causal softmax attention with q and k turned by their position's angles, then the wide layer."""
    torch.manual_seed(0)
    block, x = AttentionBlock(WIDTH, hidden=12, heads=2), sequence()
    parts = normed(x, block.norm.weight) @ block.inward.weight.T
    query, key, value = (v.reshape(STEPS, 2, 2, 4) for v in parts.chunk(3, -1))  # (T, B, heads, 4)
    turn = torch.arange(STEPS)[:, None] * torch.tensor([1.0, 0.01])  # 10,000^(−i/2): two pairs of numbers a head
    q, k = (torch.complex(v[..., :2], v[..., 2:]) * torch.exp(1j * turn)[:, None, None] for v in (query, key))
    score = torch.einsum("tbhi,sbhi->bhts", q, k.conj()).real / 2.0
    score = score.masked_fill(torch.arange(STEPS)[:, None] < torch.arange(STEPS), -math.inf)
    seen = torch.einsum("bhts,sbhi->tbhi", score.softmax(-1), value).flatten(2)
    y = x + seen @ block.outward.weight.T
    wide = normed(y, block.norm_after.weight) @ block.wide.weight.T + block.wide.bias
    wanted = y + functional.gelu(wide) @ block.narrow.weight.T + block.narrow.bias
    torch.testing.assert_close(block(x), wanted, rtol=1e-5, atol=1e-6)


def test_under_autocast_a_gru_keeps_its_state_in_float32_as_the_others_do() -> None:
    block, seen = GruBlock(16), []
    block.gru.register_forward_hook(
        lambda _, given, out: seen.append((torch.is_autocast_enabled("cpu"), given[0].dtype, out[0].dtype))
    )
    with torch.autocast("cpu", torch.bfloat16):
        block(torch.zeros(5, 2, 16))
    # A GPU's autocast takes cuDNN's whole recurrence to half precision; a CPU's does not, so the context is asked.
    assert seen == [(False, torch.float32, torch.float32)]
