"""Recordings on disk: chunk files that many processes write, and memory-mapped reading.

manifest.json           how and from what the folder was recorded; the same for every process
00000.safetensors, ...  one chunk each. What a chunk holds depends on its number only, so any number of processes on
                        any number of machines records the same files. The metadata hold two hashes, of the
                        manifest and of the tensors.
"""

import bisect
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from latentcrf.precision import precision_name
from latentcrf.training.ldm import LDM, Conditioning
from latentcrf.training.loop import RunError
from latentcrf.training.processes import find_processes
from latentcrf.utils.content_hash import content_hash
from latentcrf.utils.files import replace_file

MANIFEST = "manifest.json"
PROMPT_EMBEDS = "prompt_embeds"
HASHES = "hashes"  # one entry of the metadata: safetensors writes several in random order
# Of the manifest's entries: the options that give them, and what the others are called in messages.
OPTIONS = {"chunk": "--chunk", "precision": "--precision"}
WORDS = {"prompts": "prompts", "num_prompts": "prompts", "models": "weights of its models", "guidances": "--guidance"}


class MappedRows:
    """Rows of memory-mapped tensors, read as though they were one float32 tensor.

    Only rows that are read are in memory, as pages of their files, which the operating system drops when it needs room.

    Args:
        parts: at least one tensor (n, ...), equal but in n, float16 or float32.
        rows: numbers of rows in the concatenation of the parts, in any order, also repeated; None: all in order.
    """

    def __init__(self, parts: Sequence[Tensor], rows: Tensor | None = None) -> None:
        self.parts = list(parts)
        self._arrays = [part.numpy() for part in parts]  # numpy reads a row in a third of PyTorch's time
        self._starts = [0, *itertools.accumulate(map(len, parts))]
        self.rows = torch.arange(self._starts[-1]) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """Of the tensor that the rows are read as."""
        return torch.Size((len(self), *self.parts[0].shape[1:]))

    def __getitem__(self, index: Any) -> Tensor:
        """Read rows, or one column of each.

        Args:
            index: what indexes the rows, a tensor (B,) or a slice; or a pair of that and a column, a number or (B,).

        Returns:
            float32 (B, ...).
        """
        chosen, *column = index if isinstance(index, tuple) else (index,)
        rows = self.rows[chosen].tolist()
        found = [bisect.bisect_right(self._starts, row) - 1 for row in rows]
        items = [self._arrays[part][row - self._starts[part]] for part, row in zip(found, rows, strict=True)]
        if column:
            columns = torch.as_tensor(column[0]).expand(len(rows)).tolist()
            items = [item[each] for item, each in zip(items, columns, strict=True)]
        return torch.from_numpy(np.stack(items)).float()

    def select(self, chosen: Tensor) -> "MappedRows":
        """Choose rows without reading them.

        Args:
            chosen: numbers (m,) of this object's rows, or a mask of them.
        """
        return MappedRows(self.parts, self.rows[chosen])


Rows = Tensor | MappedRows


def select_rows(rows: Rows, chosen: Tensor) -> Rows:
    """Choose rows; those of a recording stay unread.

    Args:
        rows: (n, ...).
        chosen: numbers (m,) of rows, or a mask of them.
    """
    return rows.select(chosen) if isinstance(rows, MappedRows) else rows[chosen]


@dataclass(frozen=True)
class Chunk:
    """Runs to record.

    Attributes:
        index: number of the chunk.
        noise: (n, C, H, W).
        prompts: of the n runs, encoded.
        guidance: scale of classifier-free guidance.
    """

    index: int
    noise: Tensor
    prompts: Conditioning
    guidance: float


@torch.no_grad()
def choose_storage(precision: torch.dtype) -> torch.dtype:
    """Choose the type in which recordings are stored.

    Args:
        precision: in which they are made.
    """
    return torch.float32 if precision == torch.float32 else torch.float16


