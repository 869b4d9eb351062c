"""SIMD registers as values inside numba functions: loads, stores, arithmetic, exp, and matrix products from registers.

numba leaves it to LLVM to find loops that fit in registers, which it gives up where many arrays may overlap, and it has
no exp for them. Here a register of LANES float32 is a value like another: `load` and `store` move it, operators work on
all its numbers, and `product` keeps a tile of a matrix product in as many of them as the processor has.
"""

import hashlib
import operator
from collections.abc import Callable
from math import factorial, log
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numpy.typing import NDArray

from ssrtrack.kernels.kalman_simd import FAST, lanes

Array = NDArray[Any]
intrinsic: Any = extending.intrinsic
LANES = lanes("float32")
# Of a product, rows and registers a row that are summed at once: 16 sums of 32 registers, or 12 of 16.
ROWS, WIDE = (8, 2) if LANES == 16 else (6, 2)
PANEL = WIDE * LANES  # columns of a product that are summed at once
FLOAT, WORD, INDEX = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR, WORDS = ir.VectorType(FLOAT, LANES), ir.VectorType(WORD, LANES)
OCTETS = 4
LOWEST, LARGEST = -87.0, 88.0  # of what exp is taken: below it is 0, above it stays


class _Register(types.Type):
    """LANES numbers of float32."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


REGISTER = _Register()


@extending.register_model(_Register)
class _Model(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR)  # type: ignore[no-untyped-call]


def revision(*files: Path) -> int:
    """Of this source and others. What is compiled from them is old once it changes, which numba does not see by itself.

    It compiles anew where this number, as a variable of a function around the compiled one, is another.
    """
    digest = hashlib.sha256()
    for file in (Path(__file__), *files):
        digest.update(file.read_bytes())
    return int(digest.hexdigest()[:15], 16)


def _arithmetic(symbol: Any, name: str) -> None:
    """An operator of two registers; a·b + c may become one operation."""

    @infer_global(symbol)  # type: ignore[no-untyped-call]
    class _Known(ConcreteTemplate):
        cases = [signature(REGISTER, REGISTER, REGISTER)]  # type: ignore[no-untyped-call]  # noqa: RUF012

    @extending.lower_builtin(symbol, _Register, _Register)  # type: ignore[no-untyped-call, untyped-decorator]
    def _lowered(context: Any, builder: Any, kind: Any, arguments: Any) -> Any:
        return getattr(builder, name)(*arguments, flags=FAST)


for _symbol, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_symbol, _name)


def _constant(value: float) -> Any:
    return ir.Constant(VECTOR, [float(np.float32(value))] * LANES)


def _call(builder: Any, name: str, *operands: Any) -> Any:
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(operands))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")  # type: ignore[no-untyped-call]
    return builder.call(function, operands)


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """A pointer to number `index` of an array."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _vector_at(builder: Any, place: Any) -> Any:
    return builder.bitcast(place, VECTOR.as_pointer())


def _splat(builder: Any, number: Any) -> Any:
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), number, WORD(0))
    return builder.shuffle_vector(one, one, ir.Constant(WORDS, [0] * LANES))


def _all_of(builder: Any, count: Any) -> Any:
    return builder.icmp_signed(">=", count, INDEX(LANES))


def _below(builder: Any, count: Any) -> Any:
    """Which lanes are below `count`."""
    one = builder.insert_element(ir.Constant(WORDS, ir.Undefined), builder.trunc(count, WORD), WORD(0))
    wide_ = builder.shuffle_vector(one, one, ir.Constant(WORDS, [0] * LANES))
    return builder.icmp_signed("<", ir.Constant(WORDS, list(range(LANES))), wide_)


def _masked(builder: Any, result: Any, what: str, *operands: Any) -> Any:
    kind = ir.FunctionType(result, [operand.type for operand in operands])
    name = f"llvm.masked.{what}.v{LANES}f32.p0"
    function = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
    return builder.call(function, operands)


