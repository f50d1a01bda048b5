"""Interleaved timing: all are timed in turn, under the same conditions."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from analysis.benchmark.measure import Task
from analysis.benchmark.methods import FULL_RUN, Method, build_scheduler
from analysis.sampling import cache_deep_features, encode, run_sampler


def time_interleaved(
    run: Callable[[Any], Any],
    arguments: Sequence[Any],
    rounds: int,
    threads: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
    """Time `run` for each of the arguments, interleaved A B C A B C ... after a warm-up of each.

    Args:
        run: what is timed.
        arguments: n values, one a call.
        rounds: how often each is timed.
        threads: CPU threads; None (default): as many as there are now.
        clock: in seconds; default: a clock on the wall.

    Returns:
        Seconds (n, rounds).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    seconds = []
    try:
        for _ in tqdm(range(rounds + 1), desc="timing", unit="round", disable=None):
            this_round = []
            for argument in arguments:
                begin = clock()
                run(argument)
                this_round.append(clock() - begin)
            seconds.append(this_round)
    finally:
        torch.set_num_threads(before)
    return np.array(seconds[1:]).T


def read_gpu_clock() -> float:
    """Read the clock on the wall once the GPU has finished its work, in seconds."""
    torch.accelerator.synchronize()
    return time.perf_counter()


def measure_time_ratios(
    methods: Sequence[Method], task: Task, pipeline: StableDiffusionPipeline, schedulers: Sequence[Any], rounds: int
) -> list[np.ndarray]:
    """Time the samplers against the full run: batch 1, rounds of the full run and then every method once.

    On a CPU in CPU seconds of one thread, which a busy machine moves less than seconds on the wall; on a GPU in seconds
    on the wall, once it has finished. The prompt is encoded before: that costs every method the same.

    Args:
        methods: n methods.
        task: its first prompt and seed are taken.
        pipeline: the LDM.
        schedulers: one a method.
        rounds: how often each is timed.

    Returns:
        Of each method its seconds over the full run's of the same round (rounds,).
    """
    embeds, seeds = encode(pipeline, task.captions[:1]), task.seeds[:1]

    def run(sampler: tuple[Any, Method]) -> None:
        scheduler, method = sampler
        settings = method.sampler_settings(task.guidance)
        with cache_deep_features(pipeline, method.cache_interval):
            run_sampler(pipeline, embeds, seeds, scheduler=scheduler, precision=task.precision, **settings)

    clock = time.thread_time if pipeline.device.type == "cpu" else read_gpu_clock
    full_scheduler = build_scheduler(FULL_RUN, pipeline, {}, {})
    samplers = [(full_scheduler, FULL_RUN), *zip(schedulers, methods, strict=True)]
    full, *others = time_interleaved(run, samplers, rounds, threads=1, clock=clock)
    return [seconds / full for seconds in others]
