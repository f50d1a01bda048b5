"""Settings inside PNG files."""

import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.png import KEY, read_png, write_png
from app.settings import SettingsError
from tests.app.driving import CATALOG, EMOJI

DEFAULTS = EMOJI.defaults
SETTINGS = replace(
    DEFAULTS,
    prompt="Äpfel “rot” ∑ <b>",
    seed=2**32 - 1,
    steps=20,
    guidance=2.5,
    iterations=3,
    bypass_start=8,
    bypass_end=20,
)


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def stored(path: Path, image: Image.Image, text: str) -> Path:
    info = PngInfo()
    info.add_itxt(KEY, text)
    image.save(path, pnginfo=info)
    return path


def test_what_is_written_is_read_back(tmp_path: Path, image: Image.Image) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(write_png(image, SETTINGS, {"image": "full", "device": "cpu"}))
    assert read_png(path, CATALOG) == (SETTINGS, {"image": "full", "device": "cpu"})
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(image))


def test_the_same_image_gives_the_same_bytes(image: Image.Image) -> None:
    assert write_png(image, SETTINGS, {}) == write_png(image, SETTINGS, {})


def test_foreign_files_are_met_with_a_sentence(tmp_path: Path, image: Image.Image) -> None:
    plain, text, jpeg, cut = (tmp_path / name for name in ("plain.png", "text.png", "image.png.jpg", "cut.png"))
    image.save(plain)
    text.write_text("no image")
    image.save(jpeg)
    cut.write_bytes(write_png(image, SETTINGS, {})[:20])
    for path, words in (
        (plain, "no LatentCRF settings"),
        (text, "not a readable PNG"),
        (jpeg, "not a readable PNG"),
        (cut, "not a readable"),
    ):
        with pytest.raises(SettingsError, match=words):
            read_png(path, CATALOG)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "null", '{"settings": 3}', "{}", "[" * 100_000, '{"settings": {"prompt": NaN}}'],
    ids=lambda text: text[:20],
)
def test_damaged_settings_are_met_with_a_sentence(tmp_path: Path, image: Image.Image, text: str) -> None:
    with pytest.raises(SettingsError):
        read_png(stored(tmp_path / "image.png", image, text), CATALOG)


def test_settings_out_of_range_are_refused_as_on_the_page(tmp_path: Path, image: Image.Image) -> None:
    record = json.dumps({"settings": SETTINGS.as_dict() | {"steps": 10_000}})
    with pytest.raises(SettingsError, match="Steps must be"):
        read_png(stored(tmp_path / "image.png", image, record), CATALOG)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_decompression_bomb_is_refused_unread(tmp_path: Path) -> None:
    """100,000 x 100,000 pixels in a few bytes, and a text chunk that would unpack to 100 MB."""
    start = b"\x89PNG\r\n\x1a\n"
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    wide = tmp_path / "wide.png"
    wide.write_bytes(start + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + png_chunk(b"IEND", b""))
    with pytest.raises(SettingsError, match="too many pixels"):
        read_png(wide, CATALOG)

    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    text = KEY.encode() + b"\0\x01\0\0\0" + zlib.compress(b" " * 100_000_000)
    long = tmp_path / "long.png"
    long.write_bytes(
        start
        + header
        + png_chunk(b"iTXt", text)
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 4))
        + png_chunk(b"IEND", b"")
    )
    with pytest.raises(SettingsError):
        read_png(long, CATALOG)


FOREIGN = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 5_000_000)


@pytest.mark.parametrize("order", ["foreign first", "foreign last", "after the pixels", "zTXt", "packed iTXt"])
def test_settings_are_found_wherever_an_editor_put_them(tmp_path: Path, image: Image.Image, order: str) -> None:
    content = write_png(image, SETTINGS, {"device": "cpu"})
    begin = content.index(b"iTXt") - 4
    end = begin + 12 + int.from_bytes(content[begin : begin + 4], "big")
    own, text = content[begin:end], content[begin + 8 + len(KEY) + 5 : end - 4]
    last = len(content) - 12  # where IEND begins
    head, pixels, tail = content[:begin], content[end:last], content[last:]
    files = {
        "foreign first": head + FOREIGN + own + pixels + tail,
        "foreign last": head + own + FOREIGN + pixels + tail,
        "after the pixels": head + pixels + FOREIGN + own + tail,
        "packed iTXt": head + png_chunk(b"iTXt", KEY.encode() + b"\0\1\0\0\0" + zlib.compress(text)) + pixels + tail,
        "zTXt": head
        + png_chunk(b"zTXt", KEY.encode() + b"\0\0" + zlib.compress(json.dumps(json.loads(text)).encode()))
        + pixels
        + tail,
    }
    path = tmp_path / "image.png"
    path.write_bytes(files[order])
    assert read_png(path, CATALOG) == (SETTINGS, {"device": "cpu"})


def test_a_changed_byte_in_the_settings_is_seen(tmp_path: Path, image: Image.Image) -> None:
    content = write_png(image, SETTINGS, {}).replace(b'"steps": 20', b'"steps": 21')
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(SettingsError, match="changed or damaged"):
        read_png(tmp_path / "image.png", CATALOG)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with open(path, "wb") as file:
        file.truncate(21_000_000)
    with pytest.raises(SettingsError, match="larger than 20 MB"):
        read_png(path, CATALOG)


def test_the_finishers_former_strength_is_read_where_it_means_on_or_off(tmp_path: Path, image: Image.Image) -> None:
    for strength, expected in ((1.0, True), (0.0, False)):
        record = json.dumps({"settings": SETTINGS.as_dict() | {"finisher": strength}})
        assert read_png(stored(tmp_path / "image.png", image, record), CATALOG)[0].finisher is expected
    record = json.dumps({"settings": SETTINGS.as_dict() | {"finisher": 0.7}})
    with pytest.raises(SettingsError, match="Finisher must be on or off"):
        read_png(stored(tmp_path / "image.png", image, record), CATALOG)
