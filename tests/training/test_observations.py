"""Hand-overs of real images: what an oracle denoiser estimates, for every kind of LDM."""

from typing import Any

import pytest
import torch

from latentcrf.training.ldm import LDM
from latentcrf.training.observations import observe_real
from latentcrf.training.recording import compute_levels
from tests.training import tiny

STEPS = 20


class Oracle(torch.nn.Module):
    """A U-Net that knows the clean latents and returns the exact output of its prediction type.

    It asserts that it gets both halves of a guided batch at the same latents, and SDXL's further inputs.
    """

    def __init__(self, unet: Any, scheduler: Any, clean: torch.Tensor, pooled: torch.Tensor | None) -> None:
        super().__init__()
        self.config, self.scheduler, self.clean, self.pooled = unet.config, scheduler, clean, pooled

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor, **more: Any) -> Any:
        count = len(self.clean)
        assert len(noisy) == len(states) == 2 * count and noisy[:count].equal(noisy[count:])
        if self.pooled is None:
            assert more == {}
        else:
            conditions = more["added_cond_kwargs"]
            assert conditions["text_embeds"][count:].equal(self.pooled)
            assert conditions["time_ids"].tolist() == [[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]] * 2 * count
        abar = self.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        a, s, clean = abar.sqrt(), (1 - abar).sqrt(), self.clean.repeat(2, 1, 1, 1)
        noise = (noisy - a * clean) / s
        kind = self.scheduler.config.prediction_type
        exact = {"epsilon": noise, "v_prediction": a * noise - s * clean, "sample": clean}[kind]
        return type("Output", (), {"sample": exact})


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", tiny.PIPELINES)
def test_an_oracle_denoiser_hands_over_the_real_latents(name: str, prediction_type: str) -> None:
    ldm, clean = LDM(tiny.PIPELINES[name](prediction_type)), torch.randn(6, 4, 8, 8)
    alphas = compute_levels(ldm.scheduler, STEPS)
    captions = ldm.encode_prompts(["red apple", "pizza", "cat", "", "umbrella", "rose"])
    ldm.pipeline.unet = Oracle(ldm.unet, ldm.scheduler, clean, captions.pooled)
    observation = observe_real(ldm, clean, captions, alphas, guidance=3.0)
    torch.testing.assert_close(observation.denoised, clean, atol=2e-4, rtol=1e-4)
    a_in, a_out = torch.as_tensor(observation.alpha_in), torch.as_tensor(observation.alpha_out)
    assert (a_in < a_out).all() and (torch.as_tensor(observation.alpha_denoised) < a_in).all()
    noise = (observation.latents - a_in.sqrt().view(-1, 1, 1, 1) * clean) / (1 - a_in).sqrt().view(-1, 1, 1, 1)
    assert 0.9 < noise.std() < 1.1  # the latents hold the noise of their level
    assert observation.prompt_embeds is captions.states
