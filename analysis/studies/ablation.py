"""What each part of the CRF adds: models and iteration counts on the same recorded runs."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from analysis.metrics.distributions import RealFeatures, kid_draws
from analysis.metrics.intervals import cluster_weights, interval, mean_draws
from analysis.reference_features import embed
from analysis.sampling import decode
from analysis.studies import FULL_RUN, ZERO_PARAMETER_BYPASS
from latentcrf import LatentCRF, Observation
from latentcrf.observation import trend
from latentcrf.training.observations import observe_coarse, observe_run
from latentcrf.training.recording import RecordedRuns
from latentcrf.training.train import PAPER_BYPASS, measure_errors

CPU = torch.device("cpu")
BLEND = 0.7  # of final latents with a model's output: best for the static form on validation prompts
ITERATIONS = 5
KINDS = {"mse": "MSE, bypass (33, 49) of 50", "few": "MSE, runs of 4 to 12 steps"}
IMAGE_KINDS = {
    "kid": "KID x 1000, bypass (33, 50) of 50",
    "kid_few": "KID x 1000, runs of 4 to 12 steps",
    "kid_finished": "KID x 1000, as finisher at 0.7",
}
STRAIGHT_LINE = "straight line through two clean estimates"
SLOPE = 0.4  # of the straight line, in units of log-SNR, chosen on recorded runs that are learned
ENDS = ("", "_low", "_high")
Correction = Callable[[Observation], Tensor]


class RunImages:
    """KID x 1000, to real images, of the images that recorded runs give when a CRF ends or finishes them.

    Args:
        pipeline: decodes the latents.
        runs: the recorded runs (n); the bootstrap resamples these.
        features: reads the images.
        real: of the data set's images.
        precision: in which the decoder computes, default float32.
    """

    def __init__(
        self, pipeline: StableDiffusionPipeline, runs: RecordedRuns, features: nn.Module, real: RealFeatures,
        precision: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        assert runs.coarse is not None
        self.pipeline, self.features, self.real, self.precision = pipeline, features, real, precision
        self.weights, self.final = cluster_weights(len(runs)), runs.latents[:, -1]
        steps, every, end = runs.coarse, torch.arange(len(runs)), torch.full((len(runs),), runs.steps)
        first = torch.full_like(end, PAPER_BYPASS[0])
        # the last of a coarse run's recorded steps: the next is another run's, or the same run's by another solver
        another = (steps.runs[1:] != steps.runs[:-1]) | (steps.alphas[1:] < steps.alphas[:-1])
        last = torch.cat([another, torch.tensor([True])]).nonzero()[:, 0]
        last = last[steps.runs[last].argsort(stable=True)].view(len(runs), -1)
        self.observations = {
            "kid": [observe_run(runs, every, first - 1, first, end)[0]],
            "kid_few": [observe_coarse(runs, by_solver)[0] for by_solver in last.T],
            "kid_finished": [Observation(self.final, self.final, 1.0, 1.0)],
        }

    @torch.no_grad()
    def compute_draws(self, correct: Correction | None) -> dict[str, np.ndarray]:
        """Compute `kid_draws` for each of `IMAGE_KINDS`.

        Args:
            correct: gives the latents; None: the LDM's own final latents.

        Returns:
            (1 + resamples,) by kind: the mean over the solvers, as two solvers' images from one noise are not
            independent.
        """
        return {
            kind: np.mean([self._compute_kid(self._end_runs(kind, each, correct)) for each in observations], axis=0)
            for kind, observations in self.observations.items()
        }

    def _end_runs(self, kind: str, observation: Observation, correct: Correction | None) -> Tensor:
        if correct is None:
            return self.final
        latents = correct(observation)
        return self.final.lerp(latents, BLEND) if kind == "kid_finished" else latents

    def _compute_kid(self, latents: Tensor) -> np.ndarray:
        features = embed(self.features, decode(self.pipeline, latents, precision=self.precision))
        return 1000 * kid_draws(features, np.arange(len(features)), self.real, self.weights)


def follow_straight_line(observation: Observation) -> Tensor:
    """Correct by the trend alone, without a network: from the earlier clean estimate through the last, and `SLOPE` on.

    Args:
        observation: of B items.

    Returns:
        Clean latents (B, C, h, w).
    """
    level = observation.alpha_in if observation.alpha_denoised is None else observation.alpha_denoised
    return observation.denoised + SLOPE * trend(observation, level)[0]


def compute(
    crfs: dict[str, LatentCRF], runs: RecordedRuns, counts: list[int], images: RunImages | None = None
) -> pd.DataFrame:
    """Compute the errors of each model, and of the first model with other iteration counts.

    Args:
        crfs: models by name, the complete one first.
        runs: held-out recorded runs.
        counts: iteration counts of the first model, beside `ITERATIONS`.
        images: to measure images too; None (default): latents alone.

    Returns:
        Columns model, iterations, parameters, and for each of `KINDS` the mean error, its interval (_low, _high) and
        the difference to the first row (_difference, and its interval), negative where better. With `images` alike for
        each of `IMAGE_KINDS`, and a row for the full run. At the end the baselines that need no training: the straight
        line, and the zero-parameter bypass.
    """
    first = next(iter(crfs))
    cases = [(name, ITERATIONS) for name in crfs] + [(first, count) for count in counts if count != ITERATIONS]
    models: list[tuple[str, int, int, Correction | None]] = [
        (name, count, sum(p.numel() for p in crfs[name].parameters()), partial(crfs[name], num_iterations=count))
        for name, count in cases
    ]
    models.append((STRAIGHT_LINE, 0, 1, follow_straight_line))
    models.append((ZERO_PARAMETER_BYPASS, 0, 0, lambda observation: observation.denoised))
    if images is not None:
        models.append((FULL_RUN, 0, 0, None))
    rows: list[dict[str, object]] = []
    reference: dict[str, np.ndarray] = {}
    weights = cluster_weights(len(runs))
    for name, count, parameters, correct in models:
        row: dict[str, object] = {"model": name, "iterations": count, "parameters": parameters}
        draws = {} if images is None else images.compute_draws(correct)
        if correct is not None:
            by_run = measure_errors(correct, runs, CPU)
            draws = {kind: mean_draws(by_run[kind].numpy(), weights) for kind in KINDS} | draws
        reference = reference or draws
        for kind, each in draws.items():
            for suffix, values in (("", each), ("_difference", each - reference[kind])):
                ends = interval(values, distance=kind in IMAGE_KINDS)
                row |= {f"{kind}{suffix}{end}": value for end, value in zip(ENDS, ends, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)
