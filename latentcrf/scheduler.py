"""LatentCRFScheduler: LatentCRF as an add-on around a pipeline's own scheduler.

    pipe.scheduler = LatentCRFScheduler(pipe.scheduler, crf, bypass=(33, 49))
    image = pipe("red apple", num_inference_steps=50).images[0]     # 34 U-Net calls instead of 50

The pipeline stays as it is. `set_timesteps` drops the bypassed timesteps, and `step` at the last one before the gap
lets the CRF act on what the inner scheduler returns. After the gap a second copy of the inner scheduler takes over,
which begins in the middle of the run as image-to-image does: a multi-step solver re-enters without history, at first
order.
"""

import copy
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin
from diffusers.schedulers.scheduling_utils import SCHEDULER_CONFIG_NAME
from torch import Tensor

from .autoencoder import check_autoencoder, round_trip
from .bypass import Bypass, check_bypass, resolve_bypass
from .files import replacing
from .levels import check_scheduler, clean_estimate, coefficients, earlier_calls, level
from .model import LatentCRF, Observation, hand_over

SETTINGS = "latentcrf.json"


class mirrored:
    """A method that shows the inner scheduler's signature: pipelines inspect it to learn which arguments they may pass."""

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


@dataclass(frozen=True)
class HandOver:
    """What happened at the gap: `observation` went into the CRF, `y` (B, C, H, W) came out, `latents` went back (where the
    bypass runs to the end: to the finisher and the round trip, if there are any). Or at the run's end: what went into the
    finisher, came out of it, and went on, as far as its strength lets it.

    Decoded, observation.denoised is the image just before the CRF and y the image just after it. observation and y are
    variance preserving; `latents` are scaled as the inner scheduler scales them.
    """

    observation: Observation
    y: Tensor
    latents: Tensor


