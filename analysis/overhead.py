"""Profile one image and tell what the sampler spends outside its networks.

    python -m analysis.overhead --out results/overhead --threads 2 --rounds 5

The full run and the bypass (33, 49) with the finisher: DDIM, 50 steps, guidance 3, batch 1, from the prompt to the
image. Each part's time is without the parts that it calls. "outside" sums what is neither U-Net nor CRF nor
autoencoder; "outside, prompt known" leaves text encoder and tokenizer out of the run, as for a prompt whose states
are kept (`analysis.sampling.encode`). The rounds are timed by the clock; --profiled times them in torch.profiler, which
adds to each small operation. Written to --out: overhead.csv and, of a last run of each method in torch.profiler, a
trace for https://ui.perfetto.dev. On a busy machine take --threads 1: with more, the networks wait for each other's
threads and seem slower.
"""

import contextlib
import gzip
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
from latentcrf.utils.files import claim_folder, release_folder, replace_file
from latentcrf.utils.weights import MODELS

RUN = "the pipeline's own loop"  # the whole run, less all other parts
NETWORKS = ("U-Net", "bypass CRF", "finisher", "autoencoder")
PROMPT = ("text encoder", "tokenizer")
OUTSIDE = (*PROMPT, "set_timesteps", "scheduler's steps", "image from tensor", RUN)


class Times:
    """The labelled parts of a run by the clock; torch.profiler sees the labels too.

    Args:
        labels: of the parts.

    Attributes:
        own: milliseconds of each part without the parts inside it.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.own = dict.fromkeys(labels, 0.0)
        self._open: list[tuple[str, float, record_function]] = []

    def begin(self, label: str) -> None:
        """Begin a part.

        Args:
            label: of the part.
        """
        label_in_trace = record_function(label)
        label_in_trace.__enter__()
        self._open.append((label, time.perf_counter(), label_in_trace))

    def end(self) -> None:
        """End the part that began last."""
        label, began, label_in_trace = self._open.pop()
        milliseconds = 1000 * (time.perf_counter() - began)
        label_in_trace.__exit__(None, None, None)
        self.own[label] += milliseconds
        if self._open:
            self.own[self._open[-1][0]] -= milliseconds


@contextlib.contextmanager
def label_module(module: nn.Module, label: str, times: Times) -> Iterator[None]:
    """Time a module's calls under a label within the context.

    Args:
        module: the module.
        label: of the part.
        times: where to.
    """

    def begin(*_: Any) -> None:
        times.begin(label)

    def end(*_: Any) -> None:
        times.end()

    handles = [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def label_method(instance: Any, name: str, label: str, times: Times) -> Iterator[None]:
    """Time the calls of an instance's method under a label within the context.

    Args:
        instance: whose method it is; others of its class are left alone.
        name: of the method.
        label: of the part.
        times: where to.
    """
    method = getattr(instance, name)

    @wraps(method)  # pipelines look at a scheduler's signatures
    def labelled(*args: Any, **kwargs: Any) -> Any:
        times.begin(label)
        try:
            return method(*args, **kwargs)
        finally:
            times.end()

    object.__setattr__(instance, name, labelled)  # past LatentCRFScheduler's, which hands attributes on
    try:
        yield
    finally:
        object.__delattr__(instance, name)


@contextlib.contextmanager
def label_parts(pipeline: StableDiffusionPipeline, scheduler: Any, times: Times) -> Iterator[None]:
    """Time the parts of a run within the context.

    Args:
        pipeline: the LDM.
        scheduler: of the run.
        times: where to.
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
                stack.enter_context(label_module(module, label, times))
        for instance, name, label in methods:
            stack.enter_context(label_method(instance, name, label, times))
        yield


