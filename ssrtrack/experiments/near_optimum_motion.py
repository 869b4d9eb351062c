"""Particles that each know what an aircraft is asked to fly, and a Kalman filter of its motion given that.

Between manoeuvres an aircraft flies straight for an exponential time; then it turns, climbs or changes speed, or all of
these. What no plot can have told a particle yet (when the straight ends, through what angle the turn goes on, to what
speed it accelerates) is drawn anew before every plot, given what has been flown: that is exact, and keeps
particles different. Given bank angle φ(t) and acceleration a(t), heading χ and ground speed V obey χ' = g tan φ / V,
V' = a, plus white acceleration; the motion is integrated in closed form in χ and by quadrature in position. Its
Jacobian carries a normal distribution of seven components: position, velocity, the radar's constant range error, and
the manoeuvre's own φ and a, which the plots then tell instead of having to be met by chance.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch

from ssrtrack.experiments.near_optimum_prior import EDGE_SIGMA_M, SURPRISE_SHARE, Habits
from ssrtrack.units import G_MPS2

Tensor = torch.Tensor
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
SHARES: list[float] = (0.5 + 0.5 * _NODES).tolist()
WEIGHTS: list[float] = (0.5 * _WEIGHTS).tolist()
LEAST_SPEED_MPS = 20.0  # what turbulence leaves of the ground speed, as in the simulator
LEAST_BANK_RAD = 1e-4
HALF_HOME_RAD = np.pi / 4  # at the edge aircraft head for the centre, give or take this
BIAS, BANK, GAIN, SIZE = 4, 5, 6, 7  # components behind x, y, vx, vy
# A uniform distribution as normal ones: middles over so much of it, of this width, have its variance together.
MIDDLES, WIDTH = 0.7, 0.2
EAGER = 4.0  # manoeuvres are tried so many times as often as they happen, and weigh so much less
CAPPED_WIDTH = 0.02  # of a bank angle at the greatest rate of turn: as the planned speed is known


@dataclass(frozen=True, eq=False)
class Particles:
    """N particles of each of B flights; every tensor begins with (B, N).

    mean (B, N, 7): x east, y north (m), vx, vy (m/s), range error (m), bank angle held (rad, 0: none), acceleration
    (m/s²), with covariance (B, N, 7, 7). log_weight: normalised in each flight. flow: of the habits. straight: flies
    straight; elapsed_s: since the leg began. Of a manoeuvre: side (1 right, −1 left, 0 no turn), out_s: when rolling
    out begins, turned_rad so far, least_rad and most_rad: ends of the angle's uniform distribution; gain_s: when the
    speed change ends; climb_s: until a climb is done. age_s: since the flight began.
    """

    mean: Tensor
    covariance: Tensor
    log_weight: Tensor
    flow: Tensor
    straight: Tensor
    elapsed_s: Tensor
    side: Tensor
    out_s: Tensor
    turned_rad: Tensor
    least_rad: Tensor
    most_rad: Tensor
    gain_s: Tensor
    climb_s: Tensor
    age_s: Tensor

    def rows(self, key: Any) -> Self:
        """Some of the flights."""
        return type(self)(*(getattr(self, f.name)[key] for f in fields(self)))

    @property
    def speed_mps(self) -> Tensor:
        """Ground speed (B, N) of the means."""
        speed: Tensor = torch.linalg.vector_norm(self.mean[..., 2:4], dim=-1)
        return speed.clamp(min=LEAST_SPEED_MPS)

    @property
    def bank_rad(self) -> Tensor:
        """Bank angle held in the turn (B, N), without its side."""
        return self.mean[..., BANK]

    @property
    def gain_mps2(self) -> Tensor:
        """Acceleration of the speed change (B, N)."""
        return self.mean[..., GAIN]


class Draws:
    """Uniform and normal numbers of one shape (B, N) from one generator, in float64."""

    def __init__(self, rng: torch.Generator, shape: tuple[int, int]) -> None:
        self.rng, self.shape = rng, shape

    def uniform(self) -> Tensor:
        """In [0, 1)."""
        return torch.rand(self.shape, generator=self.rng, device=self.rng.device, dtype=torch.float64)

    def normal(self) -> Tensor:
        """Standard normal."""
        return torch.randn(self.shape, generator=self.rng, device=self.rng.device, dtype=torch.float64)

    def between(self, ends: Tensor, flow: Tensor) -> Tensor:
        """Uniform between the two ends (2, K) of each particle's flow."""
        low, high = ends[0][flow], ends[1][flow]
        return low + (high - low) * self.uniform()

    def middle(self, ends: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """As `between`, but the middle and the width of one of the normal distributions that stand for it."""
        reach = ends[1][flow] - ends[0][flow]
        return 0.5 * (ends[0] + ends[1])[flow] + MIDDLES * reach * (self.uniform() - 0.5), WIDTH * reach


def predicted(p: Particles, habits: Habits, step_s: Tensor, rng: torch.Generator) -> Particles:
    """The particles after step_s (B,): at most one manoeuvre of each begins meanwhile."""
    draw = Draws(rng, (p.flow.shape[0], p.flow.shape[1]))
    dt = step_s[:, None]
    p = _with_onsets(_with_futures(p, habits, draw), habits, dt, draw)
    # A few doubt their velocity before they move, so that a plot where no other particle is finds one at once.
    doubted = (draw.uniform() < habits.surprise) & (dt > 0.0)
    spread = torch.zeros(SIZE, dtype=torch.float64, device=p.mean.device)
    spread[2:4] = SURPRISE_SHARE**2
    size = (doubted * p.speed_mps**2)[..., None, None]
    p = replace(p, covariance=p.covariance + size * torch.diag(spread))
    return _ended(_moved(p, habits, dt), habits, dt)


def rolled(bank_rad: Tensor, rate_radps: float, time_s: Tensor) -> Tensor:
    """∫ tan φ dt (s) over time_s of rolling from level towards bank_rad at a rate: −ln cos(p t) / p."""
    inside = torch.minimum(time_s.clamp(min=0.0) * rate_radps, bank_rad)
    return -inside.cos().log() / rate_radps


def _turning(p: Particles, rate: float, elapsed_s: Tensor) -> tuple[Tensor, Tensor]:
    """∫ tan φ dt (s) from the manoeuvre's beginning until elapsed_s into it (in, hold, out), and its derivative.

    The derivative is by the bank angle that is held. Rolling in does not depend on that.
    """
    bank, tan = p.bank_rad, p.bank_rad.tan()
    ramp = bank / rate
    whole = rolled(bank, rate, ramp)
    held = torch.minimum((elapsed_s - ramp).clamp(min=0.0), (p.out_s - ramp).clamp(min=0.0))
    leaving = elapsed_s > p.out_s
    left = ramp - (elapsed_s - p.out_s).clamp(min=0.0)
    out = torch.where(leaving, whole - rolled(bank, rate, left), 0.0)
    lost = torch.where(leaving, tan - (rate * left.clamp(min=0.0)).tan(), 0.0) / rate
    return rolled(bank, rate, elapsed_s) + tan * held + out, (1.0 + tan * tan) * held + lost


def _with_futures(p: Particles, habits: Habits, draw: Draws) -> Particles:
    """What no plot has told yet, drawn anew: the angle of a turn that is held, the ends of speed change and climb."""
    speed, rate, bank = p.speed_mps, habits.roll_rate_radps, p.bank_rad
    turning = ~p.straight & (bank > LEAST_BANK_RAD) & (p.elapsed_s >= bank / rate) & (p.elapsed_s < p.out_s)
    out_rad = G_MPS2 * rolled(bank, rate, bank / rate) / speed
    least = torch.maximum(p.least_rad, p.turned_rad + out_rad)
    angle = least + (p.most_rad - least).clamp(min=0.0) * draw.uniform()
    per_second = G_MPS2 * bank.clamp(min=LEAST_BANK_RAD).tan() / speed
    out_s = p.elapsed_s + (angle - p.turned_rad - out_rad).clamp(min=0.0) / per_second
    changing = ~p.straight & (p.gain_mps2 != 0.0) & (p.elapsed_s > 0.0) & (p.elapsed_s < p.gain_s)
    end = torch.where(p.gain_mps2 > 0.0, habits.speed_mps[1][p.flow], habits.speed_mps[0][p.flow])
    left = (end - speed) * p.gain_mps2.sign()
    rest = left.clamp(min=0.0) * draw.uniform() / p.gain_mps2.abs().clamp(min=1e-6)
    # A climb has no bounds to draw between: another one is taken if it, too, would not be done yet.
    climb_s = _climb_s(habits, p.flow, draw)
    climbing = ~p.straight & (p.climb_s > p.elapsed_s) & (climb_s > p.elapsed_s) & (p.elapsed_s > 0.0)
    return replace(
        p,
        out_s=torch.where(turning, out_s, p.out_s),
        gain_s=torch.where(changing, p.elapsed_s + rest, p.gain_s),
        climb_s=torch.where(climbing, climb_s, p.climb_s),
    )


def _climb_s(habits: Habits, flow: Tensor, draw: Draws) -> Tensor:
    """How long climbs (B, N) from one level to another take."""
    rise = (draw.between(habits.level_m, flow) - draw.between(habits.level_m, flow)).abs()
    return rise / draw.between(habits.climb_mps, flow)


def _with_onsets(p: Particles, habits: Habits, dt: Tensor, draw: Draws) -> Particles:
    """Straight particles whose straight ends within dt: their manoeuvre is drawn, elapsed_s is minus the wait.

    The wait is drawn from a hazard EAGER times as great (importance sampling, as beginnings are rare); the weight is
    the ratio of densities for those that begin, of the chances not to begin for the others.
    """
    rest = (habits.least_straight_s - p.elapsed_s).clamp(min=0.0)
    gap_s = habits.gap_s[p.flow]
    wait = rest - gap_s / EAGER * torch.log1p(-draw.uniform())
    edge = _edge_reached(p, habits, dt, draw)
    at_edge = torch.maximum(dt * draw.uniform(), rest)
    inward = edge & (at_edge < torch.minimum(wait, dt))
    begin = p.straight & ((wait < dt) | inward)
    # At the edge the exponential wait is known only to be longer.
    exposed = torch.where(inward, at_edge, torch.minimum(wait, dt)) - rest
    ratio = (EAGER - 1.0) * exposed.clamp(min=0.0) / gap_s - (begin & ~inward).double() * np.log(EAGER)
    p = replace(p, log_weight=p.log_weight + torch.where(p.straight, ratio, 0.0))
    return _begun(p, habits, begin, inward, torch.where(inward, at_edge, wait), draw)


def _edge_reached(p: Particles, habits: Habits, dt: Tensor, draw: Draws) -> Tensor:
    """Whether the edge is met within dt, given that it was not before.

    The planning that turned aircraft back knew nothing of turbulence: where it put the edge is normal about the
    circle, with the variance of a way in white acceleration, q t³ / 3.
    """
    if not habits.edge:
        return torch.zeros_like(p.straight)
    sigma = (EDGE_SIGMA_M**2 + habits.turbulence_m2ps3 * p.age_s**3 / 3.0).sqrt()
    place, way = p.mean[..., :2], p.mean[..., 2:4] * dt[..., None]
    z = [
        (torch.linalg.vector_norm(at, dim=-1) - habits.radius_m[p.flow]) / sigma for at in (place, place + way)
    ]  # fmt: skip
    stays = (torch.special.log_ndtr(-z[1]) - torch.special.log_ndtr(-z[0])).exp()
    reached: Tensor = (z[1] > z[0]) & (draw.uniform() > stays)
    return reached


def _begun(p: Particles, habits: Habits, begin: Tensor, inward: Tensor, wait: Tensor, draw: Draws) -> Particles:
    """A manoeuvre for those that begin one: the same draws as the simulator's own (simulators/flows.py)."""
    k, speed, rate = p.flow, p.speed_mps, habits.roll_rate_radps
    climbing, changing = draw.uniform() < habits.climb_share[k], draw.uniform() < habits.speed_share[k]
    turning = inward | (draw.uniform() < habits.turn_share[k]) | ~(climbing | changing)
    back = _homeward(p)
    least = torch.where(inward, (back.abs() - HALF_HOME_RAD).clamp(min=0.0), habits.turn_rad[0][k])
    most = torch.where(inward, (back.abs() + HALF_HOME_RAD).clamp(max=torch.pi), habits.turn_rad[1][k])
    sign = torch.where(inward, back, draw.uniform() - 0.5).sign()
    angle = least + (most - least) * draw.uniform()
    bank, width = draw.middle(habits.bank_rad, k)
    steepest = (habits.turn_rate_radps[k] * speed / G_MPS2).atan()
    width = torch.where(bank > steepest, CAPPED_WIDTH * steepest, width)
    # Rolling in and out alone turns 2 g ln(sec φ) / (p V): a small turn lowers the bank.
    bank = torch.minimum(bank, steepest).minimum((-rate * speed * angle / (2.0 * G_MPS2)).exp().acos())
    bank = torch.where(turning, bank, 0.0)
    width = torch.minimum(width, 0.5 * WIDTH * bank)
    rolling = 2.0 * G_MPS2 * rolled(bank, rate, bank / rate) / speed
    hold = (angle - rolling).clamp(min=0.0) * speed / (G_MPS2 * bank.clamp(min=LEAST_BANK_RAD).tan())
    goal, (gain, gain_width) = draw.between(habits.speed_mps, k), draw.middle(habits.acceleration_mps2, k)
    climb_s = _climb_s(habits, k, draw)
    zero = torch.zeros_like(wait)
    change_s = torch.where(changing, (goal - speed).abs() / gain, 0.0)
    signed = torch.where(changing, (goal - speed).sign() * gain, 0.0)
    new = {
        "straight": torch.zeros_like(begin), "elapsed_s": -wait, "side": torch.where(turning, sign, 0.0),
        "out_s": torch.where(turning, bank / rate + hold, 0.0), "turned_rad": zero, "least_rad": least,
        "most_rad": most, "gain_s": change_s, "climb_s": torch.where(climbing, climb_s, 0.0),
    }  # fmt: skip
    p = replace(p, **{name: torch.where(begin, value, getattr(p, name)) for name, value in new.items()})
    own = torch.stack([bank, signed], -1), torch.stack([width, torch.where(changing, gain_width, 0.0)], -1)
    return _told(p, begin, *own)


def _told(p: Particles, which: Tensor, value: Tensor, width: Tensor) -> Particles:
    """Bank and acceleration (B, N, 2) of some particles, of these standard deviations and tied to nothing else."""
    kept = torch.ones(SIZE, dtype=torch.float64, device=p.mean.device)
    kept[BANK:] = 0.0
    mean = torch.cat([p.mean[..., :BANK], value], -1)
    covariance = p.covariance * kept[:, None] * kept
    covariance[..., BANK, BANK] = width[..., 0] ** 2
    covariance[..., GAIN, GAIN] = width[..., 1] ** 2
    return replace(
        p,
        mean=torch.where(which[..., None], mean, p.mean),
        covariance=torch.where(which[..., None, None], covariance, p.covariance),
    )


def _homeward(p: Particles) -> Tensor:
    """The angle from each particle's track to the way back to the radar, in [−π, π)."""
    track = torch.atan2(p.mean[..., 2], p.mean[..., 3])
    angle = torch.atan2(-p.mean[..., 0], -p.mean[..., 1]) - track
    return (angle + torch.pi) % (2.0 * torch.pi) - torch.pi


def _moved(p: Particles, habits: Habits, dt: Tensor) -> Particles:
    """Mean and covariance after dt, to first order in what is not known of bank and acceleration.

    With v₀ = V₀ û and n̂ to its right, v(s) = V û(χ₀ + θ), V = V₀ + a c, θ = g I(φ) / V̄, I = ∫ tan φ. Derivatives:
    along û it is û_s − V θ / V̄ n̂_s (a faster aircraft turns less), along n̂ (V / V₀) n̂_s, by the bank V g I' / V̄ n̂_s,
    by the acceleration c (û_s − ½ V θ / V̄ n̂_s).
    """
    rate, speed = habits.roll_rate_radps, p.speed_mps
    sin, cos = p.mean[..., 2] / speed, p.mean[..., 3] / speed
    turned, by_bank = _turning(p, rate, p.elapsed_s)
    changed_s = _changing(p, p.elapsed_s)

    def at(later_s: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity and its four derivatives (B, N, 5, 2), and the angle turned."""
        c_s = _changing(p, p.elapsed_s + later_s) - changed_s
        more = (p.gain_mps2 * c_s).clamp(min=-0.5 * speed)
        i, di = _turning(p, rate, p.elapsed_s + later_s)
        v, push = speed + more, p.side * G_MPS2 / (speed + 0.5 * more)
        angle = push * (i - turned)
        s, c = angle.sin(), angle.cos()
        ahead = torch.stack([sin * c + cos * s, cos * c - sin * s], -1)
        right = torch.stack([ahead[..., 1], -ahead[..., 0]], -1)
        less = (v / (speed + 0.5 * more) * angle)[..., None] * right
        columns = (
            v[..., None] * ahead, ahead - less, (v / speed)[..., None] * right,
            (v * push * (di - by_bank))[..., None] * right, c_s[..., None] * (ahead - 0.5 * less),
        )  # fmt: skip
        return torch.stack(columns, -2), angle

    way = torch.zeros((*p.mean.shape[:2], 5, 2), dtype=torch.float64, device=p.mean.device)
    for share, weight in zip(SHARES, WEIGHTS, strict=True):
        way = way + (weight * dt)[..., None, None] * at(share * dt)[0]
    end, angle = at(dt)
    first = torch.stack([torch.stack([sin, cos], -1), torch.stack([cos, -sin], -1)], -2)
    jacobian = torch.eye(SIZE, dtype=torch.float64, device=p.mean.device).repeat(*p.mean.shape[:2], 1, 1)
    for row, part in ((0, way), (2, end)):
        jacobian[..., row : row + 2, 2:4] = part[..., 1:3, :].transpose(-1, -2) @ first
        jacobian[..., row : row + 2, BANK:] = part[..., 3:, :].transpose(-1, -2)
    mean = torch.cat([p.mean[..., :2] + way[..., 0, :], end[..., 0, :], p.mean[..., BIAS:]], -1)
    noise = white_noise(habits.turbulence_m2ps3, dt[:, 0])
    covariance = jacobian @ p.covariance @ jacobian.transpose(-1, -2) + noise[:, None]
    # A flight that waits (no time passes) keeps its very bits.
    still = (dt == 0.0)[..., None]
    return replace(
        p,
        mean=torch.where(still, p.mean, mean),
        covariance=torch.where(still[..., None], p.covariance, covariance),
        turned_rad=p.turned_rad + angle.abs(),
    )


def _changing(p: Particles, elapsed_s: Tensor) -> Tensor:
    """For how long the speed has changed until elapsed_s into a manoeuvre."""
    return torch.minimum(elapsed_s.clamp(min=0.0), p.gain_s)


def _ended(p: Particles, habits: Habits, dt: Tensor) -> Particles:
    """Time goes on by dt; a manoeuvre all of which is done becomes a straight leg."""
    elapsed = p.elapsed_s + dt
    turn_s = torch.where(p.side != 0.0, p.out_s + p.bank_rad / habits.roll_rate_radps, 0.0)
    done = torch.maximum(torch.maximum(turn_s, p.gain_s), p.climb_s)
    ends = ~p.straight & (elapsed >= done)
    gone = {name: torch.where(ends, 0.0, getattr(p, name)) for name in ("side", "out_s", "gain_s")}
    p = replace(
        p, straight=p.straight | ends, elapsed_s=torch.where(ends, elapsed - done, elapsed), age_s=p.age_s + dt, **gone
    )
    none = torch.zeros_like(p.mean[..., BANK:])
    return _told(p, ends, none, none)


def white_noise(psd: float, step_s: Tensor) -> Tensor:
    """What white acceleration adds to the covariance in step_s (B,): (B, 7, 7), q [t³/3, t²/2; t²/2, t] per axis."""
    noise = torch.zeros((step_s.shape[0], SIZE, SIZE), dtype=torch.float64, device=step_s.device)
    for axis in range(2):
        noise[:, axis, axis] = psd * step_s**3 / 3.0
        noise[:, axis, axis + 2] = noise[:, axis + 2, axis] = psd * step_s**2 / 2.0
        noise[:, axis + 2, axis + 2] = psd * step_s
    return noise
