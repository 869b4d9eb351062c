"""A KOSS layer whose gain sees the prediction: what is new in it, what it keeps, and what it gives up."""

from typing import Any

import pytest
import torch

from ssrtrack.models.koss import SPECTRAL_CAP, InnovationGain, KossBlock, KossLayer
from ssrtrack.models.koss_trace import trace

Tensor = torch.Tensor
START = 4.8  # about the ‖w1‖‖W2‖ that a layer of 64 channels is made with


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(width: int = 64, seed: int = 0, **options: Any) -> KossLayer:
    torch.manual_seed(seed)
    return KossLayer(width, **options).double()


def test_the_same_surprise_at_another_level_is_another_gain() -> None:
    """With e given, the paper's gain is given; here what the state carries has a say."""
    e, z = normal(5, 8), torch.zeros(5, 8, dtype=torch.float64)
    for seen in (False, True):
        torch.manual_seed(0)
        gain = InnovationGain(2, 4, see_prediction=seen).double()
        low, high = (gain(e, z, prediction=level + 0.0 * e) for level in (0.0, 2.0))
        assert torch.equal(low, high) != seen
    # Nothing carried: what is left is a gain of the paper's form.
    paper = InnovationGain(2, 4).double()
    paper.load_state_dict(gain.state_dict() | {"w1": gain.w1.detach()[:, :4]})
    torch.testing.assert_close(low, paper(e, z))


def test_it_has_c_squared_parameters_more_a_head_under_the_same_names() -> None:
    plain, seeing = (KossBlock(16, 3, 8, see_prediction=seen) for seen in (False, True))
    shapes = [{name: tuple(v.shape) for name, v in made.state_dict().items()} for made in (plain, seeing)]
    assert shapes[1] == shapes[0] | {"koss.gain.w1": (2, 16, 8)}
    without_input = KossBlock(16, 3, 16, see_prediction=True, input_gain=False)
    count = [sum(v.numel() for v in made.parameters()) for made in (KossBlock(16, 3, 16), without_input)]
    assert count[0] == count[1]


def test_an_older_checkpoint_is_a_layer_that_sees_none() -> None:
    saved = layer(16, head=8).state_dict()
    layer(16, 1, head=8).load_state_dict(saved)
    with pytest.raises(RuntimeError, match=r"size mismatch for gain\.w1"):
        layer(16, head=8, see_prediction=True).load_state_dict(saved)
    wide = saved | {"gain.w1": torch.cat([saved["gain.w1"], torch.zeros_like(saved["gain.w1"])], 1)}
    taught = layer(16, head=8, see_prediction=True)
    taught.load_state_dict(wide)
    x = normal(20, 2, 16)
    with torch.no_grad():
        torch.testing.assert_close(taught(x)[0], layer(16, head=8)(x)[0])


def test_both_parts_of_the_first_weight_are_held_to_the_cap_as_one() -> None:
    torch.manual_seed(0)
    gain = InnovationGain(2, 8, see_prediction=True)
    assert gain.w1.std().item() == pytest.approx(8**-0.5, rel=0.2)
    with torch.no_grad():
        for part in (gain.w1[0, :8], gain.w1[0, 8:]):  # each within the cap, both together beyond it
            part.mul_(3.5 / torch.linalg.matrix_norm(part, ord=2))
        gain.w1[1] *= 3.0 / torch.linalg.matrix_norm(gain.w1[1], ord=2)
        gain.w2.mul_(100.0)
    before = gain.w1.detach().clone()
    gain.cap()
    norms = [float(torch.linalg.matrix_norm(w.detach(), ord=2)) for w in (*gain.w1, *gain.w2)]
    assert norms == pytest.approx([SPECTRAL_CAP, 3.0, SPECTRAL_CAP, SPECTRAL_CAP], rel=1e-5)
    assert torch.equal(gain.w1[1], before[1])
    ratio = gain.w1[0] / before[0]
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))


@pytest.mark.parametrize("options", [{}, {"operator": "neumann", "segment": 4, "passes": 1}], ids=["S=1", "S=4"])
def test_a_trace_shows_the_layer_s_own_gain(options: dict[str, Any]) -> None:
    made, x = layer(16, head=8, see_prediction=True, **options), normal(14, 2, 16)
    with torch.no_grad():
        inside = trace(made, x)
        torch.testing.assert_close(inside.output, made(x)[0])
        ahead = x - inside.innovation
        torch.testing.assert_close(inside.gain, made.gain(inside.innovation, inside.logit, made.form.operator, ahead))


@torch.no_grad()
def test_a_bounded_input_keeps_the_state_bounded_whatever_the_gain_sees() -> None:
    """K is in (0, 1) for any φ: with c in (0, 1), h stays in the hull of its start and of x/c."""
    made, x = layer(16, head=16, see_prediction=True), 30.0 * normal(400, 2, 16)
    made.gain.w1.mul_(50.0)
    inside = trace(made, x)
    assert bool(torch.isfinite(inside.state).all()) and 0.0 <= float(inside.gain.min()) <= float(inside.gain.max()) <= 1
    most = torch.zeros_like(inside.state[0])
    for t in range(400):
        most = torch.maximum(most, x[t].abs()[:, None] / inside.read[t][..., None])
        assert bool((inside.state[t].abs() <= most * (1 + 1e-12)).all())


def growth(made: KossLayer, product: float, size: float = 1.0, steps: int = 500) -> float:
    """Mean log growth a step of ∂y_T/∂h_0 from step 200 on, on white noise, with ‖w1‖‖W2‖ scaled to `product`."""
    with torch.no_grad():
        for weight in (made.gain.w1, made.gain.w2):
            weight.mul_(product**0.5 / torch.linalg.matrix_norm(weight, ord=2, dim=(1, 2), keepdim=True))
    x, sizes = size * normal(steps, 2, made.width, seed=5), []
    for T in (200, steps):
        state = made.start(2)
        state.scan.requires_grad_()
        y, _ = made(x[:T], None, None, state)
        sizes.append(torch.autograd.grad(y[-1].sum(), state.scan)[0].norm().log().item())
    return float(sizes[1] - sizes[0]) / (steps - 200)


def test_seeing_the_prediction_costs_half_of_the_margin() -> None:
    """At the weights it begins with the loop forgets. At the cap it need not, where the paper's gain does."""
    assert growth(layer(see_prediction=True), START) < -0.002
    assert growth(layer(), SPECTRAL_CAP**2) < -0.002
    assert growth(layer(see_prediction=True), SPECTRAL_CAP**2) > 0.005