def time_run(pipeline: StableDiffusionPipeline, scheduler: Any, trace: Path | None = None) -> dict[str, float]:
    """Time the parts of a run.

    Args:
        pipeline: the LDM.
        scheduler: of the run.
        trace: file for the trace of torch.profiler, compressed; None (default): the run is not profiled.

    Returns:
        Milliseconds of each part.
    """
    times, noise = Times((*NETWORKS, *OUTSIDE)), torch.Generator().manual_seed(0)
    with use_scheduler(pipeline, scheduler), label_parts(pipeline, scheduler, times), contextlib.ExitStack() as stack:
        profiler = None if trace is None else stack.enter_context(profile(activities=[ProfilerActivity.CPU]))
        times.begin(RUN)
        pipeline("red apple", num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noise)
        times.end()
    if profiler is not None and trace is not None:
        with tempfile.TemporaryDirectory() as folder, replace_file(trace) as temporary:
            file = Path(folder, "trace.json")
            profiler.export_chrome_trace(str(file))
            temporary.write_bytes(gzip.compress(file.read_bytes(), compresslevel=3))
    return times.own


def measure_parts(
    pipeline: StableDiffusionPipeline, methods: dict[str, Any], rounds: int, out: Path, is_profiled: bool = False
) -> pd.DataFrame:
    """Measure the parts of each method's run, interleaved.

    Args:
        pipeline: the LDM.
        methods: schedulers by name.
        rounds: how often each is timed, after a warm-up.
        out: folder of the traces.
        is_profiled: whether the rounds run in torch.profiler, default False.

    Returns:
        Columns method, part, milliseconds (median of the rounds), share (of the median rounds' sum), is_outside.
    """
    times: dict[str, list[dict[str, float]]] = defaultdict(list)
    traces = {method: out / f"{method.replace(' ', '-')}.json.gz" for method in methods}
    for number in tqdm(range(-1, rounds), desc="rounds", unit="round", disable=None):
        for method, scheduler in methods.items():
            found = time_run(pipeline, scheduler, traces[method] if is_profiled and number >= 0 else None)
            if number >= 0:
                times[method].append(found)
    if not is_profiled:
        for method, scheduler in methods.items():
            time_run(pipeline, scheduler, traces[method])
    tables = []
    for method, rows in times.items():
        median = pd.DataFrame(rows).median()
        table = pd.DataFrame({"part": median.index, "milliseconds": median, "share": median / median.sum()})
        tables.append(table.assign(method=method, is_outside=table["part"].isin(OUTSIDE)))
    columns = ["method", "part", "milliseconds", "share", "is_outside"]
    return pd.concat(tables, ignore_index=True)[columns]


def format_parts(table: pd.DataFrame) -> str:
    """Format the table of `measure_parts` in Markdown, with the sums of what is outside the networks.

    Args:
        table: as of `measure_parts`.
    """
    methods = list(dict.fromkeys(table["method"]))
    outside = table[table["is_outside"]].groupby("method")[["milliseconds", "share"]].sum().reset_index()
    known = table[~table["part"].isin(PROMPT)]
    after = known[known["is_outside"]].groupby("method")[["milliseconds"]].sum()
    after["share"] = after["milliseconds"] / known.groupby("method")["milliseconds"].sum()
    sums = {"outside": outside, "outside, prompt known": after.reset_index()}
    shown = pd.concat([table, *(each.assign(part=part) for part, each in sums.items())]).set_index(["part", "method"])
    rows = []
    for part in [*NETWORKS, *OUTSIDE, *sums]:
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
        "--rounds", type=int_between(1, 100), default=3, help="timed runs of each method, 1 to 100 (default 3)"
    )
    parser.add_argument(
        "--profiled", dest="is_profiled", action="store_true", help="time the rounds in torch.profiler (default: not)"
    )
    options = parser.parse_args(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        claim_folder(options.out)
        pipeline = load_pipeline(options.model)
        crf, finisher = (LatentCRF.from_pretrained(path).float().eval() for path in (options.crf, options.finisher))
        bypass = LatentCRFScheduler(pipeline.scheduler, crf, bypass=BYPASS, finisher=Finisher(finisher))
        methods = {FULL_RUN: pipeline.scheduler, LATENTCRF: bypass}
        table = measure_parts(pipeline, methods, options.rounds, options.out, options.is_profiled)
        with replace_file(options.out / "overhead.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    except (OSError, ValueError) as error:
        release_folder(options.out)
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        torch.set_num_threads(before)
    print(format_parts(table))
    return 0


if __name__ == "__main__":
    run_command(main)