@intrinsic  # type: ignore[untyped-decorator]
def load(typing: Any, array: Any, index: Any) -> Any:
    """Numbers index … index + LANES − 1 of a contiguous array, counted through all its dimensions."""

    def generate(context: Any, builder: Any, kind: Any, given: Any) -> Any:
        place = _place(context, builder, kind.args[0], given[0], given[1])
        return builder.load(_vector_at(builder, place), align=OCTETS)

    return REGISTER(array, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """The other way round."""

    def generate(context: Any, builder: Any, kind: Any, given: Any) -> Any:
        place = _place(context, builder, kind.args[0], given[0], given[1])
        builder.store(given[2], _vector_at(builder, place), align=OCTETS)
        return context.get_dummy_value()

    return types.void(array, types.intp, REGISTER), generate


@intrinsic  # type: ignore[untyped-decorator]
def load_some(typing: Any, array: Any, index: Any, count: Any) -> Any:
    """`load` where `count` is LANES or more; else of the first `count` numbers, the others are 0 and not looked at."""

    def generate(context: Any, builder: Any, kind: Any, given: Any) -> Any:
        place = _vector_at(builder, _place(context, builder, kind.args[0], given[0], given[1]))
        with builder.if_else(_all_of(builder, given[2])) as (every, some):
            with every:
                whole, from_whole = builder.load(place, align=OCTETS), builder.block
            with some:
                mask, none = _below(builder, given[2]), _constant(0.0)
                part = _masked(builder, VECTOR, "load", place, WORD(OCTETS), mask, none)
                from_part = builder.block
        found = builder.phi(VECTOR)
        found.add_incoming(whole, from_whole)
        found.add_incoming(part, from_part)
        return found

    return REGISTER(array, types.intp, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def store_some(typing: Any, array: Any, index: Any, value: Any, count: Any) -> Any:
    """`store` where `count` is LANES or more; else of the first `count` numbers."""

    def generate(context: Any, builder: Any, kind: Any, given: Any) -> Any:
        place = _vector_at(builder, _place(context, builder, kind.args[0], given[0], given[1]))
        with builder.if_else(_all_of(builder, given[3])) as (every, some):
            with every:
                builder.store(given[2], place, align=OCTETS)
            with some:
                _masked(builder, ir.VoidType(), "store", given[2], place, WORD(OCTETS), _below(builder, given[3]))
        return context.get_dummy_value()

    return types.void(array, types.intp, REGISTER, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def splat(typing: Any, number: Any) -> Any:
    """One number in all lanes."""

    def generate(context: Any, builder: Any, kind: Any, given: Any) -> Any:
        return _splat(builder, given[0])

    return REGISTER(types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def spread(typing: Any, array: Any, index: Any) -> Any:
    """Number `index` of an array in all lanes."""

    def generate(context: Any, builder: Any, kind: Any, given: Any) -> Any:
        return _splat(builder, builder.load(_place(context, builder, kind.args[0], given[0], given[1])))

    return REGISTER(array, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def total(typing: Any, value: Any) -> Any:
    """The sum of all lanes, a number."""

    def generate(context: Any, builder: Any, kind: Any, given: Any) -> Any:
        rest, width = given[0], LANES
        # Halves on top of each other; lanes that count no more are left undefined.
        while width > 1:
            width //= 2
            order = [width + k if k < width else 0 for k in range(LANES)]
            rest = builder.fadd(rest, builder.shuffle_vector(rest, rest, ir.Constant(WORDS, order)))
        return builder.extract_element(rest, WORD(0))

    return types.float32(REGISTER), generate


@intrinsic  # type: ignore[untyped-decorator]
def exp(typing: Any, value: Any) -> Any:
    """eˣ to 2 units in the last place; 0 below LOWEST, e^LARGEST above LARGEST. After Cody and Waite, as
    `kalman_vector.exp`."""

    def generate(context: Any, builder: Any, kind: Any, given: Any) -> Any:
        return _exp(builder, given[0])

    return REGISTER(REGISTER), generate


def _at_least(builder: Any, x: Any, least: float) -> Any:
    """max(x, least); what is not a number stays so."""
    return builder.select(builder.fcmp_ordered("<", x, _constant(least)), _constant(least), x)


def _exp(builder: Any, x: Any) -> Any:
    b = builder
    kept = _at_least(b, x, LOWEST)
    kept = b.select(b.fcmp_ordered(">", kept, _constant(LARGEST)), _constant(LARGEST), kept)
    n = _call(b, "rint", b.fmul(kept, _constant(1.0 / log(2.0))))
    # The first part of log 2 has trailing zero bits, so n times it is exact.
    r = _call(b, "fmuladd", n, _constant(2.12194440e-4), _call(b, "fmuladd", n, _constant(-0.693359375), kept))
    out = _constant(1.0 / factorial(7))
    for k in range(6, -1, -1):
        out = _call(b, "fmuladd", out, r, _constant(1.0 / factorial(k)))
    power = b.shl(b.add(b.fptosi(n, WORDS), ir.Constant(WORDS, [127] * LANES)), ir.Constant(WORDS, [23] * LANES))
    made = b.fmul(out, b.bitcast(power, VECTOR))
    return b.select(b.fcmp_ordered("<", x, _constant(LOWEST)), _constant(0.0), made)


@intrinsic  # type: ignore[untyped-decorator]
def sigmoid(typing: Any, value: Any) -> Any:
    """1/(1 + e⁻ˣ)."""

    def generate(context: Any, builder: Any, kind: Any, given: Any) -> Any:
        return builder.fdiv(_constant(1.0), builder.fadd(_constant(1.0), _exp(builder, builder.fneg(given[0]))))

    return REGISTER(REGISTER), generate


@intrinsic  # type: ignore[untyped-decorator]
def silu(typing: Any, value: Any) -> Any:
    """x/(1 + e⁻ˣ)."""

    def generate(context: Any, builder: Any, kind: Any, given: Any) -> Any:
        return builder.fdiv(given[0], builder.fadd(_constant(1.0), _exp(builder, builder.fneg(given[0]))))

    return REGISTER(REGISTER), generate


@intrinsic  # type: ignore[untyped-decorator]
def softplus(typing: Any, value: Any) -> Any:
    """log(1 + eˣ) = max(x, 0) + log(1 + t), t = e^{−|x|}, whose digits all count where it is small."""

    def generate(context: Any, builder: Any, kind: Any, given: Any) -> Any:
        b, x = builder, given[0]
        t = _exp(b, b.fneg(_call(b, "fabs", x)))
        # log(1 + t) = 2 artanh s with s = t/(2 + t), at most 1/3.
        s = b.fdiv(t, b.fadd(t, _constant(2.0)))
        square = b.fmul(s, s)
        series = _constant(1.0 / 15)
        for k in range(13, 0, -2):
            series = _call(b, "fmuladd", series, square, _constant(1.0 / k))
        return _call(b, "fmuladd", b.fadd(s, s), series, _at_least(b, x, 0.0))

    return REGISTER(REGISTER), generate


def _tile(finish: str) -> Callable[..., None]:
    """The sums of ROWS × WIDE registers: an intrinsic (x, at, stride, w, at, K, bias, at, out, at, stride).

    finish: "set" begins with the bias, "relu" too and drops what is negative, "add" begins with what `out` holds.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def tile(
        typing: Any, x: Any, x_at: Any, x_stride: Any, w: Any, w_at: Any, K: Any, bias: Any, bias_at: Any, out: Any,
        out_at: Any, out_stride: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, kind: Any, given: Any) -> Any:
            b = builder
            x, w, bias, out = (_place(context, b, kind.args[k], given[k], given[k + 1]) for k in (0, 3, 6, 8))
            x_stride, K, out_stride = given[2], given[5], given[10]

            def at(place: Any, row: int, stride: Any, column: int) -> Any:
                return b.gep(place, [b.add(b.mul(stride, INDEX(row)), INDEX(column))])

            columns = [c * LANES for c in range(WIDE)]
            places = [[_vector_at(b, at(out, r, out_stride, c)) for c in columns] for r in range(ROWS)]
            if finish == "add":
                first = [[b.load(place, align=OCTETS) for place in row] for row in places]
            else:
                first = [[b.load(_vector_at(b, b.gep(bias, [INDEX(c)])), align=OCTETS) for c in columns]] * ROWS
            rows = [at(x, r, x_stride, 0) for r in range(ROWS)]
            before, loop, after = b.block, b.append_basic_block("sums"), b.append_basic_block("summed")
            b.branch(loop)
            b.position_at_end(loop)
            k = b.phi(INDEX)
            sums = [[b.phi(VECTOR) for _ in columns] for _ in rows]
            panel = b.gep(w, [b.mul(k, INDEX(PANEL))])
            weights = [b.load(_vector_at(b, b.gep(panel, [INDEX(c)])), align=OCTETS) for c in columns]
            news = []
            for row, own in zip(rows, sums, strict=True):
                number = _splat(b, b.load(b.gep(row, [k])))
                news.append([_call(b, "fmuladd", number, v, s) for v, s in zip(weights, own, strict=True)])
            following = b.add(k, INDEX(1))
            for value, begin, end in [
                (k, INDEX(0), following),
                *((s, f, n) for three in zip(sums, first, news, strict=True) for s, f, n in zip(*three, strict=True)),
            ]:
                value.add_incoming(begin, before)
                value.add_incoming(end, loop)
            b.cbranch(b.icmp_signed("<", following, K), loop, after)
            b.position_at_end(after)
            for new, row in zip(news, places, strict=True):
                for value, place in zip(new, row, strict=True):
                    kept = _at_least(b, value, 0.0) if finish == "relu" else value
                    b.store(kept, place, align=OCTETS)
            return context.get_dummy_value()

        n = types.intp
        return types.void(x, n, n, w, n, n, bias, n, out, n, n), generate

    made: Callable[..., None] = tile
    return made


def product(finish: str) -> Callable[..., None]:
    """A compiled (x, stride, w, K, bias, out, stride, rows, columns): out = x W, with `finish` as in `_tile`.

    x (rows, K) and out (rows, columns) are flat, with `stride` numbers from row to row, w as `panelled` lays it. rows
    is a multiple of ROWS, columns of PANEL, K at least 1. With "add" the bias is not looked at.
    """
    tile = _tile(finish)

    @njit(nogil=True)
    def run(
        x: Any, x_stride: Any, w: Any, K: Any, bias: Any, out: Any, out_stride: Any, rows: Any, columns: Any
    ) -> None:
        # A panel of W stays in a core's nearest cache while all rows go by.
        for p in range(0, columns, PANEL):
            for r in range(0, rows, ROWS):
                tile(x, r * x_stride, x_stride, w, p * K, K, bias, p, out, r * out_stride + p, out_stride)

    made: Callable[..., None] = run
    return made


def panelled(matrix: Array) -> Array:
    """W (K, columns) as `product` reads it: PANEL columns after another, filled up with zeros; flat, float32."""
    K, columns = matrix.shape
    whole = np.zeros((K, wide(columns, PANEL)), np.float32)
    whole[:, :columns] = matrix
    return np.ascontiguousarray(whole.reshape(K, -1, PANEL).transpose(1, 0, 2)).ravel()


@extending.register_jitable
def wide(count: int, of: int = LANES) -> int:
    """count, filled up to a multiple."""
    return -(-count // of) * of
