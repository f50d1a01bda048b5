"""One batch for all processes of a launch: each draws all of it from the same random state and takes its own share.

So P processes with batches of B see the samples that one process with batches of P * B sees.
"""

from datetime import timedelta

import torch
from accelerate import PartialState
from torch import Tensor

TIMEOUT = timedelta(days=7)  # the processes wait for the slowest; the launcher ends them where one fails


def find_processes() -> PartialState:
    """Return what Accelerate knows of this process: its number, how many there are, its device.

    Without CUDA the device is the CPU: nothing here was tried on another accelerator.
    """
    return PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)


def best_device() -> torch.device:
    """Return this process's GPU where there is one, with float32 products in TF32; else the CPU.

    cuDNN's search for the fastest kernels stays off: on an H100 it took longer than a short run gained.
    """
    device: torch.device = find_processes().device
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return device


def count_all(count: int) -> int:
    """Count the items of all processes.

    Args:
        count: items of this process.
    """
    return count * int(find_processes().num_processes)


def take_share(drawn: Tensor) -> Tensor:
    """Take this process's share of what was drawn for all.

    Args:
        drawn: (P * B, ...), the same in all P processes.

    Returns:
        (B, ...), a view.
    """
    state = find_processes()
    return drawn.chunk(state.num_processes)[state.process_index]
