"""Form, size and recipe of the CRFs that `latentcrf.training.train` and `latentcrf.training.train_finisher` train."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Preset:
    """A CRF and how it is trained.

    Attributes:
        channels: of the network at full resolution.
        coarse_channels: of the network at half resolution.
        num_coarse_blocks: of the network at half resolution.
        num_experts: filters of the higher-order term; 0: no such term.
        pairwise_rank: features of the pairwise term; 0: no such term.
        form: "conditional" or "static".
        reads_prompt: whether the network reads the prompt.
        reads_trend: whether the network reads the trend of the clean estimates.
        num_fine_blocks: of the network at full resolution.
        corrects_clean: whether the CRF is a finisher.
        learning_rate: peak in stages 1 and 2.
        batch_size: hand-overs a step in stages 1 and 2.
        adversarial_weight: in stage 1, of the discriminator of latents.
        guidance: in stage 1; recorded runs have their own.
        final_batch_size: hand-overs a step in stage 3.
        final_learning_rate: peak in stage 3.
        final_feature_weight: in stage 3, of the features' distance; that of the pixels' is 1.
        final_adversarial_weight: in stage 3, of the discriminator of image pairs.
    """

    channels: int = 64
    coarse_channels: int = 144
    num_coarse_blocks: int = 4
    num_experts: int = 12
    pairwise_rank: int = 12
    form: str = "conditional"
    reads_prompt: bool = False
    reads_trend: bool = True
    num_fine_blocks: int = 0
    corrects_clean: bool = False
    learning_rate: float = 1e-3
    batch_size: int = 32
    adversarial_weight: float = 0.02
    guidance: float = 3.0
    final_batch_size: int = 16
    final_learning_rate: float = 4e-4
    final_feature_weight: float = 0.5
    final_adversarial_weight: float = 0.5


def scale_guidances(guidances: tuple[float, ...], guidance: float) -> tuple[float, ...]:
    """Scale the recipe's guidance scales to another main one; runs without guidance stay so.

    Args:
        guidances: of the recipe, whose main one is `Preset.guidance`.
        guidance: the main one, 1 or more; 1: none of the runs is guided.
    """
    return tuple(1.0 if 1 in (scale, guidance) else max(1.0, scale * guidance / Preset.guidance) for scale in guidances)


def with_overrides(
    preset: Preset, batch_size: int | None, learning_rate: float | None, guidance: float | None = None
) -> Preset:
    """Replace a preset's batch size, learning rate and guidance.

    Args:
        preset: stays as it is.
        batch_size: of stages 1 and 2, stage 3 gets half of it; None: the preset's.
        learning_rate: of stages 1 and 2; None: the preset's.
        guidance: in stage 1; None (default): the preset's.

    Returns:
        The preset with these values.
    """
    if batch_size is not None:
        preset = replace(preset, batch_size=batch_size, final_batch_size=-(-batch_size // 2))
    if guidance is not None:
        preset = replace(preset, guidance=guidance)
    return preset if learning_rate is None else replace(preset, learning_rate=learning_rate)


FINISHER = Preset(
    channels=96, coarse_channels=96, num_coarse_blocks=2, num_fine_blocks=4, reads_trend=False, corrects_clean=True
)

# A preset without fields (no experts, rank 0) is a plain network: its result is the network's u. "emoji",
# "emoji-static", "emoji-finisher" and the plain networks "emoji-plain" and "emoji-plain-finisher" ship; "emoji-prompt"
# reads the prompt; the others are for the ablation.
PRESETS = {
    "emoji": Preset(),
    "emoji-static": Preset(form="static"),
    "emoji-static-pairwise": Preset(form="static", num_experts=0),
    "emoji-static-experts": Preset(form="static", pairwise_rank=0),
    "emoji-plain": Preset(num_experts=0, pairwise_rank=0),
    "emoji-pairwise": Preset(num_experts=0),
    "emoji-experts": Preset(pairwise_rank=0),
    "emoji-prompt": Preset(reads_prompt=True),
    "emoji-finisher": FINISHER,
    "emoji-plain-finisher": replace(FINISHER, num_experts=0, pairwise_rank=0),
    "emoji-no-adversary": Preset(adversarial_weight=0.0, final_adversarial_weight=0.0),
}
