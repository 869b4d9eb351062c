"""The experiments on KOSS behind docs/koss.md: their numbers, the look inside a layer, figures that can be drawn."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.errors import EstimatorError
from ssrtrack.experiments import gain_convergence, koss_precision, sdu_response
from ssrtrack.experiments.evidence import main
from ssrtrack.kernels.koss_form import LoopForm
from ssrtrack.kernels.koss_operators import innovation_gain
from ssrtrack.models.koss import KossBlock, KossLayer
from ssrtrack.models.koss_trace import look_inside, trace, trace_loop
from ssrtrack.report.figures_koss import save

Tensor = torch.Tensor
# Forward-mode differentiation loads torch's own scripted formulas.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


@pytest.fixture(scope="module")
def response() -> sdu_response.SduResponse:
    return sdu_response.sdu_response()


@pytest.fixture(scope="module")
def learned() -> gain_convergence.Learned:
    return gain_convergence.learned(steps=120)


# Layers whose inside is looked at: every operator, segments, passes, derivatives, heads and ablations.
LAYERS: dict[str, dict[str, Any]] = {
    "default": {},
    "two heads, refined segments": {"head": 8, "segment": 8, "passes": 1},
    "stale segments": {"segment": 4, "passes": 0},
    "neumann": {"operator": "neumann", "segment": 16},
    "kalman with a slope": {"operator": "kalman", "derivative": "difference"},
    "exact": {"operator": "exact"},
    "bucy, causal slope": {"operator": "bucy", "derivative": "causal"},
    "spectral": {"derivative": "spectral"},
    "input only": {"innovate": False, "input_gain": False},
}


def inputs(steps: int = 37, batch: int = 3, width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """x, gaps and misses of a few sequences."""
    g = torch.Generator().manual_seed(5)
    x = torch.randn(steps, batch, width, generator=g)
    return x, 0.5 + torch.rand(steps, batch, generator=g), torch.rand(steps, batch, generator=g) > 0.2


@pytest.mark.parametrize("name", LAYERS)
def test_trace_is_the_layer(name: str) -> None:
    torch.manual_seed(1)
    layer = KossLayer(16, states=3, **LAYERS[name]).double()
    x, gap, valid = inputs()
    x = x.double()
    with torch.no_grad():
        y, after = layer(x, gap, valid)
        inside = trace(layer, x, gap, valid)
    assert (inside.output - y).abs().max() < 1e-12
    assert (inside.state[-1] - after.scan).abs().max() < 1e-12
    assert torch.equal(inside.gain == 0.0, ~valid[..., None].expand_as(inside.gain))
    assert inside.innovation.shape == inside.delta.shape == x.shape and inside.kappa.shape == (*x.shape[:2], 3, 16)


def test_trace_goes_on_from_a_state() -> None:
    torch.manual_seed(1)
    layer = KossLayer(16)
    x, gap, valid = inputs()
    with torch.no_grad():
        _, middle = layer(x[:20], gap[:20], valid[:20])
        whole, rest = trace(layer, x, gap, valid), trace(layer, x[20:], gap[20:], valid[20:], middle)
    assert (whole.innovation[20:] - rest.innovation).abs().max() < 1e-5


def test_innovation_is_what_the_state_did_not_predict() -> None:
    torch.manual_seed(1)
    layer = KossLayer(16, states=2).double()
    x, gap, _ = inputs()
    x = x.double()
    with torch.no_grad():
        inside = trace(layer, x, gap)
        decay = torch.exp(inside.delta[1:, :, None] * -layer.log_rate.exp())
        predicted = (inside.read[1:, :, :, None] * decay * inside.state[:-1]).sum(2)
        gain = innovation_gain(inside.innovation, inside.logit, layer.gain.w1, layer.gain.b1, layer.gain.w2)
    assert (x[1:] - predicted - inside.innovation[1:]).abs().max() < 1e-12
    assert (gain - inside.gain).abs().max() < 1e-12


def test_look_inside_finds_every_layer_and_changes_nothing() -> None:
    torch.manual_seed(1)
    block = KossBlock(16)
    x, gap, valid = inputs()
    y, after = block(x, gap, valid)
    (again, _), layers = look_inside(block, x, gap, valid)
    assert torch.equal(again, y) and not again.requires_grad and list(layers) == ["koss"]
    assert (layers["koss"].state[-1] - after.koss.scan).abs().max() < 1e-5
    assert not block.koss._forward_pre_hooks
    with pytest.raises(EstimatorError, match="ran no KossLayer"):
        look_inside(torch.nn.Linear(16, 2), x)
    with pytest.raises(EstimatorError, match="koss was given lengths"):
        look_inside(block, x, gap, lengths=torch.tensor([3, 37, 0]))


def test_what_cannot_be_traced_is_refused() -> None:
    x, gap, _ = inputs(steps=6)
    with pytest.raises(EstimatorError, match="published"):
        trace(KossLayer(16, published=True), x)
    layer = KossLayer(16, segment=4)
    _, state = layer(x, gap)
    with pytest.raises(EstimatorError, match="2 steps into a segment"):
        trace(layer, x, gap, None, state)
    with pytest.raises(EstimatorError, match=r"gap is \(5, 3\), expected \(6, 3\)"):
        trace(layer, x, gap[:5])
    packed, _ = layer.loop_inputs(x[:, :1], offsets=torch.tensor([0, 2, 6], dtype=torch.int32))
    with pytest.raises(ValueError, match="offsets"):
        trace_loop(packed, layer.form)


def test_riccati_flow_reproduces_the_published_table() -> None:
    """|K − K∞| from P(0) = I at the samples next to 1 … 5 s, as the paper's authors print it for this system."""
    flow = gain_convergence.convergence()
    assert flow.steady == pytest.approx([1.0 - np.sqrt(2.0), 0.68179283], abs=1e-8)
    printed = [0.055, 0.042, 0.0067, 0.0006, 0.0001]
    assert flow.distance["I"][list(gain_convergence.TABLE)] == pytest.approx(printed, abs=1e-3)
    ends = np.array([K[-1] for K in flow.gain.values()])
    assert np.abs(ends - flow.steady).max() < 1e-6
    assert all(
        K[0, 1] == pytest.approx(P[1, 1])
        for K, P in zip(flow.gain.values(), gain_convergence.STARTS.values(), strict=True)
    )


