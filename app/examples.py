"""Stored examples: results that the page shows before anybody has run anything. `app.make_examples` makes them.

An example is a tree of plain values, tables, arrays, pictures and the classes `CLASSES`. It is stored without pickles:
NAME.json holds the tree, NAME.webp its pictures (in rows of `PER_ROW`), NAME.safetensors its arrays.
"""

import importlib
import io
import json
import logging
from dataclasses import fields, is_dataclass
from functools import cache
from html import escape
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from app.models import ModelSet
from app.results import Comparison
from app.settings import Settings
from app.sheets import arrange_sheet

FOLDER = Path(__file__).parents[1] / "assets" / "examples"
COMMAND = "python -m app.make_examples --out assets/examples"
MAX_BYTES = 3_000_000  # of all examples together
COMPARE, CONVERGENCE, DIVERSITY, METHOD = "compare", "convergence", "diversity", "method"
ABOUT = "about.json"
# What an example may hold, and nothing else; imported when it is read, as most of it needs torch.
CLASSES = {
    "Settings": "app.settings",
    "Generated": "app.results",
    "Comparison": "app.results",
    "app.tabs.convergence.Outcome": "app.tabs.convergence",
    "app.tabs.diversity.Outcome": "app.tabs.diversity",
    "app.tabs.method.Outcome": "app.tabs.method",
    "Convergence": "analysis.studies.convergence",
    "MethodImages": "analysis.studies.diversity",
    "Walkthrough": "analysis.studies.walkthrough",
    "Potentials": "latentcrf.potentials",
    "Pairwise": "latentcrf.potentials",
    "Experts": "latentcrf.potentials",
}
PER_ROW = 8  # pictures in a row of the WebP
log = logging.getLogger(__name__)


class Writer:
    """Turns a value into JSON, and collects its pictures and arrays.

    Attributes:
        pictures: uint8 (H, W, 3), all of one size.
        arrays: by key.
    """

    def __init__(self) -> None:
        self.pictures: list[np.ndarray] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._keys = count()

    def encode(self, value: Any) -> Any:
        """Encode a value.

        Args:
            value: as of this module's docstring.

        Returns:
            What `json` writes.

        Raises:
            TypeError: it cannot be stored.
        """
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, pd.DataFrame):
            return {"table": value.to_csv(index=False)}
        if isinstance(value, Image.Image):
            return {"picture": self._add_pictures(np.asarray(value.convert("RGB")))[0]}
        if isinstance(value, np.ndarray):
            return self._encode_array(value)
        if is_dataclass(value) or hasattr(value, "_fields"):
            names = value._fields if hasattr(value, "_fields") else [field.name for field in fields(value)]
            inner = {name: self.encode(getattr(value, name)) for name in names}
            return {"class": _name_class(type(value)), "fields": inner}
        if isinstance(value, dict):
            return {"dict": {str(key): self.encode(each) for key, each in value.items()}}
        if isinstance(value, list):
            return [self.encode(each) for each in value]
        if isinstance(value, tuple):
            return {"tuple": [self.encode(each) for each in value]}
        if hasattr(value, "detach"):  # a tensor
            return {"tensor": self._add_array(value.detach().cpu().numpy())}
        raise TypeError(f"a {type(value).__name__} cannot be stored in an example.")

    def _encode_array(self, array: np.ndarray) -> Any:
        if array.ndim < 4 or array.shape[-1] != 3 or array.dtype != np.uint8:
            return {"array": self._add_array(array)}
        return {"pictures": self._add_pictures(array)[0], "shape": array.shape}

    def _add_array(self, array: np.ndarray) -> str:
        key = str(next(self._keys))
        self.arrays[key] = np.ascontiguousarray(array)
        return key

    def _add_pictures(self, array: np.ndarray) -> range:
        added = array.reshape(-1, *array.shape[-3:])
        begin = len(self.pictures)
        self.pictures += list(added)
        return range(begin, len(self.pictures))


