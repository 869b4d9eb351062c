"""Where and with what a result was measured, and how it is kept: the same columns in every results file."""

import csv
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ssrtrack

RESULTS = Path(__file__).parent / "results"


def setting(*packages: str, on: str = "") -> dict[str, str]:
    """Columns device (`on`, else the processor), versions (Python's, ours and the packages'), commit and date."""
    # Our own is asked of the code, which may run from a checkout that is not installed.
    versions = [f"ssrtrack {ssrtrack.__version__}", *(f"{package} {version(package)}" for package in packages)]
    return {
        "device": on or device(),
        "versions": " ".join([f"python {platform.python_version()}", *versions]),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def device() -> str:
    """The processor's name and the number of its cores this machine has."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def cuda_device(index: int = 0) -> str:
    """The CUDA device's name, memory, and the CUDA version that torch was built with."""
    import torch

    found = torch.cuda.get_device_properties(index)
    return f"{found.name}, {found.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


def commit() -> str:
    """The commit that is checked out, with a plus where code differs from it.

    A copy of the code without its history is told by the variable SSRTRACK_COMMIT.
    """
    if told := os.environ.get("SSRTRACK_COMMIT"):
        return told
    known = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    return known + "+" * bool(changed) if known else "unknown"


def _git(*arguments: str) -> str:
    # From the root, so that the pattern meets every file.
    command = ["git", "-C", str(RESULTS.parents[1]), *arguments]
    if shutil.which("git") is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def write_csv(path: Path, rows: Sequence[dict[str, Any]], told: bool = True) -> None:
    """Write rows of the same keys, and say where unless `told` is False."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    if told:
        print(f"written: {path}")
