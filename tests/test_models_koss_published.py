"""The published scheme keeps its defects: each of them is shown, so that nobody takes this form for the layer."""

import math

import pytest
import torch

from ssrtrack.errors import EstimatorError
from ssrtrack.models.koss import KossBlock, KossLayer
from ssrtrack.models.koss_published import PublishedKoss, published_slope, segment_length

Tensor = torch.Tensor


def made(width: int = 8) -> PublishedKoss:
    torch.manual_seed(0)
    return PublishedKoss(width, 3, 2).double()


def looped(layer: PublishedKoss, x: Tensor) -> Tensor:
    """y (T, D) of x (T, D) by the equations, one number after another."""
    T, D = x.shape
    S, sigma = segment_length(T), float(layer.low_pass.detach())
    low, c = layer.project(x).split((layer.rank, layer.states), -1)
    delta, A = torch.nn.functional.softplus(layer.step(low)), -torch.exp(layer.log_rate)
    y, K = torch.zeros_like(x), torch.zeros_like(x)
    for first in range(0, T, S):
        rows = range(first, min(first + S, T))
        n = len(rows)
        slope = torch.zeros(n, D, dtype=x.dtype)
        for t in range(n):
            for k in range(n):
                f = (k if 2 * k < n else k - n) / n
                for j in range(n):
                    angle = 2 * math.pi * k * (t - j) / n
                    gain = 2 * math.pi * f * math.exp(-((f * sigma) ** 2)) / (delta[first + k] + 1e-5)
                    slope[t] += -math.sin(angle) * gain * x[first + j] / n
        h = torch.zeros(layer.states, D, dtype=x.dtype)
        for t in rows:
            e = x[t] - (y[t - S] if t >= S else 0.0)
            s = e**2 / (1 + e**2)
            hidden = torch.relu(s @ layer.gain.first.weight.T + layer.gain.first.bias)
            raw = torch.relu(hidden @ layer.gain.second.weight.T) @ layer.gain.third.weight.T
            now = (raw - raw.mean()) / (raw.var(unbiased=False) + 1e-5).sqrt()
            K[t] = 0.99 * (K[t - S] if t >= S else 0.0) + 0.01 * now
            kappa = K[t] * c[t][:, None]
            A_K, B_K = (1 - kappa**2) * A, -(1 - kappa) * A * K[t]
            h = torch.exp(delta[t] * A_K) * h + delta[t] * B_K * x[t] + K[t] * slope[t - first]
            y[t] = (c[t][:, None] * h).sum(0) + layer.skip * x[t]
    return y


@torch.no_grad()
def test_it_is_its_equations() -> None:
    layer, x = made(), torch.randn(19, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = layer(x)
    for b in range(2):
        torch.testing.assert_close(y[:, b], looped(layer, x[:, b]), rtol=1e-10, atol=1e-11)
    assert [segment_length(n) for n in (48, 96, 192, 336, 720)] == [8, 8, 12, 21, 45]


def test_its_average_never_trains() -> None:
    layer = made()
    layer(torch.randn(40, 2, 8, dtype=torch.float64)).square().sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    alpha, first = gradients["gain.k_alpha"], gradients["gain.first.weight"]
    assert alpha is not None and first is not None
    assert float(alpha.abs().max()) == 0.0 < float(first.abs().max())


@torch.no_grad()
def test_with_its_gain_at_rest_a_segment_knows_nothing_of_those_before() -> None:
    layer = made()
    layer.gain.first.weight.zero_()
    x = torch.randn(64, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    other = torch.cat([x[:8] + 3.0, x[8:]])
    assert torch.equal(layer(x)[8:], layer(other)[8:])
    carried = KossLayer(8, 3, 8).double()
    assert not torch.allclose(carried(x)[0][8:], carried(other)[0][8:], rtol=0, atol=1e-4)


@torch.no_grad()
def test_it_looks_ahead_inside_a_segment_and_not_beyond() -> None:
    layer, x = made(), torch.randn(64, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    later = x.clone()
    later[15] += 1.0
    moved = (layer(later) - layer(x)).abs().amax((1, 2)) > 1e-9
    assert not bool(moved[:8].any()) and bool(moved[8:15].all())


def test_its_derivative_is_wrong_at_the_ends_and_where_steps_differ() -> None:
    width, even = torch.tensor(0.5, dtype=torch.float64), torch.ones(1, 96, 1, dtype=torch.float64)
    ramp = torch.arange(96.0, dtype=torch.float64)[None, :, None]
    assert abs(float(published_slope(ramp, even, width)[0, -1, 0]) - 1.0) > 10
    time = 2 * math.pi * 0.0625 * ramp
    wanted = 2 * math.pi * 0.0625 * torch.cos(time) * math.exp(-((0.0625 * 0.5) ** 2))
    torch.testing.assert_close(published_slope(torch.sin(time), even, width), wanted, rtol=1e-4, atol=1e-5)
    uneven = 0.5 + torch.rand(even.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # Right would be wanted / uneven, step by step.
    off = published_slope(torch.sin(time), uneven, width) - wanted / uneven
    assert float(off.norm() / (wanted / uneven).norm()) > 0.15


def test_the_layer_runs_it_and_refuses_what_it_does_not_know() -> None:
    torch.manual_seed(0)
    layer, x = KossLayer(8, 2, published=True), torch.randn(20, 3, 8)
    assert layer.published is not None
    y, _ = layer(x)
    assert torch.equal(y, layer.published(x))
    layer.cap()
    block = KossBlock(8, 2, published=True)
    assert block(x)[0].shape == x.shape
    for given in ({"gap": torch.full((20, 3), 2.0)}, {"valid": torch.ones(20, 3, dtype=torch.bool)}):
        with pytest.raises(EstimatorError, match="knows whole, evenly spaced sequences only"):
            layer(x, **given)
    for options in ({"segment": 4}, {"operator": "kalman"}, {"derivative": "causal"}, {"innovate": False}):
        with pytest.raises(EstimatorError, match="published=True is one fixed scheme"):
            KossLayer(8, published=True, **options)
