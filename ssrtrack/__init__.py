"""ssrtrack: secondary surveillance radar plots in, tracks with honest uncertainty out, every claim scored.

Importing this package is cheap: the public names load their modules on first use, and neither torch nor triton is
imported here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Plots": "ssrtrack.data",
    "Truth": "ssrtrack.data",
    "Tracks": "ssrtrack.data",
    "Radar": "ssrtrack.data",
    "SsrtrackError": "ssrtrack.errors",
    "LogReader": "ssrtrack.io.hdf5",
    "LogWriter": "ssrtrack.io.hdf5",
    "ESTIMATORS": "ssrtrack.filters.estimators",
    "load_tracker": "ssrtrack.models.load",
    "run": "ssrtrack.filters.run",
    "evaluate": "ssrtrack.scoring.evaluate",
}

if TYPE_CHECKING:
    from ssrtrack.data import Plots, Radar, Tracks, Truth
    from ssrtrack.errors import SsrtrackError
    from ssrtrack.filters.estimators import ESTIMATORS
    from ssrtrack.filters.run import run
    from ssrtrack.io.hdf5 import LogReader, LogWriter
    from ssrtrack.models.load import load_tracker
    from ssrtrack.scoring.evaluate import evaluate

__all__ = [
    "ESTIMATORS",
    "LogReader",
    "LogWriter",
    "Plots",
    "Radar",
    "SsrtrackError",
    "Tracks",
    "Truth",
    "__version__",
    "evaluate",
    "load_tracker",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ssrtrack' has no attribute {name!r}")