class LatentCRFScheduler(SchedulerMixin):
    """Any one-call-a-step diffusers scheduler, with a block of its steps replaced by LatentCRF.

    Args:
        scheduler: the inner scheduler: DDIM, DDPM, Euler, DPM-Solver++, UniPC, DEIS, LCM, flow matching, ...
        crf: the CRF, or None for the bypass without parameters (the LDM's own clean estimate is handed back). It
            follows the latents to their device.
        bypass: (first, last), counted in steps of the full run of n: the steps first, ..., last - 1 are left out.
            Whole numbers are steps, 1 <= first < last <= n; numbers with a point are fractions of n. last = n: the LDM
            does not take over again, and the CRF's y is the final latent. None, or first = last: nothing is left out.
        num_iterations: the CRF's iterations, and the finisher's.
        finisher: a second CRF that settles the latents at the very end of the run, or None: one trained for that
            (`corrects_clean`), or one of the static form. It costs no U-Net call, and works with or without a bypass.
        finisher_strength: how far towards what the finisher makes of them the last latents go: 0 not at all, 1 all the way. The
            embedded LDM's static form does best at 0.7 alone, at 0.4 before the round trip.
        vae: the pipeline's autoencoder, or None. With it the last latents, settled by the finisher if there is one, are decoded
            and encoded again (`latentcrf.autoencoder.round_trip`), which brings them nearer to those of pictures for about the
            time of two U-Net calls. A trained finisher has learned to do so.
        finisher_passes: how often finisher and round trip do their work at the end, one after the other.

    Attributes:
        prompt_embeds: the prompts' token states (prompts, tokens, D), to be set before the run for a CRF that reads
            them; B is a multiple of the number of prompts.
        last_hand_over: the `HandOver` of the current or last run, or None.
        last_finish: the same of the finisher's work (its last pass) at the end of the last run, or None.
        num_unet_calls: how many timesteps are kept, after `set_timesteps`.

    All else (config, add_noise, scale_model_input, order, ...) is the inner scheduler's. A pipeline's progress bar
    still counts up to n. `save_pretrained`, of this object or of the whole pipeline, stores the inner scheduler where
    it would have been without us, and the CRF beside it.

    Raises:
        ValueError: a bypass, finisher, strength or autoencoder that is not as above (a bypass against n: in `set_timesteps`); a scheduler that makes more than one
            call a step or cannot begin in the middle of a run; image-to-image that begins inside or after the gap.
    """

    def __init__(
        self,
        scheduler: Any,
        crf: LatentCRF | None = None,
        bypass: Bypass | None = (0.66, 0.98),
        num_iterations: int = 5,
        finisher: LatentCRF | None = None,
        finisher_strength: float = 1.0,
        vae: Any = None,
        finisher_passes: int = 1,
    ) -> None:
        check_scheduler(scheduler)
        if num_iterations < 0:
            raise ValueError(f"num_iterations is {num_iterations}; accepted are 0, 1, 2, ...")
        if finisher_passes < 1:
            raise ValueError(f"finisher_passes is {finisher_passes}; accepted are 1, 2, ...")
        if getattr(finisher, "form", "static") != "static" and not getattr(finisher, "corrects_clean", True):
            raise ValueError(
                "The finisher must be a LatentCRF of form 'static', or one made with corrects_clean=True; this one, made for "
                "hand-overs, corrects nothing in clean latents."
            )
        if not 0 <= finisher_strength <= 1:
            raise ValueError(f"finisher_strength is {finisher_strength}; accepted are 0 to 1.")
        if vae is not None:
            check_autoencoder(vae)
        self.scheduler = scheduler
        self.crf = crf
        self.bypass = None if bypass is None else check_bypass(bypass)
        self.num_iterations = num_iterations
        self.finisher, self.finisher_strength = finisher, float(finisher_strength)
        self.vae, self.finisher_passes = vae, finisher_passes
        self._wants_vae = False  # as saved with one, which is the pipeline's and not saved again
        self.prompt_embeds: Tensor | None = None
        self.last_hand_over: HandOver | None = None
        self.last_finish: HandOver | None = None
        self._gap: tuple[int, int] | None = None  # (first, last) of the current run, None where nothing is left out
        self._earlier_call: int | None = None  # the step whose clean estimate the CRF sees too, beside the last one's
        self._earlier: Tensor | None = None  # that estimate, once it has been made
        self._active = self._after = scheduler  # who makes the next step, and who makes those after the gap

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_active" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._active, name)

    def __len__(self) -> int:
        return len(self.scheduler)

    @property
    def config(self) -> Any:
        return self.scheduler.config

    @property
    def _internal_dict(self) -> Any:
        return self.scheduler._internal_dict

    @_internal_dict.setter
    def _internal_dict(self, value: Any) -> None:  # older configurations are mended by pipelines in this way
        self.scheduler._internal_dict = value

    @property
    def compatibles(self) -> list[Any]:
        return self.scheduler.compatibles

    @property
    def timesteps(self) -> Tensor:
        """The kept timesteps; before `set_timesteps`, the inner scheduler's."""
        timesteps = self.scheduler.timesteps
        if self._gap is None:
            return timesteps
        first, last = self._gap
        return torch.cat([timesteps[:first], timesteps[last:]])

    @property
    def num_unet_calls(self) -> int:
        return len(self.timesteps)

    @mirrored
    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """The inner scheduler's `set_timesteps`, then the gap: `timesteps` no longer holds the bypassed ones."""
        if self._wants_vae and self.vae is None:
            raise ValueError(
                "This scheduler was saved with a round trip through the pipeline's autoencoder, which is not saved with it: set "
                "`pipe.scheduler.vae = pipe.vae` first."
            )
        self.scheduler.set_timesteps(*args, **kwargs)
        gap = self.bypass and resolve_bypass(self.bypass, len(self.scheduler.timesteps))
        self._gap = gap if gap and gap[0] < gap[1] else None
        self._active, self._earlier = self.scheduler, None
        self.last_hand_over = self.last_finish = None
        if self._gap is not None:
            call = self._gap[0] - 1
            alphas = torch.tensor([level(*coefficients(self.scheduler, index))[0] for index in range(call + 1)])
            self._earlier_call = int(earlier_calls(alphas, torch.tensor([call]), torch.tensor([1])))
            self._after = copy.deepcopy(self.scheduler)  # no step taken, so no history
            if hasattr(self._after, "set_begin_index"):
                self._after.set_begin_index(self._gap[1])

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin at a later step (image-to-image)."""
        if self._gap is not None and begin_index >= self._gap[0]:
            first, last = self._gap
            raise ValueError(
                f"This run begins at step {begin_index} of {len(self.scheduler.timesteps)}, but steps {first} to "
                f"{last - 1} are bypassed, and one step must come before them. Raise the strength of image-to-image "
                "or move the bypass."
            )
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin_index)

    @mirrored
    def step(self, *args: Any, **kwargs: Any) -> Any:
        """The inner scheduler's `step`; at the last one before the gap, the CRF acts on what it returns, and at the run's
        last one the finisher and the round trip."""
        before_gap = self._gap is not None and self._active is not self._after
        finishes = self.finisher is not None or self.vae is not None
        if not before_gap and not finishes:
            return self._active.step(*args, **kwargs)
        call = inspect.signature(self.scheduler.step).bind(*args, **kwargs)
        call.apply_defaults()
        as_dict = call.arguments["return_dict"]
        call.arguments["return_dict"] = True
        if call.arguments["sample"].ndim != 4:
            raise ValueError(
                f"Latents must have shape (B, C, H, W); this pipeline's have {tuple(call.arguments['sample'].shape)}. Packed "
                "latents (Flux) and those of videos cannot be worked on."
            )
        output = self._active.step(*call.args, **call.kwargs)
        done = self._steps_done(call.arguments["timestep"])
        if before_gap and self._gap is not None and done - 1 in (self._earlier_call, self._gap[0] - 1):
            estimate = self._estimate(output, done - 1, call.arguments["model_output"], call.arguments["sample"])
            if done == self._gap[0]:
                output.prev_sample = self._bridge(output.prev_sample, estimate)
                done = self._gap[1]
            else:
                self._earlier = estimate
        if finishes and done == len(self.scheduler.timesteps):
            output.prev_sample = self.finish(output.prev_sample)
        return output if as_dict else output.to_tuple()

    def finish(self, latents: Tensor) -> Tensor:
        """The last latents (B, C, H, W) of a run, settled by the finisher (clean, so x is its own estimate), then taken on the round
        trip; as often as `finisher_passes` says. `step` does so at the run's end; latents from elsewhere can be given, too.

        Raises:
            ValueError: `prompt_embeds` are of another number of prompts.
        """
        for _ in range(self.finisher_passes):
            if self.finisher is not None:
                self.finisher.to(latents.device)
                prompt = self._prompt(latents) if getattr(self.finisher, "prompt_dim", None) else None
                observation = Observation(latents, latents, 1.0, 1.0, prompt)
                settled = self.finisher(observation, self.num_iterations)
                latents = torch.lerp(latents, settled, self.finisher_strength)
                self.last_finish = HandOver(observation, settled, latents)
            if self.vae is not None:
                latents = round_trip(self.vae, latents)
        return latents

    def _steps_done(self, timestep: Any) -> int:
        """The steps of the full run behind us after the one at `timestep`."""
        if getattr(self._active, "step_index", None) is not None:
            return self._active.step_index
        found = (self.scheduler.timesteps == timestep).nonzero()  # DDIM and DDPM do not count
        if len(found) == 0:
            raise ValueError(f"Timestep {int(timestep)} is not one of this run's; pass those in `timesteps`, in order.")
        return int(found[0]) + 1

    def _estimate(self, output: Any, index: int, model_output: Tensor, sample: Tensor) -> Tensor:
        """The clean estimate x0_hat of the U-Net's call at step `index`, for which the inner scheduler returned `output`."""
        # LCM calls its clean estimate `denoised`; DPM-Solver and UniPC return none.
        denoised = getattr(output, "pred_original_sample", getattr(output, "denoised", None))
        if denoised is None:
            denoised = clean_estimate(self.scheduler, index, model_output, sample)
        return denoised.to(output.prev_sample.dtype)

    def _bridge(self, following: Tensor, denoised: Tensor) -> Tensor:
        """From the latents `following` that the inner scheduler returned at the last step before the gap, with the clean
        estimate `denoised` of that step, to the latents behind it.

        The Observation: x is what the inner scheduler returned, at the level of step `first`; x0_hat comes from the
        U-Net's call before that, at step first - 1. For DDIM (eta = 0) the two agree exactly.
        """
        assert self._gap is not None
        first, last = self._gap
        into, back = coefficients(self.scheduler, first), coefficients(self.scheduler, last)
        (alpha_in, scale_in), (alpha_out, scale_out) = level(*into), level(*back)
        alpha_denoised, _ = level(*coefficients(self.scheduler, first - 1))
        latents, alpha_earlier = following / scale_in, None
        if self._earlier is not None and self._earlier_call is not None:
            alpha_earlier, _ = level(*coefficients(self.scheduler, self._earlier_call))
        observation = Observation(
            latents,
            denoised,
            alpha_in,
            alpha_out,
            self._prompt(latents),
            alpha_denoised,
            earlier=self._earlier,
            alpha_earlier=alpha_earlier,
        )

        y = observation.denoised
        if self.crf is not None:
            self.crf.to(latents.device)
            y = self.crf(observation, self.num_iterations)
        latents = (hand_over(latents, y, alpha_in, alpha_out) * scale_out).to(following.dtype)
        self.last_hand_over = HandOver(observation, y, latents)

        self._active = self._after
        return latents

    def _prompt(self, latents: Tensor) -> Tensor | None:
        if self.prompt_embeds is None:
            return None
        prompts = self.prompt_embeds.shape[0]
        images_per_prompt, rest = divmod(latents.shape[0], prompts)
        if rest or not images_per_prompt:
            raise ValueError(
                f"prompt_embeds holds {prompts} prompts for {latents.shape[0]} latents; set those of this run before it begins."
            )
        return self.prompt_embeds.to(latents.device).repeat_interleave(images_per_prompt, dim=0)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Write the inner scheduler's own files, `latentcrf.json` and the CRFs' folders `crf` and `finisher` into a folder; that
        there is a `vae` is noted, itself it is the pipeline's.

        Without this package the folder still loads as the inner scheduler.
        """
        self.scheduler.save_pretrained(save_directory, **kwargs)
        networks = {"crf": self.crf, "finisher": self.finisher}
        for name, network in networks.items():
            if network is not None:
                network.save_pretrained(Path(save_directory) / name)
        settings = {
            name: getattr(self, name) for name in ("bypass", "num_iterations", "finisher_strength", "finisher_passes")
        }
        settings |= {name: network is not None for name, network in networks.items()}
        settings["vae"] = self.vae is not None or self._wants_vae
        with replacing(Path(save_directory) / SETTINGS) as path:
            path.write_text(json.dumps(settings, indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, subfolder: str | None = None, **kwargs: Any
    ) -> "LatentCRFScheduler":
        """Read what `save_pretrained` wrote, from a local folder. A pipeline saved with this scheduler loads as soon as it is
        imported; from the Hub, fetch it with `huggingface_hub.snapshot_download` first.

        Raises:
            FileNotFoundError: the folder holds no `latentcrf.json`.
        """
        folder = Path(pretrained_model_name_or_path, subfolder or "")
        if not (folder / SETTINGS).is_file():
            raise FileNotFoundError(f"{folder / SETTINGS} is missing: the folder holds no LatentCRFScheduler.")
        settings = json.loads((folder / SETTINGS).read_text())
        inner = getattr(diffusers, json.loads((folder / SCHEDULER_CONFIG_NAME).read_text())["_class_name"])
        settings["bypass"] = settings["bypass"] and tuple(settings["bypass"])
        for name in ("crf", "finisher"):
            settings[name] = LatentCRF.from_pretrained(folder / name) if settings.get(name) else None
        wants_vae = settings.pop("vae", False)
        loaded = cls(inner.from_pretrained(folder), **settings)
        loaded._wants_vae = wants_vae
        return loaded
