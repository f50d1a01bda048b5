"""Weights of third-party networks: where they lie in a checkout, and what to do outside one."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from latentcrf.utils.manifest import ASSETS, check_shipped

MODELS = ASSETS / "models"  # of a checkout; an installed library has none
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def find_weights(name: str, folder: str | Path | None = None) -> Path:
    """Find the file of a network's weights.

    Args:
        name: the network's folder in `assets/models` of a checkout.
        folder: another folder that holds `model.safetensors`; None (default): that of the checkout.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: there is no such file; the message says how to get it or name another folder.
        DamagedFilesError: it is a shipped file, and not as it was shipped.
    """
    path = Path(folder or MODELS / name) / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. Make it by: python -m recipes.emoji.third_party_weights --out assets/models --models "
            f"{name}; or name a folder that holds model.safetensors (argument `folder`; in training --feature-weights)."
        )
    check_shipped(path.parent)
    return path


def read_weights(name: str, folder: str | Path | None = None) -> dict[str, Tensor]:
    """Read a network's weights.

    Args:
        name: as of `find_weights`.
        folder: alike.

    Returns:
        Weights by name.

    Raises:
        FileNotFoundError: as of `find_weights`.
    """
    return load_file(find_weights(name, folder))
