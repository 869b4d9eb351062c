"""How the compared networks are trained and scored: the curriculum, the cap, which samples decide on what."""

from functools import partial
from typing import Any

import pytest
import torch

from ssrtrack.experiments.grid import Job
from ssrtrack.experiments.grid_tasks import COPYING, TEST_SEED, TRIALS, VALIDATION_SEED, copying
from ssrtrack.experiments.grid_work import run_job
from ssrtrack.experiments.level_jumps import WARM_UP, squared_error
from ssrtrack.experiments.selective_copy import CopyTask, sample
from ssrtrack.experiments.train import Recipe, Stage, Training
from ssrtrack.models.koss import SPECTRAL_CAP, InnovationGain

TINY = CopyTask("tiny", "follow", tokens=2, alphabet=4, strip=8, rho=0.5)


@pytest.mark.parametrize(("stages", "strips", "steps"), [
    (None, [64, 256, 1024, 4096], [500, 200, 150, 150]), (2, [64, 256], [714, 286]),
])  # fmt: skip
def test_the_long_task_is_learned_on_strips_that_grow(stages: int | None, strips: list[int], steps: list[int]) -> None:
    recipe = TRIALS["long"].recipe(1e-3, 1, 1000, stages=stages)
    drawn = [stage.sample(1, torch.Generator().manual_seed(0))[0] for stage in recipe.stages]
    assert [x.shape[1] - 16 for x in drawn] == strips and [stage.steps for stage in recipe.stages] == steps
    assert all(int((x[:, :-16] > 0).sum()) == 32 for x in drawn), "16 tokens and their echoes at every length"


def test_weights_beyond_the_cap_are_back_within_it_after_a_step() -> None:
    net = copying(TINY).network("koss", 1)
    gains = [m for m in net.modules() if isinstance(m, InnovationGain)]
    with torch.no_grad():
        for gain in gains:
            gain.w1.mul_(50.0)
    training = Training(net, COPYING, Recipe((Stage(partial(sample, TINY), 1),), 1e-3, seed=1, batch=4), "cpu")
    assert training.advance() and len(gains) == 2
    for gain in gains:
        norm = torch.linalg.matrix_norm(torch.cat([gain.w1, gain.w2]).detach(), ord=2, dim=(1, 2))
        assert float(norm.max()) <= SPECTRAL_CAP * (1 + 1e-5)


def test_rates_are_chosen_on_other_samples_than_those_that_score(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[tuple[int, int]] = []

    def evaluate(self: Training, _: Any, seed: int, count: int, batch: int) -> dict[str, float]:
        seeds.append((seed, count))
        return {"loss": 1.0, "score": 0.5}

    monkeypatch.setattr(Training, "evaluate", evaluate)
    told = [set(run_job(Job("short-clean", "gru", kind, 1e-3, 1, 2), "cpu")["tests"]) for kind in ("tune", "final")]
    assert told == [{"validation"}, {"test", "polluted"}] and VALIDATION_SEED != TEST_SEED
    assert seeds == [(VALIDATION_SEED, 2560), (TEST_SEED, 10_240), (TEST_SEED, 10_240)]


def test_errors_of_the_first_steps_do_not_count() -> None:
    level = torch.zeros(3, 10)
    wrong = level.clone()
    wrong[:, :WARM_UP] = 9.0
    assert squared_error(wrong, level) == 0.0
    wrong[:, WARM_UP] = 3.0
    assert float(squared_error(wrong, level)) == pytest.approx(9.0 / (10 - WARM_UP))
