"""The scan compiled by Triton: a program per block of neighbouring tracks, a loop over time, state in registers."""

import re
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
import triton

from ssrtrack.kernels.kalman_form import Form
from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.kernels.kalman_scan import parted, row_count
from ssrtrack.kernels.kalman_source import Body, Constants, first_body, module, step_body, used
from ssrtrack.kernels.kalman_trace import Trace, statements
from ssrtrack.kernels.kalman_vector import functions

Tensor = Any
# Tracks for each program, and its warps: one track a thread, so that a track's whole state fits the registers.
BLOCK, WARPS = 128, 4
# What Triton lacks, or does with a slow branch (sin and cos of huge angles), comes from arithmetic.
EXPANDED = ("expm1", "sin", "cos", "atan2")


def scan(
    form: Form,
    vector: Tensor,
    columns: Tensor,
    layout: Layout,
    outputs: Sequence[str],
    state: Tensor | None,
    final_state: bool = True,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """One backend of `ssrtrack.kernels.kalman.scan`, on the device and in the precision of `columns`.

    Without the final state the kernel is smaller, and compiles several times faster for many models.
    """
    out = columns.new_empty((row_count(form, outputs), layout.plots))
    final = None
    if state is not None:
        final = state.to(columns).clone()
    elif final_state:
        final = columns.new_empty((form.state_size, layout.tracks))
    launch(form, vector, columns, device_layout(layout, columns.device), outputs, final, out, fresh=state is None)
    return parted(form, outputs, out), final


def device_layout(layout: Layout, device: Any) -> tuple[Tensor, Tensor, int]:
    """alive and offsets on the device, and the number of tracks."""
    return torch.from_numpy(layout.alive).to(device), torch.from_numpy(layout.offsets).to(device), layout.tracks


def launch(
    form: Form,
    vector: Tensor,
    columns: Tensor,
    layout: tuple[Tensor, Tensor, int],
    outputs: Sequence[str],
    state: Tensor | None,
    out: Tensor,
    *,
    fresh: bool,
) -> None:
    """Run the kernel into given tensors: out (D, P); state (S, N), read unless `fresh`, then holds the final one."""
    alive, offsets, tracks = layout
    if not tracks:
        return
    kernel = compiled(form, tuple(outputs), str(columns.dtype).removeprefix("torch."))
    grid = (triton.cdiv(tracks, BLOCK),)
    kernel[grid](
        columns.contiguous(),
        offsets,
        alive,
        vector.to(columns).contiguous(),
        out if state is None else state,
        out,
        columns.shape[1],
        tracks,
        alive.numel(),
        FRESH=fresh,
        KEEP=state is not None,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )


@cache
def compiled(form: Form, outputs: tuple[str, ...], dtype: str) -> Any:
    """The kernel."""
    return module("triton", source(form, outputs, dtype)).scan


def source(form: Form, outputs: tuple[str, ...], dtype: str) -> str:
    """The kernel's source."""
    constants = Constants()
    write = partial(statements, names=spelling, constant=constants)
    start = renamed(first_body(form, outputs, write, trace(dtype)))
    step = step_body(form, outputs, write, trace(dtype))
    size = form.state_size
    lines = [
        f'"""Filter scan for {form}: {", ".join(outputs)}; written by ssrtrack, see kernels/kalman_source.py."""',
        "import triton",
        "import triton.language as tl",
        "",
        "",
        *ROUNDING,
        '@triton.jit(do_not_specialize=["plots", "tracks", "steps"])',
        "def scan(columns, offsets, alive, parameters, state, out, plots, tracks, steps,",
        "         FRESH: tl.constexpr, KEEP: tl.constexpr, BLOCK: tl.constexpr):",
        "    track = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)",
        "    inside = track < tracks",
        "    plots = tl.cast(plots, tl.int64)",
        *parameter_lines(form, start, step),
        *constant_lines(constants, dtype),
        f"    zero = tl.full([BLOCK], 0.0, tl.{dtype})",
        "    first = 0",
        "    if FRESH:",
        "        first = 1",
        "        place = tl.cast(track, tl.int64)",
        "        on = inside",
        *_load(form, start, "        "),
        *("        " + line for line in start[0]),
        *_store(start, "        "),
        # A state that is a parameter is one number; the loop carries blocks.
        *(f"        s{i} = zero + {text}" for i, text in enumerate(start[1])),
        "    else:",
        *(
            f"        s{i} = tl.load(state + {i} * tl.cast(tracks, tl.int64) + track, mask=inside, other=0.0)"
            for i in range(size)
        ),
        "    for k in range(first, steps):",
        "        count = tl.load(alive + k)",
        "        on = track < count",
        "        place = tl.load(offsets + k) + track",
        *_load(form, step, "        "),
        *("        " + line for line in step[0]),
        *_store(step, "        "),
        *(f"        n{i} = tl.where(on, {text}, s{i})" for i, text in enumerate(step[1])),
        *(f"        s{i} = n{i}" for i in range(size)),
        "    if KEEP:",
        *(f"        tl.store(state + {i} * tl.cast(tracks, tl.int64) + track, s{i}, mask=inside)" for i in range(size)),
    ]
    return "\n".join(lines) + "\n"


def parameter_lines(form: Form, *bodies: Body) -> list[str]:
    """Lines that load the parameters which the bodies mention."""
    needed = used([line for body in bodies for part in body for line in part], "p", form.parameter_count)
    return [f"    p{i} = tl.load(parameters + {i})" for i in needed]


def constant_lines(constants: Constants, dtype: str) -> list[str]:
    """Lines that name the constants as blocks of the kernel's precision."""
    return [
        "    " + line for line in constants.lines(lambda digits: f"tl.full([BLOCK], {_digits(digits)}, tl.{dtype})")
    ]


ROUNDING = ("@triton.jit", "def rint(x):", "    return tl.floor(x + 0.5)", "", "")


def trace(dtype: str) -> Trace:
    """A record that expands what Triton should not compute by itself."""
    return Trace({name: function for name, function in functions(dtype).items() if name in EXPANDED})


def renamed(body: Body) -> Body:
    """The body with temporaries of its own: Triton takes one that the loop sets again for a value carried by it."""
    lines, state, results = ([re.sub(r"\bt(\d+)\b", r"u\1", text) for text in part] for part in body)
    return lines, state, results


def spelling(operation: str) -> str:
    """An operation's name in Triton."""
    return {"not": "~", "rint": "rint", "power2": "tl.exp2"}.get(operation, f"tl.{operation}")


def _digits(digits: str) -> str:
    return f"float('{digits}')" if digits in ("nan", "inf") else digits


def _load(form: Form, body: Body, indent: str) -> list[str]:
    needed = used([line for part in body for line in part], "c", len(form.columns))
    return [f"{indent}c{i} = tl.load(columns + {i} * plots + place, mask=on, other=0.0)" for i in needed]


def _store(body: Body, indent: str) -> list[str]:
    return [f"{indent}tl.store(out + {d} * plots + place, {text}, mask=on)" for d, text in enumerate(body[2])]
