from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from auditor.data.decode import (
    CorruptImageError,
    decode_column,
    decode_image,
    decoding_threads,
    encode_png,
    load_image,
    normalise,
    read_encoded,
)
from tests.data.builders import encode, images, pixels


def test_png_gives_the_pixels_back():
    colour, gray = pixels(1), pixels(2, channels=1)
    assert np.array_equal(decode_image(encode(colour), 3), colour.transpose(2, 0, 1))
    assert np.array_equal(decode_image(encode(gray), 1), gray[None])
    assert np.array_equal(decode_image(encode_png(colour), 3), colour.transpose(2, 0, 1))


def test_grayscale_in_three_channels_repeats_itself():
    gray = pixels(2, channels=1)
    assert np.array_equal(decode_image(encode(gray), 3), np.stack([gray] * 3))


@pytest.mark.parametrize(("mode", "expected"), [("1", "L"), ("LA", "L"), ("P", "RGB"), ("RGBA", "RGB")])
def test_modes_become_grayscale_or_colour(mode, expected):
    encoded = encode_png(Image.fromarray(pixels(3)).convert(mode))
    assert load_image(encoded).mode == expected


def test_modes_png_does_not_have_are_encoded_as_colour():
    assert load_image(encode_png(Image.fromarray(pixels(3)).convert("CMYK"))).mode == "RGB"


def test_sixteen_bits_keep_their_upper_byte():
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    assert np.array_equal(decode_image(encode_png(Image.fromarray(values)), 1)[0], values >> 8)


def test_floating_point_pixels_are_refused():
    with pytest.raises(CorruptImageError, match="unknown scale"):
        load_image(encode(np.zeros((4, 4), np.float32), "TIFF"))


def test_resize_to_height_and_width():
    encoded = encode(np.full((6, 10, 3), 77, np.uint8))
    resized = decode_image(encoded, 3, (4, 5))
    assert resized.shape == (3, 4, 5)
    assert np.all(resized == 77)


def test_resizing_grayscale_does_not_depend_on_the_channels():
    encoded = encode(pixels(4, channels=1, height=9, width=7))
    assert np.array_equal(decode_image(encoded, 3, (5, 6)), decode_image(encoded, 1, (5, 6)).repeat(3, axis=0))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_truncated_files_are_corrupt(kind):
    encoded = encode(pixels(5, height=32, width=32), kind)
    for share in (0.0, 0.02, 0.3, 0.6, 0.9):
        with pytest.raises(CorruptImageError):
            decode_image(encoded[: int(share * len(encoded))], 3)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=100, deadline=None)
@given(start=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP"]), place=st.integers(0, 10**6), noise=st.binary())
def test_broken_bytes_raise_nothing_else(start, place, noise):
    encoded = encode(pixels(6), start)
    place %= len(encoded)
    with suppress(CorruptImageError):
        assert decode_image(encoded[:place] + noise + encoded[place + len(noise) :], 3).shape[0] == 3


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_corrupt(monkeypatch):
    encoded = encode(pixels(7, height=20, width=20))
    for limit in (399, 100):  # the first only warns in Pillow, the second raises
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(CorruptImageError, match="pixels"):
            decode_image(encoded, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    assert decode_image(encoded, 3).shape == (3, 20, 20)


def test_bytes_win_over_the_path(tmp_path):
    (tmp_path / "a b.png").write_bytes(b"from the path")
    path = str(tmp_path / "a b.png")
    assert read_encoded({"bytes": b"given", "path": path}) == b"given"
    assert read_encoded({"bytes": None, "path": path}) == b"from the path"
    assert read_encoded({"bytes": None, "path": (tmp_path / "a b.png").as_uri()}) == b"from the path"


@pytest.mark.parametrize(
    "image", [None, {}, {"bytes": None, "path": None}, {"path": "/no/such/file.png"}, {"path": "nowhere://x/y.png"}]
)
def test_nothing_to_read_is_corrupt(image):
    with pytest.raises(CorruptImageError):
        read_encoded(image)


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_columns_decode_as_single_images_do(threads):
    encoded = images(23)
    column = decode_column([{"bytes": each, "path": None} for each in encoded], 3, (8, 8), threads=threads)
    assert column.dtype == torch.uint8
    assert np.array_equal(column.numpy(), np.stack([decode_image(each, 3) for each in encoded]))


def test_an_empty_column_has_a_shape():
    assert decode_column([], 1, (4, 5)).shape == (0, 1, 4, 5)


def test_a_corrupt_image_in_a_column_is_named():
    column = [{"bytes": b, "path": None} for b in [*images(2), b"broken"]]
    with pytest.raises(CorruptImageError, match=r"^image 2: "):
        decode_column(column, 3, (8, 8))
    with pytest.raises(CorruptImageError, match=r"^image c\.png: "):
        decode_column(column, 3, (8, 8), ["a.png", "b.png", "c.png"])


def test_small_images_are_decoded_without_threads():
    torch.set_num_threads(2)
    assert decoding_threads([{"bytes": b"x" * 100}] * 100) == 1
    assert decoding_threads([{"bytes": b"x" * 50_000}] * 100) == 2
    assert decoding_threads([{"bytes": None, "path": "a.png"}] * 100) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalise_centres_pixels_on_the_unit_scale(dtype):
    values = torch.from_numpy(np.stack([pixels(seed) for seed in range(5)]).transpose(0, 3, 1, 2).copy())
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    expected = (values.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    result = normalise(values, mean, std, dtype)
    assert result.dtype == dtype
    torch.testing.assert_close(result, torch.from_numpy(expected).to(dtype))


def test_normalise_leaves_features_as_they_were():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert torch.equal(normalise(values, (1.0, 2.0), (2.0, 4.0), torch.float32), torch.tensor([[0, 0], [1, 0.5]]))
    assert torch.equal(values, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def test_normalise_does_not_depend_on_the_batch():
    values = torch.from_numpy(np.stack([pixels(seed, 3, 7, 5) for seed in range(37)]).transpose(0, 3, 1, 2).copy())
    mean, std = (0.49, 0.48, 0.44), (0.24, 0.243, 0.26)
    whole = normalise(values, mean, std, torch.float32)
    for row in range(37):
        assert torch.equal(whole[row], normalise(values[row : row + 1], mean, std, torch.float32)[0])
