"""An LDM as training uses it: one way to encode prompts and to call the U-Net, for Stable Diffusion and SDXL alike.

ldm = load_ldm("assets/models/emoji-ldm", device)
prompts = ldm.encode_prompts(["red apple", "pizza"])
predicted = ldm.predict(latents, timestep, prompts, guidance=3.0)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline
from diffusers.utils import logging
from torch import Tensor, nn

from latentcrf.precision import autocast
from latentcrf.training.loop import RunError
from latentcrf.utils.hub import split_revision
from latentcrf.utils.manifest import check_shipped

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class Conditioning:
    """What a U-Net reads of B prompts.

    Attributes:
        states: token states (B, tokens, D); those of SDXL's two text encoders side by side.
        pooled: SDXL's pooled embeddings (B, P); None for Stable Diffusion.
    """

    states: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: Any) -> "Conditioning":
        """Return a part of the batch, by a slice, a list or a tensor of indices."""
        return Conditioning(self.states[index], None if self.pooled is None else self.pooled[index])

    def expand(self, count: int) -> "Conditioning":
        """Repeat a single prompt.

        Args:
            count: B.

        Returns:
            The prompt B times.
        """
        pooled = None if self.pooled is None else self.pooled.expand(count, -1)
        return Conditioning(self.states.expand(count, -1, -1), pooled)

    def to(self, *arguments: Any) -> "Conditioning":
        """Return it on a device or in a type, as `Tensor.to` does."""
        return Conditioning(self.states.to(*arguments), None if self.pooled is None else self.pooled.to(*arguments))

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """Join batches.

        Args:
            parts: at least one, all of one LDM.
        """
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Conditioning(torch.cat([part.states for part in parts]), torch.cat(pooled) if pooled else None)


class LDM:
    """A latent diffusion model.

    Args:
        pipeline: a StableDiffusionPipeline or StableDiffusionXLPipeline.

    Attributes:
        pipeline: as given, but with a DDIM scheduler of the same noise levels.
        unconditional: what the U-Net reads without a prompt, a batch of one.

    Raises:
        RunError: the pipeline is of another kind; see `check_pipeline`.
    """

    def __init__(self, pipeline: Any) -> None:
        check_pipeline(pipeline)
        self.pipeline = pipeline
        # Recordings need DDIM's steps, and PNDM's, which Stable Diffusion comes with, cannot be bypassed.
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
        pipeline.set_progress_bar_config(disable=True)
        self.unconditional = self._encode([""], has_prompts=False)

    @property
    def unet(self) -> Any:
        return self.pipeline.unet

    @property
    def vae(self) -> Any:
        return self.pipeline.vae

    @property
    def scheduler(self) -> DDIMScheduler:
        return cast(DDIMScheduler, self.pipeline.scheduler)

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self.pipeline.device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents that the U-Net was trained on."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of its images in px."""
        _, height, width = self.latent_shape
        return height * self.pipeline.vae_scale_factor, width * self.pipeline.vae_scale_factor

    @property
    def text_encoders(self) -> list[nn.Module]:
        """One text encoder, or SDXL's two."""
        encoders = self.pipeline.text_encoder, getattr(self.pipeline, "text_encoder_2", None)
        return [encoder for encoder in encoders if encoder is not None]

    def encode_prompts(self, prompts: Sequence[str], batch_size: int = 256) -> Conditioning:
        """Encode prompts by the pipeline's own `encode_prompt`. Longer prompts are cut, without a warning.

        Args:
            prompts: B prompts, at least one. An empty one gives `unconditional`.
            batch_size: prompts that are encoded at once.

        Returns:
            Their conditioning, on the LDM's device.
        """
        parts = [
            self._encode(list(prompts[start : start + batch_size])) for start in range(0, len(prompts), batch_size)
        ]
        encoded = Conditioning.cat(parts)
        is_empty = torch.tensor([not prompt for prompt in prompts], device=self.device)
        encoded.states[is_empty] = self.unconditional.states
        if encoded.pooled is not None and self.unconditional.pooled is not None:
            encoded.pooled[is_empty] = self.unconditional.pooled
        return encoded

    @torch.no_grad()
    def _encode(self, prompts: list[str], has_prompts: bool = True) -> Conditioning:
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            encoded = self.pipeline.encode_prompt(
                prompt=prompts,
                device=self.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=not has_prompts,
            )
        finally:
            logging.set_verbosity(verbosity)
        return Conditioning(*encoded[0 if has_prompts else 1 :: 2])

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        guidance: float = 1.0,
        precision: torch.dtype = torch.float32,
    ) -> Tensor:
        """Call the U-Net, with classifier-free guidance where it is asked for.

        Args:
            latents: (B, C, h, w), scaled as the scheduler's `scale_model_input` does.
            timestep: one, or (B,).
            conditioning: of B prompts, on the LDM's device.
            guidance: scale of classifier-free guidance; at most 1 (default): none.
            precision: in which the U-Net computes.

        Returns:
            The U-Net's output, guided (B, C, h, w), float32.
        """
        count = len(latents)
        if guidance > 1:
            latents, timestep = torch.cat([latents, latents]), timestep.repeat(2) if timestep.ndim else timestep
            conditioning = Conditioning.cat([self.unconditional.to(latents.device).expand(count), conditioning])
        more: dict[str, Any] = {}
        if conditioning.pooled is not None:
            sizes = [*self.image_size, 0, 0, *self.image_size]  # of the original, its crop and the target
            time_ids = torch.tensor([sizes], dtype=conditioning.pooled.dtype, device=latents.device)
            pooled = conditioning.pooled
            more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": time_ids.expand(len(pooled), -1)}
        with autocast(latents.device, precision):
            output: Tensor = self.unet(latents, timestep, conditioning.states, **more).sample.float()
        if guidance <= 1:
            return output
        without, conditional = output.chunk(2)
        return without + guidance * (conditional - without)


