"""The benchmark's methods: their names, their schedulers, what becomes of the final latents."""

from dataclasses import replace

import numpy as np
import torch

from analysis.benchmark.methods import (
    AYS,
    FINISHERS,
    GUIDANCES,
    HEADLINE,
    Method,
    build_scheduler,
    list_core_methods,
    list_default_methods,
    list_methods,
    space_ays_timesteps,
)
from analysis.sampling import load_pipeline, sample
from analysis.studies.frontier import FULL_METHOD, name_file
from latentcrf import Finisher, LatentCRF, LatentCRFScheduler, Observation, VAERoundTrip
from latentcrf.vae import round_trip
from tests.latentcrf.test_model import with_random_weights


def test_methods_have_names_of_their_own_and_the_full_run_comes_first() -> None:
    methods = list_methods()
    assert methods[0].name == FULL_METHOD
    names = [method.name for method in methods]
    assert len(set(names)) == len({name_file(name) for name in names}) == len(names)
    assert Method("DDIM", 50, (33, 49), "conditional").name == "DDIM-50 LatentCRF (33, 49)"
    assert Method("UniPC", 6, finisher="finisher").name == "UniPC-6 + finisher"
    assert HEADLINE.name == "UniPC-12 cut-off 1/3 + finisher"
    with_crf = {method.name for method in methods if method.uses_crf}
    assert {
        "DDIM-50 static LatentCRF (33, 49) + finisher",
        "DPM-Solver++-8 + finisher",
        "DDIM-50 LatentCRF (17, 42)",
        "DDIM-50 LatentCRF (33, 49) + VAE round trip",
        "DDIM-50 zero-parameter bypass (17, 42) + finisher",
        "DDIM-50 DeepCache 3 + finisher",
        "DPM-Solver++-10 AYS + finisher",
    } <= with_crf
    assert {
        "DPM-Solver++-8",
        "UniPC-8 + VAE round trip",
        "UniPC-8 + plain finisher",
        "DDIM-50 plain network (17, 42)",
        "DDIM-50 zero-parameter bypass (17, 42)",
        "UniPC-12 interval 1/4-2/3",
        "DDIM-50 guidance 2",
        "UniPC-12 DeepCache 2",
    } <= set(names) - with_crf


def test_what_readers_are_shown_is_a_part_of_all_and_begins_with_what_conclusions_rest_on() -> None:
    core, default, every = list_core_methods(), list_default_methods(), list_methods()
    assert every[: len(default)] == default and default[: len(core)] == core
    assert len(core) <= 15 and len(set(every)) == len(every)


def test_each_kind_of_baseline_is_measured_with_and_without_the_finisher() -> None:
    methods = list_methods()
    without = [method for method in methods if not method.finisher and not method.crf_form]
    assert {method.guidance for method in without} == set(GUIDANCES)
    assert "AYS" in {method.spacing for method in without} and {2, 3, 5} < {method.cache_interval for method in without}
    ended = [method for method in without if method.guidance or method.spacing or method.cache_interval > 1]
    assert len(ended) >= 20 and all(replace(method, finisher="finisher") in methods for method in ended)


def test_ays_timesteps_are_the_published_ones_and_fall_at_any_number_of_steps() -> None:
    assert space_ays_timesteps(10) == list(AYS) and len(AYS) == 10
    for steps in (2, 6, 8, 12, 20):
        timesteps = space_ays_timesteps(steps)
        assert len(timesteps) == steps and (timesteps[0], timesteps[-1]) == (AYS[0], AYS[-1])
        assert (np.diff(timesteps) < 0).all()


def test_schedulers_make_as_many_calls_as_their_method_says() -> None:
    pipeline = load_pipeline()
    crfs = {"zero-parameter": None, "static": LatentCRF(form="static"), "conditional": LatentCRF()}
    crfs["plain"] = LatentCRF(num_experts=0, pairwise_rank=0)
    finisher = Finisher(LatentCRF(corrects_clean=True))
    plain = Finisher(LatentCRF(corrects_clean=True, num_experts=0, pairwise_rank=0))
    finishers = dict(zip(FINISHERS, (finisher, plain, VAERoundTrip(pipeline.vae)), strict=True))
    for method in list_methods():
        scheduler = build_scheduler(method, pipeline, crfs, finishers)
        settings = method.sampler_settings(3.0)
        if settings["timesteps"] is None:
            scheduler.set_timesteps(method.steps)
        else:
            scheduler.set_timesteps(timesteps=settings["timesteps"])
        skipped = 0 if method.bypass is None else method.bypass[1] - method.bypass[0]
        assert len(scheduler.timesteps) == method.steps - skipped, method.name
        assert isinstance(scheduler, LatentCRFScheduler) == (method.bypass is not None or method.finisher != "")
        assert getattr(scheduler, "finisher", None) is finishers.get(method.finisher), method.name
        assert getattr(scheduler, "crf", None) is crfs.get(method.crf_form), method.name
        assert settings["guidance"] == (2.0 if method.guidance == "guidance 2" else 3.0)


def test_what_becomes_of_the_final_latents() -> None:
    pipeline = load_pipeline()
    finisher, plain = (
        Finisher(with_random_weights(LatentCRF(corrects_clean=True, channels=16, coarse_channels=16), seed))
        for seed in (0, 1)
    )
    finishers = dict(zip(FINISHERS, (finisher, plain, VAERoundTrip(pipeline.vae)), strict=True))
    method, results = Method("DPM-Solver++", 4), {}
    for name in ("", *FINISHERS):
        scheduler = build_scheduler(replace(method, finisher=name), pipeline, {}, finishers)
        results[name] = sample(pipeline, ["rocket"], [0], steps=4, scheduler=scheduler)
    latents = results[""]
    with torch.no_grad():
        for name, network in (("finisher", finisher.crf), ("plain finisher", plain.crf)):
            assert torch.allclose(results[name], network(Observation(latents, latents, 1.0, 1.0)), atol=1e-4), name
    assert torch.allclose(results["VAE round trip"], round_trip(pipeline.vae, latents), atol=1e-4)
