"""The emoji data set: about 6,400 pictures of 1,640 subjects in four drawing styles, with words.

    python -m recipes.emoji.dataset --out data/emoji

The pictures come from four npm packages, the words from a fifth (`recipes.emoji.drawings`). `load` reads the result
back.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from latentcrf.training.data import METADATA, DatasetError, read_metadata
from latentcrf.utils.files import replace_file
from recipes.emoji.drawings import (
    PACKAGES,
    STYLES,
    WHITE,
    WORDS,
    fetch,
    normal_code_point,
    open_sources,
    read_members,
    slug,
)

NUM_TEST = 300  # held-out (subject, style) pairs

# What the U-Net learns: the subjects that people prompt. People with their gender variants, arrows, signs,
# keycaps and clock faces are a third of the pictures, hard to tell apart at 128 px, and rarely asked for;
# the autoencoder sees them, the U-Net does not.
CORE_GROUPS = {"smileys-emotion", "animals-nature", "food-drink", "travel-places", "activities", "objects"}
CORE_SUBGROUPS = {"geometric"}
NOT_CORE = re.compile(r"^(.*o’clock|.*-thirty)$")
SKIPPED_GROUPS = {"component", "flags"}  # skin tones and hair on their own; flags


def subjects(words: Path) -> Iterator[dict[str, Any]]:
    """The subjects of the word list in its order: label, tags, group, subgroup, code point."""
    read = read_members(words, lambda name: name in ("en/data.json", "meta/groups.json"))
    names = json.loads(read["meta/groups.json"])
    for entry in sorted(json.loads(read["en/data.json"]), key=lambda entry: entry.get("order", 10**6)):
        group = names["groups"].get(str(entry.get("group")))
        if group is None or group in SKIPPED_GROUPS:
            continue
        subgroup = names["subgroups"][str(entry["subgroup"])]
        yield {
            "text": entry["label"],
            "tags": list(entry.get("tags", [])),
            "group": group,
            "subgroup": subgroup,
            "code_point": normal_code_point(entry["hexcode"]),
            "core": (group in CORE_GROUPS or subgroup in CORE_SUBGROUPS) and not NOT_CORE.match(entry["label"]),
        }


def draw_rows(folder: Path, out: Path, size: int) -> list[dict[str, Any]]:
    """Draw every (subject, style) into `out`/images, one PNG each, and return the table's rows in order.

    An image that an earlier, interrupted run has written is kept.
    """
    listed = list(subjects(fetch(WORDS, folder)))
    sources = open_sources(folder)
    rows, seen = [], set()
    for subject in tqdm(listed, desc="drawing", unit="subject"):
        for style in STYLES:
            key = slug(subject["text"]) if style == "flat" else subject["code_point"]
            draw = sources[style].get(key)
            if draw is None:
                continue
            file = f"images/{subject['code_point']}_{style}.png"
            path = out / file
            image = Image.open(path) if path.exists() else draw(size)
            if not path.exists():
                with replace_file(path) as temporary:
                    image.save(temporary, format="PNG")
            pixels = hashlib.sha256(np.asarray(image).tobytes()).hexdigest()
            if (style, pixels) in seen:  # two code points drawn the same: one is enough
                continue
            seen.add((style, pixels))
            package = PACKAGES[style]
            source = {"package": str(package), "licence": package.licence}
            rows.append({**subject, "style": style, **source, "pixels_sha256": pixels, "file_name": file})
    return rows


def split(rows: list[dict[str, Any]]) -> None:
    """Mark `NUM_TEST` rows as `test`, all others as `train`.

    At most one style of a subject is held out, only of core subjects seen in two other styles at least. The choice
    follows a hash of code point and style: it does not move when other rows come or go.
    """
    styles: dict[str, int] = {}
    for row in rows:
        styles[row["code_point"]] = styles.get(row["code_point"], 0) + 1
        row["split"] = "train"

    def rank(row: dict[str, Any]) -> str:
        return hashlib.sha256(f"{row['code_point']}/{row['style']}".encode()).hexdigest()

    taken: set[str] = set()
    for row in sorted((row for row in rows if row["core"] and styles[row["code_point"]] >= 3), key=rank):
        if len(taken) < NUM_TEST and row["code_point"] not in taken:
            taken.add(row["code_point"])
            row["split"] = "test"


def contact_sheet(images: list[Image.Image], columns: int, gap: int = 4) -> Image.Image:
    """Images of one size on a white sheet, row by row."""
    width, height = images[0].size
    lines = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, lines * (height + gap) + gap), WHITE)
    for index, image in enumerate(images):
        line, column = divmod(index, columns)
        sheet.paste(image, (gap + column * (width + gap), gap + line * (height + gap)))
    return sheet


def build(out: Path, size: int = 128) -> list[dict[str, Any]]:
    """Build the data set in `out`: packages/, images/, sample-sheet.png and, last of all, metadata.jsonl.

    Deterministic; an interrupted run is taken up where it stopped.

    Raises:
        DatasetError: with a sentence, where a package, the network or disk space is missing.
    """
    metadata, settings = out / METADATA, out / "size.txt"
    if settings.exists() and settings.read_text() != str(size):
        raise DatasetError(
            f"{out} holds this data set at {settings.read_text()} px; choose another folder for {size} px."
        )
    if metadata.exists():
        rows = read_metadata(out)
        missing = sum(not (out / row["file_name"]).exists() for row in rows)
        if not missing:
            print(f"{out} is complete: {len(rows):,} images at {size} px.")
            return rows
        print(f"{missing:,} images are missing from {out}; drawing them again.")
    try:
        with replace_file(settings) as temporary:
            temporary.write_text(str(size))
        (out / "packages").mkdir(parents=True, exist_ok=True)
        rows = draw_rows(out / "packages", out, size)
        split(rows)
        chosen = np.random.default_rng(0).choice(len(rows), size=min(200, len(rows)), replace=False)
        with replace_file(out / "sample-sheet.png") as temporary:
            contact_sheet([Image.open(out / rows[i]["file_name"]) for i in chosen], columns=20).save(temporary)
        with replace_file(metadata) as temporary:
            temporary.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise DatasetError(
            f"The data set could not be written to {out}: {error.strerror or error}. "
            f"Make room (it needs about 300 MB) or choose another --out, then run the command again; what is written is kept."
        ) from error
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.emoji.dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to build the data set in")
    parser.add_argument(
        "--size", type=int, default=128, metavar="PX", help="side of the images, 16 to 512 (default 128)"
    )
    options = parser.parse_args(arguments)
    if not 16 <= options.size <= 512:
        parser.error(f"--size {options.size} is out of range: 16 to 512 pixels.")
    try:
        rows = build(options.out, options.size)
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    count = {
        "images": len(rows),
        "subjects": len({row["code_point"] for row in rows}),
        "core images": sum(row["core"] for row in rows),
        "core subjects": len({row["code_point"] for row in rows if row["core"]}),
        "held out": sum(row["split"] == "test" for row in rows),
    }
    print(", ".join(f"{number:,} {name}" for name, number in count.items()))
    print(", ".join(f"{style} {sum(row['style'] == style for row in rows):,}" for style in STYLES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
