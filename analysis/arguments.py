"""Arguments that the command lines share, each declared once, and what they stand for."""

import argparse
from pathlib import Path
from typing import Any

from torch import nn

from analysis.metrics.perceptual import EfficientNetLite0, load_features, load_lpips
from analysis.sampling import BYPASS, GUIDANCE
from latentcrf import Finisher, LatentCRF
from latentcrf.precision import add_precision_argument
from latentcrf.utils.arguments import float_between, int_between, output_folder
from latentcrf.utils.weights import MODELS

COUNT = int_between(1, 1_000_000)
SEED = int_between(0, 2**32 - 1)
_FOLDER: dict[str, Any] = {"type": Path, "metavar": "FOLDER"}
SHARED: dict[str, dict[str, Any]] = {
    "data": _FOLDER | {"default": Path("data/emoji"), "help": "data set (default data/emoji)"},
    "out": _FOLDER | {"type": output_folder, "required": True, "help": "folder for what is written"},
    "model": _FOLDER
    | {"default": MODELS / "emoji-ldm", "help": "pipeline of the LDM, or USER/NAME on the hub (default: shipped)"},
    "crf": _FOLDER | {"default": MODELS / "emoji-latentcrf", "help": "bypass CRF (default: shipped)"},
    "lpips": _FOLDER | {"help": "weights of LPIPS (default: the checkout's models/lpips-alexnet)"},
    "features": _FOLDER | {"help": "weights of the features (default: the checkout's models/efficientnet-lite0)"},
    "bypass": {
        "type": COUNT,
        "nargs": 2,
        "default": list(BYPASS),
        "metavar": ("FIRST", "LAST"),
        "help": "steps FIRST to LAST - 1 of the full run are skipped (default 33 49)",
    },
    "guidance": {
        "type": float_between(1, 100),
        "default": GUIDANCE,
        "metavar": "SCALE",
        "help": f"scale of classifier-free guidance, 1 is none (default {GUIDANCE:g})",
    },
    "seed": {
        "type": SEED,
        "default": 0,
        "metavar": "N",
        "help": "of the first image's noise; the others follow (default 0)",
    },
    "batch-size": {"type": COUNT, "default": 16, "metavar": "N", "help": "images at a time (default 16)"},
}


def build_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Build a command line's parser.

    Args:
        module: "analysis.variance".
        description: the module's docstring, with an example.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_arguments(parser: argparse.ArgumentParser, *names: str, **changes: dict[str, Any]) -> None:
    """Add shared arguments.

    Args:
        parser: of a command line.
        names: keys of `SHARED`, and "precision".
        changes: name, with "_" for "-" -> keywords of `add_argument` that differ here.
    """
    for name in names:
        if name == "precision":
            add_precision_argument(parser)
        else:
            parser.add_argument(f"--{name}", **(SHARED[name] | changes.get(name.replace("-", "_"), {})))


def parse_prompt(text: str) -> str:
    """Check a prompt: the `type` of `--prompt`.

    Args:
        text: the option's.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("it was left empty.")
    return text


def load_lpips_argument(options: argparse.Namespace) -> nn.Module:
    """Load LPIPS from the folder of `--lpips`.

    Args:
        options: with `lpips`.

    Raises:
        FileNotFoundError: its weights are not there; the message names the option.
    """
    try:
        return load_lpips(options.lpips)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} On this command line the folder is --lpips FOLDER.") from None


def load_crf_argument(options: argparse.Namespace) -> LatentCRF | None:
    """Load the bypass CRF from the folder of `--crf`; "none" is the zero-parameter bypass.

    Args:
        options: with `crf`.

    Raises:
        OSError: it is not there.
    """
    if str(options.crf) == "none":
        return None
    return LatentCRF.from_pretrained(options.crf, use_safetensors=True).eval()


def load_finisher(folder: str | Path | None, iterations: int) -> Finisher | None:
    """Load a finisher.

    Args:
        folder: its CRF's; None or "none": there is none.
        iterations: of its solver.

    Raises:
        OSError: it is not there.
    """
    if folder is None or str(folder) == "none":
        return None
    return Finisher(LatentCRF.from_pretrained(folder, use_safetensors=True).eval(), iterations)


def load_features_argument(options: argparse.Namespace) -> EfficientNetLite0:
    """Load the feature network from the folder of `--features`.

    Args:
        options: with `features`.

    Raises:
        FileNotFoundError: its weights are not there; the message names the option.
    """
    try:
        return load_features(options.features)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} On this command line the folder is --features FOLDER.") from None


def find_network(options: argparse.Namespace, option: str, shipped: str) -> Path | None:
    """Find the folder of a CRF or plain network: the named one, or for the shipped LDM the shipped one.

    Args:
        options: model, and `option`: None where the command line does not name it.
        option: such as "plain-finisher".
        shipped: the shipped network's name.

    Returns:
        The folder; None where none is named for another LDM, whose latents the shipped networks do not know.
    """
    named = getattr(options, option.replace("-", "_"))
    is_shipped = Path(options.model).resolve() == (MODELS / "emoji-ldm").resolve()
    return MODELS / shipped if named is None and is_shipped else named
