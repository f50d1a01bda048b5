"""The models file, what a page offers of it, and pinning."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import gradio as gr
import huggingface_hub.constants
import pytest

from app import models
from app.arguments import build_parser, may_reach_hub, prepare_environment
from app.components import form, html
from app.components.model_menu import ModelMenu
from app.main import main
from app.models import Catalog, read_catalog
from app.models_file import MODELS_FILE, ModelsError, Source, names_hub_model, read_entries
from app.png import read_png, write_png
from app.settings import NAMES, SettingsError
from latentcrf.inner_schedulers import check_scheduler
from tests.app.driving import CATALOG, EMOJI
from tests.app.tiny_models import save_stable_diffusion

COMMIT = "0123456789abcdef0123456789abcdef01234567"
EMOJI_ENTRY = {"name": "emoji", "title": "Emoji", "model": "assets/models/emoji-ldm", "prompts": ["pizza"]}
HUB_ENTRY = {"name": "far", "title": "Far", "model": "someone/far", "prompts": ["pizza"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("models") / "tiny-sd")


@pytest.fixture
def catalog(folder: Path) -> Catalog:
    return read_catalog(str(folder))


def write(path: Path, *entries: Any) -> Path:
    path.write_text(json.dumps({"models": entries}))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 3}, "entry emoji: size is unknown; accepted are name, title,"),
        ({"title": 3}, "entry emoji: title must be a text"),
        ({"prompts": []}, "entry emoji: prompts must be a list of texts, and not empty"),
        ({"prompts": [1]}, "entry emoji: prompts must be a list of texts"),
        ({"name": "../x"}, "name must be of a to z"),
        ({"defaults": {"seeds": 1}}, "entry emoji: defaults has no seeds; accepted are prompt, seed,"),
        ({"fast": {"steps": 1}}, "fast has no steps; accepted are few_steps"),
        ({"defaults": {"steps": 1}}, "defaults of emoji cannot be used. Steps must be"),
        ({"fast": {"few_steps": 60}}, "defaults of emoji cannot be used. Few steps must be"),
        ({"model": "no such folder"}, "no such folder is no folder, and no repository"),
        ({"model": "assets/models/emoji-latentcrf"}, "emoji-latentcrf/model_index.json is missing"),
    ],
)
def test_a_wrong_entry_is_met_with_a_sentence(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelsError, match=words.replace("(", r"\(").replace("[", r"\[")):
        read_catalog(path=write(tmp_path / "models.json", EMOJI_ENTRY | change))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"models": []}', '{"models": [1]}'])
def test_a_damaged_file_is_met_with_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "models.json"
    path.write_text(text)
    with pytest.raises(ModelsError, match="models.json"):
        read_catalog(path=path)
    with pytest.raises(ModelsError, match="two entries have the same name"):
        read_catalog(path=write(path, EMOJI_ENTRY, EMOJI_ENTRY))


def test_the_shipped_file_offers_emoji_and_names_what_can_be_fetched() -> None:
    assert [entry["name"] for entry in read_entries(MODELS_FILE)] == ["emoji", "stable-diffusion-1.5", "sdxl"]
    found = read_catalog()
    assert list(found.models) == ["emoji"] and found.default.crf is not None
    assert "--model stabilityai/stable-diffusion-xl-base-1.0 fetches it" in found.refused["sdxl"]
    assert (EMOJI.image_size, EMOJI.latent_shape, EMOJI.prompt_tokens) == ((128, 128), (4, 16, 16), 14)
    with pytest.raises(ModelsError, match="fetches it"):
        read_catalog("sdxl")
    assert names_hub_model("sdxl") and names_hub_model("a/b@main")
    assert not names_hub_model(None) and not names_hub_model("emoji") and not names_hub_model("assets/models/emoji-ldm")


def test_a_public_page_offers_pinned_entries_of_the_file_alone(tmp_path: Path, folder: Path) -> None:
    found = read_catalog(is_public=True)
    assert list(found.models) == ["emoji"] and "names no commit" in found.refused["sdxl"]
    assert "python -m app.models pin" in found.refused["sdxl"]
    for chosen in (str(folder), "someone/far", f"someone/far@{COMMIT}"):
        with pytest.raises(ModelsError, match="a public page offers the entries of models.json only"):
            read_catalog(chosen, is_public=True)
    branch = write(tmp_path / "models.json", EMOJI_ENTRY, HUB_ENTRY | {"model": "someone/far@main"})
    assert "names no commit" in read_catalog(is_public=True, path=branch).refused["far"]


def test_the_hub_is_reached_only_if_one_of_its_models_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for words, is_offline in (
        ([], True),
        (["--model", "emoji"], True),
        (["--model", "no such folder"], True),
        (["--model"], True),
        (["--model", "sdxl", "--port", "7000"], False),
        (["--model=someone/far@main"], False),
    ):
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        prepare_environment(words)
        assert ("HF_HUB_OFFLINE" in os.environ) is is_offline, words
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # `main` within another program
    assert may_reach_hub("sdxl") and not may_reach_hub(None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert may_reach_hub(None)
    prepare_environment([])
    assert os.environ["HF_HUB_OFFLINE"] == "0"  # the operator's own choice


def test_the_command_line_refuses_with_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--public", "--model", str(folder)]) == 1
    assert "error: --model " in capsys.readouterr().err
    assert main(["--model", "no such folder"]) == 1
    assert "no such folder is no folder, and no repository" in capsys.readouterr().err
    monkeypatch.setenv("SPACE_ID", "someone/page")  # a Space is public
    assert build_parser().parse_args([]).is_public


@pytest.mark.parametrize("name", ["tiny-sd", "someone/far", "/etc", "../..", "x" * 1000, 7, ["emoji"]])
def test_a_visitor_gets_no_other_model(name: Any) -> None:
    with pytest.raises(SettingsError, match="Model must be one that this page offers: emoji; it was") as caught:
        CATALOG.parse({"prompt": "pizza", "model": name})
    assert len(str(caught.value)) < 200


def test_pinning_writes_commits_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    shutil.copy(MODELS_FILE, path)
    asked: list[str] = []

    def look_up(repository: str) -> Any:
        asked.append(repository)
        return SimpleNamespace(sha=COMMIT)

    api: Any = SimpleNamespace(model_info=look_up)
    commits = models.pin(path, api)
    assert (
        asked
        == list(commits)
        == [
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "stabilityai/stable-diffusion-xl-base-1.0",
        ]
    )
    assert path.read_text().replace(f"@{COMMIT}", "") == MODELS_FILE.read_text()
    before = path.read_text()
    models.pin(path, api)  # again: the commit is replaced
    assert path.read_text() == before

    def fail(_: str) -> Any:
        raise ConnectionError("no network")

    broken: Any = SimpleNamespace(model_info=fail)
    with pytest.raises(ModelsError, match="cannot be looked up on the Hugging Face hub: no network"):
        models.pin(path, broken)
    assert path.read_text() == before and list(tmp_path.iterdir()) == [path]


def test_a_pinned_model_in_the_hubs_cache_is_offered_offline(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(folder, cache / "models--someone--far" / "snapshots" / COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    path = write(tmp_path / "models.json", EMOJI_ENTRY, HUB_ENTRY | {"model": f"someone/far@{COMMIT}"})
    found = read_catalog(is_public=True, path=path)
    assert list(found.models) == ["emoji", "far"] and not found.refused
    far = found.models["far"]
    assert far.own_scheduler == "PNDMScheduler" and far.latent_shape == (4, 8, 8) and far.image_size == (64, 64)
    assert f"--base someone/far@{COMMIT} " in far.training_command
    (cache / "models--someone--far" / "snapshots" / COMMIT / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "only in part" in read_catalog(is_public=True, path=path).refused["far"]


def test_another_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ModelsError, match="is a FluxPipeline; this page takes StableDiffusionPipeline and"):
        read_catalog(str(tmp_path))


def test_a_source_is_a_folder_or_a_repository() -> None:
    assert Source.parse("assets/models", models.ROOT).on_hub is False
    assert Source.parse(f"a/b@{COMMIT}") == Source("a/b", True, COMMIT) and Source.parse(f"a/b@{COMMIT}").is_pinned
    assert not Source.parse("a/b").is_pinned and not Source.parse("a/b@v1.0").is_pinned
    for wrong in ("a", "a/b/c", "../a/b", "https://a/b", "a/b@", "a b/c", "/no/such/folder"):
        with pytest.raises(ModelsError, match="USER/NAME"):
            Source.parse(wrong)


def test_the_schedulers_that_ddim_replaces_are_those_that_cannot_be_wrapped() -> None:
    others = ("DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler")
    refused = {"DPMSolverSDEScheduler"}  # needs a package that is not here
    for name in {*models.REPLACED, *others} - refused:
        try:
            check_scheduler(getattr(diffusers, name)())
        except ValueError:
            refused.add(name)
    assert refused == set(models.REPLACED)


# ------------------------------------------------------------------------------------------ on the page


def test_a_model_without_an_entry_comes_first_and_has_its_own_sizes(catalog: Catalog) -> None:
    model_set = catalog.default
    assert list(catalog.models) == ["tiny-sd", "emoji"] and (model_set.crf, model_set.finisher) == (None, None)
    assert model_set.defaults.guidance == 7.5 and model_set.defaults.model == "tiny-sd"
    note = html.format_model(model_set)
    assert "64 × 64 pixels" in note and "as PNDMScheduler cannot be" in note and "VAE round trip" in note
    assert html.format_model(EMOJI) == ""
    plan = html.format_plan(model_set, replace(model_set.defaults, finisher=True))
    assert "its last clean estimate in place of 16" in plan and "a VAE round trip corrects" in plan
    assert "CRF)" not in plan and ">bypass<" in plan


def test_choosing_a_model_sets_its_defaults_and_keeps_prompt_and_seed(catalog: Catalog) -> None:
    values = form.choose_model(catalog, catalog.models["emoji"])
    kept = [name for name, value in zip(NAMES, values, strict=False) if value == gr.skip()]
    assert kept == ["prompt", "seed"] and values[NAMES.index("guidance")] == 3.0
    assert values[NAMES.index("model")] == "emoji"


def test_links_name_the_model(catalog: Catalog) -> None:
    def follow(**query: str) -> list[Any]:
        request: Any = SimpleNamespace(query_params=query)
        return form.load_link(catalog, request)

    filled = follow(prompt="pizza", model="emoji")
    assert filled[NAMES.index("model")] == "emoji" and filled[NAMES.index("guidance")] == 3.0
    assert follow(prompt="pizza")[NAMES.index("guidance")] == 7.5
    assert follow(model="emoji")[NAMES.index("model")] == "emoji"
    for query in ({"prompt": "pizza", "model": "sdxl"}, {"model": "sdxl"}):
        refused = follow(**query)
        assert "Model must be one that this page offers: tiny-sd, emoji; it was" in refused[-2]
        assert refused[NAMES.index("model")] == gr.skip()


def test_a_png_names_its_model(tmp_path: Path, catalog: Catalog) -> None:
    from PIL import Image

    path = tmp_path / "image.png"
    settings = catalog.parse({"prompt": "pizza"})
    path.write_bytes(write_png(Image.new("RGB", (8, 8)), settings, {"image": "full"}))
    assert read_png(path, catalog)[0] == settings and settings.model == "tiny-sd"
    with pytest.raises(SettingsError, match="Model must be one that this page offers: emoji; it was 'tiny-sd'"):
        read_png(path, CATALOG)


def test_everything_that_follows_the_menu_gets_a_value(catalog: Catalog) -> None:
    with gr.Blocks():
        menu, box = ModelMenu(catalog), gr.Textbox()
        menu.follow_default(box, "guidance")
        menu.follow(box, lambda _: None)
    assert menu.show_model("emoji") == [3.0, None] and menu.show_model("tiny-sd") == [7.5, None]
    assert [name for _, name in menu.dropdown.choices] == ["tiny-sd", "emoji"]
