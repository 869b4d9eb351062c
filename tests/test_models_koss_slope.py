"""What a KOSS layer hands its operator as ẋ: on a ramp, whose slope is known, at irregular times and with misses."""

from typing import Any

import pytest
import torch

from ssrtrack.models.koss import KossLayer

Tensor = torch.Tensor
T, B, D = 24, 3, 4
PER_SAMPLE = [{"operator": name, "derivative": kind} for name in ("discrete", "kalman", "bucy")
              for kind in ("difference", "causal", "spectral")]  # fmt: skip
OVER_THE_GAP = [{"operator": "neumann", "derivative": kind} for kind in ("difference", "causal", "spectral")]


def name(options: dict[str, Any]) -> str:
    return " ".join(options.values())


def ramp() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x = 5 + 3 t (T, B, D), 0 where it is missing, t (T, B), the gaps and which rows are there."""
    g = torch.Generator().manual_seed(4)
    gap = 0.4 + torch.rand(T, B, dtype=torch.float64, generator=g)
    valid = torch.rand(T, B, generator=g) > 0.25
    valid[0] = True
    time = gap.cumsum(0)
    x = (5.0 + 3.0 * time)[..., None].expand(T, B, D)
    return torch.where(valid[..., None], x, 0.0), time, gap, valid


def slope(options: dict[str, Any]) -> Tensor:
    """ẋ (T, B), the same in all channels."""
    x, _, gap, valid = ramp()
    inputs, _ = KossLayer(D, **options).double().loop_inputs(x, gap, valid)
    assert inputs.slope is not None and (inputs.lead is not None) == (
        options["operator"] in ("discrete", "kalman", "bucy")
    )
    found = inputs.slope.transpose(0, 1)
    assert torch.equal(found, found[..., :1].expand_as(found))
    return found[..., 0].detach()


def since_last() -> Tensor:
    """Time since the last row before that was there (T, B); 0 for the first."""
    _, time, _, valid = ramp()
    out, last = torch.zeros_like(time), time[0]
    for t in range(1, T):
        out[t] = time[t] - last
        last = torch.where(valid[t], time[t], last)
    return out


@pytest.mark.parametrize("options", PER_SAMPLE, ids=name)
def test_a_lead_weighs_the_derivative_per_nominal_sample(options: dict[str, Any]) -> None:
    found, (_, _, _, valid) = slope(options), ramp()
    later = valid.clone()
    later[0] = False
    torch.testing.assert_close(found[later], torch.full_like(found[later], 3.0), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("options", OVER_THE_GAP, ids=name)
def test_neumann_takes_up_the_derivative_times_the_time_since_the_last_sample(options: dict[str, Any]) -> None:
    found, (x, _, _, valid) = slope(options), ramp()
    wanted = torch.where(valid, 3.0 * since_last(), 0.0)
    wanted[0] = x[0, :, 0]  # from nothing
    torch.testing.assert_close(found[valid], wanted[valid], rtol=1e-8, atol=1e-8)


def test_exact_takes_the_change_since_the_last_sample() -> None:
    found, (x, _, _, valid) = slope({"operator": "exact"}), ramp()
    wanted = torch.where(valid, 3.0 * since_last(), 0.0)
    wanted[0] = x[0, :, 0]
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
