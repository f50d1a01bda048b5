"""What the analysis tabs share: the page around them, runs that can be cancelled, the ZIP of what they made."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.utils import get_upload_folder

from app import html
from app.api import SORRY
from app.form import Form
from app.later import Later
from app.services import ModelsError, Services

if TYPE_CHECKING:
    from analysis import export
    from analysis.export import Results
else:
    export = Later("analysis.export")

# Events that compute wait for the device, one at a time; those that only say something do not wait.
COMPUTING: dict[str, Any] = {
    "concurrency_id": "device",
    "concurrency_limit": 1,
    "api_visibility": "private",
    "show_progress": "hidden",
}
AT_ONCE: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
PROGRESS_SECONDS = 0.7
COMPARE = "compare"  # the compare tab's id
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Page:
    """What a tab is built into: the models, the row of tabs (to switch them), the tab itself, the compare tab's form (to
    fill it), the switch of the presentation mode."""

    services: Services
    tabs: gr.Tabs
    tab: gr.Tab
    form: Form
    presentation: gr.Checkbox


@dataclass
class Turns:
    """A visitor's runs, numbered as they are asked for; those up to `stopped` are to end.

    gradio's own way to cancel an event lets a step's message that is under way overwrite what comes after it.
    """

    asked: int = 0
    stopped: int = 0


@dataclass(frozen=True)
class Runner:
    """A tab's button that starts its work, the one that cancels it, and the line that says how far it is.

    `controls` are those three as outputs of a handler: status, start, cancel.
    """

    status: gr.HTML
    start: gr.Button
    cancel: gr.Button
    turns: gr.State
    ticket: gr.Number

    @property
    def controls(self) -> list[Any]:
        return [self.status, self.start, self.cancel]

    def connect(self, handler: Callable[..., Iterator[Any]], inputs: list[Any], outputs: list[Any]) -> Any:
        """Run `handler(*inputs, ticket, turns)` on the start button; it yields values for `controls` and `outputs`.

        A failure becomes a sentence for the visitor; details are logged.
        """

        def guarded(*values: Any) -> Iterator[Any]:
            try:
                yield from handler(*values)
            except ModelsError as error:
                log.error("%s", error)
                yield [*said(f"The models cannot be loaded. {error}", error=True), *[gr.skip()] * len(outputs)]
            except Exception:
                log.exception("an analysis failed")
                yield [*said(SORRY, error=True), *[gr.skip()] * len(outputs)]

        asked = self.start.click(_begin, self.turns, [*self.controls, self.ticket], **AT_ONCE)
        done = asked.then(guarded, [*inputs, self.ticket, self.turns], [*self.controls, *outputs], **COMPUTING)
        self.cancel.click(_cancel, self.turns, self.controls, **AT_ONCE)
        return done


def build_runner(name: str, label: str, ready: str) -> Runner:
    """The buttons, in the current row, with ids `NAME-start` and `NAME-cancel`; the caller places `status` below."""
    start = gr.Button(label, variant="primary", scale=1, min_width=110, elem_id=f"{name}-start")
    cancel = gr.Button("Cancel", variant="stop", interactive=False, scale=1, min_width=90, elem_id=f"{name}-cancel")
    status = gr.HTML(html.message(ready), elem_id=f"{name}-status", padding=False, render=False)
    return Runner(status, start, cancel, gr.State(Turns()), gr.Number(0, visible="hidden"))


def _begin(turns: Turns) -> list[Any]:
    turns.asked += 1
    return [*said("Waiting for the device: one run at a time…", busy=True), turns.asked]


def _cancel(turns: Turns) -> list[Any]:
    turns.stopped = turns.asked
    return said("Stopped.")


def said(text: str, *, busy: bool = False, error: bool = False) -> list[Any]:
    """Values for `Runner.controls`: a message, and which of the two buttons can be pressed."""
    status = html.message(text, "error" if error else "info")
    return [status, gr.update(interactive=not busy), gr.update(interactive=busy)]


def watched(services: Services, work: Callable[..., None], ticket: float, turns: Turns) -> Iterator[Any]:
    """What `services.stream(work)` reports, until the visitor cancels; then the work is stopped and this ends.

    Plain numbers, which only say how far the work is, are passed on a few times a second at most: each costs the browser
    more than a step costs us.

    Raises:
        ModelsError: a file of the models is missing or damaged.
        Exception: whatever `work` raises.
    """
    events, told = services.stream(work), time.monotonic()
    try:
        for event in events:
            if ticket <= turns.stopped:
                return
            if isinstance(event, int) and time.monotonic() - told < PROGRESS_SECONDS:
                continue
            told = time.monotonic()
            yield event
    finally:
        events.close()


class Clock:
    """How far a piece of work is, in words."""

    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit, self.began = total, unit, time.monotonic()

    def told(self, done: int) -> str:
        """ "12 of 64 runs, about 20 s left" """
        left = (time.monotonic() - self.began) / max(done, 1) * (self.total - done)
        return f"{done} of {self.total} {self.unit}" + (f", about {left:.0f} s left" if 0 < done < self.total else "")


def build_export(name: str, made: gr.State, results: Callable[[Any], "Results"]) -> None:
    """A button that writes the ZIP of `results(made's value)`, and the one that downloads it once it is there."""
    make = gr.Button("Export as ZIP", size="sm", min_width=120, elem_id=f"{name}-export")
    file = gr.DownloadButton("Download the ZIP", size="sm", visible=False, min_width=120, elem_id=f"{name}-zip")

    def write(value: Any) -> Any:
        if value is None:
            return gr.update(visible=True, value=None, label="Nothing to export yet")
        folder = Path(get_upload_folder()) / f"{name}-{time.time_ns()}"
        folder.mkdir(parents=True, exist_ok=True)
        path = export.write_zip(results(value), folder / f"latentcrf-{name}.zip")
        return gr.update(visible=True, value=str(path), label="Download the ZIP")

    make.click(write, made, file, concurrency_limit=2, api_visibility="private")


def note(reading: str, computed: str) -> str:
    """The two sentences under a figure: how to read it, how it was computed."""
    return f'<p class="note"><b>How to read it.</b> {reading}</p><p class="note"><b>How it was computed.</b> {computed}</p>'
