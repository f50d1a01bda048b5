"""Training data: images with captions, read through the `datasets` library, one entry after the other.

Accepted are

- a folder with metadata.jsonl, metadata.csv or metadata.parquet, a row an image: `file_name`, relative to the folder,
  and `text`;
- a Parquet file, or a folder of them, with the columns `image` and `text`;
- a WebDataset tar, or a folder of them, with an image and a .txt an entry.

Further columns, all optional:

    split               "train" (default) or another name; only "train" entries are learned from
    autoencoder_only    default false; true: only an autoencoder learns from the entry
    caption_variants    three lists of captions, from which `Captions.draw` chooses; default: the caption in all

A folder may hold prompts.txt: one prompt a line, for the recorded runs. Images have any size.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

METADATA, PROMPTS = "metadata.jsonl", "prompts.txt"
VARIANT_LISTS = 3  # of captions, an image
SMALLEST = 0.5  # of the LDM's image size: smaller images would be enlarged to a blur
# Format of `datasets`, how its files are found in a folder, default columns; None: the first with images.
FORMATS: dict[str, tuple[tuple[str, ...], str | None, str]] = {
    "imagefolder": ((METADATA, "metadata.csv", "metadata.parquet"), "image", "text"),
    "parquet": (("**/*.parquet",), "image", "text"),
    "webdataset": (("**/*.tar",), None, "txt"),
}
OPTIONAL_COLUMNS = ("split", "autoencoder_only", "caption_variants")


class DatasetError(RuntimeError):
    """The data set cannot be built or read; the message says why and what to do."""


class EntryError(ValueError):
    """An entry cannot be learned from; the message says why."""


@dataclass(frozen=True)
class DataSource:
    """Where training data lie.

    Attributes:
        path: a file or a folder; see the top of this module.
        image_column: None: the format's own.
        caption_column: None: the format's own.
    """

    path: Path
    image_column: str | None = None
    caption_column: str | None = None

    def find_files(self) -> tuple[str, list[Path]]:
        """Find the files of the data set.

        Returns:
            Its format, one of `FORMATS`, and its files in alphabetical order, at least one.

        Raises:
            DatasetError: there are none.
        """
        for name, (patterns, _, _) in FORMATS.items():
            for pattern in patterns:
                is_file = self.path.is_file() and self.path.match(pattern.split("/")[-1])
                files = [self.path] if is_file else sorted(self.path.glob(pattern)) if self.path.is_dir() else []
                if files:
                    return name, files
        raise DatasetError(
            f"{self.path} holds no training data. Accepted are a folder with {METADATA} or metadata.csv (file_name, "
            "text), Parquet files with images and captions, WebDataset tars. The emoji data set is built by: "
            f"python -m recipes.emoji.dataset --out {self.path}"
        )

    def open(self) -> "OpenedData":
        """Open the data set for reading, without reading its images.

        Raises:
            DatasetError: it is missing, damaged, or lacks a column.
        """
        import datasets  # loads pandas and more, which a resumed run may not need

        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # else it asks the hub, for local files too
        name, files = self.find_files()
        _, image, caption = FORMATS[name]
        try:
            stream = datasets.load_dataset(
                name, data_files={"train": [str(file) for file in files]}, split="train", streaming=True
            )
        except Exception as error:  # of json, pyarrow, tarfile, pandas, ...
            raise _damaged(self.path, error) from error
        features = stream.features or {}
        image = self.image_column or image
        image = image or next((key for key, kind in features.items() if isinstance(kind, datasets.Image)), "jpg")
        caption = self.caption_column or caption
        for column, option in ((image, "--image-column"), (caption, "--caption-column")):
            if column not in features:
                raise DatasetError(
                    f"{self.path} has no column {column!r}. It has {', '.join(map(repr, features))}: name one with "
                    f"{option}."
                )
        optional = [key for key in OPTIONAL_COLUMNS if key in features]
        return OpenedData(self.path, stream.select_columns([image, caption, *optional]), image, caption)


@dataclass(frozen=True)
class OpenedData:
    """A data set that is open for reading.

    Attributes:
        path: of its source.
        stream: an IterableDataset with the columns that are read.
        image_column: of `stream`.
        caption_column: of `stream`.
    """

    path: Path
    stream: Any
    image_column: str
    caption_column: str

    def read_batches(self, count: int, index: int = 0, step: int = 1) -> Iterator[list[dict[str, Any]]]:
        """Read the rows in batches, images as they are stored.

        Args:
            count: rows a batch; the last one may have fewer.
            index: of the first batch that is yielded.
            step: from one batch that is yielded to the next.

        Yields:
            Rows, with "image" ({"path", "bytes"}), "caption" and `OPTIONAL_COLUMNS`.

        Raises:
            DatasetError: a file of the data set is damaged.
        """
        import datasets
        from datasets.distributed import split_dataset_by_node

        stored = self.stream.cast_column(self.image_column, datasets.Image(decode=False))
        batches = split_dataset_by_node(stored.batch(count), index, step, strategy="examples")
        names = {self.image_column: "image", self.caption_column: "caption"}
        try:
            for batch in batches:
                columns = {names.get(key, key): values for key, values in batch.items()}
                yield [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        except Exception as error:
            raise _damaged(self.path, error) from error

    def read_captions(self) -> Iterator[str]:
        """Read the captions of the entries that a CRF learns from.

        Yields:
            Captions, without empty ones.

        Raises:
            DatasetError: a file of the data set is damaged.
        """
        columns = [key for key in self.stream.features if key != self.image_column]
        try:
            for row in self.stream.select_columns(columns):
                caption = row[self.caption_column]
                if is_learned(row) and isinstance(caption, str) and caption.strip():
                    yield caption
        except Exception as error:
            raise _damaged(self.path, error) from error


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{path} cannot be read: {' '.join(str(error.__cause__ or error).split())}")


def is_learned(row: dict[str, Any]) -> bool:
    """Return whether a CRF learns from a row: of split "train", and not for an autoencoder only."""
    return (row.get("split") or "train") == "train" and not row.get("autoencoder_only")


def read_image(stored: dict[str, Any] | None, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Read an image, resize it and cut its centre out. Transparent parts become white.

    Args:
        stored: {"path", "bytes"}, of which one may be None.
        size: (height, width) of the result in px.

    Returns:
        uint8 (height, width, 3) in 0..255.

    Raises:
        EntryError: there is no image, it cannot be read, or it is too small.
    """
    height, width = size
    if not stored or not (stored["bytes"] or stored["path"]):
        raise EntryError("no image")
    try:
        with Image.open(io.BytesIO(stored["bytes"]) if stored["bytes"] else stored["path"]) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except Exception as error:  # Pillow's decoders raise many kinds
        raise EntryError("the image cannot be read") from error
    if image.width < SMALLEST * width or image.height < SMALLEST * height:
        raise EntryError(f"smaller than {round(SMALLEST * width)} x {round(SMALLEST * height)} px")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS))


