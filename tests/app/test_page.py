"""What the tabs share: libraries imported once, runs that fail with a sentence, a door to each function they name."""

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from app import visitor_files, work
from app.components.model_menu import ModelMenu
from app.device import DeviceWorker
from app.models_file import ModelsError
from app.runs import SORRY, RunCounter, Update, build_run_controls
from tests.app.driving import CATALOG

ROOT = Path(__file__).parents[2]


def test_two_threads_never_see_half_a_library() -> None:
    """Both ask for the work at once, in a fresh process: each sees whole modules."""
    code = """if True:
        import threading
        from app.device import DeviceWorker
        worker, found = DeviceWorker(), []
        def ask():
            try:
                settings = worker.catalog.default.defaults
                found.append(worker.call("count_diversity_calls", ["full run"], 1, settings))
            except Exception as error:
                found.append(error)
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(found)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[50, 50, 50, 50]"


def test_what_the_tabs_name_is_there() -> None:
    """`DeviceWorker.call` and `.stream` find functions of `app.work` by their names."""
    names = set()
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("call", "stream") and node.args:
                names.add(node.args[0].value if isinstance(node.args[0], ast.Constant) else "compare")
            if isinstance(node, ast.Constant) and str(node.value).startswith("export_"):
                names.add(node.value)
    assert len(names) > 20
    for name in names:
        assert callable(getattr(work, name)), name


def test_the_libraries_have_one_door() -> None:
    """`app.device.import_work` alone imports `app.work`, and nothing else imports torch, diffusers or a study."""
    heavy = ("torch", "diffusers", "transformers", "analysis", "latentcrf", "app.work", "app.comparison")
    light = ("analysis.markdown", "analysis.studies", "analysis.studies.frontier", "analysis.tables")  # and the figures
    inside = {"work.py", "comparison.py", "loaded_models.py", "previews.py"}
    for path in (ROOT / "app").rglob("*.py"):
        if path.name in inside:
            continue
        tree = ast.parse(path.read_text())
        checked = {id(node) for each in ast.walk(tree) if isinstance(each, ast.If) for node in each.body}
        for node in ast.walk(tree):
            if id(node) in checked or not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            for name in names:
                is_light = name in light or name.startswith("analysis.figures.")
                assert is_light or not name.startswith(heavy), f"{path.name}: {name}"


def test_files_of_visitors_are_deleted_once_they_are_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    visitor_files._get_root.cache_clear()
    former = tmp_path / "latentcrf-gradio-somebody" / "ab12"  # of a process that was killed
    others = tmp_path / "gradio"  # of another program
    link = tmp_path / "latentcrf-page-link"
    for folder in (former, others):
        folder.mkdir(parents=True)
        (folder / "image.png").touch()
    link.symlink_to(others)
    first = visitor_files.make_folder()
    for name in ("old.png", "page.png", "new.png"):
        (first / name).touch()
    for path in (*former.glob("*"), *others.glob("*"), first / "old.png", first / "page.png"):
        os.utime(path, (0, 0))
    assert visitor_files.sweep({str(first / "page.png")}) == 2
    assert {path.name for path in first.iterdir()} == {"page.png", "new.png"}
    assert (others / "image.png").exists() and not (former / "image.png").exists()
    visitor_files.sweep(max_age=-1)
    visitor_files.sweep(max_age=-1)  # a folder is as old as its last file's end
    assert not first.exists() and not former.exists() and (others / "image.png").exists()
    assert visitor_files.make_folder().is_dir()
    visitor_files._get_root.cache_clear()


def connected(handler: Callable[..., Iterator[Update]]) -> Callable[..., Iterator[Any]]:
    """What a tab's start button runs."""
    with gr.Blocks() as app:
        controls = build_run_controls("x", "Draw", "Ready.")
        controls.status.render()
        controls.connect(DeviceWorker(), ModelMenu(CATALOG).dropdown, handler, [], [gr.HTML()])
    return next(fn.fn for fn in app.fns.values() if fn.fn is not None and fn.concurrency_id == "device")


@pytest.mark.parametrize(
    ("failure", "words"), [(ModelsError("x is missing."), "x is missing."), (ZeroDivisionError("inside"), SORRY)]
)
def test_a_run_that_fails_says_so_and_can_be_started_again(failure: Exception, words: str) -> None:
    def handler(run: Any) -> Iterator[Update]:
        yield Update("working", ["a first result"])
        raise failure

    first, last = list(connected(handler)(1, RunCounter(last=1), "emoji"))
    assert first[3] == "a first result"
    assert words in last[0] and "inside" not in last[0]
    assert last[1]["interactive"] and not last[2]["interactive"]
    assert len(last) == 4 and last[3] == gr.skip()  # what there is stays


def test_the_page_is_built_before_the_slow_libraries_are_imported() -> None:
    """They are imported when first used: gradio reads the handlers' annotations, which must not do it either."""
    code = """if True:
        import sys
        from app.device import DeviceWorker
        from app.layout import build_app
        build_app(DeviceWorker())
        print([name for name in ("torch", "diffusers", "transformers") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
