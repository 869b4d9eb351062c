"""The compiled step of KOSS in rows of memory: registers, products, and a stack of blocks beside torch's."""

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from ssrtrack.kernels import koss_rows_numba, lanes_numba
from ssrtrack.kernels.koss_rows_weights import memory_size, packed
from ssrtrack.kernels.lanes_numba import LANES, PANEL, ROWS, panelled, product, revision
from ssrtrack.models.koss_packed import Packed
from ssrtrack.models.residual import ResidualKoss
from ssrtrack.models.residual_blocks import packed as packed_rows
from ssrtrack.models.residual_blocks import unpacked
from tests.models_fixture import base, network

FUNCTIONS: dict[str, Any] = {
    "exp": np.exp,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0.0, x),
}
# Sizes of blocks; in registers of 16: heads that fill some, that do not, widths that end within one.
SHAPES: dict[str, dict[str, Any]] = {
    "shipped": {"width": 128, "head": 64, "states": 4, "options": {"see_prediction": True}},
    "the paper's gain": {"width": 64, "head": 32, "states": 4},
    "small heads": {"width": 24, "head": 6, "states": 3, "options": {"see_prediction": True}},
    "an odd width": {"width": 37, "head": 37, "states": 1, "rank": 1, "options": {"see_prediction": True}},
    "many states": {"width": 32, "head": 16, "states": 19, "rank": 18, "options": {"see_prediction": True}},
    "no linear gain": {"width": 40, "head": 20, "options": {"input_gain": False}},
    "narrower than a register": {"width": 3, "head": 1, "states": 2, "history": 0, "options": {"see_prediction": True}},
}


def stirred(seed: int = 0, **config: Any) -> ResidualKoss:
    """A network whose every weight counts: what begins as zeros or ones is not left so."""
    model = network(base("imm"), seed, **config)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
        model.project_()
    return model


def by_torch(model: ResidualKoss, told: Any, since_s: Any, memory: Any) -> tuple[Any, Any, Any]:
    """Output, head's numbers and memory after a plot."""
    with torch.inference_mode():
        state = unpacked(model.blocks, torch.from_numpy(memory), 0)
        features = torch.from_numpy(told)[None, :, : model.inward.in_features]
        y, after = model.sequence(features, torch.from_numpy(since_s)[None].float(), state)
        return y[0].numpy(), model.filter_head(y[0]).numpy(), packed_rows(model.blocks, after).numpy()


@njit
def all_functions(x: Any, out: Any) -> None:
    """FUNCTIONS of x, one after another, to the rows of out."""
    for i in range(0, x.size, LANES):
        value = lanes_numba.load(x, i)
        lanes_numba.store(out, i, lanes_numba.exp(value))
        lanes_numba.store(out, x.size + i, lanes_numba.sigmoid(value))
        lanes_numba.store(out, 2 * x.size + i, lanes_numba.silu(value))
        lanes_numba.store(out, 3 * x.size + i, lanes_numba.softplus(value))


