"""What the analysis tabs share: modules imported when first used, runs that fail with a sentence."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from app.api import SORRY
from app.later import Later
from app.page import build_runner
from app.services import ModelsError

ROOT = Path(__file__).parents[1]


def test_two_threads_never_see_half_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the two needs the other: imported at once, by two threads, one would see the other's first half."""
    (tmp_path / "later_first.py").write_text("import time\ntime.sleep(0.2)\nX = 1\nfrom later_second import Y\n")
    (tmp_path / "later_second.py").write_text("import time\ntime.sleep(0.1)\nfrom later_first import X\nY = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    found: dict[str, Any] = {}

    def ask(module: str, name: str) -> None:
        try:
            found[name] = getattr(Later(module), name)
        except ImportError as error:
            found[name] = error

    threads = [threading.Thread(target=ask, args=pair) for pair in (("later_first", "X"), ("later_second", "Y"))]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert found == {"X": 1, "Y": 2}
    with pytest.raises(AttributeError):
        Later("later_first").absent  # noqa: B018


def connected(handler: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """What a tab's start button runs."""
    with gr.Blocks() as app:
        runner = build_runner("x", "Draw", "Ready.")
        runner.status.render()
        runner.connect(handler, [], [gr.HTML()])
    return next(fn.fn for fn in app.fns.values() if fn.fn is not None and fn.concurrency_id == "device")


@pytest.mark.parametrize(
    ("failure", "words"), [(ModelsError("x is missing."), "x is missing."), (ZeroDivisionError("inside"), SORRY)]
)
def test_a_run_that_fails_says_so_and_can_be_started_again(failure: Exception, words: str) -> None:
    def handler(ticket: float, turns: Any) -> Iterator[list[Any]]:
        yield ["working", gr.update(interactive=False), gr.update(interactive=True), "a first result"]
        raise failure

    first, last = list(connected(handler)(1, None))
    assert first[3] == "a first result"
    assert words in last[0] and "inside" not in last[0]
    assert last[1]["interactive"] and not last[2]["interactive"]
    assert len(last) == 4 and last[3] == gr.skip()  # what there is stays


def test_the_page_is_built_before_the_slow_libraries_are_imported() -> None:
    """They are imported when first used: gradio reads the handlers' annotations, which must not do it either."""
    code = """if True:
        import sys
        from app.services import Services
        from app.ui import build_app
        build_app(Services())
        print([name for name in ("torch", "diffusers", "transformers", "plotly") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
