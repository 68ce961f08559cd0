"""Small pictures of samples, as data URIs."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from auditor.storage import resolve

SIZE = 160
"""Longest side of a thumbnail in pixels."""

_EXACT = 48
"""Longest side up to which an image keeps every pixel; beyond, a JPEG takes a quarter of the bytes."""


@dataclass(frozen=True)
class Thumbnail:
    """An image to embed."""

    uri: str
    """data: URI of a PNG or JPEG made here; bytes from the data are never embedded as they are."""
    width: int
    """Of the original, in pixels."""
    height: int

    @property
    def tiny(self) -> bool:
        """Whether it is shown larger than it is, pixel by pixel."""
        return max(self.width, self.height) <= SIZE // 2


def thumbnail(image: Mapping[str, bytes | str | None], size: int = SIZE) -> Thumbnail | None:
    """Decode an image and make it small.

    Args:
        image: `bytes` of an encoded image or, when those are null, its `path` (local, or a URI).
        size: Longest side, in pixels.

    Returns:
        The thumbnail, or None when there is no image that can be read.
    """
    try:
        contents = image.get("bytes") or _read(image.get("path"))
        if not isinstance(contents, bytes):
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _shrink(contents, size)
    # Decoders raise whatever their formats make them raise; the report shows a placeholder instead.
    except Exception:
        return None


def _shrink(contents: bytes, size: int) -> Thumbnail:
    with Image.open(io.BytesIO(contents)) as opened:
        width, height = opened.size
        small = _plain(opened)
    small.thumbnail((size, size))
    buffer = io.BytesIO()
    kind = "PNG" if max(width, height) <= _EXACT else "JPEG"
    small.save(buffer, kind, quality=85, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Thumbnail(f"data:image/{kind.lower()};base64,{encoded}", width, height)


def _plain(image: Image.Image) -> Image.Image:
    """8 bits a channel, grey or RGB, transparency over white."""
    if image.mode[0] in "IF":
        values = np.asarray(image, dtype=np.float64)
        spread = max(float(np.ptp(values)), 1e-12)
        return Image.fromarray((255 * (values - values.min()) / spread).astype(np.uint8))
    if image.mode in ("1", "L"):
        return image.convert("L")
    image.draft("RGB", (2 * SIZE, 2 * SIZE))
    if "A" in image.getbands() or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB")
    return image.convert("RGB")


def _read(path: bytes | str | None) -> bytes | None:
    if not isinstance(path, str) or not path:
        return None
    filesystem, name = resolve(path)
    with filesystem.open_input_stream(name) as stream:
        return bytes(stream.read())


def sparkline(values: NDArray[np.floating], bars: int = 64) -> str:
    """Feature values as bars around zero: an SVG path in a box 100 wide and 40 high.

    Args:
        values: [features]; more than `bars` are averaged in neighbouring groups.
        bars: Most bars to draw.

    >>> sparkline(np.array([2.0, -2.0]))
    'M0 0h40v20h-40zM50 20h40v20h-40z'
    """
    groups = np.array_split(np.asarray(values, dtype=np.float64), min(bars, len(values)))
    means = np.nan_to_num(np.array([group.mean() for group in groups]))
    low, high = min(means.min(), 0.0), max(means.max(), 0.0)
    scale = 40 / (high - low) if high > low else 0.0
    step = 100 / len(means)

    def bar(index: int, mean: float) -> str:
        top, width, height = (high - max(mean, 0.0)) * scale, 0.8 * step, max(abs(mean) * scale, 0.5)
        return f"M{index * step:.4g} {top:.4g}h{width:.4g}v{height:.4g}h-{width:.4g}z"

    return "".join(bar(index, float(mean)) for index, mean in enumerate(means))
