"""Gated KalmaNet online, cut anywhere, padded and packed: always the layer on the whole sequence."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from ssrtrack.kernels.gka_form import GkaForm
from ssrtrack.kernels.gka_reference import one_step
from ssrtrack.models.gka import GatedKalmaNet, GkaBlock, GkaState
from ssrtrack.models.gka_taps import skipped
from ssrtrack.models.koss_taps import tapped
from tests.gka_layers import OPTIONS, layer, name, rows

Tensor = torch.Tensor
PARTS = ("H", "U", "taps")


def parts(T: int, cuts: tuple[int, ...]) -> list[slice]:
    return [slice(a, b) for a, b in pairwise([0, *cuts, T])]


def same(found: GkaState, wanted: GkaState, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    for part in PARTS:
        torch.testing.assert_close(getattr(found, part), getattr(wanted, part), rtol=rtol, atol=atol)


@pytest.mark.parametrize("options", OPTIONS, ids=name)
@pytest.mark.parametrize("cuts", [tuple(range(1, 30)), (16,), (3, 3, 5, 22)], ids=lambda c: f"{len(c)} cuts")
@pytest.mark.parametrize("missing", [False, True], ids=["all there", "some missing"])
@torch.no_grad()
def test_cut_anywhere_it_is_the_whole(options: dict[str, Any], cuts: tuple[int, ...], missing: bool) -> None:
    """A cut at the same place twice is a call without rows."""
    made, (x, gap, valid) = layer(**options), rows(30)
    there: Any = valid if missing else None
    whole, final = made(x, gap, there)
    out, state = [], made.start(2)
    for part in parts(30, cuts):
        y, state = made(x[part], gap[part], None if there is None else there[part], state)
        out.append(y)
    torch.testing.assert_close(torch.cat(out), whole, rtol=1e-9, atol=1e-10)
    same(state, final)


@torch.no_grad()
def test_row_by_row_in_float32_a_block_stays_with_the_batch_over_10_000_steps() -> None:
    """Memories from a few rows to some thousand: error does not pile up."""
    torch.manual_seed(3)
    made, steps = GkaBlock(16, 8, steps=10), 10_000
    made.gka.A_log.copy_(torch.tensor([0.03, 8.0]).log())
    made.gka.dt_bias.fill_(-5.0)
    x, gap, valid = rows(steps, 2, 16, dtype=torch.float32)
    whole, final = made(x, gap, valid)
    state, out = made.start(2), []
    for t in range(steps):
        y, state = made.step(x[t], gap[t], valid[t], state)
        out.append(y)
    found = torch.stack(out)
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-4)
    assert float((found - whole)[-1000:].norm() / (whole - x)[-1000:].norm()) < 1e-4
    same(state, final, rtol=1e-3, atol=1e-4)
    assert state.H.dtype == torch.float32 and float(state.H.norm()) > 100.0


def test_gradients_pass_through_a_cut() -> None:
    made, (x, gap, valid) = layer(steps=150), rows(11)
    x.requires_grad_()

    def gradients(cuts: tuple[int, ...]) -> list[Tensor]:
        state, total = made.start(2), torch.zeros((), dtype=torch.float64)
        for part in parts(11, cuts):
            y, state = made(x[part], gap[part], valid[part], state)
            total = total + (y * torch.cos(torch.arange(8.0))).sum()
        total = total + state.H.square().sum() + state.U.sum() + state.taps.square().sum()
        return list(torch.autograd.grad(total, [x, *made.parameters()]))

    def stepped() -> list[Tensor]:
        state, total = made.start(2), torch.zeros((), dtype=torch.float64)
        for t in range(11):
            y, state = made.step(x[t], gap[t], valid[t], state)
            total = total + (y * torch.cos(torch.arange(8.0))).sum()
        total = total + state.H.square().sum() + state.U.sum() + state.taps.square().sum()
        return list(torch.autograd.grad(total, [x, *made.parameters()]))

    whole = gradients(())
    for other in (gradients((2, 7)), stepped()):
        for cut, value in zip(other, whole, strict=True):
            torch.testing.assert_close(cut, value, rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_its_variance_is_that_of_a_filter_given_its_keys() -> None:
    """qᵀ(H + λ I)⁻¹q by an exact solution of what the layer asks, row by row."""
    made, (x, gap, valid) = layer(steps=150), rows(9)
    inputs, _ = made.asked(x, gap, valid, made.start(2))
    assert inputs.alpha is not None
    state, form = made.start(2), GkaForm(made.form.ridge, scale=made.form.scale)
    H, U = made.start(2).memory
    for t in range(9):
        y, state, variance = made.step(x[t], gap[t], valid[t], state, variance=True)
        plain, _ = made.step(x[t], gap[t], valid[t], state)
        assert plain.shape == y.shape and variance.shape == (2, 2)
        for b in range(2):
            for n in range(2):
                q, k, v, a = (part[t, b, n] for part in inputs[:4])
                alpha = inputs.alpha[t, b, n]
                _, wanted, H[b, n], U[b, n] = one_step(q, k, v, a, alpha, H[b, n], U[b, n], form)
                torch.testing.assert_close(variance[b, n], wanted, rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_unknown_before_the_first_row_and_less_known_the_longer_rows_are_missing() -> None:
    made, (x, gap, _) = layer(), rows(20)
    gone, there = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    y, state, variance = made.step(x[0], gap[0], gone, made.start(2), variance=True)
    assert torch.all(torch.isinf(variance)) and torch.all(y == 0.0)
    for t in range(10):
        y, state = made.step(x[t], gap[t], there, state)
    spreads = []
    for _ in range(4):
        y, state, variance = made.step(x[10], gap[10], gone, state, variance=True)
        spreads.append(variance)
    assert all(bool((b > 1.01 * a).all()) for a, b in pairwise(spreads))
    unseen, seen = (made.step(x[10], 0.0 * gap[10], v, state, variance=True)[2] for v in (gone, there))
    assert torch.all(seen < 0.999 * unseen)


@pytest.mark.parametrize("options", OPTIONS[:4], ids=name)
@torch.no_grad()
def test_padded_and_packed_sequences_are_each_as_alone(options: dict[str, Any]) -> None:
    made, lengths = layer(**options), [7, 1, 12, 0, 2]
    x, gap, valid = rows(12, 5)
    offsets = torch.tensor([0, 7, 8, 20, 20, 22], dtype=torch.int32)
    for there in (valid, torch.ones_like(valid), None):
        given = [v for v in (x, gap, there) if v is not None]
        padded, state = made(*given, lengths=torch.tensor(lengths))
        line = [torch.cat([v[:n, b] for b, n in enumerate(lengths)])[:, None] for v in given]
        packed, packed_state = made(*line, offsets=offsets)
        for b, n in enumerate(lengths):
            alone, last = made(*(v[:n, b : b + 1] for v in given))
            torch.testing.assert_close(padded[:n, b], alone[:, 0], rtol=1e-9, atol=1e-10)
            torch.testing.assert_close(packed[offsets[b] : offsets[b + 1], 0], alone[:, 0], rtol=1e-9, atol=1e-10)
            assert torch.all(padded[n:, b] == 0.0)
            for found in (state, packed_state):
                same(GkaState(*(getattr(found, part)[b : b + 1] for part in PARTS)), last)


@torch.no_grad()
def test_packed_and_padded_sequences_go_on_from_a_state() -> None:
    made, (x, gap, valid) = layer(), rows(12)
    whole, end = made(x, gap, valid)
    first = made(x[:5], gap[:5], valid[:5])[1]
    rest = [v[5:].transpose(0, 1).reshape(14, 1, *v.shape[2:]) for v in (x, gap, valid)]
    y, last = made(*rest, first, offsets=torch.tensor([0, 7, 14]))
    torch.testing.assert_close(y.reshape(2, 7, 8).transpose(0, 1), whole[5:], rtol=1e-9, atol=1e-10)
    same(last, end)
    some, short = made(x[5:], gap[5:], valid[5:], first, lengths=torch.tensor([7, 3]))
    torch.testing.assert_close(some[:3], whole[5:8], rtol=1e-9, atol=1e-10)
    same(
        GkaState(*(getattr(short, part)[1:] for part in PARTS)),
        GkaState(*(getattr(made(x[:8], gap[:8], valid[:8])[1], part)[1:] for part in PARTS)),
    )


def test_padding_has_no_part_in_anything_whatever_it_holds() -> None:
    made, (x, gap, _) = layer(), rows(9)
    x[4:, 0] = torch.nan
    x.requires_grad_()
    y, state = made(x, gap, lengths=torch.tensor([4, 9]))
    (y.square().sum() + state.U.sum()).backward()
    assert x.grad is not None
    assert float(x.grad[4:, 0].abs().max()) == 0.0 < float(x.grad[3, 0].abs().min())
    assert all(bool(torch.isfinite(p.grad).all()) for p in made.parameters() if p.grad is not None)


@torch.no_grad()
def test_the_convolutions_past_are_the_rows_that_were_there() -> None:
    """Against a list of rows; and where all are there it is `tapped`, whole and packed."""
    g = torch.Generator().manual_seed(0)
    u, before = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((17, 2, 5), (2, 3, 5)))
    taps, valid = torch.randn(4, 5, generator=g, dtype=torch.float64), torch.rand(17, 2, generator=g) > 0.4
    mixed, after = skipped(u, taps, before, valid)
    for b in range(2):
        seen = list(before[b])
        for t in range(17):
            wanted = sum(taps[3 - j] * row for j, row in enumerate([u[t, b], *reversed(seen[-3:])]))
            torch.testing.assert_close(mixed[t, b], wanted)
            seen += [u[t, b]] if valid[t, b] else []
        torch.testing.assert_close(after[b], torch.stack(seen[-3:]))
    zero, all_there = torch.zeros(5, dtype=torch.float64), torch.ones(17, 2, dtype=torch.bool)
    for found, wanted in zip(skipped(u, taps, before, all_there), tapped(u, taps, zero, before), strict=True):
        torch.testing.assert_close(found, wanted)
    offsets, line = torch.tensor([0, 6, 17]), u[:, :1]
    packed = skipped(line, taps, before, all_there[:, :1], offsets)
    for found, wanted in zip(packed, tapped(line, taps, zero, before, None, offsets), strict=True):
        torch.testing.assert_close(found, wanted)


@torch.no_grad()
def test_a_state_keeps_no_more_in_memory_than_it_says() -> None:
    made, (x, gap, valid) = GatedKalmaNet(8, 4), rows(100, 3, dtype=torch.float32)
    for state in (made(x)[1], made(x, gap, valid)[1], made(x[:, :1], offsets=torch.tensor([0, 40, 100]))[1]):
        for part in (state.H, state.U, state.taps):
            assert part.untyped_storage().nbytes() == 4 * part.numel()


@torch.no_grad()
def test_one_state_serves_sequences_that_come_and_go() -> None:
    """Rows of a state are sequences: those of a batch, put together from others, go on as they would alone."""
    torch.manual_seed(0)
    made, (x, gap, valid) = GatedKalmaNet(8, 4), rows(12, 3, dtype=torch.float32)
    _, state = made(x[:6], gap[:6], valid[:6])
    picked = GkaState(*(getattr(state, part)[[2, 0]] for part in PARTS))
    y, _ = made.step(x[6, [2, 0]], gap[6, [2, 0]], valid[6, [2, 0]], picked)
    wanted, _ = made.step(x[6], gap[6], valid[6], state)
    torch.testing.assert_close(y, wanted[[2, 0]], rtol=1e-4, atol=1e-5)
