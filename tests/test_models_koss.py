"""The KOSS scan and layer against the looped reference, and the laws that they keep."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.models import koss_scan as koss_scan_module
from ssrtrack.models.koss import CLOSED, SPECTRAL_CAP, BlockState, InnovationGain, KossBlock, KossLayer
from ssrtrack.models.koss_reference import koss_scan_reference
from ssrtrack.models.koss_scan import koss_scan

Tensor = torch.Tensor


def arguments(
    T: int, H: int, B: int, C: int, N: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    """x, delta, rate, read, bias, w1, b1, w2, start of a scan."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=g)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=dtype, generator=g)

    scan = [normal(T, H, B, C), uniform(T, H, B, C), -3 * uniform(N, H, C), uniform(T, N, B), normal(T, H, B, C)]
    return [*scan, normal(H, C, C) / C**0.5, normal(H, C), normal(H, C, C) / C**0.5, normal(N, H, B, C)]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (7, 1, 3, 5, 4), (23, 2, 2, 4, 3)])
def test_scan_equals_the_looped_reference(shape: tuple[int, ...]) -> None:
    given_ = arguments(*shape)
    y, final = koss_scan(*given_)
    x, delta, rate, read, bias, w1, b1, w2, start = (v.numpy() for v in given_)
    for h in range(shape[1]):
        for b in range(shape[2]):
            row = slice(None), h, b
            want, last = koss_scan_reference(
                x[row], delta[row], rate[:, h], read[:, :, b], bias[row], w1[h], b1[h], w2[h], start[row]
            )
            np.testing.assert_allclose(y[row].numpy(), want, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(final[row].numpy(), last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("missing", [False, True])
def test_gradient_is_that_of_finite_differences(missing: bool) -> None:
    given_ = arguments(4, 2, 2, 3, 2)
    if missing:
        given_[4][1:3, :, 0] = CLOSED
    assert torch.autograd.gradcheck(koss_scan, [v.requires_grad_() for v in given_], atol=1e-7)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(23, 2, 5, 4, 3), (1, 1, 1, 1, 1), (6, 1, 70, 8, 2)])
def test_the_compiled_scan_is_the_plain_one(shape: tuple[int, ...], threads: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    given_ = [v.requires_grad_() for v in arguments(*shape)]
    with torch.no_grad():
        given_[4][0] = CLOSED
    found = []
    for way in (koss_scan_module._Scan, koss_scan_module._Fused):
        y, final = way.apply(*given_)
        weight = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
        found.append((y, final, *torch.autograd.grad((y * weight).sum() + final.square().sum(), given_)))
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-11, atol=1e-12)


def test_many_sequences_take_the_compiled_scan(monkeypatch: Any) -> None:
    taken = []
    apply = koss_scan_module._Fused.apply
    monkeypatch.setattr(koss_scan_module._Fused, "apply", lambda *a: taken.append(1) or apply(*a))
    many = [v.requires_grad_() for v in arguments(8, 1, 128, 64, 2)]
    koss_scan(*many)[0].sum().backward()
    assert taken
    few = [v.requires_grad_() for v in arguments(8, 1, 4, 8, 2)]
    koss_scan(*few)[0].sum().backward()
    assert len(taken) == 1


def test_gradient_needs_no_record_where_none_is_asked_for() -> None:
    given_ = arguments(6, 1, 2, 3, 2)
    y, _ = koss_scan(*given_)
    recorded, _ = koss_scan(*(v.clone().requires_grad_() for v in given_))
    assert not y.requires_grad and recorded.requires_grad
    assert torch.equal(y, recorded.detach())


