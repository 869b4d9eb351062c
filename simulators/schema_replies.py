"""What a scenario file may say of replies and of plots that are not an aircraft's own."""

from dataclasses import dataclass

from ssrtrack.simulators.blocks import key


@dataclass(frozen=True, kw_only=True)
class FalsePlots:
    """Plots without an aircraft, uniform over azimuth and over the area between the range limits."""

    per_scan: float = key("float", 0.0, "1", "mean number in one rotation (Poisson)", 0, 1e4)