def test_functions_of_registers() -> None:
    x = np.concatenate([np.linspace(-87.0, 87.0, 4001), [0.0, -0.0], *np.logspace(-30, 1, 50) * [[1.0], [-1.0]]])
    x = np.resize(x, -(-x.size // LANES) * LANES).astype(np.float32)
    out = np.empty((len(FUNCTIONS), x.size), np.float32)
    all_functions(x, out)
    for row, wanted in zip(out, FUNCTIONS.values(), strict=True):
        np.testing.assert_allclose(row, wanted(x.astype(np.float64)), rtol=4e-7, atol=1e-37)


def test_functions_of_registers_far_out() -> None:
    x = np.resize(np.array([-1e9, 1e9, np.inf, np.nan], np.float32), LANES)
    out = np.empty((len(FUNCTIONS), LANES), np.float32)
    all_functions(x, out)
    top = np.exp(np.float32(88.0))
    wanted = [[0.0, top, top], [0.0, 1.0, 1.0], [0.0, 1e9, np.inf], [0.0, 1e9, np.inf]]
    np.testing.assert_allclose(out[:, :3], wanted, rtol=1e-5, atol=1e-28)
    assert np.isnan(out[:, 3]).all()


@pytest.mark.parametrize("finish", ["set", "relu", "add"])
def test_products_from_panels(finish: str) -> None:
    rng, run = np.random.default_rng(5), product(finish)
    rows, columns = 3 * ROWS, 2 * PANEL
    for K in (1, 7, 64):
        x, w = rng.normal(size=(rows, K + 2)).astype(np.float32), rng.normal(size=(K, columns - 3)).astype(np.float32)
        bias = rng.normal(size=columns).astype(np.float32)
        there = rng.normal(size=(rows, columns + 5)).astype(np.float32)
        whole = x[:, :K].astype(np.float64) @ np.pad(w, ((0, 0), (0, 3)))
        wanted = whole + (there[:, :columns] if finish == "add" else bias)
        out = there.copy()
        run(x.ravel(), K + 2, panelled(w), K, bias, out.reshape(-1), columns + 5, rows, columns)
        value = np.maximum(wanted, 0.0) if finish == "relu" else wanted
        np.testing.assert_allclose(out[:, :columns], value, rtol=0, atol=2e-6 * K**0.5)
        np.testing.assert_array_equal(out[:, columns:], there[:, columns:])


@pytest.mark.parametrize("name", SHAPES)
def test_a_step_in_rows_is_torchs(name: str) -> None:
    """From nothing, then from what a step left, among numbers of others; with gaps of none and of minutes."""
    model = stirred(**SHAPES[name])
    known, rng = Packed.of(model), np.random.default_rng(1)
    network_ = known.network
    size = memory_size(network_.sizes)
    for count, threads in ((1, 1), (131, 2)):
        rows, memory = np.full((2, count, size + 3), np.nan, np.float32), np.zeros((count, size), np.float32)
        for _ in range(4):
            told = rng.normal(size=(count, model.inward.in_features + 4)).astype(np.float32)
            since_s = rng.choice([0.0, 0.02, 5.0, 11.0, 600.0], count)
            y, said, memory = by_torch(model, told, since_s, before := memory)
            rows[0, :, :size], rows[1] = before, np.nan
            gap = (since_s / model.config.nominal_gap_s).astype(np.float32)
            late = np.log(np.maximum(gap, np.float32(1e-3)))
            found = koss_rows_numba.step(network_, told, gap, late, rows[0], rows[1], threads=threads)
            for value, wanted in ((found[0], y), (found[1], said), (rows[1, :, :size], memory)):
                np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)
                assert np.sqrt(np.square(value - wanted).mean() / np.square(wanted).mean()) < 3e-6
            np.testing.assert_array_equal(rows[0, :, :size], before)
            assert np.isnan(rows[1, :, size:]).all()


@pytest.mark.parametrize("name", ["small heads", "an odd width"])
def test_a_sequence_is_alone(name: str) -> None:
    """What one is told, though it be no number, changes none of the others; nor does how many there are."""
    model = stirred(**SHAPES[name])
    network_, rng = Packed.of(model).network, np.random.default_rng(2)
    size, count = memory_size(network_.sizes), 2 * koss_rows_numba.TILE + 5
    told = rng.normal(size=(count, model.inward.in_features)).astype(np.float32)
    before, ones = rng.normal(size=(count, size)).astype(np.float32), np.ones(count, np.float32)

    def stepped(told: Any, rows: slice) -> list[Any]:
        after = np.empty_like(before[rows])
        given = (told[rows], ones[rows], 0.0 * ones[rows], before[rows], after)
        return [*koss_rows_numba.step(network_, *given, threads=1), after]

    clean = stepped(told, slice(None))
    spoilt = told.copy()
    spoilt[3] = np.nan
    others = np.arange(count) != 3
    for mine, its in zip(stepped(spoilt, slice(None)), clean, strict=True):
        np.testing.assert_array_equal(mine[others], its[others])
        assert np.isnan(mine[3]).any()
    for mine, its in zip(stepped(told, slice(7, 20)), clean, strict=True):
        np.testing.assert_array_equal(mine, its[7:20])


def test_what_does_not_fit_is_refused() -> None:
    model = stirred(**SHAPES["small heads"])
    network_ = Packed.of(model).network
    size, F = memory_size(network_.sizes), model.inward.in_features
    told, line, rows = np.zeros((5, F), np.float32), np.zeros(5, np.float32), np.zeros((2, 5, size), np.float32)
    cases: dict[str, tuple[Any, ...]] = {
        rf"told is float32 \(5, {F - 1}\).* \(5, {F} or more\)": (told[:, 1:].copy(), line, line, rows[0], rows[1]),
        "told is float64": (told.astype(np.float64), line, line, rows[0], rows[1]),
        r"gap is float32 \(4,\), expected contiguous float32 \(5,\)": (told, line[1:], line, rows[0], rows[1]),
        "late is float64": (told, line, line.astype(np.float64), rows[0], rows[1]),
        rf"before is .*\({size} or more\)|before is": (told, line, line, rows[0, :, 1:].copy(), rows[1, :, 1:].copy()),
        "expected two arrays of one shape": (told, line, line, rows[0], rows[0]),
    }
    for message, given in cases.items():
        with pytest.raises(ValueError, match=message):
            koss_rows_numba.step(network_, *given, threads=1)


def test_blocks_of_unlike_shapes_are_no_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("ssrtrack.kernels.koss_rows_weights.packed", lambda blocks, ends: seen.append((blocks, ends)))
    for states in (2, 3):
        Packed.of(stirred(width=8, head=8, blocks=1, states=states))
    (((two,), ends), ((three,), _)) = seen
    assert packed([two, two], ends).sizes.blocks == 2
    with pytest.raises(ValueError, match="block 1 has arrays of"):
        packed([two, three], ends)
    with pytest.raises(ValueError, match="there are no blocks"):
        packed([], ends)


def test_what_is_compiled_knows_its_sources(tmp_path: Any) -> None:
    source = tmp_path / "form.py"
    source.write_text("a = 1")
    first = revision(source)
    source.write_text("a = 2")
    assert first != revision(source) and 0 < first < 2**62
