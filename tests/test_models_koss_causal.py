"""Derivatives from the past: exact where they should be, blind to the future, the same however a sequence is cut."""

import math
from itertools import pairwise

import pytest
import torch

from ssrtrack.models.koss_causal import TAPS, Past, change_of, nothing_seen, past_of, slope_of
from ssrtrack.models.koss_taps import sequence_of_rows

Tensor = torch.Tensor
T, B = 40, 3
FORMS = list(TAPS.values())


def rows(seed: int = 0, miss: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """Gaps, times and which are there (T, B)."""
    g = torch.Generator().manual_seed(seed)
    gap = 0.3 + 1.5 * torch.rand(T, B, dtype=torch.float64, generator=g)
    return gap, gap.cumsum(0), torch.rand(T, B, generator=g) >= miss


def past(x: Tensor, gap: Tensor, valid: Tensor | None = None, taps: int = 5) -> Past:
    return past_of(x, gap, valid, nothing_seen(x, x.shape[1], taps - 1))


@pytest.mark.parametrize(("taps", "degree"), [(2, 1), (5, 1), (5, 2)])
def test_a_polynomial_has_its_derivative_whatever_gaps_and_misses(taps: int, degree: int) -> None:
    gap, time, valid = rows()
    x = (0.7 * time**degree - 2.0 * time + 1.0)[..., None]
    wanted = (0.7 * degree * time ** (degree - 1) - 2.0)[..., None]
    for seen in (None, valid):
        given = x if seen is None else torch.where(seen[..., None], x, 1e6)
        found = slope_of(past(given, gap, seen, taps), taps)
        here = torch.ones_like(valid) if seen is None else seen
        enough = here & (here.cumsum(0) > degree)
        torch.testing.assert_close(found[enough], wanted[enough], rtol=1e-8, atol=1e-8)
        assert bool((found[~here] == 0.0).all())
        assert bool((found[here & (here.cumsum(0) == 1)] == 0.0).all())


def test_the_difference_is_over_the_true_gap_and_the_change_is_not() -> None:
    x = torch.tensor([3.0, 5.0, 99.0, 11.0])[:, None, None]
    gap = torch.tensor([7.0, 0.5, 1.0, 2.0])[:, None]
    seen = past(x, gap, torch.tensor([True, True, False, True])[:, None], 2)
    assert slope_of(seen, 2).flatten().tolist() == pytest.approx([0.0, 4.0, 0.0, 2.0])
    assert change_of(seen).flatten().tolist() == pytest.approx([3.0, 2.0, 0.0, 6.0])


def test_samples_at_one_time_have_no_slope_in_place_of_an_endless_one() -> None:
    x = torch.tensor([0.0, 1.0])[:, None, None]
    for taps in FORMS:
        for gap in (0.0, 1e-9, 1e-3):
            assert abs(slope_of(past(x, torch.tensor([[1.0], [gap]]), None, taps), taps)[1].item()) <= 0.2


@pytest.mark.parametrize("gaps", [(5.0, 0.01), (0.01, 5.0), (0.05, 0.05), (1.0, 0.0)])
def test_two_of_three_samples_at_nearly_one_time_do_not_blow_noise_up(gaps: tuple[float, float]) -> None:
    noise = torch.randn(3, 4000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gap = torch.tensor([1.0, *gaps], dtype=torch.float64)[:, None].expand(3, 4000)
    # A line and a curve, each with no more than two samples 0.1 apart.
    assert slope_of(past(noise, gap), 5)[2].std().item() < 2 * math.sqrt(2) / 0.1


def test_noise_and_sines_come_out_as_the_filters_are_known_to() -> None:
    noise = torch.randn(20_000, 1, 1, generator=torch.Generator().manual_seed(0))
    even = torch.ones(20_000, 1)
    for taps, deviation in ((2, math.sqrt(2.0)), (5, 1.12)):
        assert slope_of(past(noise, even, None, taps), taps).std().item() == pytest.approx(deviation, rel=0.03)
    turn = 2 * math.pi * 0.05 * torch.arange(400.0, dtype=torch.float64)[:, None]
    for taps, error in ((2, 0.157), (5, 0.14)):
        found = slope_of(past(torch.sin(turn)[..., None], torch.ones_like(turn), None, taps), taps)[..., 0]
        wanted = 2 * math.pi * 0.05 * torch.cos(turn)
        assert ((found - wanted)[10:].norm() / wanted[10:].norm()).item() == pytest.approx(error, abs=0.01)


@pytest.mark.parametrize("taps", FORMS)
def test_the_future_changes_nothing(taps: int) -> None:
    gap, time, valid = rows()
    x = torch.sin(time)[..., None]
    other, later = torch.where(time[..., None] > time[20, :, None], 5.0, x), gap.clone()
    later[21:] *= 2.0
    found = [slope_of(past(v, w, valid, taps), taps)[:21] for v, w in ((x, gap), (other, later))]
    assert torch.equal(*found)


@pytest.mark.parametrize("misses", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 7, 39])
def test_a_sequence_cut_in_two_is_the_whole(cut: int, misses: bool) -> None:
    gap, time, there = rows()
    x, valid = torch.sin(time)[..., None].repeat(1, 1, 2), there if misses else None
    whole = past(x, gap, valid)
    first = past_of(x[:cut], gap[:cut], None if valid is None else valid[:cut], nothing_seen(x, B, 4))
    second = past_of(x[cut:], gap[cut:], None if valid is None else valid[cut:], first.after)
    for make in (change_of, *(lambda p, k=k: slope_of(p, k) for k in FORMS)):
        torch.testing.assert_close(torch.cat([make(first), make(second)]), make(whole), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(second.after.value[0], whole.after.value[0])
    torch.testing.assert_close(second.after.age, whole.after.age)


def test_packed_sequences_do_not_see_each_other() -> None:
    lengths = [5, 1, 12]
    gap, time, valid = (v[: sum(lengths), :1] for v in rows())
    x = torch.sin(time)[..., None]
    offsets = torch.tensor([0, 5, 6, 18], dtype=torch.int32)
    own = sequence_of_rows(offsets, sum(lengths))
    assert own.tolist() == [0] * 5 + [1] + [2] * 12
    packed = past_of(x, gap, valid, nothing_seen(x, 1, 4), offsets.long()[own][:, None])
    alone = [past_of(x[a:b], gap[a:b], valid[a:b], nothing_seen(x, 1, 4)) for a, b in pairwise(offsets.tolist())]
    for make in (change_of, *(lambda p, k=k: slope_of(p, k) for k in FORMS)):
        torch.testing.assert_close(make(packed), torch.cat([make(p) for p in alone]), rtol=1e-9, atol=1e-9)


def test_gradients_are_right() -> None:
    gap, _, valid = rows()
    x = torch.randn(8, B, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: slope_of(past(v, gap[:8], valid[:8]), 5), (x,))
    assert torch.autograd.gradcheck(lambda v: change_of(past(v, gap[:8], valid[:8])), (x,))
