"""What a training needs: parameters, FLOPs, memory, disk and time, before anything is recorded or trained.

    python -m latentcrf.training.train ... --dry-run     # for a loaded LDM, with ten steps on random data
    python -m latentcrf.training.sizing                  # the table for Stable Diffusion 1.5, from configurations alone

FLOPs of the LDM are counted on the meta device, where tensors have shapes, but no values.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from latentcrf.model import LatentCRF
from latentcrf.observation import Observation
from latentcrf.precision import precision_name
from latentcrf.training.checkpoints import build_crf
from latentcrf.training.chunks import choose_storage
from latentcrf.training.final_latents import TAUGHT_AT_ONCE, FinalLatentsSettings
from latentcrf.training.latents import Captions, RealLatents
from latentcrf.training.ldm import LDM, load_ldm
from latentcrf.training.loop import RunError, build_accelerator, optimise
from latentcrf.training.presets import PRESETS, Preset, with_overrides
from latentcrf.training.processes import find_processes
from latentcrf.training.recording import COARSE_SCHEDULERS, CoarseSteps, RecordedRuns, RecordingSettings, compute_levels
from latentcrf.training.stages import Denoising, Distillation, Stage, draw_iterations, finish
from latentcrf.utils.arguments import run_command

STEPS = 10  # of a dry run, a stage
KEPT = 5  # times the CRF's weights in memory: weights, gradients, two moments, their average
ITERATIONS = 5


@dataclass(frozen=True)
class Size:
    """What a network needs.

    Attributes:
        parameters: their number.
        flops: of one sample; multiply-adds count two.
        sample_bytes: estimate of the memory for a sample of a batch, beside the weights.
    """

    parameters: int
    flops: int
    sample_bytes: int


def measure_size(module: nn.Module, call: Callable[[], Any], number_bytes: int) -> Size:
    """Measure a network that computes without gradients.

    Its memory is estimated as four times its largest feature map: input, output, and what waits for later layers.

    Args:
        module: the network.
        call: computes with it for one sample.
        number_bytes: bytes of a number in its feature maps.
    """
    largest = 0

    def note(layer: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel())

    hooks = [layer.register_forward_hook(note) for layer in module.modules() if not list(layer.children())]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    for hook in hooks:
        hook.remove()
    return Size(count_parameters(module), counter.get_total_flops(), 4 * number_bytes * largest)


def count_parameters(*modules: nn.Module) -> int:
    """Count the parameters of networks."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@dataclass(frozen=True)
class LDMSize:
    """What an LDM needs.

    Attributes:
        latent_shape: (C, h, w).
        prompt_shape: (tokens, D).
        unet: one evaluation.
        decoder: one image decoded.
        encoder: one image encoded.
        parameters: of all networks.
    """

    latent_shape: Sequence[int]
    prompt_shape: Sequence[int]
    unet: Size
    decoder: Size
    encoder: Size
    parameters: int


def size_ldm(
    unet_config: Any, vae_config: Any, latent_shape: Sequence[int], prompt_shape: Sequence[int],
    text_parameters: int, precision: torch.dtype,
) -> LDMSize:  # fmt: skip
    """Measure an LDM by its configurations.

    Args:
        unet_config: of a UNet2DConditionModel.
        vae_config: of an AutoencoderKL.
        latent_shape: (C, h, w).
        prompt_shape: (tokens, D).
        text_parameters: of its text encoders.
        precision: in which it computes.
    """
    _, height, width = latent_shape
    numbers = precision.itemsize
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(unet_config)
        vae = AutoencoderKL.from_config(vae_config)
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        inputs = torch.empty(1, *latent_shape), torch.zeros(1), torch.empty(1, *prompt_shape)
        more: dict[str, Any] = {}
        if unet.config.addition_embed_type == "text_time":
            pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
            more["added_cond_kwargs"] = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)}
        image = torch.empty(1, 3, height * factor, width * factor)
        unet_size = measure_size(unet, lambda: unet(*inputs, **more), numbers)
        decoder = measure_size(vae, lambda: vae.decode(inputs[0]), numbers)
        encoder = measure_size(vae, lambda: vae.encode(image), numbers)
        parameters = count_parameters(unet, vae) + text_parameters
    return LDMSize(latent_shape, prompt_shape, unet_size, decoder, encoder, parameters)


