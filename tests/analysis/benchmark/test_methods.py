"""The benchmark's methods: their names, their schedulers, what becomes of the final latents."""

from dataclasses import replace

import torch

from analysis.benchmark.methods import CRF_FORMS, FINISHERS, Method, build_scheduler, list_methods
from analysis.sampling import load_pipeline, sample
from analysis.studies.frontier import FULL_METHOD, name_file
from latentcrf import Finisher, LatentCRF, LatentCRFScheduler, Observation, VAERoundTrip
from latentcrf.vae import round_trip
from tests.latentcrf.test_model import with_random_weights


def test_methods_have_names_of_their_own_and_the_full_run_comes_first() -> None:
    methods = list_methods(tuple(CRF_FORMS), FINISHERS)
    assert methods[0].name == FULL_METHOD
    names = [method.name for method in methods]
    assert len(set(names)) == len({name_file(name) for name in names}) == len(names)
    assert Method("DDIM", 50, (33, 49), "conditional").name == "DDIM-50 LatentCRF (33, 49)"
    assert Method("UniPC", 6, finisher="finisher").name == "UniPC-6 + finisher"
    with_crf = {method.name for method in methods if method.uses_crf}
    assert {
        "DDIM-50 static LatentCRF (33, 49) + finisher",
        "DPM-Solver++-8 + finisher",
        "DDIM-50 LatentCRF (17, 42)",
        "DDIM-50 LatentCRF (17, 42) + VAE round trip",
        "DDIM-50 zero-parameter bypass (17, 42) + finisher",
    } <= with_crf
    assert {
        "DPM-Solver++-8",
        "UniPC-8 + VAE round trip",
        "UniPC-8 + plain finisher",
        "DDIM-50 plain network (17, 42)",
        "DDIM-50 zero-parameter bypass (17, 42)",
    } <= set(names) - with_crf


def test_schedulers_make_as_many_calls_as_their_method_says() -> None:
    pipeline = load_pipeline()
    crfs = {"zero-parameter": None, "static": LatentCRF(form="static")}
    finisher = Finisher(LatentCRF(corrects_clean=True))
    plain = Finisher(LatentCRF(corrects_clean=True, num_experts=0, pairwise_rank=0))
    finishers = dict(zip(FINISHERS, (finisher, plain, VAERoundTrip(pipeline.vae)), strict=True))
    for method in list_methods(tuple(crfs), FINISHERS):
        scheduler = build_scheduler(method, pipeline, crfs, finishers)
        scheduler.set_timesteps(method.steps)
        skipped = 0 if method.bypass is None else method.bypass[1] - method.bypass[0]
        assert len(scheduler.timesteps) == method.steps - skipped, method.name
        assert isinstance(scheduler, LatentCRFScheduler) == (method.bypass is not None or method.finisher != "")
        assert getattr(scheduler, "finisher", None) is finishers.get(method.finisher), method.name
        assert getattr(scheduler, "crf", None) is crfs.get(method.crf_form), method.name


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
