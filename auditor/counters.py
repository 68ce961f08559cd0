"""Random numbers that are functions of counters, not of a generator's state.

Order, augmentation, splits and label noise draw from here, so any step can be replayed alone, on any number of
workers, and a row keeps its fate when other rows come or go.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al., 2014): a bijection that scatters neighbouring counters."""
    with np.errstate(over="ignore"):
        value = value + _GOLDEN
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def draw(stream: str, *counters: int | NDArray[np.integer]) -> NDArray[np.uint64]:
    """64 random bits for each combination of counters.

    Args:
        stream: Names the purpose, so that equal counters draw independently for different purposes.
        counters: Integers or arrays that broadcast together, such as (seed, epoch, rows).

    Returns:
        Array of the broadcast shape.
    """
    state = mix(np.asarray(zlib.crc32(stream.encode()), dtype=np.uint64))
    for counter in counters:
        state = mix(state ^ mix(np.asarray(counter).astype(np.uint64)))
    return np.asarray(state, dtype=np.uint64)


def uniform(stream: str, *counters: int | NDArray[np.integer]) -> NDArray[np.float64]:
    """The same as numbers in [0, 1)."""
    return (draw(stream, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def seed_of(stream: str, *counters: int) -> int:
    """A seed below 2**63 for a library's own generator."""
    return int(draw(stream, *counters)) >> 1


def hash_uniform(stream: str, seed: int, keys: Sequence[str]) -> NDArray[np.float64]:
    """A number in [0, 1) for each string key, equal on every machine and for every set of other keys."""
    prefix = hashlib.blake2b(f"{stream}:{seed}:".encode(), digest_size=8)

    def bits(key: str) -> int:
        digest = prefix.copy()
        digest.update(key.encode())
        return int.from_bytes(digest.digest(), "little") >> 11

    return np.fromiter((bits(key) for key in keys), dtype=np.float64, count=len(keys)) * 2.0**-53


def permutation(stream: str, size: int, *counters: int) -> NDArray[np.int32]:
    """A permutation of range(size), a function of the counters alone."""
    keys = draw(stream, *counters, np.arange(size))
    return np.argsort(keys, kind="stable").astype(np.int32)
