"""Train a finisher: a LatentCRF that corrects final latents as its teacher does, at once.

    python -m latentcrf.training.train_finisher --base assets/models/emoji-ldm \\
        --static assets/models/emoji-latentcrf-static \\
        --data data/emoji --out runs/finisher --minutes 30

The LDM's own runs of 4 to 15 steps are recorded once (--runs; the time for it is not counted in the minutes), with what
the teacher makes of their final latents: it blends in the static form's result by 0.4 and makes a VAE round trip, and
repeats both. The CRF learns to compute that result from the same final latents, for a fraction of a denoiser call's
time.

Every tenth run only validates (it has other noise; where there are more runs than prompts, not another prompt). The log
holds the remaining squared error, as a share of the squared change that the teacher makes. The run's folder `finisher`
is the trained model (weights averaged over the last steps, float16).
"""

import argparse

import torch

from latentcrf.model import LatentCRF
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
from latentcrf.training.chunks import Rows, select_rows
from latentcrf.training.data import DatasetError, read_prompts
from latentcrf.training.final_latents import FinalLatentsSettings, load_final_latents, load_static, record_final_latents
from latentcrf.training.ldm import load_ldm
from latentcrf.training.loop import (
    Run,
    build_accelerator,
    optimise,
    run_and_report_errors,
    set_learning_rate,
    warm_cosine,
)
from latentcrf.training.presets import PRESETS, with_overrides
from latentcrf.training.processes import count_all, take_share
from latentcrf.training.recording import HELD_OUT_EVERY
from latentcrf.training.sizing import dry_run
from latentcrf.training.stages import draw_iterations, finish
from latentcrf.utils.arguments import run_command


@torch.no_grad()
def remaining_error(
    crf: LatentCRF, latents: Rows, finished: Rows, batch_size: int = 64, precision: torch.dtype = torch.float32
) -> float:
    """Compute the squared error of a finisher, as a share of the squared change that its teacher makes.

    Args:
        crf: the finisher's CRF.
        latents: final latents (N, C, H, W).
        finished: what the teacher makes of them (N, C, H, W).
        batch_size: latents that are read and corrected at once.
        precision: in which the CRF's network computes.

    Returns:
        The share: 0 equals the teacher, 1 changes nothing.
    """
    device = next(crf.parameters()).device
    left = change = 0.0
    for chosen in torch.arange(len(latents)).split(batch_size):
        before, target = latents[chosen], finished[chosen]
        result = finish(crf, before.to(device), precision=precision).cpu()
        left += (result - target).square().sum().item()
        change += (before - target).square().sum().item()
    return left / change


def train(options: argparse.Namespace) -> None:
    """Run the training that the command line describes."""
    preset = with_overrides(PRESETS[options.preset], options.batch_size, options.learning_rate)
    accelerator = build_accelerator(options)
    device = accelerator.device
    torch.manual_seed(options.seed)
    ldm = load_ldm(options.base, device)
    static = load_static(options.static, ldm)
    recording, prompts = (
        FinalLatentsSettings.choose(options.guidance, options.chunk),
        read_prompts(find_source(options)),
    )
    folder = options.recordings or options.out / "final-latents"
    record_final_latents(ldm, static, prompts, folder, options.runs, recording, options.precision)
    accelerator.wait_for_everyone()
    latents, finished = load_final_latents(folder, options.runs)
    validates = torch.arange(len(latents)) % HELD_OUT_EVERY == 0
    held_out = select_rows(latents, validates), select_rows(finished, validates)
    inputs, targets = select_rows(latents, ~validates), select_rows(finished, ~validates)

    crf = build_crf(preset, ldm.latent_shape[0], init_from=options.init_from).to(device)
    optimizer = torch.optim.AdamW(crf.parameters(), lr=preset.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)

    def report() -> dict[str, float]:
        with run.averaged():
            error = remaining_error(crf, *held_out, precision=options.precision)
            save_half(crf, options.out / "finisher")
        return {"remaining_error": error}

    run = Run(accelerator, options, crf, {"optimizer": optimizer}, report, report_seconds=120.0)
    for step in run.steps():
        set_learning_rate(optimizer, preset.learning_rate * warm_cosine(step, run.fraction))
        chosen = take_share(torch.randint(len(inputs), (count_all(preset.batch_size),)))
        results = finish(crf, inputs[chosen].to(device), draw_iterations(), options.precision)
        loss = (results - targets[chosen].to(device)).square().mean()
        optimise(accelerator, loss, crf, optimizer)
        run.count(preset.batch_size, loss=loss)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m latentcrf.training.train_finisher",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser, preset="emoji-finisher")
    parser.add_argument(
        "--static", required=True, metavar="FOLDER", help="LatentCRF of the static form, for the teacher"
    )
    add_run_arguments(parser)
    settings = FinalLatentsSettings()
    add_recording_arguments(parser, runs=10_240, smallest=32, chunk=settings.chunk, subfolder="final-latents")
    add_step_arguments(parser, None, None, "final latents")
    options = parse_arguments(parser, arguments)
    check_chunk(parser, options, settings.num_kinds)
    if options.dry_run:
        return dry_run(options)
    return run_and_report_errors(train, options, DatasetError)


if __name__ == "__main__":
    run_command(main)
