"""Train the embedded LDM's autoencoder: an AutoencoderKL, f = 8, 4 latent channels, 128 px.

    python -m latentcrf.emoji.train_vae --data data/emoji --out runs/vae --minutes 60

Three parts of the time budget, in this order:

1. crops of 64 px from pictures at half to full size: four times as many pictures a second, and more detail in each
   latent than the model will need;
2. whole pictures at 128 px;
3. from `--adversarial-from` on, the decoder alone against a discriminator, for edges as sharp as real ones and no
   sharper. The encoder is frozen then: a refined decoder costs no training of the U-Net.

The folder `vae` of the run is an ordinary AutoencoderKL with the latents' shift and scale folded in. A finished one is
refined with `--init-from FOLDER --decoder-only`: encoder and latents stay exactly as they are, and so does the U-Net's worth.
With `--latent-noise` it also learns to forgive small errors, which an LDM's latents have and an encoder's have not;
with `--ldm FOLDER` it learns this LDM's own: the latents are noised, and its U-Net takes them back.
`--widen 2` gives both halves twice the channels before: an autoencoder works once an image, a U-Net fifty times. An encoder that
goes on learning is held near the latents that an LDM knows already by `--stay-near`.
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from latentcrf.emoji.captions import encode_captions
from latentcrf.emoji.dataset import DatasetError, contact_sheet, load
from latentcrf.emoji.latents import fold, latent_moments, redrawn
from latentcrf.emoji.parts import PartsError
from latentcrf.emoji.widening import widened
from latentcrf.files import replacing, replacing_folder
from latentcrf.perceptual import load_lpips
from latentcrf.precision import autocast
from latentcrf.training.judges import Judge, chosen_judge, judge_arguments, random_view
from latentcrf.training.loop import (
    EMA,
    Run,
    best_device,
    check_run_arguments,
    explained,
    optimise,
    run_arguments,
    set_learning_rate,
    step_arguments,
    warm_cosine,
)
from latentcrf.training.losses import adversarial_ramp

LPIPS_WEIGHT, KL_WEIGHT = 0.7, 3e-4
CROP = 64  # px


def build_vae() -> AutoencoderKL:
    """The embedded autoencoder, 2.7 M parameters. Groups of two channels are the fastest normalisation that learns well."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
        scaling_factor=1.0,
    )


def drift(latents: Tensor, start: AutoencoderKL, images: Tensor) -> Tensor:
    """Mean squared distance of the `latents` (B, C, h, w) of `images` (B, 3, H, W) from those that `start` encodes, a scalar."""
    with torch.no_grad():
        before = start.encode(images).latent_dist.mean
    return (latents - before).float().square().mean()


@torch.no_grad()
def held_out(
    vae: AutoencoderKL, images: Tensor, lpips: nn.Module, precision: torch.dtype = torch.float32
) -> tuple[dict[str, float], Tensor]:
    """PSNR (dB) and LPIPS of the reconstructions of `images` (N, 3, H, W) in [-1, 1], and the reconstructions."""
    vae.eval()
    rebuilt, distances = [], []
    for batch in images.split(25):
        with autocast(batch.device, precision):
            decoded = vae.decode(vae.encode(batch).latent_dist.mean).sample
        rebuilt.append(decoded.float().clamp(-1, 1))
        distances.append(lpips(rebuilt[-1], batch).flatten())
    vae.train()
    found = torch.cat(rebuilt)
    psnr = -10 * torch.log10(((found - images) / 2).square().mean((1, 2, 3)))
    return {"psnr": psnr.mean().item(), "lpips": torch.cat(distances).mean().item()}, found


