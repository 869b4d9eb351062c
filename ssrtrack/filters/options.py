"""Options that every classical estimator has."""

from dataclasses import dataclass

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.gaussian import gate_threshold


@dataclass(frozen=True)
class Options:
    """How a track starts and what happens to improbable plots.

    speed_sigma_mps: prior standard deviation of each velocity component; 170 m/s makes 240 m/s (an airliner's cruise)
    a 1.4-sigma speed. gate: probability with which a good plot is kept (chi-square with 2 degrees of freedom on the
    innovation; 0.9999 is 18.4), None keeps all. reopen_after: that many plots turned down in a row, and the next one
    begins the track anew. tail_weight ε and tail_scale κ: the plot's noise is (1 − ε) N(0, R) + ε N(0, κ²R), the
    posterior's two components being merged by moments (Sorenson and Alspach 1971, Automatica 7(4)); ε = 0 is plain
    Gaussian noise. With a tail, the gate is that of the wide component.
    """

    speed_sigma_mps: float = 170.0
    gate: float | None = None
    reopen_after: int = 3
    tail_weight: float = 0.0
    tail_scale: float = 10.0

    def __post_init__(self) -> None:
        gate_threshold(self.gate)
        if not self.speed_sigma_mps > 0.0:
            raise EstimatorError(f"speed_sigma_mps={self.speed_sigma_mps} must be positive")
        if self.reopen_after < 0:
            raise EstimatorError(f"reopen_after={self.reopen_after} must not be negative")
        if not (0.0 <= self.tail_weight < 1.0 and self.tail_scale > 1.0):
            raise EstimatorError(
                f"tail_weight={self.tail_weight} and tail_scale={self.tail_scale}: "
                "the weight must be in [0, 1) and the scale above 1"
            )
