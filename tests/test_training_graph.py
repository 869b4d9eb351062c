"""The step as a CUDA graph and batches made ahead: when, what is kept of a record, and on a GPU the same losses."""

import warnings
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from ssrtrack.models.residual_inputs import Base, Flown, base_history
from ssrtrack.simulators.suite import load_suite
from ssrtrack.training import loop_graph
from ssrtrack.training.device_sampler import DeviceFlights
from ssrtrack.training.distributed import Ranks
from ssrtrack.training.loop import Training
from ssrtrack.training.loop_ahead import Batches
from ssrtrack.training.loop_graph import Gradient, Recorded, replayed, tensors_of
from ssrtrack.training.loop_model import loss_of, new_model
from ssrtrack.training.loop_recipe import Recipe
from tests.training_fixture import imm

WINDOWS, PLOTS = 4, 16


def flights_on(where: str) -> DeviceFlights:
    return DeviceFlights(load_suite("tma-4s", "train")[0], 3, WINDOWS, PLOTS, where, 0, 1)


def batches(count: int, where: str = "cpu") -> list[tuple[Base, Flown]]:
    flights = flights_on(where)
    found = [flights.windows(k) for k in range(count)]
    return [(base_history(imm(), flown), flown) for flown in found]


def moved_model(where: str = "cpu") -> Any:
    """A small model whose heads are not at their start, so that every weight has a gradient."""
    model, g = new_model("tiny", imm(), 4.0, 1), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=g))
    return model.to(where)


class Repeated:
    """In place of a CUDA graph: works out the batch that lies in the record's tensors, times a factor."""

    def __init__(self, gradient: Gradient, factor: float) -> None:
        self.gradient, self.factor, self.replays = gradient, factor, 0
        self.record: Recorded | None = None

    def replay(self) -> None:
        assert self.record is not None
        self.replays += 1
        found = self.gradient.eager(Base(*self.record.given[:4]), loop_graph.flown_of(self.record.given[4:]))
        self.record.found[0].copy_(self.factor * found[0])
        for mine, its in zip(self.record.found[2], found[2], strict=True):
            if mine is not None and its is not None:
                mine.copy_(self.factor * its)


def recording(monkeypatch: pytest.MonkeyPatch, factor: float) -> tuple[Gradient, list[Repeated]]:
    """A Gradient that takes the CPU for a GPU, and what it recorded."""
    gradient, made = Gradient(moved_model(), nullcontext), list[Repeated]()

    def record(base: Base, flown: Flown) -> Recorded:
        given = [v.clone() for v in tensors_of(base, flown)]
        made.append(Repeated(gradient, factor))
        made[-1].record = Recorded(made[-1], given, gradient.eager(base, flown))
        return made[-1].record  # type: ignore[return-value]

    monkeypatch.setattr(gradient, "_record", record)
    monkeypatch.setattr(loop_graph, "replayable", lambda flown: True)
    return gradient, made


def test_a_step_gives_autograds_gradient() -> None:
    model = moved_model()
    ((base, flown),) = batches(1)
    loss, plots, found = Gradient(model, nullcontext)(base, flown)
    expected, counted = loss_of(model, base, flown)
    expected.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(loss, expected.detach()) and int(plots) == int(counted) > 0
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=0)


def test_a_record_is_made_once_and_replayed_on_each_batchs_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient, made = recording(monkeypatch, 1.0)
    given = batches(5)
    for k, (base, flown) in enumerate(given):
        expected = gradient.eager(base, flown)
        loss, _, found = gradient(base, flown)
        assert float(loss) == pytest.approx(float(expected[0]), rel=1e-6)
        torch.testing.assert_close([v for v in found if v is not None], [v for v in expected[2] if v is not None])
        assert len(made) == (k >= loop_graph.EAGER_STEPS)
    # Once to compare, then for the last two batches.
    assert made[0].replays == 3
    base, flown = given[0]
    short = (Base(*(v[..., :2] for v in tensors_of(base, flown)[:4])), flown.select(slice(0, 2)))
    gradient(*short)
    assert made[0].replays == 3


