"""Which diffusers schedulers LatentCRF can wrap, and why not the others."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor


class InnerScheduler(Protocol):
    """What `LatentCRFScheduler` uses of the scheduler inside it.

    Attributes:
        config: a mapping of its settings, with `prediction_type` unless it is a flow-matching scheduler.
        timesteps: (steps,), after `set_timesteps`.
    """

    config: Any
    timesteps: Tensor
    _internal_dict: Any

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Choose the timesteps of a run."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take the latents one step on."""

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Write the settings into a folder."""

    def __len__(self) -> int:
        """Count its training timesteps."""
        ...

    def __getattr__(self, name: str) -> Any:
        """Whatever else it has: sigmas, alphas_cumprod, begin index, step index, order."""


# What rules a scheduler out: a test on the scheduler and its class name, and the reason.
REFUSED: tuple[tuple[Callable[[Any, str], bool], str], ...] = (
    (lambda scheduler, _: getattr(scheduler, "order", 1) != 1, "it makes {order} denoiser calls a step"),
    (lambda _, name: "PNDM" in name or "LMS" in name, "it needs the history of the bypassed steps"),
    (lambda _, name: "EDM" in name, "its latents are scaled by the data's own deviation"),
    (lambda _, name: "Inverse" in name, "it goes from images to noise"),
    (
        lambda scheduler, name: not hasattr(scheduler, "alphas_cumprod") and "FlowMatch" not in name,
        "its noise levels are of no kind that is known here",
    ),
)


def check_scheduler(scheduler: Any) -> None:
    """Check that a bypass can split the scheduler's run.

    Args:
        scheduler: a diffusers scheduler.

    Raises:
        ValueError: it can't; the message says why and what to use instead.
    """
    name = type(scheduler).__name__
    if hasattr(scheduler, "num_denoiser_calls"):
        raise ValueError("This scheduler is wrapped already; pass its `.scheduler` to wrap the inner one again.")
    if not hasattr(scheduler, "step") or not hasattr(scheduler, "set_timesteps"):
        raise ValueError(f"A diffusers scheduler is wanted; {name} has no `step` and `set_timesteps`.")
    for applies, reason in REFUSED:
        if applies(scheduler, name):
            raise ValueError(
                f"{name} cannot be wrapped: {reason.format(order=getattr(scheduler, 'order', 1))}. Use for example "
                "DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler or EulerDiscreteScheduler, each "
                "with .from_config(pipe.scheduler.config)."
            )
