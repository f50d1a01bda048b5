"""Train the embedded LDM's U-Net on the autoencoder's latents, and write the LDM as a StableDiffusionPipeline folder.

    python -m recipes.emoji.train_unet --data data/emoji --vae runs/vae/vae --out runs/unet --minutes 480

v-prediction with zero terminal SNR (arXiv 2305.08891), min-SNR weighting (arXiv 2303.09556, --min-snr), no caption one
time in ten for classifier-free guidance. The run's folder `ldm` is complete at every report: autoencoder, U-Net
(averaged weights), text encoder, tokenizer, scheduler.
"""

import argparse
import copy
import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from latentcrf.precision import autocast
from latentcrf.training.arguments import add_run_arguments, add_step_arguments, parse_arguments
from latentcrf.training.data import DatasetError, DataSource, read_images, read_metadata
from latentcrf.training.latents import encode_data, encode_images
from latentcrf.training.ldm import LDM
from latentcrf.training.loop import (
    Run,
    build_accelerator,
    optimise,
    run_and_report_errors,
    set_learning_rate,
    warm_cosine,
)
from latentcrf.training.processes import count_all, take_share
from latentcrf.utils.arguments import float_between, run_command
from latentcrf.utils.files import replace_file, replace_folder
from recipes.emoji.dataset import make_contact_sheet
from recipes.emoji.third_party_weights import WeightsError, read_text_encoder

DETAIL_LEVELS = 400  # of 1000 timesteps: there the subject is decided, and its details form
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
    """Build the embedded U-Net, 21.6 M parameters, for latents (B, 4, 16, 16) and MiniLM token states (B, 16, 384)."""
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
    """Build Stable Diffusion's scheduler with zero terminal SNR, v-prediction and trailing spacing."""
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
    """Build the LDM's pipeline, without safety checker.

    Args:
        vae: the autoencoder.
        unet: the U-Net.
        encoder: the text encoder.
        tokenizer: its tokenizer.

    Returns:
        The pipeline.
    """
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


def draw_timesteps(count: int, levels: int) -> Tensor:
    """Draw timesteps, one from each of equal strata, in random order: the loss is less noisy.

    Args:
        count: of the timesteps and strata.
        levels: the timesteps are in 0..levels-1.

    Returns:
        Timesteps (count,).
    """
    return ((torch.randperm(count) + torch.rand(count)) * (levels / count)).long().clamp(max=levels - 1)


def v_loss(
    unet: nn.Module, scheduler: DDIMScheduler, latents: Tensor, states: Tensor, timesteps: Tensor, noise: Tensor,
    min_snr: float = 5.0, *, precision: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Compute the min-SNR weighted v-prediction loss.

    v = sqrt(abar) eps - sqrt(1 - abar) x0. The weight min(SNR + 1, gamma) / (SNR + 1) is min-SNR's for v (arXiv
    2303.09556) with SNR + 1 in place of SNR, so that the terminal step, SNR = 0, is trained, too.

    Args:
        unet: the U-Net.
        scheduler: its noise levels.
        latents: clean ones (B, 4, 16, 16).
        states: token states (B, 16, 384).
        timesteps: (B,).
        noise: eps (B, 4, 16, 16).
        min_snr: gamma.
        precision: in which the U-Net computes.

    Returns:
        The loss of each item (B,).
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps)
    # On a CPU the backward pass of fused attention takes a quarter of a step; the plain formula is faster on 64 sites.
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
    """Sample an image a prompt, with its place in the list as the seed.

    Args:
        pipeline: the LDM.
        prompts: of the images.
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
        precision: in which the networks compute.

    Returns:
        PIL images.
    """
    generators = [torch.Generator().manual_seed(index) for index in range(len(prompts))]
    with autocast(pipeline.device, precision):
        return pipeline(list(prompts), num_inference_steps=steps, guidance_scale=guidance, generator=generators).images


