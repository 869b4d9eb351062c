"""The compiled loop of KOSS for a CPU (`koss_numba`) as a differentiable function of torch tensors."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs

Tensor = torch.Tensor
CHUNK = 1 << 22  # values of e^{ΔA} at once, where nothing is kept for a gradient: 16 MiB


def refusal(inputs: LoopInputs, form: LoopForm) -> str | None:
    """Why the compiled loop cannot run this, or None where it can."""
    if inputs.x.device.type != "cpu":
        return f"x is on {inputs.x.device}, not on a CPU"
    if inputs.x.dtype == torch.float64:
        return "x is float64"
    if form.operator != "discrete" or form.segment != 1 or not form.innovate:
        return f"{form} is not the operator discrete with segment 1 and innovations"
    if inputs.slope is not None or inputs.offsets is not None:
        return "there is a slope or there are offsets"
    return None


def forward(inputs: LoopInputs) -> tuple[Tensor, Tensor]:
    """y (B, T, D) in x's precision and the last state (B, N, D), for inputs without a `refusal`.

    The loop runs time first; (B, T, D) tensors that are views of contiguous (T, B, D) ones are not copied.
    """
    timed = [v.float().transpose(0, 1).contiguous() for v in (inputs.x, inputs.delta, inputs.read, inputs.bias)]
    whole = [v.contiguous() for v in (inputs.rate, inputs.w1, inputs.b1, inputs.w2, inputs.start)]
    if torch.is_grad_enabled() and any(v.requires_grad for v in (*timed, *whole)):
        apply: Any = _Compiled.apply
        y, last = apply(*timed, *whole)
    else:
        y, last = _plain(*(v.detach() for v in (*timed, *whole)))
    return y.transpose(0, 1).to(inputs.x.dtype), last


def _plain(
    x: Tensor, delta: Tensor, read: Tensor, bias: Tensor, rate: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """y (T, B, D) and the last state, some steps at a time, of which nothing is kept."""
    from ssrtrack.kernels import koss_numba

    out, threads = [], torch.get_num_threads()
    steps = max(1, CHUNK // h.numel())
    for first in range(0, x.shape[0], steps):
        some = slice(first, first + steps)
        E = (delta[some, :, None] * rate).exp_()
        plain = [v.numpy() for v in (x[some], E, read[some], bias[some], w1, b1, w2, h)]
        found = koss_numba.forward(*plain, threads=threads, keep=False)
        out.append(torch.from_numpy(found.y))
        h = torch.from_numpy(found.states[-1])
    return torch.cat(out), h.clone()


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        from ssrtrack.kernels import koss_numba

        x, delta, read, bias, rate, w1, b1, w2, start = (a.detach() for a in arguments)
        E = (delta[:, :, None] * rate).exp_()
        plain = [v.numpy() for v in (x, E, read, bias, w1, b1, w2, start)]
        found = koss_numba.forward(*plain, threads=torch.get_num_threads())
        y, states, hidden, gain = map(torch.from_numpy, found)
        ctx.save_for_backward(x, delta, E, rate, read, w1, w2, states, hidden, gain)
        return y, states[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, g_last: Tensor) -> tuple[Tensor, ...]:
        from ssrtrack.kernels import koss_numba

        plain = [v.contiguous().numpy() for v in (*ctx.saved_tensors, gy, g_last)]
        found = koss_numba.backward(*plain, threads=torch.get_num_threads())
        gx, g_delta, g_rate, g_read, g_bias, s, g_hidden, g_start = map(torch.from_numpy, found)
        gw1, gb1, gw2 = _weight_gradients(s, g_hidden, ctx.saved_tensors[8], g_bias)
        return gx, g_delta, g_read, g_bias, g_rate, gw1, gb1, gw2, g_start


def _weight_gradients(s: Tensor, g_hidden: Tensor, hidden: Tensor, g_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """∂L/∂W1, b1, W2 from all steps at once: s, hidden and its gradient (T, H, B, C), ∂L/∂z (T, B, D).

    Where the prediction is seen s is [s, ŷ⁻] (T, H, B, 2C), and ∂L/∂W1 has as many rows.
    """
    steps, heads, size, channels = hidden.shape
    by_head = [v.transpose(0, 1).reshape(heads, -1, v.shape[-1]) for v in (s, g_hidden, hidden)]
    dz = g_bias.reshape(steps * size, heads, channels).transpose(0, 1)
    gw1 = torch.bmm(by_head[0].transpose(1, 2), by_head[1])
    return gw1, by_head[1].sum(1), torch.bmm(by_head[2].transpose(1, 2), dz)
