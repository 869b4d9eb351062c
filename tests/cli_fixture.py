"""The command line in this process, where a fresh one's start, of a second or more, would prove nothing further."""

import contextlib
import io
import os
import sys
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

from ssrtrack.cli.main import main


def in_process(*arguments: object, cwd: Path, encoding: str = "utf-8", **environment: str) -> CompletedProcess[str]:
    """As `subprocess.run` of `ssrtrack ARGUMENTS` in a folder, its streams in an encoding."""
    command = ["ssrtrack", *map(str, arguments)]
    streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
    known = {"NO_COLOR": "1", "TERM": "dumb"} | environment
    with (
        patch.object(sys, "argv", command),
        patch.dict(os.environ, known),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
    ):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    said = []
    for stream in streams:
        stream.seek(0)
        said.append(stream.read())
    return CompletedProcess(command, code, *said)
