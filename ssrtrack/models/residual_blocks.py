"""The recurrent blocks of a residual model by name: how each is made, and what of a track it remembers.

A block is called as block(x, gap, None, state) → (y, state) with x (K, N, D), a row for each plot. What it remembers of
a track is a row of numbers of fixed length, so that an estimator keeps all blocks' memories alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

import torch
from torch import nn

from ssrtrack.errors import CheckpointError
from ssrtrack.models.gka import GkaBlock
from ssrtrack.models.gka_stream import GkaState, Rows
from ssrtrack.models.koss import BlockState, KossBlock, LayerState
from ssrtrack.models.koss_causal import Seen
from ssrtrack.models.koss_taps import TAPS
from ssrtrack.models.residual_config import LARGEST, ResidualConfig
from ssrtrack.models.residual_peers import AttentionPeer, GruPeer, S6Peer

Tensor = torch.Tensor
MOST_OCTETS = 64_000  # that a track's state may take
BESIDE = 4_000  # of them, for what is no block's: the base filter's state, the last plots, the network's last output
MANY = 64  # tracks from which a step that is compiled for rows of memory is worth its call
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of block. make: from the config and all its options.

    options: their names and defaults, in whose type they are given. knob: the option, a count, that sets how large a
    block of given width is, and reach the one that the size of its memory grows with; "" for none. timed:
    whether a step of it knows its true time.
    """

    make: Callable[[ResidualConfig, Options], nn.Module]
    options: Options
    knob: str = ""
    reach: str = ""
    timed: bool = True


def _koss(c: ResidualConfig, own: Options) -> nn.Module:
    words = {name: own[name] or None for name in ("derivative",)}
    passes = None if own["passes"] < 0 else own["passes"]
    return KossBlock(c.width, c.states, c.head, c.rank, **{**own, **words, "passes": passes})


def _gka(c: ResidualConfig, own: Options) -> nn.Module:
    return GkaBlock(c.width, **own)


def _gru(c: ResidualConfig, own: Options) -> nn.Module:
    return GruPeer(c.width, own["inner"] or c.width)


def _s6(c: ResidualConfig, own: Options) -> nn.Module:
    return S6Peer(c.width, own["inner"] or 2 * c.width, own["states"], c.rank)


def _transformer(c: ResidualConfig, own: Options) -> nn.Module:
    return AttentionPeer(c.width, own["hidden"] or c.width, own["heads"], own["plots"])


# Of KOSS: derivative "" and passes −1 leave the choice to the operator and the segment, as None does in a KossLayer.
BLOCKS: dict[str, Kind] = {
    "koss": Kind(
        _koss,
        {
            "operator": "discrete", "segment": 1, "passes": -1, "derivative": "", "input_gain": True, "innovate": True,
            "see_prediction": False,
        },
    ),
    "gka": Kind(
        _gka,
        {
            "head": 32, "heads": 2, "hidden": 0, "ridge": 0.02, "steps": 30, "decay": True, "alpha": True, "beta": True,
        },
        "hidden",
        "head",
    ),
    "gru": Kind(_gru, {"inner": 0}, "inner", timed=False),
    "s6": Kind(_s6, {"inner": 0, "states": 16}, "inner", reach="states"),
    "transformer": Kind(_transformer, {"hidden": 0, "heads": 4, "plots": 32}, "hidden", "plots", timed=False),
}  # fmt: skip


def kind_of(config: ResidualConfig) -> Kind:
    """The config's kind of block.

    Raises:
        CheckpointError: there is none of that name.
    """
    if config.block not in BLOCKS:
        raise CheckpointError(f"block is {config.block!r}, expected one of {', '.join(BLOCKS)}")
    return BLOCKS[config.block]


def blocks_of(config: ResidualConfig) -> nn.ModuleList:
    """New blocks.

    Raises:
        CheckpointError: no such block or option, or one of another type. EstimatorError: one out of range.
    """
    kind = kind_of(config)
    if not (config.timed or kind.timed):
        raise CheckpointError(f"timed=False says nothing of {config.block}, whose steps have no time of their own")
    own = {**kind.options, **_checked(config, kind)}
    return nn.ModuleList(kind.make(config, own) for _ in range(config.blocks))


