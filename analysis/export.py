"""Results of an analysis as files: a folder from the command line, one ZIP from the page; and from its settings again."""

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image

from latentcrf.utils.files import replace_file

CHROME = "kaleido draws PNGs with Chrome or Chromium; name its file in BROWSER_PATH"
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Results:
    """What an analysis made.

    Attributes:
        analysis: its module's name, "variance".
        options: those of the module's command line, by their long names without dashes ("batch_size"), which make it
            again.
        tables, figures, images: by file name without ending; images are uint8 (H, W, 3). Each table is written with a
            column `precision` where the options name one.
    """

    analysis: str
    options: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    figures: dict[str, go.Figure]
    images: dict[str, np.ndarray] = field(default_factory=dict)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """File names and contents; figures as HTML that opens offline, and as PNG where Chrome or Chromium is found."""
        record = {"analysis": self.analysis, "options": self.options}
        yield SETTINGS, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
        precision = {name: self.options[name] for name in ("precision",) if name in self.options}
        for name, table in self.tables.items():
            yield f"{name}.csv", table.assign(**precision).to_csv(index=False, float_format="%.6g").encode()
        for name, pixels in self.images.items():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            yield f"{name}.png", buffer.getvalue()
        for name, drawn in self.figures.items():
            yield f"{name}.html", drawn.to_html(include_plotlyjs=True).encode()
            if png := figure_png(drawn, name):
                yield f"{name}.png", png


def figure_png(drawn: go.Figure, name: str) -> bytes | None:
    """The figure as PNG, twice its size; None, with a word on the error stream, where no Chrome is found."""
    try:
        return bytes(drawn.to_image("png", scale=2))
    except (RuntimeError, ValueError, ImportError, OSError) as error:
        print(f"{name}.png is not written: {CHROME} ({str(error).strip().splitlines()[0]})", file=sys.stderr)
        return None


def write_figure(drawn: go.Figure, path: Path) -> None:
    """`path`.html, which opens offline, and `path`.png where Chrome or Chromium is found; says so where not."""
    with replace_file(path.with_suffix(".html")) as temporary:
        drawn.write_html(temporary, include_plotlyjs=True)
    if png := figure_png(drawn, str(path)):
        with replace_file(path.with_suffix(".png")) as temporary:
            temporary.write_bytes(png)


def write_results(results: Results, folder: Path) -> list[str]:
    """Write all files into `folder`, each whole or not at all; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, content in results.files():
        with replace_file(folder / name) as temporary:
            temporary.write_bytes(content)
        names.append(name)
    return names


def write_zip(results: Results, path: Path) -> Path:
    """Write all files into one ZIP at `path`, in a folder named after the analysis."""
    with replace_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in results.files():
            archive.writestr(f"{results.analysis}/{name}", content)
    return path


def parse(parser: argparse.ArgumentParser, analysis: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options; `--from settings.json` gives those that the line itself does not name.

    Exits with a sentence, as argparse does, where the file cannot be read or names options that there are not.
    """
    parser.add_argument(
        "--from",
        dest="settings_file",
        type=Path,
        metavar="FILE",
        help=f"take options from a {SETTINGS} of this analysis",
    )
    given = list(sys.argv[1:] if arguments is None else arguments)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--from", dest="settings_file", type=Path)
    file = early.parse_known_args(given)[0].settings_file
    named = {word.split("=")[0] for word in given}
    return parser.parse_args([*(_as_arguments(parser, analysis, file, named) if file else []), *given])


def _as_arguments(parser: argparse.ArgumentParser, analysis: str, file: Path, named: set[str]) -> list[str]:
    """The file's options as words of a command line, without those whose flags are `named` on the line itself."""
    try:
        record = json.loads(file.read_text())
        options = dict(record["options"])
        found = record["analysis"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        parser.error(f"--from {file} cannot be read as the {SETTINGS} of an analysis: {error!r}.")
    if found != analysis:
        parser.error(f"--from {file} belongs to analysis.{found}; this is analysis.{analysis}.")
    actions = {flag: action for action in parser._actions for flag in action.option_strings if flag.startswith("--")}
    known = {flag[2:].replace("-", "_"): flag for flag in actions}
    line = []
    for name, value in options.items():
        if name not in known:
            parser.error(f"--from {file} names {name!r}, which is no option; accepted are {', '.join(sorted(known))}.")
        flag = known[name]
        if flag in named:
            continue
        if isinstance(value, bool):
            line += [flag] if value else []
        elif isinstance(value, list) and actions[flag].nargs == "+":
            line += [f"{flag}={item}" for item in value]  # one word each: a prompt may begin with a dash
        elif isinstance(value, list):
            line += [flag, *map(str, value)]
        elif value is not None:
            line.append(f"{flag}={value}")
    return line
