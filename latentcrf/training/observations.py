"""Hand-overs that a CRF is trained on: of real images' latents (stage 1) and of recorded runs (stages 2 and 3).

A batch is drawn for all processes, of which each observes its share (see `latentcrf.training.processes`).
"""

import torch
from torch import Tensor

from latentcrf.noise_levels import TREND_GAP, denoise, find_earlier_calls, log_snr
from latentcrf.observation import Observation, hand_over
from latentcrf.training.latents import RealLatents
from latentcrf.training.ldm import LDM, Conditioning
from latentcrf.training.processes import count_all, take_share
from latentcrf.training.recording import RecordedRuns

COARSE_SHARE = 0.4  # of the batches of stages 2 and 3
LONGEST_STEP = 12  # recorded steps in one: 12 of 50 are about those of a four-step run


def draw_bypasses(count: int, steps: int, earliest: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Draw random bypasses of a run.

    Half of the last denoiser calls are one step before the hand-over, as in a run of `steps`; the others up to
    `LONGEST_STEP` steps, as in a run of fewer. Half of the returns are at the last step but one or at the end, where
    bypasses usually end.

    Args:
        count: B.
        steps: of the run.
        earliest: first step of a denoiser call, at least 0.

    Returns:
        Steps of the last denoiser call, first bypassed steps and steps of the return (B,), with
        earliest <= call < first < last <= steps.
    """
    first = torch.randint(earliest + 1, steps, (count,))
    longer = 1 + (torch.rand(count) * (first - earliest).clamp(max=LONGEST_STEP)).long()
    call = first - torch.where(torch.rand(count) < 0.5, 1, longer)
    anywhere = first + 1 + (torch.rand(count) * (steps - first)).long()
    late = torch.where(torch.rand(count) < 0.7, steps - 1, steps).maximum(first + 1)
    return call, first, torch.where(torch.rand(count) < 0.5, late, anywhere).clamp(max=steps)


@torch.no_grad()
def observe_real(
    ldm: LDM, clean: Tensor, captions: Conditioning, alphas: Tensor, guidance: float,
    precision: torch.dtype = torch.float32,
) -> Observation:  # fmt: skip
    """Make the hand-overs of runs that lead to real latents (stage 1), at random bypasses.

    The latents are noised to the level of the last denoiser call, the LDM estimates the clean ones in one guided call,
    and a DDIM step takes them to the level of the hand-over.

    Args:
        ldm: its scheduler has the timesteps of `alphas`.
        clean: real latents of this process's share (B, C, H, W).
        captions: of these, on the LDM's device.
        alphas: level abar of each step of a run, then 1 (S + 1,).
        guidance: scale of classifier-free guidance.
        precision: in which the U-Net computes.

    Returns:
        The hand-overs.
    """
    count, device = count_all(len(clean)), clean.device
    call, first, last = (take_share(steps) for steps in draw_bypasses(count, len(alphas) - 1))
    a_denoised, a_in, a_out = (alphas[index].to(device) for index in (call, first, last))
    signal_scale, noise_scale = a_denoised.view(-1, 1, 1, 1).sqrt(), (1 - a_denoised).view(-1, 1, 1, 1).sqrt()
    noisy = signal_scale * clean + noise_scale * take_share(torch.randn(count, *clean.shape[1:])).to(device)
    timesteps = ldm.scheduler.timesteps.to(device)[call.to(device)]
    predicted = ldm.predict(noisy, timesteps, captions, guidance, precision)
    denoised = denoise(ldm.scheduler.config.prediction_type, predicted, noisy, signal_scale, noise_scale)
    return Observation(hand_over(noisy, denoised, a_denoised, a_in), denoised, a_in, a_out, captions.states, a_denoised)


def observe_drawn(
    ldm: LDM, real: RealLatents, alphas: Tensor, count: int, guidance: float,
    precision: torch.dtype = torch.float32,
) -> tuple[Observation, Tensor]:  # fmt: skip
    """Make the hand-overs of `observe_real` for random images.

    Args:
        ldm: the LDM.
        real: latents and captions.
        alphas: level abar of each step of a run, then 1 (S + 1,).
        count: B.
        guidance: scale of classifier-free guidance.
        precision: in which the U-Net computes.

    Returns:
        The hand-overs and the clean latents (B, C, H, W).
    """
    clean, chosen = real.draw(count)
    clean = clean.to(ldm.device)
    return observe_real(ldm, clean, real.captions.draw(chosen), alphas, guidance, precision), clean


def observe_run(
    runs: RecordedRuns, chosen: Tensor, call: Tensor, first: Tensor, last: Tensor
) -> tuple[Observation, Tensor]:
    """Read hand-overs from recorded runs.

    From the last denoiser call a DDIM step of any length goes to the hand-over; the steps before are taken to have the
    same length.

    Args:
        runs: the recording.
        chosen: numbers of runs (B,).
        call: steps of the last denoiser call (B,).
        first: first bypassed steps (B,).
        last: steps of the return (B,).

    Returns:
        The hand-overs, and the runs' latents at the return (B, C, H, W).
    """
    denoised, a_denoised, a_in = runs.denoised(chosen, call), runs.alphas[call], runs.alphas[first]
    latents = hand_over(runs.latents[chosen, call], denoised, a_denoised, a_in)
    earlier = find_earlier_calls(runs.alphas, call, first - call)
    observation = Observation(
        latents,
        denoised,
        a_in,
        runs.alphas[last],
        runs.prompt_embeds[chosen],
        a_denoised,
        earlier=runs.denoised(chosen, earlier),
        alpha_earlier=runs.alphas[earlier],
    )
    return observation, runs.latents[chosen, last]


def observe_coarse(runs: RecordedRuns, chosen: Tensor) -> tuple[Observation, Tensor]:
    """Read hand-overs from the coarse runs of a recording.

    Args:
        runs: the recording.
        chosen: numbers of coarse steps (B,).

    Returns:
        The hand-overs, and the final latents of the precise runs from the same noise (B, C, H, W).
    """
    assert runs.coarse is not None
    steps = runs.coarse
    a_in, a_denoised = steps.alphas[chosen], steps.alphas_denoised[chosen]
    a_out, run = torch.ones_like(a_in), steps.runs[chosen]
    # A run's steps are neighbours. The call before the first of them, at pure noise, carries no information.
    previous = (chosen - 1).clamp(min=0)
    distance = log_snr(a_denoised) - log_snr(steps.alphas_denoised[previous])
    earlier = torch.where((steps.runs[previous] == run) & (distance >= TREND_GAP), previous, chosen)
    observation = Observation(
        steps.latents[chosen],
        steps.denoised[chosen],
        a_in,
        a_out,
        runs.prompt_embeds[run],
        a_denoised,
        earlier=steps.denoised[earlier],
        alpha_earlier=steps.alphas_denoised[earlier],
    )
    return observation, runs.latents[run, -1]


def observe_recorded(runs: RecordedRuns, count: int, earliest: int = 1) -> tuple[Observation, Tensor, Tensor]:
    """Read a random batch of hand-overs, of coarse runs or at random bypasses of precise ones.

    Args:
        runs: the recording.
        count: B.
        earliest: the last denoiser calls see no more noise than at this step of precise runs.

    Returns:
        The hand-overs, the latents to return with (B, C, H, W), and the numbers of the precise runs (B,).
    """
    assert runs.coarse is not None
    if torch.rand(()) < COARSE_SHARE:
        late = (runs.coarse.alphas_denoised >= runs.alphas[earliest] - 1e-4).nonzero()[:, 0]
        chosen = late[take_share(torch.randint(len(late), (count_all(count),)))]
        return *observe_coarse(runs, chosen), runs.coarse.runs[chosen]
    chosen = take_share(torch.randint(len(runs), (count_all(count),)))
    steps = (take_share(each) for each in draw_bypasses(count_all(count), runs.steps, earliest))
    return *observe_run(runs, chosen, *steps), chosen
