"""What the transponders' replies say: codes, altitude, garbling."""

from ssrtrack.simulators.legs import Ints
from ssrtrack.simulators.look import Columns, Look, Meetings


def replied(look: Look, met: Meetings, rows: Ints, columns: Columns) -> tuple[Ints, Columns]:
    """The plots' codes and altitudes as the radar decodes them, and which plots are left.

    Args:
        look: the radar, its rotations and the flights.
        met: everything that the beam meets inside the coverage, detected or not: all of these can garble.
        rows: (n,) the meetings that became plots, ascending.
        columns: the n plots with measured range and azimuth and exact identity, altitude and registers.

    Returns:
        Rows and columns (m ≤ n), of new arrays where anything changed.
    """
    return rows, columns
