"""Where and with what a result was measured, and how it is kept: the same columns in every results file."""

import csv
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def setting(*packages: str) -> dict[str, str]:
    """Columns device, versions (Python's, ours and the packages'), commit and date."""
    versions = [f"{package} {version(package)}" for package in ("ssrtrack", *packages)]
    return {
        "device": device(),
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


def commit() -> str:
    """The commit that is checked out, with a plus where code differs from it."""
    known = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    return known + "+" * bool(changed) if known else "unknown"


def _git(*arguments: str) -> str:
    # From the root, so that the pattern meets every file.
    command = ["git", "-C", str(RESULTS.parents[1]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of the same keys, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    print(f"written: {path}")
