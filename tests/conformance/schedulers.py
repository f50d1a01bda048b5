"""Every scheduler class that diffusers exports, examined with an oracle denoiser.

The oracle always returns the exact output, for levels that are computed here from the scheduler's configuration by the
textbook, not by `latentcrf.noise_levels`. With it every deterministic sampler stays on the line a x0 + s eps.
"""

import inspect
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import diffusers
import torch
from torch import Tensor

from latentcrf import Finisher, LatentCRF, LatentCRFScheduler

STEPS, BYPASS = 10, (3, 7)
EXACT = 2e-5  # deterministic schedulers: kept latents against the full run's
NOISE = (0.98, 1.02)  # deviation of the noise handed back, of 32,768 values
SHAPE = (2, 4, 64, 64)


@dataclass(frozen=True)
class Verdict:
    """What became of a class.

    Attributes:
        state: "works", "refused", "not applicable" (unwrapped it cannot be run either), or "wrong".
        words: the message, or what is wrong.
        numbers: what was measured.
    """

    state: str
    words: str = ""
    numbers: dict[str, float] = field(default_factory=dict)


def list_classes() -> dict[str, type]:
    """List the scheduler classes that diffusers exports, by name, without base classes."""
    names = [name for name in dir(diffusers) if name.endswith("Scheduler")]
    return {name: getattr(diffusers, name) for name in names}


def cumulative_alphas(config: Any) -> Tensor:
    """Compute abar of each training timestep from the betas of a configuration."""
    count, schedule = config.num_train_timesteps, config.beta_schedule
    if schedule == "linear":
        betas = torch.linspace(config.beta_start, config.beta_end, count, dtype=torch.float64)
    elif schedule == "scaled_linear":
        betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, count, dtype=torch.float64) ** 2
    else:
        raise ValueError(f"no textbook formula for beta_schedule {schedule!r} here")
    return (1 - betas).cumprod(0)


class Oracle:
    """The exact denoiser of one image `clean`, and the levels of the scheduler's timesteps.

    Args:
        scheduler: after `set_timesteps`.
        clean: the image that every latent leads to (B, C, H, W), within -1 and 1, where clipping changes nothing.
    """

    def __init__(self, scheduler: Any, clean: Tensor) -> None:
        self.clean, config = clean, scheduler.config
        self.is_flow = "beta_schedule" not in config
        self.kind = config.get("prediction_type", "flow_prediction")
        self.alphas = None if self.is_flow else cumulative_alphas(config)
        # latents whose noise has the deviation sigma, scaled down for the denoiser
        self.is_exploding = float(getattr(scheduler, "init_noise_sigma", 1.0)) > 1.5

    def scales(self, timestep: Any) -> tuple[float, float]:
        """Signal and noise scale of the latents that the denoiser sees at a timestep."""
        if self.is_flow:
            return 1 - float(timestep) / 1000, float(timestep) / 1000
        low = int(timestep)
        high, part = min(low + 1, len(self.alphas) - 1), float(timestep) - low
        logs = [math.log((1 - float(self.alphas[index])) / float(self.alphas[index])) for index in (low, high)]
        ratio = math.exp((1 - part) * logs[0] + part * logs[1])  # s^2 / a^2, between two timesteps geometrically
        return (1 / (1 + ratio)) ** 0.5, (ratio / (1 + ratio)) ** 0.5

    def noise_in(self, latents: Tensor, timestep: Any) -> Tensor:
        """The noise in the sampler's latents of a timestep, of deviation 1."""
        a, s = self.scales(timestep)
        return (latents - self.clean) / (s / a) if self.is_exploding else (latents - a * self.clean) / s

    def begin(self, noise: Tensor, timestep: Any) -> Tensor:
        """The sampler's latents at its first timestep."""
        a, s = self.scales(timestep)
        return self.clean + s / a * noise if self.is_exploding else a * self.clean + s * noise

    def __call__(self, latents: Tensor, timestep: Any) -> Tensor:
        """The denoiser's output for what it sees."""
        a, s = self.scales(timestep)
        noise = (latents - a * self.clean) / s
        outputs = {"epsilon": noise, "sample": self.clean, "v_prediction": a * noise - s * self.clean}
        return outputs.get(self.kind, noise - self.clean)


def run(scheduler: Any, clean: Tensor, noise: Tensor) -> dict[float, Tensor]:
    """Run a sampler with the oracle.

    Returns:
        The latents before each timestep, by timestep, and the final ones at -1.
    """
    scheduler.set_timesteps(STEPS)
    oracle, generator = Oracle(scheduler, clean), torch.Generator().manual_seed(1)
    latents, states = oracle.begin(noise, scheduler.timesteps[0]), {}
    options = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for timestep in scheduler.timesteps:
        states[float(timestep)] = latents
        seen = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
        latents = scheduler.step(oracle(seen, timestep), timestep, latents, **options).prev_sample
    return states | {-1.0: latents}


