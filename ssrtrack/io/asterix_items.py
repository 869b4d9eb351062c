"""What an ASTERIX record is made of, as data: CAT048 edition 1.32 and CAT034 edition 1.29.

Every reader and writer of this package is driven by `ITEMS`; a new item is a new row here and nothing else. Names, bit
widths and scale factors follow EUROCONTROL-SPEC-0149 Part 4 (CAT048) and Part 2b (CAT034). Values keep the unit the
standard gives them (NM, degrees, flight levels), named in `Field.unit`; conversion to SI happens where plots are made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ssrtrack.io.asterix_labels import (
    COM,
    CONFIDENCE_3A,
    CONFIDENCE_C,
    FLIGHT_STATUS,
    FOE_FRI,
    REPORT_TYPE,
    TRACK_SENSORS,
    VERTICAL_MODE,
    WARNINGS,
)

Kind = Literal["unsigned", "signed", "enum", "octal", "hex", "chars6", "spare"]


@dataclass(frozen=True)
class Field:
    """Some bits of an item: `value = raw * lsb + base` in `unit`; `labels` name the values of an enumeration."""

    name: str
    bits: int
    kind: Kind = "unsigned"
    lsb: float = 1.0
    unit: str = ""
    base: float = 0.0
    labels: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fixed:
    """A known number of octets."""

    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Extended:
    """Octets of seven bits, each followed by an FX bit that says whether another octet comes."""

    octets: tuple[tuple[Field, ...], ...]


@dataclass(frozen=True)
class RepetitiveFx:
    """One-octet elements of seven bits chained by FX, as many as there are."""

    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Repetitive:
    """One octet with a count, then that many groups."""

    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Explicit:
    """One octet with the whole length (itself included), then octets whose meaning is agreed elsewhere."""


@dataclass(frozen=True)
class Compound:
    """Octets of presence bits chained by FX, then the sub-items named there; None is an unassigned bit."""

    subs: tuple["tuple[str, Fixed | Repetitive] | None", ...]


Body = Fixed | Extended | RepetitiveFx | Repetitive | Explicit | Compound


@dataclass(frozen=True)
class Item:
    """One data item: its number in the category ("040"), its title and its structure."""

    id: str
    title: str
    body: Body


def unsigned(name: str, bits: int, lsb: float = 1.0, unit: str = "") -> Field:
    """A number without sign."""
    return Field(name, bits, "unsigned", lsb, unit)


def signed(name: str, bits: int, lsb: float = 1.0, unit: str = "") -> Field:
    """A number in two's complement."""
    return Field(name, bits, "signed", lsb, unit)


def enum(name: str, bits: int, labels: Mapping[int, str]) -> Field:
    """A value with a name."""
    return Field(name, bits, "enum", labels=labels)


def flag(name: str, no: str, yes: str) -> Field:
    """One bit."""
    return enum(name, 1, {0: no, 1: yes})


def spare(bits: int) -> Field:
    """Bits without meaning: skipped on reading, zero on writing."""
    return Field("", bits, "spare")


def element(name: str, what: str, value: Field | None = None) -> tuple[Field, Field]:
    """The pair "populated" and "value" that CAT048 uses for its later one-bit extensions."""
    populated = flag(f"{name}_EP", f"{what}: not populated", f"{what}: populated")
    return populated, value or flag(f"{name}_VAL", f"{what}: no", f"{what}: yes")


SOURCE = Fixed((unsigned("SAC", 8), unsigned("SIC", 8)))
_VALID = flag("V", "validated", "not validated")
_GARBLED = flag("G", "default", "garbled")
_SMOOTHED = flag("L", "from the transponder's reply", "smoothed by the local tracker")
_RUNLENGTH = 360 / 2**13


def confidence(pulses: tuple[str, ...]) -> tuple[Field, ...]:
    """One bit per reply pulse: 0 high, 1 low quality."""
    return tuple(flag(f"Q{p}", f"{p} high quality", f"{p} low quality") for p in pulses)


DESCRIPTOR = Extended(
    (
        (
            enum("TYP", 3, REPORT_TYPE),
            flag("SIM", "actual report", "simulated report"),
            flag("RDP", "RDP chain 1", "RDP chain 2"),
            flag("SPI", "no SPI", "special position identification"),
            flag("RAB", "aircraft transponder", "field monitor (fixed transponder)"),
        ),
        (
            flag("TST", "real report", "test report"),
            flag("ERR", "no extended range", "extended range present"),
            flag("XPP", "no X pulse", "X pulse present"),
            flag("ME", "no military emergency", "military emergency"),
            flag("MI", "no military identification", "military identification"),
            enum("FOEFRI", 2, FOE_FRI),
        ),
        (*element("ADSB", "on-site ADS-B"), *element("SCN", "cluster"), *element("PAI", "passive acq."), spare(1)),
        (*element("ACASXV", "ACAS X", enum("ACASXV_VAL", 4, {0: "not extended", 1: "Xa 1", 2: "Xu 1"})),
         *element("POXPR", "phase overlay capability")),
        (*element("POACT", "phase overlay"), *element("DTFXPR", "dataflash capability"),
         *element("DTFACT", "dataflash"), spare(1)),
        (*element("IRMXPR", "IRM capability"), *element("IRMACT", "IRM"), spare(3)),
    )
)  # fmt: skip

