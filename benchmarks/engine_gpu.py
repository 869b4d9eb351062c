"""Track-steps per second and share of the memory's bandwidth of the batched engine on one CUDA device, beside torch-kf.

    python benchmarks/engine_gpu.py

A million tracks of 100 steps in float32, each with its own steps and covariances, on the device before and after. Times
are CUDA events around a whole pass, the median of 20 after 2 that do not count; ours go round two sets of buffers.
The ceiling is a large copy from device to device in the same process, bytes read and written counted; bytes of a pass
are those of the arrays it is given and fills. torch-kf runs in every mode of engine_torch_kf.py, with all tracks at
once and in blocks, and as CUDA graphs where that is possible; its fastest one is timed in full and is what the ratio
refers to. It is also given an easier problem (one step length, one covariance), the only one its own `filter` takes.
First of all, on fresh plots and outputs full of NaN, means and covariances must be those of numpy in float64 (for the
IMM: of the torch backend in float64) on tracks from all over the batch: 1 m, 0.1 m/s and 1 % RMS.
A last row streams more tracks than the device's memory holds from host arrays and back. Writes
results/engine_gpu.csv. Without a CUDA device, `--device cpu --tracks 500` goes through the same motions.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import engine_numpy
import engine_ours
import numpy as np
import torch
from engine_gpu_cases import (
    LIMITS,
    Q_M2S3,
    SPEED_SIGMA_MPS,
    copy_bytes_per_s,
    drawn,
    error_columns,
    errors,
    of_packed,
    reference,
    refuse_if_wrong,
    sampled,
    seconds_of,
)
from engine_numpy import Problem
from setting import RESULTS, cuda_device, device, setting, write_csv

TRACKS, STEPS, REPEATS = 1_000_000, 100, 20
STREAM_TRACKS, STREAM_GIB, DRAWN_AT_ONCE = 11_000_000, 8.0, 500_000
# Divisors, so that no last block of another size is compiled for. Small blocks need a graph to pay.
BLOCKS, GRAPH_BLOCKS = (250_000,), (31_250,)
Array = Any


def peer_row(
    case: str, modes: dict[str, Any], p: Problem, smooth: bool, repeats: int, blocks: Sequence[int]
) -> list[dict[str, Any]]:
    """Every mode of torch-kf tried once it is right, then the fastest in full; one row for each."""
    key, on_host = sampled(p)
    expected, tracks, rows = reference(on_host, smooth), p.dt_s.shape[1], []
    for mode, (given, fill) in modes.items():
        for block in (tracks, *(b for b in blocks if b < tracks)):
            name = joined(mode, block, tracks)
            row: dict[str, Any] = {"case": case, "implementation": "torch-kf", "mode": name, "tracks": tracks}
            try:
                rows.append(row | tried(p, given, fill, block, key, expected, 3))
            except Exception as error:  # a mode that does not run here is a finding, not an end
                rows.append(row | {"note": does_not_run(error)})
            _free()
            shown(rows[-1])
    right = [r for r in rows if r.get("seconds_p50") and not r.get("note")]
    if not right:
        sys.exit(f"{case}: torch-kf ran in no mode; nothing to compare with")
    best = min(right, key=lambda r: r["seconds_p50"])
    mode, size = split(best["mode"], tracks)
    best |= tried(p, *modes[mode], size, key, expected, repeats) | {"note": "fastest"}
    shown(best)
    _free()
    return rows


def graph_rows(
    case: str, modes: dict[str, Any], p: Problem, smooth: bool, rows: Sequence[dict[str, Any]], repeats: int
) -> list[dict[str, Any]]:
    """The case's fastest modes by Cholesky as CUDA graphs; `inverse` makes the host wait, so the others cannot be."""
    if p.dt_s.device.type != "cuda":
        return []
    timed = sorted((r for r in rows if r["case"] == case and "seconds_p50" in r), key=lambda r: r["seconds_p50"])
    fastest, tracks, out = timed[0], p.dt_s.shape[1], []
    key, on_host = sampled(p)
    expected = reference(on_host, smooth)
    chosen = list(dict.fromkeys(split(r["mode"], tracks)[0] for r in timed if "Cholesky" in r["mode"]))[:2]
    for mode, size in ((m, b) for m in chosen for b in (tracks, *GRAPH_BLOCKS) if b <= tracks):
        new = {"case": case, "implementation": "torch-kf", "mode": f"CUDA graph of: {joined(mode, size, tracks)}"}
        try:
            out.append(new | {"tracks": tracks} | tried(p, *modes[mode], size, key, expected, repeats, graph=True))
        except Exception as error:
            out.append(new | {"tracks": tracks, "note": does_not_run(error)})
        if out[-1].get("seconds_p50", np.inf) < fastest["seconds_p50"]:
            fastest["note"], out[-1]["note"], fastest = "", "fastest", out[-1]
        shown(out[-1])
        _free()
    return out


