"""Train a finisher: a LatentCRF that does at once what the static form and the autoencoder's round trip do to last latents.

    python -m latentcrf.training.train_finisher --base assets/models/emoji-ldm --static assets/models/emoji-latentcrf-static \\
        --data data/emoji --out runs/finisher --minutes 30

The LDM's own runs of 4 to 15 steps are recorded once (`--runs`, not counted in the minutes), with what the static form, four
tenths of the way, and a round trip through the autoencoder make of their last latents. The CRF learns to give the latter
from the former in one pass, at a fraction of a U-Net call: distillation of what both do. Every tenth run only validates (of
other noise; where there are more runs than prompts, not of other prompts); the log tells the squared error that is left there,
as a share of what the teacher changes. With `--adversarial-weight`, a discriminator compares the finished latents with those of
the training images, too: what minimizes a squared error is a mean of many answers, and a little soft. The folder `finisher` of
the run is the trained model (weights averaged over the last steps, fp16).
"""

import argparse
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from latentcrf.discriminator import LatentDiscriminator
from latentcrf.emoji.dataset import DatasetError, load
from latentcrf.emoji.latents import encode_images
from latentcrf.model import LatentCRF, Observation
from latentcrf.training.finals import FinalsRecording, load_finals, record_finals
from latentcrf.training.loop import (
    EMA,
    Run,
    RunError,
    Stateful,
    best_device,
    check_run_arguments,
    explained,
    optimise,
    run_arguments,
    set_learning_rate,
    step_arguments,
    warm_cosine,
)
from latentcrf.training.losses import adversarial_ramp, discriminator_loss, generator_loss
from latentcrf.training.presets import PRESETS, adjusted
from latentcrf.training.stages import random_iterations
from latentcrf.training.train import build_crf, check_chunk, chunk_argument, prompt_list, save_half

VALIDATED = 10  # every tenth run


def finished_by(crf: LatentCRF, latents: Tensor, num_iterations: int = 5) -> Tensor:
    """The finisher's result for last latents (B, C, H, W)."""
    with torch.autocast(latents.device.type, torch.bfloat16):
        return crf(Observation(latents, latents, 1.0, 1.0), num_iterations)


@torch.no_grad()
def remaining_error(crf: LatentCRF, latents: Tensor, finished: Tensor, batch_size: int = 64) -> float:
    """Squared error of the CRF's result, as a share of the squared change from `latents` to `finished` (N, C, H, W)."""
    device = next(crf.parameters()).device
    made = torch.cat([finished_by(crf, part.to(device)).cpu() for part in latents.split(batch_size)])
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
    recording = FinalsRecording(chunk=options.chunk)
    table, pixels = load(options.data)
    seen = [index for index, row in enumerate(table) if row["core"] and row["split"] == "train"]
    prompts = prompt_list([table[index] for index in seen])
    folder = options.recordings or options.out / "finals"
    record_finals(ldm, static, prompts, folder, options.runs, recording)
    latents, finished = load_finals(folder, options.runs, recording)
    validates = torch.arange(len(latents)) % VALIDATED == 0
    learned = latents[~validates].to(device), finished[~validates].to(device)

    crf = build_crf(preset, ldm.unet.config.in_channels, init_from=options.init_from).to(device)
    ema = EMA(crf, decay=0.998)
    optimizer = torch.optim.AdamW(crf.parameters(), lr=preset.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)

    def report() -> dict[str, float]:
        with ema.applied():
            left = remaining_error(crf, latents[validates], finished[validates])
            save_half(crf, options.out / "finisher")
        return {"remaining_error": left}

    parts: dict[str, Stateful] = {"crf": crf, "ema": ema, "optimizer": optimizer}
    weight = options.adversarial_weight
    if weight > 0:
        discriminator = LatentDiscriminator(ldm.unet.config.in_channels).to(device)
        critic = torch.optim.AdamW(discriminator.parameters(), lr=3e-4, betas=(0.5, 0.9))
        parts |= {"discriminator": discriminator, "critic": critic}
        real, _ = encode_images(ldm.vae, torch.from_numpy(pixels[seen]).permute(0, 3, 1, 2))
    run = Run(options.out, parts, options.minutes, options.resume, report, options.checkpoint_seconds, 120.0)
    for step in run.steps():
        set_learning_rate(optimizer, preset.learning_rate * warm_cosine(step, run.fraction))
        chosen = torch.randint(len(learned[0]), (preset.batch_size,)).to(device)
        made = finished_by(crf, learned[0][chosen], random_iterations())
        loss = (made - learned[1][chosen]).square().mean()
        losses = {"loss": loss.detach()}
        if (ramp := weight * adversarial_ramp(run.fraction)) > 0:
            loss = loss + ramp * generator_loss(discriminator, made)
        optimise(loss, crf, optimizer)
        if weight > 0:
            drawn = real[torch.randint(len(real), (preset.batch_size,))].to(device)
            losses["latents_judged"] = judged = discriminator_loss(discriminator, drawn, made)
            optimise(judged, discriminator, critic)
        run.count(preset.batch_size, **{name: value.detach() for name, value in losses.items()})
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
        "--adversarial-weight",
        type=float,
        default=0.0,
        metavar="W",
        help="of the loss of a discriminator that compares the finished latents with the training images', beside the squared "
        "error's 1 (default 0: none)",
    )
    chunk_argument(parser, FinalsRecording().chunk)
    step_arguments(parser, None, None, "last latents")
    options = parser.parse_args(arguments)
    check_run_arguments(parser, options)
    if not 32 <= options.runs <= 1_000_000:
        parser.error(f"--runs {options.runs} is out of range: 32 to 1000000.")
    if not 0 <= options.adversarial_weight <= 100:
        parser.error(f"--adversarial-weight {options.adversarial_weight} is out of range: 0 to 100.")
    check_chunk(parser, options, max(len(FinalsRecording().guidances), len(FinalsRecording().runs)))
    return explained(train, options, DatasetError)


if __name__ == "__main__":
    sys.exit(main())
