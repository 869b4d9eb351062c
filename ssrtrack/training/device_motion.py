"""Planned flights flown on a device: bank, speed and climb into position and velocity in a radar's axes.

Each is sampled on a fine grid; track angle, position and height are running sums of fourth order, so that no loop over
time is needed. Between grid points position is a cubic with the velocities at its ends, and the velocity is that
cubic's own derivative: truth that is consistent to the last digit, and within millimetres of the exact path.
"""

from dataclasses import dataclass

import torch

from ssrtrack.geodesy import enu_to_geodetic, geodetic_to_enu
from ssrtrack.training.device_plan import Plans
from ssrtrack.units import G_MPS2

Tensor = torch.Tensor
Site = tuple[Tensor, Tensor, Tensor]  # latitude, longitude (rad), height (m), on the device
STEP_S = 0.5  # rolls in and out last seconds
MIN_SPEED_MPS = 20.0  # what turbulence leaves of the ground speed, as in the simulator


@dataclass(frozen=True, eq=False)
class Paths:
    """N flights on a grid of STEP_S: east, north and their rates (4, N, G) in the radar's axes, height (N, G)."""

    state: Tensor
    height_m: Tensor
    azimuth_rad: Tensor  # (N, G), unwrapped

    def at(self, time_s: Tensor) -> tuple[Tensor, Tensor]:
        """State (4, N, M) and height (N, M) at times (N, M) since the flights' start."""
        left, share = self._cell(time_s)
        (p0, p1), (v0, v1) = (self._ends(part, left) for part in (self.state[:2], self.state[2:]))
        gap = (p1 - p0) / STEP_S
        # Hermite: p = p0 + s h v0 + s² h (3 gap − 2 v0 − v1) + s³ h (v0 + v1 − 2 gap).
        second, third = 3.0 * gap - 2.0 * v0 - v1, v0 + v1 - 2.0 * gap
        place = p0 + STEP_S * share * (v0 + share * (second + share * third))
        rate = v0 + share * (2.0 * second + 3.0 * share * third)
        h0, h1 = self._ends(self.height_m, left)
        return torch.cat([place, rate]), h0 + share * (h1 - h0)

    @property
    def last_s(self) -> float:
        """Until when the paths are known."""
        return STEP_S * (self.height_m.shape[1] - 2)

    def coarse_azimuth(self, time_s: Tensor) -> Tensor:
        """Unwrapped azimuth (N, M), linear between grid points."""
        left, share = self._cell(time_s)
        a0, a1 = self._ends(self.azimuth_rad, left)
        return a0 + share * (a1 - a0)

    def _cell(self, time_s: Tensor) -> tuple[Tensor, Tensor]:
        x = (time_s / STEP_S).clamp(0.0, self.height_m.shape[1] - 1.001)
        left = x.floor()
        return left.long(), x - left

    def _ends(self, values: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        index = left.expand(*values.shape[:-1], left.shape[-1])
        return values.gather(-1, index), values.gather(-1, index + 1)

    def turned(self, angle_rad: Tensor, mirrored: Tensor) -> "Paths":
        """The flights seen from the same radar elsewhere about it: mirrored east to west (N, 1), then turned (N, 1).

        The earth is near enough to round for heights to stay as they are.
        """
        side = torch.where(mirrored, -1.0, 1.0)
        sin, cos = angle_rad.sin(), angle_rad.cos()
        x, y, vx, vy = self.state[0] * side, self.state[1], self.state[2] * side, self.state[3]
        state = torch.stack([cos * x + sin * y, cos * y - sin * x, cos * vx + sin * vy, cos * vy - sin * vx])
        return Paths(state, self.height_m, self.azimuth_rad * side + angle_rad)


def flown_paths(plans: Plans, site: Site, span_s: float, turbulence: float | Tensor, rng: torch.Generator) -> Paths:
    """The paths of N plans over span_s, on the generator's device, float64.

    Args:
        site: of the radar whose axes are used.
        turbulence: PSD of white acceleration along and across the track, m²/s³; one for all, or (N, 1).
    """
    device = rng.device
    grid = torch.arange(int(span_s / STEP_S) + 2, device=device, dtype=torch.float64) * STEP_S
    bank, speed, climb = (_sampled(pair, grid) for pair in (plans.bank, plans.speed, plans.climb))
    push = torch.zeros((2, *bank.shape), device=device, dtype=torch.float64)
    if isinstance(turbulence, Tensor) or turbulence > 0.0:
        push = torch.randn(push.shape, generator=rng, device=device, dtype=torch.float64)
        push *= (turbulence / STEP_S) ** 0.5
    speed = (speed + STEP_S * (push[0].cumsum(1) - push[0])).clamp(min=MIN_SPEED_MPS)
    turn = (G_MPS2 * bank.tan() + push[1]) / speed
    track = _column(plans.start.track_rad, device) + _running(turn, None)
    east, north = track.sin(), track.cos()
    gain = torch.gradient(speed, spacing=STEP_S, dim=1)[0]
    latitude, longitude = _column(plans.start.latitude_rad, device), _column(plans.start.longitude_rad, device)
    start = geodetic_to_enu(latitude, longitude, _column(plans.start.height_m, device), site)[:, 0]
    velocity = torch.stack([speed * east, speed * north])
    change = torch.stack([gain * east + speed * turn * north, gain * north - speed * turn * east])
    place = start[:, :2].T[:, :, None] + _running(velocity, change)
    height = _column(plans.start.height_m, device) + _running(climb, None)
    return Paths(torch.cat([place, velocity]), height, _unwrapped(torch.atan2(place[0], place[1])))


def up_m(east_north_m: Tensor, height_m: Tensor, site: Site) -> Tensor:
    """The up coordinate at the site of points (2, ...) whose WGS84 height is known, to under a millimetre."""
    east, north = east_north_m
    up: Tensor = height_m - site[2] - (east**2 + north**2) / 1.2757e7
    for _ in range(3):
        found = enu_to_geodetic(torch.stack([east, north, up], -1), site)[2]
        up = up + (height_m - found)
    return up


def _column(values: object, device: torch.device) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64, device=device)[:, None]


def _sampled(pair: tuple[object, object], grid: Tensor) -> Tensor:
    """Piecewise-linear schedules (N, K) at grid times (N, G); the last value holds after the last knot."""
    times, values = (torch.as_tensor(x, dtype=torch.float64, device=grid.device).contiguous() for x in pair)
    right = torch.searchsorted(times, grid.expand(times.shape[0], -1).contiguous(), right=True)
    right = right.clamp(1, times.shape[1] - 1)
    t0, t1 = times.gather(1, right - 1), times.gather(1, right)
    v0, v1 = values.gather(1, right - 1), values.gather(1, right)
    share = ((grid - t0) / (t1 - t0).clamp(min=1e-9)).clamp(0.0, 1.0)
    return v0 + share * (v1 - v0)


def _running(rate: Tensor, change: Tensor | None) -> Tensor:
    """Running integral over the grid, 0 at its beginning: trapezium, with the end corrections of slopes if known."""
    steps = 0.5 * STEP_S * (rate[..., 1:] + rate[..., :-1])
    if change is not None:
        steps = steps + STEP_S**2 / 12.0 * (change[..., :-1] - change[..., 1:])
    return torch.nn.functional.pad(steps.cumsum(-1), (1, 0))


def _unwrapped(angle: Tensor) -> Tensor:
    step = torch.diff(angle, dim=1)
    step = step - 2.0 * torch.pi * torch.round(step / (2.0 * torch.pi))
    return angle[:, :1] + torch.nn.functional.pad(step.cumsum(1), (1, 0))