def test_a_layer_finds_the_gains_of_kalman_filters(learned: gain_convergence.Learned) -> None:
    """Trained for seconds only: the order of the gains, and errors near the optimal filters'."""
    assert learned.kalman[-1] == pytest.approx(learned.steady, abs=1e-6)
    assert np.corrcoef(learned.found, learned.steady)[0, 1] > 0.9
    ratio = learned.error / learned.floor
    assert ratio.min() > 0.99 and ratio.mean() < 1.25


@pytest.mark.parametrize(("unit", "cutoff"), [("SDU f_c 0.10", 0.1), ("SDU f_c 0.25", 0.25), ("SDU f_c 0.35", 0.35)])
def test_sdu_differentiates_up_to_its_cutoff(response: sdu_response.SduResponse, unit: str, cutoff: float) -> None:
    below = response.frequency <= cutoff
    ideal = 2 * np.pi * response.frequency[below]
    assert np.abs(response.gain[unit][below] / ideal - 1.0).max() < 1e-3
    assert response.error[unit][below].max() < 1e-3
    assert response.gain[unit][response.frequency >= 2 * cutoff].max(initial=0.0) < 1e-3
    assert response.ramp_last[unit] == pytest.approx(0.0, abs=1e-9)
    assert response.jittered[unit].max() < 1e-3


def test_differences_have_their_known_responses(response: sdu_response.SduResponse) -> None:
    f = response.frequency
    for unit in ("forward difference", "backward difference"):
        assert response.gain[unit] == pytest.approx(2 * np.sin(np.pi * f), rel=1e-3)
    assert response.gain["central difference"] == pytest.approx(np.sin(2 * np.pi * f), rel=1e-3)
    assert {name: n for name, n in response.lookahead.items() if "SDU" not in name} == {
        "central difference": 1,
        "forward difference": 1,
        "backward difference": 0,
        "causal parabola, 5 taps": 0,
        "published, segments of 16": 15,
    }


