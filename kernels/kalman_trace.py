"""Formulas to source code: expressions that write themselves down as straight lines, each computed once.

An `Expression` stands for a scalar of one track. Arithmetic on it is recorded in its `Trace`; what was recorded before
is found again (common subexpressions), and constants are folded. `statements` then gives the lines that compute the
wanted results, in the order of recording, without what nobody needs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Node = tuple[Any, ...]  # (operation, operands): operands are numbers of earlier nodes

_NUMBERS: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
}


class Trace:
    """The record: nodes in the order in which they were first asked for."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        """`functions` say how to compute an operation from others, where a backend lacks it."""
        self.nodes: list[Node] = []
        self._known: dict[Node, int] = {}
        self._functions = functions or {}

    def input(self, name: str) -> "Expression":
        """A value that the surrounding code provides under this name."""
        return Expression(self, self._number(("input", name)))

    def constant(self, value: float) -> "Expression":
        """A number."""
        return Expression(self, self._number(("constant", float(value))))

    def record(self, operation: str, *operands: Any) -> Any:
        """The expression operation(operands), or its number if all operands are numbers."""
        if operation in _NUMBERS and all(isinstance(x, int | float) for x in operands):
            return _NUMBERS[operation](*operands)
        if operation in self._functions:
            return self._functions[operation](*operands)
        return Expression(self, self._number((operation, *(self._operand(x) for x in operands))))

    def _operand(self, x: Any) -> int:
        return x.number if isinstance(x, Expression) else self.constant(x).number

    def _number(self, node: Node) -> int:
        if node not in self._known:
            self._known[node] = len(self.nodes)
            self.nodes.append(node)
        return self._known[node]


class Expression:
    """One scalar of the trace; the methods are those of a torch tensor that the formulas use."""

    def __init__(self, trace: Trace, number: int) -> None:
        self.trace, self.number = trace, number

    def __add__(self, other: Any) -> Any:
        return self if _is(other, 0.0) else self.trace.record("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self + other

    def __sub__(self, other: Any) -> Any:
        return self if _is(other, 0.0) else self.trace.record("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return -self if _is(other, 0.0) else self.trace.record("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        if _is(other, 0.0):
            return 0.0
        return self if _is(other, 1.0) else self.trace.record("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self * other

    def __truediv__(self, other: Any) -> Any:
        return self if _is(other, 1.0) else self.trace.record("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return 0.0 if _is(other, 0.0) else self.trace.record("div", other, self)

    def __neg__(self) -> Any:
        return self.trace.record("neg", self)

    def __gt__(self, other: Any) -> "Expression":
        out: Expression = self.trace.record("gt", self, other)
        return out

    def __lt__(self, other: Any) -> "Expression":
        out: Expression = self.trace.record("lt", self, other)
        return out

    def __and__(self, other: "Expression") -> Any:
        return self.trace.record("and", self, other)

    def __or__(self, other: "Expression") -> Any:
        return self.trace.record("or", self, other)

    def __invert__(self) -> Any:
        return self.trace.record("not", self)

    def choose(self, a: Any, b: Any) -> Any:
        """a where this condition holds, else b."""
        same = a is b or (isinstance(a, Expression) and isinstance(b, Expression) and a.number == b.number)
        return a if same else self.trace.record("where", self, a, b)

    def larger(self, other: Any) -> Any:
        """The larger of the two."""
        return self.trace.record("maximum", self, other)

    def sqrt(self) -> Any:
        """Square root."""
        return self.trace.record("sqrt", self)

    def exp(self) -> Any:
        """Exponential."""
        return self.trace.record("exp", self)

    def expm1(self) -> Any:
        """exp − 1, exact near 0."""
        return self.trace.record("expm1", self)

    def log(self) -> Any:
        """Natural logarithm."""
        return self.trace.record("log", self)

    def sin(self) -> Any:
        """Sine."""
        return self.trace.record("sin", self)

    def cos(self) -> Any:
        """Cosine."""
        return self.trace.record("cos", self)

    def atan2(self, other: Any) -> Any:
        """Angle whose tangent is self / other, in its quadrant."""
        return self.trace.record("atan2", self, other)

    def hypot(self, other: Any) -> Any:
        """√(self² + other²); not for numbers whose squares overflow."""
        return (self * self + other * other).sqrt()

    def log1p(self) -> Any:
        """log(1 + self), for numbers that are not small."""
        return (self + 1.0).log()

    def asinh(self) -> Any:
        """log(self + √(self² + 1)), its absolute error that of rounding; not for numbers whose squares overflow."""
        size = self.larger(-self)
        value = (size + (size * size + 1.0).sqrt()).log()
        return (self < 0.0).choose(-value, value)

    def tanh(self) -> Any:
        """Hyperbolic tangent, its absolute error that of rounding."""
        size = self.larger(-self).clamp(max=20.0)
        value = 1.0 - 2.0 / ((size + size).exp() + 1.0)
        return (self < 0.0).choose(-value, value)

    def clamp(self, *, min: float | None = None, max: float | None = None) -> Any:
        """The number in this range nearest to self."""
        low = self if min is None else self.larger(min)
        return low if max is None else (low > max).choose(max, low)

    def double(self) -> "Expression":
        """Itself: a trace has one precision."""
        return self

    def rint(self) -> Any:
        """The nearest whole number."""
        return self.trace.record("rint", self)

    def floor(self) -> Any:
        """The next whole number below."""
        return self.trace.record("floor", self)

    def power2(self) -> Any:
        """2 to this whole number."""
        return self.trace.record("power2", self)

    def mantissa(self) -> Any:
        """m in [½, 1) with self = m·2ⁿ."""
        return self.trace.record("mantissa", self)

    def exponent(self) -> Any:
        """n of `mantissa`."""
        return self.trace.record("exponent", self)


INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "gt": ">", "lt": "<", "and": "&", "or": "|"}


def statements(
    results: Sequence[Any], names: Callable[[str], str], constant: Callable[[float], str]
) -> tuple[list[str], list[str]]:
    """Lines of Python that compute the results, and the results as text.

    `names` spells the functions of a backend ("sqrt", "where", …), `constant` a number.
    """

    def line(operation: str, operands: list[str]) -> str:
        if operation in INFIX:
            return f"{operands[0]} {INFIX[operation]} {operands[1]}"
        return f"-{operands[0]}" if operation == "neg" else f"{names(operation)}({', '.join(operands)})"

    return _lines(results, lambda name, operation, operands: f"{name} = {line(operation, operands)}", constant)


def instructions(results: Sequence[Any]) -> tuple[list[str], list[str]]:
    """The same as lines "name operation operands…", numbers written out: what `kalman_simd` reads."""
    return _lines(results, lambda name, operation, operands: " ".join([name, operation, *operands]), repr)


def _lines(
    results: Sequence[Any], write: Callable[[str, str, list[str]], str], constant: Callable[[float], str]
) -> tuple[list[str], list[str]]:
    trace = next((x.trace for x in results if isinstance(x, Expression)), None)
    nodes = trace.nodes if trace is not None else []
    needed = _needed(nodes, [x.number for x in results if isinstance(x, Expression)])

    def text(number: int) -> str:
        operation, *operands = nodes[number]
        if operation == "input":
            return str(operands[0])
        return constant(operands[0]) if operation == "constant" else f"t{number}"

    lines = []
    for number in sorted(needed):
        operation, *operands = nodes[number]
        if operation not in ("input", "constant"):
            lines.append(write(f"t{number}", operation, [text(x) for x in operands]))
    return lines, [text(x.number) if isinstance(x, Expression) else constant(float(x)) for x in results]


def _needed(nodes: Sequence[Node], wanted: Sequence[int]) -> set[int]:
    needed: set[int] = set()
    waiting = list(wanted)
    while waiting:
        number = waiting.pop()
        if number in needed:
            continue
        needed.add(number)
        operation, *operands = nodes[number]
        if operation not in ("input", "constant"):
            waiting += operands
    return needed


def _is(x: Any, value: float) -> bool:
    return isinstance(x, int | float) and x == value
