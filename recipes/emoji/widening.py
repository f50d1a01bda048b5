"""A wider autoencoder that computes the same as a narrow one: more capacity for a trained model."""

import math

import torch
from diffusers import AutoencoderKL
from torch import Tensor


@torch.no_grad()
def widen_vae(vae: AutoencoderKL, factor: int, encoder_learns: bool = False) -> AutoencoderKL:
    """Widen an autoencoder; its latents and pictures stay.

    After Net2Net (arXiv 1511.05641), but no channel is copied: the old channels read nothing from the new ones, and the
    new ones begin with random weights, so that no symmetry has to be broken. Group normalisation keeps the size of its
    groups, and so the divisor of the old channels.

    Args:
        vae: stays as it is.
        factor: on the channels of every block, at least 1.
        encoder_learns: whether the encoder is going to be trained. Default False: its new channels are zero, so that
            training the decoder cannot change the latents. True: they are random, as the decoder's.

    Returns:
        The wide autoencoder.

    Raises:
        ValueError: `factor` is less than 1.
    """
    if factor < 1:
        raise ValueError(f"factor is {factor}; accepted are 1, 2, 3, ...")
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
        is_zero = name.startswith("encoder.") and not encoder_learns
        # softmax(q k / sqrt(channels)) must have the products of the old channels only, over more channels
        _embed(parameters[name].detach().float(), weight, is_zero=is_zero or ".to_k." in name)
        if ".to_q." in name:
            weight *= math.sqrt(factor)
    return wide.to(vae.device)


def _embed(small: Tensor, wide: Tensor, is_zero: bool) -> None:
    """Copy the weights `small` into the first corner of `wide`.

    Weights from new channels to old ones become zero and, where `is_zero`, those to new channels, too.
    """
    outputs = len(small)
    if small.ndim > 1:
        inputs = small.shape[1]
        wide[:outputs, :inputs] = small
        wide[:outputs, inputs:] = 0
    else:
        wide[:outputs] = small
    if is_zero:
        wide[outputs:] = 0