def write_example(folder: Path, name: str, value: Any, quality: int | None = None) -> None:
    """Write an example.

    Args:
        folder: that is there.
        name: of the example.
        value: as of this module's docstring; its pictures are of one size.
        quality: of the pictures' WebP, 0 to 100; None (default): lossless.

    Raises:
        TypeError: it cannot be stored.
        ValueError: its pictures are of several sizes.
    """
    writer = Writer()
    record: dict[str, Any] = {"picture_size": None, "value": writer.encode(value)}
    if writer.pictures:
        if len({picture.shape for picture in writer.pictures}) > 1:
            raise ValueError(f"the pictures of {name} are of several sizes.")
        pictures = np.stack(writer.pictures)
        height, width = pictures.shape[1:3]
        record["picture_size"] = [width, height]
        Image.fromarray(arrange_sheet(pictures, PER_ROW, ground=0)).save(
            folder / f"{name}.webp", lossless=quality is None, quality=100 if quality is None else quality, method=6
        )
    if writer.arrays:
        save_file(writer.arrays, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


@cache
def read_example(name: str, folder: Path = FOLDER) -> Any:
    """Read an example. It is shared by all visitors: do not change it.

    Args:
        name: of the example.
        folder: default: the shipped ones.

    Returns:
        As it was written; None where there is no such example, or a file of it is damaged: that is logged.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    try:
        return _read(path)
    except (OSError, ValueError, TypeError, LookupError, SafetensorError) as error:
        log.error("The stored example %s is damaged (%r). This makes it again: %s", path, error, COMMAND)
        return None


def _read(path: Path) -> Any:
    record = json.loads(path.read_text(encoding="utf-8"))
    pictures: list[np.ndarray] = []
    if record["picture_size"] is not None:
        width, height = record["picture_size"]
        with Image.open(path.with_suffix(".webp"), formats=["WEBP"]) as image:
            sheet = np.asarray(image.convert("RGB"))
        sheet = sheet.reshape(-1, height, PER_ROW, width, 3).swapaxes(1, 2)
        pictures = list(sheet.reshape(-1, height, width, 3))
    arrays = path.with_suffix(".safetensors")
    return _decode(record["value"], pictures, load_file(arrays) if arrays.is_file() else {})


def _decode(value: Any, pictures: list[np.ndarray], arrays: dict[str, np.ndarray]) -> Any:
    def decode(inner: Any) -> Any:
        return _decode(inner, pictures, arrays)

    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "class" in value:
        return _find_class(value["class"])(**{name: decode(each) for name, each in value["fields"].items()})
    if "pictures" in value:
        shape = tuple(value["shape"])
        begin = value["pictures"]
        return np.stack(pictures[begin : begin + int(np.prod(shape[:-3]))]).reshape(shape)
    (kind, content), *others = value.items()
    if not others and kind == "table":
        return pd.read_csv(io.StringIO(content))
    if not others and kind == "picture":
        return Image.fromarray(pictures[content])
    if not others and kind == "array":
        return arrays[content]
    if not others and kind == "tensor":
        return importlib.import_module("torch").from_numpy(arrays[content])
    if not others and kind == "dict":
        return {key: decode(each) for key, each in content.items()}
    if not others and kind == "tuple":
        return tuple(decode(each) for each in content)
    raise ValueError(f"an example cannot hold {list(value)}.")


def _name_class(kind: type) -> str:
    for name in (kind.__name__, f"{kind.__module__}.{kind.__name__}"):
        if CLASSES.get(name) == kind.__module__:
            return name
    raise TypeError(f"a {kind.__name__} cannot be stored in an example.")


def _find_class(name: str) -> Any:
    if name not in CLASSES:
        raise ValueError(f"an example cannot hold a {name}.")
    return getattr(importlib.import_module(CLASSES[name]), name.split(".")[-1])


# ------------------------------------------------------------------------------------------ on the page


@cache
def read_about(folder: Path = FOLDER) -> dict[str, Any]:
    """Read what all examples have in common.

    Args:
        folder: default: the shipped ones.

    Returns:
        command, date, times (how they were measured), origin (the weights' hashes); empty where there are no examples.
    """
    path = folder / ABOUT
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def describe_example(shown: str, end: str = "") -> str:
    """Describe a shipped example: what it shows and how it was made.

    Args:
        shown: prompt and seed.
        end: HTML: a sentence after it.

    Returns:
        HTML.
    """
    about = read_about()
    made = f"Made by <code>{escape(about['command'])}</code> on {about['date']}."
    return f'<p class="example"><b>Stored example: {escape(shown)}.</b> <span>{made} {end}</span></p>'


def plan_comparisons(model_set: ModelSet) -> list[Settings]:
    """Plan the comparisons that are stored: each example prompt in each mode, at the default seed.

    Args:
        model_set: the model.

    Returns:
        Settings, the modes of a prompt beside each other.
    """
    defaults = model_set.defaults.as_dict()
    modes = model_set.modes.values()
    return [Settings(**{**defaults, "prompt": prompt, **mode}) for prompt in model_set.prompts for mode in modes]


def find_comparison(model_set: ModelSet, prompt: str, mode: str) -> Comparison | None:
    """Find a stored comparison.

    Args:
        model_set: the model that the page shows.
        prompt: of the example.
        mode: `app.models.PAPER` or `FAST`.

    Returns:
        It; None where there is none of this prompt, mode or model.
    """
    if not model_set.is_embedded:
        return None
    for comparison in read_example(COMPARE) or []:
        settings = comparison.settings
        if settings.prompt == prompt and model_set.find_mode(settings.as_dict()) == mode:
            return comparison
    return None
