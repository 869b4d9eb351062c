"""BDS registers taken out of I048/250: every bit of the 56 counts."""

from typing import Any

import numpy as np

from ssrtrack.io.asterix_fast import Part, bds


def test_fields_in_the_upper_half_of_a_register() -> None:
    # 1 | roll -64 (10) | 1 | track -565 (11) | 1 | ground speed 204 (10) | 0 | 0 (10) | 1 | true airspeed 210 (10)
    fields = (
        (1, 1),
        (-64 % 1024, 10),
        (1, 1),
        (-565 % 2048, 11),
        (1, 1),
        (204, 10),
        (0, 1),
        (0, 10),
        (1, 1),
        (210, 10),
    )
    word = 0
    for value, bits in fields:
        word = (word << bits) | value
    groups = Part(np.array([7]), {"MBDATA": np.array([word], np.int64), "BDS1": np.array([5]), "BDS2": np.array([0])})
    columns: Any = None  # not read when the groups are at hand
    found = {name: int(v[0]) for name, v in bds(columns, (5, 0), groups).fields.items()}
    assert found == {
        "ROLL_S": 1, "ROLL": -64, "TRACK_S": 1, "TRACK": -565, "GS_S": 1, "GS": 204,
        "TRACK_RATE_S": 0, "TRACK_RATE": 0, "TAS_S": 1, "TAS": 210,
    }  # fmt: skip
