"""Train a LatentCRF for an LDM.

    python -m latentcrf.training.train --base assets/models/emoji-ldm --data data/emoji --out runs/crf --minutes 60

Stage 1, until `--stage1-until` of the time: denoising. Real images' latents are noised, the LDM makes its one-call
clean estimate, the CRF mends it towards the real latents, judged by a discriminator too. Stage 2: distillation. The
LDM's own runs are recorded once (`--runs`, not counted in the minutes); from a random hand-over the CRF has to give
back latents with which the LDM goes on as if nothing had been bypassed. Stage 3, from `--stage3-from` on: the
images that the CRF's latents decode to shall be near to those at which the LDM arrives in the same recorded runs, in
pixels and in a trained network's features, and a second discriminator, on those features, compares the two pair by
pair. Hand-over levels and iteration counts are random in all (stage 3 leaves out the first 0.3 of a run), so that one
CRF serves them all.

The folder `latentcrf` of the run is the trained model (weights averaged over the last steps, fp16). Until stage 3 it is
kept as it was at the report in which it did best on the recorded runs that are held out: a CRF sees few runs and may
learn them by heart. What stage 3 gains is not measured by a distance to those runs: there the latest is kept. With
`--keep-start` what is written is a mean with the weights of `--init-from` (WiSE-FT, arXiv 2109.01903).
"""

import argparse
import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from latentcrf.emoji.captions import STYLE_WORDS, build_captions
from latentcrf.emoji.dataset import DatasetError, load
from latentcrf.emoji.latents import encode_images
from latentcrf.emoji.parts import PartsError
from latentcrf.files import replacing_folder
from latentcrf.model import LatentCRF, Observation, hand_over
from latentcrf.training.judges import PAIR_JUDGES, PairJudge, chosen_judge, judge_arguments
from latentcrf.training.loop import (
    EMA,
    Run,
    RunError,
    Stateful,
    best_device,
    check_run_arguments,
    explained,
    run_arguments,
    set_learning_rate,
    step_arguments,
    warm_cosine,
)
from latentcrf.training.observations import RealLatents, observe_coarse, observe_run
from latentcrf.training.presets import PRESETS, Preset, adjusted
from latentcrf.training.stages import Denoising, Distillation, Refinement, Stage, to_device
from latentcrf.training.trajectories import Recording, Trajectories, levels, load_trajectories, record

HELD_OUT_EVERY = 10  # of the recorded runs
PAPER_BYPASS = (33, 49)  # of 50 steps, where progress is measured


@torch.no_grad()
def errors(mend: Callable[[Observation], Tensor], runs: Trajectories, device: torch.device) -> dict[str, Tensor]:
    """Mean squared error of what is handed back, against the LDM's own latents, for each recorded run (n,).

    For the paper's bypass (`mse`) and, to the end, for all recorded steps of the run's coarse runs (`few`).

    Args:
        mend: the hand-over -> clean latents y (B, C, H, W).
    """
    assert runs.coarse is not None
    call, first, last = (torch.full((len(runs),), step) for step in (PAPER_BYPASS[0] - 1, *PAPER_BYPASS))
    handed = {
        "mse": (observe_run(runs, torch.arange(len(runs)), call, first, last), torch.arange(len(runs))),
        "few": (observe_coarse(runs, torch.arange(len(runs.coarse))), runs.coarse.runs),
    }
    found = {}
    for kind, ((observation, target), run) in handed.items():
        observation = to_device(observation, device)
        back = hand_over(observation.latents, mend(observation), observation.alpha_in, observation.alpha_out)
        each = (back.cpu() - target).square().mean((1, 2, 3))
        count = torch.bincount(run, minlength=len(runs))
        found[kind] = torch.zeros(len(runs)).index_add_(0, run, each) / count
    return found


def validate(crf: LatentCRF, runs: Trajectories, device: torch.device) -> dict[str, float]:
    """The means of `errors` over the recorded runs, for the CRF and without parameters."""
    ways: dict[str, Callable[[Observation], Tensor]] = {"crf": crf, "no_parameters": lambda handed: handed.denoised}
    by_way = {name: errors(mend, runs, device) for name, mend in ways.items()}
    return {f"{kind}_{name}": by_way[name][kind].mean().item() for kind in ("mse", "few") for name in ways}


def split(runs: Trajectories) -> tuple[Trajectories, Trajectories]:
    """The recorded runs that are held out, and those that are learned."""
    return runs.split(HELD_OUT_EVERY)


def score(measured: dict[str, float]) -> float:
    """What the best weights have the least of: error over that without parameters, mean of the two kinds of hand-over."""
    return sum(measured[f"{kind}_crf"] / measured[f"{kind}_no_parameters"] for kind in ("mse", "few")) / 2


