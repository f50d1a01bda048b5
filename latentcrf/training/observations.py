"""What a CRF is trained on: hand-overs of real images' latents (stage 1) and of recorded runs (stages 2 and 3)."""

from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from latentcrf.emoji.captions import Captions
from latentcrf.levels import TREND_GAP, denoise, earlier_calls, log_snr
from latentcrf.model import Observation, hand_over
from latentcrf.precision import autocast
from latentcrf.training.trajectories import Trajectories, guided

COARSE_SHARE = 0.4  # of the batches of stages 2 and 3
COARSEST = 12  # recorded steps in one: 12 of 50 are about those of a four-step run


def random_hand_over(count: int, steps: int, earliest: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Steps of the U-Net's last call, first bypassed steps and steps of return (count,),
    earliest <= call < first < last <= steps.

    Half of the calls are one step before the hand-over, as in a run of `steps`; the others up to `COARSEST` steps, as in
    a run of fewer. Half of the returns are at the last step but one or at the end, where bypasses usually end.
    """
    first = torch.randint(earliest + 1, steps, (count,))
    longer = 1 + (torch.rand(count) * (first - earliest).clamp(max=COARSEST)).long()
    call = first - torch.where(torch.rand(count) < 0.5, 1, longer)
    anywhere = first + 1 + (torch.rand(count) * (steps - first)).long()
    late = torch.where(torch.rand(count) < 0.7, steps - 1, steps).maximum(first + 1)
    return call, first, torch.where(torch.rand(count) < 0.5, late, anywhere).clamp(max=steps)


@dataclass(frozen=True)
class RealLatents:
    """Latents of the training images and their captions, for stage 1."""

    means: Tensor
    stds: Tensor
    captions: Captions

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Random latents (count, C, H, W) and the numbers of their images."""
        chosen = torch.randint(len(self.means), (count,))
        noise = torch.randn(self.means[chosen].shape)
        return self.means[chosen] + self.stds[chosen] * noise, chosen


@torch.no_grad()
def observe_real(
    ldm: StableDiffusionPipeline, clean: Tensor, states: Tensor, alphas: Tensor, guidance: float,
    precision: torch.dtype = torch.float32,
) -> Observation:  # fmt: skip
    """What the LDM would hand over, were it on its way to the real latents `clean` (B, C, H, W) (stage 1).

    The latents are noised to the level of the last step before the gap, the LDM estimates the clean ones in one
    guided call, and a DDIM step takes them to the level of the hand-over. The first of the token states `states`
    (B + 1, tokens, D) are those of the empty caption.
    """
    call, first, last = random_hand_over(len(clean), len(alphas) - 1)
    before, a_in, a_out = (alphas[index].to(clean.device) for index in (call, first, last))
    keep, spoil = before.view(-1, 1, 1, 1).sqrt(), (1 - before).view(-1, 1, 1, 1).sqrt()
    noisy = keep * clean + spoil * torch.randn(clean.shape).to(clean.device)
    timesteps = ldm.scheduler.timesteps.to(clean.device)[call]
    empty, captions = states[:1].expand(len(clean), -1, -1), states[1:]
    with autocast(clean.device, precision):
        both = ldm.unet(torch.cat([noisy, noisy]), timesteps.repeat(2), torch.cat([empty, captions])).sample
    predicted = guided(both.float(), guidance)
    denoised = denoise(ldm.scheduler.config.prediction_type, predicted, noisy, keep, spoil)
    return Observation(hand_over(noisy, denoised, before, a_in), denoised, a_in, a_out, captions, before)


def observe_drawn(
    ldm: StableDiffusionPipeline, real: RealLatents, alphas: Tensor, count: int, guidance: float,
    precision: torch.dtype = torch.float32,
) -> tuple[Observation, Tensor]:  # fmt: skip
    """`observe_real` of a random batch: the hand-overs and the clean latents (count, C, H, W)."""
    clean, chosen = real.draw(count)
    clean, captions = clean.to(ldm.device), real.captions
    states = torch.cat([captions.states[:1].float(), captions.draw(chosen)]).to(ldm.device)
    return observe_real(ldm, clean, states, alphas, guidance, precision), clean


def observe_run(
    runs: Trajectories, chosen: Tensor, call: Tensor, first: Tensor, last: Tensor
) -> tuple[Observation, Tensor]:
    """What the LDM handed over in the recorded runs `chosen` (B,), and its own latents at the step of return.

    From the step `call` it goes to `first` in one DDIM step, whatever its length; the steps before are taken to have
    had the same length.
    """
    denoised, before, a_in = runs.denoised(chosen, call), runs.alphas[call], runs.alphas[first]
    latents = hand_over(runs.latents[chosen, call], denoised, before, a_in)
    earlier = earlier_calls(runs.alphas, call, first - call)
    observation = Observation(
        latents,
        denoised,
        a_in,
        runs.alphas[last],
        runs.prompt_embeds[chosen],
        before,
        earlier=runs.denoised(chosen, earlier),
        alpha_earlier=runs.alphas[earlier],
    )
    return observation, runs.latents[chosen, last]


def observe_coarse(runs: Trajectories, chosen: Tensor) -> tuple[Observation, Tensor]:
    """What coarse runs handed over at their steps `chosen` (B,), and where the precise runs arrived."""
    assert runs.coarse is not None
    steps = runs.coarse
    after, at = steps.alphas[chosen], steps.alphas_denoised[chosen]
    ends, run = torch.ones_like(after), steps.runs[chosen]
    # A run's steps stand one after the other. What the first of them had before it, at pure noise, tells nothing.
    previous = (chosen - 1).clamp(min=0)
    apart = log_snr(at) - log_snr(steps.alphas_denoised[previous])
    earlier = torch.where((steps.runs[previous] == run) & (apart >= TREND_GAP), previous, chosen)
    observation = Observation(
        steps.latents[chosen],
        steps.denoised[chosen],
        after,
        ends,
        runs.prompt_embeds[run],
        at,
        earlier=steps.denoised[earlier],
        alpha_earlier=steps.alphas_denoised[earlier],
    )
    return observation, runs.latents[run, -1]


def observe_recorded(runs: Trajectories, count: int, earliest: int = 1) -> tuple[Observation, Tensor, Tensor]:
    """A batch of hand-overs, of coarse runs or at random levels of precise ones, the latents to come back with, and the
    numbers of the precise runs (count,). The U-Net's last call saw no more noise than at step `earliest` of precise runs."""
    assert runs.coarse is not None
    if torch.rand(()) < COARSE_SHARE:
        late = (runs.coarse.alphas_denoised >= runs.alphas[earliest] - 1e-4).nonzero()[:, 0]
        chosen = late[torch.randint(len(late), (count,))]
        return *observe_coarse(runs, chosen), runs.coarse.runs[chosen]
    chosen = torch.randint(len(runs), (count,))
    return *observe_run(runs, chosen, *random_hand_over(count, runs.steps, earliest)), chosen
