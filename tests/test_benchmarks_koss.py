"""The KOSS benchmarks: peers are right, what is wrong is not timed, floors and ratios, and the scripts run through."""

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from math import log
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import torch

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from ssrtrack.training.loop_recipe import Recipe

FOLDER = str(Path(__file__).parents[1] / "benchmarks")
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)

import koss_gpu  # noqa: E402
import koss_gpu_ahead  # noqa: E402
import koss_gpu_cases  # noqa: E402
import koss_gpu_check  # noqa: E402
import koss_gpu_clock  # noqa: E402
import koss_gpu_peers  # noqa: E402
import koss_gpu_sweep  # noqa: E402
import koss_gpu_table  # noqa: E402
import koss_gpu_ways  # noqa: E402
import train_koss_gpu  # noqa: E402
from koss_gpu_cases import Case, Ceilings  # noqa: E402

PLAIN = Case("plain", 2, 20, 3, 4, 1, channels=16, head=8, dtype="float32")
FOUND = Ceilings(1e12, 1e14, 1e12, "told", 100)
LATER = koss_gpu_clock.Deadline(1e12, 1e12)


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The small sizes smaller, since Python's loops over them are what takes the time, and on one thread."""
    threads = torch.get_num_threads()

    def little(size: Any) -> Any:
        return property(lambda case: replace(size.fget(case), batch=2, channels=case.head))

    monkeypatch.setattr(Case, "small", little(Case.small))
    monkeypatch.setattr(Case, "odd", little(Case.odd))
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("way", koss_gpu.PLAIN)
@pytest.mark.parametrize(("segment", "passes", "dtype"), [(1, 0, "float32"), (4, 1, "float32"), (5, 0, "bf16")])
def test_plain_ways_give_the_references_outputs_and_gradients(way: str, segment: int, passes: int, dtype: str) -> None:
    case = replace(PLAIN, segment=segment, passes=passes, dtype=dtype)
    call = koss_gpu_ways.way_of(case, way, "torch")
    found = koss_gpu_check.against_reference(case, way, call, "triton", "cpu")
    assert found.right, found.worst
    assert found.output < (1e-6 if dtype == "float32" else 4e-3)
    p = koss_gpu_ways.problem(case, call, "cpu", 3)
    assert koss_gpu_check.against_torch(case, way, p, "triton").right


def test_the_eager_peer_multiplies_in_bfloat16() -> None:
    case = replace(PLAIN, segment=4, dtype="bf16", head=64, channels=64)
    p = koss_gpu_ways.problem(case, koss_gpu_ways.way_of(case, "eager", "torch"), "cpu", 3)
    exact = koss_gpu_ways.call_of(case, "torch")(p.inputs)[1]
    error = koss_gpu_check.off_by(p.call(p.inputs)[1], exact)
    assert 1e-4 < error < 5e-3


def test_the_prefix_scan_is_the_recurrence() -> None:
    g = torch.Generator().manual_seed(1)
    a, u = (torch.rand((2, 7, 3, 4), generator=g, dtype=torch.float64) for _ in range(2))
    products, states = koss_gpu_peers.prefix_scan(a, u)
    h, product = torch.zeros(2, 3, 4, dtype=torch.float64), torch.ones(2, 3, 4, dtype=torch.float64)
    for t in range(7):
        h, product = a[:, t] * h + u[:, t], product * a[:, t]
        torch.testing.assert_close(states[:, t], h)
        torch.testing.assert_close(products[:, t], product)
    with pytest.raises(ValueError, match="discrete"):
        koss_gpu_peers.loop(koss_gpu_cases.drawn(PLAIN, "cpu", 1), LoopForm("kalman"))