def train(options: argparse.Namespace) -> None:
    """Run the training that the command line describes."""
    accelerator = build_accelerator(options)
    device = accelerator.device
    torch.manual_seed(options.seed)
    test_rows = [row for row in read_metadata(options.data) if row.get("split") == "test"]
    if not test_rows:
        raise DatasetError(f'{options.data} holds no row of split "test": the report measures the loss on these.')
    test_images = torch.from_numpy(read_images(options.data, test_rows)).permute(0, 3, 1, 2)

    vae = AutoencoderKL.from_pretrained(options.vae, torch_dtype=torch.float32, use_safetensors=True).to(device).eval()
    if options.init_from:
        start = StableDiffusionPipeline.from_pretrained(
            options.init_from, torch_dtype=torch.float32, use_safetensors=True
        )
        unet, encoder, tokenizer = start.unet, start.text_encoder, start.tokenizer
    else:
        unet, (encoder, tokenizer) = build_unet(), read_text_encoder(options.packages)
    pipeline = build_pipeline(vae, unet, encoder, tokenizer).to(device)
    scheduler = pipeline.scheduler
    ldm = LDM(pipeline)
    real = encode_data(ldm, DataSource(options.data), options.out / "latents")
    test_means, _ = encode_images(vae, test_images)
    test_states = ldm.encode_prompts([row["text"] for row in test_rows]).states.cpu()
    test_noise = torch.randn(test_means.shape, generator=torch.Generator().manual_seed(0))
    test_timesteps = torch.arange(len(test_rows)) * scheduler.config.num_train_timesteps // len(test_rows)

    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )

    @torch.no_grad()
    def report() -> dict[str, float]:
        unet.eval()
        with run.averaged():
            losses = [
                v_loss(unet, scheduler, *(tensor.to(device) for tensor in batch), precision=options.precision)
                for batch in zip(
                    *(t.split(64) for t in (test_means, test_states, test_timesteps, test_noise)), strict=True
                )
            ]
            with replace_file(options.out / f"sample-{run.step:06d}.png") as temporary:
                make_contact_sheet(sample(pipeline, SAMPLE_PROMPTS, precision=options.precision), columns=8).save(
                    temporary
                )
            export(pipeline, options.out / "ldm")
        unet.train()
        return {"held_out_loss": torch.cat(losses).mean().item()}

    unet.train()
    run = Run(accelerator, options, unet, {"optimizer": optimizer}, report)
    for step in run.steps():
        latents, chosen = real.draw(options.batch_size)
        latents, states = latents.to(device), real.captions.draw(chosen).states
        detailed = round(options.detail_share * len(chosen))
        shares = (detailed, DETAIL_LEVELS), (len(chosen) - detailed, scheduler.config.num_train_timesteps)
        timesteps = take_share(torch.cat([draw_timesteps(*share) for share in shares if share[0]])).to(device)
        noise = take_share(torch.randn(count_all(len(latents)), *latents.shape[1:])).to(device)
        set_learning_rate(optimizer, options.learning_rate * warm_cosine(step, run.fraction))
        losses = v_loss(
            unet, scheduler, latents, states, timesteps, noise, options.min_snr, precision=options.precision
        )
        loss = losses.mean()
        optimise(accelerator, loss, unet, optimizer)
        run.count(len(latents), loss=loss)


def export(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Save a pipeline in float16.

    The text encoder's config names float32: transformers loads a network in the type that its config names, diffusers
    loads the others in float32, and the pipeline needs one type.

    Args:
        pipeline: stays as it is.
        folder: is replaced as a whole.
    """
    halves: dict[str, Any] = {
        name: copy.deepcopy(component).half() if isinstance(component, nn.Module) else component
        for name, component in pipeline.components.items()
    }
    for network in (halves["vae"], halves["unet"]):
        network.register_to_config(_name_or_path="")  # a path of the training machine
    with replace_folder(folder) as temporary:
        StableDiffusionPipeline(**halves, requires_safety_checker=False).save_pretrained(temporary)
        path = temporary / "text_encoder" / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | {"dtype": "float32"}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.emoji.train_unet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set of recipes.emoji.dataset")
    parser.add_argument(
        "--vae", required=True, metavar="FOLDER", help="AutoencoderKL folder of recipes.emoji.train_vae"
    )
    parser.add_argument(
        "--packages",
        type=Path,
        default=Path("data/packages"),
        metavar="DIR",
        help="where recipes.emoji.third_party_weights keeps its packages, for the text encoder (default data/packages)",
    )
    add_run_arguments(parser)
    parser.add_argument("--init-from", metavar="FOLDER", help="start from the U-Net of this pipeline folder")
    add_step_arguments(parser, 48, 8e-4, "pictures")
    parser.add_argument(
        "--min-snr",
        type=float_between(1, math.inf),
        default=5.0,
        metavar="GAMMA",
        help="limit of the min-SNR weighting, 1 to inf; inf: no limit (default 5)",
    )
    parser.add_argument(
        "--detail-share",
        type=float_between(0, 1),
        default=0.0,
        metavar="SHARE",
        help=f"share of the pictures that are noised to timesteps below {DETAIL_LEVELS} only, 0 to 1 (default 0)",
    )
    options = parse_arguments(parser, arguments)
    return run_and_report_errors(train, options, DatasetError, WeightsError)


if __name__ == "__main__":
    run_command(main)
