"""Guidance cut-off: no unconditional evaluation in the last part of a run.

    from latentcrf.guidance import cutoff

    image = pipe("red apple", callback_on_step_end=cutoff(1 / 3)).images[0]

Classifier-free guidance evaluates the network twice a denoiser call. Late in a run it changes little; without it a call
is one network evaluation. It works with every scheduler, wrapped by LatentCRF or not.
"""

from typing import Any

from diffusers import DiffusionPipeline
from diffusers.callbacks import PipelineCallback
from torch import Tensor

# What pipelines keep doubled for guidance, the unconditional half first.
DOUBLED = ("prompt_embeds", "add_text_embeds", "add_time_ids", "pooled_prompt_embeds", "image")


class GuidanceCutoff(PipelineCallback):
    """A callback for `callback_on_step_end` that ends guidance for the last part of a run; see `cutoff`.

    Args:
        fraction: of the run's denoiser calls, 0 to below 1.
        tensor_inputs: what the pipeline keeps doubled, some of `DOUBLED`.
    """

    tensor_inputs: list[str] = []

    def __init__(self, fraction: float, tensor_inputs: list[str]) -> None:
        super().__init__()
        self.fraction, self.tensor_inputs = fraction, tensor_inputs

    def guided_calls(self, num_calls: int) -> int:
        """Count the guided denoiser calls of a run, at least one.

        Args:
            num_calls: denoiser calls of the run.
        """
        return max(1, num_calls - round(self.fraction * num_calls))

    def callback_fn(self, pipeline: Any, step_index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """End guidance after the last guided call.

        Args:
            pipeline: the running pipeline; it sets its guidance scale anew at the begin of each run.
            step_index: the call that has just been made, from 0.
            timestep: not used.
            tensors: `tensor_inputs` by name, each (2B, ...) while the run is guided.

        Returns:
            The tensors, from the cut-off on their conditional halves (B, ...).

        Raises:
            ValueError: a pipeline that keeps more doubled than the callback was made for.
        """
        if step_index + 1 != self.guided_calls(pipeline.num_timesteps) or not pipeline.do_classifier_free_guidance:
            return tensors
        kind = type(pipeline).__name__
        if missing := [name for name in doubled_inputs(pipeline) if name not in tensors]:
            raise ValueError(
                f"{kind} also keeps {missing[0]} doubled for guidance: make the callback with cutoff(fraction, pipe)."
            )
        if getattr(getattr(pipeline, "unet", None), "encoder_hid_proj", None) is not None:
            raise ValueError(
                f"{kind} has an IP-Adapter, whose image embeddings stay doubled: guidance cannot be cut off there."
            )
        pipeline._guidance_scale = 1.0
        return tensors | {name: second_half(tensors[name]) for name in self.tensor_inputs}


def second_half(tensor: Tensor) -> Tensor:
    """Return the conditional half (B, ...) of a doubled tensor (2B, ...)."""
    return tensor.chunk(2)[1]


def doubled_inputs(pipeline: DiffusionPipeline) -> list[str]:
    """List what a pipeline's callbacks can see of `DOUBLED`.

    Args:
        pipeline: or its class.
    """
    return [name for name in DOUBLED if name in getattr(pipeline, "_callback_tensor_inputs", ())]


def cutoff(fraction: float, pipeline: DiffusionPipeline | None = None) -> GuidanceCutoff:
    """Make a callback that ends guidance for the last part of a run and halves the work there.

    Any number of prompts and images a prompt. diffusers' own `SDCFGCutoffCallback` keeps one of them.

    Args:
        fraction: of the run's denoiser calls, 0 (none) to below 1; the first call is always guided.
        pipeline: needed where it keeps more than the prompt doubled, as Stable Diffusion XL does; None (default): a
            `StableDiffusionPipeline`.

    Returns:
        The callback, for `callback_on_step_end`.

    Raises:
        ValueError: a fraction outside 0 to below 1.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction is {fraction}; accepted are 0 to below 1, the share of calls without guidance.")
    return GuidanceCutoff(fraction, ["prompt_embeds"] if pipeline is None else doubled_inputs(pipeline))
