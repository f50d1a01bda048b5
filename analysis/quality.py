"""The figures of the embedded models, each from one command.

    python -m analysis.quality autoencoder --data data/emoji --out results
    python -m analysis.quality ldm --data data/emoji --out results --prompts 200
    python -m analysis.quality crf --data data/emoji --out results --prompts 100
    python -m analysis.quality cost --out results

autoencoder: PSNR and LPIPS of the held-out images. ldm: how often the prompted subject is among the data-set images
nearest to a generated one (EfficientNet-Lite0 features, cosine), beside what real images reach among the others.
crf: distance of LatentCRF, and of the bypass without parameters, to the full run from the same noise; U-Net calls;
time of the sampler (without text encoder and decoder) against the full run's. cost: time and parameters of each CRF, and
time of the autoencoder's round trip, beside a guided U-Net call, in turn. Each writes NAME.csv (one row an item; cost: a round)
and NAME-summary.csv (the figures with 95 % bootstrap intervals) to --out.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from analysis import measures
from analysis.gallery import embed, load_gallery
from analysis.generate import (
    BYPASS,
    GUIDANCE,
    STEPS,
    counted,
    decode,
    encode,
    initial_noise,
    load_pipeline,
    sample,
    sample_encoded,
)
from analysis.prompts import DEFAULT_PROMPTS, draw_prompts
from latentcrf import LatentCRF, LatentCRFScheduler, Observation
from latentcrf.autoencoder import round_trip
from latentcrf.emoji.dataset import DatasetError, load
from latentcrf.files import replacing
from latentcrf.perceptual import MODELS, load_features, load_lpips
from latentcrf.precision import add_precision_argument, autocast, choose_precision, precision_name

SHIPPED = (
    *("emoji-latentcrf", "emoji-latentcrf-static", "emoji-latentcrf-finisher"),
    *("emoji-plain", "emoji-plain-finisher"),
)


def write(name: str, items: pd.DataFrame, summary: pd.DataFrame, options: argparse.Namespace) -> None:
    """Write both tables to --out, each with a column `precision`, and print the summary."""
    out, precision = options.out, precision_name(options.precision)
    for ending, table in (("", items), ("-summary", summary)):
        with replacing(out / f"{name}{ending}.csv") as temporary:
            table.assign(precision=precision).to_csv(temporary, index=False, float_format="%.6g")
    print(summary.to_string(index=False, float_format=lambda number: f"{number:.4g}"))
    print(f"written: {out / name}.csv, {out / name}-summary.csv")


def captioned_sheet(pixels: np.ndarray, captions: list[str], columns: int = 8) -> Image.Image:
    """Images (B, H, W, 3), each above its caption, row by row on white."""
    size, line, gap = pixels.shape[1], 16, 6
    height = -(-len(pixels) // columns) * (size + line + gap)
    sheet = Image.new("RGB", (columns * (size + gap) + gap, height + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for index, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        row, column = divmod(index, columns)
        x, y = gap + column * (size + gap), gap + row * (size + line + gap)
        sheet.paste(Image.fromarray(image), (x, y))
        while draw.textlength(caption, font) > size:
            caption = caption.rstrip("…")[:-1].rstrip() + "…"
        draw.text((x + size // 2, y + size + 1), caption, "black", font, anchor="ma")
    return sheet


@torch.inference_mode()
def autoencoder(options: argparse.Namespace) -> None:
    """Reconstruction of the held-out images: PSNR in dB, LPIPS(alex)."""
    rows, pixels = load(options.data)
    held_out = [index for index, row in enumerate(rows) if row["split"] == "test"]
    vae, model = load_pipeline(options.model).vae, load_lpips()
    reference = measures.to_images(pixels[held_out])
    found: dict[str, list[torch.Tensor]] = {"psnr": [], "lpips": []}
    for batch in tqdm(reference.split(options.batch_size), desc="autoencoder", unit="batch"):
        with autocast("cpu", options.precision):
            decoded = vae.decode(vae.encode(batch).latent_dist.mode()).sample
        decoded = measures.to_images(measures.to_pixels(decoded))  # as the eye sees it: 8 bits a channel
        found["psnr"].append(measures.psnr(decoded, batch))
        found["lpips"].append(measures.lpips(model, decoded, batch))
    items = pd.DataFrame(rows)[["subject", "style", "code_point"]].iloc[held_out].reset_index(drop=True)
    for name, values in found.items():
        items[name] = torch.cat(values).numpy()
    summary = measures.summary({"PSNR (dB)": (items["psnr"], np.mean), "LPIPS(alex)": (items["lpips"], np.mean)})
    write("autoencoder", items, summary, options)


def ldm(options: argparse.Namespace) -> None:
    """Retrieval of the prompted subject, R@1 and R@5, beside real images'; a sheet of the first 64 pictures."""
    rows, pixels = load(options.data)
    prompts = draw_prompts(rows, options.prompts, options.seed)
    pipeline = load_pipeline(options.model)
    seeds = [options.seed + index for index in range(len(prompts))]
    captions = prompts["subject"].tolist()
    latents = sample(
        pipeline, captions, seeds, steps=STEPS, guidance=options.guidance,
        batch_size=options.batch_size, precision=options.precision, progress="ldm",
    )  # fmt: skip
    images = decode(pipeline, latents, precision=options.precision)
    with replacing(options.out / "ldm-sheet.png") as temporary:
        captioned_sheet(measures.to_pixels(images[:64]), captions[:64]).save(temporary)

    features = load_features()
    gallery, labels = load_gallery(features, rows, pixels, options.data)
    made = embed(features, images)
    items = prompts.assign(seed=seeds, rank=measures.retrieval_ranks(made, prompts["code_point"], gallery, labels))
    real = measures.retrieval_ranks(gallery, labels, gallery, labels, itself=True)
    measured: dict[str, Any] = {}
    for k in (1, 5):
        # A subject's images are no independent ones: its share of them is one value, as its generated image is.
        shares = pd.Series(real <= k).groupby(np.asarray(labels)).mean()
        measured[f"R@{k}, generated"] = (items["rank"] <= k, np.mean)
        measured[f"R@{k}, real images of the prompted subjects"] = (shares[prompts["code_point"]], np.mean)
        measured[f"R@{k}, real images of all subjects"] = (shares, np.mean)
    summary = measures.summary(measured)
    write("ldm", items, summary, options)


