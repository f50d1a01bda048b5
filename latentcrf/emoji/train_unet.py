"""Train the embedded LDM's U-Net on the autoencoder's latents, and write the whole LDM as a StableDiffusionPipeline folder.

    python -m latentcrf.emoji.train_unet --data data/emoji --vae runs/vae/vae --out runs/unet --minutes 480

v-prediction with zero terminal SNR (arXiv 2305.08891), min-SNR weighting (arXiv 2303.09556, `--min-snr`), captions left out one
time in ten for classifier-free guidance. The folder `ldm` of the run is complete at every report: autoencoder, U-Net
(averaged weights), text encoder, tokenizer, scheduler.
"""

import argparse
import copy
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from latentcrf.emoji.captions import build_captions
from latentcrf.emoji.dataset import DatasetError, contact_sheet, load
from latentcrf.emoji.latents import encode_images
from latentcrf.emoji.parts import PartsError, text_encoder
from latentcrf.files import replacing, replacing_folder
from latentcrf.precision import autocast
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

DETAIL_LEVELS = 400  # of 1000: where the subject is settled, and its details are drawn
SAMPLE_PROMPTS = (
    *(
        "red apple",
        "pizza",
        "grinning face",
        "smiling face with sunglasses",
        "dog face",
        "cat",
        "tiger face",
        "penguin",
    ),
    *("red heart", "blue heart", "rocket", "automobile", "house", "evergreen tree", "sunflower", "rose"),
    *("hamburger", "birthday cake", "hot beverage", "strawberry", "soccer ball", "guitar", "umbrella", "crown"),
    *("ghost", "robot", "octopus", "butterfly", "rainbow", "full moon", "light bulb", "books"),
)


