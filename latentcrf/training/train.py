"""Train a LatentCRF for an LDM.

    python -m latentcrf.training.train --base assets/models/emoji-ldm --data data/emoji --out runs/crf --minutes 60
    accelerate launch -m latentcrf.training.train ...   # on several GPUs and machines

Stage 1, until --stage1-until of the budget: denoising. Real images' latents are noised, the LDM makes its clean
estimate in one call, and the CRF corrects it towards the real latents; a discriminator compares its latents with real
ones.

Stage 2: distillation. The LDM's own runs are recorded once (--runs; the time for it is not counted in the minutes).
From a random hand-over the CRF has to return latents with which the LDM goes on as in the full run.

Stage 3, from --stage3-from on: the images that the CRF's latents decode to shall be near those of the full runs, in
pixels and in a trained network's features. A second discriminator, on those features, compares the two pair by pair.

Hand-over levels and iteration counts are random (stage 3 leaves out the first 0.3 of a run), so one CRF serves them
all.

The run's folder `latentcrf` is the trained model (weights averaged over the last steps, float16). Before stage 3 it is
the model of the report with the least error on held-out recorded runs: a CRF sees few runs and may overfit them. In
stage 3 it is the latest, because a distance to those runs does not measure what stage 3 gains. With --keep-start the
model is a mean with the weights of --init-from (WiSE-FT, arXiv 2109.01903).
"""

import argparse
import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from latentcrf.model import LatentCRF
from latentcrf.observation import Observation, hand_over
from latentcrf.training.arguments import (
    add_model_arguments,
    add_recording_arguments,
    add_run_arguments,
    add_step_arguments,
    check_chunk,
    find_source,
    parse_arguments,
)
from latentcrf.training.checkpoints import build_crf, save_half
from latentcrf.training.data import DatasetError, read_prompts
from latentcrf.training.discriminators import PAIR_DISCRIMINATORS, PairDiscriminator, add_discriminator_arguments
from latentcrf.training.latents import encode_data
from latentcrf.training.ldm import load_ldm
from latentcrf.training.loop import (
    Run,
    RunError,
    Stateful,
    build_accelerator,
    run_and_report_errors,
    set_learning_rate,
    warm_cosine,
)
from latentcrf.training.observations import observe_coarse, observe_run
from latentcrf.training.presets import PRESETS, with_overrides
from latentcrf.training.recording import (
    HELD_OUT_EVERY,
    RecordedRuns,
    RecordingSettings,
    compute_levels,
    load_recorded_runs,
    record_runs,
)
from latentcrf.training.sizing import dry_run
from latentcrf.training.stages import Denoising, Distillation, Refinement, Stage, to_device
from latentcrf.utils.arguments import float_between, run_command
from latentcrf.utils.weights import find_weights

PAPER_BYPASS = (33, 49)  # of 50 steps, where progress is measured


@torch.no_grad()
def measure_errors(
    correct: Callable[[Observation], Tensor], runs: RecordedRuns, device: torch.device, batch_size: int = 64
) -> dict[str, Tensor]:
    """Measure the squared error of the returned latents, against those of the full runs.

    Args:
        correct: a hand-over -> clean latents y (B, C, H, W).
        runs: the recording (n runs).
        device: on which `correct` computes.
        batch_size: hand-overs that are read and corrected at once.

    Returns:
        Mean squared errors (n,): "mse" for the paper's bypass, "few" for all recorded steps of the coarse runs.
    """
    assert runs.coarse is not None

    def observe_paper_bypass(chosen: Tensor) -> tuple[Observation, Tensor]:
        call, first, last = (torch.full_like(chosen, step) for step in (PAPER_BYPASS[0] - 1, *PAPER_BYPASS))
        return observe_run(runs, chosen, call, first, last)

    hand_overs: dict[str, tuple[Callable[[Tensor], tuple[Observation, Tensor]], Tensor]] = {
        "mse": (observe_paper_bypass, torch.arange(len(runs))),
        "few": (partial(observe_coarse, runs), runs.coarse.runs),
    }
    errors = {}
    for kind, (observe, run) in hand_overs.items():
        each = []
        for chosen in torch.arange(len(run)).split(batch_size):
            observation, target = observe(chosen)
            observation = to_device(observation, device)
            back = hand_over(observation.latents, correct(observation), observation.alpha_in, observation.alpha_out)
            each.append((back.cpu() - target).square().mean((1, 2, 3)))
        count = torch.bincount(run, minlength=len(runs))
        errors[kind] = torch.zeros(len(runs)).index_add_(0, run, torch.cat(each)) / count
    return errors


def validate(crf: LatentCRF, runs: RecordedRuns, device: torch.device) -> dict[str, float]:
    """Average `measure_errors` over recorded runs, for the CRF and for the zero-parameter bypass.

    Args:
        crf: the LatentCRF.
        runs: held-out runs.
        device: of the CRF.

    Returns:
        "mse_crf", "mse_zero_parameter", "few_crf" and "few_zero_parameter".
    """
    corrections: dict[str, Callable[[Observation], Tensor]] = {
        "crf": crf,
        "zero_parameter": lambda observation: observation.denoised,
    }
    errors = {name: measure_errors(correct, runs, device) for name, correct in corrections.items()}
    return {f"{kind}_{name}": errors[name][kind].mean().item() for kind in ("mse", "few") for name in corrections}


def split(runs: RecordedRuns) -> tuple[RecordedRuns, RecordedRuns]:
    """Split recorded runs into those that are held out and those that are learned from."""
    return runs.split(HELD_OUT_EVERY)


