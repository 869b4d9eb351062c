"""A choice without a branch, for numba: a loop of straight lines can be vectorised, one with branches cannot."""

from typing import Any

from numba import types
from numba.extending import intrinsic


@intrinsic
def select(context: Any, condition: Any, a: Any, b: Any) -> Any:
    """a if condition else b, both computed; LLVM's select instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return a(types.boolean, a, a), generate
