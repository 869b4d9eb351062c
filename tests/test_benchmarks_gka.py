"""The Gated KalmaNet benchmark: floors, ratios, what is wrong is not timed, peers in processes of their own."""

import csv
import io
import json
import sys
from collections.abc import Generator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

FOLDER = str(Path(__file__).parents[1] / "benchmarks")
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)

import gka_gpu  # noqa: E402
import gka_gpu_beside  # noqa: E402
import gka_gpu_cases  # noqa: E402
import gka_gpu_check  # noqa: E402
import gka_gpu_kernels  # noqa: E402
import gka_gpu_peers  # noqa: E402
import gka_gpu_sweep  # noqa: E402
import gka_gpu_table  # noqa: E402
import gka_gpu_ways  # noqa: E402
from gka_gpu_cases import TABLE, Case, Cost  # noqa: E402
from koss_gpu_cases import Ceilings  # noqa: E402
from koss_gpu_clock import Deadline, time_columns  # noqa: E402

Tensor = torch.Tensor
SMALL = Case("small", 2, 70, 2, 16, 30, (1.0, 2.0))
FOUND = Ceilings(1e12, 1e14, 1e12, "told", 100)
LATER = Deadline(1e12, 1e12)
# A package that is called as flash-linear-attention is, on any device.
FAKE = """
import torch
def chunk_mesa_net(q, k, v, g, beta, lamb, max_CG_iteration):
    assert lamb.shape == q.shape[2:] and g.shape == beta.shape == q.shape[:3] and max_CG_iteration == 30
    return (q * k + v) * (lamb + g.exp()[..., None] * beta[..., None]).to(v), None, None
def chunk_gated_delta_rule(q, k, v, g, beta):
    if VERSION == "0.6.0":
        raise RuntimeError("not on this card")
    return q * k * v * (g + beta)[..., None].to(v), None
def chunk_simple_gla(q, k, v, g):
    return q * k * v * g[..., None].to(v) / 0.0, None
"""


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def installed(folder: Path, version: str) -> Path:
    """The folder with such a package in it."""
    for name in ("mesa_net", "gated_delta_rule", "simple_gla"):
        (folder / "fla" / "ops").mkdir(parents=True, exist_ok=True)
        (folder / "fla" / "ops" / f"{name}.py").write_text(f"VERSION = {version!r}\n{FAKE}")
    (folder / "fla" / "__init__.py").write_text(f"__version__ = {version!r}\n")
    return folder


def problem(case: Case = SMALL) -> gka_gpu_ways.Problem:
    return gka_gpu_ways.problem(case, gka_gpu_ways.ours("torch"), "cpu", 1)


def test_the_operator_is_right_and_its_error_is_rounding() -> None:
    for case in (SMALL, replace(SMALL, rounds=10)):
        found = gka_gpu_check.checked(problem(case), case)
        assert found.right and 1e-4 < found.output < 4e-3 and found.gradient > 1e-4


