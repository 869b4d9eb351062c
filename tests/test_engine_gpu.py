"""The Triton kernels and torch on a CUDA device against numba in float64. Skips without a device.

Banks of several models take Triton minutes in float64, so these are compared in float32 only.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest

from ssrtrack.filters import batched
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.run import run
from ssrtrack.kernels.kalman import scan, smooth
from tests.engine_cases import BANKS, OPTIONS
from tests.kernels_fixture import Packed, flights, gap, outputs_of, packed

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

IMMS = [name for name in BANKS if name.startswith("imm")]
SINGLE = [name for name in BANKS if name not in IMMS]
# float32 on numba is within 3e-4 of float64 over these flights (in σ), its smoother within 5e-4; twice that is granted.
NEAR = {"float64": 1e-9, "float32": 6e-4}
NEAR_SMOOTHED = {"float64": 1e-8, "float32": 1e-3}
RANDOM = np.random.default_rng(0)
SHAPES: dict[str, tuple[int, ...]] = {
    "one track": (12,),
    "63 tracks": tuple(int(n) for n in RANDOM.integers(1, 10, 63)),
    "500 tracks, no plot in some": tuple(int(n) for n in RANDOM.integers(0, 8, 500)),
}


@cache
def given(name: str, shape: str, dtype: str = "float64", option: str = "gate+tail") -> Packed:
    return packed(name, flights(4, SHAPES[shape]), dtype, **OPTIONS[option])


@cache
def reference(name: str, shape: str, option: str = "gate+tail") -> tuple[dict[str, Any], Any]:
    """All outputs and the final state, by numba in float64."""
    x = given(name, shape, option=option)
    return scan(x.form, x.vector, x.columns, x.layout, outputs_of(x.form), backend="numba")


def assert_outputs(got: dict[str, Any], expected: dict[str, Any], tolerance: float, what: str) -> None:
    np.testing.assert_array_equal(got["used"], expected["used"], err_msg=what)
    for name in ("predicted", "filtered"):
        assert gap(got[name], expected[name]) <= tolerance, f"{what}: {name}"
    for name in ("modes", "log_likelihood"):
        if name in expected:
            np.testing.assert_allclose(
                got[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=f"{what}: {name}"
            )


def assert_equals_numba(name: str, dtype: str, option: str, shapes: list[str], backend: str = "triton") -> None:
    for shape in shapes:
        x = given(name, shape, dtype, option)
        # Handing on the many numbers of several models' states multiplies the time that Triton takes to compile.
        states = name in SINGLE or backend == "torch"
        outputs = tuple(output for output in outputs_of(x.form) if states or output != "state")
        options: dict[str, Any] = {"backend": backend, "device": "cuda", "final_state": states}
        got, final = scan(x.form, x.vector, x.columns, x.layout, outputs, **options)
        assert got["filtered"].dtype == dtype
        assert_outputs(got, reference(name, shape, option)[0], NEAR[dtype], shape)
        if final is None:
            assert not states
            continue
        assert final.dtype == dtype
        # The state handed on is that after each track's last plot.
        ends = np.searchsorted(-x.layout.alive, -np.arange(x.layout.tracks), side="left") - 1
        last = x.layout.offsets[ends] + np.arange(x.layout.tracks)
        np.testing.assert_array_equal(final, got["state"][:, last])


@pytest.mark.parametrize("option", ["plain", "gate+tail"])
@pytest.mark.parametrize("name", SINGLE)
def test_single_models_equal_numba(name: str, option: str) -> None:
    assert_equals_numba(name, "float64", option, list(SHAPES))


@pytest.mark.parametrize("name", SINGLE)
def test_single_models_in_float32(name: str) -> None:
    assert_equals_numba(name, "float32", "gate+tail", ["63 tracks", "500 tracks, no plot in some"])


@pytest.mark.parametrize("name", IMMS)
def test_several_models_in_float32(name: str) -> None:
    assert_equals_numba(name, "float32", "gate+tail", ["63 tracks", "500 tracks, no plot in some"])


@pytest.mark.parametrize("name", ["kf", "ukf-ct", "imm2", "imm"])
def test_torch_on_the_device_equals_numba(name: str) -> None:
    assert_equals_numba(name, "float64", "gate+tail", ["63 tracks"], "torch")


@pytest.mark.parametrize(
    ("name", "dtype"), [("kf", "float64"), ("singer", "float64"), ("ukf-ct", "float64"), ("imm2", "float32")]
)
def test_a_scan_goes_on_from_a_state(name: str, dtype: str) -> None:
    """The first four columns, then the rest from the state they ended in."""
    x = given(name, "63 tracks", dtype)
    cut = int(x.layout.offsets[4])
    lengths = np.searchsorted(-x.layout.alive, -np.arange(x.layout.tracks), side="left")
    layout = type(x.layout)
    early, late = layout.of(np.minimum(lengths, 4)), layout.of(lengths[lengths > 4] - 4)
    outputs = outputs_of(x.form)
    a, state = scan(x.form, x.vector, x.columns[:, :cut], early, outputs, backend="triton")
    assert state is not None
    b, final = scan(
        x.form, x.vector, x.columns[:, cut:], late, outputs, backend="triton", state=state[:, : late.tracks]
    )
    joined = {name: np.concatenate([a[name], b[name]], 1) for name in outputs}
    expected = reference(name, "63 tracks")
    assert_outputs(joined, expected[0], NEAR[dtype], "both parts")
    np.testing.assert_allclose(final, b["state"][:, _last(late)], rtol=0.0, atol=0.0)


def _last(layout: Any) -> Any:
    ends = np.searchsorted(-layout.alive, -np.arange(layout.tracks), side="left") - 1
    return layout.offsets[ends] + np.arange(layout.tracks)


@pytest.mark.parametrize("lag", [None, 0, 2])
@pytest.mark.parametrize("name", SINGLE)
def test_smoother_equals_numba(name: str, lag: int | None) -> None:
    for shape in SHAPES:
        x = given(name, shape)
        got = smooth(x.form, x.vector, x.columns, x.layout, backend="triton", lag=lag)
        expected = smooth(x.form, x.vector, x.columns, x.layout, backend="numba", lag=lag)
        assert gap(got, expected) <= NEAR_SMOOTHED["float64"], shape


@pytest.mark.parametrize("name", ["kf", "singer", "ukf-ct"])
def test_smoother_in_float32(name: str) -> None:
    shape = "500 tracks, no plot in some"
    x, exact = given(name, shape, "float32"), given(name, shape)
    got = smooth(x.form, x.vector, x.columns, x.layout, backend="triton")
    expected = smooth(exact.form, exact.vector, exact.columns, exact.layout, backend="numba")
    assert gap(got, expected) <= NEAR_SMOOTHED["float32"]


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_what_exceeds_the_memory_is_streamed(backend: str) -> None:
    x = given("kf", "500 tracks, no plot in some")
    arguments, outputs = (x.form, x.vector, x.columns, x.layout), outputs_of(x.form)
    whole, final = scan(*arguments, outputs, backend=backend)
    smoothed = smooth(*arguments, backend=backend, lag=2)
    for memory_bytes in (1, 20_000):
        parts, state = scan(*arguments, outputs, backend=backend, memory_bytes=memory_bytes)
        for name in outputs:
            np.testing.assert_allclose(parts[name], whole[name], rtol=1e-12, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(state, final, rtol=1e-12, atol=1e-12)
        streamed = smooth(*arguments, backend=backend, lag=2, memory_bytes=memory_bytes)
        np.testing.assert_allclose(streamed, smoothed, rtol=1e-10, atol=1e-10)


def test_free_memory_decides_how_much_is_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    x = given("kf", "500 tracks, no plot in some")
    sent = []
    to = torch.Tensor.to

    def watched(tensor: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(tensor.numel() if tensor.ndim == 2 and tensor.shape[0] == len(x.form.columns) else 0)
        return to(tensor, *arguments, **options)

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (100_000, 10**9))
    monkeypatch.setattr(torch.Tensor, "to", watched)
    got, _ = scan(x.form, x.vector, x.columns, x.layout, ("filtered",), backend="torch", device="cuda")
    assert 0 < max(sent) * x.columns.itemsize < 80_000 < x.columns.nbytes
    assert gap(got["filtered"], reference("kf", "500 tracks, no plot in some")[0]["filtered"]) <= NEAR["float64"]


@pytest.mark.parametrize("name", ["kf", "ekf-ct", "ukf-ct"])
def test_every_place_is_written(name: str) -> None:
    """Outputs and states are poisoned before; NaN may stay only where there is no prediction."""
    import torch

    from ssrtrack.kernels.kalman_triton import device_layout, launch
    from ssrtrack.kernels.kalman_triton_smooth import launch as launch_smoother

    x = given(name, "63 tracks")
    outputs = outputs_of(x.form)
    columns, vector = torch.from_numpy(x.columns).cuda(), torch.from_numpy(x.vector).cuda()
    layout = device_layout(x.layout, columns.device)
    rows = sum(len(part) for part in reference(name, "63 tracks")[0].values())
    out = columns.new_full((rows, x.layout.plots), float("nan"))
    state = columns.new_full((x.form.state_size, x.layout.tracks), float("nan"))
    launch(x.form, vector, columns, layout, outputs, state, out, fresh=True)
    assert bool(state.isfinite().all())
    assert bool(out[14:].isfinite().all())
    assert bool(out[:14, : x.layout.tracks].isnan().all())
    assert bool(out[:14, x.layout.tracks :].isfinite().all())
    filtered = out[-x.form.state_size :].contiguous()
    for lag in (None, 0, 3):
        smoothed = columns.new_full((14, x.layout.plots), float("nan"))
        launch_smoother(x.form, vector, columns[0], filtered, layout, lag, smoothed)
        assert bool(smoothed.isfinite().all()), lag


def test_auto_takes_the_gpu_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batched.chosen("auto", batched.GPU_FROM_PLOTS) == "triton"
    assert batched.chosen("auto", batched.GPU_FROM_PLOTS - 1) == "numba"
    monkeypatch.setattr(batched, "GPU_FROM_PLOTS", 1)
    z = flights(4, SHAPES["63 tracks"])
    on_gpu, on_cores = run(make_estimator("kf"), z), run(make_estimator("kf"), z, backend="numba")
    alive = np.isfinite(z.time_s)
    np.testing.assert_allclose(on_gpu.mean[alive], on_cores.mean[alive], rtol=1e-10, atol=1e-6)
