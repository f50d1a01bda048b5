"""Shipped files are known to be whole: the manifest names each, and models of another content are not loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from analysis.manifest import main
from analysis.metrics.perceptual import load_features
from analysis.sampling import load_pipeline
from app.device import DeviceWorker
from app.models import Catalog, build_model_set
from app.models_file import ModelsError
from latentcrf import LatentCRF
from latentcrf.training.ldm import load_ldm
from latentcrf.training.loop import RunError
from latentcrf.utils import manifest
from latentcrf.utils.manifest import (
    ASSETS,
    DamagedFilesError,
    check_shipped,
    find_damage,
    read_manifest,
    write_manifest,
)

TOKENIZER, INDEX = "emoji-ldm/tokenizer/tokenizer.json", "emoji-ldm/model_index.json"
CRF = "emoji-latentcrf-static/diffusion_pytorch_model.safetensors"


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped models in their checkout's place; large weights are links until a test changes one."""
    root = tmp_path / "assets"
    for path in (ASSETS / "models").rglob("*"):
        if path.is_file():
            target = root / path.relative_to(ASSETS)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path) if path.stat().st_dev == tmp_path.stat().st_dev else shutil.copy(path, target)
    names = read_manifest()
    kept = {name: value for name, value in names.items() if name.startswith("models/")}
    (root / "manifest.json").write_text(json.dumps(kept))
    monkeypatch.setattr(manifest, "ASSETS", root)
    return root


def replace(path: Path, content: bytes) -> None:
    """Give a file another content; what is linked to it keeps its own."""
    path.unlink()
    path.write_bytes(content)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    replace(path, bytes(content))


def test_the_manifest_is_of_the_files_that_ship() -> None:
    assert find_damage(ASSETS) == [], f"if the change is meant: {manifest.COMMAND} write"


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda models: (models / TOKENIZER).unlink(), f"assets/models/{TOKENIZER} is missing"),
    "flipped": (lambda models: flip_bit(models / CRF), f"assets/models/{CRF} is damaged"),
    "malformed": (lambda models: replace(models / INDEX, b'{"_class_name": '), f"assets/models/{INDEX} is damaged"),
    "foreign": (
        lambda models: (models / "emoji-ldm/unet/config.json.orig").touch(),
        "assets/models/emoji-ldm/unet/config.json.orig is foreign",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(assets: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, words = DAMAGES[damage]
    change(assets / "models")
    folder = assets / "models" / words.split("/")[2]
    with pytest.raises(DamagedFilesError, match=words) as raised:
        check_shipped(folder)
    assert "Fetch the files again" in str(raised.value)
    check_shipped(assets / "models" / "emoji-latentcrf-finisher")  # the others still load
    found = find_damage(assets / "models", assets)
    assert len(found) == 1 and found[0].startswith(words)
    assert main(["check", "--assets", str(assets)]) == 1 and words in capsys.readouterr().err


def test_what_was_changed_on_purpose_is_whole_after_write(assets: Path) -> None:
    flip_bit(assets / "models" / CRF)
    (assets / "models" / ".DS_Store").write_text("hidden")
    (assets / "models/emoji-ldm/README.md").unlink()
    assert main(["write", "--assets", str(assets)]) == 0
    assert find_damage(assets, assets) == []


def test_a_folder_that_does_not_ship_is_not_checked(assets: Path, tmp_path: Path) -> None:
    own = assets / "models" / "my-model"
    own.mkdir()
    (own / "config.json").write_text("{}")
    for folder in (own, tmp_path, Path("owner/name")):
        check_shipped(folder)


def test_a_manifest_that_cannot_be_read_is_named(assets: Path) -> None:
    for content in (b"{", b"[]", b'{"a": 3}'):
        replace(assets / "manifest.json", content)
        with pytest.raises(DamagedFilesError, match="manifest.json"):
            check_shipped(assets / "models" / "emoji-ldm")


def test_nothing_damaged_is_loaded(assets: Path) -> None:
    """Page, analyses, training and library refuse it before they compute."""
    models = assets / "models"
    (models / "emoji-ldm/tokenizer/tokenizer.json").unlink()
    flip_bit(models / CRF)
    flip_bit(models / "efficientnet-lite0/model.safetensors")
    with pytest.raises(DamagedFilesError, match=r"tokenizer\.json is missing"):
        load_pipeline(models / "emoji-ldm")
    with pytest.raises(RunError, match=r"tokenizer\.json is missing"):
        load_ldm(str(models / "emoji-ldm"), torch.device("cpu"))
    with pytest.raises(DamagedFilesError, match="emoji-latentcrf-static/.* is damaged"):
        LatentCRF.from_pretrained(models / "emoji-latentcrf-static")
    with pytest.raises(DamagedFilesError, match="efficientnet-lite0/model.safetensors is damaged"):
        load_features(models / "efficientnet-lite0")


def test_the_page_refuses_a_run_with_a_damaged_model(assets: Path) -> None:
    """Bits that flipped in the weights are seen before the first run; what is missing, at the start."""
    models = assets / "models"
    entry = {"name": "emoji", "title": "Emoji", "model": str(models / "emoji-ldm"), "prompts": ["red apple"]}
    model_set = build_model_set(entry, Path(), may_fetch=False)
    flip_bit(models / "emoji-ldm/unet/diffusion_pytorch_model.safetensors")
    model_set.check()
    with pytest.raises(ModelsError, match="unet/diffusion_pytorch_model.safetensors is damaged"):
        DeviceWorker(Catalog({"emoji": model_set}, {})).load()
    (models / "emoji-ldm/tokenizer/tokenizer.json").unlink()
    with pytest.raises(ModelsError, match=r"tokenizer\.json is missing"):
        model_set.check()
    (models / "emoji-ldm/tokenizer/tokenizer.json").write_text('{"version": ')
    with pytest.raises(ModelsError, match=r"tokenizer\.json is damaged: it is no JSON"):
        model_set.check()


def test_write_names_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.json").write_text("{}")
    assert write_manifest(tmp_path) == 1
    assert manifest.read_manifest(tmp_path) == {"models/a.json": manifest.hash_file(tmp_path / "models" / "a.json")}
