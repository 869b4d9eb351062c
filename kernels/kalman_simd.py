"""Traced lines to LLVM instructions over SIMD registers, inside a numba function.

numba would type and lower every line of Python by itself, 15 s for a four-model IMM; the lines are known to be
floats, so they become LLVM instructions directly (a second), and each instruction works on one register of
neighbouring tracks. A program is text, one line "name operation operands…" each; operands are names of earlier lines,
inputs (c3: row 3 of the columns, s3 of the state, p3: parameter 3), or numbers.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

FAST = ("contract",)  # a·b + c may be one fused operation; nothing else may differ from the lines
COMPARED = {"gt": ">", "lt": "<"}
UNARY = {"sqrt": "llvm.sqrt", "rint": "llvm.rint", "floor": "llvm.floor"}
# Per precision: bits, mantissa bits, exponent bias.
FORMATS = {"float64": (64, 52, 1023), "float32": (32, 23, 127)}


def lanes(dtype: str) -> int:
    """Numbers in one SIMD register of this processor."""
    features = binding.get_host_cpu_features()
    bits = 512 if features.get("avx512f") else 256 if features.get("avx2") else 128
    return bits // FORMATS[dtype][0]


@cache
def maker() -> str:
    """What decides the machine code beside a program: this file, the compiler's version, the processor.

    Written into every source, since numba knows machine code to be old by the source alone, and since machines that
    share a home must not write machine code under one name.
    """
    parts = (
        numba.__version__,
        llvmlite.__version__,
        binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten(),
    )
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for part in parts:
        digest.update(part.encode())
    return f"numba {numba.__version__}, {binding.get_host_cpu_name()}, {digest.hexdigest()[:12]}"


def body(program: str, state: list[str], results: list[str], dtype: str, width: int, block: int) -> Any:
    """A numba function (columns, state, out, parameters, i) that runs the program for tracks i … i + width − 1.

    columns (C, block), state (S, block) and out (D, block) are C-contiguous and of `dtype`, as is parameters.
    """
    lines = [line.split() for line in program.splitlines() if line]

    @intrinsic
    def run(context: Any, columns: Any, values: Any, out: Any, parameters: Any, i: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            arrays = [
                context.make_array(kind)(context, builder, argument).data
                for kind, argument in zip(signature.args[:4], arguments[:4], strict=True)
            ]
            _Emitter(builder, dtype, width, block, arrays, arguments[4]).run(lines, state, results)
            return context.get_dummy_value()

        return types.void(columns, values, out, parameters, i), generate

    return run


class _Emitter:
    """The LLVM builder with the values named so far."""

    def __init__(self, builder: Any, dtype: str, width: int, block: int, arrays: list[Any], i: Any) -> None:
        self.builder, self.width, self.block, self.i = builder, width, block, i
        self.columns, self.state, self.out, self.parameters = arrays
        self.bits, self.mantissa, self.bias = FORMATS[dtype]
        self.scalar = ir.DoubleType() if dtype == "float64" else ir.FloatType()
        self.vector = ir.VectorType(self.scalar, width)
        self.whole = ir.VectorType(ir.IntType(self.bits), width)
        self.values: dict[str, Any] = {}

    def run(self, lines: list[list[str]], state: list[str], results: list[str]) -> None:
        """All lines, then the stores: what is read is read before anything is written."""
        for name, operation, *operands in lines:
            self.values[name] = self.instruction(operation, [self.value(x) for x in operands])
        for array, texts in ((self.state, state), (self.out, results)):
            stored = [self.value(text) for text in texts]
            for row, value in enumerate(stored):
                self.builder.store(value, self.place(array, row), align=self.bits // 8)

    def place(self, array: Any, row: int) -> Any:
        """Where lanes i … of a row begin."""
        index = self.builder.add(self.i, ir.Constant(self.i.type, row * self.block))
        return self.builder.bitcast(self.builder.gep(array, [index]), self.vector.as_pointer())

    def value(self, text: str) -> Any:
        """A named value, input or number as a register."""
        if text not in self.values:
            self.values[text] = self.loaded(text)
        return self.values[text]

    def loaded(self, text: str) -> Any:
        if text[0] in "cs":
            place = self.place(self.columns if text[0] == "c" else self.state, int(text[1:]))
            return self.builder.load(place, align=self.bits // 8)
        if text[0] == "p":
            index = ir.Constant(self.i.type, int(text[1:]))
            number = self.builder.load(self.builder.gep(self.parameters, [index]))
            one = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), number, ir.IntType(32)(0))
            mask = ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width)
            return self.builder.shuffle_vector(one, one, mask)
        return ir.Constant(self.vector, [float(text)] * self.width)

    def instruction(self, operation: str, x: list[Any]) -> Any:
        b = self.builder
        arithmetic: dict[str, Callable[..., Any]] = {"add": b.fadd, "sub": b.fsub, "mul": b.fmul, "div": b.fdiv}
        if operation in arithmetic:
            return arithmetic[operation](*x, flags=FAST)
        if operation in COMPARED:
            return b.fcmp_ordered(COMPARED[operation], *x)
        if operation in UNARY:
            name = f"{UNARY[operation]}.v{self.width}f{self.bits}"
            signature = ir.FunctionType(self.vector, [self.vector])
            function = cgutils.get_or_insert_function(b.module, signature, name)  # type: ignore[no-untyped-call]
            return b.call(function, x)
        if operation == "maximum":
            return b.select(b.fcmp_ordered(">", *x), *x)
        logic: dict[str, Callable[..., Any]] = {"where": b.select, "and": b.and_, "or": b.or_, "not": b.not_}
        logic |= {"neg": b.fneg, "power2": self.power2, "mantissa": self.mantissa_of, "exponent": self.exponent_of}
        return logic[operation](*x)

    def integers(self, value: int) -> Any:
        return ir.Constant(self.whole, [value] * self.width)

    def power2(self, n: Any) -> Any:
        """2ⁿ: adding 1.5·2^mantissa puts the whole number n into the lowest bits, from where it moves up."""
        magic = ir.Constant(self.vector, [1.5 * 2.0**self.mantissa + self.bias] * self.width)
        bits = self.builder.bitcast(self.builder.fadd(n, magic), self.whole)
        return self.builder.bitcast(self.builder.shl(bits, self.integers(self.mantissa)), self.vector)

    def mantissa_of(self, x: Any) -> Any:
        """The digits of x as a number in [½, 1)."""
        digits = self.builder.and_(self.builder.bitcast(x, self.whole), self.integers(2**self.mantissa - 1))
        half = self.integers((self.bias - 1) << self.mantissa)
        return self.builder.bitcast(self.builder.or_(digits, half), self.vector)

    def exponent_of(self, x: Any) -> Any:
        """n with x = mantissa·2ⁿ, as a float: the raw exponent under the bits of 2^mantissa, less that."""
        raw = self.builder.lshr(self.builder.bitcast(x, self.whole), self.integers(self.mantissa))
        above = self.integers((self.bias + self.mantissa) << self.mantissa)
        number = self.builder.bitcast(self.builder.or_(raw, above), self.vector)
        return self.builder.fsub(number, ir.Constant(self.vector, [2.0**self.mantissa + self.bias - 1] * self.width))