def joined(mode: str, block: int, tracks: int) -> str:
    """A row's name."""
    return f"{mode}, {'all at once' if block == tracks else f'blocks of {block}'}"


def split(name: str, tracks: int) -> tuple[str, int]:
    """Mode and tracks at a time of a row's name."""
    mode, block = name.rsplit(", ", 1)
    return mode, tracks if block == "all at once" else int(block.split()[-1])


def does_not_run(error: Exception) -> str:
    return f"does not run: {type(error).__name__}: {str(error).strip().splitlines()[0][:150]}"


def tried(
    p: Problem,
    given: bool,
    fill: Callable[[Any], None],
    block: int,
    key: Any,
    expected: Any,
    repeats: int,
    graph: bool = False,
) -> dict[str, Any]:
    """Errors and seconds of one mode; a mode that is wrong gets a note and no time."""
    import engine_torch_kf as peer

    # Else one mode's compiled variants count against the next one's limit.
    torch._dynamo.reset()
    laid = peer.prepared(p, given)
    laid.mean[1:], laid.covariance[1:] = float("nan"), float("nan")

    def work() -> None:
        # Smoothing is in place and ruins the first moments, so they are set anew.
        peer.begin(laid, p.speed_sigma_mps)
        peer.in_blocks(fill, laid, block)

    work()
    if graph:
        work = captured(work)
        laid.mean[1:], laid.covariance[1:] = float("nan"), float("nan")
        work()
    mean, covariance = peer.moments(laid, key)
    found = errors(mean.cpu().numpy(), covariance.cpu().numpy(), expected)
    out = error_columns(found)
    if not all(e <= limit for e, limit in zip(found, LIMITS, strict=True)):
        return out | {"note": "wrong beyond the limits; not timed"}
    moved = [laid.dt_s, laid.measure, laid.noise, laid.mean, laid.covariance]
    moved += [a for a in (laid.F, laid.Q) if a is not None]
    return out | clocked([work], repeats, p, moved)


