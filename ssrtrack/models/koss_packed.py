"""A residual model as what is compiled for many tracks takes it: the step of its blocks, and its head of predictions.

The step (`ssrtrack.kernels.koss_rows_numba`) knows KOSS blocks with the operator `discrete`, segments of one step, an
innovation that the gain sees and no derivative, with or without the prediction seen and the linear part of the gain, of
any size; every other model is stepped by torch. The head (`ssrtrack.kernels.head_numba`) is that of every model. Both
compute in float32 on a CPU and use nothing of torch, whose threads go on waiting for work for a while after a call, on
the cores that are needed next.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ssrtrack.models.koss import KossBlock
from ssrtrack.models.koss_layer import LEAST_GAP
from ssrtrack.models.learned_memory import rows_for
from ssrtrack.models.residual import ResidualKoss

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Packed:
    """A model's weights in the order of what is compiled, as they were when they were read.

    network: None where there is no compiled step. head: None where not even its head is computed on a CPU in float32.
    """

    network: Any
    head: Any
    nominal_gap_s: float
    timed: bool
    weights: tuple[torch.Tensor, ...]
    versions: tuple[int, ...]

    @staticmethod
    def of(model: ResidualKoss) -> "Packed":
        """A model as it is now."""
        weights, config = tuple(model.parameters()), model.config
        network = _network(model) if compiles(model) else None
        head = _head(model) if _plain(model) else None
        return Packed(network, head, config.nominal_gap_s, config.timed, weights, _versions(weights))

    def fits(self) -> bool:
        """Whether the weights are those that were read; who writes to them around autograd is not noticed."""
        return _versions(self.weights) == self.versions

    def step(self, numbers: Array, since_s: Array, memory: Array) -> tuple[Array, Array, Array]:
        """A plot for each of N tracks: the network's output (N, D), what its filter head says of it, and memory (N, M).

        Args:
            numbers: (N, F or more) float32, the features first. since_s: (N,) since the plot before. memory: (N, M).
        """
        from ssrtrack.kernels import koss_rows_numba

        gap = since_s.astype(np.float32) / np.float32(self.nominal_gap_s)
        gap = gap if self.timed else np.ones_like(gap)
        late = np.log(np.maximum(gap, np.float32(LEAST_GAP)))
        before, after = np.ascontiguousarray(memory, np.float32), rows_for(*memory.shape)
        threads = torch.get_num_threads()
        return *koss_rows_numba.step(self.network, numbers, gap, late, before, after, threads=threads), after

    def ahead_numbers(self, output: Array, aside: Array) -> Array:
        """Numbers (N, 14) of a prediction, as `ResidualKoss.ahead_numbers`, of y (N, D) and what is seen beside it."""
        from ssrtrack.kernels.head_numba import head_numbers

        told = np.concatenate([output, aside], 1, dtype=np.float32, casting="same_kind")
        return head_numbers(self.head, told, threads=torch.get_num_threads())


def compiles(model: ResidualKoss) -> bool:
    """Whether there is a compiled step of a model."""
    return _plain(model) and all(isinstance(block, KossBlock) and _known(block) for block in model.blocks)


def _plain(model: ResidualKoss) -> bool:
    return all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())


def _known(block: KossBlock) -> bool:
    layer = block.koss
    known = layer.form.operator == "discrete" and layer.form.segment == 1 and layer.form.innovate
    return known and layer.published is None and layer.derivative == "none" and layer.backend is None


def _network(model: ResidualKoss) -> Any:
    from ssrtrack.kernels.koss_rows_weights import Ends, packed

    norm, head = model.norm, model.filter_head
    ends = Ends(*_linear(model.inward), _numbers(norm.weight), _eps(norm), *_linear(head))
    return packed([_block(block) for block in model.blocks if isinstance(block, KossBlock)], ends)


def _head(model: ResidualKoss) -> Any:
    from ssrtrack.kernels.head_numba import packed_head

    return packed_head(*_linear(model.ahead_inward), *_linear(model.ahead_head))


def _block(block: KossBlock) -> Any:
    from ssrtrack.kernels.koss_rows_weights import Block

    layer = block.koss
    step, step_bias = _linear(layer.step_length)
    return Block(
        norm=_numbers(block.norm.weight), eps=_eps(block.norm), inward=_linear(block.inward)[0],
        taps=_numbers(block.taps), taps_bias=_numbers(block.taps_bias), project=_linear(layer.project)[0],
        step=step, step_bias=step_bias, rate=_numbers(-torch.exp(layer.log_rate)),
        read_bias=_numbers(layer.read_bias),
        gain_input=None if layer.gain_input is None else _linear(layer.gain_input)[0],
        gain_bias=_numbers(layer.gain_bias), gain_gap=_numbers(layer.gain_gap), skip=_numbers(layer.skip),
        w1=_numbers(layer.gain.w1), b1=_numbers(layer.gain.b1), w2=_numbers(layer.gain.w2),
        outward=_linear(block.outward)[0],
    )  # fmt: skip


def _linear(layer: nn.Linear) -> tuple[Array, Array]:
    """W (inputs, outputs) and the bias, of no numbers where there is none."""
    bias = np.zeros(0, np.float32) if layer.bias is None else _numbers(layer.bias)
    return _numbers(layer.weight).T, bias


def _numbers(values: torch.Tensor) -> Array:
    found: Array = values.detach().numpy()
    return found


def _eps(norm: nn.RMSNorm) -> float:
    return torch.finfo(torch.float32).eps if norm.eps is None else norm.eps


def _versions(weights: tuple[torch.Tensor, ...]) -> tuple[int, ...]:
    return tuple(0 if weight.is_inference() else weight._version for weight in weights)