PLOT_CHARACTERISTICS = Compound(
    (
        ("SRL", Fixed((unsigned("SRL", 8, _RUNLENGTH, "deg"),))),
        ("SRR", Fixed((unsigned("SRR", 8),))),
        ("SAM", Fixed((signed("SAM", 8, 1.0, "dBm"),))),
        ("PRL", Fixed((unsigned("PRL", 8, _RUNLENGTH, "deg"),))),
        ("PAM", Fixed((signed("PAM", 8, 1.0, "dBm"),))),
        ("RPD", Fixed((signed("RPD", 8, 1 / 2**8, "NM"),))),
        ("APD", Fixed((signed("APD", 8, 360 / 2**14, "deg"),))),
    )
)

DOPPLER = Compound(
    (
        ("CAL", Fixed((flag("D", "valid", "doubtful"), spare(5), signed("CAL", 10, 1.0, "m/s")))),
        (
            "RDS",
            Repetitive(
                (unsigned("DOP", 16, 1.0, "m/s"), unsigned("AMB", 16, 1.0, "m/s"), unsigned("FRQ", 16, 1.0, "MHz"))
            ),
        ),
    )
)

TRACK_STATUS = Extended(
    (
        (
            flag("CNF", "confirmed track", "tentative track"),
            enum("RAD", 2, TRACK_SENSORS),
            flag("DOU", "normal confidence", "low confidence in the association"),
            flag("MAH", "no horizontal manoeuvre", "horizontal manoeuvre"),
            enum("CDM", 2, VERTICAL_MODE),
        ),
        (
            flag("TRE", "track alive", "end of track"),
            flag("GHO", "true target", "ghost"),
            flag("SUP", "own information", "maintained with a neighbouring node's information"),
            flag("TCC", "radar plane", "slant range corrected and projected"),
            spare(3),
        ),
    )
)

CAPABILITY = Fixed(
    (
        enum("COM", 3, COM),
        enum("STAT", 3, FLIGHT_STATUS),
        flag("SI", "SI code capable", "II code capable"),
        spare(1),
        flag("MSSC", "no Mode S specific services", "Mode S specific services"),
        flag("ARC", "100 ft", "25 ft"),
        flag("AIC", "no identification", "aircraft identification"),
        unsigned("B1A", 1),
        unsigned("B1B", 4),
    )
)

# In UAP order: the item's place in the tuple, counted from 1, is its FRN.
CAT048: tuple[Item, ...] = (
    Item("010", "Data source identifier", SOURCE),
    Item("140", "Time of day", Fixed((unsigned("TOD", 24, 1 / 2**7, "s"),))),
    Item("020", "Target report descriptor", DESCRIPTOR),
    Item("040", "Measured position, polar", Fixed((unsigned("RHO", 16, 1 / 2**8, "NM"),
                                                   unsigned("THETA", 16, 360 / 2**16, "deg")))),
    Item("070", "Mode 3/A code", Fixed((_VALID, _GARBLED, _SMOOTHED, spare(1), Field("MODE3A", 12, "octal")))),
    Item("090", "Flight level", Fixed((_VALID, _GARBLED, signed("FL", 14, 1 / 4, "FL")))),
    Item("130", "Radar plot characteristics", PLOT_CHARACTERISTICS),
    Item("220", "Aircraft address", Fixed((Field("ADDRESS", 24, "hex"),))),
    Item("240", "Aircraft identification", Fixed((Field("IDENT", 48, "chars6"),))),
    Item("250", "BDS register data", Repetitive((Field("MBDATA", 56, "hex"),
                                                 unsigned("BDS1", 4), unsigned("BDS2", 4)))),
    Item("161", "Track number", Fixed((spare(4), unsigned("TRN", 12)))),
    Item("042", "Calculated position, Cartesian", Fixed((signed("X", 16, 1 / 2**7, "NM"),
                                                         signed("Y", 16, 1 / 2**7, "NM")))),
    Item("200", "Calculated track velocity, polar", Fixed((unsigned("GSP", 16, 1 / 2**14, "NM/s"),
                                                           unsigned("HDG", 16, 360 / 2**16, "deg")))),
    Item("170", "Track status", TRACK_STATUS),
    Item("210", "Track quality", Fixed((unsigned("SIGX", 8, 1 / 2**7, "NM"), unsigned("SIGY", 8, 1 / 2**7, "NM"),
                                        unsigned("SIGV", 8, 1 / 2**14, "NM/s"),
                                        unsigned("SIGH", 8, 360 / 2**12, "deg")))),
    Item("030", "Warnings and target classification", RepetitiveFx((enum("WE", 7, WARNINGS),))),
    Item("080", "Mode 3/A confidence", Fixed((spare(4), *confidence(CONFIDENCE_3A)))),
    Item("100", "Mode C code and confidence", Fixed((_VALID, _GARBLED, spare(2), unsigned("MODEC", 12), spare(4),
                                                     *confidence(CONFIDENCE_C)))),
    Item("110", "Height by a 3D radar", Fixed((spare(2), signed("3DH", 14, 25.0, "ft")))),
    Item("120", "Radial Doppler speed", DOPPLER),
    Item("230", "Communications, ACAS and flight status", CAPABILITY),
    Item("260", "ACAS resolution advisory", Fixed((Field("RA", 56, "hex"),))),
    Item("055", "Mode 1 code", Fixed((_VALID, _GARBLED, _SMOOTHED, unsigned("MODE1", 5)))),
    Item("050", "Mode 2 code", Fixed((_VALID, _GARBLED, _SMOOTHED, spare(1), Field("MODE2", 12, "octal")))),
    Item("065", "Mode 1 confidence", Fixed((spare(3), *confidence(("A4", "A2", "A1", "B2", "B1"))))),
    Item("060", "Mode 2 confidence", Fixed((spare(4), *confidence(CONFIDENCE_3A)))),
    Item("SP", "Special purpose field", Explicit()),
    Item("RE", "Reserved expansion field", Explicit()),
)  # fmt: skip
