"""Share an analysis among processes: each computes its share of the parts, the main process puts all of them together.

A part is the same piece of work whatever the number of processes, so the results are the same too. Each is stored in a
file of its own: a killed analysis goes on from the files, with any number of processes. Processes on several machines
need a folder that all of them see.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn
from tqdm import tqdm

from latentcrf.training.processes import TIMEOUT
from latentcrf.utils.content_hash import content_hash
from latentcrf.utils.files import claim_folder, read_json, replace_file

Arrays = dict[str, np.ndarray]
KEY, SETTINGS = "key.txt", "settings.json"
SHORT = 100  # letters: longer settings, such as lists of prompts, are compared by their hashes


def join_processes() -> PartialState:
    """Join the processes that `accelerate launch` or `torchrun` started; without a launcher there is one process.

    Returns:
        Accelerate's state: `process_index`, `num_processes`, `is_main_process`, and `device`, a GPU of its own for each
        process. It is the CPU without a GPU, or with ACCELERATE_USE_CPU=1 in the environment.
    """
    # PartialState itself neither reads that variable nor joins processes on machines without a GPU.
    is_on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=is_on_cpu, timeout=TIMEOUT)


@dataclass(frozen=True)
class Part:
    """A piece of work, as a file of arrays.

    Attributes:
        path: of the file.
        key: hash of what the arrays depend on. A file of another key is not read.
    """

    path: Path
    key: str

    def read(self) -> Arrays | None:
        """Read the arrays.

        Returns:
            The arrays by name, or None where there is no file, or one of another key.
        """
        if not self.path.exists():
            return None
        with np.load(self.path) as file:
            return {name: file[name] for name in file if name != "key"} if file["key"].item() == self.key else None

    def is_stored(self) -> bool:
        """Tell whether `read` finds the arrays."""
        if not self.path.exists():
            return False
        with np.load(self.path) as file:
            return bool(file["key"].item() == self.key)

    def write(self, arrays: Arrays) -> None:
        """Write the arrays, whole or not at all.

        Args:
            arrays: by name; "key" is taken.
        """
        with replace_file(self.path) as temporary, open(temporary, "wb") as opened:
            np.savez_compressed(opened, **arrays, key=np.array(self.key))  # type: ignore[arg-type]


def open_folder(
    folder: Path, settings: Mapping[str, Any], networks: Mapping[str, nn.Module | None], state: PartialState
) -> str:
    """Begin a folder of parts, or go on with one of the same settings.

    Args:
        folder: holds key.txt, and settings.json for the message; made where it is missing.
        settings: what the parts depend on.
        networks: alike, by name.
        state: as of `join_processes`; the processes wait for each other here.

    Returns:
        The hash of settings and networks.

    Raises:
        OSError: another command writes into the folder.
        ValueError: the folder holds parts of other settings; the message names the first that differs.
    """
    if state.is_main_process:
        claim_folder(folder)
    key = content_hash(dict(settings), *networks.values())
    key_file, settings_file = folder / KEY, folder / SETTINGS
    if state.is_main_process and not (key_file.exists() and key_file.read_text(encoding="utf-8") == key):
        described = {name: _describe(value) for name, value in settings.items()}
        described |= {name: content_hash(network) for name, network in networks.items()}
        if not key_file.exists():
            with replace_file(settings_file) as temporary:
                temporary.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
            with replace_file(key_file) as temporary:
                temporary.write_text(key, encoding="utf-8")
        else:
            stored = read_json(settings_file) if settings_file.exists() else {}
            raise ValueError(
                f"{folder} holds results of other settings or weights{_describe_difference(stored, described)}. "
                "Choose another --out, or remove that folder."
            )
    state.wait_for_everyone()
    if not key_file.exists() or key_file.read_text(encoding="utf-8") != key:
        raise ValueError(
            f"process {state.process_index} finds {folder} missing or of other settings: the processes need one folder "
            "that all of them see, the same options and the same files."
        )
    return key


def _describe(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHORT else content_hash({"value": value})


def _describe_difference(stored: dict[str, str], wanted: dict[str, str]) -> str:
    for name in wanted:
        if name in stored and stored[name] != wanted[name]:
            values = (stored[name], wanted[name])
            is_hash = all(len(value) == 64 for value in values)
            return f": another {name}" if is_hash else f": {name} is {values[0]} there and {values[1]} here"
    return ""


def compute_share(number: int, compute: Callable[[int], None], state: PartialState, title: str) -> None:
    """Compute this process's share of numbered pieces of work, then wait for the other processes.

    Args:
        number: of all pieces.
        compute: called with the numbers 0 to `number` - 1 of this process's share, in turn; stores what it computes.
        state: as of `join_processes`. The share depends on the numbers alone, not on what is stored already.
        title: of the main process's progress bar.
    """
    share = range(state.process_index, number, state.num_processes)
    for index in tqdm(share, desc=title, disable=not state.is_main_process):
        compute(index)
    state.wait_for_everyone()


def read_parts(parts: Sequence[Part]) -> list[Arrays]:
    """Read parts that all processes together have stored.

    Args:
        parts: in any order.

    Returns:
        The arrays of each.

    Raises:
        ValueError: one is missing.
    """
    arrays = []
    for part in parts:
        if (found := part.read()) is None:
            raise ValueError(
                f"{part.path} is missing: the processes need one folder that all of them see. Started again, the "
                "command goes on from the files that are there."
            )
        arrays.append(found)
    return arrays
