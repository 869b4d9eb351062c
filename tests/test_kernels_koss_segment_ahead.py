"""The segment kernel with states in lanes: against the float64 loop, and what it keeps against the kernel without."""

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.koss_cases import NEAR, Case, doubled, gap, inputs_of, reference

TABLE = {
    # sequences a program, lanes, warps: 32 threads a warp, one of a sequence's 16 channels and a lane's states each
    "two lanes, odd end": (Case(T=9, S=4, J=1, mask=True), (1, 2, 1)),
    "four lanes, whole segments": (Case(B=1, T=16, N=16, S=8, mask=True), (1, 4, 2)),
    "four lanes of three states": (Case("kalman", B=1, T=5, N=12, S=4, slope=True, lead=True), (1, 4, 2)),
    "eight lanes": (Case("exact", B=1, T=9, N=8, S=8, J=1, slope=True), (1, 8, 4)),
    "two sequences a program": (Case("bucy", T=9, S=8, J=1, mask=True), (2, 2, 2)),
    "as many steps as lanes": (Case("neumann", B=1, T=6, H=2, S=4, slope=True), (1, 4, 2)),
    "packed": (Case(lengths=(1, 9, 4), S=4, J=1, mask=True), (1, 2, 1)),
    "no innovation": (Case(B=1, T=5, S=4, innovate=False), (1, 2, 1)),
}


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton compiles for the card here: test_kernels_koss_gpu.py compares its kernels")
    pytest.importorskip("triton")
    with np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("name", TABLE)
def test_lanes_give_the_references_outputs_and_what_one_lane_keeps(name: str) -> None:
    from ssrtrack.kernels.koss_segment_ahead import fits
    from ssrtrack.kernels.koss_segment_forward import Tiling, forward

    case, (G, NS, warps) = TABLE[name]
    inputs = inputs_of(case)
    assert fits(G, case.C, NS, case.S, warps)
    y, last, (kept,) = forward(inputs, case.form, True, Tiling(G, NS, warps, 1))
    want_y, want_last = reference(doubled(inputs), case.form)
    assert gap(y, want_y) < NEAR["float32"]
    assert gap(last, want_last) < NEAR["float32"]
    assert not fits(1, case.C, 1, case.S, 1)
    _, _, (alone,) = forward(inputs, case.form, True, Tiling(1, 1, 1, 1))
    if not case.lengths:
        assert gap(kept, alone.double()) < NEAR["float32"]
    assert torch.equal(forward(inputs, case.form, False, Tiling(G, NS, warps, 1))[0], y)
