"""Recall: a task with one answer to every question, mixers that are their loops, trainings that find it, the table."""

import json
import sys
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch

from ssrtrack.errors import TrainingError
from ssrtrack.experiments import recall_grid
from ssrtrack.experiments.grid import append_record, read_records
from ssrtrack.experiments.recall import (
    LENGTHS,
    PAIRS,
    Drawn,
    RecallTask,
    cells_of,
    places_log_weight,
    rule_answers,
    sample,
    tasks,
)
from ssrtrack.experiments.recall_check import graph_off_by, off_by
from ssrtrack.experiments.recall_grid import RecallJob, RecallPlan, best_rate, job_key, open_jobs, run_job, run_plan
from ssrtrack.experiments.recall_mixers import (
    delta_rule,
    delta_rule_loop,
    linear_attention,
    linear_attention_loop,
    softmax_attention,
)
from ssrtrack.experiments.recall_models import MIXERS, causal, parameters, recaller
from ssrtrack.experiments.recall_table import surfaces, table
from ssrtrack.experiments.recall_train import RecallRecipe, RecallTraining
from ssrtrack.report.figures_koss import save
from ssrtrack.report.figures_recall import recall_figure

FOLDER = str(Path(__file__).parents[1] / "benchmarks")
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)

import recall as script  # noqa: E402

Tensor = torch.Tensor
SMALL = RecallTask(40, (2, 5), vocabulary=32)
TINY = RecallPlan(
    ("delta",), (8,), (1e-2,), (1,), steps=6, tokens=160, vocabulary=32, lengths=(16, 32), most=8, each=4
)  # fmt: skip