def make_finisher(channels: int = 4) -> Finisher:
    crf = LatentCRF(latent_channels=channels, form="static")
    torch.nn.init.constant_(crf.raw_reliability, 1.0)  # a fresh one hardly changes anything
    return Finisher(crf)


def largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def examine(kind: Any) -> Verdict:
    """Examine a scheduler class with its default configuration.

    Args:
        kind: the class.
    """
    try:
        kind()
    except Exception as error:  # whatever it asks for
        return Verdict("not applicable", f"cannot be made without arguments: {first_line(error)}")
    try:
        LatentCRFScheduler(kind(), None, BYPASS)
    except ValueError as error:
        return Verdict("refused", str(error))
    torch.manual_seed(0)
    clean, noise = torch.randn(SHAPE).clamp(-0.9, 0.9), torch.randn(SHAPE)
    try:
        full = run(kind(), clean, noise)
    except Exception as error:
        return Verdict("not applicable", f"its own run fails: {first_line(error)}")
    try:
        return compare(partial(LatentCRFScheduler, kind()), kind, full, clean, noise)
    except Exception as error:
        return Verdict("wrong", f"{type(error).__name__}: {first_line(error)}")


def compare(wrap: Any, kind: Any, full: dict[float, Tensor], clean: Tensor, noise: Tensor) -> Verdict:
    """Compare wrapped runs with the full run.

    Args:
        wrap: makes a wrapped scheduler of the class, with (crf, bypass, ...).
        kind: the class.
        full: the full run's states.
        clean: as of `Oracle`.
        noise: the initial noise.
    """
    problems, numbers = [], {}
    plain = run(LatentCRFScheduler(kind(), None, None), clean, noise)
    if any(not torch.equal(plain[key], full[key]) for key in full):
        problems.append("without a bypass it is not the plain run")
    scheduler = wrap(None, BYPASS)
    kept = run(scheduler, clean, noise)
    if len(kept) - 1 != STEPS - (BYPASS[1] - BYPASS[0]):
        problems.append(f"{len(kept) - 1} denoiser calls")
    record = scheduler.last_bypass
    if record is None:
        return Verdict("wrong", "no record of the bypass")
    numbers["clean estimate"] = largest(record.observation.denoised, clean)
    timesteps = list(full)
    re_entry = timesteps[BYPASS[1]]
    deviations = {key: largest(kept[key], full[key]) for key in kept}
    numbers["re-entry noise"] = float(Oracle(scheduler, clean).noise_in(kept[re_entry], re_entry).std())
    # a sampler that adds noise has another noise after the bypass; what it began is the same
    begun = max(deviations[key] for key in timesteps[: BYPASS[0]])
    deterministic = is_deterministic(kind, full, clean, noise)
    numbers["kept latents"] = max(deviations.values()) if deterministic else begun
    if numbers["kept latents"] > EXACT * max(1.0, float(full[timesteps[0]].std())):
        problems.append("kept latents differ from the full run's")
    if not NOISE[0] < numbers["re-entry noise"] < NOISE[1]:
        problems.append("the noise handed back has another deviation")
    again = run(scheduler, clean, noise)
    if any(not torch.equal(again[key], kept[key]) for key in kept):
        problems.append("a second run differs from the first")
    if deterministic:
        single = run(wrap(None, BYPASS), clean[:1], noise[:1])
        numbers["batch"] = max(largest(single[key], kept[key][:1]) for key in kept)
        if numbers["batch"] > EXACT * max(1.0, float(full[timesteps[0]].std())):
            problems.append("a batch differs from its single items")
    with torch.no_grad():
        finished = wrap(None, None, finisher=make_finisher())
        last = run(finished, clean, noise)[-1.0]
    if finished.last_finish is None or not torch.equal(last, finished.last_finish.latents):
        problems.append("the finisher's latents are not the run's")
    elif torch.equal(last, finished.last_finish.before):
        problems.append("the finisher changed nothing")
    return Verdict("wrong" if problems else "works", "; ".join(problems), numbers)


def is_deterministic(kind: Any, full: dict[float, Tensor], clean: Tensor, noise: Tensor) -> bool:
    """Whether the sampler adds no noise: with the oracle the noise in its latents stays what it was."""
    scheduler = kind()
    scheduler.set_timesteps(STEPS)
    oracle, last = Oracle(scheduler, clean), list(full)[-2]
    return largest(oracle.noise_in(full[last], last), noise) < 0.1


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    for name, each in list_classes().items():
        verdict = examine(each)
        numbers = ", ".join(f"{key} {value:.2g}" for key, value in verdict.numbers.items())
        print(f"| {name} | {verdict.state} | {verdict.words or numbers} |")
