"""Random numbers by name instead of in sequence: each is a function of (seed, effect, radar, flight, turn of the beam).

So no effect moves another one's draws, chunks, workers and further radars change nothing, and a million are drawn at
once. The generator is Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"):
the key is a hash of seed, radar and effect, the counter is flight, turn and lane.
"""

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

ANY_RADAR = -1  # for what belongs to the aircraft, and is the same at every radar
NO_FLIGHT = (65534, 0, 0)  # flow, slot, number where no aircraft is concerned; scripted aircraft are flow 65535
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_PIECE = 8192  # counters done at once: their words stay in the processor's cache


@lru_cache(maxsize=1024)
def key_of(seed: int, effect: str, radar: int) -> tuple[int, int]:
    """The two key words of an effect at a radar (its row in the scenario, or ANY_RADAR)."""
    digest = hashlib.blake2b(f"{seed}/{radar}/{effect}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Philox 4x32-10 of counters (4, n), whose values are below 2³², as (4, n) of the same kind."""
    out = counter.copy()
    for begin in range(0, counter.shape[1], _PIECE):
        _rounds(out[:, begin : begin + _PIECE], key)
    return out


def _rounds(words: Words, key: tuple[int, int]) -> None:
    """Ten rounds in place; the products' high halves are mixed into the words that they did not come from."""
    x0, x1, x2, x3 = words
    p, q = np.empty_like(x0), np.empty_like(x0)
    for n in range(_ROUNDS):
        k0, k1 = (np.uint64((k + n * w) & 0xFFFFFFFF) for k, w in zip(key, _WEYL, strict=True))
        np.multiply(x0, _MULTIPLIERS[0], out=p)
        np.multiply(x2, _MULTIPLIERS[1], out=q)
        np.right_shift(q, _HALF, out=x0)
        np.right_shift(p, _HALF, out=x2)
        x0 ^= x1
        x2 ^= x3
        x0 ^= k0
        x2 ^= k1
        np.bitwise_and(q, _LOW, out=x1)
        np.bitwise_and(p, _LOW, out=x3)


def counters(who: Ints, turn: Any, lane: int = 0) -> Words:
    """Counter words (4, n) of flights `who` (n, 3) (flow below 65536, slot, number) at turns (n,) or at one turn.

    No two different arguments in their ranges give the same words. `lane` (0 to 65535) tells further pairs apart.
    """
    out = np.empty((4, len(who)), np.uint64)
    out[0] = np.asarray(turn, np.int64).astype(np.uint64) & _LOW
    out[1], out[2] = who[:, 1], who[:, 2]
    out[3] = who[:, 0] + (lane << 16)
    return out


def uniforms(seed: int, effect: str, radar: int, who: Ints, turn: Any = 0, lane: int = 0) -> Floats:
    """Two independent uniform numbers in [0, 1) for each flight and turn, (2, n), with 53 bits each.

    Args:
        effect: a name of the effect's own.
        radar: row of the radar, or ANY_RADAR.
        who: (n, 3) flow, slot and number of the flights (Fleet.who).
        turn: (n,) integers, such as `Meetings.turn`; 0 for what stays the same during a flight.
        lane: further pairs for the same arguments.
    """
    x = philox(counters(who, turn, lane), key_of(seed, effect, radar))
    first, second = x[0::2], x[1::2]
    first <<= _HALF
    first |= second
    first >>= np.uint64(11)
    return np.asarray(first * 2.0**-53)


def normals(seed: int, effect: str, radar: int, who: Ints, turn: Any = 0, lane: int = 0) -> Floats:
    """Two independent standard normal numbers for each flight and turn (2, n); arguments as `uniforms` (Box-Muller)."""
    u = uniforms(seed, effect, radar, who, turn, lane)
    radius = np.sqrt(-2.0 * np.log(1.0 - u[0]))
    angle = 2.0 * np.pi * u[1]
    np.multiply(radius, np.cos(angle), out=u[0])
    np.multiply(radius, np.sin(angle), out=u[1])
    return u


def students(dof: float, seed: int, effect: str, radar: int, who: Ints, turn: Any = 0, lane: int = 0) -> Floats:
    """One number (n,) of Student's t with `dof` degrees of freedom for each flight and turn (Bailey 1994, eq. 4)."""
    u = uniforms(seed, effect, radar, who, turn, lane)
    # √(ν (U^(−2/ν) − 1)) cos 2πV, written so that a large ν loses no digits.
    radius = np.sqrt(dof * np.expm1(-2.0 / dof * np.log(1.0 - u[0])))
    return np.asarray(radius * np.cos(2.0 * np.pi * u[1]))


def generator(seed: int, effect: str, radar: int, number: int) -> np.random.Generator:
    """A sequential generator for what happens to a radar in a numbered rotation or hour, not to single flights."""
    low, high = key_of(seed, effect, radar)
    key = low | high << 32 | 1 << 64
    return np.random.Generator(np.random.Philox(key=key, counter=(number % (1 << 64)) << 64))
