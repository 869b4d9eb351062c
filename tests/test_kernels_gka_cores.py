"""The compiled step of Gated KalmaNet for many sequences on a CPU against the plain one."""

from typing import Any

import pytest
import torch

from ssrtrack.kernels import gka as public
from ssrtrack.kernels import gka_numba
from ssrtrack.kernels.gka import gka_step

Tensor = torch.Tensor
ROWS: dict[str, dict[str, Any]] = {
    "a tracker's": {},
    "two threads": {"B": 40, "threads": 2},
    "odd sizes": {"D": 7, "V": 3},
    "one number a head": {"D": 1, "V": 1},
    "wide values": {"D": 4, "V": 9, "alpha": False},
    "float64": {"kind": torch.float64, "steps": 7},
    "bfloat16": {"kind": torch.bfloat16},
    "nothing before": {"started": False},
    "nothing at all": {"started": False, "keys": 0.0},
    "tiny keys": {"started": False, "keys": 1e-9},
    "a wide ridge, one iteration": {"ridge": 0.5, "steps": 1},
}


def drawn(
    B: int = 20, heads: int = 2, D: int = 8, V: int = 8, kind: torch.dtype = torch.float32, alpha: bool = True,
    started: bool = True, keys: float = 1.0,
) -> tuple[list[Any], tuple[Tensor, Tensor] | None]:  # fmt: skip
    """q, k, v, log γ and α, and a state whose H is not quite symmetric."""
    g = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    q, k, v = normal(B, heads, D), keys * normal(B, heads, D), normal(B, heads, V)
    gates = -normal(B, heads).abs(), normal(B, heads).sigmoid()
    made = [part.to(kind) for part in (q, k, v)]
    made += [gates[0].to(kind), gates[1].to(kind) if alpha else None]
    past, state = normal(B, heads, D, 2 * D), torch.promote_types(kind, torch.float32)
    H = (past @ past.mT + 0.1 * normal(B, heads, D, D)).to(state)
    return made, (H, normal(B, heads, D, V).to(state)) if started else None


def both(monkeypatch: pytest.MonkeyPatch, *given: Any, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """o, H, U and variance of the plain step and of the compiled one."""
    found = []
    for many in (1 << 30, 1):
        monkeypatch.setattr(public, "MANY", many)
        o, (H, U), variance = gka_step(*given, variance=True, **options)
        found.append([o, H, U, variance])
    return found[0], found[1]


@pytest.mark.parametrize("name", ROWS)
def test_the_compiled_step_gives_the_plain_ones_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dict(ROWS[name])
    options = {key: row.pop(key) for key in ("ridge", "steps") if key in row}
    monkeypatch.setattr(torch, "get_num_threads", lambda: row.pop("threads", 1))
    given, state = drawn(**{key: value for key, value in row.items() if key != "threads"})
    ran = []
    real = gka_numba.step
    monkeypatch.setattr(gka_numba, "step", lambda *a, **k: ran.append(k["threads"]) or real(*a, **k))
    plain, compiled = both(monkeypatch, *given, state, **options)
    assert ran == [ROWS[name].get("threads", 1)]
    near = 1e-2 if given[0].dtype == torch.bfloat16 else 1e-13 if given[0].dtype == torch.float64 else 2e-5
    for wanted, got in zip(plain, compiled, strict=True):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        torch.testing.assert_close(got, wanted, rtol=near, atol=near * float(wanted.nan_to_num(posinf=0.0).abs().max()))


def test_a_state_is_not_written_to_and_goes_on_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    given, state = drawn()
    assert state is not None
    kept = [part.clone() for part in state]
    states: list[Any] = [state, state]
    for _ in range(300):
        for way, many in enumerate((1 << 30, 1)):
            monkeypatch.setattr(public, "MANY", many)
            states[way] = gka_step(*given, states[way])[1]
            given[2] = given[2].roll(way)  # the same values for both ways, others at the next step
    assert all(torch.equal(a, b) for a, b in zip(state, kept, strict=True))
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_what_is_differentiated_or_mapped_takes_the_plain_step(monkeypatch: pytest.MonkeyPatch) -> None:
    given, state = drawn(alpha=False)
    q, k, v, log_decay, _ = given
    monkeypatch.setattr(public, "MANY", 1)
    monkeypatch.setattr(gka_numba, "step", lambda *a, **k: pytest.fail("the compiled step has no gradient"))
    o, _ = gka_step(q.requires_grad_(), k, v, log_decay, None, state)
    (gradient,) = torch.autograd.grad(o.sum(), q)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    assert state is not None
    q = q.detach()
    mapped = torch.func.vmap(lambda a: gka_step(a, k, v, log_decay, None, state)[0])(torch.stack([q, 2 * q]))
    torch.testing.assert_close(mapped[0], o.detach(), rtol=1e-5, atol=1e-6)


def test_a_state_that_does_not_fit_is_refused() -> None:
    given, state = drawn(B=100)
    assert state is not None
    with pytest.raises(ValueError, match=r"the state's U has the shape .* expected"):
        gka_step(*given, (state[0], state[1][:, :1]))