@given(cut=st.integers(1, 11), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_a_scan_cut_in_two_is_the_whole(cut: int, seed: int) -> None:
    x, delta, rate, read, bias, w1, b1, w2, start = arguments(12, 2, 2, 4, 3, seed=seed)
    whole, final = koss_scan(x, delta, rate, read, bias, w1, b1, w2, start)
    first, state = koss_scan(x[:cut], delta[:cut], rate, read[:cut], bias[:cut], w1, b1, w2, start)
    second, last = koss_scan(x[cut:], delta[cut:], rate, read[cut:], bias[cut:], w1, b1, w2, state)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(last, final, rtol=1e-13, atol=1e-13)


def test_a_missing_step_is_the_same_as_a_longer_one() -> None:
    x, delta, rate, read, bias, w1, b1, w2, start = arguments(9, 1, 2, 4, 3)
    bias[4] = CLOSED
    kept = [k for k in range(9) if k != 4]
    longer = delta.clone()
    longer[5] += longer[4]
    y, final = koss_scan(x, delta, rate, read, bias, w1, b1, w2, start)
    less, last = koss_scan(x[kept], longer[kept], rate, read[kept], bias[kept], w1, b1, w2, start)
    torch.testing.assert_close(less, y[kept], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, final, rtol=1e-12, atol=1e-12)


def layer_input(T: int, B: int, D: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(T, B, generator=g) > 0.15
    return torch.randn(T, B, D, generator=g), 2.0 * torch.rand(T, B, generator=g), valid


def block(width: int = 16, **shape: Any) -> KossBlock:
    torch.manual_seed(3)
    return KossBlock(width, **({"states": 3, "head": 8} | shape))


def test_step_by_step_equals_the_batch_over_2000_steps() -> None:
    made, (x, gap, valid) = block(), layer_input(2000, 2, 16)
    with torch.no_grad():
        whole, final = made(x, gap, valid)
        state: BlockState | None = None
        steps = []
        for t in range(2000):
            y, state = made(x[t : t + 1], gap[t : t + 1], valid[t : t + 1], state)
            steps.append(y)
    assert state is not None
    torch.testing.assert_close(torch.cat(steps), whole, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(state.scan, final.scan, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(state.taps, final.taps, rtol=1e-5, atol=2e-6)


def test_the_future_changes_nothing() -> None:
    made, (x, gap, valid) = block(), layer_input(30, 2, 16)
    other, other_gap = x.clone(), gap.clone()
    other[17:] += 5.0
    other_gap[17:] *= 3.0
    with torch.no_grad():
        before, after = made(x, gap, valid)[0], made(other, other_gap, valid)[0]
    assert torch.equal(before[:17], after[:17])
    assert not torch.allclose(before[17], after[17])


def test_what_stands_at_a_missing_step_is_not_read() -> None:
    torch.manual_seed(0)
    made, (x, gap, valid) = KossLayer(16, 3, 8), layer_input(25, 2, 16)
    other = torch.where(valid[..., None], x, 1e3)
    with torch.no_grad():
        assert torch.equal(made(x, gap, valid)[0], made(other, gap, valid)[0])


def test_the_state_forgets_and_the_more_the_longer_the_gap() -> None:
    torch.manual_seed(0)
    made = KossLayer(16, 3, 8)
    x, valid = torch.zeros(1, 1, 16), torch.zeros(1, 1, dtype=torch.bool)
    start = torch.ones(1, 3, 16)
    with torch.no_grad():
        sizes = [made(x, torch.full((1, 1), gap), valid, start)[1].norm().item() for gap in (0.0, 1.0, 10.0, 1000.0)]
    assert sizes[0] == pytest.approx(start.norm().item(), rel=1e-6)
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3]
    assert sizes[3] < 0.6 * sizes[0]


def test_the_state_stays_within_its_input() -> None:
    """a = (1 − K c) E ≤ 1 and K ≤ 1, so |h| never exceeds the largest |x| / least c seen while c stays near ½."""
    given_ = arguments(400, 1, 4, 8, 2, torch.float32)
    given_[5:8] = [v * 5 for v in given_[5:8]]
    given_[3] = torch.full_like(given_[3], 0.5)
    given_[8] = torch.zeros_like(given_[8])
    largest = float(given_[0].abs().max())
    for t in (10, 100, 400):
        _, final = koss_scan(*(v[:t] if k in (0, 1, 3, 4) else v for k, v in enumerate(given_)))
        assert float(final.abs().max()) <= 2.0 * largest


def test_weights_are_scaled_back_to_the_cap_and_smaller_ones_are_left() -> None:
    torch.manual_seed(0)
    gain = InnovationGain(2, 8)
    with torch.no_grad():
        gain.w1[0] *= 50.0 / torch.linalg.matrix_norm(gain.w1[0], ord=2)
        gain.w1[1] *= 3.0 / torch.linalg.matrix_norm(gain.w1[1], ord=2)
    small = gain.w1[1].clone()
    gain.cap()
    assert torch.linalg.matrix_norm(gain.w1[0].detach(), ord=2).item() == pytest.approx(SPECTRAL_CAP, rel=1e-5)
    assert torch.equal(gain.w1[1], small)


def test_bfloat16_keeps_the_state_in_float32() -> None:
    made, (x, gap, valid) = block(), layer_input(300, 2, 16)
    with torch.no_grad():
        whole, _ = made(x, gap, valid)
        with torch.autocast("cpu", torch.bfloat16):
            low, state = made(x, gap, valid)
    assert state.scan.dtype == torch.float32
    wrong = (low.float() - whole).norm(dim=(1, 2)) / whole.norm(dim=(1, 2))
    assert 1e-5 < float(wrong.mean()) < 1e-2
    assert float(wrong[-50:].mean()) < 2.0 * float(wrong[:50].mean())


def test_a_head_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="width 24 is not a multiple of the head's 16 channels"):
        KossLayer(24, head=16)
