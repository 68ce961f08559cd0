from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from auditor.report.inputs import inputs_of
from auditor.review.pictures import data_uri, png, shrunk
from tests.report.builders import Audit, digit_like
from tests.report.builders import png as encoded


def opened(uri: str) -> Image.Image:
    head, _, body = uri.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_a_tiny_image_is_enlarged_pixel_by_pixel():
    pixels = digit_like(3, 7)
    uri = data_uri(shrunk({"bytes": encoded(pixels)}), 700)
    shown = opened(uri)
    assert shown.size == (160, 160)
    assert np.array_equal(np.asarray(shown.convert("L"))[::20, ::20], pixels)


@pytest.mark.parametrize("shape", [(32, 32, 3), (300, 200, 3), (20, 500, 3)])
@pytest.mark.parametrize("length", [700, 300])
def test_any_image_is_made_to_fit_and_keeps_its_shape(shape, length):
    across = np.linspace(0, 255, shape[0] * shape[1] * 3).reshape(shape).astype(np.uint8)
    noisy = across ^ np.random.default_rng(0).integers(0, 16, shape, dtype=np.uint8)
    image = shrunk({"bytes": encoded(noisy)})
    uri = data_uri(image, length)
    assert len(uri) <= length
    width, height = opened(uri).size
    assert width / height == pytest.approx(shape[1] / shape[0], rel=0.2)


def test_what_cannot_fit_or_be_read_is_left_out():
    assert data_uri(shrunk({"bytes": encoded(digit_like(3, 7))}), 30) is None
    assert shrunk({"bytes": b"nothing", "path": None}) is None


def test_a_picture_for_a_server_is_png():
    image = shrunk({"bytes": encoded(digit_like(3, 7))})
    assert Image.open(io.BytesIO(png(image))).format == "PNG"


def test_inputs_are_read_by_sample(tmp_path):
    audit = Audit()
    _, run = audit.write(tmp_path)
    found = inputs_of(run, "train", ["sample-00033", "sample-00002"], key="sample_id")
    assert found.keys() == {"sample-00033", "sample-00002"}
    assert found["sample-00002"]["image"]["bytes"] == encoded(digit_like(audit.true[2], 2))
