"""What a bank of Kalman filters is to the kernels: its form (which decides the code) and its numbers (data)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssrtrack.kernels.kalman_motion import KINDS

Scalar = Any

POSITION_COLUMNS = ("dt_s", "x_m", "y_m", "xx_m2", "xy_m2", "yy_m2")
POLAR_COLUMNS = (
    *("range_m", "sin_azimuth", "cos_azimuth", "range_m2", "azimuth_rad2", "height_m2"),
    *("east_x", "east_y", "north_x", "north_y", "up_x", "up_y"),  # turn from the tracking frame to the radar's
    *("east_m", "north_m", "up_m"),  # where x = y = 0 at the target's up coordinate stands for the radar
)


@dataclass(frozen=True)
class Form:
    """Everything that changes the code: motion kinds (see `KINDS`), engine, observation, gate, tail.

    engine: "extended", "unscented" or "cubature"; observation: "position" or "polar".
    """

    kinds: tuple[str, ...]
    engine: str
    observation: str
    gate: bool
    tail: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """What is read of every plot."""
        return POSITION_COLUMNS + (POLAR_COLUMNS if self.observation == "polar" else ())

    @property
    def state_size(self) -> int:
        """Scalars of one track's state."""
        sizes = [KINDS[kind].size for kind in self.kinds]
        models = len(sizes)
        return sum(n + n * (n + 1) // 2 for n in sizes) + (models if models > 1 else 0) + 2 * self.gate

    @property
    def parameter_count(self) -> int:
        """Length of the parameter vector."""
        models = len(self.kinds)
        chain = (models + (models - 1) * (1 + models * models)) if models > 1 else 0
        return sum(KINDS[kind].parameters for kind in self.kinds) + chain + 6


@dataclass(frozen=True)
class Parameters:
    """The numbers: per model as listed at `KINDS`; chain spectrum λ_k and A_k; start; options."""

    models: Sequence[Sequence[Scalar]]
    log_start: Sequence[Scalar]
    chain_rate: Sequence[Scalar]
    chain_share: Sequence[Sequence[Sequence[Scalar]]]
    speed_variance: Scalar
    gate_threshold: Scalar
    reopen_after: Scalar
    log_core_weight: Scalar
    log_tail_weight: Scalar
    tail_factor: Scalar


def parameters(form: Form, vector: Sequence[Scalar]) -> Parameters:
    """Parameters from their vector: models, log_start (M), λ (M − 1), A (M − 1, M, M), then the six options."""
    values, models = iter(vector), len(form.kinds)

    def take(count: int) -> list[Scalar]:
        return [next(values) for _ in range(count)]

    per_model = [take(KINDS[kind].parameters) for kind in form.kinds]
    if models == 1:
        return Parameters(per_model, [0.0], [], [], *take(6))
    start, rates = take(models), take(models - 1)
    shares = [[take(models) for _ in range(models)] for _ in range(models - 1)]
    return Parameters(per_model, start, rates, shares, *take(6))
