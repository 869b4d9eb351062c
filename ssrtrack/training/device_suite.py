"""The benchmark suite's own traffic and radars among those of all kinds that a tracker for every radar is trained on.

The suite's IMMs are tuned on its training splits; so that a learned tracker knows as much, a share of its flights are
drawn from the same scenarios. Their seeds are the training's: no flight of a split is among them. What a radar of many
cannot have here, the site's height and what `device_radar.left_out` names, is left out of the suite's radars too.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.simulators.schema_traffic import Flow
from ssrtrack.simulators.suite import list_suite, load_suite

Tensor = torch.Tensor
ELSEWHERE = -1  # in a scene's place: none of the suite's


@cache
def scenes() -> tuple[Scenario, ...]:
    """The suite's scenarios, as their training splits have them."""
    return tuple(load_suite(name, "train")[0] for name in list_suite())


def suite_flows(rng: np.random.Generator, which: NDArray[np.int64]) -> list[Flow]:
    """A flow of each scenario `which` (N,), drawn by how many it has in the air."""
    flows = []
    for scene in which:
        traffic = scenes()[scene].traffic
        numbers = np.array([flow.number for flow in traffic], float)
        flows.append(traffic[rng.choice(len(traffic), p=numbers / numbers.sum())])
    return flows


def with_suite(drawn: Mapping[str, Tensor], scene: Tensor) -> dict[str, Tensor]:
    """Numbers (N, 1) of N radars, by `block.key` or `key`: where scene (N,) is one of the suite's, its radar's own."""

    def own(name: str) -> Tensor:
        return torch.tensor([_number(it.radar[0], name) for it in scenes()], dtype=torch.float64, device=scene.device)

    there = (scene >= 0)[:, None]
    return {name: torch.where(there, own(name)[scene][:, None], value) for name, value in drawn.items()}


def suite_turbulence(drawn: Tensor, scene: Tensor) -> Tensor:
    """Turbulence (N, 1) in m²/s³, the suite's own where scene (N,) is one of it."""
    own = torch.tensor([it.turbulence_m2ps3 for it in scenes()], dtype=torch.float64, device=scene.device)
    return torch.where((scene >= 0)[:, None], own[scene][:, None], drawn)


def radar_of(usual: RadarSpec, numbers: Mapping[str, Tensor]) -> RadarSpec:
    """The usual radar with some of its numbers, by `block.key` or `key`, replaced by tensors (N, 1)."""
    changed: dict[str, Any] = {}
    blocks: dict[str, dict[str, Tensor]] = {}
    for name, value in numbers.items():
        block, dot, key = name.partition(".")
        if dot:
            blocks.setdefault(block, {})[key] = value
        else:
            changed[name] = value
    return replace(usual, **changed, **{name: replace(getattr(usual, name), **own) for name, own in blocks.items()})


def _number(spec: RadarSpec, name: str) -> float:
    block, dot, key = name.partition(".")
    found: float = getattr(getattr(spec, block), key) if dot else getattr(spec, block)
    return found
