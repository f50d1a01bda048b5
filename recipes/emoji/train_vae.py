"""Train the embedded LDM's autoencoder: an AutoencoderKL, f = 8, 4 latent channels, 128 px.

    python -m recipes.emoji.train_vae --data data/emoji --out runs/vae --minutes 60

The time budget has three phases, in this order:

1. crops of 64 px from pictures at half to full size: four times as many pictures a second, and more detail in each
   latent than the model will need;
2. whole pictures at 128 px;
3. from --adversarial-from on, the decoder alone against a discriminator, for edges as sharp as real ones and no
   sharper. The encoder is frozen then, so the U-Net need not be trained again.

The run's folder `vae` is an ordinary AutoencoderKL, brought to latents of mean 0 and variance 1.

A trained one is refined by --init-from FOLDER --decoder-only: encoder and latents stay exactly as they are. With
--latent-noise the decoder also learns to tolerate small errors, which an LDM's latents have and an encoder's do not;
with --ldm FOLDER it learns the errors of this LDM: the latents are noised, and its U-Net takes them back.

--widen 2 first gives both halves twice the channels: an autoencoder works once an image, a U-Net fifty times.
--stay-near holds an encoder that is trained on near the latents that an LDM knows already.
"""

import argparse
import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from latentcrf.precision import autocast
from latentcrf.training.arguments import add_run_arguments, add_step_arguments, parse_arguments
from latentcrf.training.data import DatasetError, read_image_folder
from latentcrf.training.discriminators import ImageDiscriminator, add_discriminator_arguments, random_view
from latentcrf.training.ldm import load_ldm
from latentcrf.training.loop import (
    Run,
    RunError,
    Stateful,
    build_accelerator,
    optimise,
    run_and_report_errors,
    set_learning_rate,
    warm_cosine,
)
from latentcrf.training.losses import adversarial_ramp
from latentcrf.training.perceptual import load_lpips
from latentcrf.utils.arguments import float_between, int_between, run_command
from latentcrf.utils.files import replace_file, replace_folder
from recipes.emoji.dataset import make_contact_sheet
from recipes.emoji.latents import compute_moments, normalise_latents, sdedit
from recipes.emoji.widening import widen_vae

LPIPS_WEIGHT, KL_WEIGHT = 0.7, 3e-4
CROP = 64  # px


def build_vae() -> AutoencoderKL:
    """Build the embedded autoencoder, 2.7 M parameters.

    Groups of two channels are the fastest normalisation that learns well.
    """
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


def latent_drift(latents: Tensor, start: AutoencoderKL, images: Tensor) -> Tensor:
    """Compute the mean squared distance of latents from those of an earlier encoder.

    Args:
        latents: (B, C, h, w) of the images.
        start: the earlier autoencoder.
        images: (B, 3, H, W) in [-1, 1].

    Returns:
        A scalar.
    """
    with torch.no_grad():
        before = start.encode(images).latent_dist.mean
    return (latents - before).float().square().mean()


@torch.no_grad()
def measure_reconstructions(
    vae: AutoencoderKL, images: Tensor, lpips: nn.Module, precision: torch.dtype = torch.float32
) -> tuple[dict[str, float], Tensor]:
    """Measure the reconstructions of images.

    Args:
        vae: the autoencoder; is in training mode afterwards.
        images: (N, 3, H, W) in [-1, 1].
        lpips: of `load_lpips`.
        precision: in which the autoencoder computes.

    Returns:
        Means of "psnr" (dB) and "lpips", and the reconstructions (N, 3, H, W).
    """
    vae.eval()
    batches, distances = [], []
    for batch in images.split(25):
        with autocast(batch.device, precision):
            decoded = vae.decode(vae.encode(batch).latent_dist.mean).sample
        batches.append(decoded.float().clamp(-1, 1))
        distances.append(lpips(batches[-1], batch).flatten())
    vae.train()
    rebuilt = torch.cat(batches)
    psnr = -10 * torch.log10(((rebuilt - images) / 2).square().mean((1, 2, 3)))
    return {"psnr": psnr.mean().item(), "lpips": torch.cat(distances).mean().item()}, rebuilt


