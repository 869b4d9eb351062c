"""The smoother compiled by Triton, for banks of one model: backward over filtered states, whole flights or a fixed lag.

A fixed lag has a program for every block of tracks and every plot, whole flights one for every block of tracks.
"""

from functools import cache, partial
from typing import Any

import triton

from ssrtrack.kernels.kalman_form import Form
from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.kernels.kalman_source import Constants, back_body, module, show_body
from ssrtrack.kernels.kalman_trace import statements
from ssrtrack.kernels.kalman_triton import (
    BLOCK,
    ROUNDING,
    WARPS,
    constant_lines,
    device_layout,
    parameter_lines,
    renamed,
    spelling,
    trace,
)

Tensor = Any


def smooth(form: Form, vector: Tensor, dt_s: Tensor, filtered: Tensor, layout: Layout, lag: int | None) -> Tensor:
    """One backend of `ssrtrack.kernels.kalman.smooth`, on the device and in the precision of `filtered`."""
    out = filtered.new_empty((14, layout.plots))
    if layout.tracks:
        launch(form, vector, dt_s, filtered, device_layout(layout, filtered.device), lag, out)
    return out


def launch(
    form: Form,
    vector: Tensor,
    dt_s: Tensor,
    filtered: Tensor,
    layout: tuple[Tensor, Tensor, int],
    lag: int | None,
    out: Tensor,
) -> None:
    """Run the kernel into a given tensor, out (14, P)."""
    alive, offsets, tracks = layout
    steps = alive.numel()
    kernel = compiled(form, str(filtered.dtype).removeprefix("torch."))
    # One axis: the others end at 65,535, and flights may be longer.
    kernel[(triton.cdiv(tracks, BLOCK) * (1 if lag is None else steps),)](
        dt_s.to(filtered).contiguous(),
        filtered.contiguous(),
        offsets,
        alive,
        vector.to(filtered).contiguous(),
        out,
        filtered.shape[1],
        tracks,
        steps,
        steps if lag is None else lag,
        WHOLE=lag is None,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )


@cache
def compiled(form: Form, dtype: str) -> Any:
    """The kernel."""
    return module("triton_smooth", source(form, dtype)).smooth


def source(form: Form, dtype: str) -> str:
    """The kernel's source."""
    constants = Constants()
    write = partial(statements, names=spelling, constant=constants)
    step = back_body(form, write, trace(dtype))
    shown = renamed(show_body(form, write, trace(dtype)))
    size = form.state_size
    lines = [
        f'"""Smoother for {form}; written by ssrtrack, see kernels/kalman_source.py."""',
        "import triton",
        "import triton.language as tl",
        "",
        "",
        *ROUNDING,
        '@triton.jit(do_not_specialize=["plots", "tracks", "steps", "lag"])',
        "def smooth(dt, filtered, offsets, alive, parameters, out, plots, tracks, steps, lag,",
        "           WHOLE: tl.constexpr, BLOCK: tl.constexpr):",
        "    blocks = tl.cdiv(tracks, BLOCK)",
        "    track = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)",
        "    first = tl.program_id(0) // blocks",
        "    top = tl.minimum(first + lag, steps - 1)",
        "    plots = tl.cast(plots, tl.int64)",
        *parameter_lines(form, step, shown),
        *constant_lines(constants, dtype),
        *(f"    s{i} = tl.full([BLOCK], 0.0, tl.{dtype})" for i in range(size)),
        "    for m in range(0, top - first + 1):",
        "        k = top - m",
        "        column = tl.zeros([BLOCK], tl.int32) + k",
        "        on = track < tl.load(alive + k)",
        "        place = tl.load(offsets + k) + track",
        "        after = tl.minimum(k + 1, steps - 1)",
        "        moved = on & (track < tl.load(alive + after)) & (column < top)",
        "        c0 = tl.load(dt + tl.load(offsets + after) + track, mask=moved, other=1.0)",
        *(f"        c{i + 1} = tl.load(filtered + {i} * plots + place, mask=on, other=0.0)" for i in range(size)),
        *("        " + line for line in step[0]),
        *(f"        n{i} = tl.where(moved, {text}, tl.where(on, c{i + 1}, s{i}))" for i, text in enumerate(step[1])),
        *(f"        s{i} = n{i}" for i in range(size)),
        "        shown = on",
        "        if not WHOLE:",
        "            shown = on & (column == first)",
        *("        " + line for line in shown[0]),
        *(f"        tl.store(out + {d} * plots + place, {text}, mask=shown)" for d, text in enumerate(shown[2])),
    ]
    return "\n".join(lines) + "\n"
