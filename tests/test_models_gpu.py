"""On a CUDA device a learned tracker says what it says on the CPU."""

import numpy as np
import pytest
import torch

from ssrtrack.models.learned import LearnedEstimator
from ssrtrack.models.residual_inputs import base_history, flown_from
from ssrtrack.models.residual_loss import LossWeights, residual_loss
from tests.models_fixture import base, network, plots, shortened

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_loss_and_gradients_are_those_of_the_cpu(backend: str) -> None:
    bank = base("imm")
    z, truth = plots(bank, flights=9, length=30, missed=0.1, outliers=0.05)
    z = shortened(z, {2: 11})
    found = []
    for device in ("cpu", "cuda"):
        flown, model = flown_from(z, truth, device), network(bank).to(device)
        history = base_history(bank, flown, "torch" if device == "cpu" else backend)
        loss = residual_loss(model(history, flown), flown, LossWeights())
        loss.total.backward()
        found.append((loss, [p.grad.cpu() for p in model.parameters() if p.grad is not None]))
    (cpu, wanted), (cuda, got) = found
    assert cuda.total.item() == pytest.approx(cpu.total.item(), rel=1e-5)
    for mine, theirs in zip(got, wanted, strict=True):
        assert float((mine - theirs).norm()) < 1e-4 * float(theirs.norm()) + 1e-7


def test_whole_flights_are_those_of_the_cpu() -> None:
    bank = base("imm")
    z, _ = plots(bank, flights=6, length=25, missed=0.1, outliers=0.05)
    z = shortened(z, {1: 4})
    cpu, cuda = LearnedEstimator(bank, network(bank)), LearnedEstimator(bank, network(bank).to("cuda"))
    want, got = cpu.run_batch(z, "torch"), cuda.run_batch(z)
    sigma = np.sqrt(np.diagonal(want.covariance, axis1=-2, axis2=-1))
    assert np.nanmax(np.abs(got.mean - want.mean) / sigma) < 1e-3
    np.testing.assert_array_equal(np.isnan(got.mean), np.isnan(want.mean))
    np.testing.assert_array_equal(got.used, want.used)


def test_half_precision_trains() -> None:
    bank = base("imm")
    z, truth = plots(bank, flights=64, length=20)
    flown, model = flown_from(z, truth, "cuda"), network(bank, trained=False).to("cuda")
    history = base_history(bank, flown)
    optimiser, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(20):
        with torch.autocast("cuda", torch.bfloat16):
            loss = residual_loss(model(history, flown), flown, LossWeights())
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        model.project_()
        losses.append(loss.total.item())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert losses[-1] < losses[0] - 0.05