def size_crf(preset: Preset, latent_shape: Sequence[int], precision: torch.dtype) -> Size:
    """Measure a CRF with five iterations, and the memory of a training step with it.

    Args:
        preset: form and size.
        latent_shape: (C, h, w).
        precision: in which its network computes; the solver computes in float32.
    """
    crf = build_crf(preset, latent_shape[0])
    x, level = torch.randn(1, *latent_shape), torch.full((1,), 0.5)
    observation = Observation(x, x, level, level, None, level, x, level)
    size = measure_size(crf, lambda: crf(observation, ITERATIONS), precision.itemsize)
    kept: dict[int, int] = {}  # bytes of what waits for the backward pass, by storage

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        crf(observation, ITERATIONS)
    return Size(size.parameters, size.flops, sum(kept.values()))


@dataclass(frozen=True)
class RecordingSize:
    """What a recording needs.

    Attributes:
        evaluations: of the U-Net; a guided call counts two.
        round_trips: through the autoencoder.
        disk: bytes.
    """

    evaluations: int
    round_trips: int
    disk: int


def size_recording(
    recording: RecordingSettings | FinalLatentsSettings, count: int, ldm: LDMSize, precision: torch.dtype
) -> RecordingSize:
    """Compute what a recording needs.

    Args:
        recording: settings.
        count: runs; the last chunk is whole.
        ldm: of the LDM.
        precision: in which the networks compute.
    """
    evaluations = latents = 0
    chunks = -(-count // recording.chunk)
    for index in range(chunks):
        guided = 2 if recording.guidances[index % len(recording.guidances)] > 1 else 1
        if isinstance(recording, RecordingSettings):
            coarse = [recording.coarse_steps(index, name) for name in COARSE_SCHEDULERS]
            evaluations += guided * recording.chunk * (recording.steps + sum(coarse))
            latents += recording.chunk * (recording.steps + 1 + 2 * sum(steps - 2 for steps in coarse))
        else:
            evaluations += guided * recording.chunk * recording.runs[index % len(recording.runs)][1]
            latents += 2 * recording.chunk
    numbers, half = choose_storage(precision).itemsize, torch.float16.itemsize
    disk = latents * torch.Size(ldm.latent_shape).numel() * numbers
    if isinstance(recording, RecordingSettings):  # at most: no prompt twice
        return RecordingSize(
            evaluations, 0, disk + chunks * recording.chunk * half * torch.Size(ldm.prompt_shape).numel()
        )
    return RecordingSize(evaluations, recording.passes * chunks * recording.chunk, disk)


# --- a dry run --------------------------------------------------------------------------------------------------------


def dry_run(options: argparse.Namespace) -> int:
    """Print what a training needs, after ten steps on random data. Nothing is written.

    Args:
        options: of `latentcrf.training.train`, or of `train_finisher`, which have `static`.

    Returns:
        The exit status: 0, or 1 after an error message.
    """
    try:
        print(describe_training(options))
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def describe_training(options: argparse.Namespace) -> str:
    """Describe what a training needs; see `dry_run`.

    Args:
        options: of the command line.

    Returns:
        Lines of text.

    Raises:
        RunError: there is no such LDM, or it is not supported.
    """
    preset = with_overrides(PRESETS[options.preset], options.batch_size, options.learning_rate, options.guidance)
    accelerator, precision = build_accelerator(options), options.precision
    torch.manual_seed(options.seed)
    ldm = load_ldm(options.base, accelerator.device)
    is_finisher = "static" in options
    kind: Any = FinalLatentsSettings if is_finisher else RecordingSettings
    recording = kind.choose(options.guidance, options.chunk)
    size = size_ldm(
        ldm.unet.config, ldm.vae.config, ldm.latent_shape, ldm.unconditional.states.shape[1:],
        count_parameters(*ldm.text_encoders), precision,
    )  # fmt: skip
    correction = size_crf(preset, ldm.latent_shape, precision)
    recorded = size_recording(recording, options.runs, size, precision)

    evaluation = measure_evaluation(ldm, options.chunk, precision)
    crf = build_crf(preset, ldm.latent_shape[0], ldm.unet.config.cross_attention_dim if preset.reads_prompt else None)
    crf = crf.to(accelerator.device)
    stages: dict[str, tuple[float, Any]] = {}  # share of the budget, stage
    if is_finisher:
        stages["finisher"] = 1.0, Finishing(accelerator, preset, ldm, precision)
    else:
        alphas = compute_levels(ldm.scheduler, recording.steps)
        if options.stage1_until > 0:
            real = draw_real_latents(ldm, preset.batch_size)
            stages["stage 1"] = options.stage1_until, Denoising(accelerator, preset, ldm, real, alphas, precision)
        runs = draw_runs(ldm, alphas)
        stages["stage 2"] = 1 - options.stage1_until, Distillation(accelerator, preset, runs, precision)
    seconds = {name: options.gradient_accumulation * time_steps(crf, stage) for name, (_, stage) in stages.items()}

    processes = find_processes().num_processes
    per_trip = (size.decoder.flops + size.encoder.flops) / size.unet.flops * evaluation
    recording_time = (recorded.evaluations * evaluation + recorded.round_trips * per_trip) / processes
    training_time = (
        60 * options.minutes
        if options.max_steps is None
        else options.max_steps * sum(share * seconds[name] for name, (share, _) in stages.items())
    )
    sampled = 2 * max(options.chunk, preset.batch_size if "stage 1" in stages else 0)
    memory = estimate_memory(size, correction, sampled, preset.batch_size, is_finisher)
    measured = ""
    if accelerator.device.type == "cuda":
        measured = f"; the ten steps took {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    share = correction.flops / (2 * size.unet.flops)
    lines = [
        f"LDM: {format_count(size.parameters)} parameters, {format_count(size.unet.parameters)} of them the U-Net's; "
        f"{size.unet.flops / 1e9:,.1f} GFLOP an evaluation",
        f"CRF: {format_count(correction.parameters)} parameters; {correction.flops / 1e9:,.3f} GFLOP, {share:.2%} of a "
        "guided call",
        f"memory: about {memory / 1e9:.1f} GB in {precision_name(precision)}{measured}",
        f"recordings: {options.runs:,} runs, {recorded.evaluations:,} U-Net evaluations, "
        f"{recorded.disk / 1e9:.2f} GB on disk",
        *(f"{name}: {value:.3f} s a step of {preset.batch_size} x {processes}" for name, value in seconds.items()),
        f"expected time: {format_seconds(recording_time)} for the recordings, {format_seconds(training_time)} for the "
        f"training, with {processes} process{'es' if processes > 1 else ''}",
        "Nothing was written. Not counted: encoding the images once (stage 1), reports, checkpoints.",
    ]
    return "\n".join(lines)


def estimate_memory(ldm: LDMSize, crf: Size, sampled: int, batch: int, with_autoencoder: bool) -> int:
    """Estimate the memory of recording and training in one process.

    Args:
        ldm: of the LDM; it lies in float32, with a copy of the U-Net's weights in half precision while it computes.
        crf: of the CRF.
        sampled: U-Net evaluations at once.
        batch: samples of a training step.
        with_autoencoder: whether images are decoded and encoded, four at once, as a finisher's teacher does.

    Returns:
        Bytes.
    """
    weights = 4 * (ldm.parameters + KEPT * crf.parameters) + 2 * ldm.unet.parameters
    at_once = sampled * ldm.unet.sample_bytes + batch * crf.sample_bytes
    images = TAUGHT_AT_ONCE * max(ldm.decoder.sample_bytes, ldm.encoder.sample_bytes)
    return weights + max(at_once, images if with_autoencoder else 0)


@torch.no_grad()
def measure_evaluation(ldm: LDM, chunk: int, precision: torch.dtype) -> float:
    """Time a U-Net evaluation of one sample.

    Args:
        ldm: the LDM.
        chunk: samples at once; on a CPU one, where a batch is no faster.
        precision: in which it computes.

    Returns:
        Seconds.
    """
    count = chunk if ldm.device.type == "cuda" else 1
    latents, timestep = torch.randn(count, *ldm.latent_shape).to(ldm.device), torch.tensor(500, device=ldm.device)
    prompts = ldm.unconditional.expand(count)
    times = []
    for _ in range(3):
        begin = read_clock(ldm.device)
        ldm.predict(latents, timestep, prompts, 3.0, precision)
        times.append(read_clock(ldm.device) - begin)
    return min(times) / (2 * count)


def read_clock(device: torch.device) -> float:
    """Return the time in seconds when all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def time_steps(crf: LatentCRF, stage: Stage) -> float:
    """Time `STEPS` steps of a stage.

    Args:
        crf: is trained a little.
        stage: on random data.

    Returns:
        The median in seconds a step.
    """
    optimizer = torch.optim.AdamW(crf.parameters(), lr=1e-6)
    device = next(crf.parameters()).device
    clock = [read_clock(device)]
    for _ in range(STEPS):
        stage.step(crf, optimizer, 0.5)
        clock.append(read_clock(device))
    return float(torch.tensor(clock, dtype=torch.float64).diff().median())


def draw_runs(ldm: LDM, alphas: Tensor) -> RecordedRuns:
    """Make a few random recorded runs.

    Args:
        ldm: for their shape.
        alphas: level abar of each step, then 1 (S + 1,).
    """
    count, coarse = 8, compute_levels(DDIMScheduler.from_config(ldm.scheduler.config), 8)
    numbers = torch.arange(count).repeat_interleave(6)
    shape = len(numbers), *ldm.latent_shape
    steps = CoarseSteps(
        torch.randn(shape), torch.randn(shape), coarse[2:-1].repeat(count), coarse[1:-2].repeat(count), numbers
    )
    prompts = torch.randn(count, *ldm.unconditional.states.shape[1:])
    return RecordedRuns(torch.randn(count, len(alphas), *ldm.latent_shape), alphas, prompts, steps)


def draw_real_latents(ldm: LDM, count: int) -> RealLatents:
    """Make random latents of images, with one caption.

    Args:
        ldm: for their shape.
        count: images.
    """
    means = torch.randn(count, *ldm.latent_shape)
    return RealLatents(means, torch.ones_like(means), Captions(ldm, [[["a"]] * 3] * count))


class Finishing:
    """A finisher's step on random final latents, for a dry run; see `Stage`."""

    def __init__(self, accelerator: Any, preset: Preset, ldm: LDM, precision: torch.dtype) -> None:
        self.accelerator, self.precision = accelerator, precision
        self.learning_rate, self.batch_size, self.components = preset.learning_rate, preset.batch_size, {}  # type: ignore[var-annotated]
        self.latents = torch.randn(preset.batch_size, *ldm.latent_shape).to(accelerator.device)

    def step(self, crf: LatentCRF, optimizer: torch.optim.Optimizer, share: float) -> dict[str, Tensor]:
        """Train the CRF for one step."""
        results = finish(crf, self.latents, draw_iterations(), self.precision)
        optimise(self.accelerator, results.square().mean(), crf, optimizer)
        return {}


def format_count(number: int) -> str:
    """Write a number of parameters, for example "859.5 M"."""
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number:,}"


