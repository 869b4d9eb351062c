"""The evidence experiments: tasks that can be solved by their rules and by no less, fair networks, honest training."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ssrtrack.errors import TrainingError
from ssrtrack.experiments import level_jumps
from ssrtrack.experiments.grid import (
    Cell,
    Job,
    append_record,
    best_rate,
    expected_seconds,
    left,
    open_jobs,
    read_records,
)
from ssrtrack.experiments.grid_models import MODELS, PEERS, VARIANTS, network, parameters
from ssrtrack.experiments.grid_plan import cells, narrowed
from ssrtrack.experiments.grid_tasks import COPYING, TRIALS, copying
from ssrtrack.experiments.grid_work import Site, graph_off_by, run_grid, run_job
from ssrtrack.experiments.level_jumps import Levels
from ssrtrack.experiments.selective_copy import (
    TASKS,
    CopyTask,
    _first,
    blind_answers,
    bumps,
    repeat_table,
    rule_answers,
    sample,
)
from ssrtrack.experiments.train import Recipe, Stage, Training, groups

FOLDER = str(Path(__file__).parents[1] / "benchmarks")
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)

import selective_copy as script  # noqa: E402

Tensor = torch.Tensor
# Of other sizes by what they are.
OTHER_SIZES = {"koss-no-input-gain", "koss-input-only-no-input-gain", "koss-prediction", "koss-published"}


def drawn(task: CopyTask, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return sample(task, count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TASKS)
def test_the_rule_gives_every_answer(name: str) -> None:
    x, answers = drawn(TASKS[name], 16 if name == "long" else 500)
    assert torch.equal(rule_answers(TASKS[name], x), answers)
    assert x.shape[1] == TASKS[name].strip + TASKS[name].tokens
    assert answers.min() == 0 and answers.max() == TASKS[name].symbols - 1
    again, _ = drawn(TASKS[name], 16 if name == "long" else 500)
    assert torch.equal(x, again)


def test_the_rule_gives_every_answer_without_distractors_and_on_shorter_strips() -> None:
    for task in (replace(TASKS["short"], rho=0.0), replace(TASKS["long"], rho=0.0, strip=64)):
        x, answers = drawn(task, 200)
        assert torch.equal(rule_answers(task, x), answers)
        assert set(x.unique().tolist()) == set(range(task.alphabet))


def test_short_is_laid_out_as_described() -> None:
    task = TASKS["short"]
    x, answers = drawn(task, 400)
    strip = x[:, : task.strip]
    assert ((strip == 0).sum(1) == 24).all() and (x[:, task.strip :] == task.marker).all()
    rows, at = torch.nonzero(strip, as_tuple=True)
    filled = at.reshape(400, -1)
    assert torch.equal(filled[:, 1::2], filled[:, ::2] + 1)
    values = strip[rows, at].reshape(400, -1)
    share = values[:, 1::2] / values[:, ::2]
    assert torch.equal(values[:, ::2].long() - 1, answers)
    assert share.min() >= 0.5 and share.max() <= 0.55 + 1e-6 and share.std() > 0.01


@pytest.mark.parametrize(("name", "line"), [("mode", 0.53), ("repeat", sum(map(max, repeat_table(8, 6))) / 8)])
def test_without_context_the_best_rule_stays_at_its_line(name: str, line: float) -> None:
    x, answers = drawn(TASKS[name], 4000)
    score = (blind_answers(TASKS[name], x) == answers).float().mean().item()
    assert abs(score - line) < 0.012
    assert TASKS[name].chance < score < 0.65
    first = (_first(x, (x > 0) & (x <= 6), 8) == answers).float().mean().item()
    assert first < score + 1e-6, "keeping what comes first is no better"


def test_context_lies_beyond_what_two_convolutions_see() -> None:
    x, _ = drawn(TASKS["mode"], 300)
    flags, tokens = x > TASKS["mode"].marker, (x > 0) & (x <= 6)
    repeated, _ = drawn(TASKS["repeat"], 300)
    events = (repeated > 0) & (repeated <= 6)
    for back in range(1, 7):
        assert not (flags[:, :-back] & tokens[:, back:]).any()
        assert not (events[:, :-back] & events[:, back:]).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rule": "guess"},
        {"rule": "mode"},
        {"rule": "mode", "tokens": 3, "strip": 36},
        {"strip": 15},
        {"rule": "repeat", "strip": 105},
    ],
)
def test_a_task_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TrainingError):
        replace(TASKS["short"], **wrong)


def test_bumps_tell_numbers_apart() -> None:
    encoded = bumps(torch.tensor([0.0, 1.0, 1.1, 7.0]), 8)
    assert encoded.shape == (4, 32)
    assert torch.equal(encoded.argmax(1), torch.tensor([0, 4, 4, 28]))
    assert (encoded[1] - encoded[2]).norm() > 0.3


def test_levels_lie_between_the_exact_filter_and_the_best_fixed_gain() -> None:
    levels = Levels()
    x, level = level_jumps.sample(levels, 3000, torch.Generator().manual_seed(1))
    gain, error = level_jumps.best_fixed_gain(levels, 1000)
    assert abs(error - 0.5942) < 1e-3
    assert abs(level_jumps.squared_error(level_jumps.fixed_gain(x, gain), level).item() - error) < 0.02
    exact = level_jumps.squared_error(level_jumps.exact_filter(levels, x), level).item()
    assert 0.25 < exact < 0.28
    assert abs(level.var().item() - 9.0) < 0.6


def test_the_exact_filter_is_bayes_rule() -> None:
    """Against a grid over the level: transition, likelihood, mean; no mixture, no Gaussian algebra."""
    levels = Levels(steps=12)
    x, _ = level_jumps.sample(levels, 3, torch.Generator().manual_seed(2))
    grid = torch.linspace(-15.0, 15.0, 3001, dtype=torch.float64)
    prior = torch.softmax(-0.5 * (grid / levels.level) ** 2, 0)
    belief, means = prior.expand(3, -1), []
    for t in range(12):
        if t:
            belief = (1.0 - levels.jump) * belief + levels.jump * prior
        belief = belief * torch.exp(-0.5 * (x[:, t, None].double() - grid) ** 2)
        belief = belief / belief.sum(1, keepdim=True)
        means.append((belief * grid).sum(1))
    assert torch.allclose(level_jumps.exact_filter(levels, x), torch.stack(means, 1), atol=1e-6)


def built(model: str, **options: Any) -> torch.nn.Module:
    task = TASKS["short"]
    return network(model, 3, task.symbols, values=task.values, last=task.tokens, **options)


def test_networks_have_the_same_size() -> None:
    own = parameters(built("koss"))
    for model in MODELS:
        if model not in OTHER_SIZES:
            assert abs(parameters(built(model)) / own - 1.0) < 0.1, model


@pytest.mark.parametrize("model", [*PEERS, *(m for m in VARIANTS if m != "koss-published")])
def test_no_model_sees_the_future(model: str) -> None:
    net = network(model, 3, 6, values=8, last=24, depth=1).eval()
    x = torch.randint(0, 8, (2, 24), generator=torch.Generator().manual_seed(0)).float()
    other = x.clone()
    other[:, 17:] = 7.0 - other[:, 17:]
    with torch.no_grad():
        a, b = net(x), net(other)
    # An FFT carries rounding backwards, and nothing else.
    assert (a[:, :17] - b[:, :17]).abs().max() < 1e-5 * a.abs().max()
    assert (a[:, 17:] - b[:, 17:]).abs().max() > 1e-3 * a.abs().max()


def test_seeds_alone_decide_the_weights() -> None:
    torch.manual_seed(0)
    a = built("koss")
    torch.manual_seed(1)
    b = built("koss")
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("model", ["koss-input-only", "s6", "s4d"])
def test_without_convolution_blocks_see_one_step(model: str) -> None:
    plain, whole = (
        dict(network(model, 1, 1, values=0, last=8, conv=conv).named_parameters()) for conv in (False, True)
    )
    taps = [name for name in plain if name.endswith("taps")]
    assert len(taps) == 2
    for name in taps:
        assert plain[name].sum() == plain[name].shape[1] == plain[name][-1].sum()
        assert not plain[name].requires_grad and not plain[f"{name}_bias"].requires_grad and whole[name].requires_grad
        assert not plain[f"{name}_bias"].any()


@pytest.mark.parametrize("model", ["koss", "gru"])
def test_training_lowers_the_loss_and_repeats_itself(model: str) -> None:
    tiny = copying(CopyTask("tiny", "follow", tokens=2, alphabet=4, strip=8, rho=0.5))
    histories = []
    for _ in range(2):
        training = Training(tiny.network(model, 1), tiny.goal, tiny.recipe(1e-2, 1, 20), "cpu")
        while not training.advance():
            pass
        histories.append(training.history()[0])
    assert histories[0] == histories[1]
    assert sum(histories[0][-5:]) < 0.8 * sum(histories[0][:5])
    assert training.why_not == "no CUDA device"


def test_stages_follow_each_other_under_one_schedule() -> None:
    task = TASKS["short"]
    stages = tuple(Stage(partial(sample, replace(task, strip=strip)), steps) for strip, steps in ((16, 3), (40, 4)))
    training = Training(built("gru"), COPYING, Recipe(stages, 1e-2, seed=1, batch=4, warm_up=2), "cpu")
    seen = []
    while not training.advance():
        seen.append(training.x.shape[-1])
    seen.append(training.x.shape[-1])
    assert seen == [24, 48] and training.done == 7
    assert float(training.lr) == pytest.approx(1e-2 * 0.5 * (1.0 + torch.cos(torch.tensor(6 * torch.pi / 7)).item()))
    result = training.evaluate(partial(sample, task), seed=5, count=6, batch=4)
    assert result == training.evaluate(partial(sample, task), seed=5, count=6, batch=4)


@pytest.mark.gpu
@pytest.mark.parametrize("model", MODELS)
def test_a_graph_trains_as_torch_does(model: str) -> None:
    assert graph_off_by(model, "cuda:0") < 0.02


def test_only_linear_weights_decay() -> None:
    net = built("koss")
    decaying, free = (group["params"] for group in groups(net, 0.01))
    names = {id(p): name for name, p in net.named_parameters()}
    assert not any("log_rate" in names[id(p)] or "gain.w" in names[id(p)] for p in decaying)
    assert len(decaying) + len(free) == len(names)


def cell(**changes: Any) -> Cell:
    return replace(Cell("short", "gru", 5, (1e-3, 4e-3), (1, 2)), **changes)


def record(job: Job, score: float) -> dict[str, Any]:
    return {"key": job.key, "task": job.task, "model": job.model, "kind": job.kind, "lr": job.lr, "steps": job.steps,
            "score": score, "seconds": 2.0}  # fmt: skip


def test_a_cell_is_tuned_before_its_seeds_are_trained() -> None:
    one = cell()
    slow, fast = one.tuning()
    assert [job.key for job in open_jobs([one], [], ())] == [slow.key, fast.key]
    assert [job.key for job in open_jobs([one], [record(slow, 0.5)], [fast.key])] == []
    for scores, best in (((0.5, 0.6), 4e-3), ((0.6, 0.5), 1e-3), ((0.5, float("nan")), 1e-3), ((0.5, 0.5), 1e-3)):
        records = [record(job, score) for job, score in zip((slow, fast), scores, strict=True)]
        assert best_rate(one, records) == best
        assert [(job.lr, job.seed) for job in open_jobs([one], records, ())] == [(best, 1), (best, 2)]
    assert left([one], records[:1]) == 3
    trial = [record(replace(job, steps=2), score) for job, score in zip((slow, fast), (0.1, 0.9), strict=True)]
    assert best_rate(one, trial) is None
    assert best_rate(one, [record(slow, 0.6), record(fast, 0.5), *trial]) == 1e-3
    levels = Cell("levels", "gru", 5, (1e-3, 4e-3), (1,))
    assert best_rate(levels, [record(job, s) for job, s in zip(levels.tuning(), (0.3, 0.4), strict=True)]) == 1e-3
    clean = cell(task="short-clean", tuned_on="short")
    assert clean.tuning() == [] and best_rate(clean, records) == 1e-3
    assert expected_seconds(replace(slow, steps=50), records) == 20.0
    assert expected_seconds(Job("long", "gru", "tune", 1e-3, 1, 1000), records) == TRIALS["long"].guess_ms


def test_unknown_cells_are_refused() -> None:
    for wrong in ({"task": "copy"}, {"model": "lstm"}):
        with pytest.raises(TrainingError, match="there is no cell"):
            cell(**wrong)
    with pytest.raises(TrainingError, match="precision"):
        Recipe((Stage(partial(sample, TASKS["short"]), 1),), 1e-3, 1, precision="float8")


def test_a_line_half_written_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append_record(path, {"key": "a"})
    path.write_text(path.read_text() + '{"key": "b", "sco')
    assert [r["key"] for r in read_records(path)] == ["a"]
    append_record(path, {"key": "c"})
    assert [r["key"] for r in read_records(path)] == ["a", "c"]
    path.write_text('{"key": "b", "sco\n{"key": "d"}\n')
    with pytest.raises(TrainingError, match="line 1 is not JSON"):
        read_records(path)


def test_a_job_says_what_it_did() -> None:
    done = run_job(Job("short-clean", "gru", "final", 2e-3, 1, 3, count=300), "cpu")
    assert set(done["tests"]) == {"test", "polluted"} and 0.1 < done["score"] < 0.25
    assert done["parameters"] == parameters(built("gru")) and not done["captured"]
    json.dumps(done)


def test_a_grid_goes_on_where_its_file_ends(tmp_path: Path) -> None:
    path, said = tmp_path / "records.jsonl", list[str]()
    plan = [Cell("levels", "gru", 2, (1e-3,), (1,), count=20)]
    site = Site(("cpu",), workers=1, slots=2)
    records = run_grid(plan, path, site, seconds=60.0, facts={"device": "here"}, tell=said.append)
    assert [(r["seed"], r["device"]) for r in records] == [(1, "here")] and said[-1].startswith("0 ")
    assert "0 trainings are left to do, 0 failed" in said[-1]
    text = path.read_text()
    more = [replace(plan[0], seeds=(1, 2))]
    run_grid(more, path, site, seconds=0.0, facts={}, tell=said.append)
    assert path.read_text() == text and said[-1].startswith("1 "), "no time, nothing begun"


def test_a_job_that_fails_is_told_and_tried_again_by_the_next_run(tmp_path: Path) -> None:
    path, said = tmp_path / "records.jsonl", list[str]()
    plan = [Cell("levels", "gru", 2, (1e-3,), (1,), count=20)]
    run_grid(plan, path, Site(("cuda:77",)), seconds=60.0, facts={}, tell=said.append)
    assert "error" in read_records(path)[0] and "FAILED" in said[0] and said[-1].endswith("1 failed")
    assert left(plan, [r for r in read_records(path) if "error" not in r]) == 1


def test_the_plan_holds_every_cell_once_and_every_choice_of_a_rate() -> None:
    whole = cells("all")
    pairs = [(c.task, c.model) for c in whole]
    assert len(pairs) == len(set(pairs)) == sum(len(cells(part)) for part in ("short", "long", "levels"))
    assert all((c.tuned_on, c.model) in pairs for c in whole if c.tuned_on)
    assert {c.task for c in whole} == set(TRIALS) and {c.model for c in whole} == set(MODELS)
    some = narrowed(whole, tasks=["mode"], models=["koss"], steps=7, seeds=None)
    assert [(c.task, c.model, c.steps, c.seeds) for c in some] == [("mode", "koss", 7, (1, 2, 3))]
    with pytest.raises(TrainingError, match="no part"):
        cells("some")


def test_the_tables_say_mean_spread_and_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"chance": 1 / 6, "without_context": 1.0, "best": 1.0}
    monkeypatch.setattr(script, "lines", lambda: dict.fromkeys((*TASKS, "levels"), line))
    told = dict.fromkeys(("device", "versions", "commit", "date", "batch", "precision", "captured"), "x")
    records = [
        {"task": task, "model": "koss", "kind": kind, "score": score, "tests": {"test": {}, "polluted": {"score": 0.2}},
         "test_sequences": 9, "parameters": 7, "lr": 1e-3, "steps": steps, "ms_per_step": 1.0, "seconds": 3.0,
         "diverged": False, "key": f"{task} {kind} {score} {steps}"} | told
        for task, kind, score, steps in (
            ("short-clean", "final", 0.9, 3), ("short-clean", "final", 1.0, 3), ("short-clean", "tune", 0.1, 3),
            ("levels-conv", "final", 0.3, 3), ("short-clean", "final", 0.2, 1), ("short-clean", "final", 1.0, 3),
        )
    ]  # fmt: skip
    records[0]["commit"] = "y"
    failed = {"task": "mode", "model": "koss", "kind": "final", "error": "it died"}
    # What was trained before a better rate was tried is not told any more.
    later = [
        records[3] | {"kind": kind, "lr": lr, "score": score, "key": f"levels {kind} {lr}", "task": "levels"}
        for kind, lr, score in (("tune", 1e-3, 0.3), ("tune", 2e-3, 0.2), ("final", 1e-3, 0.3), ("final", 2e-3, 0.2))
    ]
    script.write_tables([*records, failed, *later], tmp_path)
    told_of = (tmp_path / "level_jumps.csv").read_text().splitlines()
    assert len(told_of) == 3 and told_of[1].startswith("levels,koss,0.2000,")
    rows = (tmp_path / "selective_copy.csv").read_text().splitlines()
    assert len(rows) == 3 and rows[1].startswith("short-clean,koss,0.9500,0.0707,0.9000,1.0000,0.2000,2,9,0.1667,")
    assert rows[1].endswith(",0.001,0.001,3,x,x,x,1.00,3.0,0,x,x,y; x,x")
    # A trial of another length does not mix with what is reported.
    assert rows[2].startswith("short-clean,koss,0.2000,,0.2000,0.2000,0.2000,1,9,")
    assert told_of[2].startswith("levels-conv,koss,0.3000,,")


def test_every_task_of_the_grid_samples_what_its_network_takes() -> None:
    for name, trial in TRIALS.items():
        x, target = trial.tests["test"](2, torch.Generator().manual_seed(0))
        assert x.max() <= trial.values or trial.values == 0, name
        assert target.shape[1] == trial.last, name
        assert abs(sum(trial.shares) - 1.0) < 1e-9, name
        assert trial.recipe(1e-3, 1, 1000).steps == 1000, name
