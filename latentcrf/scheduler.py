"""LatentCRFScheduler: LatentCRF as an add-on around a pipeline's own scheduler.

    pipe.scheduler = LatentCRFScheduler(pipe.scheduler, crf, bypass=(33, 49))
    image = pipe("red apple", num_inference_steps=50).images[0]     # 34 denoiser calls instead of 50

The pipeline stays as it is. `set_timesteps` drops the bypassed timesteps. `step` at the last timestep before the bypass
lets the CRF act on what the inner scheduler returns. After the bypass a second copy of the inner scheduler takes over.
It begins in the middle of the run, as image-to-image does: a multi-step solver re-enters without history, at first
order.
"""

import copy
import inspect
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin
from diffusers.schedulers.scheduling_utils import SCHEDULER_CONFIG_NAME
from huggingface_hub import create_repo
from torch import Tensor

from .bypass import Bypass, BypassRecord, check_bypass, resolve_bypass
from .finisher import Finisher, FinishRecord, check_num_iterations
from .inner_schedulers import InnerScheduler, check_scheduler, find_scheduler_class
from .model import LatentCRF
from .noise_levels import (
    clean_estimate,
    coefficients,
    find_earlier_calls,
    returned_coefficients,
    to_variance_preserving,
)
from .observation import Observation, hand_over
from .run_state import KeptTimesteps, Run, read_timestep
from .utils.files import read_json, replace_file
from .vae import VAERoundTrip

SETTINGS = "latentcrf.json"


class with_inner_signature:
    """Decorator: the method shows the signature of the inner scheduler's method of its name.

    Pipelines inspect the signature to learn which arguments they may pass.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        if instance is None:
            return self.function

        @wraps(getattr(instance.scheduler, self.function.__name__))
        def method(*args: Any, **kwargs: Any) -> Any:
            return self.function(instance, *args, **kwargs)

        return method


class kept_by_instances:
    """Decorator of `from_config`: called on an instance it keeps its CRF and bypass, on the class it is refused."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        def method(config: Any, **kwargs: Any) -> Any:
            return self.function(instance, config, **kwargs)

        return method


def check_crf(crf: Any) -> LatentCRF:
    """Return the CRF if it can act at a bypass.

    Raises:
        ValueError: it is none, or a finisher's.
    """
    if not isinstance(crf, LatentCRF):
        raise ValueError(
            f"crf is a {type(crf).__name__}; accepted are a LatentCRF and None, the zero-parameter bypass."
        )
    if crf.corrects_clean:
        raise ValueError(
            "This LatentCRF was made to correct final latents. At the bypass it would change next to nothing: give it "
            "as finisher=Finisher(crf)."
        )
    return crf


def check_finisher(finisher: Any) -> Finisher | VAERoundTrip:
    """Return the finisher if it is one.

    Raises:
        ValueError: it is of another kind.
    """
    if not isinstance(finisher, (Finisher, VAERoundTrip)):
        raise ValueError(
            f"finisher is a {type(finisher).__name__}; accepted are Finisher(crf), VAERoundTrip(pipe.vae) and None."
        )
    return finisher


# By the attribute: returns the value as it is kept, or raises a ValueError.
CHECKS: dict[str, Callable[[Any], Any]] = {
    "scheduler": check_scheduler,
    "crf": check_crf,
    "bypass": check_bypass,
    "num_iterations": check_num_iterations,
    "finisher": check_finisher,
}
OPTIONAL = ("crf", "bypass", "finisher")  # may be None
# What is written on the wrapper and is its own. All else is the inner scheduler's.
OWN = frozenset(
    ("scheduler", "crf", "bypass", "num_iterations", "finisher", "prompt_embeds", "last_bypass", "last_finish")
) | {"_run", "_needs_vae", "_internal_dict", "_is_prompt_new"}
# Methods that change the configuration: of the inner scheduler itself, not of its copy that acts after the bypass.
CONFIGURING = ("register_to_config", "set_shift")
# With these a pipeline makes steps of its own, from t to t - 1000 // n (ParaDiGMS, CycleDiffusion, LEDITS++).
STEPPING = ("batch_step_no_noise", "_get_variance")


