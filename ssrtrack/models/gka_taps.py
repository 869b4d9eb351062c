"""The depthwise causal convolution over the rows that are there: a row that is missing is no row of zeros."""

import torch

from ssrtrack.models.koss_taps import TAPS, sequence_of_rows, tapped

Tensor = torch.Tensor
BACK = TAPS - 1


def skipped(
    u: Tensor, taps: Tensor, before: Tensor, valid: Tensor, offsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """taps_3 u_t + Σ_j taps_{3−j} u_{t,j} (T, B, D), u_{t,j} the j-th last row before t that is there; the last three.

    A missing row sees itself and those before it, and none after it sees it. `tapped` where nothing is missing.

    Args:
        u: input (T, B, D); with offsets (ΣT, 1, D).
        taps: (4, D), the newest sample's last.
        before: the three rows before the first (B, 3, D), oldest first; zeros at a sequence's beginning.
        valid: where False, the row is missing (T, B).
        offsets: where packed sequences begin and the last one ends (B + 1,).
    """
    if u.shape[0] == 1 and offsets is None:
        mixed, moved = tapped(u, taps, u.new_zeros(()), before)
        return mixed, torch.where(valid[0, :, None, None], moved, before)
    line, there, place, ends = _line(u, before, valid, offsets)
    count = there.cumsum(0)
    order = torch.argsort((~there).byte(), dim=0, stable=True)  # the rows that are there, then those that are not
    seen = count[place] - there[place].long()
    mixed = taps[BACK] * u
    for j in range(1, TAPS):
        mixed = mixed + taps[BACK - j] * _rows(line, order.gather(0, seen - j))
    three = torch.arange(-BACK, 0, device=u.device)
    if offsets is None:
        return mixed, _rows(line, order.gather(0, count[-1] + three[:, None])).transpose(0, 1)
    return mixed, line[order[count[ends - 1] + three, 0], 0]


def _line(u: Tensor, before: Tensor, valid: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All rows, three of `before` in front of each sequence; which are there; the places of u's rows and the ends.

    The three count as there, so that a look back by three from any row ends in its own sequence.
    """
    steps, batch = u.shape[0], before.shape[0]
    if offsets is None:
        line = torch.cat([before.transpose(0, 1).to(u.dtype), u])
        there = torch.cat([valid.new_ones(BACK, batch), valid])
        return line, there, torch.arange(BACK, BACK + steps, device=u.device), line.new_zeros(0, dtype=torch.long)
    number = torch.arange(1, batch + 1, device=u.device)
    place = torch.arange(steps, device=u.device) + BACK * (1 + sequence_of_rows(offsets, steps))
    ends = offsets[1:].long() + BACK * number
    fronts = offsets[:-1].long() + BACK * (number - 1)
    at = (fronts[:, None] + torch.arange(BACK, device=u.device)).reshape(-1)
    line = u.new_zeros(steps + BACK * batch, 1, u.shape[2])
    line = line.index_copy(0, at, before.reshape(-1, 1, u.shape[2]).to(u.dtype)).index_copy(0, place, u)
    there = valid.new_ones(line.shape[0], 1).index_copy(0, place, valid)
    return line, there, place, ends


def _rows(line: Tensor, index: Tensor) -> Tensor:
    """Rows (R, B, D) at index (T, B)."""
    return line.gather(0, index[..., None].expand(*index.shape, line.shape[2]))
