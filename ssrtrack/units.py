"""Unit conversions: SI inside the library, the unit in the name wherever a number enters or leaves it."""

from math import pi

FT_M = 0.3048  # international foot
NM_M = 1852.0  # international nautical mile
KT_MPS = NM_M / 3600.0  # knot
FPM_MPS = FT_M / 60.0  # foot per minute
DEG_RAD = pi / 180.0
FL_M = 100.0 * FT_M  # one flight level: 100 ft of pressure altitude
HPA_PA = 100.0
G_MPS2 = 9.80665  # standard gravity, ISO 80000-3
DAY_S = 86400.0
# Resolution of I048/040, in which radars report and the simulator rounds.
RANGE_LSB_M = NM_M / 256.0
AZIMUTH_LSB_RAD = 2.0 * pi / 65536.0
