"""Pictures for a review queue, whose pane shows Markdown of 1,000 characters."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from auditor.report.thumbnails import thumbnail

_TINY = 32
"""Images up to this many pixels are enlarged pixel by pixel: the pane shows them as large as they are."""
_SIZES = (160, 128, 96, 64, 48, 32, 16)
_QUALITIES = (60, 40, 25)


def shrunk(image: Mapping[str, bytes | str | None]) -> Image.Image | None:
    """An image in 8 bits, its longest side 192 pixels or less; None where it cannot be read."""
    small = thumbnail(image)
    if small is None:
        return None
    opened = Image.open(io.BytesIO(base64.b64decode(small.uri.partition(",")[2])))
    opened.load()
    return opened


def png(image: Image.Image) -> bytes:
    """The image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(image: Image.Image, length: int) -> str | None:
    """The largest and best picture that fits.

    Args:
        image: 8 bits a channel.
        length: Most characters.

    Returns:
        A data: URI of a WebP image, or None where not even 16 pixels fit.
    """
    if max(image.size) <= _TINY:
        times = _SIZES[0] // max(image.size)
        enlarged = image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
        uri = _webp(enlarged, lossless=True)
        if len(uri) <= length:
            return uri
    for size in _SIZES:
        scale = size / max(image.size)
        fitted = image.resize(
            (max(round(scale * image.width), 1), max(round(scale * image.height), 1)), Image.Resampling.BICUBIC
        )
        for quality in _QUALITIES:
            uri = _webp(fitted, quality=quality)
            if len(uri) <= length:
                return uri
    return None


def _webp(image: Image.Image, **settings: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=6, **settings)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