def to_pil(image: Tensor) -> Image.Image:
    """Convert an image (3, H, W) in [-1, 1] to PIL."""
    return Image.fromarray(((image + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())


def train(options: argparse.Namespace) -> AutoencoderKL:
    """Run the training that the command line describes; return the autoencoder that it has written."""
    accelerator = build_accelerator(options)
    if accelerator.num_processes > 1:
        raise RunError("The autoencoder is trained in one process: start the command without a launcher.")
    device = accelerator.device
    torch.manual_seed(options.seed)
    rows, pixels = read_image_folder(options.data)
    # bytes: 6,000 pictures as floats would take 1.2 GB
    pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    is_train = torch.tensor([row.get("split", "train") == "train" for row in rows])
    pictures, unseen = pictures[is_train], pictures[~is_train]
    if options.ldm:
        ldm = load_ldm(options.ldm, device)
        texts = [row["text"] for row in rows if row.get("split", "train") == "train"]
        captions = ldm.encode_prompts(texts)

    def to_float(images: Tensor) -> Tensor:
        return images.to(device).float() / 127.5 - 1

    vae = (
        AutoencoderKL.from_pretrained(options.init_from, torch_dtype=torch.float32, use_safetensors=True)
        if options.init_from
        else build_vae()
    ).to(device)
    start = copy.deepcopy(vae).requires_grad_(False) if options.init_from else vae
    if options.widen > 1:
        vae = widen_vae(vae, options.widen, encoder_learns=not options.decoder_only)
    vae.train()
    source = vae  # of the latents
    if options.decoder_only:
        source = start
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    discriminator = ImageDiscriminator(
        options.discriminator, options.feature_weights, learning_rate=2e-4, precision=options.precision
    ).to(device)
    lpips = load_lpips().to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    sheet_images = to_float(unseen[:: max(1, len(unseen) // 32)][:32])

    def report() -> dict[str, float]:
        with run.averaged():
            metrics, _ = measure_reconstructions(vae, to_float(unseen[:100]), lpips, options.precision)
            _, rebuilt = measure_reconstructions(vae, sheet_images, lpips, options.precision)
            export(vae, None if options.decoder_only else to_float(pictures[::10]), options.out / "vae")
        pairs = [to_pil(image) for pair in zip(sheet_images, rebuilt, strict=True) for image in pair]
        with replace_file(options.out / f"sample-{run.step:06d}.png") as temporary:
            make_contact_sheet(pairs, columns=16).save(temporary)
        return metrics

    components: dict[str, Stateful] = {
        "optimizer": optimizer,
        "discriminator": discriminator,
        "discriminator_optimizer": discriminator.optimizer,
    }
    run = Run(accelerator, options, vae, components, report, decay=0.999)
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
            stays_near = options.stay_near > 0 and not adversarial
            drift = latent_drift(posterior.mean, start, images) if stays_near else latents.new_zeros(())
            if options.latent_noise > 0:
                noise_scale = options.latent_noise * torch.rand(len(latents), 1, 1, 1, device=device)
                noise_scale = noise_scale * (torch.rand_like(noise_scale) >= options.clean_share)
                latents = latents + noise_scale * torch.randn_like(latents)
            if options.ldm:
                latents = sdedit(ldm, latents.float(), captions[chosen.to(device)], precision=options.precision)
            rebuilt = vae.decode(latents).sample.float()
            perceptual = lpips(rebuilt, images).mean()
        l1, l2 = (rebuilt - images).abs().mean(), (rebuilt - images).square().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = l1 + options.l2_weight * l2 + LPIPS_WEIGHT * perceptual.float()
        if adversarial:
            weight = options.adversarial_weight * adversarial_ramp(run.fraction - options.adversarial_from)
            loss = loss + weight * discriminator.generator_loss(rebuilt)
        else:
            loss = loss + KL_WEIGHT * kl.float() + options.stay_near * drift
        optimise(accelerator, loss, vae, optimizer)
        if adversarial:
            run.count(0, discriminator=discriminator.train_step(accelerator, images, rebuilt))
        run.count(len(images), l1=l1, lpips_train=perceptual, kl=kl)
        if stays_near:
            run.count(0, drift=drift)
    return AutoencoderKL.from_pretrained(options.out / "vae", use_safetensors=True)


def export(vae: AutoencoderKL, images: Tensor | None, folder: Path) -> None:
    """Write a float16 copy of the autoencoder.

    Args:
        vae: stays as it is.
        images: (N, 3, H, W) in [-1, 1], whose latents get mean 0 and variance 1; None: the latents stay as they are.
        folder: is replaced as a whole.
    """
    copied = AutoencoderKL.from_config(vae.config).to(vae.device)
    copied.load_state_dict(vae.state_dict())
    copied.register_to_config(_name_or_path="")  # a path of the training machine
    if images is not None:
        normalise_latents(copied, *compute_moments(copied.eval(), images))
    with replace_folder(folder) as temporary:
        copied.half().save_pretrained(temporary)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.emoji.train_vae",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    share = float_between(0, 1)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set of recipes.emoji.dataset")
    add_run_arguments(parser)
    parser.add_argument("--init-from", metavar="FOLDER", help="start from this AutoencoderKL")
    add_step_arguments(parser, 16, 1e-3, "pictures (twice as many crops)")
    parser.add_argument(
        "--crops-until", type=share, default=0.3, help="share of the time with crops of 64 px, 0 to 1 (default 0.3)"
    )
    parser.add_argument(
        "--adversarial-from",
        type=share,
        default=0.75,
        help="share of the time at which phase 3 begins, 0 to 1 (default 0.75)",
    )
    parser.add_argument(
        "--adversarial-weight",
        type=float_between(0, 10),
        default=0.05,
        help="weight of the adversarial loss in phase 3, 0 to 10; that of L1 is 1 (default 0.05)",
    )
    parser.add_argument(
        "--l2-weight",
        type=float_between(0, 100),
        default=0.5,
        help="weight of the squared error, which PSNR measures, 0 to 100; that of L1 is 1 (default 0.5)",
    )
    add_discriminator_arguments(parser, default="patches")
    parser.add_argument(
        "--decoder-only", action="store_true", help="refine the decoder of --init-from; its encoder stays as it is"
    )
    parser.add_argument(
        "--latent-noise",
        type=float_between(0, 2),
        default=0.0,
        metavar="S",
        help="with --decoder-only: noise on the latents, of a standard deviation between 0 and S for each picture, so "
        "that the decoder learns to tolerate an LDM's errors, 0 to 2 (default 0)",
    )
    parser.add_argument(
        "--clean-share",
        type=float_between(0, 0.99),
        default=0.0,
        metavar="P",
        help="with --latent-noise: share of the pictures whose latents get no noise, 0 to 0.99 (default 0)",
    )
    parser.add_argument(
        "--widen",
        type=int_between(1, 8),
        default=1,
        metavar="K",
        help="with --init-from: first give the autoencoder K times the channels, 1 to 8; its pictures stay (default 1)",
    )
    parser.add_argument(
        "--stay-near",
        type=float_between(0, 100),
        default=0.0,
        metavar="WEIGHT",
        help="with --init-from: weight of the squared distance to the latents of its encoder as it was, so that an LDM "
        "on them has less to learn, 0 to 100 (default 0)",
    )
    parser.add_argument(
        "--ldm",
        metavar="FOLDER",
        help="with --decoder-only: the LDM with this autoencoder, whose errors on the latents the decoder learns to "
        "tolerate",
    )
    options = parse_arguments(parser, arguments)
    if options.ldm and not options.decoder_only:
        parser.error("--ldm needs --decoder-only: an LDM knows the latents of a finished encoder.")
    if options.latent_noise and not options.decoder_only:
        parser.error("--latent-noise needs --decoder-only: an encoder would learn larger latents against it.")
    if options.clean_share and not options.latent_noise:
        parser.error("--clean-share needs --latent-noise: it is a share of the pictures with noise.")
    if options.widen > 1 and not options.init_from:
        parser.error("--widen needs --init-from FOLDER, the autoencoder that is widened.")
    if options.stay_near and (options.decoder_only or not options.init_from):
        parser.error("--stay-near needs --init-from FOLDER and an encoder that learns: not --decoder-only.")
    if options.stay_near and options.adversarial_from == 0:
        parser.error("--stay-near needs an encoder that learns: from --adversarial-from 0 on it never does.")
    if options.decoder_only and not options.init_from:
        parser.error("--decoder-only needs --init-from FOLDER, the autoencoder whose decoder is refined.")
    return run_and_report_errors(train, options, DatasetError)


if __name__ == "__main__":
    run_command(main)