def _checked(config: ResidualConfig, kind: Kind) -> Options:
    for name, value in config.options.items():
        if name not in kind.options:
            raise CheckpointError(f"block {config.block} has no option {name!r}; known: {', '.join(kind.options)}")
        wanted = type(kind.options[name])
        fits = isinstance(value, int | float) if wanted is float else isinstance(value, wanted)
        if not fits or (isinstance(value, bool) and wanted is not bool):
            raise CheckpointError(f"option {name} of {config.block} is {value!r}, expected a {wanted.__name__}")
        if wanted is int and not (isinstance(value, int) and -1 <= value <= LARGEST):
            raise CheckpointError(f"option {name} of {config.block} is {value!r}, expected at most {LARGEST}")
    if config.options.get("derivative") == "spectral":
        raise CheckpointError("the spectral derivative looks ahead, which a tracker cannot; take difference or causal")
    return config.options


def parameters_of(config: ResidualConfig) -> int:
    """How many weights the blocks of a config have; takes no memory.

    Raises:
        As `blocks_of`.
    """
    with torch.device("meta"):
        return config.blocks * sum(p.numel() for p in blocks_of(replace(config, blocks=1)).parameters())


def as_large_as(config: ResidualConfig, weights: int) -> ResidualConfig:
    """The config with its block's knob where its blocks have as nearly `weights` weights as can be.

    One that says where the knob is, or whose block has none, is left as it is.

    Raises:
        As `blocks_of`.
    """
    knob = kind_of(config).knob
    if not knob or knob in config.options:
        return config

    low, high = 1, 2
    while parameters_of(_with(config, knob, high)) < weights and high < LARGEST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters_of(_with(config, knob, middle)) < weights else (low, middle)
    return min((_with(config, knob, v) for v in (low, high)), key=lambda c: abs(parameters_of(c) - weights))


def fitted(config: ResidualConfig, weights: int) -> ResidualConfig:
    """`as_large_as`, and a block whose memory grows with an option has as much of it as a track's state may take.

    Raises:
        As `blocks_of`.
    """
    kind = kind_of(config)
    reach = int(kind.options[kind.reach]) if kind.reach else 0
    while True:
        trial = config if not reach or kind.reach in config.options else _with(config, kind.reach, reach)
        found = as_large_as(trial, weights)
        if reach <= 1 or trial is config or memory_octets(found) <= MOST_OCTETS:
            return found
        reach = reach * 3 // 4


def _with(config: ResidualConfig, name: str, value: Any) -> ResidualConfig:
    return replace(config, options={**config.options, name: value})


def memory_octets(config: ResidualConfig) -> int:
    """At most how many octets the state of one track takes, the base filter's included; takes no memory itself.

    Raises:
        As `blocks_of`.
    """
    with torch.device("meta"):
        numbers = config.blocks * memory_size(blocks_of(replace(config, blocks=1)))
    return 4 * (numbers + config.width) + 48 * max(1, config.history) + BESIDE


def memory_shapes(block: nn.Module) -> tuple[tuple[int, ...], ...]:
    """Of what a block remembers of one track, tensor by tensor."""
    if isinstance(block, GruPeer | S6Peer | AttentionPeer):
        return block.shapes()
    if isinstance(block, GkaBlock):
        layer = block.gka
        channels = layer.heads * (2 * layer.head + layer.value_head)
        return (layer.heads, layer.head, layer.head), (layer.heads, layer.head, layer.value_head), (TAPS - 1, channels)
    if not isinstance(block, KossBlock):
        raise TypeError(f"{type(block).__name__} is no block of a residual model")
    layer_, start = block.koss, block.start(1)
    state = layer_.states, layer_.width
    depth = 0 if start.koss.seen is None else start.koss.seen.value.shape[0]
    seen: tuple[tuple[int, ...], ...] = ((depth, layer_.width), (depth,), (depth,)) if depth else ()
    inside: tuple[tuple[int, ...], ...] = ()
    if segment_of(block) > 1:
        inside = ((_passes(block), *state), state)
    return (state, (TAPS - 1, layer_.width), *seen, *inside)