def captured(work: Callable[[], None]) -> Callable[[], None]:
    """The work as one CUDA graph, which spares the gaps between its launches."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        work()
    replay: Callable[[], None] = graph.replay
    return replay


def our_row(case: str, estimator: str, problems: Sequence[Problem], backend: str, repeats: int) -> dict[str, Any]:
    """One kernel of ours, checked on every set of buffers and timed going round them."""
    name, works, found = f"{case}, ssrtrack {backend}", [], (0.0, 0.0, 0.0)
    for p in problems:
        work = engine_ours.device_work(estimator, p, backend, smoothed="smoother" in case)
        for out in work.written:
            out.fill_(float("nan"))
        work.run()
        key, on_host = sampled(p)
        if estimator == "kf":
            expected = reference(on_host, "smoother" in case)
        else:
            mean, packed = engine_ours.reference(estimator, on_host)
            expected = mean, engine_numpy.unpacked(packed)
        found = of_packed(*work.moments(key), expected)
        refuse_if_wrong(name, found)
        if not all(out.isfinite().all() for out in work.written):
            sys.exit(f"{name}: left outputs unwritten; nothing timed")
        works.append(work)
    row = {
        "case": case,
        "implementation": f"ssrtrack {backend}",
        "mode": estimator,
        "tracks": problems[0].dt_s.shape[1],
    }
    moved = [*works[0].read, *works[0].written]
    row |= error_columns(found) | clocked([w.run for w in works], repeats, problems[0], moved)
    _free()
    shown(row)
    return row


def streamed_row(tracks: int, memory_bytes: int, where: str) -> dict[str, Any]:
    """Moments of all steps from host arrays into host arrays, and the most device memory that took."""
    columns = on_host(tracks, where)
    _free()
    if where == "cuda":
        torch.cuda.reset_peak_memory_stats()
    out: list[Any] = []
    work = engine_ours.streamed(columns, STEPS + 1, Q_M2S3, SPEED_SIGMA_MPS, memory_bytes, where)
    seconds = seconds_of([lambda: out.append(work())], 1, "wall", warm=0)
    rows = torch.from_numpy(columns).view(6, STEPS + 1, tracks)
    p = Problem(rows[0], rows[1:3].swapaxes(0, 1), rows[3:].swapaxes(0, 1), Q_M2S3, SPEED_SIGMA_MPS)
    key, part = sampled(p)
    found = of_packed(*engine_ours.cells(torch.from_numpy(out[0]), STEPS + 1, key), reference(part, False))
    refuse_if_wrong("KF CV, streamed", found)
    moved = columns.nbytes + out[0].nbytes
    row = {"case": "KF CV, streamed from the host", "implementation": "ssrtrack triton"}
    row |= {"mode": f"blocks within {memory_bytes / 2**30:g} GiB", "tracks": tracks}
    row |= {"note": f"{moved / 1e9:.0f} GB in host arrays, one run"} | error_columns(found)
    row |= time_columns(seconds, tracks, moved, where)
    shown(row)
    return row


def on_host(tracks: int, where: str) -> Any:
    """Packed columns (6, plots) in host memory, drawn on the device block by block."""
    columns = np.empty((6, (STEPS + 1) * tracks), np.float32)
    rows = torch.from_numpy(columns).view(6, STEPS + 1, tracks)
    for first in range(0, tracks, DRAWN_AT_ONCE):
        part = drawn(min(DRAWN_AT_ONCE, tracks - first), STEPS, where, seed=100 + first)
        rows[..., first : first + part.dt_s.shape[1]] = engine_ours.rows_of(part).cpu()
    return columns


def clocked(works: Sequence[Callable[[], object]], repeats: int, p: Problem, moved: Sequence[Any]) -> dict[str, Any]:
    where = p.dt_s.device.type
    if where == "cuda":
        torch.cuda.reset_peak_memory_stats()
    # Trials of a few repeats have had their check to warm up.
    seconds = seconds_of(works, repeats, where, warm=2 if repeats >= REPEATS else 0)
    return time_columns(seconds, p.dt_s.shape[1], sum(a.nbytes for a in moved), where)


def time_columns(seconds: Sequence[float], tracks: int, bytes_moved: int, where: str) -> dict[str, Any]:
    p20, p50, p80 = (float(v) for v in np.percentile(seconds, [20, 50, 80]))
    peak = torch.cuda.max_memory_allocated() / 2**20 if where == "cuda" else float("nan")
    return {
        "seconds_p20": p20, "seconds_p50": p50, "seconds_p80": p80, "repeats": len(seconds),
        "steps_per_s": tracks * STEPS / p50, "bytes": bytes_moved,
        "peak_device_mib": "" if np.isnan(peak) else round(peak),
    }  # fmt: skip


COLUMNS = (
    "case", "implementation", "mode", "dtype", "tracks", "steps", "seconds_p20", "seconds_p50", "seconds_p80",
    "repeats", "steps_per_s", "bytes", "percent_of_copy", "ratio_to_torch_kf", "ratio_to_torch_backend", "target",
    "error_position_m", "error_velocity_mps", "error_covariance", "peak_device_mib", "note",
)  # fmt: skip
TARGETS = {
    ("KF CV", "ssrtrack triton"): "40 % of copy, 20 x torch-kf",
    ("IMM, CV CV-high CT CT", "ssrtrack triton"): "15 % of copy, 20 x torch backend",
}


def finished(rows: Sequence[dict[str, Any]], copy: float) -> list[dict[str, Any]]:
    """All columns of every row: percent of the copy's bandwidth, and ratios within a case."""
    fastest = {r["case"]: r["steps_per_s"] for r in rows if r.get("note") == "fastest"}
    own = {r["case"]: r["steps_per_s"] for r in rows if r["implementation"] == "ssrtrack torch"}
    out = []
    for r in rows:
        speed, case = r.get("steps_per_s"), r["case"]
        r = {"dtype": "float32", "steps": STEPS, "target": TARGETS.get((case, r["implementation"]), "")} | r
        if speed:
            r["percent_of_copy"] = f"{100.0 * r['bytes'] / r['seconds_p50'] / copy:.3g}"
            for column, peers in (("ratio_to_torch_kf", fastest), ("ratio_to_torch_backend", own)):
                r[column] = f"{speed / peers[case]:.3g}" if case in peers else ""
            r |= {k: f"{r[k]:.4g}" for k in ("seconds_p20", "seconds_p50", "seconds_p80")}
            r["steps_per_s"] = round(speed)
        out.append({column: r.get(column, "") for column in COLUMNS})
    return out


