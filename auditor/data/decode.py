"""From encoded bytes or a path to pixels, and from pixels or features to what a network reads."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pyarrow import fs
from torch import Tensor

from auditor.storage import resolve

EncodedImage: TypeAlias = Mapping[str, bytes | str | None]
"""struct{bytes, path} as Python sees it: the bytes win, otherwise the path is read."""

_GRAYSCALE = {"1", "L", "LA", "La"}
_SIXTEEN_BIT = {"I", "I;16", "I;16B", "I;16L", "I;16N"}


class CorruptImageError(ValueError):
    """An image cannot be read or decoded: what it says is the reason."""


def load_image(encoded: bytes) -> Image.Image:
    """Decode an image completely.

    Orientation tags are not applied and transparency is dropped, as image classification commonly has it. Grayscale
    of 16 bits keeps its upper 8.

    Args:
        encoded: A whole file of any format Pillow knows; of an animation the first frame counts.

    Returns:
        An image of mode ``L`` where the file is grayscale, otherwise ``RGB``.

    Raises:
        CorruptImageError: The bytes are no image, are truncated, or decode to more pixels than Pillow deems safe.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = math.prod(image.size)
            if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
                raise CorruptImageError(
                    f"{pixels} pixels, more than the {Image.MAX_IMAGE_PIXELS} that are safe to decode"
                )
            image.load()
            if image.mode in _SIXTEEN_BIT:
                return _upper_byte(image)
            if image.mode == "F":
                raise CorruptImageError("pixels are floating-point numbers of unknown scale")
            return image.convert("L" if image.mode in _GRAYSCALE else "RGB")
    except CorruptImageError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every type there is for broken files
        raise CorruptImageError(" ".join(str(error).split()) or type(error).__name__) from error


def pixels_of(image: Image.Image, channels: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The pixels of a decoded image.

    Args:
        image: What `load_image` returned.
        channels: 1 for grayscale, 3 for colour; the image is converted where it has the other.
        size: (height, width) to resize to, bilinear with antialiasing, whatever the proportions; None keeps the size.

    Returns:
        uint8 [channels, height, width].
    """
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = np.asarray(image, dtype=np.uint8)
    return array[np.newaxis] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def decode_image(encoded: bytes, channels: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode an image to its pixels: `load_image`, then `pixels_of`.

    Raises:
        CorruptImageError: As `load_image`.
    """
    return pixels_of(load_image(encoded), channels, size)


def encode_png(image: Image.Image | NDArray[np.uint8]) -> bytes:
    """Encode an image, or an array [height, width] or [height, width, 3], as PNG, which loses nothing."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if picture.mode not in {"1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"}:
        picture = picture.convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def read_encoded(image: EncodedImage | None) -> bytes:
    """The encoded bytes of an image struct.

    Args:
        image: ``bytes`` win; otherwise ``path`` is read, a local path or the URI of any filesystem pyarrow knows.

    Raises:
        CorruptImageError: There are neither bytes nor a path, or the path cannot be read.
    """
    contents = image.get("bytes") if image is not None else None
    path = image.get("path") if image is not None else None
    if isinstance(contents, bytes):
        return contents
    if not isinstance(path, str) or not path:
        raise CorruptImageError("there are neither bytes nor a path")
    try:
        if "://" not in path:
            return Path(path).read_bytes()
        filesystem, full = _locate(path)
        with filesystem.open_input_stream(full) as stream:
            return bytes(stream.read())
    except Exception as error:  # the filesystems raise types of their own
        raise CorruptImageError(f"{path} cannot be read ({' '.join(str(error).split())})") from error


def decoding_threads(images: Sequence[EncodedImage | None]) -> int:
    """How many threads are worth while: those torch may use, or one where images are too small to gain from more.

    Pillow decodes without the interpreter lock, but around 100 microseconds an image are spent holding it; measured on
    JPEG images, two threads begin to win near 20 KiB.
    """
    encoded = next((image.get("bytes") for image in images if image is not None), None)
    small = isinstance(encoded, bytes) and len(encoded) < 16384
    return 1 if small or len(images) < 8 else torch.get_num_threads()


def decode_column(
    images: Sequence[EncodedImage | None],
    channels: int,
    size: tuple[int, int],
    names: Sequence[str] | None = None,
    threads: int | None = None,
) -> Tensor:
    """Decode many images into one tensor.

    Args:
        images: n image structs.
        channels: 1 or 3.
        size: (height, width); images of another size are resized.
        names: What to call each image in an error; its place in the list by default.
        threads: Decoding threads; by default what `decoding_threads` finds worth while.

    Returns:
        uint8 [n, channels, height, width].

    Raises:
        CorruptImageError: Naming the image and the reason.
    """
    decoded = np.empty((len(images), channels, *size), dtype=np.uint8)

    def fill(start: int, stop: int) -> None:
        for place in range(start, stop):
            try:
                decoded[place] = decode_image(read_encoded(images[place]), channels, size)
            except CorruptImageError as error:
                raise CorruptImageError(f"image {names[place] if names else place}: {error}") from error

    workers = decoding_threads(images) if threads is None else threads
    cuts = np.linspace(0, len(images), workers + 1).astype(int).tolist()
    if workers == 1:
        fill(0, len(images))
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(fill, cuts[:-1], cuts[1:]))
    return torch.from_numpy(decoded)


def normalise(values: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Centre and scale: (x - mean) / std, with pixels taken on the scale 0..1.

    Element by element, so that a row's numbers do not depend on the rows beside it.

    Args:
        values: uint8 images [n, C, H, W], or features [n, F].
        mean: C or F means.
        std: C or F standard deviations, none of them zero.
        dtype: float32 or float64; the arithmetic is done in it.

    Returns:
        Tensor of that type and the shape of the values.
    """
    shape = (1, -1) + (1,) * (values.dim() - 2)
    scaled = values.to(dtype)
    if values.dtype == torch.uint8:
        scaled = scaled.div_(255)
    elif scaled is values:
        scaled = values.clone()
    centre = torch.tensor(mean, dtype=dtype, device=values.device).view(shape)
    width = torch.tensor(std, dtype=dtype, device=values.device).view(shape)
    return scaled.sub_(centre).div_(width)


def _upper_byte(image: Image.Image) -> Image.Image:
    # Pillow's own conversion cuts everything above 255 off instead of scaling.
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise CorruptImageError("pixels do not fit into 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _locate(uri: str) -> tuple[fs.FileSystem, str]:
    address, separator, query = uri.partition("?")
    folder, _, name = address.rpartition("/")
    filesystem, path = _folder(folder + separator + query)
    return filesystem, f"{path.rstrip('/')}/{unquote(name)}"


@lru_cache(maxsize=256)
def _folder(uri: str) -> tuple[fs.FileSystem, str]:
    # Opening a filesystem costs a connection, and a folder holds many images.
    return resolve(uri)