def record_chunks(
    ldm: LDM, prompts: Sequence[str], folder: Path, count: int, recording: Any, first_seed: int,
    make: Callable[[Chunk], dict[str, Tensor]], *others: nn.Module, name: str, keep_prompts: bool = False,
    precision: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Write the chunk files that are missing or damaged: this process's share of them, by its rank.

    Tensors are stored in float32 where the networks compute in it, else in float16. The token states of a prompt are
    stored once, with its first run, in float16.

    Args:
        ldm: the LDM.
        prompts: of the runs, in turn.
        folder: of the chunk files.
        count: runs to record; the last chunk is whole.
        recording: a dataclass of settings with `chunk` and `guidances`; all of it goes into the manifest.
        first_seed: of the noise; each run takes the next one.
        make: a chunk -> its tensors by name.
        others: networks on which the result depends, beside the U-Net and the text encoders.
        name: of what is recorded, for the progress bar and the manifest.
        keep_prompts: whether to store the prompts' token states; default False.
        precision: in which `make` lets the networks compute.

    Raises:
        RunError: the folder holds other recordings.
    """
    # "_use_default_values" is a list in no fixed order
    scheduler = {key: value for key, value in ldm.scheduler.config.items() if key != "_use_default_values"}
    manifest = {"kind": name} | asdict(recording) | {
        "precision": precision_name(precision),
        "latents": list(ldm.latent_shape),
        "num_prompts": len(prompts),
        "prompts": content_hash({"prompts": list(prompts)}),
        "models": content_hash({"scheduler": scheduler}, ldm.unet, *ldm.text_encoders, *others),
    }  # fmt: skip
    key = check_manifest(folder, manifest)
    process, storage = find_processes(), choose_storage(precision)
    share = range(process.process_index, -(-count // recording.chunk), process.num_processes)
    for index in tqdm(share, desc=name, unit="chunk", mininterval=5, disable=not process.is_local_main_process):
        path = folder / f"{index:05d}.safetensors"
        if path.exists() and is_whole(path, key):
            continue
        runs = range(index * recording.chunk, (index + 1) * recording.chunk)
        noise = torch.stack(
            [torch.randn(ldm.latent_shape, generator=torch.Generator().manual_seed(first_seed + run)) for run in runs]
        )
        encoded = ldm.encode_prompts([prompts[run % len(prompts)] for run in runs])
        tensors = make(Chunk(index, noise, encoded, recording.guidances[index % len(recording.guidances)]))
        tensors = {each: tensor.to("cpu", storage).contiguous() for each, tensor in tensors.items()}
        if keep_prompts and (new := len([run for run in runs if run < len(prompts)])):
            tensors[PROMPT_EMBEDS] = encoded.states[:new].to("cpu", torch.float16).contiguous()
        with replace_file(path) as temporary:
            save_file(tensors, temporary, metadata={HASHES: f"{key} {hash_tensors(tensors)}"})


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """Compute SHA-256, hexadecimal, of contiguous CPU tensors and their names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].numpy().reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def check_manifest(folder: Path, manifest: dict[str, Any]) -> str:
    """Write a folder's manifest, or compare it with the one that is there.

    Args:
        folder: of recordings.
        manifest: what is to be recorded.

    Returns:
        A hash of it.

    Raises:
        RunError: the folder's recordings have other settings, or are of other models or prompts.
    """
    path = folder / MANIFEST
    written = json.loads(json.dumps(manifest))  # tuples become lists, as in the file
    if not path.exists():
        if folder.is_dir() and any(folder.glob("[0-9]*.safetensors")):
            raise RunError(f"{folder} holds recordings without {MANIFEST}: remove it, or choose another folder.")
        with replace_file(path) as temporary:
            temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        return content_hash(written)
    before = read_manifest(folder)
    if before["kind"] != written["kind"]:
        raise RunError(f"{folder} holds {before['kind']}, not {written['kind']}: choose another folder.")
    differences = [name for name in before | written if before.get(name) != written.get(name)]
    for name in differences:
        if name in OPTIONS:
            value, option = before.get(name), OPTIONS[name]
            raise RunError(f"{folder} was recorded with {option} {value}: give it, or choose another folder.")
    if differences:
        words = list(dict.fromkeys(WORDS.get(name, name) for name in differences))
        raise RunError(f"{folder} was recorded with other {', '.join(words)}. Remove it, or choose another folder.")
    return content_hash(written)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest.

    Args:
        folder: of recordings.

    Raises:
        RunError: it holds none.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{folder} holds no recorded runs.") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / MANIFEST} cannot be read: {error}.") from error
    return dict(manifest)


def is_whole(path: Path, key: str) -> bool:
    """Return whether a chunk file holds what was written to it; print a line where it does not.

    Args:
        path: the file.
        key: hash of the manifest that it must belong to.

    Raises:
        RunError: it belongs to another manifest.
    """
    try:
        with safe_open(path, "pt") as file:
            of_manifest, of_tensors = read_hashes(file)
            if of_manifest != key:
                raise RunError(f"{path} was recorded otherwise than {MANIFEST} says: remove the folder, or the file.")
            if hash_tensors({name: file.get_tensor(name) for name in file.keys()}) == of_tensors:  # noqa: SIM118
                return True
    except SafetensorError:
        pass
    tqdm.write(f"{path} is damaged: it is recorded again")
    return False


def read_hashes(file: Any) -> tuple[str, str]:
    """Read the hashes of a chunk's manifest and tensors; of a file that is no chunk, empty strings.

    Args:
        file: as `safe_open` opens it.
    """
    of_manifest, _, of_tensors = (file.metadata() or {}).get(HASHES, "").partition(" ")
    return of_manifest, of_tensors


def open_chunks(folder: Path, count: int | None = None) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """Map recorded chunks into memory.

    Args:
        folder: of the chunk files.
        count: runs that are needed, their chunks whole; None (default): all of the folder.

    Returns:
        The manifest, and each chunk's tensors by name, in order.

    Raises:
        RunError: the folder holds fewer runs, or a chunk is missing, damaged or of another recording.
    """
    manifest = read_manifest(folder)
    key = content_hash(manifest)
    if count is None:
        numbers = [int(path.stem) for path in folder.glob("[0-9]*.safetensors")]
        count = manifest["chunk"] * (max(numbers, default=-1) + 1)
    chunks = []
    for index in range(-(-count // manifest["chunk"])):
        path = folder / f"{index:05d}.safetensors"
        try:
            with safe_open(path, "pt") as file:  # maps the file; its tensors are views of it
                if read_hashes(file)[0] != key:
                    raise RunError(f"{path} was recorded otherwise than {MANIFEST} says.")
                chunks.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except FileNotFoundError as error:
            raise RunError(f"{path} is missing: {folder} does not hold {count:,} runs.") from error
        except SafetensorError as error:
            raise RunError(f"{path} is damaged ({error}): record again, which replaces it.") from error
    if not chunks:
        raise RunError(f"{folder} holds no recorded runs.")
    return manifest, chunks
