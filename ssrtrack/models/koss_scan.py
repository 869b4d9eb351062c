"""The scan of a KOSS layer with the operator `discrete`: the recursion that its own innovation drives.

For one sequence, channel d of a head of C channels, states n = 1 … N (arXiv 2512.16723; posterior-fed form):

    p_t = E_t h_{t−1},  E_t = exp(Δ_t A)                       prediction, A < 0
    e_t = x_t − Σ_n c_{t,n} p_{t,n}                            innovation
    K_t = σ(W2ᵀ relu(W1ᵀ s_t + b1) + z_t),  s_t = e_t²/(1 + e_t²)      gain, mixed over the head's channels
    h_t = p_t + K_t (x_t − c_t p_t)                            update
    y_t = Σ_n c_{t,n} h_{t,n}

K depends on the innovation of the same step, so the recursion is not linear and runs step by step, exactly; what does
not depend on the state is computed for all steps at once before and after the loop. z = −∞ makes K = 0: a miss.
The backward pass is written out, since autograd's own record of ten small operations a step costs several times more.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

Tensor = torch.Tensor
COMPILED_FROM = 1 << 16  # inputs; below, numba would take longer to load than it saves


def koss_scan(
    x: Tensor,
    delta: Tensor,
    rate: Tensor,
    read: Tensor,
    bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    start: Tensor,
) -> tuple[Tensor, Tensor]:
    """All steps of B sequences in H heads of C channels with N states each.

    Args:
        x: input (T, H, B, C).
        delta: step length Δ ≥ 0 (T, H, B, C).
        rate: A < 0 (N, H, C).
        read: c in [0, 1] (T, N, B), shared by the channels.
        bias: z (T, H, B, C).
        w1, b1, w2: the gain's weights (H, C, C), (H, C), (H, C, C), used as s W1, hidden W2.
        start: state before the first step (N, H, B, C).

    Returns:
        y (T, H, B, C) and the state after the last step (N, H, B, C), in the precision given, differentiable once.
    """
    arguments = [a.contiguous() for a in (x, delta, rate, read, bias, w1, b1, w2, start)]
    if torch.is_grad_enabled() and any(a.requires_grad for a in arguments):
        compiled = x.device.type == "cpu" and x.numel() >= COMPILED_FROM
        way: Any = _Fused if compiled else _Scan
        y, final = way.apply(*arguments)
        return y, final
    y, history, _, _ = _forward(*arguments, keep=False)
    return y, history[-1]


def _forward(
    x: Tensor,
    delta: Tensor,
    rate: Tensor,
    read: Tensor,
    bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    start: Tensor,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the states (T + 1, N, H, B, C) with `start` first, or only the last one, and for backward hidden and K."""
    steps = x.shape[0]
    history = x.new_empty((steps + 1 if keep else 1, *start.shape))
    history[0] = start
    hidden, gain = (torch.empty_like(x[: steps if keep else 1]) for _ in range(2))
    c = read[:, :, None, :, None]
    spread = rate[:, :, None, :]
    y = torch.empty_like(x)
    p, part = torch.empty_like(start), torch.empty_like(start)
    e, s = torch.empty_like(x[:1].squeeze(0)), torch.empty_like(x[:1].squeeze(0))
    b = b1[:, None, :]
    for t in range(steps):
        now, after = (t, t + 1) if keep else (0, 0)
        torch.mul(delta[t], spread, out=p).exp_().mul_(history[now])
        torch.mul(c[t], p, out=part)
        torch.sum(part, 0, out=e)
        torch.sub(x[t], e, out=e).square_()
        torch.add(e, 1.0, out=s)
        torch.div(e, s, out=s)
        torch.baddbmm(b, s, w1, out=hidden[now]).relu_()
        K = torch.baddbmm(bias[t], hidden[now], w2, out=gain[now]).sigmoid_()
        torch.sub(x[t], part, out=part)
        torch.addcmul(p, K, part, out=history[after])
        torch.mul(c[t], history[after], out=part)
        torch.sum(part, 0, out=y[t])
    return y, history, hidden, gain