@pytest.mark.parametrize("fault", ["output", "gradient", "unwritten", "one head"])
def test_what_is_wrong_gets_no_time(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(leaves: tuple[Tensor, ...], go: Tensor, case: Case) -> gka_gpu_ways.Problem:
        right = gka_gpu_ways.ours("torch")(leaves, go, case)

        def call(q: Tensor, k: Tensor, *others: Tensor) -> Tensor:
            # The detached keys are exact, and their gradient is lost.
            o = right.call(q, k.detach() + 0.0 * k if fault == "gradient" else k, *others)
            factor = torch.ones_like(o)
            factor[:, -1] = {"output": 2.0, "unwritten": float("nan")}.get(fault, 1.0)
            factor[-1, :, -1] *= 1.1 if fault == "one head" else 1.0
            return o * factor

        return replace(right, call=call)

    monkeypatch.setattr(gka_gpu, "ours", lambda backend: wrong)
    args = gka_gpu.arguments(["--device", "cpu", "--backend", "torch", "--budget", "0.01"])
    (row,) = gka_gpu.own_rows(SMALL, args, LATER)
    assert "wrong beyond the limits" in row["note"] and "ms_p50" not in row


def test_floors_are_the_kernels_larger_of_products_and_bytes() -> None:
    case = TABLE[0]
    table = gka_gpu_cases.costs(case)
    D, C = 128, 64
    assert table["forward"]["solve"].flop == pytest.approx(31 * (2 * D * D + 4 * C * D) + 2 * D * D + 2 * C * D)
    assert table["forward"]["states"].bytes == 2 * 2 * D + 2 * 2 * D * D / C + 4
    total = gka_gpu_table.cost_of(case, "forward", "")
    assert total is not None and 2.1e6 < total.flop < 2.2e6  # design: 2.15 M operations a token and head
    slow = Ceilings(1.0, 1e14, 1e12, "told", 100)
    assert gka_gpu_cases.floor_ms(case, "forward", slow)[1] == "memory"
    assert gka_gpu_cases.floor_ms(case, "forward", FOUND)[1] == "products"
    # 131,072 tokens and heads at the rates of an H100.
    card = Ceilings(3.0e12, 798e12, 1e12, "told", 132)
    assert gka_gpu_cases.floor_ms(case, "forward", card)[0] == pytest.approx(0.41, abs=0.02)
    parts = [gka_gpu_cases.floor_of(case, cost, card)[0] for cost in table["backward"].values()]
    both, forward = (gka_gpu_cases.floor_ms(case, name, card)[0] for name in ("forward+backward", "forward"))
    assert forward + sum(parts) <= both <= 1.01 * (forward + sum(parts))
    assert gka_gpu_cases.floor_of(case, Cost(0.0, 1e3), FOUND) == (pytest.approx(131_072e-6), "memory")


def test_every_kernel_has_its_floor() -> None:
    kernels = pytest.importorskip("ssrtrack.kernels.gka_triton")
    named = {name.removesuffix("_kernel") for name in vars(kernels) if name.endswith("_kernel")}
    tables = [gka_gpu_cases.costs(replace(SMALL, width=width)) for width in (64, 128)]
    assert named and named == {kernel for table in tables for part in table.values() for kernel in part}


def test_targets_and_ratios_are_of_the_right_rows() -> None:
    base = gka_gpu_cases.columns_of(SMALL) | {"of": SMALL, "under": FOUND, "timing": "call"}
    given = (
        ("gka", "forward", 0.5), ("gka", "forward+backward", 4.0), ("chunk_mesa_net 0.4.0", "forward", 1.5),
        ("gka, beside 0.4.0", "forward", 0.55),
    )  # fmt: skip
    rows = [base | {"way": way, "direction": name} | time_columns([ms]) for way, name, ms in given]
    solve = base | {"way": "gka", "direction": "backward", "kernel": "adjoint", "timing": "kernel"}
    table = gka_gpu_table.finished([*rows, solve | time_columns([0.2]), base | {"way": "x", "note": "does not run"}])
    assert [row["met"] for row in table] == ["yes", "no", "", "yes", "", ""]
    assert [row["times_gka"] for row in table] == ["1", "1", "3", "1.1", "", ""]
    cost = gka_gpu_cases.costs(SMALL)["backward"]["adjoint"]
    share = 100.0 * cost.flop * SMALL.token_heads / 0.2e-3 / 1e14
    assert float(table[4]["percent_of_product"]) == pytest.approx(share, rel=1e-2)
    assert {tuple(row) for row in table} == {gka_gpu_table.COLUMNS}
    (row,) = gka_gpu_table.finished([base | {"way": "gka", "peak_bytes": 130.0, "needed_bytes": 100}])
    assert row["peak_over_needed"] == "1.300"


def test_a_kernels_time_is_that_of_all_its_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, launched = iter(range(100)), []

    class Event:
        def __init__(self, **_: Any) -> None:
            self.at = 0

        def record(self) -> None:
            self.at = next(clock)

        def elapsed_time(self, last: "Event") -> float:
            return float(last.at - self.at)

    class Kernel:
        arg_names = ("q", "C")

        def __getitem__(self, grid: Any) -> Any:
            return lambda *given, **options: launched.append((grid, given, options))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    kernels = SimpleNamespace(solve_kernel=Kernel(), states_kernel=Kernel(), forward=None)
    plain, log = dict(vars(kernels)), []
    with gka_gpu_kernels.timed(kernels, log):
        kernels.solve_kernel[(1, 2)](3, C=4)
        kernels.states_kernel[5]()
        assert kernels.solve_kernel.arg_names == ("q", "C")
        kernels.solve_kernel[(1, 2)]()
    assert vars(kernels) == plain
    assert launched == [((1, 2), (3,), {"C": 4}), (5, (), {}), ((1, 2), (), {})]
    assert gka_gpu_kernels._sums({"forward": log}) == {("forward", "solve"): 2.0, ("forward", "states"): 1.0}


def here(command: list[str], box_s: float) -> Generator[str, None, str]:
    """What the peers' process would print, without one."""
    path, told = list(sys.path), io.StringIO()
    try:
        with redirect_stdout(told):
            gka_gpu_peers.main(command[2:])
    finally:
        sys.path[:] = path
        for name in [name for name in sys.modules if name.split(".")[0] == "fla"]:
            del sys.modules[name]
    yield from told.getvalue().splitlines()
    return ""


def test_the_script_runs_through_with_its_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One refuses, and one whose output is no number says so."""
    monkeypatch.setattr(gka_gpu_beside, "printed", here)
    monkeypatch.setenv("FLA_CACHE_RESULTS", "")
    sites = [str(installed(tmp_path / version, version)) for version in gka_gpu.VERSIONS]
    output = tmp_path / "gka_gpu.csv"
    options = ["--device", "cpu", "--tiny", "--only", "D 64, 30", "--budget", "0.01", "--output", str(output)]
    assert gka_gpu.main([*options, "--peers", *sites]) == 0
    rows = rows_in(output)
    assert all(row["commit"] and "torch" in row["versions"] and row["copy_bytes_per_s"] for row in rows)
    by_way = {way: [row for row in rows if row["way"] == way] for way in dict.fromkeys(row["way"] for row in rows)}
    mesa = [f"chunk_mesa_net {version}" for version in gka_gpu.VERSIONS]
    assert {"gka", gka_gpu_ways.ATTENTION, *mesa, "gka, beside 0.4.0", "gka, beside 0.6.0"} <= set(by_way)
    assert all(float(row["times_gka"]) > 0.0 and row["note"] == "" for way in mesa for row in by_way[way])
    refused = by_way["chunk_gated_delta_rule 0.6.0"]
    assert [row["direction"] for row in refused] == list(gka_gpu_cases.DIRECTIONS)
    assert {row["note"] for row in refused} == {"does not run: RuntimeError: not on this card"}
    order = ["gka", mesa[0], mesa[1], gka_gpu_ways.ATTENTION, "chunk_gated_delta_rule 0.4.0", "chunk_simple_gla 0.4.0"]
    assert [way for way in by_way if not way.startswith("gka,")] == [*order, "chunk_gated_delta_rule 0.6.0"]
    told = {row["note"] for row in by_way["chunk_simple_gla 0.4.0"]}
    assert told == {"the output and a gradient not finite"}
    assert [row["direction"] for row in by_way["gka"][:2]] == list(gka_gpu_cases.DIRECTIONS)
    swept = rows_in(tmp_path / "gka_gpu_sweep.csv")
    assert {row["axis"] for row in swept} == {gka_gpu_sweep.EIGHT, gka_gpu_sweep.ONLINE, "over T"}
    assert not [row["note"] for row in swept if "wrong" in row["note"] or "does not" in row["note"]]


def test_peers_that_are_missing_or_others_say_so(tmp_path: Path) -> None:
    args = gka_gpu.arguments(["--device", "cpu", "--backend", "torch", "--tiny"])
    nowhere = gka_gpu_beside.Peer(0, "0.4.0", ("chunk_mesa_net",), None)
    (row,) = gka_gpu_beside.peer_rows(nowhere, TABLE[:1], args, LATER)
    assert row["note"] == "not installed: --peers names no folder of it"
    other = nowhere._replace(site=installed(tmp_path, "0.5.0"))
    (row,) = gka_gpu_beside.peer_rows(other, TABLE[:1], args, LATER)
    assert row["note"].endswith("has flash-linear-attention 0.5.0, expected 0.4.0")
    (row,) = gka_gpu_beside.peer_rows(other, TABLE[:1], args, Deadline(0.0, 5.0))
    assert row["note"] == "left out: 5 s were over"


def test_peers_are_timed_in_a_process_of_their_own(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--backend", "torch", "--tiny", "--budget", "0.01"]
    peer = gka_gpu_beside.Peer(0, "0.4.0", ("chunk_mesa_net",), installed(tmp_path, "0.4.0"))
    rows = list(gka_gpu_beside.peer_rows(peer, TABLE[1:2], gka_gpu.arguments(options), LATER))
    told = [(row["way"], row["direction"], row["D"]) for row in rows]
    directions = gka_gpu_cases.DIRECTIONS
    expected = [("gka, beside 0.4.0", directions[0], 64), *(("chunk_mesa_net 0.4.0", name, 64) for name in directions)]
    assert told == expected and all(row["ms_p50"] > 0.0 for row in rows)


ROW = json.dumps({"case": TABLE[1].name, "way": "a", "ms_p50": 1.0})


@pytest.mark.parametrize(
    ("ending", "box_s", "note"),
    [
        ("raise SystemExit('an illegal address')", 20.0, "not whole: an illegal address"),
        ("import time; time.sleep(30)", 1.0, "not whole: ended after 1 s"),
        ("", 20.0, None),
    ],
)
def test_what_a_peer_has_told_is_kept_however_it_ends(
    ending: str, box_s: float, note: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it ends within a line, after a warning and rows of a size that was not asked for."""
    lines = ["a warning", ROW, 'no {"row"}', "3", json.dumps({"case": "unknown"}), json.dumps({"way": "b"})]
    code = f"print({chr(10).join(lines)!r}); print({ROW[:25]!r}, end='', flush=True); {ending}"
    monkeypatch.setattr(gka_gpu_beside.Peer, "command", lambda *_: [sys.executable, "-c", code])
    args = gka_gpu.arguments(["--device", "cpu", "--peer-box", str(box_s)])
    peer = gka_gpu_beside.Peer(0, "0.4.0", ("chunk_mesa_net", "chunk_simple_gla"), Path("there"))
    told, *others = gka_gpu_beside.peer_rows(peer, TABLE, args, LATER)
    assert (told["D"], told["of"], told["ms_p50"]) == (64, TABLE[1], 1.0)
    assert [row["note"] for row in others] == ([] if note is None else [note])
    assert all(row["way"] == "chunk_mesa_net 0.4.0, chunk_simple_gla 0.4.0" for row in others)


def test_operators_can_be_asked_for_one_by_one() -> None:
    sites = [Path("a"), Path("b")]
    found = gka_gpu_beside.peers_of(sites, ["chunk_simple_gla"])
    assert [(peer.version, peer.ways, peer.site) for peer in found] == [("0.4.0", ("chunk_simple_gla",), Path("a"))]
    everything = [way for peer in gka_gpu_beside.peers_of(None, None) for way in peer.ways]
    assert set(everything) == set(gka_gpu_ways.FLA)


def test_all_that_is_timed_is_compiled_ahead() -> None:
    args = gka_gpu.arguments(["--backend", "triton"])
    sizes = {(case.heads, case.width) for case in gka_gpu.kernels_of()}
    assert {(case.heads, case.width) for case in TABLE} <= sizes and (1, 128) in sizes
    there = gka_gpu_beside.Peer(0, "0.4.0", ("a", "b"), Path("there"))
    peers = [there, gka_gpu_beside.Peer(1, "0.6.0", ("a",), None)]
    jobs = gka_gpu.jobs_of(TABLE, peers, args)
    assert len(jobs) == 2 * sum(case.peers for case in TABLE) + len(sizes)
    assert all("--compile-only" in job.command for job in jobs)
    assert gka_gpu.main(["--device", "cpu", "--backend", "torch", "--compile-only", "0"]) == 0


def test_a_run_that_is_out_of_time_says_what_it_left_out(tmp_path: Path) -> None:
    output = tmp_path / "gka_gpu.csv"
    options = ["--device", "cpu", "--tiny", "--only", "D 64, 10", "--seconds", "0", "--output", str(output)]
    assert gka_gpu.main(options) == 0
    assert {row["note"] for row in rows_in(output)} == {"left out: 0 s were over"}
    assert {row["note"] for row in rows_in(tmp_path / "gka_gpu_sweep.csv")} == {"left out: 0 s were over"}


def test_linear_cost_is_the_first_power_of_t() -> None:
    row = {"axis": gka_gpu_sweep.EIGHT, "direction": "forward", "ms_p50": "2", "peak_bytes_per_token_head": "2000"}
    (line,) = gka_gpu_sweep.grown([row | {"T": 1024}, row | {"T": 4096, "peak_bytes_per_token_head": "2100"}])
    assert line.endswith("T to the power of 1.000; 2000 to 2100 bytes a token and head at the peak")
    sweeps = list(gka_gpu_sweep.lengths(tiny=False))
    assert {case.batch * case.steps for axis, case in sweeps if axis == gka_gpu_sweep.EIGHT} == {131_072}
    assert {case.token_heads for axis, case in sweeps if axis == gka_gpu_sweep.SHARED} == {131_072}
    assert {case.batch * case.heads for case in gka_gpu_sweep.online(False)} == set(gka_gpu_sweep.AT_ONCE)
    order = gka_gpu_sweep.ordered(tiny=False)
    assert len(order) == len(set(order)) == len(sweeps) + len(list(gka_gpu_sweep.online(False)))
    assert [case.steps for _, case in order[:4]] == [131_072, 131_072, 65_536, 65_536]
    short = order[6 + 2 * len(gka_gpu_sweep.AT_ONCE) :]
    assert {axis for axis, _ in order[6 : -len(short)]} == {gka_gpu_sweep.ONLINE}
    assert max(case.steps for _, case in short) < gka_gpu_sweep.LONG


def test_peers_are_tuned_in_little_time_and_compiled_without_being_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    testing = pytest.importorskip("triton.testing")
    calls: list[Any] = []
    for only, given in ((False, (5, gka_gpu_peers.TUNED_MS, (0.5, 0.2))), (True, "run")):
        calls.clear()
        monkeypatch.setattr(
            testing, "do_bench", lambda work, warmup, rep, quantiles: calls.append((warmup, rep, quantiles))
        )
        gka_gpu_peers.tuned_by(only)
        found = testing.do_bench(lambda: calls.append("run"), quantiles=(0.5, 0.2))
        assert calls == [given]
        assert found == ([1.0, 1.0] if only else None)


def test_each_size_is_tuned_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    autotuner = pytest.importorskip("triton.runtime.autotuner")

    class Tuner:
        def __init__(self, name: str, *, key: int) -> None:
            self.cache = {name: key}

    monkeypatch.setattr(autotuner, "Autotuner", Tuner)
    earlier = Tuner("a", key=1)
    made = gka_gpu_peers.tuners()
    assert made == []
    later = [Tuner("b", key=2), Tuner("c", key=3)]
    assert made == later and earlier not in made
    assert later[1].cache == {"c": 3}