def best_score(log: Path) -> float:
    """The least `score` in the run's log so far, infinity where there is none."""
    if not log.exists():
        return math.inf
    with open(log, newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return min((score(row) for row in rows), default=math.inf)


def train(options: argparse.Namespace) -> None:
    """Run the training that the command line describes."""
    preset, device = adjusted(PRESETS[options.preset], options.batch_size, options.learning_rate), best_device()
    torch.manual_seed(options.seed)
    ldm = StableDiffusionPipeline.from_pretrained(options.base, torch_dtype=torch.float32, use_safetensors=True)
    ldm = ldm.to(device)
    ldm.scheduler = DDIMScheduler.from_config(ldm.scheduler.config)
    recording = Recording(chunk=options.chunk)
    table, pixels = load(options.data)
    seen = [index for index, row in enumerate(table) if row["core"] and row["split"] == "train"]
    prompts = prompt_list([table[index] for index in seen])
    folder = options.recordings or options.out / "runs"
    record(ldm, prompts, folder, options.runs, recording, options.precision)
    runs = load_trajectories(folder, ldm.scheduler, recording, options.runs)
    validation, runs = split(runs)

    prompt_dim = ldm.unet.config.cross_attention_dim if preset.reads_prompt else None
    crf = build_crf(preset, ldm.unet.config.in_channels, prompt_dim, options.init_from).to(device)
    start = [weight.detach().clone() for weight in crf.parameters()]
    ema = EMA(crf, decay=0.998)
    optimizer = torch.optim.AdamW(crf.parameters(), lr=preset.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    refined_from = max(options.stage1_until, options.stage3_from)
    stages: list[tuple[float, Stage]] = []  # with the share of the time at which each begins
    if options.stage1_until > 0:
        rows, pictures = [table[index] for index in seen], torch.from_numpy(pixels[seen]).permute(0, 3, 1, 2)
        real = RealLatents(*encode_images(ldm.vae, pictures), build_captions(ldm, rows))
        stages.append((0.0, Denoising(preset, ldm, real, levels(ldm.scheduler, recording.steps), options.precision)))
    stages.append((options.stage1_until, Distillation(preset, runs, device, options.precision)))
    if refined_from < 1:
        judge = chosen_judge(PairJudge, options)
        stages.append((refined_from, Refinement(preset, ldm, runs, judge, options.precision)))

    def report() -> dict[str, float]:
        crf.eval()
        with ema.applied():
            with torch.no_grad():
                for weight, before in zip(crf.parameters(), start, strict=True):
                    weight.lerp_(before, options.keep_start)
            measured = validate(crf, validation, device)
            if run.fraction > refined_from or score(measured) < best_score(options.out / "log.csv"):
                save_half(crf, options.out / "latentcrf")
        crf.train()
        return measured

    crf.train()
    parts: dict[str, Stateful] = {"crf": crf, "ema": ema, "optimizer": optimizer}
    for _, stage in stages:
        parts |= stage.parts
    run = Run(options.out, parts, options.minutes, options.resume, report, options.checkpoint_seconds, 120.0)
    for step in run.steps():
        begin, stage = [each for each in stages if each[0] <= run.fraction][-1]
        set_learning_rate(optimizer, stage.learning_rate * warm_cosine(step, run.fraction))
        losses = stage.step(crf, optimizer, run.fraction - begin)
        run.count(stage.batch_size, **losses)
        ema.update()


def save_half(crf: LatentCRF, folder: Path) -> None:
    """Write a float16 copy of the CRF into `folder`, whole or not at all."""
    half = LatentCRF.from_config(crf.config)
    half.load_state_dict(crf.state_dict())
    with replacing_folder(folder) as temporary:
        half.half().save_pretrained(temporary)


def build_crf(
    preset: Preset, latent_channels: int, prompt_dim: int | None = None, init_from: str | None = None
) -> LatentCRF:
    """The preset's model, fresh, or with the weights of the folder `init_from`, or grown out of the plain network there;
    `prompt_dim` where it reads prompts.

    Raises:
        RunError: the folder's model is of another form or size, or reads or corrects something else.
    """
    crf = LatentCRF(
        latent_channels=latent_channels,
        form=preset.form,
        num_experts=preset.num_experts,
        pairwise_rank=preset.pairwise_rank,
        channels=preset.channels,
        coarse_channels=preset.coarse_channels,
        num_coarse_blocks=preset.num_coarse_blocks,
        prompt_dim=prompt_dim,
        reads_trend=preset.reads_trend,
        num_fine_blocks=preset.num_fine_blocks,
        corrects_clean=preset.corrects_clean,
    )
    if init_from:
        start = LatentCRF.from_pretrained(init_from, torch_dtype=torch.float32, use_safetensors=True)
        grows = not start.has_fields and start.form == "conditional"
        free = ("num_experts", "pairwise_rank") if grows else ()
        other = [
            f"its {name} is {start.config[name]!r}, not {wanted!r}"
            for name, wanted in crf.config.items()
            if not name.startswith("_") and name not in free and start.config[name] != wanted
        ]
        if other:
            raise RunError(f"{init_from} holds a network of another kind than the preset's: {'; '.join(other)}.")
        crf.load_state_dict(grown(start, crf) if grows else start.state_dict())
    return crf


def grown(plain: LatentCRF, crf: LatentCRF) -> dict[str, Tensor]:
    """The state of `crf` with what a plain network of its size, one without fields, has learned: the network as it is, and of the
    head the maps that both have. The fields stay as they are, nearly silent in a fresh CRF, whose result is then nearly the
    plain network's."""
    state = crf.state_dict()
    for name, value in plain.state_dict().items():
        if name.startswith("head."):
            ours, theirs = state[name].split(crf.head_sizes), value.split(plain.head_sizes)
            value = torch.cat([b if len(b) == len(a) else a for a, b in zip(ours, theirs, strict=True)])
        state[name] = value
    return state


def chunk_argument(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--chunk",
        type=int,
        default=default,
        metavar="N",
        help=f"LDM runs that are recorded at once, with the same guidance and steps, {HELD_OUT_EVERY} to 4096: a GPU wants more "
        f"(default {default})",
    )


def check_chunk(parser: argparse.ArgumentParser, options: argparse.Namespace, kinds: int) -> None:
    """`kinds`: how many chunks it takes until all guidance scales and kinds of run have come."""
    if not HELD_OUT_EVERY <= options.chunk <= 4096:
        parser.error(f"--chunk {options.chunk} is out of range: {HELD_OUT_EVERY} to 4096.")
    if options.chunk != parser.get_default("chunk") and options.runs < (kinds - 1) * options.chunk + 1:
        parser.error(
            f"--chunk {options.chunk} is too much for {options.runs} runs: guidance and steps change from chunk to chunk, "
            f"and there must be {kinds} chunks at least."
        )


def prompt_list(rows: list[dict]) -> list[str]:
    """Labels, every second one with its style, in an order that does not follow the alphabet."""
    described = [
        row["subject"] if i % 2 else f"{row['subject']}, {STYLE_WORDS[row['style']]}" for i, row in enumerate(rows)
    ]
    order = torch.randperm(len(described), generator=torch.Generator().manual_seed(0)).tolist()
    return [described[index] for index in order]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m latentcrf.training.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", required=True, metavar="FOLDER", help="the LDM: a StableDiffusionPipeline folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set of latentcrf.emoji.dataset")
    run_arguments(parser)
    recipes = sorted(name for name, preset in PRESETS.items() if not preset.corrects_clean)
    parser.add_argument("--preset", choices=recipes, default="emoji", help="the recipe (default emoji)")
    parser.add_argument("--stage1-until", type=float, default=0.3, help="share of the time for stage 1 (default 0.3)")
    parser.add_argument(
        "--stage3-from", type=float, default=1.0, help="share of the time at which stage 3 begins (default 1: none)"
    )
    judge_arguments(parser, PAIR_JUDGES)
    parser.add_argument(
        "--runs",
        type=int,
        default=512,
        help="LDM runs for stages 2 and 3, recorded where they are not yet (default 512)",
    )
    parser.add_argument(
        "--recordings",
        type=Path,
        metavar="DIR",
        help="where they are kept, to be shared by several runs (default OUT/runs)",
    )
    chunk_argument(parser, Recording().chunk)
    step_arguments(parser, None, None, "hand-overs")
    parser.add_argument(
        "--init-from",
        metavar="FOLDER",
        help="start from the weights of this LatentCRF, or of a plain network of its size",
    )
    parser.add_argument(
        "--keep-start",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the weights of --init-from in the mean that is written and measured, 0 to 1; given again with --resume, "
        "on a finished run too, it writes the mean anew (default 0: what was learned alone)",
    )
    options = parser.parse_args(arguments)
    check_run_arguments(parser, options)
    if options.keep_start and not options.init_from:
        parser.error("--keep-start needs --init-from FOLDER, the weights that are kept.")
    for name in ("stage1_until", "stage3_from", "keep_start"):
        if not 0 <= getattr(options, name) <= 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)} is out of range: 0 to 1.")
    if not 16 <= options.runs <= 1_000_000:
        parser.error(f"--runs {options.runs} is out of range: 16 to 1000000.")
    check_chunk(parser, options, max(len(Recording().guidances), len(Recording().coarse)))
    return explained(train, options, DatasetError, PartsError)


if __name__ == "__main__":
    sys.exit(main())