def relative_error(metrics: dict[str, float]) -> float:
    """Compute the CRF's error over that of the zero-parameter bypass, the mean of both kinds of hand-over."""
    return sum(metrics[f"{kind}_crf"] / metrics[f"{kind}_zero_parameter"] for kind in ("mse", "few")) / 2


def least_relative_error(log: Path) -> float:
    """Return the least `relative_error` in a run's log.csv so far; infinity where there is none.

    Raises:
        RunError: it is broken; the message names line and column.
    """
    if not log.exists():
        return math.inf
    with open(log, encoding="utf-8", newline="") as file:
        reader, errors = csv.DictReader(file), []
        for row in reader:
            values: dict[str, float] = {}
            for name, value in row.items():
                try:
                    values |= {name: float(value)} if value != "" else {}
                except (TypeError, ValueError):  # None stands for a column, and a list for a value, beyond the header
                    where = f"{log}, line {reader.line_num}, column {name}"
                    raise RunError(f"{where}: {value!r} is no number.") from None
            errors.append(relative_error(values))
    return min(errors, default=math.inf)


def train(options: argparse.Namespace) -> None:
    """Run the training that the command line describes."""
    preset = with_overrides(PRESETS[options.preset], options.batch_size, options.learning_rate, options.guidance)
    accelerator, source = build_accelerator(options), find_source(options)
    device = accelerator.device
    torch.manual_seed(options.seed)
    ldm = load_ldm(options.base, device)
    recording = RecordingSettings.choose(options.guidance, options.chunk)
    stage3_from = max(options.stage1_until, options.stage3_from)
    if stage3_from < 1:
        find_weights(PAIR_DISCRIMINATORS[options.discriminator], options.feature_weights)  # before anything is recorded
    prompts, folder = read_prompts(source), options.recordings or options.out / "runs"
    # before the runs are recorded, which takes longer: data that cannot be used end the command early
    real = encode_data(ldm, source, options.out / "latents") if options.stage1_until > 0 else None
    record_runs(ldm, prompts, folder, options.runs, recording, options.precision)
    accelerator.wait_for_everyone()
    runs = load_recorded_runs(folder, ldm.scheduler, options.runs)
    validation, runs = split(runs)

    prompt_dim = ldm.unet.config.cross_attention_dim if preset.reads_prompt else None
    crf = build_crf(preset, ldm.latent_shape[0], prompt_dim, options.init_from).to(device)
    start = [weight.detach().clone() for weight in crf.parameters()]
    optimizer = torch.optim.AdamW(crf.parameters(), lr=preset.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    stages: list[tuple[float, Stage]] = []  # with the share of the budget at which each begins
    if real is not None:
        alphas = compute_levels(ldm.scheduler, recording.steps)
        stages.append((0.0, Denoising(accelerator, preset, ldm, real, alphas, options.precision)))
    stages.append((options.stage1_until, Distillation(accelerator, preset, runs, options.precision)))
    if stage3_from < 1:
        discriminator = PairDiscriminator(options.discriminator, options.feature_weights, precision=options.precision)
        stages.append((stage3_from, Refinement(accelerator, preset, ldm, runs, discriminator, options.precision)))

    def report() -> dict[str, float]:
        crf.eval()
        with run.averaged():
            with torch.no_grad():
                for weight, before in zip(crf.parameters(), start, strict=True):
                    weight.lerp_(before, options.keep_start)
            metrics = validate(crf, validation, device)
            is_best = relative_error(metrics) < least_relative_error(options.out / "log.csv")
            if run.fraction > stage3_from or is_best:
                save_half(crf, options.out / "latentcrf")
        crf.train()
        return metrics

    crf.train()
    components: dict[str, Stateful] = {"optimizer": optimizer}
    for _, stage in stages:
        components |= stage.components
    run = Run(accelerator, options, crf, components, report, report_seconds=120.0)
    for step in run.steps():
        begin, stage = [each for each in stages if each[0] <= run.fraction][-1]
        set_learning_rate(optimizer, stage.learning_rate * warm_cosine(step, run.fraction))
        losses = stage.step(crf, optimizer, run.fraction - begin)
        run.count(stage.batch_size, **losses)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m latentcrf.training.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    share = float_between(0, 1)
    add_model_arguments(parser, preset="emoji")
    add_run_arguments(parser)
    parser.add_argument("--stage1-until", type=share, default=0.3, help="share of the budget for stage 1 (default 0.3)")
    parser.add_argument(
        "--stage3-from", type=share, default=1.0, help="share of the budget at which stage 3 begins (default 1: none)"
    )
    add_discriminator_arguments(parser, PAIR_DISCRIMINATORS)
    settings = RecordingSettings()
    add_recording_arguments(parser, runs=512, smallest=16, chunk=settings.chunk, subfolder="runs")
    add_step_arguments(parser, None, None, "hand-overs")
    parser.add_argument(
        "--keep-start",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="share of the weights of --init-from in the mean that is written and measured, 0 to 1; with --resume, on "
        "a finished run too, another share writes the mean anew (default 0: the trained weights alone)",
    )
    options = parse_arguments(parser, arguments)
    if options.keep_start and not options.init_from:
        parser.error("--keep-start needs --init-from FOLDER, whose weights enter the mean.")
    check_chunk(parser, options, settings.num_kinds)
    if options.dry_run:
        return dry_run(options)
    return run_and_report_errors(train, options, DatasetError)


if __name__ == "__main__":
    run_command(main)
