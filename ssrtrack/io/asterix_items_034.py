"""CAT034 edition 1.29, the radar's own service messages, as rows (see `ssrtrack.io.asterix_items`)."""

from ssrtrack.io.asterix_items import (
    CAT048,
    SOURCE,
    Compound,
    Explicit,
    Field,
    Fixed,
    Item,
    Repetitive,
    enum,
    flag,
    signed,
    spare,
    unsigned,
)
from ssrtrack.io.asterix_labels import CHANNEL, COUNTER, DATA_FILTER, MESSAGE_TYPE, REDUCTION, SENSITIVITY_MAP

_ANTENNA = flag("ANT", "antenna 1", "antenna 2")
_CHANNEL = enum("CHAB", 2, CHANNEL)
_MONITOR = flag("MSC", "monitoring connected", "monitoring disconnected")
_REDUCTION = enum("REDRAD", 3, REDUCTION)


def _overload(name: str) -> Field:
    return flag(name, "no overload", "overload")


CONFIGURATION = Compound(
    (
        ("COM", Fixed((flag("NOGO", "released for operation", "operational use inhibited"),
                       flag("RDPC", "RDPC 1", "RDPC 2"), flag("RDPR", "default", "RDPC reset"),
                       _overload("OVLRDP"), _overload("OVLXMT"), _MONITOR,
                       flag("TSV", "time source valid", "time source invalid"), spare(1)))),
        None,
        None,
        ("PSR", Fixed((_ANTENNA, _CHANNEL, _overload("OVL"), _MONITOR, spare(3)))),
        ("SSR", Fixed((_ANTENNA, _CHANNEL, _overload("OVL"), _MONITOR, spare(3)))),
        ("MDS", Fixed((_ANTENNA, _CHANNEL, _overload("OVLSUR"), _MONITOR,
                       flag("SCF", "channel A", "channel B"), flag("DLF", "channel A", "channel B"),
                       _overload("OVLSCF"), _overload("OVLDLF"), spare(7)))),
        None,
    )
)  # fmt: skip

PROCESSING = Compound(
    (
        ("COM", Fixed((spare(1), enum("REDRDP", 3, REDUCTION), enum("REDXMT", 3, REDUCTION), spare(1)))),
        None,
        None,
        ("PSR", Fixed((flag("POL", "linear", "circular"), _REDUCTION, enum("STC", 2, SENSITIVITY_MAP), spare(2)))),
        ("SSR", Fixed((_REDUCTION, spare(5)))),
        ("MDS", Fixed((_REDUCTION, flag("CLU", "autonomous", "not autonomous"), spare(4)))),
        None,
    )
)

CAT034: tuple[Item, ...] = (
    Item("010", "Data source identifier", SOURCE),
    Item("000", "Message type", Fixed((enum("TYP", 8, MESSAGE_TYPE),))),
    Item("030", "Time of day", Fixed((unsigned("TOD", 24, 1 / 2**7, "s"),))),
    Item("020", "Sector number", Fixed((unsigned("SECTOR", 8, 360 / 2**8, "deg"),))),
    Item("041", "Antenna rotation period", Fixed((unsigned("PERIOD", 16, 1 / 2**7, "s"),))),
    Item("050", "System configuration and status", CONFIGURATION),
    Item("060", "System processing mode", PROCESSING),
    Item("070", "Message counts", Repetitive((enum("TYP", 5, COUNTER), unsigned("COUNT", 11)))),
    Item("100", "Generic polar window", Fixed((unsigned("RHOST", 16, 1 / 2**8, "NM"),
                                               unsigned("RHOEND", 16, 1 / 2**8, "NM"),
                                               unsigned("THETAST", 16, 360 / 2**16, "deg"),
                                               unsigned("THETAEND", 16, 360 / 2**16, "deg")))),
    Item("110", "Data filter", Fixed((enum("TYP", 8, DATA_FILTER),))),
    Item("120", "Position of the data source", Fixed((signed("HGT", 16, 1.0, "m"),
                                                      signed("LAT", 24, 180 / 2**23, "deg"),
                                                      signed("LON", 24, 180 / 2**23, "deg")))),
    Item("090", "Collimation error", Fixed((signed("RNG", 8, 1 / 2**7, "NM"), signed("AZM", 8, 360 / 2**14, "deg")))),
    Item("RE", "Reserved expansion field", Explicit()),
    Item("SP", "Special purpose field", Explicit()),
)  # fmt: skip

# The categories this package decodes; blocks of any other are skipped by their length and counted.
ITEMS: dict[int, tuple[Item, ...]] = {34: CAT034, 48: CAT048}
