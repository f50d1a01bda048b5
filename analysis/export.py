"""Results of an analysis as files: a folder or one ZIP, and the settings that repeat it."""

import argparse
import asyncio
import io
import json
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image

from analysis.sampling import STEPS
from latentcrf.utils.files import replace_file

CHROME = "kaleido draws PNGs with Chrome or Chromium; name its file in BROWSER_PATH"
PNG_SECONDS = 60  # for a PNG: Chrome may start and never answer
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Results:
    """Results of an analysis.

    Attributes:
        analysis: its module's name, "variance".
        options: those of the module's command line that repeat it, by their long names without dashes ("batch_size").
        tables: by file name without ending. Each is written with a column `precision` where the options name one.
        figures: by file name without ending.
        images: uint8 (H, W, 3) by file name without ending; default none.
    """

    analysis: str
    options: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    figures: dict[str, go.Figure]
    images: dict[str, np.ndarray] = field(default_factory=dict)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield file names and contents; figures as HTML that opens offline, and as PNG where a Chrome is found."""
        record = {"analysis": self.analysis, "options": self.options}
        yield SETTINGS, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
        precision = {name: self.options[name] for name in ("precision",) if name in self.options}
        for name, table in self.tables.items():
            yield f"{name}.csv", table.assign(**precision).to_csv(index=False, float_format="%.6g").encode("utf-8")
        for name, pixels in self.images.items():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            yield f"{name}.png", buffer.getvalue()
        for name, figure in self.figures.items():
            yield f"{name}.html", figure.to_html(include_plotlyjs=True).encode("utf-8")
            if png := draw_png(figure, name):
                yield f"{name}.png", png


def draw_png(figure: go.Figure, name: str) -> bytes | None:
    """Draw a figure as PNG, twice its size.

    Args:
        figure: what to draw.
        name: for the message.

    Returns:
        The file's content, or None, with a message on the error stream, where no Chrome is found, or it does not answer
        within `PNG_SECONDS`.
    """
    found: SimpleQueue[bytes | Exception] = SimpleQueue()
    begin = time.monotonic()
    # a thread, as the caller's may run an event loop; a daemon, as kaleido waits without end for a Chrome that hangs
    threading.Thread(target=_ask_kaleido, args=(figure, found), daemon=True).start()
    try:
        answer = found.get(timeout=PNG_SECONDS + 10)  # kaleido closes Chrome in the last ten
    except Empty:
        answer = TimeoutError("no answer")
    if isinstance(answer, bytes):
        return answer
    reason = str(answer).strip().split("\n")[0]
    if time.monotonic() - begin >= PNG_SECONDS:  # stopping Chrome may raise another error
        reason = f"it did not answer within {PNG_SECONDS} s; the other files are complete"
    print(f"{name}.png is not written: {CHROME} ({reason})", file=sys.stderr)
    return None


def _ask_kaleido(figure: go.Figure, found: "SimpleQueue[bytes | Exception]") -> None:
    try:
        import kaleido  # only here: the analyses run without it

        size = {"width": figure.layout.width or 1180, "height": figure.layout.height or 560}
        drawing = kaleido.calc_fig(figure.to_dict(), opts={"format": "png", "scale": 2, **size})
        found.put(bytes(asyncio.run(asyncio.wait_for(drawing, PNG_SECONDS))))
    except Exception as error:
        found.put(error)


def write_figure(figure: go.Figure, path: Path) -> None:
    """Write `path`.html, which opens offline, and `path`.png; a message says where no Chrome is found.

    Args:
        figure: what to write.
        path: without ending.
    """
    with replace_file(path.with_suffix(".html")) as temporary:
        figure.write_html(temporary, include_plotlyjs=True)
    if png := draw_png(figure, str(path)):
        with replace_file(path.with_suffix(".png")) as temporary:
            temporary.write_bytes(png)


def write_results(results: Results, folder: Path) -> list[str]:
    """Write all files into a folder, each whole or not at all.

    Args:
        results: what to write.
        folder: is made where it is missing.

    Returns:
        The files' names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, content in results.files():
        with replace_file(folder / name) as temporary:
            temporary.write_bytes(content)
        names.append(name)
    return names


def write_zip(results: Results, path: Path) -> Path:
    """Write all files into one ZIP, in a folder named after the analysis.

    Args:
        results: what to write.
        path: of the ZIP.

    Returns:
        `path`.
    """
    with replace_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in results.files():
            archive.writestr(f"{results.analysis}/{name}", content)
    return path


def parse(parser: argparse.ArgumentParser, analysis: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; `--from settings.json` gives the options that the line itself does not name.

    Exits with a message, as argparse does, where the file cannot be read or names options that do not exist.

    Args:
        parser: of the command line; gets the option --from.
        analysis: its module's name, "variance".
        arguments: default: the process's.

    Returns:
        The options, and `settings_file`: the path of --from, or None.
    """
    parser.add_argument(
        "--from",
        dest="settings_file",
        type=Path,
        metavar="FILE",
        help=f"take options from a {SETTINGS} of this analysis",
    )
    words = list(sys.argv[1:] if arguments is None else arguments)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--from", dest="settings_file", type=Path)
    file = early.parse_known_args(words)[0].settings_file
    if file is None:
        return _check_bypass(parser, parser.parse_args(words))
    named = {word.split("=")[0] for word in words}
    saved = {name: value for name, value in _read_settings(parser, analysis, file).items() if _flag(name) not in named}
    options, unknown = parser.parse_known_args([*_write_words(saved), *words])
    names = set(vars(options)) - {"settings_file"}
    for name in saved:
        if name not in names:
            parser.error(f"--from {file} names {name!r}, which is no option; accepted are {', '.join(sorted(names))}.")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return _check_bypass(parser, options)


def _check_bypass(parser: argparse.ArgumentParser, options: argparse.Namespace) -> argparse.Namespace:
    """Refuse a wrong bypass before anything is computed."""
    first, last = getattr(options, "bypass", (0, 1))
    steps = getattr(options, "steps", STEPS)
    if not first < last <= steps:
        parser.error(f"--bypass {first} {last} must be FIRST below LAST, and LAST at most the {steps} steps.")
    return options


def _read_settings(parser: argparse.ArgumentParser, analysis: str, file: Path) -> dict[str, Any]:
    """Read the options that the file names."""
    try:
        record = json.loads(file.read_text(encoding="utf-8-sig"))  # some editors begin with a mark
        options, name = dict(record["options"]), record["analysis"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        parser.error(f"--from {file} cannot be read as the {SETTINGS} of an analysis: {error!r}.")
    if name != analysis:
        parser.error(f"--from {file} belongs to analysis.{name}; this is analysis.{analysis}.")
    return options


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _write_words(options: dict[str, Any]) -> list[str]:
    """Write options as words of a command line."""
    words = []
    for name, value in options.items():
        flag = _flag(name)
        if isinstance(value, bool):
            words += [flag] if value else []
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            words += [f"{flag}={item}" for item in value]  # one word each: a prompt may begin with a dash
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        elif value is not None:
            words.append(f"{flag}={value}")
    return words
