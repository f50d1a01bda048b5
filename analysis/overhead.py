"""Profile one image and tell what the sampler spends outside its networks.

    python -m analysis.overhead --out results/overhead --threads 2 --rounds 5

torch.profiler records the full run and the bypass (33, 49) with the finisher: DDIM, 50 steps, guidance 3, batch 1, from
the prompt to the image. Each part's time is without the parts that it calls. "outside" sums what is neither U-Net nor
CRF nor autoencoder. Written to --out: overhead.csv and, of each method's last round, a trace for https://ui.perfetto.dev.
On a busy machine take --threads 1: with more, the networks wait for each other's threads and seem slower.
"""

import contextlib
import gzip
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from tqdm import tqdm

from analysis.arguments import add_arguments, build_parser
from analysis.markdown import format_markdown_table
from analysis.sampling import BYPASS, GUIDANCE, STEPS, load_pipeline, use_scheduler
from analysis.studies import FULL_RUN, LATENTCRF
from latentcrf import Finisher, LatentCRF, LatentCRFScheduler
from latentcrf.utils.arguments import int_between, run_command
from latentcrf.utils.files import replace_file
from latentcrf.utils.weights import MODELS

RUN = "the pipeline's own loop"  # the whole run, less all other parts
NETWORKS = ("U-Net", "bypass CRF", "finisher", "autoencoder")
OUTSIDE = ("text encoder", "tokenizer", "set_timesteps", "scheduler's steps", "image from tensor", RUN)