def drawn(task: RecallTask, count: int = 3, each: int = 50, seed: int = 0) -> Drawn:
    return sample(task, count, each, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("task", [*tasks(), SMALL], ids=lambda task: str(task.steps))
def test_every_question_has_one_answer_and_it_was_seen_before(task: RecallTask) -> None:
    batch = drawn(task, count=1, each=4)
    tokens, at, answers = (part[0] for part in batch)
    assert torch.equal(rule_answers(tokens, at), answers)
    half, step, row = task.vocabulary // 2, at % task.steps, at // task.steps
    assert len(set(at.tolist())) == at.numel() == 4 * sum(task.pairs), "no place is asked at twice"
    pairs = torch.tensor(task.pairs).repeat_interleave(4)
    assert bool((step >= 2 * pairs[row]).all()) and bool((step % 2 == 0).all())
    assert bool((answers >= half).all()) and bool((answers < task.vocabulary).all())
    for sequence, n in zip(tokens, pairs.tolist(), strict=True):
        keys, values, after = sequence[: 2 * n : 2], sequence[1 : 2 * n : 2], sequence[2 * n :]
        assert len(set(keys.tolist())) == len(set(values.tolist())) == n
        assert bool((keys > 0).all()) and bool((keys < half).all()) and bool((values >= half).all())
        # Every key is asked for once, and all else is blank.
        assert torch.equal(after[after > 0].sort().values, keys.sort().values)


def test_questions_come_by_the_power_law() -> None:
    # With one pair the place is one draw: its shares are the law's.
    batch = drawn(RecallTask(24, (1,), vocabulary=32), count=1, each=20_000)
    place = (batch.at[0] % 24 - 2) // 2
    found = torch.bincount(place, minlength=11) / 20_000
    wanted = places_log_weight(11).exp()
    assert torch.allclose(found, wanted, atol=0.012)
    assert abs(float(wanted[0] / wanted[3]) - 4.0**0.99) < 1e-3


def test_keys_and_values_are_drawn_evenly() -> None:
    batch = drawn(RecallTask(24, (3,), vocabulary=32), count=1, each=20_000)
    counts = torch.bincount(batch.tokens[0, :, :6].flatten(), minlength=32).double()
    assert counts[0] == 0
    assert (
        float((counts[1:16] / 4000 - 1.0).abs().max()) < 0.06 and float((counts[16:] / 3750 - 1.0).abs().max()) < 0.06
    )


def test_the_seed_alone_decides_and_other_seeds_share_no_sequence() -> None:
    one, again, other = (drawn(SMALL, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    rows = [{tuple(row) for row in part.tokens[:, :, :4].flatten(0, 1).tolist()} for part in map(long, (1, 2))]
    assert not rows[0] & rows[1]
    assert not torch.equal(one.tokens, other.tokens)


def long(seed: int) -> Drawn:
    return drawn(RecallTask(64, (2,)), seed=seed)


def test_tasks_have_all_pairs_that_fit_and_refuse_the_others() -> None:
    assert [task.steps for task in tasks()] == list(LENGTHS)
    assert tasks()[0].pairs == (4, 8, 16) and tasks()[-1].pairs == PAIRS and tasks(most=8)[-1].pairs == (4, 8)
    assert SMALL.chance == 1 / 16
    for wrong, word in (
        ({"pairs": ()}, "at least one"), ({"pairs": (0,)}, "1 or more"), ({"pairs": (11,)}, "take 44 steps"),
        ({"vocabulary": 31}, "even"), ({"vocabulary": 10}, "more than 5 keys"),
    ):  # fmt: skip
        with pytest.raises(TrainingError, match=word):
            replace(SMALL, **wrong)


def test_cells_part_the_answers_by_the_number_of_pairs() -> None:
    batch = drawn(SMALL, count=2, each=3)
    rows = {n: part // SMALL.steps for n, part in cells_of(SMALL, 3, batch.at).items()}
    assert set(rows[2].flatten().tolist()) == {0, 1, 2} and set(rows[5].flatten().tolist()) == {3, 4, 5}
    assert rows[5].shape == (2, 15)


@pytest.mark.parametrize("steps", [1, 63, 64, 130])
@pytest.mark.parametrize("decays", [False, True])
def test_chunks_are_their_loops_with_all_gradients(steps: int, decays: bool) -> None:
    g = torch.Generator().manual_seed(steps)
    q, k, v = (torch.randn(2, steps, size, generator=g, dtype=torch.float64) for size in (6, 6, 5))
    k = k / k.norm(dim=-1, keepdim=True)
    beta = torch.rand(2, steps, generator=g, dtype=torch.float64)
    # Decays up to e^-4 a step: e^-256 over a chunk, whose inverse would overflow in a sum taken apart.
    decay = -4.0 * torch.rand(2, steps, generator=g, dtype=torch.float64) ** 4 if decays else None
    leaves = [part.requires_grad_() for part in (q, k, v, beta, decay) if part is not None]
    for fast, loop in (
        (linear_attention(q, k, v, decay), linear_attention_loop(q, k, v, decay)),
        (delta_rule(q, k, v, beta, decay), delta_rule_loop(q, k, v, beta, decay)),
    ):
        torch.testing.assert_close(fast, loop, rtol=0.0, atol=1e-12)
        found, wanted = (
            torch.autograd.grad(o.square().sum(), leaves, allow_unused=True, materialize_grads=True)
            for o in (fast, loop)
        )
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", MIXERS)
def test_mixers_are_what_their_loops_say(name: str) -> None:
    assert off_by(name, "cpu", "float32") < 2e-3
    assert off_by(name, "cpu", "bfloat16") < 1e-2


def test_a_wrong_mixer_is_far_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "linear", ((), lambda q, k, v, g: linear_attention(q, k.roll(1, 1), v)))
    assert off_by("linear", "cpu", "float32") > 0.5


@pytest.mark.gpu
@pytest.mark.parametrize("name", MIXERS)
def test_a_card_trains_by_graphs_as_by_plain_steps(name: str) -> None:
    assert off_by(name, "cuda", "bfloat16") < 0.05
    assert graph_off_by(name, "cuda", "bfloat16") < 0.05


def test_where_no_graph_can_be_captured_it_is_said() -> None:
    with pytest.raises(TrainingError, match="'linear' can be captured on cpu: "):
        graph_off_by("linear", "cpu", "float32", steps=8)


@pytest.mark.parametrize("name", MIXERS)
def test_mixers_train_under_autocast(name: str) -> None:
    recipe = RecallRecipe((SMALL,), 1e-2, 1, 2, tokens=400, precision="bfloat16")
    training = RecallTraining(recaller(name, 16, 32, 1), recipe, "cpu")
    assert training.advance()
    same = RecallTraining(recaller(name, 16, 32, 1), replace(recipe, precision="float32"), "cpu")
    assert same.advance()
    rough, fine = (torch.tensor(one.history()[0]) for one in (training, same))
    assert 0.0 < float((rough / fine - 1.0).abs().max()) < 0.01
    assert all(p.dtype == torch.float32 for p in training.net.parameters())


def test_a_delta_memory_holds_as_many_pairs_as_it_is_wide_and_a_linear_one_does_not() -> None:
    g = torch.Generator().manual_seed(0)
    k = torch.linalg.qr(torch.randn(8, 8, generator=g, dtype=torch.float64))[0][None]
    skewed = torch.nn.functional.normalize(k + 0.5 * k.roll(1, 1), dim=-1)
    v = torch.randn(1, 8, 8, generator=g, dtype=torch.float64)
    beta = torch.ones(1, 8, dtype=torch.float64)
    # Each pair is right just after it was written, whatever was written before; a sum of products is not.
    told = delta_rule(skewed, skewed, v, beta) * 8**0.5
    summed = linear_attention(skewed, skewed, v) * 8**0.5
    torch.testing.assert_close(told, v, rtol=0.0, atol=1e-12)
    assert float((summed - v).abs().max()) > 0.1


def test_attention_knows_positions_by_their_difference() -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 9, 4, generator=g, dtype=torch.float64) for _ in range(3))
    whole = softmax_attention(q, k, v)
    later = k.clone()
    later[:, 5:] += 1.0
    assert torch.equal(softmax_attention(q, later, v)[:, :5], whole[:, :5]) and whole.dtype == torch.float64
    moved = [torch.cat([torch.zeros_like(part[:, :3]), part], 1) for part in (q, k, v)]
    assert not torch.allclose(softmax_attention(*moved)[:, 3:], whole), "zeros are seen"
    same = torch.ones(1, 9, 4, dtype=torch.float64)
    weights = softmax_attention(same, same, torch.eye(9, dtype=torch.float64)[None])[0]
    assert float((weights.sum(-1) - 1.0).abs().max()) < 1e-12
    # At the last step keys differ by their age alone, and scores fall as they turn away.
    assert float(weights[8, 8]) > float(weights[8, 6])


def test_the_convolution_sees_four_steps_and_none_ahead() -> None:
    u = torch.zeros(1, 8, 2)
    u[0, 3] = 1.0
    taps = torch.tensor([[4.0, 40.0], [3.0, 30.0], [2.0, 20.0], [1.0, 10.0]])
    assert causal(u, taps)[0, :, 1].tolist() == [0, 0, 0, 10, 20, 30, 40, 0]


@pytest.mark.parametrize("name", MIXERS)
def test_networks_are_alike_causal_and_learn_everywhere(name: str) -> None:
    net, base = recaller(name, 32, 512, seed=1), recaller("linear", 32, 512, seed=1)
    assert 1.0 <= parameters(net) / parameters(base) < 1.02
    task = RecallTask(80, (4, 8), 512)
    tokens, at, answers = (part[0] for part in drawn(task, count=1, each=2))
    logits = net(tokens, at)
    torch.nn.functional.cross_entropy(logits, answers).backward()  # type: ignore[no-untyped-call]
    for label, p in net.named_parameters():
        assert p.grad is not None and bool(torch.isfinite(p.grad).all()), label
        assert bool((p.grad != 0).any()), label
    changed = tokens.clone()
    changed[:, 40:] = 7
    early = at[at % 80 < 40]
    torch.testing.assert_close(net(changed, early), net(tokens, early), rtol=1e-4, atol=1e-5)
    again = recaller(name, 32, 512, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_unknown_networks_and_recipes_are_refused() -> None:
    for act, word in (
        (lambda: recaller("mamba", 32, 64, 1), "mixer 'mamba'"), (lambda: recaller("gka", 3, 64, 1), "even number"),
        (lambda: RecallPlan(("mamba",)), "mixer 'mamba'"), (lambda: RecallPlan(seeds=()), "at least one"),
        (lambda: RecallRecipe((SMALL,), 1e-3, 1, 0), "1 or more"),
        (lambda: RecallRecipe((SMALL,), 1e-3, 1, 1, precision="float8"), "precision 'float8'"),
    ):  # fmt: skip
        with pytest.raises(TrainingError, match=word):
            act()


def test_lengths_take_turns_after_the_shortest_had_its_share() -> None:
    recipe = RecallRecipe(tuple(tasks()), 1e-3, 1, steps=100)
    turns = [recipe.turn(step) for step in range(100)]
    assert turns[:20] == [0] * 20 and turns[20:30] == [0, 1, 2, 3, 4] * 2
    sizes = [recipe.each(task) * len(task.pairs) * task.steps for task in recipe.tasks]
    assert all(6000 < size <= 8192 for size in sizes)


def test_a_training_finds_the_rule() -> None:
    """Below what one pays who knows which values a sequence has: the pairs themselves are recalled."""
    task = RecallTask(16, (2, 4), vocabulary=32)
    training = RecallTraining(
        recaller("delta", 16, 32, 1), RecallRecipe((task,), 1e-2, 1, 250, 1024, warm_up=20), "cpu"
    )
    while not training.advance():
        pass
    losses, scores = training.history()
    assert losses[0] > 0.8 * log(16) and sum(losses[-20:]) / 20 < 0.5 * log(2) and sum(scores[-20:]) / 20 > 0.9
    tested = training.evaluate(5, each=100, at_once=1600)
    assert set(tested) == {"16/2", "16/4"} and min(tested.values()) > 0.85
    assert float(training.lr) < 1e-5 and not training.captured


def test_the_seed_decides_a_test() -> None:
    training = RecallTraining(recaller("delta", 16, 32, 1), RecallRecipe((SMALL,), 1e-2, 1, 1), "cpu")
    one, again, other = (training.evaluate(seed, each=60, at_once=1 << 16) for seed in (5, 5, 6))
    assert one == again != other
    # Cut into passes it is another draw of as many sequences or more.
    assert set(training.evaluate(5, each=60, at_once=100)) == set(one) == {"40/2", "40/5"}


def jobs(plan: RecallPlan, records: list[dict[str, Any]]) -> list[tuple[str, int, str, float, int]]:
    return [(j.mixer, j.width, j.kind, j.lr, j.seed) for j in open_jobs(plan, records)]


def test_mixers_are_tuned_before_their_seeds_are_trained() -> None:
    plan = RecallPlan(("gka", "delta"), (8, 16, 4), (1e-3, 1e-2), (1, 2))
    assert [job[:4] for job in jobs(plan, [])] == [(m, 8, "tune", lr) for m in plan.mixers for lr in (1e-3, 1e-2)]
    scores = {1e-3: 0.5, 1e-2: 0.5}
    tuned = [{"key": job_key(RecallJob("delta", 8, "tune", lr, 100), plan), "score": s} for lr, s in scores.items()]
    assert best_rate("delta", plan, tuned[:1]) is None and best_rate("delta", plan, tuned) == 1e-3
    after = jobs(plan, tuned)
    assert after[2:] == [("delta", width, "final", 1e-3, seed) for seed in (1, 2) for width in (8, 16, 4)]
    tuned[0]["score"] = float("nan")
    assert best_rate("delta", plan, tuned) == 1e-2
    assert best_rate("delta", replace(plan, steps=5), tuned) is None, "trainings of another length decide nothing"
    tuned[0] = {"key": tuned[0]["key"], "error": "it died"}
    assert best_rate("delta", plan, tuned) is None and len(jobs(plan, tuned)) == 2


def test_a_plan_goes_on_where_its_file_ends(tmp_path: Path) -> None:
    path, said = tmp_path / "delta.jsonl", list[str]()
    records = run_plan(TINY, path, "cpu", seconds=60.0, facts={"device": "here"}, tell=said.append, slots=2)
    assert [(r["seed"], r["device"], set(r["cells"])) for r in records] == [(1, "here", {"16/4", "32/4", "32/8"})]
    assert said[-1].startswith("0 trainings") and "score" in said[0]
    more, text = replace(TINY, seeds=(1, 2)), path.read_text()
    run_plan(more, path, "cpu", seconds=0.0, facts={}, tell=said.append)
    assert path.read_text() == text and said[-1].startswith("1 trainings"), "no time, nothing begun"
    run_plan(more, path, "cpu", seconds=60.0, facts={}, tell=said.append)
    assert [r["seed"] for r in read_records(path)] == [1, 2]
    slow = [records[0] | {"seconds": 1e6}]
    run_plan(replace(TINY, seeds=(3,)), tmp_path / "b", "cpu", seconds=60.0, facts={}, tell=said.append, known=slow)
    assert not (tmp_path / "b").exists(), "what would not be done in time is not begun"


def test_a_training_that_fails_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, said = recall_grid.begin, list[str]()

    def broken(job: RecallJob, plan: RecallPlan, device: str) -> recall_grid.Running:
        if job.seed == 1:
            raise ValueError("no such kernel")
        return begin(job, plan, device)

    monkeypatch.setattr(recall_grid, "begin", broken)
    plan = replace(TINY, seeds=(1, 2))
    records = run_plan(plan, tmp_path / "r", "cpu", seconds=60.0, facts={}, tell=said.append)
    assert [r["seed"] for r in records] == [2] and "seed 1 FAILED: no such kernel" in said[0]
    monkeypatch.setattr(recall_grid, "begin", begin)
    assert len(run_plan(plan, tmp_path / "r", "cpu", seconds=60.0, facts={}, tell=said.append)) == 2


def results() -> list[dict[str, Any]]:
    """Records of one training really done, as others would have left them."""
    done = run_job(RecallJob("delta", 8, "final", 1e-2, 1), TINY, "cpu")
    json.dumps(done)
    done |= dict.fromkeys(("device", "versions", "commit", "date"), "x")
    cells = dict.fromkeys(done["cells"], 0.5)
    other = done | {"key": "b", "seed": 2, "cells": dict.fromkeys(cells, 1.0), "commit": "y"}
    tune = [done | {"key": f"t{lr}", "kind": "tune", "lr": lr, "score": s} for lr, s in ((1e-2, 0.9), (1e-3, 0.8))]
    return [done | {"cells": cells}, other, other, done | {"key": "old", "lr": 1e-3, "seed": 3}, *tune]


def test_the_table_says_mean_spread_and_how_it_was_trained(tmp_path: Path) -> None:
    records = results()
    rows = table(records)
    assert [(r["mixer"], r["width"], r["length"], r["pairs"]) for r in rows] == [
        ("delta", 8, 16, 4), ("delta", 8, 32, 4), ("delta", 8, 32, 8)
    ]  # fmt: skip
    first = rows[0]
    told = [first[name] for name in ("accuracy", "spread", "least", "largest")]
    assert told == ["0.7500", "0.3536", "0.5000", "1.0000"]
    assert (first["seeds"], first["lr"], first["lr_tried"], first["commit"]) == (2, 1e-2, "0.001 0.01", "x; y")
    assert (first["chance"], first["one_of_pairs"]) == ("0.062500", "0.2500")
    elsewhere = {**records[0], "key": "p", "plan": "another", "width": 16}
    assert len(table([*records, elsewhere])) == 6
    assert list(surfaces([*records, elsewhere])) == [("delta", 8)]
    (tmp_path / "in").mkdir()
    for record in records:
        append_record(tmp_path / "in" / "delta.jsonl", record)
    script.summarise(script.records_of(tmp_path / "in"), tmp_path, tmp_path)
    assert len((tmp_path / "recall.csv").read_text().splitlines()) == 4
    assert (tmp_path / "recall.svg").stat().st_size > 1000


def test_the_figure_has_a_panel_for_each_mixer_and_width(tmp_path: Path) -> None:
    surface = {(64, 4): 1.0, (64, 16): 0.25, (256, 64): 0.0}
    figure = recall_figure({("gka", 8): surface, ("gka", 32): surface, ("delta", 8): {(64, 4): 0.5}})
    panels = [axes for axes in figure.axes if axes.get_images()]
    assert len(panels) == 4
    assert [text.get_text() for text in panels[0].texts] == ["100", "25", "0"]
    assert len(panels[0].lines) == len(panels[2].lines) == 1, "the width lies among the numbers of pairs"
    save(figure, tmp_path, "recall")
    with pytest.raises(ValueError, match="no accuracies"):
        recall_figure({})


def test_the_benchmark_trains_every_mixer_once_and_none_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    families = [mixer for mixers in script.FAMILIES.values() for mixer in mixers]
    assert sorted(families) == sorted(MIXERS)
    script.check("cpu", "float32", ("linear",))
    monkeypatch.setitem(MIXERS, "linear", ((), lambda q, k, v, g: linear_attention(q, k, 2.0 * v)))
    with pytest.raises(SystemExit, match="not what their loops say: linear"):
        script.check("cpu", "float32", ("linear",))
