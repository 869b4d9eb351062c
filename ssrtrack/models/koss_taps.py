"""The depthwise causal convolution of a KOSS block: over one sequence a column, padded or packed, cut anywhere."""

import torch

Tensor = torch.Tensor
TAPS = 4


def tapped(
    u: Tensor, taps: Tensor, bias: Tensor, before: Tensor, lengths: Tensor | None = None, offsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Σ_k taps_k u_{t−3+k} + bias (T, B, D), and the last inputs (B, 3, D) of every sequence.

    Args:
        u: input (T, B, D); with offsets (ΣT, 1, D).
        taps: (4, D), the newest sample's last. bias: (D,).
        before: the three inputs before the first row (B, 3, D), oldest first; zeros at a sequence's beginning.
        lengths: rows of each sequence (B,), where those past them are padding.
        offsets: where packed sequences begin and the last one ends (B + 1,).
    """
    if offsets is not None:
        return _packed(u, taps, bias, before, offsets)
    steps, back = u.shape[0], TAPS - 1
    if steps == 1 and lengths is None:
        # Online: the three rows are read where they lie.
        mixed = torch.addcmul(bias, taps[back], u[0])
        for k in range(back):
            mixed = torch.addcmul(mixed, taps[k], before[:, k])
        return mixed[None], torch.cat([before[:, 1:], u.transpose(0, 1)], 1)
    line = torch.cat([before.transpose(0, 1), u])
    mixed = bias
    for k in range(TAPS):
        mixed = mixed + taps[k] * line[k : k + steps]
    if lengths is None:
        return mixed, line[steps:].transpose(0, 1)
    rows = lengths[:, None] + torch.arange(back, device=u.device)
    return mixed, line.transpose(0, 1).gather(1, rows[..., None].expand(*rows.shape, u.shape[-1]))


def _packed(u: Tensor, taps: Tensor, bias: Tensor, before: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences one after another, each with its three rows of before put in front of it."""
    steps, batch, back = u.shape[0], before.shape[0], TAPS - 1
    bounds = offsets.long()
    own = sequence_of_rows(offsets, steps)
    place = torch.arange(steps, device=u.device) + back * own
    ends = bounds[1:] + back * torch.arange(1, batch + 1, device=u.device)
    fronts = bounds[:-1] + back * torch.arange(batch, device=u.device)
    three = torch.arange(back, device=u.device)
    line = u.new_zeros(steps + back * batch, u.shape[-1])
    line = line.index_copy(0, (fronts[:, None] + three).reshape(-1), before.reshape(-1, u.shape[-1]).to(u.dtype))
    line = line.index_copy(0, place + back, u[:, 0])
    mixed = bias
    for k in range(TAPS):
        mixed = mixed + taps[k] * line[place + k]
    return mixed[:, None], line[ends[:, None] - back + three]


def sequence_of_rows(offsets: Tensor, steps: int) -> Tensor:
    """Which packed sequence each of ΣT rows belongs to (ΣT,)."""
    lengths = (offsets[1:] - offsets[:-1]).long()
    return torch.repeat_interleave(torch.arange(lengths.shape[0], device=offsets.device), lengths, output_size=steps)