def load_ldm(base: str | Path, device: torch.device | str = "cpu") -> LDM:
    """Load an LDM in float32.

    Args:
        base: folder or hub id of a StableDiffusionPipeline or StableDiffusionXLPipeline, with safetensors weights; a
            hub id may end in @REVISION.
        device: default "cpu".

    Returns:
        The LDM.

    Raises:
        RunError: there is no such pipeline, or training does not support its class or its settings.
    """
    accepted = f"accepted is a folder or a hub id of a {' or a '.join(PIPELINES)} with safetensors weights"
    try:
        if not Path(base).exists() and len(Path(base).parts) != 2:  # a hub id is OWNER/NAME
            raise OSError("there is no such folder")
        place, revision = split_revision(base)
        check_shipped(place)
        name = DiffusionPipeline.load_config(place, revision=revision)["_class_name"]
        if name not in PIPELINES:
            raise RunError(f"{base} is a {name}; {accepted}.")
        pipeline = getattr(diffusers, name).from_pretrained(
            place, revision=revision, torch_dtype=torch.float32, use_safetensors=True
        )
    except (OSError, KeyError, ValueError) as error:
        raise RunError(f"{base} cannot be loaded ({' '.join(str(error).split())}); {accepted}.") from error
    return LDM(pipeline.to(device))


def check_pipeline(pipeline: Any) -> None:
    """Check that a CRF can be trained for a pipeline.

    Args:
        pipeline: of diffusers.

    Raises:
        RunError: its class, scheduler, U-Net or autoencoder is of a kind that training does not support.
    """
    kind, scheduler, unet = type(pipeline).__name__, pipeline.scheduler, pipeline.unet
    if kind not in PIPELINES:
        raise RunError(f"A CRF cannot be trained for a {kind}; accepted are {' and '.join(PIPELINES)}.")
    has_levels = hasattr(scheduler, "alphas_cumprod") and not hasattr(scheduler, "precondition_outputs")
    prediction_type = scheduler.config.get("prediction_type", "epsilon")
    if not has_levels or prediction_type not in PREDICTION_TYPES:
        raise RunError(
            f"The pipeline's scheduler is of class {type(scheduler).__name__}, with prediction type "
            f"{prediction_type!r}; accepted are variance-preserving schedulers with {', '.join(PREDICTION_TYPES)}."
        )
    vae = pipeline.vae
    if not isinstance(vae, AutoencoderKL) or any(vae.config.get(name) for name in ("shift_factor", "latents_mean")):
        raise RunError(
            f"The pipeline's autoencoder is of class {type(vae).__name__}, with {vae.config.get('shift_factor')} as "
            f"shift and {vae.config.get('latents_mean')} as mean; accepted is an AutoencoderKL that only scales its "
            "latents."
        )
    channels = vae.config.latent_channels
    if unet.config.in_channels != channels or unet.config.out_channels != channels:
        raise RunError(
            f"The U-Net reads {unet.config.in_channels} channels and returns {unet.config.out_channels}, the latents "
            f"have {channels}; accepted is a text-to-image U-Net, whose channels are those of the latents."
        )
    if unet.config.time_cond_proj_dim is not None:
        raise RunError("The U-Net reads the guidance scale; accepted is one with classifier-free guidance.")