def read_variants(row: dict[str, Any]) -> list[list[str]]:
    """Read the captions of a row.

    Args:
        row: of `OpenedData.read_batches`.

    Returns:
        `VARIANT_LISTS` lists of captions, none empty.

    Raises:
        EntryError: there is no caption, or `caption_variants` are no such lists.
    """
    caption, variants = row["caption"], row.get("caption_variants")
    if variants is None:
        if not isinstance(caption, str) or not caption.strip():
            raise EntryError("no caption")
        return [[caption]] * VARIANT_LISTS
    is_list = isinstance(variants, list) and len(variants) == VARIANT_LISTS
    if not is_list or not all(
        isinstance(captions, list) and captions and all(isinstance(each, str) for each in captions)
        for captions in variants
    ):
        raise EntryError(f"caption_variants are not {VARIANT_LISTS} lists of strings, none empty")
    return variants


def read_prompts(source: DataSource) -> list[str]:
    """Read the prompts for recorded runs.

    Args:
        source: training data.

    Returns:
        The lines of `prompts.txt`; without that file, the distinct captions that a CRF learns from.

    Raises:
        DatasetError: the data set cannot be read, or there is no prompt.
    """
    path = source.path / PROMPTS
    if path.is_file():
        prompts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not prompts:
            raise DatasetError(f"{path} holds no prompt: one prompt a line is accepted, or no such file.")
        return prompts
    prompts = list(dict.fromkeys(source.open().read_captions()))
    if not prompts:
        raise DatasetError(f'{source.path} holds no entry to learn from: none of split "train" with a caption.')
    return prompts


def read_metadata(folder: str | Path) -> list[dict[str, Any]]:
    """Read the rows of an image folder's `metadata.jsonl`.

    Args:
        folder: the image folder.

    Returns:
        A dict an image, with at least `file_name` (relative to `folder`) and `text` (its caption).

    Raises:
        DatasetError: the file is missing or empty, or a line is not such a row.
    """
    path = Path(folder) / METADATA
    if not path.is_file():
        raise DatasetError(
            f"{folder} holds no {METADATA}. Accepted is an image folder with one JSON object a line (file_name, text). "
            f"The emoji data set is built by: python -m recipes.emoji.dataset --out {folder}"
        )
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):  # a line may not be UTF-8
        try:
            row = json.loads(line)
            if not isinstance(row["file_name"], str) or not isinstance(row["text"], str):
                raise TypeError("file_name and text must be strings")
        except (ValueError, TypeError, KeyError) as error:
            raise DatasetError(
                f"{path}, line {number}: accepted is a JSON object with file_name and text ({error!r})."
            ) from error
        rows.append(row)
    if not rows:
        raise DatasetError(f"{path} is empty: it must hold a row an image.")
    return rows


def open_rgb(path: Path) -> Image.Image:
    """Read an image of an image folder as RGB.

    Args:
        path: of the image.

    Raises:
        DatasetError: it is missing or unreadable.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise DatasetError(f"{path}, named in {METADATA}, cannot be read: {error}.") from error


def read_images(folder: str | Path, rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Read the images of rows.

    Args:
        folder: the image folder.
        rows: some of its metadata's rows, at least one.

    Returns:
        The images, uint8 (N, H, W, 3) in 0..255, in the order of `rows`.

    Raises:
        DatasetError: an image is missing or unreadable, or the images have several sizes.
    """
    images: list[np.ndarray[Any, Any]] = []
    for row in rows:
        path = Path(folder) / row["file_name"]
        images.append(np.asarray(open_rgb(path)))
        if images[-1].shape != images[0].shape:
            raise DatasetError(
                f"{path} is {images[-1].shape[1]} x {images[-1].shape[0]} px, {rows[0]['file_name']} "
                f"{images[0].shape[1]} x {images[0].shape[0]} px: all images must have one size."
            )
    return np.stack(images)


def read_image_folder(folder: str | Path) -> tuple[list[dict[str, Any]], np.ndarray[Any, Any]]:
    """Read all of an image folder.

    Args:
        folder: holds `metadata.jsonl` and the images, all of one size.

    Returns:
        The rows of `read_metadata`, and the images, uint8 (N, H, W, 3) in 0..255, in the same order.

    Raises:
        DatasetError: no `metadata.jsonl`, an image that is missing or unreadable, or images of several sizes.
    """
    rows = read_metadata(folder)
    return rows, read_images(folder, rows)
