"""Content of the Mode S Comm-B registers 4,0, 5,0 and 6,0 carried by I048/250 (ICAO Doc 9871, tables A-2-64, -80, -96).

Each register is 56 bits. A quantity holds only where its status bit is 1; the bits before a quantity name it.
"""

from ssrtrack.io.asterix_items import Field, flag, signed, spare, unsigned


def _status(name: str) -> Field:
    return flag(name, "not available", "available")


# Keyed by (BDS1, BDS2). `<NAME>_S` is the status bit of `<NAME>`.
BDS: dict[tuple[int, int], tuple[Field, ...]] = {
    (4, 0): (
        _status("MCP_ALT_S"),
        unsigned("MCP_ALT", 12, 16.0, "ft"),
        _status("FMS_ALT_S"),
        unsigned("FMS_ALT", 12, 16.0, "ft"),
        _status("BARO_S"),
        Field("BARO", 12, "unsigned", 0.1, "hPa", base=800.0),
        spare(8),
        _status("MODE_S"),
        flag("VNAV", "off", "VNAV"),
        flag("ALT_HOLD", "off", "altitude hold"),
        flag("APPROACH", "off", "approach"),
        spare(2),
        _status("SOURCE_S"),
        Field("SOURCE", 2, "enum", labels={0: "unknown", 1: "aircraft altitude", 2: "MCP/FCU", 3: "FMS"}),
    ),
    (5, 0): (
        _status("ROLL_S"),
        signed("ROLL", 10, 45 / 256, "deg"),
        _status("TRACK_S"),
        signed("TRACK", 11, 90 / 512, "deg"),
        _status("GS_S"),
        unsigned("GS", 10, 2.0, "kt"),
        _status("TRACK_RATE_S"),
        signed("TRACK_RATE", 10, 8 / 256, "deg/s"),
        _status("TAS_S"),
        unsigned("TAS", 10, 2.0, "kt"),
    ),
    (6, 0): (
        _status("HEADING_S"),
        signed("HEADING", 11, 90 / 512, "deg"),
        _status("IAS_S"),
        unsigned("IAS", 10, 1.0, "kt"),
        _status("MACH_S"),
        unsigned("MACH", 10, 2.048 / 512),
        _status("BARO_RATE_S"),
        signed("BARO_RATE", 10, 32.0, "ft/min"),
        _status("IVV_S"),
        signed("IVV", 10, 32.0, "ft/min"),
    ),
}
