"""Names of the enumerated values of CAT048 edition 1.32 and CAT034 edition 1.29, shortened."""

REPORT_TYPE = {
    0: "no detection",
    1: "PSR",
    2: "SSR",
    3: "SSR + PSR",
    4: "Mode S all-call",
    5: "Mode S roll-call",
    6: "Mode S all-call + PSR",
    7: "Mode S roll-call + PSR",
}
FOE_FRI = {0: "no Mode 4 interrogation", 1: "friendly", 2: "unknown", 3: "no reply"}
TRACK_SENSORS = {0: "combined", 1: "PSR", 2: "SSR / Mode S", 3: "invalid"}
VERTICAL_MODE = {0: "level", 1: "climbing", 2: "descending", 3: "unknown"}
COM = {
    0: "surveillance only",
    1: "Comm-A and Comm-B",
    2: "Comm-A, Comm-B, uplink ELM",
    3: "Comm-A, Comm-B, uplink and downlink ELM",
    4: "level 5 transponder",
}
FLIGHT_STATUS = {
    0: "airborne, no alert, no SPI",
    1: "on ground, no alert, no SPI",
    2: "airborne, alert, no SPI",
    3: "on ground, alert, no SPI",
    4: "alert, SPI",
    5: "no alert, SPI",
    7: "unknown",
}
WARNINGS = {
    0: "not defined",
    1: "multipath reply (reflection)",
    2: "side-lobe reply",
    3: "split plot",
    4: "second time around reply",
    5: "angel",
    6: "slow target on a road",
    7: "fixed PSR plot",
    8: "slow PSR target",
    9: "low quality PSR plot",
    10: "phantom SSR plot",
    11: "Mode 3/A does not match",
    12: "altitude code abnormal against the track",
    13: "target in clutter area",
    14: "maximum Doppler response in zero filter",
    15: "transponder anomaly",
    16: "duplicated or illegal aircraft address",
    17: "Mode S error correction applied",
    18: "altitude code cannot be decoded",
    19: "birds",
    20: "flock of birds",
    21: "Mode 1 in the reply",
    22: "Mode 2 in the reply",
    23: "possibly a wind turbine",
    24: "helicopter",
    25: "most re-interrogations reached (surveillance)",
    26: "most re-interrogations reached (BDS extraction)",
    27: "BDS overlay incoherence",
    28: "possible BDS swap",
    29: "track update in the zenithal gap",
    30: "Mode S track acquired again",
    31: "duplicated Mode 5 NO/PIN pair",
    32: "wrong DF reply format",
    33: "transponder anomaly (Mode S replies to A/C-only all-call)",
    34: "transponder anomaly (SI capability wrong)",
    35: "possible IC conflict",
    36: "IC conflict detection possible, none now",
    37: "duplicate Mode 5 PIN",
}
CONFIDENCE_3A = ("A4", "A2", "A1", "B4", "B2", "B1", "C4", "C2", "C1", "D4", "D2", "D1")
CONFIDENCE_C = ("C1", "A1", "C2", "A2", "C4", "A4", "B1", "D1", "B2", "D2", "B4", "D4")

MESSAGE_TYPE = {
    1: "north marker",
    2: "sector crossing",
    3: "geographical filtering",
    4: "jamming strobe",
    5: "solar storm",
    6: "SSR jamming strobe",
    7: "Mode S jamming strobe",
}
CHANNEL = {0: "none", 1: "A", 2: "B", 3: "A and B"}
SENSITIVITY_MAP = {0: "STC map 1", 1: "STC map 2", 2: "STC map 3", 3: "STC map 4"}
REDUCTION = {0: "no reduction", **{step: f"reduction step {step}" for step in range(1, 8)}}
COUNTER = {
    0: "misses",
    1: "PSR reports",
    2: "SSR reports",
    3: "SSR + PSR reports",
    4: "all-call reports",
    5: "roll-call reports",
    6: "all-call + PSR reports",
    7: "roll-call + PSR reports",
    8: "weather filter",
    9: "jamming strobe filter",
    10: "PSR filter",
    11: "SSR / Mode S filter",
    12: "SSR / Mode S + PSR filter",
    13: "enhanced surveillance filter",
    14: "PSR + enhanced surveillance filter",
    15: "PSR + enhanced surveillance + SSR outside the area of prime interest filter",
    16: "PSR + enhanced surveillance + all SSR filter",
    17: "re-interrogations",
    18: "BDS swaps and wrong DF replies",
    19: "Mode A/C FRUIT",
    20: "Mode S FRUIT",
}
DATA_FILTER = {
    0: "invalid",
    1: "weather",
    2: "jamming strobe",
    3: "PSR",
    4: "SSR / Mode S",
    5: "SSR / Mode S + PSR",
    6: "enhanced surveillance",
    7: "PSR + enhanced surveillance",
    8: "PSR + enhanced surveillance + SSR outside the area of prime interest",
    9: "PSR + enhanced surveillance + all SSR",
}
