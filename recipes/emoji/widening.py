"""A wider autoencoder that computes the same as a narrow one: more capacity for a finished model, nothing forgotten."""

import math

import torch
from diffusers import AutoencoderKL
from torch import Tensor


@torch.no_grad()
def widen_vae(vae: AutoencoderKL, factor: int, encoder_learns: bool = False) -> AutoencoderKL:
    """An AutoencoderKL with `factor` times the channels in every block, whose latents and pictures are those of `vae`.

    After Net2Net (arXiv 1511.05641), but nothing is copied twice: the old channels read nothing from the new ones, and the new ones
    begin with random weights, so that there is no symmetry to break. Group normalisation keeps its groups' size, and with it
    what the old channels are divided by. Where the decoder alone is going to learn, the encoder's new channels are zero, for the
    latents must not change under the LDM that knows them; with `encoder_learns` they are random as the decoder's, and the latents the same still.

    Raises:
        ValueError: `factor` is not at least 1.
    """
    if factor < 1:
        raise ValueError(f"An autoencoder is widened by a whole factor of at least 1, not {factor}.")
    config = dict(vae.config)
    wide = AutoencoderKL.from_config(
        config
        | {
            "block_out_channels": [factor * channels for channels in config["block_out_channels"]],
            "norm_num_groups": factor * config["norm_num_groups"],
        }
    )
    parameters = dict(vae.named_parameters())
    for name, weight in wide.named_parameters():
        silent = name.startswith("encoder.") and not encoder_learns
        # softmax(q k / sqrt(channels)): the old channels' products only, and there are more channels now.
        _embed(parameters[name].detach().float(), weight, silent=silent or ".to_k." in name)
        if ".to_q." in name:
            weight *= math.sqrt(factor)
    return wide.to(vae.device)


def _embed(small: Tensor, wide: Tensor, silent: bool) -> None:
    """Put the weights `small` into the first corner of `wide`, in place; what leads from new channels to old ones becomes zero,
    and, where `silent`, what leads to new ones as well."""
    outputs = len(small)
    if small.ndim > 1:
        inputs = small.shape[1]
        wide[:outputs, :inputs] = small
        wide[:outputs, inputs:] = 0
    else:
        wide[:outputs] = small
    if silent:
        wide[outputs:] = 0