class LatentCRFScheduler(SchedulerMixin):
    """A diffusers scheduler with a block of its steps replaced by LatentCRF.

    All else (config, add_noise, scale_model_input, order, ...) is the inner scheduler's. A pipeline's progress bar has
    n steps and stops at the kept ones. `save_pretrained`, of this object or of the whole pipeline, stores the inner
    scheduler where it would have been without this wrapper, and the CRF beside it.

    Args:
        scheduler: the inner scheduler, with one denoiser call a step: DDIM, DDPM, Euler, DPM-Solver++, UniPC, DEIS,
            LCM, flow matching, ... (see `latentcrf.inner_schedulers`).
        crf: the bypass CRF; None (default): the zero-parameter bypass, y is the LDM's clean estimate. It follows the
            latents to their device.
        bypass: (first, last): the steps first, ..., last - 1 of the full run of n are skipped. Whole numbers are steps,
            1 <= first < last <= n; numbers with a point are fractions of n (default (0.66, 0.98)). last = n: the LDM
            does not take over again, and the CRF's y is the final latent. None, or first = last: nothing is skipped.
        num_iterations: of the bypass CRF's solver, 0 or more (default 5).
        finisher: what corrects the final latents of a run, with a bypass or without: a `Finisher` or a `VAERoundTrip`;
            None (default): nothing.

    Attributes:
        prompt_embeds: the prompts' token states (prompts, tokens, D), to be set before the run for a CRF that reads
            them; B is a multiple of the number of prompts.
        last_bypass: the `BypassRecord` of the current or last run, or None.
        last_finish: the `FinishRecord` of the last run, or None.
        num_denoiser_calls: how many timesteps are kept, after `set_timesteps`.

    Raises:
        ValueError: a scheduler that makes more than one call a step or cannot begin in the middle of a run; a bypass
            that is not as above (against n: in `set_timesteps`); a negative number of iterations; a finisher of another
            kind; image-to-image that begins inside or after the bypass.
    """

    def __init__(
        self,
        scheduler: InnerScheduler,
        crf: LatentCRF | None = None,
        bypass: Bypass | None = (0.66, 0.98),
        num_iterations: int = 5,
        finisher: Finisher | VAERoundTrip | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.crf = crf
        self.bypass = bypass
        self.num_iterations = num_iterations
        self.finisher = finisher
        self._needs_vae = False  # saved with a VAE round trip: the autoencoder is the pipeline's and is not saved again
        self.prompt_embeds: Tensor | None = None
        self._is_prompt_new = True  # no run has begun since it was set
        self.last_bypass: BypassRecord | None = None
        self.last_finish: FinishRecord | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_run" not in self.__dict__:
            raise AttributeError(name)
        value = getattr(self.scheduler if name in CONFIGURING else self._run.active, name)
        if name == "scale_model_input":  # here, as not every inner scheduler has it: the first to see the latents
            return self._with_check(value)
        if name == "step_index" and value is None and self._run.active is not self.scheduler:
            return self._run.active.begin_index  # at the bypass
        if name in STEPPING and self._run.skipped is not None:
            return self._refuse_own_steps(name)
        if name == "sigmas" and self._run.skipped is not None:  # some pipelines read sigmas[i] at timesteps[i]
            first, last = self._run.skipped
            return torch.cat([value[:first], value[last:]])
        return value

    def _with_check(self, scale: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Let the inner scheduler's `scale_model_input` check the latents first."""

        @wraps(scale)
        def scale_model_input(sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if sample.ndim:  # the latent upscaler asks for the factor of a number
                self._check_shape(sample)
            return scale(sample, *args, **kwargs)

        return scale_model_input

    def _refuse_own_steps(self, name: str) -> Callable[..., Any]:
        """Make a function that takes the place of one of `STEPPING`."""

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise ValueError(
                f"This pipeline makes steps of its own with the scheduler's `{name}`; they cannot cross a bypass. Use "
                "bypass=None here, with or without a finisher."
            )

        return refuse

    def __setattr__(self, name: str, value: Any) -> None:
        """Write an attribute: the wrapper's own, or the inner scheduler's.

        Raises:
            AttributeError: `timesteps`, `config` and other values that follow from others.
            ValueError: as of the class.
        """
        if name in OWN:
            if name in CHECKS and (value is not None or name not in OPTIONAL):
                value = CHECKS[name](value)
            object.__setattr__(self, name, value)
            if name == "scheduler":
                self._run = Run(value, value)
            if name == "prompt_embeds":
                self._is_prompt_new = True
            return
        if hasattr(type(self), name):
            hint = "call set_timesteps(timesteps=...)" if name == "timesteps" else "write it on the inner `.scheduler`"
            raise AttributeError(f"{name} of a LatentCRFScheduler cannot be written: {hint}.")
        for scheduler in {id(each): each for each in (self.scheduler, self._run.active, self._run.after)}.values():
            setattr(scheduler, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "LatentCRFScheduler":
        """Copy without the records of the last run, and without its gradients. Another thread may use the copy."""
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        dropped: dict[str, Any] = {"last_bypass": None, "last_finish": None}
        if self.prompt_embeds is not None:
            dropped["prompt_embeds"] = self.prompt_embeds.detach()
        earlier = {number: estimate.detach() for number, estimate in self._run.earlier.items()}
        run = replace(self._run, earlier=earlier, thread=None)
        values = copy.deepcopy({**self.__dict__, **dropped, "_run": run}, memo)
        copied.__dict__.update(values)
        return copied

    @kept_by_instances
    def from_config(self, config: Any, **kwargs: Any) -> "LatentCRFScheduler":
        """Wrap an inner scheduler of another configuration, with this scheduler's CRF, bypass and finisher.

        Args:
            config: of the inner scheduler.
            kwargs: for the inner scheduler's `from_config`.

        Raises:
            ValueError: called on the class, which knows no CRF and no bypass.
        """
        if self is None:
            raise ValueError(
                "LatentCRFScheduler.from_config knows no CRF and no bypass. Wrap the inner scheduler: "
                "LatentCRFScheduler(DDIMScheduler.from_config(config), crf, bypass=(33, 49))."
            )
        kind: Any = type(self.scheduler)
        inner = kind.from_config(config, **kwargs)
        return LatentCRFScheduler(inner, self.crf, self.bypass, self.num_iterations, self.finisher)

    def __len__(self) -> int:
        return len(self.scheduler)

    @property
    def config(self) -> Any:
        return self.scheduler.config

    @property
    def _internal_dict(self) -> Any:
        return self.scheduler._internal_dict

    @_internal_dict.setter
    def _internal_dict(self, value: Any) -> None:  # pipelines update older configurations in this way
        self.scheduler._internal_dict = value

    @property
    def compatibles(self) -> list[Any]:
        return self.scheduler.compatibles

    @property
    def timesteps(self) -> Tensor:
        """The kept timesteps (calls,); before `set_timesteps`, the inner scheduler's."""
        timesteps = self.scheduler.timesteps
        if self._run.skipped is None:
            return timesteps
        first, last = self._run.skipped
        kept = torch.cat([timesteps[:first], timesteps[last:]]).as_subclass(KeptTimesteps)
        kept.run, self._run.ends_at_bypass, self._run.begins_by_strength = self._run, False, False
        return kept

    @property
    def num_denoiser_calls(self) -> int:
        """Denoiser calls of a run."""
        return len(self.timesteps)

    @with_inner_signature
    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Set the inner scheduler's timesteps and skip those of the bypass.

        Args:
            args: the inner scheduler's.
            kwargs: alike.

        Raises:
            ValueError: a bypass that does not fit the number of steps; `prompt_embeds` that an earlier run has used;
                an inner scheduler whose `step` was replaced, or whose latents grow during the run; a loaded scheduler
                that needs the pipeline's autoencoder.
        """
        if self._needs_vae and self.finisher is None:
            raise ValueError(
                "This scheduler was saved with a VAE round trip; the autoencoder is not saved with it. Set "
                "`pipe.scheduler.finisher = VAERoundTrip(pipe.vae)` first."
            )
        reads_prompt = any(network.prompt_dim is not None for network in self._list_networks().values())
        if reads_prompt and self.prompt_embeds is not None and not self._is_prompt_new:
            raise ValueError(
                "prompt_embeds are those of an earlier run. Set them before each run, to the same tensor where the "
                "prompt is the same, or to None."
            )
        self.scheduler.set_timesteps(*args, **kwargs)
        skipped = self.bypass and resolve_bypass(self.bypass, len(self.scheduler.timesteps))
        given = inspect.signature(self.scheduler.set_timesteps).bind(*args, **kwargs).arguments
        has_own_schedule = any(given.get(name) is not None for name in ("timesteps", "sigmas"))
        run = self._run = Run(self.scheduler, self.scheduler, is_set=True, has_own_schedule=has_own_schedule)
        self.last_bypass = self.last_finish = None
        if skipped and skipped[0] < skipped[1]:
            self._check_copyable()
            call = skipped[0] - 1
            levels = [to_variance_preserving(*coefficients(self.scheduler, index))[0] for index in range(call + 1)]
            run.skipped = skipped
            run.earlier_call = int(find_earlier_calls(torch.tensor(levels), torch.tensor([call]), torch.tensor([1])))
            run.after = copy.deepcopy(self.scheduler)  # no step taken, so no history
            if hasattr(run.after, "set_begin_index"):
                run.after.set_begin_index(skipped[1])

    def _check_copyable(self) -> None:
        """Check that a copy of the inner scheduler can make the steps after the bypass.

        Raises:
            ValueError: as of `set_timesteps`.
        """
        name = type(self.scheduler).__name__
        if "step" in vars(self.scheduler):
            raise ValueError(
                f"The `step` of this {name} was replaced, so no copy of it can make the steps after the bypass. Wrap a "
                f"fresh one: {name}.from_config(pipe.scheduler.config)."
            )
        if getattr(self.scheduler, "_scale_factors", None):
            raise ValueError(
                f"This {name} lets the latents grow during the run (set_scale_factors); no bypass can span that. Use "
                "bypass=None."
            )

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin at a later step, as image-to-image does.

        Args:
            begin_index: the first step of the run, before the bypass.

        Raises:
            ValueError: it lies inside or after the bypass; it is not 0, and `set_timesteps` was given timesteps or
                sigmas.
        """
        self._check_begin(begin_index)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin_index)

    def _check_begin(self, begin_index: int | None) -> None:
        """Check the first step of a run; None stands for one after the last kept step.

        Raises:
            ValueError: as of `set_begin_index`.
        """
        if self._run.skipped is None or (begin_index == 0 and not self._run.begins_by_strength):
            return
        if self._run.has_own_schedule:  # the pipeline knows no other number of steps than that of the kept ones
            raise ValueError(
                f"This run begins at step {begin_index} of {len(self.scheduler.timesteps)} with timesteps or sigmas of "
                "its own. Its strength would count the kept steps instead of all. Give the number of steps alone, or "
                "use bypass=None (a finisher works there)."
            )
        if begin_index is not None and begin_index < self._run.skipped[0]:
            return
        first, last = self._run.skipped
        begin = "after the last kept step" if begin_index is None else f"at step {begin_index}"
        raise ValueError(
            f"This run begins {begin} of {len(self.scheduler.timesteps)}, but steps {first} to {last - 1} are "
            "bypassed, and one step must come before them. Raise the strength of image-to-image or move the bypass."
        )

    @with_inner_signature
    def add_noise(self, *args: Any, **kwargs: Any) -> Any:
        """Add noise to latents, as the inner scheduler does.

        Args:
            args: the inner scheduler's: latents (B, C, H, W), noise, timesteps (B,).
            kwargs: alike.

        Returns:
            The noisy latents (B, C, H, W).

        Raises:
            ValueError: no timesteps, as of image-to-image that begins after the last kept step.
        """
        call = inspect.signature(self.scheduler.add_noise).bind(*args, **kwargs)
        if torch.as_tensor(call.arguments["timesteps"]).numel() == 0:
            self._check_begin(None)
        return self._run.active.add_noise(*args, **kwargs)

    @with_inner_signature
    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Make a step of the inner scheduler.

        At the last one before the bypass the CRF acts on its result, at the run's last one the finisher.

        Args:
            args: the inner scheduler's: model output, timestep, sample (B, C, H, W).
            kwargs: alike.

        Returns:
            What the inner scheduler returns, its `prev_sample` changed; at the run's end its clean estimate too, which
            latent-consistency pipelines decode.

        Raises:
            ValueError: latents of another shape than (B, C, H, W), or of other channels than those of the CRFs or the
                autoencoder; `prompt_embeds` of another width, or number of prompts; a run that ends at the begin of the
                bypass; a timestep that is not one of this run's; the same timestep twice for a scheduler that counts
                its steps; steps from two threads; no `set_timesteps` before; `s_churn` of Euler.
        """
        run = self._run
        if self.bypass is not None and not run.is_set:
            raise ValueError("Call set_timesteps before the first step: the bypass needs the number of steps.")
        run.signature = run.signature or inspect.signature(self.scheduler.step)
        call = run.signature.bind(*args, **kwargs)
        if run.skipped is None and self.finisher is None:
            timestep = call.arguments["timestep"]
            if timestep is not None and torch.as_tensor(timestep).numel() == 1:
                self._begin_step(read_timestep(timestep))
            return run.active.step(*args, **kwargs)
        call.apply_defaults()
        as_dict = call.arguments["return_dict"]
        call.arguments["return_dict"] = True
        self._check_shape(call.arguments["sample"])
        if run.skipped is not None and call.arguments.get("s_churn"):
            raise ValueError(
                "s_churn adds noise that the clean estimate then holds. With a bypass, accepted is s_churn=0; to add "
                "noise at each step use EulerAncestralDiscreteScheduler."
            )
        if run.timestep is None:
            self._check_start(call.arguments["sample"])
        timestep = read_timestep(call.arguments["timestep"])
        self._begin_step(timestep)
        is_before = run.skipped is not None and run.active is not run.after
        output = run.active.step(*call.args, **call.kwargs)
        done = self._steps_done(timestep)
        if is_before and run.skipped is not None and done - 1 in (run.earlier_call, run.skipped[0] - 1):
            estimate = self._estimate(output, done - 1, call.arguments["model_output"], call.arguments["sample"])
            if done == run.skipped[0]:
                output.prev_sample = self._cross_bypass(output.prev_sample, estimate)
                done, run.active = run.skipped[1], run.after
            else:
                run.earlier[run.number] = estimate
        if done == len(self.scheduler.timesteps):
            if self.finisher is not None:
                output.prev_sample = self.finish(output.prev_sample)
            for name in ("denoised", "pred_original_sample"):
                if getattr(output, name, None) is not None and (self.finisher is not None or is_before):
                    setattr(output, name, output.prev_sample)
        return output if as_dict else output.to_tuple()

    def _check_shape(self, latents: Tensor) -> None:
        """Check, as soon as latents are seen, that the CRFs can work on them.

        Raises:
            ValueError: another shape than (B, C, H, W).
        """
        if latents.ndim != 4 and (self._run.skipped is not None or self.finisher is not None):
            raise ValueError(
                f"Latents must have shape (B, C, H, W); this pipeline's have {tuple(latents.shape)}. Packed latents "
                "(Flux) and those of videos cannot be worked on."
            )

    def _check_start(self, latents: Tensor) -> None:
        """Check at a run's first step what would fail at its end, or go wrong without an error.

        Raises:
            ValueError: as of `step`.
        """
        run, channels = self._run, latents.shape[1]
        for name, network in self._list_networks().items():
            if network.config.latent_channels != channels:
                raise ValueError(
                    f"The latents of this pipeline have {channels} channels; the {name} was trained for "
                    f"{network.config.latent_channels}. Set `{name}` to one trained for this model, or to None."
                )
            width = network.prompt_dim
            if width is None or self.prompt_embeds is None:
                continue
            if self.prompt_embeds.ndim != 3 or self.prompt_embeds.shape[2] != width:
                raise ValueError(
                    f"prompt_embeds has shape {tuple(self.prompt_embeds.shape)}; the {name} reads (prompts, tokens, "
                    f"{width})."
                )
            self._prompt(latents)
        if isinstance(self.finisher, VAERoundTrip):
            self.finisher.check_channels(channels)
        if run.ends_at_bypass and run.skipped is not None:
            first, last = run.skipped
            raise ValueError(
                f"This run ends inside its bypass: steps {first} to {last - 1} of {len(self.scheduler.timesteps)} are "
                f"bypassed, and the pipeline takes the {first} before them only, as with `denoising_end`. Choose a "
                "bypass that ends before the run does, for example bypass=(0.4, 0.6)."
            )

    def _list_networks(self) -> dict[str, LatentCRF]:
        """List the CRFs that act in a run, by the name of the argument that they came by."""
        finisher = self.finisher.crf if isinstance(self.finisher, Finisher) else None
        networks = {"crf": self.crf if self.bypass is not None else None, "finisher": finisher}
        return {name: network for name, network in networks.items() if network is not None}

    def _begin_step(self, timestep: float) -> None:
        """Note which sample of which step comes, and choose who makes it.

        Raises:
            ValueError: as of `step`.
        """
        self._is_prompt_new = False
        run, thread = self._run, threading.get_ident()
        if run.thread not in (None, thread):
            raise ValueError(
                "The steps of this run come from two threads. A scheduler keeps the state of one run: give each thread "
                "a pipeline with a scheduler of its own."
            )
        if not run.timesteps:
            run.timesteps = self.scheduler.timesteps.tolist()
        is_repeated = timestep == run.timestep
        if run.timestep is None and getattr(self.scheduler, "begin_index", None) is None:
            begin = run.timesteps.index(timestep) if timestep in run.timesteps else 0  # Kandinsky sets no begin index
            if begin:
                self._check_begin(begin)
        run.thread, run.timestep, run.number = thread, timestep, run.number + 1 if is_repeated else 0
        if hasattr(self.scheduler, "step_index"):
            if is_repeated and run.timesteps.count(timestep) == 1:
                raise ValueError(
                    f"{type(self.scheduler).__name__} counts its steps, so it makes each for one batch; timestep "
                    f"{timestep:g} came twice. Use DDIMScheduler for several tiles or images a step."
                )
        elif run.skipped is not None:  # it does not count: the timestep says who is next
            run.active = self.scheduler if self._steps_done(timestep) <= run.skipped[0] else run.after

    def finish(self, latents: Tensor) -> Tensor:
        """Correct final latents with the finisher and record it. `step` does so at the run's end.

        Args:
            latents: (B, C, H, W), of this run or from elsewhere.

        Returns:
            The corrected latents (B, C, H, W); without a finisher, `latents`.

        Raises:
            ValueError: `prompt_embeds` are of another number of prompts.
        """
        if self.finisher is None:
            return latents
        prompt = self._prompt(latents) if self.finisher.reads_prompt else None
        self.last_finish = FinishRecord(latents, self.finisher(latents, prompt))
        return self.last_finish.latents

    def _steps_done(self, timestep: float) -> int:
        """Count the steps of the full run up to and with the one at `timestep`."""
        if getattr(self._run.active, "step_index", None) is not None:
            return int(self._run.active.step_index)
        if timestep not in self._run.timesteps:
            raise ValueError(f"Timestep {int(timestep)} is not one of this run's; pass those in `timesteps`, in order.")
        return self._run.timesteps.index(timestep) + 1  # DDIM and DDPM do not count

    def _estimate(self, output: Any, index: int, model_output: Tensor, sample: Tensor) -> Tensor:
        """Take or compute the clean estimate (B, C, H, W) of step `index`, whose inner step returned `output`."""
        # LCM calls its clean estimate `denoised`; DPM-Solver and UniPC return none.
        denoised = getattr(output, "pred_original_sample", getattr(output, "denoised", None))
        if denoised is None:
            latents_only = model_output[:, : sample.shape[1]]  # a learned variance may follow (DeepFloyd IF)
            denoised = clean_estimate(self.scheduler, index, latents_only, sample)
            if self.scheduler.config.get("thresholding") and self.scheduler.config.get("predict_x0", True):
                denoised = self.scheduler._threshold_sample(denoised)  # the sampler's own estimate
        return denoised.to(output.prev_sample.dtype)

    def _cross_bypass(self, following: Tensor, denoised: Tensor) -> Tensor:
        """Take the latents from the begin of the bypass to its end.

        The observation's x is `following`, what the inner scheduler returned at the last step before the bypass, at the
        level of step `first`. Its x0_hat is `denoised`, from the denoiser call of step first - 1. For DDIM (eta = 0)
        the two agree exactly.
        """
        run = self._run
        assert run.skipped is not None
        first, last = run.skipped
        earlier = run.earlier.get(run.number)
        if earlier is not None and earlier.shape != denoised.shape:  # TextToVideoZero adds frames in a run
            earlier = None
        alpha_in, scale_in = to_variance_preserving(*returned_coefficients(self.scheduler, first))
        alpha_out, scale_out = to_variance_preserving(*coefficients(self.scheduler, last))
        alpha_denoised, _ = to_variance_preserving(*coefficients(self.scheduler, first - 1))
        latents, alpha_earlier = following / scale_in, None
        if earlier is not None and run.earlier_call is not None:
            alpha_earlier, _ = to_variance_preserving(*coefficients(self.scheduler, run.earlier_call))
        observation = Observation(
            latents,
            denoised,
            alpha_in,
            alpha_out,
            self._prompt(latents),
            alpha_denoised,
            earlier=earlier,
            alpha_earlier=alpha_earlier,
        )

        y = observation.denoised
        if self.crf is not None:
            self.crf.to(latents.device)
            y = self.crf(observation, self.num_iterations)
        latents = (hand_over(latents, y, alpha_in, alpha_out) * scale_out).to(following.dtype)
        self.last_bypass = BypassRecord(observation, y, latents)
        return latents

    def _prompt(self, latents: Tensor) -> Tensor | None:
        """Repeat `prompt_embeds` for each image of a prompt: (B, tokens, D), or None."""
        if self.prompt_embeds is None:
            return None
        prompts = self.prompt_embeds.shape[0]
        images_per_prompt, rest = divmod(latents.shape[0], prompts)
        if rest or not images_per_prompt:
            raise ValueError(
                f"prompt_embeds holds {prompts} prompts for {latents.shape[0]} latents; set those of this run before "
                "it begins."
            )
        return self.prompt_embeds.to(latents.device).repeat_interleave(images_per_prompt, dim=0)

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save the scheduler into a folder.

        It holds the inner scheduler's own files, `latentcrf.json`, and the CRFs in `crf` and `finisher`. A VAE round
        trip is noted; the autoencoder itself is the pipeline's.

        Without this package the folder still loads as the inner scheduler.

        Args:
            save_directory: the folder.
            push_to_hub: whether to upload all of it as well (default False).
            kwargs: for the upload: `repo_id` (default: the folder's name), `private`, `token`, `commit_message`,
                `create_pr`, `subfolder`.
        """
        self.scheduler.save_pretrained(save_directory)
        finisher = self.finisher if isinstance(self.finisher, Finisher) else None
        networks = {"crf": self.crf, "finisher": None if finisher is None else finisher.crf}
        for name, network in networks.items():
            if network is not None:
                network.save_pretrained(Path(save_directory) / name)
        settings: dict[str, Any] = {"bypass": self.bypass, "num_iterations": self.num_iterations}
        settings |= {name: network is not None for name, network in networks.items()}
        if finisher is not None:
            settings["finisher_iterations"] = finisher.num_iterations
        settings["vae_round_trip"] = self._needs_vae or isinstance(self.finisher, VAERoundTrip)
        with replace_file(Path(save_directory) / SETTINGS) as path:
            path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        if push_to_hub:
            name = kwargs.pop("repo_id", Path(save_directory).name)
            repo = create_repo(name, exist_ok=True, private=kwargs.pop("private", None), token=kwargs.get("token"))
            self._upload_folder(save_directory, repo.repo_id, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], subfolder: str | None = None, **kwargs: Any
    ) -> "LatentCRFScheduler":
        """Load what `save_pretrained` wrote. A pipeline saved with this scheduler loads once `latentcrf` is imported.

        Args:
            pretrained_model_name_or_path: a local folder; from the Hub, fetch it with
                `huggingface_hub.snapshot_download` first.
            subfolder: of the folder, or None.
            kwargs: ignored, as pipelines pass them to every part.

        Returns:
            The scheduler, with its CRFs.

        Raises:
            FileNotFoundError: the folder holds no `latentcrf.json`.
            ValueError: the inner scheduler is of a class that neither diffusers nor an imported module has.
        """
        folder = Path(pretrained_model_name_or_path, subfolder or "")
        if not (folder / SETTINGS).is_file():
            raise FileNotFoundError(f"{folder / SETTINGS} is missing: the folder holds no LatentCRFScheduler.")
        settings = read_json(folder / SETTINGS)
        inner = find_scheduler_class(read_json(folder / SCHEDULER_CONFIG_NAME)["_class_name"])
        loaded = cls(
            inner.from_pretrained(folder),
            LatentCRF.from_pretrained(folder / "crf") if settings["crf"] else None,
            bypass=settings["bypass"] and tuple(settings["bypass"]),
            num_iterations=settings["num_iterations"],
            finisher=Finisher(LatentCRF.from_pretrained(folder / "finisher"), settings["finisher_iterations"])
            if settings["finisher"]
            else None,
        )
        loaded._needs_vae = settings["vae_round_trip"]
        return loaded