@contextlib.contextmanager
def label_module(module: nn.Module, label: str) -> Iterator[None]:
    """Let the profiler see a module's calls under a label within the context.

    Args:
        module: the module.
        label: in the trace.
    """
    running: list[Any] = []

    def begin(*_: Any) -> None:
        running.append(record_function(label))
        running[-1].__enter__()

    def end(*_: Any) -> None:
        running.pop().__exit__(None, None, None)

    handles = [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def label_method(instance: Any, name: str, label: str) -> Iterator[None]:
    """Let the profiler see the calls of an instance's method under a label within the context.

    Args:
        instance: whose method it is; others of its class are left alone.
        name: of the method.
        label: in the trace.
    """
    method = getattr(instance, name)

    @wraps(method)  # pipelines look at a scheduler's signatures
    def labelled(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return method(*args, **kwargs)

    object.__setattr__(instance, name, labelled)  # past LatentCRFScheduler's, which hands attributes on
    try:
        yield
    finally:
        object.__delattr__(instance, name)


@contextlib.contextmanager
def label_parts(pipeline: StableDiffusionPipeline, scheduler: Any) -> Iterator[None]:
    """Label the parts of a run within the context.

    Args:
        pipeline: the LDM.
        scheduler: of the run.
    """
    modules: dict[str, nn.Module | None] = {"U-Net": pipeline.unet, "text encoder": pipeline.text_encoder}
    if isinstance(scheduler, LatentCRFScheduler):
        modules |= {"bypass CRF": scheduler.crf}
        modules |= {"finisher": scheduler.finisher.crf if isinstance(scheduler.finisher, Finisher) else None}
    methods = (
        (pipeline.vae, "decode", "autoencoder"),
        (pipeline, "encode_prompt", "tokenizer"),
        (pipeline.image_processor, "postprocess", "image from tensor"),
        (scheduler, "set_timesteps", "set_timesteps"),
        (scheduler, "step", "scheduler's steps"),
    )
    with contextlib.ExitStack() as stack:
        for label, module in modules.items():
            if module is not None:
                stack.enter_context(label_module(module, label))
        for instance, name, label in methods:
            stack.enter_context(label_method(instance, name, label))
        yield


def compute_own_times(trace: dict[str, Any], labels: tuple[str, ...]) -> dict[str, float]:
    """Compute each label's time without the labels inside it.

    Args:
        trace: as of `torch.profiler.profile.export_chrome_trace`.
        labels: of `record_function`.

    Returns:
        Milliseconds by label; 0 where a label does not occur.
    """
    own: dict[str, float] = dict.fromkeys(labels, 0.0)
    found = [event for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
    open_ones: list[tuple[float, str]] = []  # end and label of the events around the next one
    for event in sorted((event for event in found if event["name"] in own), key=lambda event: event["ts"]):
        while open_ones and open_ones[-1][0] <= event["ts"]:
            open_ones.pop()
        own[event["name"]] += event["dur"] / 1000
        if open_ones:
            own[open_ones[-1][1]] -= event["dur"] / 1000
        open_ones.append((event["ts"] + event["dur"], event["name"]))
    return own


def profile_run(run: Callable[[], Any], keep: Path | None = None) -> dict[str, float]:
    """Profile a run.

    Args:
        run: of one image.
        keep: file for the trace, compressed; None (default): it is not kept.

    Returns:
        Milliseconds of each part.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function(RUN):
        run()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(file))
        text = file.read_text(encoding="utf-8")
    if keep is not None:
        with replace_file(keep) as temporary:
            temporary.write_bytes(gzip.compress(text.encode(), compresslevel=3))
    return compute_own_times(json.loads(text), (*NETWORKS, *OUTSIDE))


def measure_parts(pipeline: StableDiffusionPipeline, methods: dict[str, Any], rounds: int, out: Path) -> pd.DataFrame:
    """Measure the parts of each method's run, interleaved.

    Args:
        pipeline: the LDM.
        methods: schedulers by name.
        rounds: how often each is profiled, after a warm-up.
        out: folder of the traces.

    Returns:
        Columns method, part, milliseconds (median of the rounds), share (of the median rounds' sum), is_outside.
    """
    times: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in tqdm(range(-1, rounds), desc="rounds", unit="round", disable=None):
        for method, scheduler in methods.items():

            def run() -> Any:
                noise = torch.Generator().manual_seed(0)
                return pipeline("red apple", num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noise)

            keep = out / f"{method.replace(' ', '-')}.json.gz" if number == rounds - 1 else None
            with use_scheduler(pipeline, scheduler), label_parts(pipeline, scheduler):
                if number < 0:
                    run()
                else:
                    times[method].append(profile_run(run, keep))
    tables = []
    for method, rows in times.items():
        median = pd.DataFrame(rows).median()
        table = pd.DataFrame({"part": median.index, "milliseconds": median, "share": median / median.sum()})
        tables.append(table.assign(method=method, is_outside=table["part"].isin(OUTSIDE)))
    columns = ["method", "part", "milliseconds", "share", "is_outside"]
    return pd.concat(tables, ignore_index=True)[columns]


def format_parts(table: pd.DataFrame) -> str:
    """Format the table of `measure_parts` in Markdown, with the sum of what is outside the networks.

    Args:
        table: as of `measure_parts`.
    """
    methods = list(dict.fromkeys(table["method"]))
    outside = table[table["is_outside"]].groupby("method")[["milliseconds", "share"]].sum().reset_index()
    shown = pd.concat([table, outside.assign(part="outside")]).set_index(["part", "method"])
    rows = []
    for part in [*NETWORKS, *OUTSIDE, "outside"]:
        cells = [shown.loc[(part, method)] for method in methods]
        texts = [[f"{cell['milliseconds']:.1f}", f"{100 * cell['share']:.2f} %"] for cell in cells]
        rows.append([part, *(text for pair in texts for text in pair)])
    titles = [title for method in methods for title in (f"{method}, ms", "share")]
    return format_markdown_table(["part", *titles], rows)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: default: the process's.

    Returns:
        The exit status: 0, or 1 after an error message.
    """
    parser = build_parser("analysis.overhead", __doc__)
    add_arguments(parser, "out", "model", "crf")
    parser.add_argument(
        "--finisher", type=Path, default=MODELS / "emoji-latentcrf-finisher", metavar="FOLDER",
        help="finisher (default: shipped)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int_between(1, 256), default=2, help="CPU threads, 1 to 256 (default 2)")
    parser.add_argument(
        "--rounds", type=int_between(1, 100), default=3, help="profiled runs of each method, 1 to 100 (default 3)"
    )
    options = parser.parse_args(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        pipeline = load_pipeline(options.model)
        crf, finisher = (LatentCRF.from_pretrained(path).float().eval() for path in (options.crf, options.finisher))
        bypass = LatentCRFScheduler(pipeline.scheduler, crf, bypass=BYPASS, finisher=Finisher(finisher))
        methods = {FULL_RUN: pipeline.scheduler, LATENTCRF: bypass}
        table = measure_parts(pipeline, methods, options.rounds, options.out)
        with replace_file(options.out / "overhead.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        torch.set_num_threads(before)
    print(format_parts(table))
    return 0


if __name__ == "__main__":
    run_command(main)
