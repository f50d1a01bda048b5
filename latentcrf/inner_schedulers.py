"""Which diffusers schedulers LatentCRF can wrap, and why not the others."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import diffusers
from torch import Tensor

INVERSE = (diffusers.DDIMInverseScheduler, diffusers.DPMSolverMultistepInverseScheduler)
# Not every one of these is in every version of diffusers that is supported.
FLOW_MATCHING = tuple(
    getattr(diffusers, name)
    for name in ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
    if hasattr(diffusers, name)
)


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


def find_needed_argument(scheduler: Any) -> str | None:
    """Find an argument of `step`, beside output, timestep and sample, without which it does not know what to do."""
    parameters = list(inspect.signature(scheduler.step).parameters.values())
    for parameter in parameters[3:]:
        needs = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if needs or parameter.name == "prev_timestep":  # UnCLIP's pipelines tell it where to go
            return parameter.name
    return None


def names_arguments(scheduler: Any) -> bool:
    """Whether `step` names the arguments that a wrapper must read."""
    return {"model_output", "timestep", "sample", "return_dict"} <= set(inspect.signature(scheduler.step).parameters)


# What rules a scheduler out: a test on it, and the reason. By what it does or is, so that subclasses are met alike.
REFUSED: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda scheduler: getattr(scheduler, "order", 1) != 1, "it makes {order} denoiser calls a step"),
    (
        lambda scheduler: hasattr(scheduler, "ets") or hasattr(scheduler, "derivatives"),
        "it needs the history of the bypassed steps",
    ),
    (
        lambda scheduler: hasattr(scheduler, "precondition_outputs"),
        "its latents are scaled by the data's own deviation",
    ),
    (lambda scheduler: isinstance(scheduler, INVERSE), "it goes from images to noise"),
    (lambda scheduler: "snr_shift_scale" in scheduler.config, "it is for latents of videos, of five dimensions"),
    (lambda scheduler: find_needed_argument(scheduler) is not None, "its step needs {argument}"),
    (
        lambda scheduler: not names_arguments(scheduler),
        "its step does not name its arguments model_output, timestep, sample and return_dict",
    ),
    (lambda scheduler: scheduler.config.get("invert_sigmas"), "it goes from images to noise (invert_sigmas)"),
    (
        lambda scheduler: not hasattr(scheduler, "alphas_cumprod") and not isinstance(scheduler, FLOW_MATCHING),
        "its noise levels are of no kind that is known here",
    ),
)


def find_scheduler_class(name: str) -> Any:
    """Find a scheduler class of diffusers, or of a module that is imported already.

    Args:
        name: of the class, as a saved scheduler's configuration holds it.

    Returns:
        The class.

    Raises:
        ValueError: there is no class of this name, or several outside diffusers.
    """
    if hasattr(diffusers, name):
        return getattr(diffusers, name)
    found, classes = {}, [diffusers.SchedulerMixin]
    while classes:
        each = classes.pop()
        classes += each.__subclasses__()
        if each.__name__ == name:
            found[each.__module__] = each
    if len(found) != 1:
        raise ValueError(
            f"The saved scheduler is a {name}. diffusers has no such class, and {len(found) or 'none'} of the imported "
            "modules has one: import the module that defines it, and no other with that name."
        )
    return next(iter(found.values()))


def check_scheduler(scheduler: Any) -> InnerScheduler:
    """Return the scheduler if a bypass can split its run.

    Args:
        scheduler: a diffusers scheduler.

    Raises:
        ValueError: it can't; the message says why and what to use instead.
    """
    name = type(scheduler).__name__
    if hasattr(scheduler, "num_denoiser_calls"):
        raise ValueError("This scheduler is wrapped already; pass its `.scheduler` to wrap the inner one again.")
    if not all(hasattr(scheduler, attribute) for attribute in ("step", "set_timesteps", "config")):
        raise ValueError(f"A diffusers scheduler is wanted; {name} has no `step` and `set_timesteps`.")
    for applies, reason in REFUSED:
        if applies(scheduler):
            words = reason.format(order=getattr(scheduler, "order", 1), argument=find_needed_argument(scheduler))
            raise ValueError(
                f"{name} cannot be wrapped: {words}. Use for example DDIMScheduler, DPMSolverMultistepScheduler, "
                "UniPCMultistepScheduler or EulerDiscreteScheduler, each with .from_config(pipe.scheduler.config)."
            )
    return scheduler