def to_pil(image: Tensor) -> Image.Image:
    """Image (3, H, W) in [-1, 1] -> PIL."""
    return Image.fromarray(((image + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())


def train(options: argparse.Namespace) -> AutoencoderKL:
    """Run the training that the command line describes; returns the averaged, folded autoencoder."""
    device = best_device()
    torch.manual_seed(options.seed)
    rows, pixels = load(options.data)
    # Kept as bytes: 6,000 pictures as floats would take 1.2 GB.
    pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    is_train = torch.tensor([row["split"] == "train" for row in rows])
    pictures, unseen = pictures[is_train], pictures[~is_train]
    if options.ldm:
        ldm = StableDiffusionPipeline.from_pretrained(options.ldm, torch_dtype=torch.float32, use_safetensors=True)
        ldm = ldm.to(device)
        states = encode_captions(ldm, [row["subject"] for row in rows if row["split"] == "train"])

    def to_float(images: Tensor) -> Tensor:
        return images.to(device).float() / 127.5 - 1

    vae = (
        AutoencoderKL.from_pretrained(options.init_from, torch_dtype=torch.float32)
        if options.init_from
        else build_vae()
    ).to(device)
    start = copy.deepcopy(vae).requires_grad_(False) if options.init_from else vae
    if options.widen > 1:
        vae = widened(vae, options.widen, encoder_learns=not options.decoder_only)
    vae.train()
    source = vae  # of the latents
    if options.decoder_only:
        source = start
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    judge = chosen_judge(Judge, options, learning_rate=2e-4).to(device)
    lpips = load_lpips().to(device)
    ema = EMA(vae, decay=0.999)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    sheet_images = to_float(unseen[:: max(1, len(unseen) // 32)][:32])

    def report() -> dict[str, float]:
        with ema.applied():
            measured, _ = held_out(vae, to_float(unseen[:100]), lpips, options.precision)
            _, rebuilt = held_out(vae, sheet_images, lpips, options.precision)
            export(vae, None if options.decoder_only else to_float(pictures[::10]), options.out / "vae")
        pairs = [to_pil(image) for pair in zip(sheet_images, rebuilt, strict=True) for image in pair]
        with replacing(options.out / f"sample-{run.step:06d}.png") as temporary:
            contact_sheet(pairs, columns=16).save(temporary)
        return measured

    parts = {"vae": vae, "ema": ema, "optimizer": optimizer, "discriminator": judge, "critic": judge.optimizer}
    run = Run(options.out, parts, options.minutes, options.resume, report, options.checkpoint_seconds)
    for step in run.steps():
        adversarial = run.fraction >= options.adversarial_from
        crops = not adversarial and not options.decoder_only and run.fraction < options.crops_until
        chosen = torch.randint(len(pictures), (2 * options.batch_size if crops else options.batch_size,))
        images = random_view(to_float(pictures[chosen]), CROP if crops else 128, smallest=0.5 if crops else 0.8)
        set_learning_rate(optimizer, options.learning_rate * warm_cosine(step, run.fraction))

        with autocast(device, options.precision):
            with torch.set_grad_enabled(not (adversarial or options.decoder_only)):
                posterior = source.encode(images).latent_dist
            latents = posterior.sample()
            held = options.stay_near > 0 and not adversarial
            moved = drift(posterior.mean, start, images) if held else latents.new_zeros(())
            if options.latent_noise > 0:
                spread = options.latent_noise * torch.rand(len(latents), 1, 1, 1, device=device)
                spread = spread * (torch.rand_like(spread) >= options.clean_share)
                latents = latents + spread * torch.randn_like(latents)
            if options.ldm:
                latents = redrawn(ldm, latents.float(), states[chosen].float().to(device), precision=options.precision)
            rebuilt = vae.decode(latents).sample.float()
            perceptual = lpips(rebuilt, images).mean()
        l1, l2 = (rebuilt - images).abs().mean(), (rebuilt - images).square().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = l1 + options.l2_weight * l2 + LPIPS_WEIGHT * perceptual.float()
        if adversarial:
            weight = options.adversarial_weight * adversarial_ramp(run.fraction - options.adversarial_from)
            loss = loss + weight * judge.fooled_by(rebuilt)
        else:
            loss = loss + KL_WEIGHT * kl.float() + options.stay_near * moved
        optimise(loss, vae, optimizer)
        if adversarial:
            run.count(0, discriminator=judge.learn(images, rebuilt))
        ema.update()
        run.count(len(images), l1=l1.detach(), lpips_train=perceptual.detach(), kl=kl.detach())
        if held:
            run.count(0, drift=moved.detach())
    return AutoencoderKL.from_pretrained(options.out / "vae")


def export(vae: AutoencoderKL, images: Tensor | None, folder: Path) -> None:
    """Write the autoencoder to `folder` (fp16 safetensors), the moments of `images`' latents folded in.

    Without images nothing is folded and the latents stay as they are. `vae` itself is left as it is.
    """
    folded = AutoencoderKL.from_config(vae.config).to(vae.device)
    folded.load_state_dict(vae.state_dict())
    folded.register_to_config(_name_or_path="")  # where it was loaded from is nobody's business
    if images is not None:
        fold(folded, *latent_moments(folded.eval(), images))
    with replacing_folder(folder) as temporary:
        folded.half().save_pretrained(temporary)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m latentcrf.emoji.train_vae",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set of latentcrf.emoji.dataset")
    run_arguments(parser)
    parser.add_argument("--init-from", metavar="FOLDER", help="start from this AutoencoderKL")
    step_arguments(parser, 16, 1e-3, "pictures, or half as many as crops,")
    parser.add_argument(
        "--crops-until", type=float, default=0.3, help="share of the time with 64 px crops (default 0.3)"
    )
    parser.add_argument(
        "--adversarial-from", type=float, default=0.75, help="share of the time at which part 3 begins (default 0.75)"
    )
    parser.add_argument(
        "--adversarial-weight", type=float, default=0.05, help="of part 3's loss, that of the L1 is 1 (default 0.05)"
    )
    parser.add_argument(
        "--l2-weight",
        type=float,
        default=0.5,
        help="of the squared error, what PSNR measures; that of L1 is 1 (default 0.5)",
    )
    judge_arguments(parser, default="patches")
    parser.add_argument(
        "--decoder-only", action="store_true", help="refine the decoder of --init-from; its encoder stays as it is"
    )
    parser.add_argument(
        "--latent-noise",
        type=float,
        default=0.0,
        metavar="S",
        help="with --decoder-only: noise on the latents, of a standard deviation between 0 and S for each picture, so that "
        "the decoder forgives an LDM's errors (default 0)",
    )
    parser.add_argument(
        "--clean-share",
        type=float,
        default=0.0,
        metavar="P",
        help="with --latent-noise: share of the pictures whose latents get none (default 0)",
    )
    parser.add_argument(
        "--widen",
        type=int,
        default=1,
        metavar="K",
        help="with --init-from: give the autoencoder K times the channels first; it begins with the same pictures (default 1)",
    )
    parser.add_argument(
        "--stay-near",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="with --init-from: weight of the squared distance to the latents of its encoder as it was, before they are brought to "
        "unit variance again, so that an LDM on them has less to learn anew (default 0)",
    )
    parser.add_argument(
        "--ldm",
        metavar="FOLDER",
        help="with --decoder-only: the LDM with this autoencoder, whose own errors on the latents the decoder shall forgive",
    )
    options = parser.parse_args(arguments)
    if options.ldm and not options.decoder_only:
        parser.error("--ldm is for --decoder-only: an LDM knows the latents of a finished encoder.")
    if options.latent_noise and not options.decoder_only:
        parser.error("--latent-noise is for --decoder-only: an encoder would learn to drown it.")
    if not 0 <= options.latent_noise <= 2:
        parser.error(f"--latent-noise {options.latent_noise} is out of range: 0 to 2.")
    if not 0 <= options.clean_share < 1:
        parser.error(f"--clean-share {options.clean_share} is out of range: from 0 to below 1.")
    if options.clean_share and not options.latent_noise:
        parser.error("--clean-share is a share of what --latent-noise spoils: give both.")
    if not 1 <= options.widen <= 8:
        parser.error(f"--widen {options.widen} is out of range: 1 to 8.")
    if options.widen > 1 and not options.init_from:
        parser.error("--widen needs --init-from FOLDER: a new autoencoder is as wide as it is built.")
    if options.stay_near and (options.decoder_only or not options.init_from):
        parser.error("--stay-near needs --init-from FOLDER and an encoder that learns: not --decoder-only.")
    if options.stay_near and options.adversarial_from == 0:
        parser.error("--stay-near holds an encoder that learns, and from --adversarial-from 0 on none does.")
    if not 0 <= options.stay_near <= 100:
        parser.error(f"--stay-near {options.stay_near} is out of range: 0 to 100.")
    if options.decoder_only and not options.init_from:
        parser.error("--decoder-only needs --init-from FOLDER, the autoencoder whose decoder is refined.")
    check_run_arguments(parser, options)
    for name in ("crops_until", "adversarial_from"):
        if not 0 <= getattr(options, name) <= 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)} is out of range: 0 to 1.")
    for name, most in (("adversarial_weight", 10), ("l2_weight", 100)):
        if not 0 <= getattr(options, name) <= most:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)} is out of range: 0 to {most}.")
    return explained(train, options, DatasetError, PartsError)


if __name__ == "__main__":
    sys.exit(main())