def interleaved_seconds(
    run: Callable[[Any], Any], arguments: Sequence[Any], rounds: int, threads: int | None = None
) -> np.ndarray:
    """Seconds of `run` for each of the arguments, interleaved A B C A B C ... after a warm-up of each: (arguments, rounds).

    On `threads` CPU threads, None: as many as there are now.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    seconds = []
    try:
        for _ in tqdm(range(rounds + 1), desc="timing", unit="round", disable=None):
            this_round = []
            for argument in arguments:
                begin = time.perf_counter()
                run(argument)
                this_round.append(time.perf_counter() - begin)
            seconds.append(this_round)
    finally:
        torch.set_num_threads(before)
    return np.array(seconds[1:]).T


def crf(options: argparse.Namespace) -> None:
    """LatentCRF and the bypass without parameters against the full run from the same noise."""
    rows, _ = load(options.data)
    prompts = draw_prompts(rows, options.prompts, options.seed)
    pipeline, model = load_pipeline(options.model), load_lpips()
    network = LatentCRF.from_pretrained(options.crf, use_safetensors=True, local_files_only=True).eval()
    methods = {
        "full": None,
        "bypass": LatentCRFScheduler(pipeline.scheduler, None, bypass=BYPASS),
        "crf": LatentCRFScheduler(pipeline.scheduler, network, bypass=BYPASS, num_iterations=options.iterations),
    }
    captions, seeds = prompts["subject"].tolist(), [options.seed + index for index in range(len(prompts))]

    def run(name: str, count: int, batch_size: int, progress: str | None = None) -> torch.Tensor:
        return sample(
            pipeline, captions[:count], seeds[:count], steps=STEPS, guidance=options.guidance,
            scheduler=methods[name], batch_size=batch_size, precision=options.precision, progress=progress,
        )  # fmt: skip

    latents = {name: run(name, len(prompts), options.batch_size, progress=name) for name in methods}
    images = {name: decode(pipeline, latent, precision=options.precision) for name, latent in latents.items()}
    items = prompts.assign(seed=seeds)
    measured: dict[str, Any] = {}
    for label, name, compare in (
        ("latent MSE", "latent_mse", lambda m: measures.latent_mse(latents[m], latents["full"])),
        ("LPIPS(alex)", "lpips", lambda m: measures.lpips(model, images[m], images["full"])),
    ):
        for method in ("bypass", "crf"):
            items[f"{name}_{method}"] = compare(method).numpy()
            measured[f"{label} to the full run, {method}"] = (items[f"{name}_{method}"], np.mean)
        measured[f"{label}, crf minus bypass"] = (items[f"{name}_crf"] - items[f"{name}_bypass"], np.mean)

    calls = {}
    for method in ("full", "crf"):
        with counted(pipeline.unet) as batches:
            run(method, 1, 1)
        calls[method] = len(batches)
    embeds = encode(pipeline, captions[:1])

    def once(name: str) -> None:
        sample_encoded(
            pipeline,
            embeds,
            seeds[:1],
            steps=STEPS,
            guidance=options.guidance,
            scheduler=methods[name],
            precision=options.precision,
        )

    full, ours = interleaved_seconds(once, ("full", "crf"), options.rounds, options.threads)
    measured |= {
        "seconds a sampler run, full": (full, np.median),
        "seconds a sampler run, crf": (ours, np.median),
        "time ratio, crf to full": (ours / full, np.median),
    }
    summary = measures.summary(measured)
    counts: dict[str, float] = {f"U-Net calls, {method}": count for method, count in calls.items()}
    counts["parameters, crf to U-Net"] = parameter_share(network, pipeline)
    write("crf", items, pd.concat([summary, exact(counts)], ignore_index=True), options)


def parameter_share(network: torch.nn.Module, pipeline: StableDiffusionPipeline) -> float:
    """Parameters of `network`, those of the pipeline's U-Net being 1."""
    return sum(p.numel() for p in network.parameters()) / sum(p.numel() for p in pipeline.unet.parameters())


