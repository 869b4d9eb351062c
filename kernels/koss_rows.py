"""Between a tile in memory order and its rows: how a Triton program walks through time without leaving its registers.

A tile [C, S] holds S steps of C channels. `unstack` takes it apart into S columns [C, 1], step by step, and `stack`
puts columns together again. Each is log2(S) splits (joins) of neighbouring columns, which cost nothing where a thread
holds all steps of its channel: the compiler then moves the tile through shared memory once, in front of the first.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, misc"
# ruff: noqa: RUF005
# What Triton compiles has types of its own, and knows no unpacking.

import triton
import triton.language as tl


@triton.jit
def unstack(tile, C: tl.constexpr, S: tl.constexpr, LOG: tl.constexpr):
    """[C, S] → tuple of S = 2^LOG columns [C, 1] in the order of time."""
    parts = (tile,)
    for level in tl.static_range(LOG):
        halves = ()
        for i in tl.static_range(2**level):
            even, odd = tl.split(tl.reshape(parts[i], [C, S >> (level + 1), 2]))
            halves = halves + (even, odd)
        parts = halves
    columns = ()
    for s in tl.static_range(S):
        columns = columns + (parts[reversed_bits(s, LOG)],)
    return columns


@triton.jit
def pile(columns, R: tl.constexpr, C: tl.constexpr, S: tl.constexpr, LOG: tl.constexpr):
    """S = 2^LOG tiles [C, R] in the order of time → [C, R, S]."""
    parts = ()
    for s in tl.static_range(S):
        parts = parts + (tl.reshape(columns[reversed_bits(s, LOG)], [C, R, 1]),)
    for level in tl.static_range(LOG):
        joined = ()
        for i in tl.static_range(S >> (level + 1)):
            pair = tl.join(parts[2 * i], parts[2 * i + 1])
            joined = joined + (tl.reshape(pair, [C, R, 2 << level]),)
        parts = joined
    return parts[0]


@triton.jit
def stack(columns, R: tl.constexpr, C: tl.constexpr, S: tl.constexpr, LOG: tl.constexpr):
    """S = 2^LOG tiles [C, R] in the order of time → [C, S], summed over R.

    Summed here, for all steps at once, and not step by step: a sum over threads costs an exchange each time.
    """
    return tl.sum(pile(columns, R, C, S, LOG), 1)


@triton.constexpr_function
def reversed_bits(s, log):
    """The number whose `log` binary digits are those of s read backwards."""
    return sum(((s >> k) & 1) << (log - 1 - k) for k in range(log))
