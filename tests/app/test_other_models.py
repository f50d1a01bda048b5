"""The page with tiny Stable Diffusion and SDXL pipelines, which have no CRF: endpoint, every tab, memory, blocking."""

import base64
import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.safety import BLOCKED
from analysis.sampling import (
    choose_scheduler,
    count_calls,
    encode,
    get_device,
    initial_noise,
    load_pipeline,
    run_sampler,
)
from app import work
from app.arguments import build_parser
from app.device import DeviceMemoryError, DeviceWorker
from app.loaded_models import LoadedModels, compile_unet
from app.models import Catalog, read_catalog
from app.models_file import ModelsError
from app.results import Comparison
from app.settings import METHOD, Settings, SettingsError
from app.tabs import compare, convergence, diversity, frontier, method, variance
from app.text import read_method
from tests.app.driving import ask_api, run_tab
from tests.app.tiny_models import save_stable_diffusion, save_stable_diffusion_xl

QUICK: dict[str, Any] = {"prompt": "red apple", "steps": 6, "bypass_start": 3, "bypass_end": 5, "guidance": 2.0}
SAVED = {"tiny-sd": save_stable_diffusion, "tiny-xl": save_stable_diffusion_xl}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save(root / name) for name, save in SAVED.items()}


@pytest.fixture(scope="module")
def workers(folders: dict[str, Path]) -> dict[str, DeviceWorker]:
    return {name: DeviceWorker(read_catalog(str(folder))) for name, folder in folders.items()}


@pytest.fixture(params=list(SAVED))
def worker(request: pytest.FixtureRequest, workers: dict[str, DeviceWorker]) -> DeviceWorker:
    return workers[request.param]


def compared(worker: DeviceWorker, **changes: Any) -> Comparison:
    settings = worker.catalog.parse(QUICK | changes)
    *_, result = worker.stream("compare", settings, True, None, model=settings.model)
    assert isinstance(result, Comparison)
    return result


def differ(first: Image.Image, second: Image.Image) -> bool:
    return not np.array_equal(np.asarray(first), np.asarray(second))


# -------------------------------------------------------------------------------------------- sampling


def test_schedulers_that_cannot_be_wrapped_become_ddim_of_the_same_levels(folders: dict[str, Path]) -> None:
    pipeline, xl = (load_pipeline(folder) for folder in folders.values())
    assert type(pipeline.scheduler).__name__ == "DDIMScheduler" and not pipeline.scheduler.config.clip_sample
    assert torch.equal(pipeline.scheduler.alphas_cumprod, xl.scheduler.alphas_cumprod)
    assert pipeline.safety_checker is not None and type(xl.scheduler).__name__ == "EulerDiscreteScheduler"

    class Foreign:
        order, config = 2, {"x": 1}

        def step(self) -> None: ...

        def set_timesteps(self) -> None: ...

    with pytest.raises(ValueError, match="Foreign cannot be wrapped"):
        choose_scheduler(Foreign())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SAVED))
def test_the_sampler_gives_the_pipelines_own_latents(folders: dict[str, Path], name: str) -> None:
    """Prompt encoding and added conditions are those of the plain call; noise and guidance too."""
    pipeline = load_pipeline(folders[name])
    noise = initial_noise(pipeline, [3, 4])
    own = pipeline(
        ["red apple", "pizza"], latents=noise, num_inference_steps=4, guidance_scale=3.0, output_type="latent"
    ).images
    ours = run_sampler(pipeline, encode(pipeline, ["red apple", "pizza"]), [3, 4], steps=4, guidance=3.0)
    assert torch.allclose(own, ours, atol=1e-5) and own.std() > 0.1
    with count_calls(pipeline.unet) as batches:
        part = run_sampler(
            pipeline, encode(pipeline, ["pizza"]), [4], steps=8, guidance_begin=0.25, guidance_cutoff=0.5
        )
    assert batches == [1, 1, 2, 2, 1, 1, 1, 1] and part.isfinite().all()


# ---------------------------------------------------------------------------------------------- compare


