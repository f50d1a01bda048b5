"""Settings inside PNG files: an image carries all that is needed to make it again."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.models import Catalog
from app.settings import Settings, SettingsError

KEY = "latentcrf"  # the PNG text chunk's keyword
MAX_BYTES = 20_000_000


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
    """Read back what `write_png` wrote. The pixels are never decoded.

    Args:
        path: of the PNG.
        catalog: of the page; its model's defaults stand for settings that the file does not name.

    Returns:
        The checked settings and the origin.

    Raises:
        SettingsError: the file is no PNG, carries no settings of this page, settings out of range, or a model that the
            page does not offer.
    """
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise SettingsError(
                f"This file is larger than {MAX_BYTES // 1_000_000} MB; a PNG saved by this page is not."
            )
        # Only the header and the chunks before the pixels are read, each text chunk at most Pillow's 1 MB: a file
        # that would unpack to gigabytes costs nothing here.
        with Image.open(path, formats=["PNG"]) as image:
            text = image.info.get(KEY)
        if not isinstance(text, str):
            raise SettingsError("This PNG carries no LatentCRF settings; load one that was downloaded from this page.")
        record = json.loads(text)
        values = record.pop("settings")
        if not isinstance(values, dict):
            raise TypeError("settings are not an object")
    except SettingsError:
        raise
    except Image.DecompressionBombError:
        raise SettingsError("This PNG claims to hold too many pixels; a PNG saved by this page does not.") from None
    except (OSError, SyntaxError):
        raise SettingsError(
            "This file is not a readable PNG image; load one that was downloaded from this page."
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise SettingsError("The settings inside this PNG cannot be read; the file was changed or damaged.") from None
    return catalog.parse(values), record