def shown(row: dict[str, Any]) -> None:
    speed = f"{row['steps_per_s']:14,.0f} steps/s" if "steps_per_s" in row else ""
    print(f"{row['case']:34s} {row['implementation']:16s} {row['mode']:66s} {speed} {row.get('note', '')}", flush=True)


def _free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peer_rows(tracks: int, where: str, repeats: int, blocks: Sequence[int]) -> Iterator[list[dict[str, Any]]]:
    """All rows of torch-kf known so far, again and again."""
    # Only here and in `tried`, so that ours runs without torch-kf.
    import engine_torch_kf as peer

    p, alike = drawn(tracks, STEPS, where, 1), drawn(tracks, STEPS, where, 2, shared=True)
    same, rows = ", same step and covariance for all", []
    table = (
        ("KF CV", peer.MODES, p, False),
        ("KF CV" + same, peer.SHARED_MODES, alike, False),
        ("KF CV and RTS smoother", peer.SMOOTHER_MODES, p, True),
        ("KF CV and RTS smoother" + same, peer.SHARED_SMOOTHER_MODES, alike, True),
    )
    for case in table:
        rows += peer_row(*case, repeats, blocks)
        yield rows
    # Last, since a capture that fails may leave the device in a bad way.
    for case in table:
        rows += graph_rows(*case, rows, repeats)
        yield rows


def our_rows(tracks: int, where: str, repeats: int) -> list[dict[str, Any]]:
    two = [drawn(tracks, STEPS, where, seed) for seed in (3, 4)]
    # Without buffers of its own the torch backend allocates at every step; a second set would only take memory.
    return [
        our_row(case, estimator, two if backend == "triton" else two[:1], backend, repeats)
        for case, estimator, backend in engine_ours.DEVICE_ROWS
    ]


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "engine_gpu.csv", help="CSV to write")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tracks", type=int, default=TRACKS)
    parser.add_argument("--stream-tracks", type=int, default=STREAM_TRACKS, help="0 leaves the streamed row out")
    parser.add_argument("--stream-gib", type=float, default=STREAM_GIB, help="device memory that its blocks may take")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument(
        "--blocks", type=int, nargs="*", default=BLOCKS, help="tracks at a time that torch-kf is tried with"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--peers-only", action="store_true", help="leave the package's engine out")
    only.add_argument("--ours-only", action="store_true", help="leave torch-kf out")
    args = parser.parse_args(given)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device; --device cpu --tracks 500 goes through the same motions without one")
    copy = copy_bytes_per_s(args.device)
    print(f"copy on the device: {copy / 1e9:.0f} GB/s read and written")
    on = cuda_device() if args.device == "cuda" else device()
    used = {"numpy": True, "torch": True, "triton": args.device == "cuda", "torch_kf": not args.ours_only}
    extra = {"copy_bytes_per_s": round(copy)} | setting(*(p for p, wanted in used.items() if wanted), on=on)
    # Kept as it grows: a run that is cut off has not been for nothing.
    ours: list[dict[str, Any]] = []
    if not args.peers_only:
        ours = our_rows(args.tracks, args.device, args.repeats)
        write_csv(args.output, [row | extra for row in finished(ours, copy)])
    peers: list[dict[str, Any]] = []
    if not args.ours_only:
        for peers in peer_rows(args.tracks, args.device, args.repeats, args.blocks):
            write_csv(args.output, [row | extra for row in finished([*ours, *peers], copy)])
    if args.stream_tracks and not args.peers_only:
        ours.append(streamed_row(args.stream_tracks, int(args.stream_gib * 2**30), args.device))
        write_csv(args.output, [row | extra for row in finished([*ours, *peers], copy)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