@pytest.mark.parametrize("fault", ["output", "gradient", "unwritten"])
def test_what_is_wrong_gets_no_time(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = koss_gpu_ways.call_of(PLAIN, "torch")

    def wrong(inputs: LoopInputs) -> Any:
        # The detached tensors are exact, and their gradient is lost.
        inputs = inputs._replace(read=inputs.read.detach() + 0.0 * inputs.read) if fault == "gradient" else inputs
        y, final = right(inputs)
        factor = {"output": 1.01, "gradient": 1.0, "unwritten": float("nan")}[fault]
        return torch.cat([y[:, :-1], factor * y[:, -1:]], 1), final

    monkeypatch.setattr(koss_gpu, "way_of", lambda *_: wrong)
    (row,) = koss_gpu.case_rows(PLAIN, "fused", "torch", "cpu", 0.01, LATER)
    assert "wrong beyond the limits" in row["note"] and "ms_p50" not in row


def test_a_way_that_fails_leaves_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(koss_gpu, "way_of", lambda *_: fails)
    (row,) = koss_gpu.case_rows(PLAIN, "fused", "torch", "cpu", 0.01, LATER)
    assert row["note"] == "does not run: RuntimeError: no such kernel"


def test_floors_are_the_largest_of_three() -> None:
    case = Case("x", 3, 40, 2, 16, 1, channels=64, dtype="mixed")
    wide, tokens = 64 * (2 + 2 * 4) + 2 * 4, 3 * 40
    state, weights, y = 4 * 3 * 2 * 64, 4 * (2 * 64 * 64 + 64) + 4 * 2 * 64, 2 * tokens * 64
    assert koss_gpu_cases.bytes_moved(case, "forward") == tokens * wide + 2 * state + weights + y
    assert koss_gpu_cases.bytes_moved(case, "backward") == 2 * (tokens * wide + state + weights) + y + state
    assert koss_gpu_cases.mufu_count(case) == tokens * 64 * (2 + 6)
    # Three programs have their places at once: three segments of 820 + 700 cycles.
    assert koss_gpu_cases.chain_s(case, "forward", 100) == pytest.approx(3 * (820 + 700) / koss_gpu_cases.CLOCK_HZ)
    assert koss_gpu_cases.floor_ms(case, "forward", FOUND)[1] == "chain"
    assert koss_gpu_cases.floor_ms(case, "forward", replace(FOUND, copy_bytes_per_s=1.0))[1] == "memory"
    assert koss_gpu_cases.floor_ms(case, "backward", replace(FOUND, exps_per_s=1.0))[1] == "mufu"
    both = koss_gpu_cases.floor_ms(case, "forward+backward", FOUND)[0]
    assert both == pytest.approx(sum(koss_gpu_cases.floor_ms(case, d, FOUND)[0] for d in ("forward", "backward")))
    crowd = replace(case, batch=401)
    assert koss_gpu_cases.chain_s(crowd, "forward", 100) == 2 * koss_gpu_cases.chain_s(case, "forward", 100)


def test_targets_and_ratios_are_of_the_right_rows() -> None:
    case = replace(PLAIN, target_ms=(1.0, 2.0), target_times=(5.0, 50.0))
    base = koss_gpu_cases.columns_of(case) | {"of": case, "timing": "call", "under": FOUND}
    times = [
        base | {"way": way, "direction": direction} | koss_gpu_clock.time_columns([ms])
        for way, direction, ms in (
            ("fused", "forward", 0.5), ("fused", "forward+backward", 4.0), ("eager", "forward", 5.0),
            ("eager", "forward+backward", 40.0),
        )
    ]  # fmt: skip
    table = koss_gpu_table.finished([*times, base | {"way": "fused", "note": "does not run: why"}])
    assert [row["met"] for row in table] == ["yes", "no", "yes", "no", ""]
    assert [row["times_fused"] for row in table] == ["1", "1", "10", "10", ""]
    assert {tuple(row) for row in table} == {koss_gpu_table.COLUMNS}
    moved = koss_gpu_cases.bytes_moved(case, "forward")
    assert float(table[0]["percent_of_copy"]) == pytest.approx(100.0 * moved / 0.5e-3 / 1e12, rel=1e-2)
    shared = replace(case, target_ms=None, target_share=0.5, kind="gains")
    row = {"way": "fused", "direction": "forward"}
    expected = 2e3 * koss_gpu_cases.bytes_moved(shared, "forward") / 1e12
    assert koss_gpu_table.target_ms(shared, row, FOUND) == pytest.approx(expected)


def test_a_compiler_that_is_cut_off_is_told() -> None:
    figures = koss_gpu_clock.time_columns([1.0, 2.0, 3.0])
    done = {"compiling_s": 9.0, "error_y": "1e-3", "error_gradient": "1e-2", "times": {"forward, call": figures}}
    lines = [{"way": "a", "begun": 720}, {"way": "a", "done": done}, {"way": "b", "begun": 96}]
    text = "a warning\n" + "\n".join(json.dumps(line) for line in lines)
    one, two = koss_gpu.compiled_read(text, PLAIN, 60.0)
    assert (one["T"], one["direction"], one["timing"], one["ms_p50"]) == (720, "forward", "call", 2.0)
    assert (two["T"], two["note"]) == (96, "not done after 60 s")
    (nothing,) = koss_gpu.compiled_read("", PLAIN, 60.0)
    assert nothing["note"] == "nothing after 60 s"


def test_the_exponent_of_a_linear_sweep_is_one() -> None:
    row = {"axis": "T", "S": 1, "J": 0, "direction": "forward"}
    rows = [row | {"T": steps, "ms_p50": f"{steps * 1e-3}"} for steps in (96, *(4**k * 1536 for k in range(3)))]
    rows[0]["ms_p50"] = "5"  # a launch: below the fit
    assert koss_gpu_sweep.exponents(rows) == ["S 1 J 0, forward: time grows as T to the power of 1.000"]
    assert koss_gpu_sweep.slope([(log(t), 1.5 * log(t)) for t in (1.0, 2.0, 4.0)]) == pytest.approx(1.5)


def test_the_script_runs_through(tmp_path: Path) -> None:
    output = tmp_path / "koss_gpu.csv"
    options = ["--device", "cpu", "--tiny", "--only", "batch", "", "--output", str(output)]
    assert koss_gpu.main(options) == 0
    rows = rows_in(output)
    assert {row["way"] for row in rows} == {*koss_gpu.OURS, *koss_gpu.PLAIN}
    assert all(row["commit"] and "torch" in row["versions"] and row["copy_bytes_per_s"] for row in rows)
    timed = [row for row in rows if row["ms_p50"]]
    assert {row["direction"] for row in timed} == set(koss_gpu_cases.DIRECTIONS)
    assert not [row["note"] for row in rows if "wrong" in row["note"]]
    swept = rows_in(tmp_path / "koss_gpu_sweep.csv")
    fitted = [row["note"] for row in swept if row["axis"] == "over T"]
    swept = [row for row in swept if row["axis"] != "over T"]
    assert {row["axis"] for row in swept} == {"T", "S and J"} and all(row["ns_per_token_channel"] for row in swept)
    assert fitted == []  # nothing to fit at so few steps, and no peak on a CPU


def test_a_run_goes_on_where_the_file_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSRTRACK_COMMIT", "abc1234")
    output, sweep = tmp_path / "koss_gpu.csv", tmp_path / "koss_gpu_sweep.csv"
    options = ["--device", "cpu", "--tiny", "--output", str(output), "--only", "step by step"]
    assert koss_gpu.main([*options, "fused"]) == 0
    before, swept = rows_in(output), rows_in(sweep)
    # One direction is missing: the case was not done.
    sweep.write_text("\n".join(sweep.read_text().splitlines()[:-1]) + "\n")
    assert koss_gpu.main([*options, "", "--resume"]) == 0
    after = rows_in(output)
    ways = [row["way"] for row in after]
    assert ways == sorted(ways, key=("fused", "eager", koss_gpu.PLAIN[1], "selective scan").index) and len(ways) > 6
    assert [row["ms_p50"] for row in after[: len(before)]] == [row["ms_p50"] for row in before]
    assert all(float(row["times_fused"]) > 0.0 for row in after if row["way"] == "eager")
    again = rows_in(sweep)
    assert len(again) == len(swept) and [row["ms_p50"] for row in again[:4]] == [row["ms_p50"] for row in swept[:4]]
    for commit in ("abc1234+", "fffffff"):
        monkeypatch.setenv("SSRTRACK_COMMIT", commit)
        assert koss_gpu_table.of_this_run(output, koss_gpu.ceiling_columns(FOUND, "cpu")) == []


def test_what_takes_too_long_to_compile_is_named_and_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    python = [sys.executable, "-S", "-c"]
    jobs = [
        koss_gpu_ahead.Job("quick", "a quick one", [*python, "pass"]),
        koss_gpu_ahead.Job("slow", "a slow one", [*python, "import time; time.sleep(60)"]),
        koss_gpu_ahead.Job("wrong", "a wrong one", [*python, "raise ValueError('no kernel')"]),
    ]
    faults = koss_gpu_ahead.compiled(jobs, 3, 1.5, perf_counter() + 60.0)
    assert faults == {"slow": "ended after 2 s", "wrong": "ValueError: no kernel"}
    said = capsys.readouterr().out
    assert "a slow one: NOT compiled, ended after 2 s" in said and "compiled 1 of 3 in" in said
    assert koss_gpu_ahead.compiled(jobs[:1], 1, 1.5, perf_counter()) == {"quick": "no time was left"}
    args = koss_gpu.arguments(["--device", "cpu", "--backend", "torch"])
    run = koss_gpu.Run(args, LATER, [(PLAIN, "fused", 0.1)])
    run.faults[PLAIN, "fused"] = "ended after 2 s"
    assert [row["note"] for row in run._timed(PLAIN, "fused", 0.1)] == ["not compiled: ended after 2 s"]


def test_a_run_that_is_out_of_time_says_what_it_left_out(tmp_path: Path) -> None:
    output = tmp_path / "koss_gpu.csv"
    options = ["--device", "cpu", "--tiny", "--only", "small batch", "fused", "--seconds", "0", "--output", str(output)]
    assert koss_gpu.main(options) == 0
    assert {row["note"] for row in rows_in(output)} == {"left out: 0 s were over"}
    assert {row["note"] for row in rows_in(tmp_path / "koss_gpu_sweep.csv")} == {"left out: 0 s were over"}


def test_every_case_and_form_is_compiled_ahead() -> None:
    kernels = koss_gpu.kernels_of(koss_gpu.plan(quick=False), swept=True)
    swept = [case for _, case in koss_gpu_sweep.cases(False, False)]
    found = {case for case, _ in kernels if case.name == "sweep"}
    assert found == {koss_gpu_sweep.class_of(case) for case in swept} and len(found) == 6
    assert {case.form for case in found} == {case.form for case in swept}
    assert {(case.name, way) for case, way in kernels} >= {
        (case.name, way) for case, way, _ in koss_gpu.plan(quick=True) if way in koss_gpu.OURS
    }
    place = str(next(k for k, (case, _) in enumerate(kernels) if case.name == "small batch"))
    options = ["--device", "cpu", "--tiny", "--no-sweep", "--compile-only"]
    assert koss_gpu.main([*options, place]) == 0


def test_the_table_comes_first_and_plain_torch_at_its_sizes_last() -> None:
    first, second, late = koss_gpu.groups(koss_gpu.plan(quick=False))
    assert [it[:2] for it in first[:5]] == [(case, "fused") for case in koss_gpu_cases.TABLE]
    small = [way for case, way, _ in first if case.name == "small batch"]
    assert small == ["fused", "eager", koss_gpu_table.COMPILED, koss_gpu.PLAIN[1], "selective scan"]
    assert [it[0] for it in second if it[1] == "fused"] == list(koss_gpu_cases.ALSO)
    assert {it[1] for it in late} == set(koss_gpu.PLAIN)
    assert len(first) + len(second) + len(late) == len(koss_gpu.plan(quick=False))


@pytest.mark.parametrize("case", [*koss_gpu_cases.TABLE, *koss_gpu_cases.BESIDE, *koss_gpu_cases.ALSO])
def test_small_sizes_are_of_the_class_that_the_timed_size_is_compiled_for(case: Case) -> None:
    sizes = [case, case if case.kind != "loop" else case.small]
    strides = [[n % 16 for n in (s.steps * s.channels, s.steps * s.states, s.states)] for s in sizes]
    assert strides[0] == strides[-1]
    assert len(case.checks) == (2 if case.segment == 1 and case.kind == "loop" else 1)


def test_the_training_script_runs_through(tmp_path: Path) -> None:
    output = tmp_path / "train.csv"
    options = ["--device", "cpu", "--size", "tiny", "--steps", "2", "--batch", "2", "--output", str(output)]
    assert train_koss_gpu.main(options) == 0
    rows = rows_in(output)
    assert [row["way"] for row in rows] == [*(way.name for way in train_koss_gpu.WAYS), train_koss_gpu.WAYS[0].name]
    assert all(float(row["loss_off"]) < 1e-5 and float(row["gradient_off"]) < 1e-4 for row in rows)
    assert len({row["loss_last"] for row in rows[:4]}) == 1 and rows[4]["loss_last"] != rows[0]["loss_last"]
    assert all(float(row[f"ms_{part.replace(' ', '_')}"]) > 0.0 for row in rows for part in train_koss_gpu.PARTS)
    assert rows[3]["times_torch"] == "1"


def test_a_training_whose_gradient_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = iter([(1.0, torch.ones(3)), (1.0, torch.tensor([1.0, 1.0, 1.1])), (1.1, torch.ones(3))])
    monkeypatch.setattr(train_koss_gpu, "gradient_of", lambda *_: next(gradients))
    monkeypatch.setattr(train_koss_gpu, "trained", lambda *_: {"steps_per_s": "1"})
    setup = train_koss_gpu.Setup(Recipe(steps=1), *[None] * 5)  # type: ignore[list-item]
    kept: list[int] = []
    ways = [(way, 1) for way in train_koss_gpu.WAYS[:2]]
    rows = train_koss_gpu.rows_of(setup, ways, lambda done: kept.append(len(done)))
    assert kept == [1, 2]
    assert all("wrong" in row["note"] and "steps_per_s" not in row for row in rows)