def build_unet() -> UNet2DConditionModel:
    """The embedded U-Net, 21.6 M parameters, for latents (B, 4, 16, 16) and MiniLM token states (B, 16, 384)."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(96, 192, 256),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=384,
        attention_head_dim=8,  # diffusers' name for the number of heads
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise levels, rescaled to zero terminal SNR; v-prediction; trailing spacing."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
    )


def build_pipeline(
    vae: AutoencoderKL, unet: UNet2DConditionModel, encoder: Any, tokenizer: Any
) -> StableDiffusionPipeline:
    """The LDM as an ordinary pipeline, without safety checker."""
    encoder.config.use_attention_mask = True  # read by the pipeline: MiniLM was trained with its padding masked
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stratified_timesteps(count: int, levels: int) -> Tensor:
    """`count` timesteps in 0..levels-1, one from each of `count` equal strata, in random order: less noise in the loss."""
    return ((torch.randperm(count) + torch.rand(count)) * (levels / count)).long().clamp(max=levels - 1)


def v_loss(
    unet: nn.Module, scheduler: DDIMScheduler, latents: Tensor, states: Tensor, timesteps: Tensor, noise: Tensor,
    min_snr: float = 5.0, *, precision: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Min-SNR weighted v-prediction loss of each item (B,).

    v = sqrt(abar) eps - sqrt(1 - abar) x0. The weight min(SNR + 1, gamma) / (SNR + 1), gamma being `min_snr`, is min-SNR's for
    v (arXiv 2303.09556) with SNR + 1 in place of SNR, so that the terminal step, SNR = 0, is trained too.
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps)
    # On the CPU the backward pass of fused attention takes a quarter of a step; over 64 sites the plain formula is faster.
    attention = sdpa_kernel(SDPBackend.MATH) if latents.device.type == "cpu" else nullcontext()
    with autocast(latents.device, precision), attention:
        predicted = unet(noisy, timesteps, states).sample
    abar = scheduler.alphas_cumprod.to(latents.device)[timesteps]
    weight = (min_snr * (1 - abar)).clamp(max=1.0)  # SNR + 1 = 1 / (1 - abar)
    return weight * (predicted.float() - target).square().mean((1, 2, 3))


@torch.no_grad()
def sample(
    pipeline: StableDiffusionPipeline, prompts: tuple[str, ...], steps: int = 25, guidance: float = 3.0,
    precision: torch.dtype = torch.float32,
) -> list[Any]:  # fmt: skip
    """One PIL image a prompt, seed = its place in the list."""
    generators = [torch.Generator().manual_seed(index) for index in range(len(prompts))]
    with autocast(pipeline.device, precision):
        return pipeline(list(prompts), num_inference_steps=steps, guidance_scale=guidance, generator=generators).images


def train(options: argparse.Namespace) -> None:
    """Run the training that the command line describes."""
    device = best_device()
    torch.manual_seed(options.seed)
    rows, pixels = load(options.data)
    pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    seen = [index for index, row in enumerate(rows) if row["core"] and row["split"] == "train"]
    unseen = [index for index, row in enumerate(rows) if row["split"] == "test"]

    vae = AutoencoderKL.from_pretrained(options.vae, torch_dtype=torch.float32).to(device).eval()
    if options.init_from:
        start = StableDiffusionPipeline.from_pretrained(
            options.init_from, torch_dtype=torch.float32, use_safetensors=True
        )
        unet, encoder, tokenizer = start.unet, start.text_encoder, start.tokenizer
    else:
        unet, (encoder, tokenizer) = build_unet(), text_encoder(options.packages)
    pipeline = build_pipeline(vae, unet, encoder, tokenizer).to(device)
    scheduler = pipeline.scheduler
    means, stds = encode_images(vae, pictures[seen])
    captions = build_captions(pipeline, [rows[index] for index in seen])
    test_means, _ = encode_images(vae, pictures[unseen])
    labels = build_captions(pipeline, [rows[index] for index in unseen])
    test_states = labels.states[[label[0] for label, _, _ in labels.rows]].float()
    fixed = torch.Generator().manual_seed(0)
    test_noise = torch.randn(test_means.shape, generator=fixed)
    test_timesteps = torch.arange(len(unseen)) * scheduler.config.num_train_timesteps // len(unseen)

    ema = EMA(unet, decay=0.998)
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )

    @torch.no_grad()
    def report() -> dict[str, float]:
        unet.eval()
        with ema.applied():
            losses = [
                v_loss(unet, scheduler, *(part.to(device) for part in parts), precision=options.precision)
                for parts in zip(
                    *(t.split(64) for t in (test_means, test_states, test_timesteps, test_noise)), strict=True
                )
            ]
            with replacing(options.out / f"sample-{run.step:06d}.png") as temporary:
                contact_sheet(sample(pipeline, SAMPLE_PROMPTS, precision=options.precision), columns=8).save(temporary)
            export(pipeline, options.out / "ldm")
        unet.train()
        return {"held_out_loss": torch.cat(losses).mean().item()}

    unet.train()
    run = Run(
        options.out,
        {"unet": unet, "ema": ema, "optimizer": optimizer},
        options.minutes,
        options.resume,
        report,
        options.checkpoint_seconds,
    )
    for step in run.steps():
        chosen = torch.randint(len(seen), (options.batch_size,))
        latents = (means[chosen] + stds[chosen] * torch.randn(means[chosen].shape)).to(device)
        states = captions.draw(chosen).to(device)
        detailed = round(options.detail_share * len(chosen))
        shares = (detailed, DETAIL_LEVELS), (len(chosen) - detailed, scheduler.config.num_train_timesteps)
        timesteps = torch.cat([stratified_timesteps(*share) for share in shares if share[0]]).to(device)
        noise = torch.randn(latents.shape).to(device)
        set_learning_rate(optimizer, options.learning_rate * warm_cosine(step, run.fraction))
        losses = v_loss(
            unet, scheduler, latents, states, timesteps, noise, options.min_snr, precision=options.precision
        )
        loss = losses.mean()
        optimise(loss, unet, optimizer)
        ema.update()
        run.count(len(chosen), loss=loss.detach())


def export(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Save the pipeline's folder in fp16; the pipeline itself is left as it is."""
    halves: dict[str, Any] = {
        name: copy.deepcopy(part).half() if isinstance(part, nn.Module) else part
        for name, part in pipeline.components.items()
    }
    for part in (halves["vae"], halves["unet"]):
        part.register_to_config(_name_or_path="")  # where they were loaded from is nobody's business
    with replacing_folder(folder) as temporary:
        StableDiffusionPipeline(**halves, requires_safety_checker=False).save_pretrained(temporary)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m latentcrf.emoji.train_unet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set of latentcrf.emoji.dataset")
    parser.add_argument(
        "--vae", required=True, metavar="FOLDER", help="AutoencoderKL folder of latentcrf.emoji.train_vae"
    )
    parser.add_argument(
        "--packages",
        type=Path,
        default=Path("data/packages"),
        metavar="DIR",
        help="where latentcrf.emoji.parts keeps its packages (default data/packages)",
    )
    run_arguments(parser)
    parser.add_argument("--init-from", metavar="FOLDER", help="start from the U-Net of this pipeline folder")
    step_arguments(parser, 48, 8e-4, "pictures")
    parser.add_argument(
        "--min-snr",
        type=float,
        default=5.0,
        metavar="GAMMA",
        help="limit of the min-SNR weighting, at least 1; inf: none, and the least noisy levels count in full (default 5)",
    )
    parser.add_argument(
        "--detail-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help=f"share of the pictures that are noised to timesteps below {DETAIL_LEVELS} only (default 0)",
    )
    options = parser.parse_args(arguments)
    check_run_arguments(parser, options)
    if not options.min_snr >= 1:
        parser.error(f"--min-snr {options.min_snr} is out of range: 1 to inf.")
    if not 0 <= options.detail_share <= 1:
        parser.error(f"--detail-share {options.detail_share} is out of range: 0 to 1.")
    return explained(train, options, DatasetError, PartsError)


if __name__ == "__main__":
    sys.exit(main())
