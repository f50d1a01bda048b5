"""Settings inside PNG files: an image carries all that is needed to make it again."""

import io
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.models import Catalog
from app.settings import Settings, SettingsError

KEY = "latentcrf"  # the PNG text chunk's keyword
MAX_BYTES = 20_000_000
MAX_TEXT = 100_000  # bytes; ours has about 500
MAX_PIXELS = 100_000_000
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = len(SIGNATURE) + 25  # bytes, with the first chunk


def write_png(image: Image.Image, settings: Settings, origin: Mapping[str, Any]) -> bytes:
    """Write an image as a PNG with its settings.

    Args:
        image: the pixels.
        settings: stored as JSON in the PNG's text chunk.
        origin: stored with them: method, weights, precision...

    Returns:
        The file's content.
    """
    record = json.dumps({"settings": settings.as_dict(), **origin}, ensure_ascii=False)
    info = PngInfo()
    info.add_itxt(KEY, record)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def read_png(path: str | Path, catalog: Catalog) -> tuple[Settings, dict[str, Any]]:
    """Read back what `write_png` wrote, wherever in the file an editor put it. The pixels are never decoded.

    Args:
        path: of the PNG.
        catalog: of the page; its model's defaults stand for settings that the file does not name.

    Returns:
        The checked settings and the origin.

    Raises:
        SettingsError: the file is no PNG, carries no settings of this page, settings out of range, or a model that the
            page does not offer.
    """
    if Path(path).stat().st_size > MAX_BYTES:
        raise SettingsError(f"This file is larger than {MAX_BYTES // 1_000_000} MB; a PNG saved by this page is not.")
    try:
        text = _find_text(Path(path).read_bytes())
        if text is None:
            raise SettingsError("This PNG carries no LatentCRF settings; load one that was downloaded from this page.")
        record = json.loads(text)
        values = record.pop("settings")
        if not isinstance(values, dict):
            raise TypeError("settings are not an object")
    except SettingsError:
        raise
    except (OSError, SyntaxError):
        raise SettingsError(
            "This file is not a readable PNG image; load one that was downloaded from this page."
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, zlib.error):
        raise SettingsError("The settings inside this PNG cannot be read; the file was changed or damaged.") from None
    return catalog.parse(values), record


def _find_text(content: bytes) -> str | None:
    """Find the text with our keyword. Pillow would read foreign text too, and that after the pixels with the pixels.

    Args:
        content: of a file.

    Returns:
        The text; None: the file is a PNG without it.

    Raises:
        SyntaxError: it is no PNG.
        SettingsError: it claims to hold too many pixels.
        ValueError: the text is damaged or longer than `MAX_TEXT`.
    """
    if not content.startswith(SIGNATURE) or content[12:16] != b"IHDR" or len(content) < HEADER:
        raise SyntaxError("not a PNG")
    width, height = struct.unpack(">II", content[16:24])
    if width * height > MAX_PIXELS:
        raise SettingsError("This PNG claims to hold too many pixels; a PNG saved by this page does not.")
    place = len(SIGNATURE)
    while place + 12 <= len(content):
        (length,), kind = struct.unpack(">I", content[place : place + 4]), content[place + 4 : place + 8]
        data = content[place + 8 : place + 8 + length]
        place += length + 12
        keyword, _, rest = data[:80].partition(b"\0")
        if kind not in (b"iTXt", b"tEXt", b"zTXt") or keyword != KEY.encode():
            continue
        if place > len(content) or zlib.crc32(kind + data) != int.from_bytes(content[place - 4 : place], "big"):
            raise ValueError("the text is damaged")
        rest = data[len(keyword) + 1 :]
        is_packed = kind == b"zTXt"
        if kind == b"iTXt":  # flag and method of the compression, language, translated keyword
            is_packed = rest[:1] == b"\1"
            rest = rest[2:].split(b"\0", 2)[2]
        elif is_packed:
            rest = rest[1:]  # method of the compression
        if is_packed:
            rest = zlib.decompressobj().decompress(rest, MAX_TEXT + 1)
        if len(rest) > MAX_TEXT:
            raise ValueError("the text is too long")
        return rest.decode("utf-8" if kind == b"iTXt" else "latin-1")
    return None
