"""Publishing the page as a Space: what goes, what is refused, and that what goes is enough for the page to start."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects

from app import publish

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout's own texts, and a small file for all else that is needed."""
    root = tmp_path / "checkout"
    for name in [*publish.NEEDED, "constraints.txt", ".gitignore"]:
        file = root / name.replace("*", "file.txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file() and not name.endswith(".png"):
            shutil.copy(ROOT / name, file)
        else:
            file.write_text("content")
    return root


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the Hub's client is asked for: method and arguments."""
    asked: list[tuple[str, dict[str, Any]]] = []
    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(
            HfApi, name, lambda _, *names, name=name, **arguments: asked.append((name, {"names": names, **arguments}))
        )
    return asked


def find_problems(root: Path) -> str:
    files = publish.list_files(root, publish.read_ignored(root))
    return "\n".join([*publish.check_files(root, files), *publish.check_front_matter(root, files)])


def test_this_checkout_can_be_published() -> None:
    files = publish.list_files(ROOT, publish.read_ignored(ROOT))
    assert find_problems(ROOT) == ""
    assert set(publish.FIELDS) <= set(re.findall(r"^(\w+):", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    assert {"app/static/form.js", "assets/models/emoji-ldm/model_index.json"} <= set(files)
    tops = {name.split("/")[0] for name in files}
    assert not tops & {"tests", "recipes", "data", "runs", ".git", ".github", "pyproject.toml", "constraints.txt"}
    assert not [name for name in files if "__pycache__" in name or name.endswith(".pyc") or "emoji-plain" in name]


def test_the_upload_takes_the_listed_files(checkout: Path, hub: list[tuple[str, dict[str, Any]]]) -> None:
    for name in ("app/__pycache__/a.pyc", "app/.env", "data/x.png", "app/runs/kept.py", "tests/a.py", ".git/config"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("hf_" + 40 * "x")
    (checkout / "app/runs/kept.py").write_text("")
    publish.upload(checkout, "someone/latentcrf", publish.read_ignored(checkout), is_private=True)
    (create, created), (upload, uploaded) = hub
    assert (create, upload) == ("create_repo", "upload_folder")
    assert created == {
        "names": ("someone/latentcrf",), "repo_type": "space", "space_sdk": "gradio", "private": True, "exist_ok": True,
    }  # fmt: skip
    assert uploaded["repo_id"] == "someone/latentcrf" and uploaded["repo_type"] == "space"
    assert uploaded["folder_path"] == checkout and uploaded["delete_patterns"] == "*"
    everything = [path.relative_to(checkout).as_posix() for path in checkout.rglob("*") if path.is_file()]
    patterns = {name: uploaded[name] for name in ("allow_patterns", "ignore_patterns")}
    taken = sorted(filter_repo_objects(everything, **patterns))
    assert taken == publish.list_files(checkout, publish.read_ignored(checkout))
    assert "app/runs/kept.py" in taken and "app.py" in taken
    assert not [name for name in taken if name.startswith(("data", "tests", ".")) or "pyc" in name or ".env" in name]


def edit(root: Path, name: str, before: str, after: str) -> None:
    text = (root / name).read_text()
    assert before in text
    (root / name).write_text(text.replace(before, after))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "NOTICE").unlink(), "NOTICE is missing"),
        (lambda root: shutil.rmtree(root / "assets" / "results" / "variance"), "assets/results/variance/* is missing"),
        (lambda root: (root / "app" / "hf-token.txt").touch(), "app/hf-token.txt looks like a secret by its name"),
        (lambda root: (root / "app" / "server.key").touch(), "app/server.key looks like a secret by its name"),
        (lambda root: (root / "app" / "a.py").write_text(f"X = 'hf_{34 * 'a'}'"), "app/a.py holds what looks like"),
        (lambda root: (root / "app" / "a.py").symlink_to("/etc/hostname"), "app/a.py is a symbolic link"),
        (lambda root: (root / "README.md").write_text("# LatentCRF"), "its front matter lacks title, emoji"),
        (lambda root: (root / "README.md").write_text("---\na: [\n---\n"), "README.md has no front matter that can be"),
        (lambda root: edit(root, "README.md", "sdk_version: 6", "sdk_version: 5"), "README.md: sdk_version is '5."),
        (lambda root: edit(root, "README.md", "app_file: app.py", "app_file: a.py"), "README.md: app_file is 'a.py'"),
        (lambda root: edit(root, "README.md", "colorTo: green", "colorTo: teal"), "README.md: colorTo is 'teal'"),
        (lambda root: edit(root, "README.md", "emoji: 🍎\n", ""), "README.md: its front matter lacks emoji."),
        (lambda root: edit(root, "README.md", "cpu-basic", "zero-a10g"), "accepted is 3.10 and 3.12 on zero-a10g"),
        (lambda root: edit(root, "README.md", "cpu-basic", "my-own"), "README.md: suggested_hardware is 'my-own'"),
    ],
)  # fmt: skip
def test_problems_are_named(change: Callable[[Path], Any], message: str, checkout: Path) -> None:
    assert find_problems(checkout) == ""
    change(checkout)
    assert message in find_problems(checkout)