def test_stamps_ignored_cost_accuracy_and_noise_falls_with_the_signal(response: sdu_response.SduResponse) -> None:
    told, blind = (response.jittered[f"SDU f_c 0.25{end}"] for end in ("", ", stamps ignored"))
    assert blind[-1] > 100 * told[-1] and blind[0] == pytest.approx(told[0], abs=1e-6)
    assert all(np.all(np.diff(curve) < 0) for curve in response.noisy.values())
    assert abs(response.ramp_last["published, segments of 16"]) > 1.0


def test_low_precision_costs_what_it_rounds() -> None:
    given = koss_precision.loop_inputs(192, 2, norm=5.7)
    assert [float(torch.linalg.matrix_norm(w, 2)[0]) for w in (given.w1, given.w2)] == pytest.approx([5.7**0.5] * 2)
    form = LoopForm()
    with torch.no_grad():
        exact = koss_precision.outputs(given, form, "float64")
        ways = {way: koss_precision.outputs(given, form, way) for way in koss_precision.WAYS}
    found = {way: koss_precision.by_block(y, exact, 64) for way, y in ways.items()}
    assert all(len(error) == 3 for error in found.values())
    means = [error.mean() for error in found.values()]
    assert means == sorted(means) and means[0] < 1e-6 and 3e-4 < means[1] < means[-1] < 1e-2


@pytest.mark.parametrize("seeing", [False, True])
def test_gradient_norm_is_that_of_autograd(seeing: bool) -> None:
    """All N·C columns of ∂y_L/∂h_0 by reverse mode, against random probes by forward mode."""
    steps, at = 12, 9
    norms = koss_precision.gradient_norms(16.0, 4, steps=steps, probes=256, heads=1, seeing=seeing)
    given = koss_precision.loop_inputs(steps, 1, 16.0, seeing=seeing)
    assert given.w1.shape == (1, 128 if seeing else 64, 64)

    def last(start: Tensor) -> Tensor:
        return trace_loop(given._replace(start=start), LoopForm(segment=4, passes=1)).output[0, at - 1]

    start = given.start.clone().requires_grad_()
    rows = [torch.autograd.grad(value, start, retain_graph=True)[0] for value in last(start)]
    exact = torch.stack(rows).square().sum().sqrt()
    assert norms[at - 1, 0] == pytest.approx(float(exact), rel=0.1)


def test_loop_contracts_at_the_cap_and_not_far_beyond() -> None:
    slopes = {norm: koss_precision.growth(koss_precision.gradient_norms(norm, 1, 320, 4)) for norm in (16.0, 91.0)}
    assert slopes[16.0].max() < 0.0 < slopes[91.0].min()


def test_tables_and_figures(
    response: sdu_response.SduResponse, learned: gain_convergence.Learned, tmp_path: Path
) -> None:
    """Every table has its columns filled, and every figure becomes an SVG and a PNG that something is drawn in."""
    both = gain_convergence.convergence(), learned
    precise = koss_precision.koss_precision(steps=32, gradient_steps=16)
    made = {
        "gain_convergence": (gain_convergence.table(both), gain_convergence.draw(both)),
        "sdu_response": (sdu_response.table(response), sdu_response.draw(response)),
        "koss_precision": (koss_precision.table(precise), koss_precision.draw(precise)),
    }
    for name, (rows, figure) in made.items():
        assert len({tuple(row) for row in rows}) == 1 and all(np.isfinite(float(row["value"])) for row in rows)
        assert sum(len(axes.lines) for axes in figure.axes) >= 12
        svg, png = save(figure, tmp_path, name)
        assert (
            svg.read_text().count("<path") > 50 and png.read_bytes()[:4] == b"\x89PNG" and png.stat().st_size > 20_000
        )
        assert svg.read_bytes() == save(figure, tmp_path / "again", name)[0].read_bytes()


def test_module_writes_table_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sdu_response", "--output", str(tmp_path / "new")])
    arguments = ("sdu_response", "what it shows", sdu_response.sdu_response, sdu_response.table, sdu_response.draw)
    assert main(*arguments) == 0
    with (tmp_path / "new" / "sdu_response.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["test"] for row in rows} >= {"gain", "ramp_last_sample_error"}
    assert sorted(p.suffix for p in (tmp_path / "new").iterdir()) == [".csv", ".png", ".svg"]
