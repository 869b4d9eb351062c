"""Formulas to source: what is recorded once, folded, dropped; and that every form's source stands on its own."""

import ast
import builtins
import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssrtrack.filters.bank import Bank
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.packing import form_of
from ssrtrack.kernels import kalman_numba, kalman_numba_smooth, kalman_triton, kalman_triton_smooth
from ssrtrack.kernels.kalman_algebra import maximum, where
from ssrtrack.kernels.kalman_form import Form
from ssrtrack.kernels.kalman_source import back_body, first_body, show_body, step_body, used
from ssrtrack.kernels.kalman_trace import Expression, Trace, instructions, statements
from ssrtrack.kernels.kalman_vector import functions
from tests.engine_cases import BANKS, OPTIONS
from tests.kernels_fixture import outputs_of

FORMS = [(name, option) for name in BANKS for option in ("plain", "gate+tail")]


def spelled(*results: Any) -> tuple[list[str], list[str]]:
    return statements(results, lambda name: name, repr)


def test_what_was_computed_before_is_found_again() -> None:
    trace = Trace()
    a, b = trace.input("a"), trace.input("b")
    lines, (text,) = spelled((a + b) * (a + b))
    assert lines == ["t2 = a + b", "t3 = t2 * t2"]
    assert text == "t3"
    # Across results, and for functions and numbers, too.
    lines, texts = spelled((a * 2.0).sqrt() + b, (a * 2.0).sqrt() - b)
    assert len(lines) == 4
    assert texts == [line.split()[0] for line in lines[-2:]]


def test_numbers_known_beforehand_cost_nothing() -> None:
    trace = Trace()
    x = trace.input("x")
    for same in (x + 0.0, 0.0 + x, x - 0.0, x * 1.0, 1.0 * x, x / 1.0):
        assert same is x
    for nothing in (x * 0.0, 0.0 * x, 0.0 / x):
        assert nothing == 0.0 and isinstance(nothing, float)
    assert spelled(0.0 - x) == (["t1 = -x"], ["t1"])
    assert (trace.record("sqrt", 9.0), trace.record("mul", 2.0, 3.0), trace.record("neg", 4.0)) == (3.0, 6.0, -4.0)
    assert (trace.record("exp", 0.0), trace.record("log", 1.0), trace.record("div", 1.0, 4.0)) == (1.0, 0.0, 0.25)
    assert spelled(2.5, x) == ([], ["2.5", "x"])


def test_what_nobody_needs_is_not_written() -> None:
    trace = Trace()
    x = trace.input("x")
    kept, dropped = x + 1.0, (x + 1.0) * x
    assert isinstance(dropped, Expression)
    assert len(spelled(kept)[0]) == 1
    assert len(spelled(kept, dropped)[0]) == 2


def test_a_choice_between_equals_is_no_choice() -> None:
    trace = Trace()
    x, y = trace.input("x"), trace.input("y")
    assert where(x > y, x + y, x + y).number == (x + y).number
    assert where(x > y, 0.5, y).number != y.number
    assert where(True, x, y) is x and where(False, x, y) is y
    assert spelled(maximum(x, y))[0][-1].endswith("= maximum(x, y)")


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "gt": lambda a, b: a > b,
    "lt": lambda a, b: a < b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "not": lambda a: ~a,
    "where": lambda c, a, b: a if c else b,
    "sqrt": np.sqrt,
    "maximum": max,
}


def drawn(seed: int, x: list[Any], choose: Any, root: Any, larger: Any) -> list[Any]:
    """Ten random operations on given scalars, whatever they are."""
    rng, values = np.random.default_rng(seed), list(x)
    made: list[Callable[[Any, Any, Any, float], Any]] = [
        lambda a, b, c, number: a + b * number,
        lambda a, b, c, number: number - a,
        lambda a, b, c, number: a / (b * b + 1.0),
        lambda a, b, c, number: root(a * a + 2.0),
        lambda a, b, c, number: choose((a > b) & ~(b < c), a, c),
        lambda a, b, c, number: choose((a < number) | (c > 0.5), -a, b),
        lambda a, b, c, number: larger(a, c),
    ]
    for _ in range(10):
        a, b, c = (values[int(n)] for n in rng.integers(0, len(values), 3))
        values.append(made[int(rng.integers(len(made)))](a, b, c, float(rng.choice([0.0, 1.0, -2.5, 1e-30]))))
    return values


