"""What stands in for a base filter when there is to be none: the track that the last two plots make.

Position is the newest plot's, velocity what lies between it and the one before; covariances are the plots' own, plus
what an acceleration may have done meanwhile. Nothing older has any part in it, so whatever a model gains on it is its
own. By component, as `ssrtrack.models.residual_frames` has estimates.
"""

import torch

from ssrtrack.models.residual_inputs import Base, Flown

Tensor = torch.Tensor
SPEED_MPS = 170.0  # standard deviation of each component before a second plot
ACCELERATION_MPS2 = 3.0  # standard deviation: a turn at 17° of bank
LEAST_GAP_S = 1.0  # two plots at one time say nothing of a velocity


def two_plots(plot: Tensor, past: Tensor, gap_s: Tensor, known: Tensor) -> Tensor:
    """Estimates (14, ...) at plots (5, ...) of x, y, xx, xy, yy; past (5, ...) the ones before, gap_s (...) earlier.

    known (...): there is one before; else the velocity is 0 with a wide variance.
    """
    gap = gap_s.clamp(min=LEAST_GAP_S)
    x, y, xx, xy, yy = plot
    vx, vy = ((plot[k] - past[k]) / gap for k in range(2))
    turned = (0.5 * ACCELERATION_MPS2 * gap) ** 2
    axx, axy, ayy = ((plot[k] + past[k]) / gap**2 for k in range(2, 5))
    zero, wide = torch.zeros_like(x), torch.full_like(x, SPEED_MPS**2)
    two = [vx, vy, xx / gap, xy / gap, xy / gap, yy / gap, axx + turned, axy, ayy + turned]
    one = [zero, zero, zero, zero, zero, zero, wide, zero, wide]
    vx, vy, xvx, xvy, yvx, yvy, vxx, vxy, vyy = (torch.where(known, a, b) for a, b in zip(two, one, strict=True))
    return torch.stack([x, y, vx, vy, xx, xy, xvx, xvy, yy, yvx, yvy, vxx, vxy, vyy])


def carried(rows: Tensor, dt_s: Tensor) -> Tensor:
    """Estimates (14, ...) dt_s (...) later, straight on; any acceleration may have held all the while."""
    x, y, vx, vy, xx, xy, xvx, xvy, yy, yvx, yvy, vxx, vxy, vyy = rows
    d = dt_s
    a = (ACCELERATION_MPS2 * d) ** 2
    return torch.stack([
        x + d * vx, y + d * vy, vx, vy,
        xx + d * (2.0 * xvx + d * vxx) + 0.25 * a * d * d, xy + d * (xvy + yvx + d * vxy),
        xvx + d * vxx + 0.5 * a * d, xvy + d * vxy,
        yy + d * (2.0 * yvy + d * vyy) + 0.25 * a * d * d,
        yvx + d * vxy, yvy + d * vyy + 0.5 * a * d,
        vxx + a, vxy, vyy + a,
    ])  # fmt: skip


def bare_base(flown: Flown, modes: int) -> Base:
    """These estimates before and after every column of N flights, in the form of a base filter's.

    modes: how many mode probabilities of 0 stand beside them.
    """
    seen, time = flown.valid.T, flown.time_s.T.double()
    cov = flown.covariance_m2
    columns = [flown.position_m[..., 0], flown.position_m[..., 1], cov[..., 0, 0], cov[..., 0, 1], cov[..., 1, 1]]
    plots = torch.stack([v.T.double() for v in columns])
    column = torch.arange(seen.shape[0], device=seen.device)[:, None].expand(seen.shape)
    newest = torch.where(seen, column, 0).cummax(0).values  # column 0 holds a plot
    before = torch.cat([torch.full_like(newest[:1], -1), newest[:-1]])
    past = before.gather(0, newest)
    plot, its_time = _at(plots, newest), time.gather(0, newest)
    earlier = past.clamp(min=0)
    here = two_plots(plot, _at(plots, earlier), its_time - time.gather(0, earlier), past >= 0)
    last = before.clamp(min=0)
    predicted = carried(_at(here, last), time - time.gather(0, last))
    predicted[:, 0] = torch.nan
    filtered = carried(here, time - its_time)
    return Base(predicted, filtered, plots.new_zeros(modes, *seen.shape), torch.ones_like(seen))


def _at(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (R, T, N) at index (T, N)."""
    return rows.gather(1, index.expand(rows.shape[0], *index.shape))