def test_a_record_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient, made = recording(monkeypatch, 1.1)
    given = batches(4)
    for base, flown in given[:2]:
        gradient(base, flown)
    with pytest.warns(RuntimeWarning, match=r"not replayed.*loss is 1\.0e-01"):
        found = gradient(*given[2])
    assert float(found[0]) == pytest.approx(float(gradient.eager(*given[2])[0]), rel=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient(*given[3])
    assert len(made) == 1 and made[0].replays == 1


def test_what_depends_on_more_than_shapes_is_not_replayed() -> None:
    ((_, flown),) = batches(1)
    assert not loop_graph.replayable(flown)  # a CPU
    on_gpu: Any = type("Gpu", (), {"type": "cuda"})()

    class OnGpu(Flown):
        device = on_gpu

    here = OnGpu(**vars(flown))
    assert loop_graph.replayable(here)
    missed = flown.valid.clone()
    missed[0, 3] = False
    assert not loop_graph.replayable(replace(here, valid=missed))
    assert not loop_graph.replayable(replace(here, truth=None))


class Counted:
    """Flights that count how often they are asked."""

    def __init__(self, together: int = 1) -> None:
        self.flights, self.asked, self.together = flights_on("cpu"), list[int](), together

    def windows(self, k: int) -> Flown:
        self.asked.append(k)
        return self.flights.windows(k)


def test_batches_made_together_are_parted() -> None:
    """Each is asked for once, also where its first part was skipped, and a step ahead within them is there already."""
    counted = Counted(together=2)
    batches_ = Batches(counted, imm(), torch.device("cpu"))
    for k in (0, 1, 3, 4):
        flown, base = batches_.take(k)
        all_ = flights_on("cpu").windows(k // 2)
        half = slice(WINDOWS // 2 * (k % 2), WINDOWS // 2 * (k % 2 + 1))
        torch.testing.assert_close(flown.position_m, all_.position_m[half], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(base.mean, base_history(imm(), all_).mean[half], rtol=0, atol=0, equal_nan=True)
    assert counted.asked == [0, 1, 2]
    batches_._device = torch.device("cuda")
    batches_.prepare(5)  # would need a GPU
    assert counted.asked == [0, 1, 2]


class Stream:
    """In place of a CUDA stream: notes whom it waited for."""

    def __init__(self, *_: Any) -> None:
        self.waited: list[Any] = []

    def wait_stream(self, other: Any) -> None:
        self.waited.append(other)


def test_a_batch_made_ahead_is_the_batch_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, now = Counted(), Stream()
    ahead = Batches(counted, imm(), torch.device("cpu"))
    ahead.prepare(0)
    assert counted.asked == []  # nothing is made ahead on a CPU
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: now)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    ahead._device = torch.device("cuda")
    for k, prepared in ((4, 4), (5, 6), (7, None)):
        if prepared is not None:
            ahead.prepare(prepared)
        flown, base = ahead.take(k)
        expected = flights_on("cpu").windows(k)
        torch.testing.assert_close(flown.position_m, expected.position_m, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(base.mean, base_history(imm(), expected).mean, rtol=0, atol=0, equal_nan=True)
    assert counted.asked == [4, 6, 5, 7]
    assert now.waited == [ahead._stream]  # once, for the batch that had been prepared


@pytest.mark.gpu
def test_replays_on_a_gpu_are_right() -> None:
    gradient = Gradient(moved_model("cuda"), nullcontext)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for base, flown in batches(6, "cuda"):
            loss, plots, found = gradient(base, flown)
            loss, found = loss.clone(), [v if v is None else v.clone() for v in found]
            fault = loop_graph.unlike(gradient.eager(base, flown), (loss, plots, found))
            assert fault == ""
    assert gradient._recorded is not None
    assert replayed(gradient._recorded, tensors_of(base, flown))[0].isfinite()


@pytest.mark.gpu
def test_a_training_on_a_gpu_has_the_same_losses_with_and_without_replays_and_batches_ahead() -> None:
    recipe = Recipe(steps=12, minutes=0.0, batch=WINDOWS, window=PLOTS, size="tiny")
    losses = []
    for fast in (True, False):
        ranks = Ranks(0, 1, torch.device("cuda"))
        run = Training(recipe, moved_model(), imm(), flights_on("cuda"), None, ranks, replay=fast, ahead=fast)
        losses.append([run._step(1e-3) for _ in range(recipe.steps)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_gradients_lie_as_their_weights_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimiser that takes all weights in one launch refuses a gradient that came transposed."""
    model = torch.nn.Linear(3, 2, bias=False)
    other = torch.arange(6.0).reshape(3, 2)

    def loss(model: Any, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return (other * model.weight.T).square().sum(), torch.tensor(1)

    monkeypatch.setattr(loop_graph, "loss_of", loss)
    base, flown = batches(1)[0]
    (plain,) = torch.autograd.grad(loss(model)[0], model.weight)
    _, _, (found,) = Gradient(model, nullcontext)(base, flown)
    assert not plain.is_contiguous()
    assert found is not None and found.is_contiguous()
    torch.testing.assert_close(found, plain)