@given(st.integers(0, 2**32 - 1))
def test_lines_compute_what_the_formulas_say(seed: int) -> None:
    """As Python and as instructions; both have the value of the formulas on plain numbers, bit for bit."""
    given_to = [np.float64(v) for v in np.random.default_rng(seed + 1).uniform(-3.0, 3.0, 3)]
    expected = drawn(seed, given_to, lambda c, a, b: a if c else b, np.sqrt, lambda a, b: a if a > b else b)
    trace = Trace()
    inputs = [trace.input(f"c{i}") for i in range(3)]
    root = lambda x: x.sqrt() if isinstance(x, Expression) else math.sqrt(x)  # noqa: E731
    results = drawn(seed, inputs, where, root, maximum)
    names: dict[str, Any] = {f"c{i}": v for i, v in enumerate(given_to)}
    lines, texts = instructions(results)
    values = dict(names)
    for name, operation, *operands in (line.split() for line in lines):
        assert name not in values
        values[name] = ARITHMETIC[operation](*(values[x] if x in values else np.float64(x) for x in operands))
    assert [values[t] if t in values else float(t) for t in texts] == expected
    lines, texts = statements(results, lambda name: name + "_", repr)
    scope = names | {"where_": ARITHMETIC["where"], "sqrt_": np.sqrt, "maximum_": max, "not_": lambda a: ~a}
    exec("\n".join(lines), scope)
    assert [eval(text, scope) for text in texts] == expected


def test_inputs_are_seen_behind_any_sign() -> None:
    """A kernel loads only what its lines mention."""
    assert used(["t1 = -p0", "t2 = where(~c3, p2, t1*p4)", "p11"], "p", 12) == [0, 2, 4, 11]
    assert used(["t1 = p10 + xp3 + p"], "p", 11) == [10]


@cache
def form(name: str, option: str) -> Form:
    bank = make_estimator(name, **OPTIONS[option])
    assert isinstance(bank, Bank)
    return form_of(bank)


def undefined(block: Iterable[ast.stmt], known: set[str]) -> list[str]:
    """Names that a block reads before they are set; `known` gains what it sets on every path."""
    missing: list[str] = []
    for line in block:
        if isinstance(line, ast.If):
            missing += _unknown(line.test, known)
            both = [set(known), set(known)]
            missing += undefined(line.body, both[0]) + undefined(line.orelse, both[1])
            known |= both[0] & both[1]
        elif isinstance(line, ast.For):
            missing += _unknown(line.iter, known)
            inside = known | {n.id for n in ast.walk(line.target) if isinstance(n, ast.Name)}
            missing += undefined(line.body, inside)
        elif isinstance(line, ast.Assign):
            missing += _unknown(line.value, known)
            known |= {n.id for target in line.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        else:
            missing += _unknown(line, known)
    return missing


def _unknown(node: ast.AST, known: set[str]) -> list[str]:
    names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
    return [name for name in names if name not in known and not hasattr(builtins, name)]


def assert_stands_alone(source: str, defined: Iterable[str] = ()) -> None:
    tree = ast.parse(source)
    top = {
        alias.asname or alias.name for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom) for alias in n.names
    }
    top |= {"tl", *defined} | {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    checked = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    assert checked
    for function in checked:
        known = top | {argument.arg for argument in function.args.args}
        assert undefined(function.body, known) == [], function.name


def test_a_name_read_too_early_is_noticed() -> None:
    for text in (
        "    b = a\n    a = 1",
        "    if x:\n        a = 1\n    b = a",
        "    for k in range(x):\n        b = b + a",
    ):
        with pytest.raises(AssertionError):
            assert_stands_alone("def f(x):\n" + text + "\n")
    assert_stands_alone("def f(x):\n    if x:\n        a = 1\n    else:\n        a = 2\n    b = a\n")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", BANKS)
def test_every_forms_triton_source_stands_alone(name: str, dtype: str) -> None:
    bank = form(name, "gate+tail" if dtype == "float64" else "plain")
    assert_stands_alone(kalman_triton.source(bank, outputs_of(bank), dtype))
    if len(bank.kinds) == 1:
        assert_stands_alone(kalman_triton_smooth.source(bank, dtype))


@pytest.mark.parametrize(("name", "option"), FORMS)
def test_every_forms_instructions_stand_alone(name: str, option: str) -> None:
    bank = form(name, option)
    outputs, dtype = outputs_of(bank), "float64"
    inputs = {"c": len(bank.columns), "s": bank.state_size, "p": bank.parameter_count}
    filters = [body(bank, outputs, instructions, Trace(functions(dtype))) for body in (first_body, step_body)]
    bodies = [(body, inputs) for body in filters]
    if name != "imm":  # its smoother's four by four pairs take seconds to write down
        smoothers = [body(bank, instructions, Trace(functions(dtype))) for body in (back_body, show_body)]
        bodies += [(body, inputs | {"c": bank.state_size + 1}) for body in smoothers]
    for (lines, state, results), counts in bodies:
        known = {f"{letter}{i}" for letter, count in counts.items() for i in range(count)}
        for line in lines:
            given_name, _, *operands = line.split()
            assert all(x in known or _is_number(x) for x in operands), line
            assert given_name not in known
            known.add(given_name)
        assert all(x in known or _is_number(x) for x in [*state, *results])
        assert len(state) == bank.state_size
    for source in (
        kalman_numba.source(bank, outputs, dtype),
        "" if name == "imm" else kalman_numba_smooth.source(bank, dtype),
    ):
        if source:
            assert_stands_alone(source, ("FIRST", "STEP", "BACK", "SHOW", "first", "step", "back", "show"))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
