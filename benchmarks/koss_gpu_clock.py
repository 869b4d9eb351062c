"""How the KOSS benchmark times: events around calls, replays of CUDA graphs, peak memory, and the device's ceilings."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from koss_gpu_cases import CLOCK_HZ, Ceilings

Work = Callable[[], object]
EXPS = 1024  # in a row for each element, when exponentials are counted
MANY = """template <typename T> T many(T x) {
    float a = x, b = x + 1.0f, c = x + 2.0f, d = x + 3.0f;
    for (int i = 0; i < 256; i++) { a = __expf(-a); b = __expf(-b); c = __expf(-c); d = __expf(-d); }
    return a + b + c + d;
}"""


@dataclass(frozen=True)
class Deadline:
    """When nothing more is begun: `seconds` after the start, `at` by `perf_counter`."""

    at: float
    seconds: float

    def left_s(self) -> float:
        return self.at - time.perf_counter()

    def over(self) -> bool:
        return self.left_s() <= 0.0

    @property
    def note(self) -> str:
        """What a row says that was not begun."""
        return f"left out: {self.seconds:.0f} s were over"


def ceilings(where: str, tiny: bool = False) -> Ceilings:
    """Measured on the device; on a CPU the same motions, whose numbers mean little."""
    cuda = where == "cuda"
    copied = torch.randn((1 << 20) if tiny or not cuda else (1 << 29), device=where)
    target = torch.empty_like(copied)
    copy_ms = median_ms([lambda: target.copy_(copied)], where, 10)
    size = 8192 if cuda and not tiny else 128
    a, b = (torch.randn(size, size, device=where).bfloat16() for _ in range(2))
    product_ms = median_ms([lambda: a @ b], where, 10)
    processors = torch.cuda.get_device_properties(0).multi_processor_count if cuda else 1
    exps, how = _exps_per_s(where, processors)
    return Ceilings(2e3 * copied.nbytes / copy_ms, 2e3 * size**3 / product_ms, exps, how, processors)


def _exps_per_s(where: str, processors: int) -> tuple[float, str]:
    """Exponentials a second, from a kernel of little else; where it does not compile, 16 a clock."""
    if where == "cuda":
        try:
            many = torch.cuda.jiterator._create_jit_fn(MANY)
            x = torch.rand(1 << 20, device=where)
            return 1e3 * EXPS * x.numel() / median_ms([lambda: many(x)], where, 10), "measured"
        except Exception as error:  # no run-time compiler: the model's number does
            print(f"exponentials are not measured: {first_line(error)}")
    return 16.0 * processors * CLOCK_HZ, "16 a clock and multiprocessor, 1.755 GHz"


def median_ms(works: Sequence[Work], where: str, repeats: int) -> float:
    return float(np.median(call_ms(works, where, repeats)))


def call_ms(works: Sequence[Work], where: str, repeats: int, warm: int = 2) -> list[float]:
    """Milliseconds of single calls, the works taking turns, the device idle before each: what a caller waits for."""
    for i in range(warm):
        works[i % len(works)]()
    return [_once(works[i % len(works)], where) for i in range(repeats)]


def _once(work: Work, where: str) -> float:
    if where != "cuda":
        begin = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - begin)
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    first.record()
    work()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last))


def within(works: Sequence[Work], where: str, budget_s: float, most: int = 40) -> list[float]:
    """`call_ms` with as many repeats as the budget has room for, at least 3 (2 where one takes over a second)."""
    trial = call_ms(works, where, 1, warm=1)[0] / 1e3
    if trial > 1.0:
        return call_ms(works, where, 2, warm=0)
    return call_ms(works, where, max(3, min(most, int(budget_s / max(trial, 1e-6)))))


def graph_ms(works: Sequence[Work], stream: Any, budget_s: float, most: int = 40) -> list[float]:
    """Milliseconds of one work by replaying a CUDA graph of all of them one after another: no gaps between launches.

    stream: the side stream on which anything that the works go on from was made.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        for work in works:
            work()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        for work in works:
            work()
    torch.cuda.synchronize()
    found = [ms / len(works) for ms in within([graph.replay], "cuda", budget_s, most)]
    graph.reset()
    return found


def side_stream(where: str) -> Any:
    """A stream that a graph can be captured on, entered by `on`; None without a GPU."""
    return torch.cuda.Stream() if where == "cuda" else None


def on(stream: Any) -> Any:
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def peak_bytes(work: Work, where: str) -> float:
    """Bytes that a call takes beside what was there before; NaN without a GPU."""
    if where != "cuda":
        return float("nan")
    free()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before)


def free() -> None:
    """Give cached memory back."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def time_columns(ms: Sequence[float]) -> dict[str, Any]:
    p20, p50, p80 = (float(v) for v in np.percentile(ms, [20, 50, 80]))
    return {"ms_p20": p20, "ms_p50": p50, "ms_p80": p80, "repeats": len(ms)}


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"