def memory_size(blocks: nn.ModuleList) -> int:
    """How many numbers all blocks remember of one track."""
    return sum(prod(shape) for block in blocks for shape in memory_shapes(block))


def segment_of(block: nn.Module) -> int:
    """Steps that share one prediction: where in them a track stands is part of its state."""
    return block.koss.form.segment if isinstance(block, KossBlock) else 1


def stepped(block: nn.Module, x: Tensor, gap: Tensor | None, state: Any) -> tuple[Tensor, Any]:
    """A block's output (K, N, D) for rows x (K, N, D) at gaps (K, N), and its state; one row online where it is that.

    Gated KalmaNet walks rows in chunks, each of which costs as much as one row; its step has a gradient of its own.
    """
    if isinstance(block, GkaBlock) and state is not None and len(x) == 1 and not torch.is_grad_enabled():
        y, after = block.step(x[0], None if gap is None else gap[0], None, state)
        return y[None], after
    out: tuple[Tensor, Any] = block(x, gap, None, state)
    return out


def packed(blocks: nn.ModuleList, states: list[Any], into: Tensor | None = None) -> Tensor:
    """What all blocks remember of N tracks, as rows (N, M), float32: `into`, if that was given to `unpacked`."""
    parts = [part for block, state in zip(blocks, states, strict=True) for part in _parts(block, state)]
    if into is None:
        return torch.cat([part.float().flatten(1) if part.ndim > 1 else part.float()[:, None] for part in parts], 1)
    begin = 0
    for part in parts:
        place = into[:, begin : begin + part[0].numel()]
        begin += part[0].numel()
        if part.data_ptr() != place.data_ptr():
            place.copy_(part.flatten(1) if part.ndim > 1 else part[:, None])
    return into


def unpacked(blocks: nn.ModuleList, rows: Tensor, read: int, into: Tensor | None = None) -> list[Any]:
    """The states of which `packed` made rows (N, M), of tracks that all have read `read` plots up to whole segments.

    into: rows like these in which a block may write what it remembers after its next step, where it can.
    """
    found, begin = [], 0
    for block in blocks:
        own, at = [], begin
        for shape in memory_shapes(block):
            own.append(rows[:, begin : begin + prod(shape)].view(len(rows), *shape))
            begin += prod(shape)
        state = _state(block, own, read % segment_of(block))
        if into is not None and isinstance(state, GkaState) and len(rows) >= MANY:
            state = replace(state, rows=Rows(rows, into, at))
        found.append(state)
    return found


def _parts(block: nn.Module, state: Any) -> list[Tensor]:
    """A state's tensors, tracks first, as `memory_shapes` has them."""
    if isinstance(state, GkaState):
        return [state.H, state.U, state.taps]
    if not isinstance(state, BlockState):
        return list(state)
    koss, parts = state.koss, [state.koss.scan, state.taps]
    if koss.seen is not None:
        parts += [getattr(koss.seen, f.name).transpose(0, 1) for f in fields(Seen)]
    if isinstance(block, KossBlock) and segment_of(block) > 1:
        none = koss.scan.new_zeros(len(koss.scan), _passes(block), *koss.scan.shape[1:])
        parts += [none if koss.passes is None else koss.passes.transpose(0, 1)]
        parts += [koss.scan if koss.open_loop is None else koss.open_loop]
    return parts


def _state(block: nn.Module, parts: list[Tensor], position: int) -> Any:
    if isinstance(block, GkaBlock):
        H, U, taps = parts
        return GkaState(H, U, taps)
    if not isinstance(block, KossBlock):
        return tuple(parts)
    scan, taps, *others = parts
    seen = None
    if len(others) >= 3:
        value, age, known = (v.transpose(0, 1) for v in others[:3])
        seen, others = Seen(value, age.double(), known > 0.5), others[3:]
    if not position:
        return BlockState(LayerState(scan, seen), taps)
    passes, open_loop = others
    return BlockState(LayerState(scan, seen, position, passes.transpose(0, 1), open_loop), taps)


def _passes(block: KossBlock) -> int:
    form = block.koss.form
    return min(form.passes, form.segment - 1)
