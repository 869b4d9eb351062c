"""The log format: plots, truth, tracks and radars in one HDF5 file (docs/log-format.md)."""

from ssrtrack.io.hdf5_reader import LogReader
from ssrtrack.io.hdf5_schema import FORMAT_VERSION, Provenance
from ssrtrack.io.hdf5_writer import LogWriter

__all__ = ["FORMAT_VERSION", "LogReader", "LogWriter", "Provenance"]
