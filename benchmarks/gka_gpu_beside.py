"""Peers of the Gated KalmaNet benchmark, each group in a process of its own: which, when, and the rows they print."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gka_gpu_cases import Case, columns_of
from gka_gpu_ways import Row
from koss_gpu_clock import Deadline, free

SCRIPT = Path(__file__).with_name("gka_gpu_peers.py")
VERSIONS = ("0.4.0", "0.6.0")
FIRST, SECOND, LAST = 0, 1, 2  # before softmax attention and the sweep, after them, and after all others
# One process for each: what a kernel breaks on the card it breaks for all in its process. The last one's backward
# refuses Triton 3.4 to 3.7 on these cards and its forward is no target, so it waits.
GROUPS = (
    (FIRST, "0.4.0", ("chunk_mesa_net",)),
    (FIRST, "0.6.0", ("chunk_mesa_net",)),
    (SECOND, "0.4.0", ("chunk_gated_delta_rule", "chunk_simple_gla")),
    (LAST, "0.6.0", ("chunk_gated_delta_rule",)),
)


class Peer(NamedTuple):
    """Operators of one version of flash-linear-attention: where it lies, None if nowhere, and when they are timed."""

    turn: int
    version: str
    ways: tuple[str, ...]
    site: Path | None

    @property
    def name(self) -> str:
        return ", ".join(f"{way} {self.version}" for way in self.ways)

    def command(self, args: argparse.Namespace, cases: Sequence[Case], ways: Sequence[str], *more: str) -> list[str]:
        names = [case.name for case in cases]
        options = ["--site", str(self.site), "--version", self.version, "--device", args.device, *more]
        options += ["--backend", args.backend, "--budget", str(args.budget), *["--tiny"] * args.tiny]
        return [sys.executable, str(SCRIPT), *options, "--ways", *ways, "--cases", *names]


def peers_of(sites: Sequence[Path] | None, wanted: Sequence[str] | None) -> list[Peer]:
    """All groups, or what they have of the wanted operators; sites: folders in the order of VERSIONS."""
    at = dict(zip(VERSIONS, sites, strict=True)) if sites else {}
    groups = [(turn, version, tuple(w for w in ways if not wanted or w in wanted)) for turn, version, ways in GROUPS]
    return [Peer(turn, version, ways, at.get(version)) for turn, version, ways in groups if ways]


def peer_rows(peer: Peer, cases: Sequence[Case], args: argparse.Namespace, deadline: Deadline) -> Iterator[Row]:
    """Rows of a group as its process prints them, which is ended after --peer-box seconds."""
    nothing = columns_of(cases[0]) | {"of": cases[0], "way": peer.name}
    if peer.site is None:
        yield nothing | {"note": "not installed: --peers names no folder of it"}
        return
    if deadline.over():
        yield nothing | {"note": deadline.note}
        return
    free()
    box_s = min(args.peer_box, deadline.left_s())
    process = printed(peer.command(args, cases, peer.ways, "--seconds", str(0.9 * box_s)), box_s)
    fault = yield from _read(process, cases)
    if fault:
        yield nothing | {"note": f"not whole: {fault}"}


def _read(process: Generator[str, None, str], cases: Sequence[Case]) -> Generator[Row, None, str]:
    while True:
        try:
            line = next(process)
        except StopIteration as end:
            return str(end.value)
        row = row_of(line, cases)
        if row is not None:
            yield row


def row_of(line: str, cases: Sequence[Case]) -> Row | None:
    """The row that a line says; None of a warning, or of a line that a process was ended in."""
    try:
        row: Row = json.loads(line)
        case = next(case for case in cases if case.name == row["case"])
    except (ValueError, TypeError, KeyError, StopIteration):
        return None
    return columns_of(case) | {"of": case} | row


def printed(command: Sequence[str], box_s: float) -> Generator[str, None, str]:
    """Lines as a process prints them; after box_s seconds it is ended with all it started.

    Returns why it did not end well: its last words, or that it was ended.
    """
    late = threading.Event()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True)

        def end() -> None:
            if process.poll() is None:
                late.set()
                os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(box_s, end)
        timer.start()
        try:
            yield from process.stdout or ()
            process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:  # nobody reads on
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if late.is_set():
            return f"ended after {box_s:.0f} s"
        said.seek(0)
        words = said.read().strip().splitlines()
        return (words[-1][:160] if words else f"exit code {process.returncode}") if process.returncode else ""
