"""Publish a trained LatentCRF on the Hugging Face Hub.

    python -m latentcrf.publishing runs/crf --to USER/NAME --base-model USER/LDM --license creativeml-openrail-m \\
        --results results/benchmark/benchmark.csv --dry-run

FOLDER is the folder of a training run, or that of its model (`latentcrf` or `finisher` in it). The card is written from
the model, the run's options and the table. Log in first: `hf auth login`. A dry run shows the card and the files.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open

from latentcrf.card import write_card
from latentcrf.model import LatentCRF
from latentcrf.utils.arguments import run_command

MODELS = ("latentcrf", "finisher")  # what a run's folder calls its model
OPTIONS = "options.json"  # what a training writes
UNINTERESTING = ("out", "resume", "checkpoint_seconds", "recordings")  # of the options: they change no weight


class PublishingError(RuntimeError):
    """The model cannot be published; the message says why and what to do."""


def find_model(folder: Path) -> Path:
    """Find the model's folder.

    Args:
        folder: of a training run, or of a model.

    Returns:
        The model's folder.

    Raises:
        PublishingError: there is none, or there are two.
    """
    found = [path for path in (folder, *(folder / name for name in MODELS)) if (path / "config.json").is_file()]
    if len(found) != 1:
        what = f"holds {' and '.join(map(str, found))}: name one of them" if found else "holds no trained LatentCRF"
        raise PublishingError(
            f"{folder} {what}. Accepted are a model's folder, with config.json, and the folder of a training run."
        )
    return found[0]


def read_recipe(model: Path) -> dict[str, Any]:
    """Read the options of the training that made a model.

    Args:
        model: the model's folder, in the run's folder.

    Returns:
        Options by name. Of an absolute path only the last part: a card is not the place for the names of one's folders.

    Raises:
        PublishingError: the run's folder has no options.json, or it cannot be read.
    """
    file = model.parent / OPTIONS
    try:
        options = json.loads(file.read_text(encoding="utf-8"))
        items = options.items()
    except (OSError, ValueError, AttributeError):
        raise PublishingError(
            f"{file} is missing or damaged, so how the model was trained is unknown: say it with --recipe TEXT."
        ) from None
    return {
        name: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for name, value in items
        if name not in UNINTERESTING
    }


def load_model(folder: Path) -> LatentCRF:
    """Load a model from its own folder, in the type that it is stored in.

    Args:
        folder: of the model.

    Raises:
        PublishingError: its files are missing or damaged, or of another model.
    """
    try:
        with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, framework="pt") as weights:
            dtype = weights.get_tensor(next(iter(weights.keys()))).dtype
        return LatentCRF.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True)
    except Exception as error:  # of diffusers, safetensors and torch, each with its own classes
        raise PublishingError(f"{folder} holds no LatentCRF that can be loaded: {error}") from error


def list_files(folder: Path) -> str:
    """List the files of a folder with their sizes, one a line.

    Args:
        folder: with all its files.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "\n".join(f"{path.stat().st_size:>12,}  {path.relative_to(folder)}" for path in files)


def publish(options: argparse.Namespace) -> None:
    """Publish what the command line names, or show what would be.

    Args:
        options: of the command line.

    Raises:
        PublishingError: no model, no recipe, or the Hub refuses.
        ValueError, OSError: as of `latentcrf.card.write_card`.
    """
    folder = find_model(options.folder)
    card = {
        "base_model": options.base_model,
        "license": options.license,
        "recipe": options.recipe or read_recipe(folder),
        "results": options.results,
    }
    crf = load_model(folder)
    text = write_card(crf, options.to, **card)
    if options.dry_run:
        with tempfile.TemporaryDirectory() as temporary:
            crf.save_pretrained(temporary)
            Path(temporary, "README.md").write_text(text, encoding="utf-8")
            print(f"{text}\nWould go to {options.to} (bytes, file):\n{list_files(Path(temporary))}")
        return
    try:
        print(f"published: {crf.push_to_hub(options.to, private=options.private or None, **card)}")
    except Exception as error:  # of the HTTP library, which is another one in each version of huggingface_hub
        raise PublishingError(
            f"the Hub could not be reached or refused: {error}. Is the name right, and did you log in (hf auth login)?"
        ) from error


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status: 0, or 1 after an error message."""
    parser = argparse.ArgumentParser(
        prog="python -m latentcrf.publishing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a training run or of a LatentCRF")
    parser.add_argument("--to", required=True, metavar="USER/NAME", help="the repository, made where it does not exist")
    parser.add_argument("--base-model", required=True, metavar="USER/NAME", help="the LDM on the Hub")
    parser.add_argument("--license", required=True, metavar="ID", help="as on the Hub: creativeml-openrail-m, ...")
    parser.add_argument(
        "--results", type=Path, required=True, metavar="CSV", help="measured table, as of analysis.benchmark"
    )
    parser.add_argument("--recipe", metavar="TEXT", help="how it was trained (default: the run's options.json)")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="show the card and the files, upload nothing")
    try:
        publish(parser.parse_args(arguments))
    except (PublishingError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_command(main)