def exact(values: Mapping[str, float]) -> pd.DataFrame:
    """Rows of a summary for what is counted, not estimated."""
    return pd.DataFrame(
        [{"measure": name, "value": value, "low": value, "high": value, "n": 1} for name, value in values.items()]
    )


def cost(options: argparse.Namespace) -> None:
    """What each CRF and plain network that ships, and the round trip, takes beside a guided U-Net call: milliseconds, share of it,
    parameters."""
    pipeline = load_pipeline(options.model)
    networks = {
        name: LatentCRF.from_pretrained(MODELS / name, use_safetensors=True, local_files_only=True).eval()
        for name in SHIPPED
    }
    embeds = encode(pipeline, ["red apple"])
    states = torch.cat([embeds["negative_prompt_embeds"], embeds["prompt_embeds"]])
    latents, timestep = initial_noise(pipeline, [0]), torch.tensor(500)
    handed = Observation(latents, latents, 0.5, 0.9, alpha_denoised=0.45, earlier=latents, alpha_earlier=0.3)
    last = Observation(latents, latents, 1.0, 1.0)
    works: dict[str, Callable[[], Any]] = {
        "guided U-Net call": lambda: pipeline.unet(torch.cat([latents] * 2), timestep, states),
        "round trip": lambda: round_trip(pipeline.vae, latents),
    }
    for name, network in networks.items():
        given = last if network.corrects_clean or network.form == "static" else handed
        works[name] = partial(network, given, options.iterations)

    def once(name: str) -> None:
        with torch.inference_mode(), autocast("cpu", options.precision):
            works[name]()

    taken = dict(zip(works, interleaved_seconds(once, tuple(works), options.rounds, options.threads), strict=True))
    items, call = pd.DataFrame(taken), taken["guided U-Net call"]
    measured: dict[str, Any] = {f"milliseconds, {name}": (1000 * seconds, np.median) for name, seconds in taken.items()}
    measured |= {f"share of a guided U-Net call, {name}": (taken[name] / call, np.median) for name in list(works)[1:]}
    shares = {f"parameters, {name} to U-Net": parameter_share(network, pipeline) for name, network in networks.items()}
    summary = pd.concat([measures.summary(measured), exact(shares)], ignore_index=True)
    write("cost", items, summary, options)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{autoencoder,ldm,crf,cost}")
    for run in (autoencoder, ldm, crf, cost):
        prompts = DEFAULT_PROMPTS.get(run.__name__)
        sub = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        add = sub.add_argument
        if run is not cost:
            add("--data", type=Path, default=Path("data/emoji"), metavar="DIR", help="data set (default data/emoji)")
            add("--batch-size", type=int, default=16, metavar="N", help="images at a time (default 16)")
        add("--out", type=Path, required=True, metavar="DIR", help="folder for the tables")
        add("--model", type=Path, default=MODELS / "emoji-ldm", metavar="FOLDER", help="pipeline (default: shipped)")
        add_precision_argument(sub)
        if prompts:
            add("--prompts", type=int, default=prompts, metavar="N", help=f"number of prompts (default {prompts})")
            add("--seed", type=int, default=0, help="of the prompts' choice and the first image (default 0)")
            add("--guidance", type=float, default=GUIDANCE, help=f"guidance scale (default {GUIDANCE:g})")
        if run is crf:
            add("--crf", type=Path, default=MODELS / "emoji-latentcrf", metavar="FOLDER", help="(default: shipped)")
        if run in (crf, cost):
            rounds = 15 if run is crf else 40
            add("--iterations", type=int, default=5, metavar="N", help="CRF iterations (default 5)")
            add("--rounds", type=int, default=rounds, metavar="N", help=f"timed rounds (default {rounds})")
            add("--threads", type=int, default=2, metavar="N", help="CPU threads while timing (default 2)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    for name in ("batch_size", "rounds", "threads"):
        if getattr(options, name, 1) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)} is out of range: 1 or more.")
    try:
        options.precision = choose_precision(options.precision, "cpu")
        options.run(options)
    except (DatasetError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