def format_seconds(seconds: float) -> str:
    """Write a duration in the unit that fits it."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


# --- Stable Diffusion 1.5 ---------------------------------------------------------------------------------------------

SD15_UNET = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}  # the rest are the class's defaults
SD15_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
SD15_TEXT: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12,
}  # fmt: skip
SD15_TOKENS = 77
BATCH, IMAGES = 16, 10_000  # of the commands in docs/training.md
RUNS, FINAL_RUNS = 4096, 7168
COMPARED = 100  # images of each of the benchmark's ten methods
COMPARED_EVALUATIONS = 2 * (50 + 34 + 20 + 12 + 10 + 20 + 3 * 34 + 10)  # of an image by each of them


@dataclass(frozen=True)
class Machine:
    """What the table assumes of a machine.

    Attributes:
        name: in words.
        gpus: their number.
        tflops: of a GPU with dense half-precision products, TFLOP/s.
        utilisation: share of them that a U-Net reaches here.
    """

    name: str
    gpus: int
    tflops: float
    utilisation: float = 0.25

    def seconds(self, flops: float) -> float:
        """Return the time that FLOPs take on all its GPUs."""
        return flops / (1e12 * self.tflops * self.utilisation * self.gpus)


MACHINES = Machine("one 24 GB card", 1, 165), Machine("8 GPUs", 8, 312)


def build_table() -> str:
    """Build the table of docs/training.md: what each command for Stable Diffusion 1.5 needs.

    Returns:
        Markdown.
    """
    precision = torch.bfloat16
    with torch.device("meta"):
        text = CLIPTextModel(CLIPTextConfig(**SD15_TEXT))
    ldm = size_ldm(SD15_UNET, SD15_VAE, (4, 64, 64), (SD15_TOKENS, 768), count_parameters(text), precision)
    names = "emoji", "emoji-static", "emoji-finisher"
    crfs = {name: size_crf(PRESETS[name], ldm.latent_shape, precision) for name in names}
    crf = crfs["emoji"]
    runs = size_recording(RecordingSettings(), RUNS, ldm, precision)
    final = size_recording(FinalLatentsSettings(), FINAL_RUNS, ldm, precision)
    trip = ldm.decoder.flops + ldm.encoder.flops
    latents_bytes = 2 * torch.Size(ldm.latent_shape).numel()
    images = IMAGES * ldm.encoder.flops, estimate_memory(ldm, crf, 0, 0, True), IMAGES * 2 * latents_bytes
    recording, final_recording = (
        estimate_memory(ldm, crf, 2 * settings.chunk, 0, settings is FinalLatentsSettings)
        for settings in (RecordingSettings, FinalLatentsSettings)
    )
    rows = {
        f"record {RUNS:,} runs": (runs.evaluations * ldm.unet.flops, recording,
                                  runs.disk),
        f"encode {IMAGES:,} images": images,
        f"stage 1, {1000 * BATCH:,} images": (1000 * BATCH * (2 * ldm.unet.flops + 3 * crf.flops),
                                                   estimate_memory(ldm, crf, 2 * BATCH, BATCH, False), 0),
        f"record {FINAL_RUNS:,} final latents": (final.evaluations * ldm.unet.flops + final.round_trips * trip,
                                                 final_recording, final.disk),
        f"benchmark: 10 methods, {COMPARED} images each": (
            COMPARED * (COMPARED_EVALUATIONS * ldm.unet.flops + 10 * ldm.decoder.flops),
            estimate_memory(ldm, crf, 32, 0, True), 0),
    }  # fmt: skip
    lines = [
        f"U-Net: {format_count(ldm.unet.parameters)} parameters, {ldm.unet.flops / 1e9:,.0f} GFLOP an evaluation. "
        f"Autoencoder: {ldm.decoder.flops / 1e9:,.0f} GFLOP to decode an image,",
        f"{ldm.encoder.flops / 1e9:,.0f} to encode one.",
        "",
        "| preset | parameters | GFLOP a correction | share of a guided call | MB a sample, training |",
        "|---|---|---|---|---|",
    ]
    for name, size in crfs.items():
        share = size.flops / (2 * ldm.unet.flops)
        cells = f"{size.parameters:,}", f"{size.flops / 1e9:.2f}", f"{share:.2%}", f"{size.sample_bytes / 1e6:.0f}"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    machines = " | ".join(machine.name for machine in MACHINES)
    lines += ["", f"| step | PFLOP | {machines} | GB on a card | GB on disk |", "|---|---|---|---|---|---|"]
    for name, (flops, memory, disk) in rows.items():
        times = " | ".join(format_seconds(machine.seconds(flops)) for machine in MACHINES)
        lines.append(f"| {name} | {flops / 1e15:,.0f} | {times} | {memory / 1e9:.0f} | {disk / 1e9:.1f} |")
    assumed = "; ".join(f"{each.name}: {each.gpus} x {each.tflops:.0f} TFLOP/s in half precision" for each in MACHINES)
    reached = f"{MACHINES[0].utilisation:.0%}"
    lines += ["", f"Assumed: {assumed}; networks", f"reach {reached} of it; 512 px, {SD15_TOKENS} tokens, bfloat16."]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m latentcrf.training.sizing",
        description="Print what the commands of docs/training.md for Stable Diffusion 1.5 need, counted from its "
        "configurations. For another LDM or machine give --dry-run to a training.",
    )
    parser.parse_args(arguments)
    print(build_table())
    return 0


if __name__ == "__main__":
    run_command(main)
