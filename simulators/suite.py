"""The benchmark suite: four scenarios, each with a training, a validation and a test split that share no flight.

A name, a version and a split say exactly which flights and plots are meant (docs/suite.md), so that two figures from
different people can be compared. Whatever changes a single plot of a split needs a new VERSION; that is why the files
spell out their radars and name no profile. Random errors only: a bias of the radar adds the same to every tracker's
error, and would hide what the suite is there to show.
"""

import re
from difflib import get_close_matches
from pathlib import Path

from ssrtrack.errors import ScenarioError
from ssrtrack.simulators.scenario import parse_scenario
from ssrtrack.simulators.schema import Scenario

VERSION = 1
PREFIX = "suite:"
SPLITS = ("train", "validation", "test")
# Seeds by split. All differ, across scenarios too: a flow of equal settings never flies the same flight twice.
SEEDS = {
    "tma-4s": {"train": 40_001, "validation": 40_002, "test": 40_003},
    "enroute-8s": {"train": 80_001, "validation": 80_002, "test": 80_003},
    "legacy-12s": {"train": 120_001, "validation": 120_002, "test": 120_003},
    "degraded": {"train": 50_001, "validation": 50_002, "test": 50_003},
}
# The files say the test split's duration. The others are shorter: they need fewer flights.
DURATION_SHARE = {"train": 0.4, "validation": 0.3, "test": 1.0}
_FOLDER = Path(__file__).parent / "suite"
_DURATION = re.compile(r"^duration_s = ([0-9.]+)$", re.MULTILINE)


def list_suite() -> list[str]:
    """Names of the suite's scenarios, without the prefix `suite:`."""
    return list(SEEDS)


def load_suite(name: str, split: str = "test") -> tuple[Scenario, int]:
    """A scenario of the suite, as long as its split is, and the split's seed; `suite:` before the name may stand.

    Raises:
        ScenarioError: no such scenario or split.
    """
    bare = _known(name)
    if split not in SPLITS:
        raise ScenarioError(f"suite split: found {split!r}, expected one of {', '.join(SPLITS)}")
    path = _FOLDER / f"{bare}.toml"
    text = _DURATION.sub(lambda m: f"duration_s = {float(m[1]) * DURATION_SHARE[split]:.1f}", path.read_text("utf-8"))
    return parse_scenario(text, bare, str(path)), SEEDS[bare][split]


def suite_provenance(name: str, split: str = "test") -> dict[str, float | str]:
    """What a log of the suite carries beside its scenario and seed, for `Provenance.extra`.

    Raises:
        ScenarioError: no such scenario.
    """
    return {"suite": _known(name), "suite_version": float(VERSION), "suite_split": split}


def is_suite(text: str) -> bool:
    """Whether a scenario is asked for as `suite:NAME`."""
    return text.startswith(PREFIX)


def _known(name: str) -> str:
    bare = name.removeprefix(PREFIX)
    if bare not in SEEDS:
        close = get_close_matches(bare, list_suite(), 1)
        hint = f"did you mean {PREFIX}{close[0]}?" if close else "the suite holds " + ", ".join(list_suite())
        raise ScenarioError(f"{name}: no such scenario in the suite; {hint}")
    return bare
