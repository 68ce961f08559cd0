from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from auditor.report.thumbnails import SIZE, sparkline, thumbnail


def _encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def _shown(contents: bytes) -> Image.Image:
    made = thumbnail({"bytes": contents, "path": None})
    assert made is not None
    head, _, data = made.uri.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_tiny_image_keeps_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    made = thumbnail({"bytes": _encoded(Image.fromarray(pixels)), "path": None})
    assert made is not None
    assert made.tiny
    np.testing.assert_array_equal(np.asarray(_shown(_encoded(Image.fromarray(pixels)))), pixels)


@pytest.mark.parametrize(("side", "kind", "tiny"), [(48, "png", True), (64, "jpeg", True), (96, "jpeg", False)])
def test_only_the_smallest_images_are_kept_exactly(side, kind, tiny):
    made = thumbnail({"bytes": _encoded(Image.new("RGB", (side, side // 2))), "path": None})
    assert made is not None
    assert made.uri.startswith(f"data:image/{kind};base64,")
    assert made.tiny == tiny


def test_a_large_image_becomes_small_and_keeps_its_shape():
    made = thumbnail({"bytes": _encoded(Image.new("RGB", (800, 400), "red"), "JPEG"), "path": None})
    assert made is not None
    assert (made.width, made.height, made.tiny) == (800, 400, False)
    assert _shown(_encoded(Image.new("RGB", (800, 400), "red"), "JPEG")).size == (SIZE, SIZE // 2)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_can_be_shown(mode):
    image = Image.new("RGB", (20, 10), "white")
    if mode == "I;16":
        image = Image.fromarray(np.arange(200, dtype=np.uint16).reshape(10, 20) * 300)
    elif mode in ("I", "F"):
        image = Image.new(mode, (20, 10), 5)
    else:
        image = image.convert(mode)
    assert _shown(_encoded(image, "TIFF")).size == (20, 10)


def test_sixteen_bits_are_stretched_not_cut_off():
    pixels = np.linspace(0, 60000, 200, dtype=np.uint16).reshape(10, 20)
    shown = np.asarray(_shown(_encoded(Image.fromarray(pixels))))
    assert (shown.min(), shown.max()) == (0, 255)
    assert len(np.unique(shown)) > 100


def test_transparency_is_shown_over_white():
    assert _shown(_encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)


def test_an_image_without_bytes_is_read_from_its_path(tmp_path):
    (tmp_path / "one.png").write_bytes(_encoded(Image.new("RGB", (5, 7))))
    for path in (str(tmp_path / "one.png"), (tmp_path / "one.png").as_uri()):
        made = thumbnail({"bytes": None, "path": path})
        assert made is not None
        assert (made.width, made.height) == (5, 7)


@pytest.mark.parametrize(
    "image",
    [
        {},
        {"bytes": None, "path": None},
        {"bytes": b"", "path": ""},
        {"bytes": b"no image", "path": None},
        {"bytes": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "path": None},
        {"bytes": None, "path": "/nowhere/at/all.png"},
        {"bytes": None, "path": "strange://scheme/one.png"},
        {"bytes": _encoded(Image.new("RGB", (50, 50)))[:60], "path": None},
    ],
)
def test_what_cannot_be_read_gives_no_thumbnail(image):
    assert thumbnail(image) is None


def test_a_decompression_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert thumbnail({"bytes": _encoded(Image.new("L", (12, 12))), "path": None}) is None


def test_bars_stand_on_zero_and_fill_the_box():
    path = sparkline(np.array([2.0, -2.0, 0.0, 1.0]))
    assert path == "M0 0h20v20h-20zM25 20h20v20h-20zM50 20h20v0.5h-20zM75 10h20v10h-20z"


def test_many_values_are_averaged_into_bars_and_zeros_draw():
    assert sparkline(np.arange(1000.0), bars=10).count("z") == 10
    assert sparkline(np.zeros(3)).count("v0.5") == 3
