"""The KOSS benchmarks: peers are right, what is wrong is not timed, floors and ratios, and the scripts run through."""

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from ssrtrack.training.loop_recipe import Recipe

FOLDER = str(Path(__file__).parents[1] / "benchmarks")
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)

import koss_gpu  # noqa: E402
import koss_gpu_cases  # noqa: E402
import koss_gpu_check  # noqa: E402
import koss_gpu_clock  # noqa: E402
import koss_gpu_peers  # noqa: E402
import koss_gpu_sweep  # noqa: E402
import koss_gpu_ways  # noqa: E402
import train_koss_gpu  # noqa: E402
from koss_gpu_cases import Case, Ceilings  # noqa: E402

PLAIN = Case("plain", 2, 20, 3, 4, 1, channels=16, head=8, dtype="float32")
FOUND = Ceilings(1e12, 1e14, 1e12, "told", 100)


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The small sizes smaller, since Python's loops over them are what takes the time, and on one thread."""
    small, threads = Case.small, torch.get_num_threads()
    fewer = property(lambda case: replace(small.fget(case), batch=2, channels=case.head))
    monkeypatch.setattr(Case, "small", fewer)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("way", koss_gpu.PLAIN)
@pytest.mark.parametrize(("segment", "passes", "dtype"), [(1, 0, "float32"), (4, 1, "float32"), (5, 0, "bf16")])
def test_plain_ways_give_the_references_outputs_and_gradients(way: str, segment: int, passes: int, dtype: str) -> None:
    # In bf16 one hidden unit on the other side of its ReLU must not be much of all.
    head = 64 if dtype == "bf16" else PLAIN.head
    case = replace(PLAIN, segment=segment, passes=passes, dtype=dtype, channels=head, head=head)
    call = koss_gpu_ways.way_of(case, way, "torch")
    found = koss_gpu_check.against_reference(case, call, "cpu")
    assert found.right, found.worst
    assert found.output < (1e-6 if dtype == "float32" else 3e-3)
    assert koss_gpu_check.against_torch(case, koss_gpu_ways.problem(case, call, "cpu", 3)).right


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
    (row,) = koss_gpu.case_rows(PLAIN, "fused", "torch", "cpu", 0.01)
    assert "wrong beyond the limits" in row["note"] and "ms_p50" not in row


def test_a_way_that_fails_leaves_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(koss_gpu, "way_of", lambda *_: fails)
    (row,) = koss_gpu.case_rows(PLAIN, "fused", "torch", "cpu", 0.01)
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
    base = koss_gpu_cases.columns_of(case) | {"of": case, "timing": "call"}
    times = [
        base | {"way": way, "direction": direction} | koss_gpu_clock.time_columns([ms])
        for way, direction, ms in (
            ("fused", "forward", 0.5), ("fused", "forward+backward", 4.0), ("eager", "forward", 5.0),
            ("eager", "forward+backward", 40.0),
        )
    ]  # fmt: skip
    table = koss_gpu.finished([*times, base | {"way": "fused", "note": "does not run: why"}], FOUND)
    assert [row["met"] for row in table] == ["yes", "no", "yes", "no", ""]
    assert [row["times_fused"] for row in table] == ["1", "1", "10", "10", ""]
    assert {tuple(row) for row in table} == {koss_gpu.COLUMNS}
    moved = koss_gpu_cases.bytes_moved(case, "forward")
    assert float(table[0]["percent_of_copy"]) == pytest.approx(100.0 * moved / 0.5e-3 / 1e12, rel=1e-2)
    shared = replace(case, target_ms=None, target_share=0.5, kind="gains")
    row = {"way": "fused", "direction": "forward"}
    expected = 2e3 * koss_gpu_cases.bytes_moved(shared, "forward") / 1e12
    assert koss_gpu.target_ms(shared, row, FOUND) == pytest.approx(expected)


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
    assert {row["axis"] for row in swept} == {"T", "S and J"} and all(row["ns_per_token_channel"] for row in swept)


def test_a_run_that_is_out_of_time_says_what_it_left_out(tmp_path: Path) -> None:
    output = tmp_path / "koss_gpu.csv"
    options = ["--device", "cpu", "--tiny", "--only", "small batch", "fused", "--seconds", "0", "--output", str(output)]
    assert koss_gpu.main(options) == 0
    assert {row["note"] for row in rows_in(output)} == {"left out: 0 s were over"}
    assert {row["note"] for row in rows_in(tmp_path / "koss_gpu_sweep.csv")} == {"left out: the time was over"}


def test_every_case_and_form_is_compiled_ahead() -> None:
    kernels = koss_gpu.kernels_of(koss_gpu.plan(quick=False), swept=True)
    swept = {case.form for _, case in koss_gpu_sweep.cases(False, False)}
    assert {case.form for case, _ in kernels if case.name == "sweep"} == swept and len(swept) == 4
    assert {(case.name, way) for case, way in kernels} >= {
        (case.name, way) for case, way, _ in koss_gpu.plan(quick=True) if way in koss_gpu.OURS
    }
    place = str(next(k for k, (case, _) in enumerate(kernels) if case.name == "small batch"))
    options = ["--device", "cpu", "--tiny", "--no-sweep", "--compile-only"]
    assert koss_gpu.main([*options, place]) == 0


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
    rows = train_koss_gpu.rows_of(setup, [(way, 1) for way in train_koss_gpu.WAYS[:2]])
    assert all("wrong" in row["note"] and "steps_per_s" not in row for row in rows)
