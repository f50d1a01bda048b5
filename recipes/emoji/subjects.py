"""Write the table of subjects that ships with the emoji model: what it learned, by emoji and in other languages.

    python -m recipes.emoji.subjects --data data/emoji --out assets/models/emoji-ldm/subjects.json

The page reads emoji by it, and proposes English words for others. The words come from the data set and from its package
of words (`recipes.emoji.drawings.WORDS`).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from latentcrf.training.data import DatasetError, read_metadata
from latentcrf.utils.arguments import run_command
from latentcrf.utils.files import replace_file
from recipes.emoji.drawings import WORDS, fetch, normalise_code_point, read_members


def read_names(words: Path) -> dict[str, list[str]]:
    """Read the labels of the emoji in all languages but English.

    Args:
        words: file of the package `WORDS`.

    Returns:
        By code point: the labels in lower case, sorted, each once.
    """
    names: dict[str, set[str]] = {}
    for content in read_members(words, lambda name: name.endswith("/data.json") and not name.startswith("en")).values():
        for entry in json.loads(content):
            names.setdefault(normalise_code_point(entry["hexcode"]), set()).add(entry["label"].lower())
    return {code_point: sorted(labels) for code_point, labels in names.items()}


def list_subjects(rows: list[dict[str, Any]], names: dict[str, list[str]]) -> list[dict[str, Any]]:
    """List the subjects of the data set, in its order.

    Args:
        rows: of metadata.jsonl.
        names: as of `read_names`.

    Returns:
        A subject: label, emoji, whether the model learned to draw it; if so tags, and names in other languages.
    """
    subjects: dict[str, dict[str, Any]] = {}
    for row in rows:
        code_point = row["code_point"]
        subject = subjects.setdefault(
            code_point,
            {
                "label": row["text"],
                "emoji": "".join(chr(int(point, 16)) for point in code_point.split("-")),
                "is_learned": False,
            },
        )
        if row["core"] and row["split"] == "train" and not subject["is_learned"]:
            others = [name for name in names.get(code_point, []) if name != row["text"]]
            subject |= {"is_learned": True, "tags": row["tags"], "names": others}
    return list(subjects.values())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.emoji.subjects",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set of emoji")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    options = parser.parse_args(arguments)
    try:
        subjects = list_subjects(read_metadata(options.data), read_names(fetch(WORDS, options.data / "packages")))
        lines = ",\n".join(json.dumps(subject, ensure_ascii=False) for subject in subjects)
        with replace_file(options.out) as temporary:
            temporary.write_text(f'{{"subjects": [\n{lines}\n]}}\n', encoding="utf-8")
    except (DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {len(subjects)} subjects, {sum(each['is_learned'] for each in subjects)} of them learned")
    return 0


if __name__ == "__main__":
    run_command(main)
