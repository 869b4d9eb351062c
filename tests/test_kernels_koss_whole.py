"""The segments' way back with a whole segment in registers, in tilings that no row of the common table asks for."""

import os
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from ssrtrack.kernels.koss_closed_loop import koss_closed_loop
from tests.koss_cases import NEAR, Case, answers, doubled, inputs_of, reference, worst

pytest.importorskip("triton")

from ssrtrack.kernels import koss_segment_backward
from ssrtrack.kernels.koss_segment_forward import Tiling
from ssrtrack.kernels.koss_segment_refined import refined_fits
from ssrtrack.kernels.koss_segment_whole import whole_fits

ROWS = {
    "two states a lane": (Case(T=9, C=16, N=4, S=8, mask=True), Tiling(1, 2, 1, 1, 8)),
    "no lanes, two sequences": (Case(T=6, C=16, N=2, S=4, mask=True), Tiling(2, 1, 1, 1, 4)),
    "several warps": (Case(T=5, B=1, H=2, C=32, N=2, S=4, slope=True, lead=True), Tiling(1, 2, 2, 1, 4)),
    "16 lanes": (Case(T=17, B=1, N=16, S=16), Tiling(1, 16, 8, 1, 16)),
    "kalman, packed": (Case("kalman", lengths=(5, 1, 4), N=4, S=4, mask=True), Tiling(1, 2, 1, 1, 4)),
    "exact": (Case("exact", T=5, N=4, S=4, slope=True, time_first=True), Tiling(1, 4, 2, 1, 4)),
    "refined": (Case(T=21, B=1, N=4, S=8, J=1, C=32, mask=True), Tiling(1, 2, 2, 1, 8)),
    "refined twice, led": (Case(T=5, B=1, J=2, H=2, S=4, slope=True, lead=True, mask=True), Tiling(1, 2, 1, 1, 4)),
    "refined, 4 lanes": (Case("kalman", lengths=(5, 1, 4), S=4, J=1, lead=True, slope=True), Tiling(1, 4, 2, 1, 4)),
    "refined, two sequences": (Case(T=9, N=2, S=4, J=1, mask=True), Tiling(2, 1, 1, 1, 4)),
    "refined, kalman": (Case("kalman", T=6, S=4, J=2, mask=True), Tiling(1, 2, 1, 1, 4)),
    "refined, exact": (Case("exact", T=6, S=4, J=1, slope=True, time_first=True), Tiling(1, 2, 1, 1, 4)),
    "refined, packed": (Case(lengths=(1, 3, 17), S=16, J=1, mask=True, slope=True, lead=True), Tiling(1, 2, 1, 1, 16)),
    "input only": (Case(T=5, N=2, S=4, innovate=False), Tiling(1, 2, 1, 1, 4)),
}


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton compiles for the card here: test_kernels_koss_gpu.py compares its kernels")
    with np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("name", ROWS)
def test_gradients_are_the_references(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, tiles = ROWS[name]
    fits = refined_fits if case.J > 0 else whole_fits
    assert fits(case.form, tiles, case.C, case.N // tiles.NS)
    monkeypatch.setattr(koss_segment_backward, "tiling_back", lambda *_: tiles)
    inputs = inputs_of(case)
    got = answers(partial(koss_closed_loop, backend="triton"), case, inputs)
    part, found = worst(got, answers(reference, case, doubled(inputs)))
    assert found < NEAR[case.dtype], (part, found)
