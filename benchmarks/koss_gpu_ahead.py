"""Compiling what the KOSS benchmark times, in processes side by side, before anything is timed.

Triton and torch.compile keep what they compile on the disk. A process that takes longer than its box is ended with all
it started and named; what it was to compile is then not timed, since timing would wait for the same compiler.
"""

import os
import signal
import subprocess
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple


class Job(NamedTuple):
    """What is compiled, how it is called in print, and the process that does it."""

    key: Hashable
    name: str
    command: Sequence[str]


def compiled(jobs: Sequence[Job], workers: int, box_s: float, until: float) -> dict[Hashable, str]:
    """Run all jobs, each for at most box_s seconds and none past `until` (`perf_counter`). Why some did not end."""

    def run(job: Job) -> str:
        begin = time.perf_counter()
        room_s = min(box_s, until - begin)
        fault = boxed(job.command, room_s)[1] if room_s > 0.0 else "no time was left"
        seconds = time.perf_counter() - begin
        print(f"  {seconds:6.1f} s {job.name}" + (f": NOT compiled, {fault}" if fault else ""), flush=True)
        return fault

    begin = time.perf_counter()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        faults = list(pool.map(run, jobs))
    print(f"compiled {faults.count('')} of {len(jobs)} in {time.perf_counter() - begin:.0f} s", flush=True)
    return {job.key: fault for job, fault in zip(jobs, faults, strict=True) if fault}


def boxed(command: Sequence[str], box_s: float) -> tuple[str, str]:
    """What a process printed, and why it did not end well: its last words, or that it was ended after box_s seconds."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        told, said = process.communicate(timeout=box_s)
    except subprocess.TimeoutExpired:
        # All that it started, too: an assembler would go on by itself.
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0], f"ended after {box_s:.0f} s"
    lines = said.strip().splitlines()
    return told, (lines[-1][:160] if lines else f"exit code {process.returncode}") if process.returncode else ""
