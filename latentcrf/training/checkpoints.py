"""A CRF of a preset: built, begun from other weights, and saved."""

from pathlib import Path

import torch
from torch import Tensor

from latentcrf.model import LatentCRF
from latentcrf.training.loop import RunError
from latentcrf.training.presets import Preset
from latentcrf.utils.files import replace_folder


def build_crf(
    preset: Preset, latent_channels: int, prompt_dim: int | None = None, init_from: str | None = None
) -> LatentCRF:
    """Build the preset's model.

    Args:
        preset: form and size.
        latent_channels: C, of the LDM's latents.
        prompt_dim: D of the LDM's token states, where the CRF reads prompts; default None.
        init_from: folder of a LatentCRF to take the weights from, or of a plain network of its size (see
            `weights_from_plain`); default None: random weights.

    Returns:
        The model, float32 on the CPU.

    Raises:
        RunError: the folder's model is of another form or size, or reads or corrects something else.
    """
    crf = LatentCRF(
        latent_channels=latent_channels,
        form=preset.form,
        num_experts=preset.num_experts,
        pairwise_rank=preset.pairwise_rank,
        channels=preset.channels,
        coarse_channels=preset.coarse_channels,
        num_coarse_blocks=preset.num_coarse_blocks,
        prompt_dim=prompt_dim,
        reads_trend=preset.reads_trend,
        num_fine_blocks=preset.num_fine_blocks,
        corrects_clean=preset.corrects_clean,
    )
    if init_from:
        start = LatentCRF.from_pretrained(init_from, torch_dtype=torch.float32, use_safetensors=True)
        is_plain = not start.has_fields and start.form == "conditional"
        free = ("num_experts", "pairwise_rank") if is_plain else ()
        differences = [
            f"its {name} is {start.config[name]!r}, not {value!r}"
            for name, value in crf.config.items()
            if not name.startswith("_") and name not in free and start.config[name] != value
        ]
        if differences:
            raise RunError(f"{init_from} holds a network of another kind than the preset's: {'; '.join(differences)}.")
        crf.load_state_dict(weights_from_plain(start, crf) if is_plain else start.state_dict())
    return crf


def weights_from_plain(plain: LatentCRF, crf: LatentCRF) -> dict[str, Tensor]:
    """Combine a plain network's weights with the fields of a fresh CRF.

    A fresh CRF's fields change next to nothing, so the result computes nearly what the plain network does.

    Args:
        plain: a LatentCRF without fields.
        crf: a fresh LatentCRF of its size.

    Returns:
        A state dict for `crf`: the network of `plain` and, of the head, the maps that both have; the rest is its own.
    """
    state = crf.state_dict()
    for name, value in plain.state_dict().items():
        if name.startswith("head."):
            own, other = state[name].split(crf.head_sizes), value.split(plain.head_sizes)
            value = torch.cat([b if len(b) == len(a) else a for a, b in zip(own, other, strict=True)])
        state[name] = value
    return state


def save_half(crf: LatentCRF, folder: Path) -> None:
    """Write a float16 copy of the CRF.

    Args:
        crf: is left as it is.
        folder: is replaced as a whole.
    """
    half = LatentCRF.from_config(crf.config)
    half.load_state_dict(crf.state_dict())
    with replace_folder(folder) as temporary:
        half.half().save_pretrained(temporary)