@pytest.mark.slow
def test_both_modes_run_and_the_finisher_is_a_vae_round_trip(worker: DeviceWorker) -> None:
    bypass = compared(worker, finisher=True)
    assert (bypass.full.network_evaluations, bypass.latentcrf.network_evaluations) == (12, 8)
    assert bypass.full.image.size == (64, 64) and differ(bypass.before, bypass.after)
    assert not differ(bypass.after, bypass.latentcrf.image)
    plain = compared(worker, finisher=False)
    assert differ(plain.latentcrf.image, bypass.latentcrf.image) and not differ(plain.before, plain.after)
    few = compared(worker, few_steps=3, guidance_cutoff=0.34, finisher=True)
    assert few.latentcrf.network_evaluations == 5 and not differ(few.full.image, bypass.full.image)
    assert bypass.origin["finisher"] == "VAE round trip" and "crf" not in bypass.origin
    text = compare.summarize_comparison([few], worker.catalog.default)
    assert "UniPC, VAE round trip" in text and "CRF iterations" not in text
    long = compared(worker, prompt="red apple and a lot more")
    assert "reads 10 tokens: it did not see" in compare.summarize_comparison([long], worker.catalog.default)


@pytest.mark.slow
def test_the_endpoint_takes_the_model_and_its_defaults(worker: DeviceWorker) -> None:
    name = worker.catalog.default.name
    answer = ask_api(worker, "compare", {**QUICK, "model": name, "seed": None, "guidance": None})
    assert answer["settings"]["guidance"] == worker.catalog.default.defaults.guidance
    assert answer["made_by"]["model"] == answer["settings"]["model"] == name and not answer["full"]["is_blocked"]
    assert Image.open(io.BytesIO(base64.b64decode(answer["full"]["png"]))).size == (64, 64)
    for other in ("sdxl", "/etc", "someone/far"):
        with pytest.raises(SettingsError, match="Model must be one that this page offers"):
            ask_api(worker, "compare", {**QUICK, "model": other})


# ------------------------------------------------------------------------------------------------- tabs


