"""The state of one run of a `LatentCRFScheduler`, and what it reads of the pipeline that makes the run."""

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .inner_schedulers import InnerScheduler


class KeptTimesteps(Tensor):
    """The timesteps of a run with a bypass, which notes which of them a pipeline takes.

    A pipeline that ends its run early (SDXL's `denoising_end`) slices the timesteps. Where that ends the run at the
    begin of the bypass, nobody knows how much of the bypass belongs to the run. Image-to-image slices them at the
    other end.
    """

    run: "Run"
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # results are plain tensors

    def __getitem__(self, index: Any) -> Tensor:
        if isinstance(index, slice) and self.run.skipped is not None:
            if index.stop is not None and not index.start:
                self.run.ends_at_bypass = index.stop == self.run.skipped[0]
            elif index.stop is None and index.start is not None:
                self.run.begins_by_strength = self.run.has_own_schedule
        return super().__getitem__(index)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.clone()  # copied and saved without the run

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.clone().__reduce_ex__(protocol)


@dataclass
class Run:
    """State of a run, made anew by `set_timesteps`.

    Attributes:
        active: who makes the next step.
        after: who makes the steps after the bypass.
        skipped: (first, last), the steps of the bypass; None: nothing is skipped.
        earlier_call: the step whose clean estimate the CRF sees too, beside the last one's; None: none.
        earlier: that estimate, by the sample's number in its step.
        timesteps: of the full run, read once, as each look at those on a GPU waits for it; empty: not read yet.
        timestep: of the last step.
        number: of the last sample in its step, from 0. A scheduler that does not count its steps (DDIM, DDPM) may make
            each for several samples: tiles, or images one after the other.
        thread: that makes the steps.
        ends_at_bypass: whether the pipeline took only the timesteps before the bypass.
        signature: of the inner scheduler's `step`, read once, as that takes a fifth of a step of the wrapper; None: not
            read yet.
        begins_by_strength: whether the pipeline counted the timesteps, of its own schedule, to see where it begins.
        is_set: whether `set_timesteps` made it.
        has_own_schedule: whether `set_timesteps` was given timesteps or sigmas, instead of the number of steps.
    """

    active: InnerScheduler
    after: InnerScheduler
    skipped: tuple[int, int] | None = None
    earlier_call: int | None = None
    earlier: dict[int, Tensor] = field(default_factory=dict)
    timesteps: list[float] = field(default_factory=list)
    timestep: float | None = None
    number: int = 0
    thread: int | None = None
    ends_at_bypass: bool = False
    signature: inspect.Signature | None = None
    begins_by_strength: bool = False
    is_set: bool = False
    has_own_schedule: bool = False


def read_timestep(timestep: Any) -> float:
    """Read the timestep that a pipeline passes to `step`.

    Args:
        timestep: a number, a scalar tensor, or one for each sample (B,), all equal.

    Returns:
        The timestep, as `Run.timesteps` holds it.

    Raises:
        ValueError: there is none, or the samples have several.
    """
    values = torch.as_tensor(float("nan") if timestep is None else timestep).flatten()
    if timestep is None or not len(values) or (len(values) > 1 and bool((values != values[0]).any())):
        raise ValueError(f"A step needs one timestep, the same for all samples; it was given {timestep}.")
    return float(values[0])
