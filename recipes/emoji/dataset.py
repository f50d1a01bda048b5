"""Build the emoji data set: about 6,400 captioned pictures of 1,640 subjects in four drawing styles.

    python -m recipes.emoji.dataset --out data/emoji

The pictures come from four npm packages, the words from a fifth (`recipes.emoji.drawings`). The result is an image
folder with metadata.jsonl and prompts.txt, as `latentcrf.training.data` reads it.
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

from latentcrf.training.data import METADATA, PROMPTS, DatasetError, read_metadata
from latentcrf.utils.arguments import int_between, output_folder, run_command
from latentcrf.utils.files import claim_folder, replace_file
from recipes.emoji.captions import list_prompts, list_variants
from recipes.emoji.drawings import (
    PACKAGES,
    STYLES,
    WHITE,
    WORDS,
    fetch,
    make_slug,
    normalise_code_point,
    open_sources,
    read_members,
)

NUM_TEST = 300  # held-out (subject, style) pairs

# The core: subjects that people prompt. People with their gender variants, arrows, signs, keycaps and clock faces are a
# third of the pictures, hard to tell apart at 128 px, and rarely prompted: only the autoencoder learns from them.
CORE_GROUPS = {"smileys-emotion", "animals-nature", "food-drink", "travel-places", "activities", "objects"}
CORE_SUBGROUPS = {"geometric"}
NOT_CORE = re.compile(r"^(.*o’clock|.*-thirty)$")
SKIPPED_GROUPS = {"component", "flags"}  # skin tones and hair on their own; flags


def read_subjects(words: Path) -> Iterator[dict[str, Any]]:
    """Read the subjects of the word list, in its order.

    Args:
        words: file of the package `WORDS`.

    Yields:
        A subject: text (its label), tags, group, subgroup, code_point, and whether it is core.
    """
    members = read_members(words, lambda name: name in ("en/data.json", "meta/groups.json"))
    names = json.loads(members["meta/groups.json"])
    for entry in sorted(json.loads(members["en/data.json"]), key=lambda entry: entry.get("order", 10**6)):
        group = names["groups"].get(str(entry.get("group")))
        if group is None or group in SKIPPED_GROUPS:
            continue
        subgroup = names["subgroups"][str(entry["subgroup"])]
        yield {
            "text": entry["label"],
            "tags": list(entry.get("tags", [])),
            "group": group,
            "subgroup": subgroup,
            "code_point": normalise_code_point(entry["hexcode"]),
            "core": (group in CORE_GROUPS or subgroup in CORE_SUBGROUPS) and not NOT_CORE.match(entry["label"]),
        }


def draw_rows(folder: Path, out: Path, size: int) -> list[dict[str, Any]]:
    """Draw every subject in every style, one PNG each.

    An image that an interrupted run has written stays.

    Args:
        folder: of the packages.
        out: the data set's folder; the images go to its `images`.
        size: side of the images in px.

    Returns:
        A row an image, in the order of the word list.
    """
    subjects = list(read_subjects(fetch(WORDS, folder)))
    sources = open_sources(folder)
    rows, seen = [], set()
    for subject in tqdm(subjects, desc="drawing", unit="subject"):
        for style in STYLES:
            key = make_slug(subject["text"]) if style == "flat" else subject["code_point"]
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
            if (style, pixels) in seen:  # two code points with one drawing: one row is enough
                continue
            seen.add((style, pixels))
            package = PACKAGES[style]
            source = {"package": str(package), "licence": package.licence}
            rows.append({**subject, "style": style, **source, "pixels_sha256": pixels, "file_name": file})
    return rows


def split(rows: list[dict[str, Any]]) -> None:
    """Set the rows' column `split`: `NUM_TEST` rows are "test", the others "train".

    At most one style of a subject is held out, and only of core subjects with two other styles at least. The choice
    follows a hash of code point and style, so it does not depend on the other rows.

    Args:
        rows: with code_point, style and core; are changed in place.
    """
    styles: dict[str, int] = {}
    for row in rows:
        styles[row["code_point"]] = styles.get(row["code_point"], 0) + 1
        row["split"] = "train"

    def rank(row: dict[str, Any]) -> str:
        return hashlib.sha256(f"{row['code_point']}/{row['style']}".encode()).hexdigest()

    held_out: set[str] = set()
    for row in sorted((row for row in rows if row["core"] and styles[row["code_point"]] >= 3), key=rank):
        if len(held_out) < NUM_TEST and row["code_point"] not in held_out:
            held_out.add(row["code_point"])
            row["split"] = "test"


def write_tables(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write prompts.txt and metadata.jsonl.

    Args:
        out: the data set's folder.
        rows: with their split; the columns for `latentcrf.training.data` are added.
    """
    learned = [row for row in rows if row["core"] and row["split"] == "train"]
    added = [{"autoencoder_only": not row["core"], "caption_variants": list_variants(row)} for row in rows]
    lines = [json.dumps({**row, **more}, ensure_ascii=False) for row, more in zip(rows, added, strict=True)]
    for name, content in ((PROMPTS, list_prompts(learned)), (METADATA, lines)):
        with replace_file(out / name) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in content), encoding="utf-8")


