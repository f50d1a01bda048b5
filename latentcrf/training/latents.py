"""Latents and captions of the training images, for stage 1.

The images are encoded once, into memory-mapped files: the autoencoder costs about as much as the U-Net's call in a
step of stage 1, and nothing about an image changes from one step to the next. The files do not depend on the number of
processes, so a run may go on with another one.

    000000.safetensors   of the first 128 rows of the data set: means and stds (n, C, h, w), float16, of the n usable
                         ones; the metadata hold their captions and why the others were skipped
    index.json           written last: settings, number of files, what was skipped
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from latentcrf.training.chunks import MappedRows, Rows
from latentcrf.training.data import (
    DatasetError,
    DataSource,
    EntryError,
    is_learned,
    read_image,
    read_variants,
)
from latentcrf.training.ldm import LDM, Conditioning
from latentcrf.training.loop import RunError
from latentcrf.training.processes import count_all, find_processes, take_share
from latentcrf.utils.content_hash import content_hash
from latentcrf.utils.files import read_json, replace_file

ROWS = 128  # of the data set, a file
INDEX = "index.json"
NAMED = 5  # skipped entries that are named
CAPTION_SHARES = (0.1, 0.4, 0.3, 0.2)  # how often an image comes with the empty caption, and with each list's
ENCODED_PIXELS = 32 * 128**2  # at once: 32 images of 128 px, 2 of 512 px, about 1.5 GB
CACHED_BYTES = 2**30  # what may be kept in memory instead of computed anew in each step


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: Tensor, batch_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Encode images to the posteriors of their latents.

    Args:
        vae: the LDM's autoencoder.
        images: uint8 (N, 3, H, W), at least one.
        batch_size: images that are encoded at once; None (default): as many as have `ENCODED_PIXELS`, at least one.

    Returns:
        Mean and standard deviation (N, C, h, w), scaled as the U-Net sees latents, on the CPU.
    """
    means, stds, scale = [], [], vae.config.scaling_factor
    if batch_size is None:
        batch_size = max(1, ENCODED_PIXELS // (images.shape[2] * images.shape[3]))
    for batch in images.split(batch_size):
        posterior = vae.encode(batch.to(vae.device).float() / 127.5 - 1).latent_dist
        means.append(scale * posterior.mean.cpu())
        stds.append(scale * posterior.std.cpu())
    return torch.cat(means), torch.cat(stds)


class Captions:
    """Which captions describe each image, and what the U-Net reads of them.

    Args:
        ldm: encodes them, all at once where their conditioning takes no more than `CACHED_BYTES`, else at each draw.
        variants: for each image, three lists of captions.

    Attributes:
        texts: the distinct captions; the first one is empty.
        rows: for each image, a list of numbers of captions for each list of its variants.
        encoded: the conditioning of `texts`, float16 on the CPU, or None.
    """

    def __init__(self, ldm: LDM, variants: list[list[list[str]]]) -> None:
        self.ldm = ldm
        index: dict[str, int] = {"": 0}
        self.rows = [
            [[index.setdefault(caption, len(index)) for caption in captions] for captions in of_image]
            for of_image in variants
        ]
        self.texts = list(index)
        single = ldm.unconditional
        size = 2 * sum(each.numel() for each in (single.states, single.pooled) if each is not None)
        self.encoded: Conditioning | None = None
        if size * len(self.texts) <= CACHED_BYTES:
            parts = [self.texts[start : start + 256] for start in range(0, len(self.texts), 256)]
            self.encoded = Conditioning.cat([ldm.encode_prompts(part).to(torch.float16).to("cpu") for part in parts])

    def draw(self, images: Tensor) -> Conditioning:
        """Draw a caption for each image: the empty one or one of its variants, by `CAPTION_SHARES`.

        Args:
            images: numbers of images (P * B,), those of all processes.

        Returns:
            The conditioning of this process's share (B), float32 on the LDM's device.
        """
        kinds = torch.multinomial(torch.tensor(CAPTION_SHARES), len(images), replacement=True).tolist()
        chosen = []
        for image, kind in zip(images.tolist(), kinds, strict=True):
            choices = self.rows[image][kind - 1] if kind else [0]
            chosen.append(choices[int(torch.randint(len(choices), ()))])
        own = take_share(torch.tensor(chosen)).tolist()
        if self.encoded is not None:
            return self.encoded[own].to(self.ldm.device).to(torch.float32)
        # rounded as the stored ones are, so that a step does not depend on how many captions there are
        return self.ldm.encode_prompts([self.texts[each] for each in own]).to(torch.float16).to(torch.float32)


@dataclass(frozen=True)
class RealLatents:
    """Latents of the training images and their captions.

    Attributes:
        means: of the posteriors (N, C, h, w), memory-mapped.
        stds: standard deviations of the posteriors (N, C, h, w), memory-mapped.
        captions: of the N images.
    """

    means: Rows
    stds: Rows
    captions: Captions

    def __len__(self) -> int:
        return len(self.means)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw latents of random images.

        Args:
            count: B.

        Returns:
            Latents of this process's share (B, C, h, w), float32, and the numbers of the images of all processes
            (P * B,).
        """
        chosen = torch.randint(len(self), (count_all(count),))
        noise = take_share(torch.randn(len(chosen), *self.means.shape[1:]))
        own = take_share(chosen)
        return self.means[own] + self.stds[own] * noise, chosen


@dataclass(frozen=True)
class _Entries:
    """The usable entries of a file, and why the others were skipped."""

    images: list[np.ndarray[Any, Any]]
    variants: list[list[list[str]]]
    skipped: list[str]


def encode_data(ldm: LDM, source: DataSource, folder: Path) -> RealLatents:
    """Encode the images of a data set where this was not done before. Each process encodes its share.

    Args:
        ldm: the LDM.
        source: the training data.
        folder: of the files.

    Returns:
        The latents and captions of all usable entries.

    Raises:
        DatasetError: the data set cannot be read, or no entry is usable.
        RunError: the folder holds the latents of another data set or of another LDM.
    """
    state = find_processes()
    settings = _find_settings(ldm, source)
    if not (folder / INDEX).exists():
        batches = source.open().read_batches(ROWS, state.process_index, state.num_processes)
        bar = tqdm(batches, desc="latents", unit="file", mininterval=5, disable=not state.is_main_process)
        for number, rows in enumerate(bar):
            path = folder / f"{state.process_index + number * state.num_processes:06d}.safetensors"
            if path.exists():
                _check_settings(path, _read_metadata(path)["settings"], settings)
            else:
                _write(path, ldm, _prepare(rows, ldm.image_size), settings)
        state.wait_for_everyone()
        if state.is_main_process:
            _write_index(folder, settings)
        state.wait_for_everyone()
    try:
        index = read_json(folder / INDEX)
    except ValueError as error:
        raise DatasetError(str(error)) from error
    _check_settings(folder / INDEX, index["settings"], settings)
    if state.is_main_process:
        print(_describe(index), flush=True)
    if not index["images"]:
        raise DatasetError(f"{source.path} holds no usable entry to learn from. {_describe(index)}")
    return _load(ldm, [folder / f"{number:06d}.safetensors" for number in range(index["files"])])


def _find_settings(ldm: LDM, source: DataSource) -> dict[str, Any]:
    name, files = source.find_files()
    return {
        "format": name,
        "files": content_hash({str(file.relative_to(source.path)): file.stat().st_size for file in files}),
        "columns": [source.image_column, source.caption_column],
        "image_size": list(ldm.image_size),
        "vae": content_hash({"scale": ldm.vae.config.scaling_factor}, ldm.vae),
    }


def _check_settings(path: Path, stored: dict[str, Any], settings: dict[str, Any]) -> None:
    if stored != settings:
        names = {"vae": "another autoencoder", "image_size": "another image size", "columns": "other columns"}
        kind = next((names[key] for key in names if stored.get(key) != settings[key]), "other data")
        raise RunError(f"{path} was made with {kind}. Remove {path.parent}, or choose another --out.")


def _prepare(rows: list[dict[str, Any]], size: tuple[int, int]) -> _Entries:
    encoded = _Entries([], [], [])
    for row in rows:
        if not is_learned(row):
            continue
        try:
            variants, image = read_variants(row), read_image(row["image"], size)
        except EntryError as error:
            name = (row["image"] or {}).get("path") or repr(row["caption"])
            encoded.skipped.append(f"{name}: {error}")
            continue
        encoded.variants.append(variants)
        encoded.images.append(image)
    return encoded


def _write(path: Path, ldm: LDM, encoded: _Entries, settings: dict[str, Any]) -> None:
    empty = torch.zeros(0, *ldm.latent_shape)
    means, stds = empty, empty
    if encoded.images:
        means, stds = encode_images(ldm.vae, torch.from_numpy(np.stack(encoded.images)).permute(0, 3, 1, 2))
    metadata = {"settings": settings, "variants": encoded.variants, "skipped": encoded.skipped}
    with replace_file(path) as temporary:
        save_file(
            {"means": means.half().contiguous(), "stds": stds.half().contiguous()},
            temporary,
            metadata={key: json.dumps(value) for key, value in metadata.items()},
        )


def _read_metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return {key: json.loads(value) for key, value in file.metadata().items()}


def _write_index(folder: Path, settings: dict[str, Any]) -> None:
    skipped: list[str] = []
    images = 0
    paths = sorted(folder.glob("[0-9]*.safetensors"))
    for path in paths:
        metadata = _read_metadata(path)
        _check_settings(path, metadata["settings"], settings)
        skipped += metadata["skipped"]
        images += len(metadata["variants"])
    index = {"settings": settings, "files": len(paths), "images": images, "skipped": skipped}
    with replace_file(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(index) + "\n", encoding="utf-8")


def _describe(index: dict[str, Any]) -> str:
    count = len(index["skipped"])
    named = "; ".join(index["skipped"][:NAMED])
    rest = f"; and {count - NAMED:,} more, in {INDEX}" if count > NAMED else ""
    return f"{index['images']:,} images, {count:,} entries skipped" + (f" ({named}{rest})." if count else ".")


def _load(ldm: LDM, paths: list[Path]) -> RealLatents:
    means, stds, variants = [], [], []
    for path in paths:
        with safe_open(path, "pt") as file:  # its tensors are views of the mapped file
            means.append(file.get_tensor("means"))
            stds.append(file.get_tensor("stds"))
            variants += json.loads(file.metadata()["variants"])
    return RealLatents(MappedRows(means), MappedRows(stds), Captions(ldm, variants))
