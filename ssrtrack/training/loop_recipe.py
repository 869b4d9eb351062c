"""How a training goes: what of it the caller chooses, and the learning rate that follows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import cos, inf, isfinite, pi
from typing import Any, Self

from ssrtrack.errors import CheckpointError, TrainingError

DTYPES = ("float32", "bf16")
LOSSES = ("nll+mse", "nll", "mse")
LAST_RATE = 0.02  # of the highest learning rate, at the end
WARM_STEPS = 20  # the learning rate rises over these at least
LEAST_WINDOW = 16


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the losses of a run depend on, beside the flights.

    size: name of the network's size; network: what of it is otherwise, as `ResidualConfig` names it (block, options,
    width, residual, ...). loss: likelihood of the truth, squared errors, or both. base: the estimator that the network
    corrects, as `--tracker` has it. start: a learned tracker, as `--tracker` has it, with whose network, weights and
    base filter the run begins; size, network and base then say nothing. steps: how many; 0 leaves the end to `minutes`
    of computing, and then no two runs are alike to the last bit. batch: windows in a step over all processes, of
    `window` plots each. learning_rate: highest one; it rises over the first `warmup` of the run and falls along a
    cosine to LAST_RATE of it. clip: greatest norm of a gradient. validate_every: steps between validations, 0 for a
    twentieth of the run. patience: validations without a new best after which the run ends, 0 for never.
    """

    size: str = "small"
    base: str = "imm"
    steps: int = 0
    minutes: float = 5.0
    batch: int = 64
    window: int = 100
    learning_rate: float = 8e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    dtype: str = "float32"
    seed: int = 1
    validate_every: int = 0
    patience: int = 0
    network: Mapping[str, Any] = field(default_factory=dict)
    loss: str = "nll+mse"
    start: str = ""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            most = _MOST.get(name, inf)
            if not (isinstance(value, int | float) and isfinite(value) and least <= value <= most):
                to = f"from {least:g} to {most:g}" if name in _MOST else f"of at least {least:g}"
                raise TrainingError(f"{name} is {value!r}, expected a number {to}")
        if self.steps == 0 and self.minutes == 0.0:
            raise TrainingError("both steps and minutes are 0; say how long to train with one of them")
        if not (self.learning_rate > 0.0 and self.clip > 0.0 and self.warmup < 1.0):
            raise TrainingError(
                f"learning_rate={self.learning_rate:g} and clip={self.clip:g} must be above 0, warmup={self.warmup:g} "
                "below 1"
            )
        if self.dtype not in DTYPES:
            raise TrainingError(f"dtype is {self.dtype!r}, expected one of {', '.join(DTYPES)}")
        if self.loss not in LOSSES:
            raise TrainingError(f"loss is {self.loss!r}, expected one of {', '.join(LOSSES)}")
        if self.start and (self.network or self.base != "imm"):
            raise TrainingError(f"a run that starts from {self.start!r} has its network and base; leave others out")
        if not isinstance(self.network, Mapping):
            raise TrainingError(f"network is {self.network!r}, expected a table of what differs from the size")

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is done, in [0, 1], after `step` steps and `seconds` of training."""
        return min(1.0, step / self.steps if self.steps else seconds / (60.0 * self.minutes))

    def rate(self, progress: float, step: int) -> float:
        """Learning rate at a point of the run."""
        # A short run's share of warm-up is less than the optimiser needs to learn how large gradients are.
        rising = min((step + 1) / WARM_STEPS, progress / self.warmup if self.warmup and step else 1.0)
        falling = LAST_RATE + (1.0 - LAST_RATE) * 0.5 * (1.0 + cos(pi * progress))
        return self.learning_rate * min(1.0, rising) * falling

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """From what JSON had.

        Raises:
            CheckpointError: no table, or keys that are missing or unknown. TrainingError: values out of range.
        """
        names = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or not names - _LATER <= set(values) <= names:
            came = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise CheckpointError(f"the saved recipe names {came}, expected {sorted(names)}")
        return cls(**values)


_LATER = {"network", "loss", "start"}  # what the first recipes did not say, for there was one answer
_LEAST = {
    "steps": 0, "minutes": 0.0, "batch": 1, "window": LEAST_WINDOW, "learning_rate": 0.0, "warmup": 0.0,
    "weight_decay": 0.0, "clip": 0.0, "seed": 0, "validate_every": 0, "patience": 0,
}  # fmt: skip
_MOST = {"batch": 100_000, "window": 10_000}  # what a slip of the hand would fill the memory with