class _Fused(torch.autograd.Function):
    """The same on a CPU's cores, compiled (`koss_numba`)."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        from ssrtrack.models import koss_numba

        x, delta, rate, read, bias, w1, b1, w2, start = (a.detach() for a in arguments)
        E = (delta[:, None] * rate[:, :, None, :]).exp_()
        plain = (v.numpy() for v in (x, E, read, bias, w1, b1, w2, start))
        found = koss_numba.forward(*plain, threads=torch.get_num_threads())
        y, history, hidden, gain = (torch.from_numpy(v) for v in found)
        ctx.save_for_backward(x, delta, E, rate, read, w1, w2, history, hidden, gain)
        return y, history[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, g_final: Tensor) -> tuple[Tensor, ...]:
        from ssrtrack.models import koss_numba

        plain = [v.contiguous().numpy() for v in (*ctx.saved_tensors, gy, g_final)]
        found = koss_numba.backward(*plain, threads=torch.get_num_threads())
        gx, g_delta, g_rate, g_read, g_bias, s, g_hidden, carry = (torch.from_numpy(v) for v in found)
        hidden = ctx.saved_tensors[8]
        return gx, g_delta, g_rate, g_read, g_bias, *_weight_gradients(s, g_hidden, hidden, g_bias), carry


def _weight_gradients(s: Tensor, g_hidden: Tensor, hidden: Tensor, g_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """∂L/∂W1, b1, W2 from all steps (T, H, B, C) at once."""
    by_head = [v.transpose(0, 1).reshape(v.shape[1], -1, v.shape[3]) for v in (s, g_hidden, hidden, g_bias)]
    gw1 = torch.bmm(by_head[0].transpose(1, 2), by_head[1])
    gw2 = torch.bmm(by_head[2].transpose(1, 2), by_head[3])
    return gw1, by_head[1].sum(1), gw2


class _Scan(torch.autograd.Function):
    """The scan with its gradient by hand (formulas b1 to b5 of the note on the fused kernel, one step a segment)."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        y, history, hidden, gain = _forward(*arguments, keep=True)
        x, delta, rate, read, _, w1, _, w2, _ = arguments
        ctx.save_for_backward(x, delta, rate, read, w1, w2, history, hidden, gain)
        return y, history[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, g_final: Tensor) -> tuple[Tensor, ...]:
        x, delta, rate, read, w1, w2, history, hidden, gain = ctx.saved_tensors
        carry = g_final.clone()
        w1t, w2t = w1.transpose(1, 2), w2.transpose(1, 2)
        c, spread = read[:, :, None, :, None], rate[:, :, None, :]
        gx, g_delta, g_bias, g_hidden, s = (torch.empty_like(x) for _ in range(5))
        g_read, g_rate = torch.empty_like(read), torch.zeros_like(rate)
        E, p, G, part = (torch.empty_like(carry) for _ in range(4))
        e, square, gK = (torch.empty_like(x[0]) for _ in range(3))
        for t in reversed(range(x.shape[0])):
            K = gain[t]
            torch.mul(delta[t], spread, out=E).exp_()
            torch.mul(E, history[t], out=p)
            torch.mul(c[t], p, out=part)
            torch.sum(part, 0, out=e)
            torch.sub(x[t], e, out=e)
            torch.mul(e, e, out=square)
            torch.add(square, 1.0, out=gK)
            torch.div(square, gK, out=s[t])
            slope = torch.div(e, gK.square_(), out=e).mul_(2.0)
            # G = ∂L/∂h_t, now complete.
            torch.addcmul(carry, c[t], gy[t], out=G)
            torch.sum(G, 0, out=gx[t])
            gx[t].mul_(K)
            torch.sub(x[t], part, out=part).mul_(G)
            torch.sum(part, 0, out=gK)
            dz = torch.mul(gK, K, out=g_bias[t])
            dz.addcmul_(dz, K, value=-1.0)
            dhid = torch.bmm(dz, w2t, out=g_hidden[t])
            dhid.mul_(hidden[t] > 0.0)
            de = torch.bmm(dhid, w1t, out=gK).mul_(slope)
            gx[t].add_(de)
            # ∂L/∂c = Σ_C gy h − p (K G + de);  ∂L/∂p = G − c (K G + de)
            torch.mul(gy[t], history[t + 1], out=part)
            torch.mul(G, K, out=carry).add_(de)
            part.addcmul_(p, carry, value=-1.0)
            torch.sum(part, (1, 3), out=g_read[t])
            G.addcmul_(c[t], carry, value=-1.0)
            torch.mul(G, E, out=carry)
            # E_t = exp(Δ A), so ∂L/∂(Δ A) = ∂L/∂p · p.
            p.mul_(G)
            torch.sum(torch.mul(p, spread, out=part), 0, out=g_delta[t])
            g_rate += torch.mul(p, delta[t], out=part).sum(2)
        return gx, g_delta, g_rate, g_read, g_bias, *_weight_gradients(s, g_hidden, hidden, g_bias), carry
