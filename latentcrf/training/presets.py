"""The recipes of `latentcrf.training.train` and, where they correct clean latents, of `latentcrf.training.train_finisher`."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Preset:
    """One recipe; what each came to stands in its model card (`emoji`) or in the README's ablation."""

    channels: int = 64
    coarse_channels: int = 144
    num_coarse_blocks: int = 4
    num_experts: int = 12
    pairwise_rank: int = 12
    form: str = "conditional"
    reads_prompt: bool = False
    reads_trend: bool = True
    num_fine_blocks: int = 0
    corrects_clean: bool = False  # a finisher
    learning_rate: float = 1e-3
    batch_size: int = 32
    adversarial_weight: float = 0.02  # in stage 1, on latents
    guidance: float = 3.0  # in stage 1; recorded runs have their own
    # stage 3, on images
    final_batch_size: int = 16
    final_learning_rate: float = 4e-4
    final_feature_weight: float = 0.5  # of the features' distance; that of the pixels' is 1
    final_adversarial_weight: float = 0.5


def with_overrides(preset: Preset, batch_size: int | None, learning_rate: float | None) -> Preset:
    """The preset with another batch size (stage 3: half of it) and learning rate of stages 1 and 2, None: its own."""
    if batch_size is not None:
        preset = replace(preset, batch_size=batch_size, final_batch_size=-(-batch_size // 2))
    return preset if learning_rate is None else replace(preset, learning_rate=learning_rate)


FINISHER = Preset(
    channels=96, coarse_channels=96, num_coarse_blocks=2, num_fine_blocks=4, reads_trend=False, corrects_clean=True
)

# "emoji", "emoji-static" and "emoji-finisher" ship, and beside them the two plain networks "emoji-plain" and
# "emoji-plain-finisher". The others are for comparison: what each part of the method adds.
# A plain network has no field at all: the network's u.
PRESETS = {
    "emoji": Preset(),
    "emoji-static": Preset(form="static"),
    "emoji-static-pairwise": Preset(form="static", num_experts=0),
    "emoji-static-experts": Preset(form="static", pairwise_rank=0),
    "emoji-plain": Preset(num_experts=0, pairwise_rank=0),
    "emoji-pairwise": Preset(num_experts=0),
    "emoji-experts": Preset(pairwise_rank=0),
    "emoji-prompt": Preset(reads_prompt=True),
    "emoji-no-trend": Preset(reads_trend=False),
    "emoji-plain-no-trend": Preset(num_experts=0, pairwise_rank=0, reads_trend=False),
    "emoji-finisher": FINISHER,
    "emoji-plain-finisher": replace(FINISHER, num_experts=0, pairwise_rank=0),
    "emoji-no-adversary": Preset(adversarial_weight=0.0, final_adversarial_weight=0.0),
}
