"""How Gated KalmaNet's kernels are launched, their gates, and wide heads, without a card."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ssrtrack.kernels import gka as public
from ssrtrack.kernels.gka_form import LOWEST
from tests.gka_cases import Case, answers, by, gap, inputs_of

if public._triton() is None:
    pytest.skip("there are no Triton kernels of this operator here", allow_module_level=True)

from ssrtrack.kernels import gka_launch
from ssrtrack.kernels.gka_gates import gates_kernel

Tensor = torch.Tensor
interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in Triton's interpreter")


class Compiled:
    """Of a kernel that was compiled: notes what it is handed."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def __getitem__(self, grid: Any) -> Any:
        return lambda *given: self.calls.append((grid, given))


class Kernel:
    """One of a tensor, a number and a constant."""

    arg_names = ("v", "steps", "C")

    def __init__(self) -> None:
        self.slow: list[Any] = []
        self.fast: list[Any] = []

    def __getitem__(self, grid: Any) -> Any:
        def launched(*given: Any, **options: Any) -> Compiled:
            self.slow.append((grid, given, options))
            return Compiled(self.fast)

        return launched


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.setattr(gka_launch, "JITFunction", Kernel)
    monkeypatch.setattr(gka_launch, "CompiledKernel", Compiled)
    monkeypatch.setattr(gka_launch, "_found", {})
    yield Kernel()


def launched(kernel: Kernel, key: str, v: Tensor, steps: int, also: object = None) -> None:
    known = {"C": 64, "of another kernel": 1}
    gka_launch.Launcher(key, [v, None])(kernel, (3, 2), [v], [steps], known, (4, 1), also)


def test_a_kernel_is_compiled_once_and_then_handed_addresses(kernel: Kernel) -> None:
    first, second = torch.zeros(8), torch.zeros(8)
    launched(kernel, "a", first, 5)
    assert kernel.slow == [((3, 2), (first, 5), {"C": 64, "num_warps": 4, "num_stages": 1})]
    launched(kernel, "a", second, 7)
    assert (len(kernel.slow), kernel.fast) == (1, [((3, 2, 1), (second.data_ptr(), 7, 64))])


@pytest.mark.parametrize("change", ["key", "also", "place"])
def test_what_triton_compiles_differently_goes_its_way(kernel: Kernel, change: str) -> None:
    v = torch.zeros(9)
    launched(kernel, "a", v[:8], 5)
    v = v[1:] if change == "place" else v[:8]
    launched(kernel, "b" if change == "key" else "a", v, 5, "b" if change == "also" else None)
    assert (len(kernel.slow), kernel.fast) == (2, [])


def test_what_is_remembered_does_not_grow_without_end(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gka_launch, "MOST", 3)
    for turn in range(10):
        launched(kernel, str(turn), torch.zeros(8), 5)
    assert len(gka_launch._found) <= 3


@interpreted
def test_what_wide_heads_have_of_their_own_is_right() -> None:
    """Products are joined otherwise from 128 numbers a key on."""
    case = Case(B=1, T=70, H=1, D=128, V=128, steps=3)
    inputs = inputs_of(case)
    got, want = answers(by("triton"), case, inputs), answers(by("torch"), case, inputs)
    assert all(gap(got[part], want[part]) < 1e-5 for part in want)


@interpreted
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
def test_gates_are_the_sums_from_each_chunks_start(packed: bool, heads: int) -> None:
    """Beyond a sequence's end they stay as they are; what is below the lowest counts as that."""
    generator = torch.Generator().manual_seed(3)
    C, lengths = 16, (5, 0, 40) if packed else (45,)
    logs = torch.randn(1, 45, heads, generator=generator).abs().neg() * 20.0
    logs[0, 3] = -torch.inf
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    counts = torch.tensor([-(-length // C) for length in lengths])
    firsts, owners = torch.tensor([0, *counts]).cumsum(0), torch.repeat_interleave(torch.arange(len(counts)), counts)
    found = torch.full((int(counts.sum()), heads, C), torch.nan)
    launch: Any = gates_kernel
    tables = [part.int() for part in (offsets, firsts, owners)]
    launch[(len(found), 1)](logs, found, *tables, 45, heads, C=C, HEADS=2, VARLEN=packed)
    own = torch.split(logs[0], list(lengths))
    chunks = [part for steps in own for part in torch.split(steps, C) if len(part)]
    for got, part in zip(found, chunks, strict=True):
        want = part.double().clamp(min=LOWEST).cumsum(0) / torch.log(torch.tensor(2.0).double())
        assert torch.allclose(got[:, : len(part)].double(), want.T, rtol=1e-5)
        assert torch.equal(got[:, len(part) :], got[:, len(part) - 1 :][:, :1].expand(-1, C - len(part)))
