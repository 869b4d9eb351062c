"""Scans with given gains: every backend against the float64 loops of the reference, forward, final state, gradients."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from ssrtrack.kernels import koss_scan as scans
from ssrtrack.kernels.koss_scan import koss_scan, selective_scan
from ssrtrack.kernels.koss_scan_form import SHORTEST_CHUNK, chunks_for, pieces_for
from ssrtrack.kernels.reference import koss_given_gains
from ssrtrack.kernels.reference import selective_scan as reference_selective_scan

Tensor = torch.Tensor
TIMED = ("x", "delta", "gain", "write", "read", "slope")
PRECISIONS = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
# RMS of the error over RMS of the value, per tensor; bfloat16 rounds y and the gradients handed back to 8 bits.
NEAR = {"float64": 1e-12, "float32": 2e-6, "bfloat16": 6e-3}


@dataclass(frozen=True)
class Case:
    """One row. lengths: of sequences packed one after another, in place of B × T. time_first: views of (T, B, …)."""

    operator: str = "discrete"
    B: int = 2
    T: int = 7
    D: int = 3
    N: int = 4
    dtype: str = "float32"
    lengths: tuple[int, ...] = ()
    slope: bool = False
    lead: bool = False
    chunks: int = 1
    time_first: bool = False


CASES = {
    "one step": Case(T=1, B=1),
    "a multiple of the block": Case(T=4, N=1, B=1),
    "odd, led": Case(T=7, slope=True, lead=True, time_first=True),
    "two blocks of channels": Case(T=3, B=1, D=40, N=2),
    "even channels": Case(T=3, B=1, D=32, N=16, dtype="bfloat16"),
    "packed": Case(lengths=(5, 1, 3), N=3),
    "in chunks": Case(T=11, B=2, chunks=3),
    "kalman": Case("kalman", T=5, B=1, slope=True, lead=True),
    "kalman packed": Case("kalman", N=2, lengths=(2, 3)),
    "exact": Case("exact", T=5, B=1, slope=True),
    "exact in chunks": Case("exact", T=9, B=1, N=2, slope=True, chunks=2),
    "neumann": Case("neumann", T=5, B=1, slope=True),
    "neumann in chunks": Case("neumann", T=9, B=1, N=2, chunks=2),
    "bucy": Case("bucy", T=5, B=1, slope=True, lead=True),
    "bucy in chunks": Case("bucy", T=9, B=1, N=2, chunks=2),
    "selective": Case("selective", T=6, B=2, N=16),
    "selective in chunks": Case("selective", T=10, B=1, chunks=3),
    "selective packed": Case("selective", lengths=(4, 2), dtype="bfloat16"),
}
# What fills a card and its kernels' inner loops: several blocks of channels, groups of kept states, chunks by choice.
LARGE = {
    "one step": Case(T=1, B=3, D=64, N=16),
    "N 16": Case(T=333, B=3, D=96, N=16),
    "N 16, bfloat16": Case(T=200, B=2, D=64, N=16, dtype="bfloat16", slope=True, lead=True),
    "time first, uneven": Case(T=65, B=5, D=70, N=7, time_first=True),
    "packed": Case(lengths=(100, 1, 33, 257), D=64, N=16),
    "few and long": Case(T=3001, B=1, D=64, N=16),
    "selective": Case("selective", T=333, B=2, D=128, N=16),
    "selective, bfloat16": Case("selective", T=128, B=2, D=64, N=16, dtype="bfloat16"),
    "selective, few and long": Case("selective", T=2500, B=1, D=64, N=16),
    "selective packed": Case("selective", lengths=(63, 500), D=64, N=4),
    "kalman": Case("kalman", T=130, B=3, D=64, N=16, slope=True, lead=True),
    "kalman, bfloat16": Case("kalman", T=64, B=2, D=64, N=4, dtype="bfloat16"),
    "exact": Case("exact", T=500, B=1, D=64, N=16, slope=True),
    "neumann": Case("neumann", T=130, B=2, D=64, N=16, slope=True),
    "neumann, few and long": Case("neumann", T=1200, B=1, D=32, N=2),
    "bucy": Case("bucy", T=130, B=2, D=64, N=16, slope=True, lead=True),
    "bucy, few and long": Case("bucy", T=1200, B=1, D=32, N=2),
}


@cache
def drawn(case: Case, seed: int = 0) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor | None]:
    """Inputs by name in the case's precision, ∂L/∂y, ∂L/∂final and the offsets."""
    maker = torch.Generator().manual_seed(seed)
    sequences = len(case.lengths) or case.B
    B, T = (1, sum(case.lengths)) if case.lengths else (case.B, case.T)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=maker, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=maker, dtype=torch.float64)

    wide, read = (B, T, case.D), normal(B, T, case.N)
    values = {"x": normal(*wide), "delta": 0.5 * uniform(*wide)}
    # A miss has no gain; a step of length zero leaves the prediction where it was.
    values["delta"][:, ::5] = 0.0
    if case.operator == "selective":
        values["write"] = normal(B, T, case.N)
    else:
        values["gain"] = 0.9 * uniform(*wide) * (uniform(B, T, 1) > 0.2)
    # What keeps each operator stable: |κ| < 1, a unit read-out, or a positive one.
    reads = {"neumann": torch.tanh(read), "kalman": torch.nn.functional.normalize(read, dim=-1)}
    values["read"] = reads.get(case.operator, torch.sigmoid(read))
    values["rate"] = -(uniform(case.N, case.D) + torch.arange(1, case.N + 1)[:, None] / 2)
    values["start"] = normal(sequences, case.N, case.D)
    if case.slope:
        values["slope"] = normal(*wide)
    if case.lead:
        values["lead"] = uniform(case.D)
    dtype = PRECISIONS[case.dtype]
    state = torch.float64 if case.dtype == "float64" else torch.float32
    values = {name: v.to(dtype if name in TIMED else state) for name, v in values.items()}
    if case.time_first:
        values |= {n: v.transpose(0, 1).contiguous().transpose(0, 1) for n, v in values.items() if n in TIMED}
    offsets = torch.tensor([0, *case.lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32) if case.lengths else None
    return values, normal(*wide).to(dtype), normal(sequences, case.N, case.D).to(state), offsets


@cache
def answer(case: Case) -> dict[str, Tensor]:
    """y, final and every gradient by the float64 loops, one sequence after another."""
    values, gy, g_final, offsets = drawn(case)
    leaves = {name: v.double().requires_grad_() for name, v in values.items()}
    at = [] if offsets is None else offsets.tolist()
    spans = list(pairwise(at)) or [(0, case.T)] * case.B
    ys, finals = [], []
    for i, (first, last) in enumerate(spans):
        row = 0 if offsets is not None else i
        own = {n: v[row, first:last] if n in TIMED else v[i] if n == "start" else v for n, v in leaves.items()}
        kind = {} if case.operator == "selective" else {"operator": case.operator}
        found: Any = (koss_given_gains if kind else reference_selective_scan)(**own, **kind)
        ys.append(found[0])
        finals.append(found[1])
    y, final = torch.stack(ys) if offsets is None else torch.cat(ys)[None], torch.stack(finals)
    ((y * gy.double()).sum() + (final * g_final.double()).sum()).backward()
    unread = {n: torch.zeros_like(v) for n, v in leaves.items() if v.grad is None}
    grads = {f"d{n}": unread[n] if v.grad is None else v.grad for n, v in leaves.items()}
    return {"y": y.detach(), "final": final.detach(), **grads}


def scanned(case: Case, backend: str | None, device: str = "cpu", *, grad: bool = True) -> dict[str, Tensor]:
    """The same by a backend."""
    values, gy, g_final, offsets = drawn(case)
    leaves = {name: v.detach().to(device).requires_grad_(grad) for name, v in values.items()}
    at = None if offsets is None else offsets.to(device)
    if case.operator == "selective":
        y, final = selective_scan(**leaves, offsets=at, backend=backend)
    else:
        y, final = koss_scan(**leaves, operator=case.operator, offsets=at, backend=backend)
    if not grad:
        return {"y": y, "final": final}
    ((y * gy.to(device)).sum() + (final * g_final.to(device)).sum()).backward()
    grads = {f"d{n}": torch.zeros_like(v) if v.grad is None else v.grad for n, v in leaves.items()}
    return {"y": y.detach(), "final": final.detach(), **grads}


def assert_near(found: dict[str, Tensor], wanted: dict[str, Tensor], bound: float) -> None:
    errors = {}
    for name, value in found.items():
        size = wanted[name].square().mean().sqrt()
        errors[name] = float((value.cpu().double() - wanted[name]).square().mean().sqrt() / size.clamp_min(1e-6))
    assert all(error < bound for error in errors.values()), {n: f"{e:.1e}" for n, e in errors.items()}


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory is full of NaN, so that what a kernel leaves unwritten shows."""

    def spoilt(make: Any) -> Any:
        def made(*args: Any, **kwargs: Any) -> Tensor:
            out: Tensor = make(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return made

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, spoilt(getattr(owner, name)))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 2 steps and states kept every 4, so that short sequences, too, have several of each."""
    pytest.importorskip("triton")
    from ssrtrack.kernels import koss_scan_backward, koss_scan_forward

    monkeypatch.setattr(koss_scan_forward, "UNROLL", {})
    monkeypatch.setattr(koss_scan_forward, "UNROLL_ELSE", 2)
    monkeypatch.setattr(koss_scan_backward, "block_steps", lambda *_: 2)
    monkeypatch.setattr(koss_scan_forward, "ENDS_UNROLL", 2)
    monkeypatch.setattr(koss_scan_backward, "ENDS_UNROLL", 2)
    monkeypatch.setattr(scans, "kept_every", lambda _: 4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("precision", ["float64", "as given"])
def test_torch_is_the_reference(name: str, precision: str) -> None:
    case = CASES[name] if precision == "as given" else replace(CASES[name], dtype=precision)
    assert_near(scanned(case, "torch"), answer(case), NEAR[case.dtype])


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="the card has tests of its own")
@pytest.mark.usefixtures("poisoned", "small")
@pytest.mark.parametrize("name", CASES)
def test_triton_interpreted_is_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    monkeypatch.setattr(scans, "chunks_for", lambda *_: case.chunks)
    assert_near(scanned(case, "triton"), answer(case), NEAR[case.dtype])


# The interpreter accepts more than the compiler does. Small blocks keep this short.
COMPILE = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ssrtrack.kernels import koss_scan_backward as b, koss_scan_forward as f

WIDE = ("x", "delta", "gain", "slope", "gy", "y", "gx", "gdelta", "ggain", "gslope")
FIXED = dict(N=5, NP=8, CB=32, U=2, L=2, EVERY=4, KEEP=True, SLOPE=True, LEAD=True, BLOCK=128, EVEN=False)

def compiled(kernel, **constants):
    constants = {n: v for n, v in (FIXED | constants).items() if n in kernel.arg_names}
    whole = r"steps|channels|chunk|pieces|shift|total|size|.*_[bt]"
    kinds = {n: "*bf16" if n in WIDE else "*i32" if n == "offsets" else "i32" if re.fullmatch(whole, n) else "*fp32"
             for n in kernel.arg_names}
    signature = {n: "constexpr" if n in constants else kind for n, kind in kinds.items()}
    source = ASTSource(kernel, signature, constants)
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1, "num_stages": 1})