def make_contact_sheet(images: list[Image.Image], columns: int, margin: int = 4) -> Image.Image:
    """Arrange images on a white sheet, row by row.

    Args:
        images: of one size, at least one.
        columns: images a row.
        margin: around each image in px.

    Returns:
        The sheet.
    """
    width, height = images[0].size
    lines = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + margin) + margin, lines * (height + margin) + margin), WHITE)
    for index, image in enumerate(images):
        line, column = divmod(index, columns)
        sheet.paste(image, (margin + column * (width + margin), margin + line * (height + margin)))
    return sheet


def build(out: Path, size: int = 128) -> list[dict[str, Any]]:
    """Build the data set: packages/, images/, sample-sheet.png, prompts.txt and, last of all, metadata.jsonl.

    The result is the same every time. An interrupted build goes on where it stopped.

    Args:
        out: the data set's folder.
        size: side of the images in px.

    Returns:
        The rows of metadata.jsonl.

    Raises:
        DatasetError: a package, the network or disk space is missing, or the folder holds the data set in another size.
    """
    metadata, settings = out / METADATA, out / "size.txt"
    stored = settings.read_text(encoding="utf-8") if settings.exists() else str(size)
    if stored != str(size):
        raise DatasetError(f"{out} holds this data set at {stored} px; choose another folder for {size} px.")
    if metadata.exists() and (out / PROMPTS).exists():
        rows = read_metadata(out)
        missing = sum(not (out / row["file_name"]).exists() for row in rows)
        if not missing:
            print(f"{out} is complete: {len(rows):,} images at {size} px.")
            return rows
        print(f"{missing:,} images are missing from {out}; drawing them again.")
    try:
        with replace_file(settings) as temporary:
            temporary.write_text(str(size), encoding="utf-8")
        (out / "packages").mkdir(parents=True, exist_ok=True)
        rows = draw_rows(out / "packages", out, size)
        split(rows)
        chosen = np.random.default_rng(0).choice(len(rows), size=min(200, len(rows)), replace=False)
        with replace_file(out / "sample-sheet.png") as temporary:
            make_contact_sheet([Image.open(out / rows[i]["file_name"]) for i in chosen], columns=20).save(temporary)
        write_tables(out, rows)
    except OSError as error:
        raise DatasetError(
            f"The data set could not be written to {out}: {error.strerror or error}. "
            "Make room (it needs about 300 MB) or choose another --out, then run the command again; written files stay."
        ) from error
    return read_metadata(out)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.emoji.dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=output_folder, required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--size",
        type=int_between(16, 512),
        default=128,
        metavar="PX",
        help="side of the images in px, 16 to 512 (default 128)",
    )
    options = parser.parse_args(arguments)
    try:
        claim_folder(options.out)
        rows = build(options.out, options.size)
    except (DatasetError, OSError) as error:
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
    run_command(main)