@pytest.mark.slow
def test_every_tab_answers(worker: DeviceWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.export.draw_png", lambda figure, name: None)
    model_set = worker.catalog.default
    name = model_set.name
    setting = [getattr(model_set.defaults, each) for each in METHOD]

    def last(handler: Any, values: list[Any], width: int) -> list[Any]:
        return list(run_tab(handler, worker, values, width, model=name))[-1]

    look = ["Latents' variance", "Step", False, 2, False, name]
    outcome, figure, _, _, note = last(variance.run_variance, ["red apple\npizza", 2, 0, *setting, *look], 5)[3:]
    assert "2 runs" in figure.layout.title.text and model_set.sampler in note
    assert set(outcome.summary["method"]) == {"full run", "zero-parameter bypass"}
    assert outcome.options["crf"] == "none" and outcome.options["model"] == model_set.model.place
    assert variance.read_shipped(model_set) is None
    assert "No table of this model" in variance.draw(worker, None, *look)[2]

    width = 2 + 2 * diversity.ROWS + 2 * len(diversity.DIVERSITY_NOTES)
    assert "LatentCRF" not in diversity.list_others(model_set)
    shown = last(diversity.run_diversity, ["red apple", 0, 4, ["zero-parameter bypass"], *setting, False], width)
    assert f"{model_set.title}: “red apple”, 4 seeds" in shown[0]
    assert [row.denoiser_calls for row in shown[3].rows] == [50, 34]
    refused = last(diversity.run_diversity, ["red apple", 0, 4, ["LatentCRF"], *setting, False], width)
    assert "Methods must be among" in refused[0]

    names = method.list_visuals(model_set)
    shown = last(method.run_walkthrough, ["red apple", 0, *setting], 2 + len(names))
    places = dict(zip(names, shown[5:], strict=True))
    assert all("sprite" in places[each] for each in ("steps", "redundancy", "hand-over", "finisher", "balance"))
    assert all("No LatentCRF is trained" in places[each] for each in ("energy", "weights", "descent"))
    assert "64 × 64 pixels" in "".join(read_method(model_set).values())
    path = worker.call("write_export", tmp_path / "x.zip", "export_walkthrough", *shown[3])
    assert path.is_file()

    width = 2 + 2 * len(convergence.CONVERGENCE_NOTES)
    shown = last(convergence.run_convergence, ["red apple", 0, 2, *setting, "Clean estimate", False], width)
    assert "no LatentCRF is trained for this model yet" in shown[0] and "alert" not in shown[0]
    assert "embedded emoji model, not with" in frontier.describe_table_model(model_set)


# ------------------------------------------------------------------------------- what can go wrong on it


@pytest.mark.slow
def test_a_blocked_image_is_a_sentence(workers: dict[str, DeviceWorker]) -> None:
    worker = workers["tiny-sd"]
    checker = worker.load().pipeline.safety_checker
    unblocked = compared(worker)
    checker.concept_embeds_weights.data.fill_(-1.1)
    try:
        blocked = compared(worker)
        answer = ask_api(worker, "compare", QUICK)
        rows = [
            each
            for each in worker.stream("run_diversity", "red apple", [0, 1, 2, 3], ["full run"], fast(worker))
            if not isinstance(each, int)
        ]
    finally:
        checker.concept_embeds_weights.data.fill_(1.1)
    assert blocked.full.is_blocked and blocked.latentcrf.is_blocked and blocked.lpips is None
    pixels = np.asarray(blocked.full.image)
    assert pixels.max() > 200 and differ(blocked.full.image, unblocked.full.image)  # not black
    assert np.array_equal(pixels, np.asarray(blocked.latentcrf.image))
    text = compare.summarize_comparison([blocked], worker.catalog.default)
    assert "safety checker blocked an image of: Full run and LatentCRF." in text and "safety checker" in BLOCKED
    assert answer["full"]["is_blocked"] and answer["lpips"] is None
    assert (rows[0].images == pixels).all()
    assert not compared(worker).full.is_blocked


def fast(worker: DeviceWorker) -> Settings:
    return worker.catalog.parse(QUICK)


@pytest.mark.slow
def test_when_the_memory_runs_out_it_is_said_and_the_next_run_works(workers: dict[str, DeviceWorker]) -> None:
    worker = workers["tiny-sd"]
    unet = worker.load().pipeline.unet
    calls = 0

    def run_out(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    handle = unet.register_forward_pre_hook(run_out)
    try:
        with pytest.raises(DeviceMemoryError, match="memory ran out, and what filled it has been freed"):
            compared(worker)
        calls = 2
        values = [*fast(worker).as_dict().values(), False, False]
        shown = list(run_tab(compare.run_comparison, worker, values, len(compare.View._fields), model="tiny-sd"))[-1]
        assert "memory ran out" in shown[0] and "20.00 GiB" not in shown[0] and shown[1]["interactive"]
        calls = 3
        assert compared(worker).full.denoiser_calls == 6
    finally:
        handle.remove()


@pytest.mark.slow
def test_networks_that_wait_on_the_cpu_give_the_same_images(worker: DeviceWorker) -> None:
    """Accelerate's hooks, as with a GPU whose memory is short; here the device that they move to is the CPU too."""
    models = worker.load()
    before = compared(worker)
    models.pipeline.enable_model_cpu_offload(device="cpu")
    try:
        assert hasattr(models.pipeline.unet, "_hf_hook") and get_device(models.pipeline) == torch.device("cpu", 0)
        after = compared(worker)
    finally:
        models.move_to(torch.device("cpu"))
    assert not hasattr(models.pipeline.unet, "_hf_hook")
    assert not differ(before.full.image, after.full.image)
    assert not differ(before.latentcrf.image, after.latentcrf.image)


@pytest.mark.slow
def test_half_precision_weights_sample_nearly_the_same(folders: dict[str, Path]) -> None:
    """As on a GPU: all weights but the autoencoder's in the precision of the sampler."""
    for folder in folders.values():
        latents = []
        for weights in (torch.float32, torch.bfloat16):
            pipeline = load_pipeline(folder, precision=weights)
            assert pipeline.unet.dtype == weights and pipeline.vae.dtype == torch.float32
            embeds = encode(pipeline, ["red apple"])
            latents.append(run_sampler(pipeline, embeds, [0], steps=4, guidance=2.0, precision=torch.bfloat16))
        assert (latents[0] - latents[1]).abs().mean() < 0.1 * latents[0].std()


@pytest.mark.slow
def test_two_models_take_turns(workers: dict[str, DeviceWorker]) -> None:
    worker = workers["tiny-sd"]
    emoji = worker.catalog.parse({**QUICK, "model": "emoji"})
    assert not worker.is_loaded("emoji")
    *_, result = worker.stream("compare", emoji, False, None, model="emoji")
    assert result.full.image.size == (128, 128) and result.origin["model"] == "emoji"
    assert compared(worker).full.image.size == (64, 64)
    assert worker.is_loaded("emoji") and worker.is_loaded("tiny-sd")


@pytest.mark.slow
def test_models_that_do_not_fit_are_offloaded(
    workers: dict[str, DeviceWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision alone: no GPU is here."""
    models = workers["tiny-sd"].load()
    moved: list[str] = []
    for name in ("enable_model_cpu_offload", "to"):
        monkeypatch.setattr(models.pipeline, name, lambda *_, name=name, **__: moved.append(name))
    monkeypatch.setattr(type(models), "networks", [])
    size = models.count_bytes()
    assert size > 0 and models.count_bytes("cuda") == 0
    models.move_to(torch.device("cuda"), free_bytes=2 * size)
    models.move_to(torch.device("cuda"), free_bytes=size)
    models.move_to(torch.device("cuda"), free_bytes=2 * size)  # as one of its runs had no room
    assert moved == ["to", "enable_model_cpu_offload", "enable_model_cpu_offload"] and models.is_offloaded
    monkeypatch.undo()
    models.is_offloaded, models.device = False, torch.device("cpu")
    assert work.OutOfMemoryError is torch.cuda.OutOfMemoryError


@pytest.mark.slow
def test_models_are_moved_to_the_gpu_once(workers: dict[str, DeviceWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision alone: no GPU is here."""
    first, second = (replace(worker.load()) for worker in (workers["tiny-sd"], workers["tiny-xl"]))
    moved: list[tuple[str, str]] = []

    def note(models: LoadedModels, device: torch.device, free_bytes: int | None = None) -> None:
        moved.append((models.model_set.name, device.type))
        models.device = device

    monkeypatch.setattr(LoadedModels, "move_to", note)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 2**40))
    monkeypatch.setattr("app.loaded_models.find_device", lambda: torch.device("cuda"))
    for models, other in ((first, second), (first, second), (second, first)):
        work.use_device(models, [other])
    assert moved == [("tiny-sd", "cuda"), ("tiny-sd", "cpu"), ("tiny-xl", "cuda")]
    second.is_offloaded = True
    work.use_device(second, [first])
    assert moved[3:] == [("tiny-xl", "cuda")]
    monkeypatch.undo()


@pytest.mark.slow
def test_a_compiled_unet_gives_the_same_latents(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where the page refuses it, and without generated code: guided and unguided calls, counted by hooks."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    pipeline = load_pipeline(folders["tiny-sd"])
    embeds = encode(pipeline, ["red apple"])

    def draw() -> tuple[list[int], torch.Tensor]:
        with count_calls(pipeline.unet) as sizes:
            return sizes, run_sampler(pipeline, embeds, [0], steps=4, guidance=2.0, guidance_cutoff=0.5)

    sizes, expected = draw()
    plain = pipeline.unet.forward
    compile_unet(pipeline)
    assert pipeline.unet.forward != plain
    for _ in range(2):
        found_sizes, found = draw()
        assert found_sizes == sizes == [2, 2, 1, 1] and torch.allclose(found, expected, atol=1e-4)


def test_compiling_is_refused_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    catalog = Catalog({}, {})
    assert not DeviceWorker(catalog, compiles=build_parser().parse_args([]).compiles).compiles
    with pytest.raises(ModelsError, match="^--compile needs a GPU with CUDA of the page's own, and none is here"):
        DeviceWorker(catalog, compiles=build_parser().parse_args(["--compile"]).compiles)
