"""A look at every row before training: does it decode, how large is it, what is in it, what are mean and spread."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor.data.decode import CorruptImageError, EncodedImage, decoding_threads, load_image, pixels_of, read_encoded
from auditor.data.quarantine import Kind


@dataclass(frozen=True)
class Fault:
    """A row that cannot be used."""

    kind: Kind
    detail: str


@dataclass(frozen=True)
class Facts:
    """What is known of a row once it was decoded."""

    shape: tuple[int, ...]
    """(height, width), or (features,)."""
    digest: int
    """64 bits of a hash of the decoded content: equal content has equal digests, whatever the file format."""
    grayscale: bool
    """Whether the image has one channel."""
    count: int
    """Values that went into mean and squares: pixels a channel, or 1."""
    mean: NDArray[np.float64]
    """[3] on the scale 0..255, equal for grayscale, or [features]."""
    squares: NDArray[np.float64]
    """Sum of squared deviations from that mean, of the same shape."""


class Moments:
    """Running mean and standard deviation by the pairwise update of Chan, Golub and LeVeque (1983)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: NDArray[np.float64] = np.zeros(1)
        self._squares: NDArray[np.float64] = np.zeros(1)

    def add(self, facts: Facts) -> None:
        """Take one more row in."""
        count = self._count + facts.count
        shift = facts.mean - self._mean
        self._squares = self._squares + facts.squares + shift**2 * (self._count * facts.count / count)
        self._mean = self._mean + shift * (facts.count / count)
        self._count = count

    @property
    def mean(self) -> NDArray[np.float64]:
        """[C] or [F]."""
        return self._mean

    @property
    def std(self) -> NDArray[np.float64]:
        """[C] or [F], over the population: exactly 0 where a channel or feature is constant."""
        return np.sqrt(self._squares / max(self._count, 1))


def inspect_images(images: Sequence[EncodedImage | None], size: tuple[int, int] | None) -> list[Facts | Fault]:
    """Decode images one by one and keep what is known of them, not their pixels.

    Args:
        images: Image structs.
        size: (height, width) to resize to before looking, or None.

    Returns:
        One entry an image; a ``corrupt_image`` fault where decoding fails.
    """
    threads = decoding_threads(images)
    if threads == 1:
        return [_inspect_image(image, size) for image in images]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda image: _inspect_image(image, size), images))


def inspect_features(column: pa.Array | pa.ChunkedArray) -> list[Facts | Fault]:
    """Look at feature vectors.

    Args:
        column: list<float32>.

    Returns:
        One entry a row; a ``nan_features`` fault where a value is missing, NaN or infinite.
    """
    return [_inspect_features(values) for chunk in _chunks(column) for values in feature_rows(chunk)]


def feature_rows(column: pa.ListArray) -> list[NDArray[np.float32]]:
    """The vectors of a list<float32> column; missing values are NaN, a missing row is empty."""
    values = np.asarray(column.values.to_numpy(zero_copy_only=False), dtype=np.float32)
    offsets = np.asarray(column.offsets)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    return [values[offsets[row] : offsets[row + 1] if valid[row] else offsets[row]] for row in range(len(column))]


def _chunks(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return list(column.chunks) if isinstance(column, pa.ChunkedArray) else [column]


def _inspect_image(struct: EncodedImage | None, size: tuple[int, int] | None) -> Facts | Fault:
    try:
        image = load_image(read_encoded(struct))
    except CorruptImageError as error:
        return Fault("corrupt_image", str(error))
    grayscale = image.mode == "L"
    # Grayscale and colour files of the same picture must have one digest, so both are looked at in colour.
    pixels = pixels_of(image, 3, size)
    flat = pixels[: 1 if grayscale else 3].reshape(1 if grayscale else 3, -1).astype(np.float64)
    mean = flat.mean(axis=1)
    squares = ((flat - mean[:, None]) ** 2).sum(axis=1)
    shape = (pixels.shape[1], pixels.shape[2])
    return Facts(
        shape,
        _digest(pixels, shape),
        grayscale,
        flat.shape[1],
        np.repeat(mean, 3 // len(mean)),
        np.repeat(squares, 3 // len(squares)),
    )


def _inspect_features(values: NDArray[np.float32]) -> Facts | Fault:
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken) or not len(values):
        return Fault("nan_features", f"feature {broken[0]} is {values[broken[0]]}" if len(broken) else "no features")
    shape = (len(values),)
    return Facts(shape, _digest(values, shape), False, 1, values.astype(np.float64), np.zeros(len(values)))


def _digest(content: NDArray[np.uint8] | NDArray[np.float32], shape: tuple[int, ...]) -> int:
    digest = hashlib.blake2b(repr(shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(content).data)
    return int.from_bytes(digest.digest(), "little")
