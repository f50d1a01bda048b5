"""Train a finisher: a LatentCRF that does at once what the static form and the autoencoder's round trip do to last latents.

    python -m latentcrf.training.train_finisher --base assets/models/emoji-ldm --static assets/models/emoji-latentcrf-static \\
        --data data/emoji --out runs/finisher --minutes 30

The LDM's own runs of 4 to 15 steps are recorded once (`--runs`, not counted in the minutes), with what the static form, four
tenths of the way, and a round trip through the autoencoder make of their last latents when both are done twice (`--passes`).
The CRF learns to give the latter from the former at once, at a fraction of a U-Net call: distillation of what both do. Every
tenth run only validates (of other noise; where there are more runs than prompts, not of other prompts); the log tells the
squared error that is left there, as a share of what the teacher changes. The folder `finisher` of the run is the trained model
(weights averaged over the last steps, fp16).
"""

import argparse
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from latentcrf.emoji.dataset import DatasetError, load
from latentcrf.model import LatentCRF, Observation
from latentcrf.precision import autocast
from latentcrf.training.finals import FinalsRecording, load_finals, record_finals
from latentcrf.training.loop import (
    EMA,
    Run,
    RunError,
    best_device,
    check_run_arguments,
    explained,
    optimise,
    run_arguments,
    set_learning_rate,
    step_arguments,
    warm_cosine,
)
from latentcrf.training.presets import PRESETS, adjusted
from latentcrf.training.stages import random_iterations
from latentcrf.training.train import HELD_OUT_EVERY, build_crf, check_chunk, chunk_argument, prompt_list, save_half


def finished_by(
    crf: LatentCRF, latents: Tensor, num_iterations: int = 5, precision: torch.dtype = torch.float32
) -> Tensor:
    """The finisher's result for last latents (B, C, H, W)."""
    with autocast(latents.device, precision):
        return crf(Observation(latents, latents, 1.0, 1.0), num_iterations)


@torch.no_grad()
def remaining_error(
    crf: LatentCRF, latents: Tensor, finished: Tensor, batch_size: int = 64, precision: torch.dtype = torch.float32
) -> float:
    """Squared error of the CRF's result, as a share of the squared change from `latents` to `finished` (N, C, H, W)."""
    device = next(crf.parameters()).device
    made = torch.cat(
        [finished_by(crf, part.to(device), precision=precision).cpu() for part in latents.split(batch_size)]
    )
    return ((made - finished).square().mean() / (latents - finished).square().mean()).item()


def train(options: argparse.Namespace) -> None:
    """Run the training that the command line describes."""
    preset, device = adjusted(PRESETS[options.preset], options.batch_size, options.learning_rate), best_device()
    torch.manual_seed(options.seed)
    ldm = StableDiffusionPipeline.from_pretrained(options.base, torch_dtype=torch.float32, use_safetensors=True).to(
        device
    )
    static = LatentCRF.from_pretrained(options.static, torch_dtype=torch.float32, use_safetensors=True).to(device)
    if static.form != "static":
        raise RunError(f"--static {options.static} holds a CRF of form {static.form!r}; the teacher's is 'static'.")
    if static.latent_channels != ldm.unet.config.in_channels:
        raise RunError(
            f"--static {options.static} is for latents of {static.latent_channels} channels; those of {options.base} have "
            f"{ldm.unet.config.in_channels}."
        )
    recording = FinalsRecording(chunk=options.chunk, passes=options.passes)
    table, _ = load(options.data)
    prompts = prompt_list([row for row in table if row["core"] and row["split"] == "train"])
    folder = options.recordings or options.out / "finals"
    record_finals(ldm, static, prompts, folder, options.runs, recording, options.precision)
    latents, finished = load_finals(folder, options.runs, recording)
    validates = torch.arange(len(latents)) % HELD_OUT_EVERY == 0
    learned = latents[~validates].to(device), finished[~validates].to(device)

    crf = build_crf(preset, ldm.unet.config.in_channels, init_from=options.init_from).to(device)
    ema = EMA(crf, decay=0.998)
    optimizer = torch.optim.AdamW(crf.parameters(), lr=preset.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)

    def report() -> dict[str, float]:
        with ema.applied():
            left = remaining_error(crf, latents[validates], finished[validates], precision=options.precision)
            save_half(crf, options.out / "finisher")
        return {"remaining_error": left}

    parts = {"crf": crf, "ema": ema, "optimizer": optimizer}
    run = Run(options.out, parts, options.minutes, options.resume, report, options.checkpoint_seconds, 120.0)
    for step in run.steps():
        set_learning_rate(optimizer, preset.learning_rate * warm_cosine(step, run.fraction))
        chosen = torch.randint(len(learned[0]), (preset.batch_size,)).to(device)
        made = finished_by(crf, learned[0][chosen], random_iterations(), options.precision)
        loss = (made - learned[1][chosen]).square().mean()
        optimise(loss, crf, optimizer)
        run.count(preset.batch_size, loss=loss.detach())
        ema.update()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m latentcrf.training.train_finisher",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", required=True, metavar="FOLDER", help="the LDM: a StableDiffusionPipeline folder")
    parser.add_argument(
        "--static", required=True, metavar="FOLDER", help="LatentCRF's static form, the teacher's first part"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set of latentcrf.emoji.dataset")
    run_arguments(parser)
    finishers = sorted(name for name, preset in PRESETS.items() if preset.corrects_clean)
    parser.add_argument(
        "--preset", choices=finishers, default="emoji-finisher", help="the recipe (default emoji-finisher)"
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=10_240,
        help="LDM runs to learn from, recorded where they are not yet (default 10240)",
    )
    parser.add_argument(
        "--recordings",
        type=Path,
        metavar="DIR",
        help="where they are kept, to be shared by several runs (default OUT/finals)",
    )
    parser.add_argument(
        "--init-from", metavar="FOLDER", help="start from the weights of this finisher, or of a plain one of its size"
    )
    parser.add_argument(
        "--passes",
        type=int,
        default=FinalsRecording().passes,
        metavar="N",
        help=f"how often the teacher does its work, 1 to 10 (default {FinalsRecording().passes})",
    )
    chunk_argument(parser, FinalsRecording().chunk)
    step_arguments(parser, None, None, "last latents")
    options = parser.parse_args(arguments)
    check_run_arguments(parser, options)
    if not 32 <= options.runs <= 1_000_000:
        parser.error(f"--runs {options.runs} is out of range: 32 to 1000000.")
    if not 1 <= options.passes <= 10:
        parser.error(f"--passes {options.passes} is out of range: 1 to 10.")
    check_chunk(parser, options, max(len(FinalsRecording().guidances), len(FinalsRecording().runs)))
    return explained(train, options, DatasetError)


if __name__ == "__main__":
    sys.exit(main())
