"""Launches of Gated KalmaNet's kernels that cost little on the host.

At every launch Triton finds out anew for which arguments it has compiled what: of forty of them, longer than a short
kernel runs. `Launcher` finds it out once for a call's shapes and strides, and from then on hands the compiled kernel
addresses. What Triton compiles differently is in the key: precisions, strides, sizes and constants; and whether memory
begins at a multiple of 16 bytes, without which all goes Triton's way.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

Tensor = torch.Tensor
ALIGNED = 16  # bytes: what torch's own memory always is, a view of it may not be
MOST = 512  # calls of different shapes whose kernels are remembered

_found: dict[Hashable, dict[Hashable, tuple[CompiledKernel, tuple[Any, ...]]]] = {}


class Launcher:
    """Of one call. key: what tells it from others, beside what each launch names. given: tensors of a caller's."""

    def __init__(self, key: Hashable, given: Sequence[Tensor | None]) -> None:
        aligned = all(part is None or part.data_ptr() % ALIGNED == 0 for part in given)
        if len(_found) >= MOST:
            _found.clear()
        self._kernels = _found.setdefault(key, {}) if aligned else None

    def __call__(
        self, kernel: Any, grid: tuple[int, int], tensors: Sequence[Tensor], numbers: Sequence[float],
        known: dict[str, Any], shape: tuple[int, int], also: Hashable = None,
    ) -> None:  # fmt: skip
        """Launch; known: constants, among others. shape: (warps, stages). also: what else the compiled code depends on.

        A kernel's arguments are its tensors, numbers and constants, in this order.
        """
        direct = self._kernels is not None and isinstance(kernel, JITFunction)
        name = (id(kernel), shape, also)
        found = self._kernels.get(name) if direct and self._kernels is not None else None
        if found is not None:
            found[0][(*grid, 1)](*[part.data_ptr() for part in tensors], *numbers, *found[1])
            return
        named = kernel.arg_names[len(tensors) + len(numbers) :]
        own = {constant: known[constant] for constant in named}
        made = kernel[grid](*tensors, *numbers, **own, num_warps=shape[0], num_stages=shape[1])
        if direct and self._kernels is not None and isinstance(made, CompiledKernel):
            self._kernels[name] = made, tuple(own.values())