for code, way, varlen in ((0, 1, False), (2, 2, True), (3, 1, False), (5, 0, False)):
    compiled(f.scan_kernel, OP=code, VARLEN=varlen)
    compiled(b.backward_kernel, OP=code, VARLEN=varlen, WAY=way)
for code, reverse in ((0, False), (5, True), (1, True), (4, False)):
    compiled(f.ends_kernel, OP=code, REVERSE=reverse)
compiled(f.link_kernel, REVERSE=True)
"""


def test_the_kernels_compile_for_a_card_where_there_is_none(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    own = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent)}
    ran = subprocess.run(
        [sys.executable, "-c", COMPILE], env=os.environ | own, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", LARGE)
def test_triton_on_a_card_is_the_reference(name: str) -> None:
    case = LARGE[name]
    found = scanned(case, "triton", "cuda")
    # The reference takes long where T is: the torch backend, which is the reference above, answers there.
    wanted = answer(case) if case.T <= 400 else scanned(replace(case, dtype="float64"), "torch")
    assert_near(found, {n: v.double() for n, v in wanted.items()}, max(NEAR[case.dtype], 5e-6))


def test_blocks_made_again_for_their_gradient_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(T=150, N=2, dtype="float64")
    kept = scanned(case, "torch")
    monkeypatch.setattr("ssrtrack.kernels.koss_scan_torch.KEPT_STATES", 0)
    assert_near(scanned(case, "torch"), kept, 1e-13)


@pytest.mark.parametrize("operator", ["discrete", "kalman", "selective"])
def test_a_sequence_cut_in_two_is_the_whole(operator: str) -> None:
    values, _, _, _ = drawn(Case(operator, T=131, B=2, dtype="float64"))
    kind: Any = {} if operator == "selective" else {"operator": operator}
    scan: Any = koss_scan if kind else selective_scan
    whole, last = scan(**values, **kind)
    half = {n: v[:, :70] if n in TIMED else v for n, v in values.items()}
    rest = {n: v[:, 70:] if n in TIMED else v for n, v in values.items()}
    first, state = scan(**half, **kind)
    second, end = scan(**rest | {"start": state}, **kind)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(end, last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("programs", [1, 2, 33, 132, 300, 1024, 5000])
@pytest.mark.parametrize("steps", [1, 127, 500, 4096, 65_536, 1_000_000])
def test_chunks_fill_the_card_and_are_never_short(programs: int, steps: int) -> None:
    chunks = chunks_for(programs, steps, 132)
    assert chunks == 1 or chunks >= 3
    assert chunks == 1 or (steps // chunks >= SHORTEST_CHUNK and programs * chunks <= 8 * 132)
    pieces = pieces_for(2, steps, chunks, 16)
    assert (pieces.count - 1) * pieces.chunk < steps <= pieces.count * pieces.chunk
    assert pieces.chunk % 16 == 0 and pieces.count <= chunks


def test_few_long_sequences_are_cut_and_many_are_not() -> None:
    assert chunks_for(2, 65_536, 132) == 256
    assert chunks_for(1024, 4096, 132) == 1
    assert chunks_for(1, 128, 132) == 1


REFUSALS = {
    "shape": ({"gain": torch.ones(2, 7, 4)}, r"gain has shape \(2, 7, 4\), expected \(2, 7, 3\)"),
    "read": ({"read": torch.ones(2, 7, 5)}, r"read has shape"),
    "two axes": ({"x": torch.ones(7, 3)}, r"must be \(B, T, D\)"),
    "integers": ({"delta": torch.ones(2, 7, 3, dtype=torch.int64)}, "floating-point"),
    "operator": ({"operator": "kalmann"}, "'kalmann' is not one of discrete"),
    "exact": ({"operator": "exact"}, "give x_t − x_.t−1. as slope"),
    "lead alone": ({"lead": torch.ones(3)}, "lead weighs a slope"),
    "offsets' rows": ({"offsets": torch.tensor([0, 7], dtype=torch.int32)}, "packed into one row"),
    "backend": ({"backend": "cuda"}, "expected one of triton, torch"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_run_is_refused(name: str) -> None:
    changed, message = REFUSALS[name]
    values = drawn(Case())[0]
    arguments: Any = values | changed
    with pytest.raises(ValueError, match=message):
        koss_scan(**arguments)


@pytest.mark.parametrize("offsets", [[0, 3], [1, 7], [0, 5, 4, 7]])
def test_offsets_that_do_not_part_the_steps_are_refused(offsets: list[int]) -> None:
    values = drawn(Case(lengths=(3,) * (len(offsets) - 2) + (7 - 3 * (len(offsets) - 2),)))[0]
    with pytest.raises(ValueError, match="must rise from 0 to the number of steps, 7"):
        koss_scan(**values, offsets=torch.tensor(offsets, dtype=torch.int32))


def test_triton_refuses_what_it_has_no_kernel_for() -> None:
    for case in (Case(dtype="float64"), Case(N=17)):
        with pytest.raises(ValueError, match="triton has no kernel"):
            koss_scan(**drawn(case)[0], backend="triton")
    assert koss_scan(**drawn(Case(N=17))[0])[0].shape == (2, 7, 3)


def test_without_gradients_nothing_is_kept_and_an_empty_batch_passes() -> None:
    case = Case()
    assert_near(scanned(case, None, grad=False), answer(case), NEAR["float32"])
    empty = {n: v[:0] if n in (*TIMED, "start") else v for n, v in drawn(case)[0].items()}
    y, final = koss_scan(**empty)
    assert y.shape == (0, 7, 3) and final.shape == (0, 4, 3)