def test_a_space_that_is_too_large_is_refused(checkout: Path) -> None:
    with open(checkout / "assets" / "models" / "file.txt", "wb") as file:
        file.truncate(publish.LARGEST_SPACE)
    assert "bytes in all; a Space may have 1,000,000,000" in find_problems(checkout)


def test_a_line_of_gitignore_that_is_not_understood_is_refused(checkout: Path) -> None:
    with open(checkout / ".gitignore", "a") as file:
        file.write("!kept\n")
    with pytest.raises(publish.PublishError, match=r"has the line '!kept'; accepted are"):
        publish.read_ignored(checkout)


@pytest.mark.parametrize("name", ["latentcrf", "a/b/c", "some one/latentcrf"])
def test_a_name_that_is_none_is_refused(
    name: str, hub: list[tuple[str, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish.main(["--to", name]) == 1
    assert capsys.readouterr().err.startswith(f"error: --to is {name!r}; accepted is USER/NAME")
    assert not hub


@pytest.mark.slow
def test_requirements_that_contradict_the_sdk_are_refused(checkout: Path) -> None:
    edit(checkout, "requirements.txt", "gradio>=6.31,<7", "gradio<6")
    (problem,) = publish.check_requirements(checkout)
    assert problem.startswith("requirements.txt and gradio 6.") and "cannot be installed together" in problem


def test_a_hub_that_refuses_is_one_sentence(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(publish.PublishError, match="no network. Is the name right, and did you log in"):
        publish.upload(checkout, "someone/latentcrf", [], is_private=False)


@pytest.mark.slow
def test_a_dry_run_lists_the_files_and_uploads_nothing(
    hub: list[tuple[str, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish.main(["--to", "someone/latentcrf", "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == "All checks passed. These would go to the Space someone/latentcrf."
    sizes = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in shown[:-1]}
    assert sizes["app.py"] == (ROOT / "app.py").stat().st_size
    assert sum(size for name, size in sizes.items() if name != "bytes") == sizes["bytes"]
    assert not hub


@pytest.mark.slow
def test_the_page_starts_from_the_uploaded_files_alone(tmp_path: Path) -> None:
    """In an empty folder, as in a Space: it starts, and a comparison with all its metrics is computed."""
    for name in publish.list_files(ROOT, publish.read_ignored(ROOT)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "app.py", "--port", str(port)]
    with open(tmp_path / "log", "w") as log:  # the page keeps it open
        page = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        client = None
        for _ in range(120):
            try:
                client = Client(f"http://127.0.0.1:{port}", verbose=False, httpx_kwargs={"timeout": 120})
                break
            except Exception:  # it does not answer yet
                assert page.poll() is None, (tmp_path / "log").read_text()
                time.sleep(1)
        assert client is not None, (tmp_path / "log").read_text()
        settings = {"steps": 6, "bypass_start": 3, "bypass_end": 5}
        result = client.predict("red apple", **settings, api_name="/compare")
        assert result["speed_up"] > 0 and result["lpips"] >= 0
    finally:
        page.terminate()
        page.wait()
