"""The one driver of runs, for all tabs: run ids, start and cancel, progress, failures as sentences."""

import errno
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import gradio as gr

from app.callback_stream import Cancelled
from app.checked_blocks import SORRY
from app.components import html
from app.device import DeviceMemoryError, DeviceWorker
from app.models import ModelSet
from app.models_file import ModelsError
from app.settings import SettingsError
from app.visitor_queue import DEVICE, get_address, get_queue

# Events that compute wait for the device, one at a time; those that only show something do not wait.
COMPUTING: dict[str, Any] = {
    "concurrency_id": DEVICE,
    "concurrency_limit": 1,
    "api_visibility": "private",
    "show_progress": "hidden",
}
AT_ONCE: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
PROGRESS_SECONDS = 0.7
TICK_SECONDS = 3  # from one look at a waiting run's place to the next
LOST_TICKS = 3  # without a sign of a run, after which it counts as refused
DISK_FULL = "The server's disk is full, so the images cannot be kept. It has been logged; please try again later."
WAITING = "Waiting for the device: one run at a time…"
log = logging.getLogger(__name__)


@dataclass
class RunCounter:
    """Counts a visitor's runs in one tab.

    gradio's own way to cancel an event lets a step's message that is under way overwrite what comes after it.

    Attributes:
        last: id of the run that was asked for last; ids count up from 1.
        cancelled: runs up to this id are to end.
        state: "waiting" from the click to the run's start, "refused" while the queue takes no run; else "".
        lost: looks for the waiting run that did not find it.
        redraw: id of the last run that draws again what is shown.
        visitor: a name of the visitor in this tab, drawn when it is first needed.
    """

    last: int = 0
    cancelled: int = 0
    state: str = ""
    lost: int = 0
    redraw: int = 0
    visitor: str = ""


@dataclass(frozen=True)
class Run:
    """One run of a tab, as its handler sees it.

    Attributes:
        worker: what computes.
        run_id: number of the run.
        counter: the visitor's.
        model: name of the model, as the visitor chose it.
    """

    worker: DeviceWorker
    run_id: int
    counter: RunCounter
    model: str

    @property
    def model_set(self) -> ModelSet:
        """The model.

        Raises:
            SettingsError: the page does not offer it.
        """
        return self.worker.catalog.get(self.model)

    @property
    def is_redraw(self) -> bool:
        """Whether it draws again what is shown, with other settings."""
        return self.run_id == self.counter.redraw

    @property
    def visitor(self) -> str:
        """A name of the visitor, for what is remembered of the last runs."""
        self.counter.visitor = self.counter.visitor or uuid.uuid4().hex
        return self.counter.visitor

    @property
    def is_cancelled(self) -> bool:
        """Whether the visitor has cancelled it."""
        return self.run_id <= self.counter.cancelled

    def check_work(self, calls: int) -> None:
        """Check the size of the work, before it starts.

        Args:
            calls: denoiser calls, each image's counted.

        Raises:
            SettingsError: they are more than one request may ask for on this page.
        """
        self.worker.check_work(calls)

    @property
    def start_text(self) -> str:
        """What to show until the first report."""
        is_loaded = self.worker.is_loaded(self.model)
        return "Starting…" if is_loaded else "The model is loading: the first run waits for it…"

    def stream(self, name: str, *arguments: Any) -> Iterator[Any]:
        """Run a function of `app.work` on the device.

        Plain numbers, which only show how far the work is, are passed on a few times a second at most: each costs the
        browser more than a step costs the device.

        Args:
            name: of the function.
            arguments: of the function.

        Yields:
            What it reports.

        Raises:
            Cancelled: at the next report after the visitor has cancelled or left; the work is stopped then.
            ModelsError: a file of the models is missing or damaged.
            Exception: whatever the function raises.
        """
        reports, last_time = self.worker.stream(name, *arguments, model=self.model), time.monotonic()
        try:
            for item in reports:
                if self.is_cancelled:
                    raise Cancelled
                if isinstance(item, int) and time.monotonic() - last_time < PROGRESS_SECONDS:
                    continue
                last_time = time.monotonic()
                yield item
        finally:
            reports.close()


class Update(NamedTuple):
    """What a handler changes on its tab.

    Attributes:
        text: the status line.
        outputs: values for the tab's outputs, in order; None leaves them as they are.
        busy: whether the run goes on.
    """

    text: str
    outputs: Sequence[Any] | None = None
    busy: bool = True


class ProgressClock:
    """Estimates how long a piece of work still takes.

    Args:
        total: units of the work.
        unit: their name, "runs".
    """

    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit, self.began = total, unit, time.monotonic()

    def format(self, done: int) -> str:
        """Format how far the work is.

        Args:
            done: units so far.

        Returns:
            "12 of 64 runs, about 20 s left".
        """
        left = (time.monotonic() - self.began) / max(done, 1) * (self.total - done)
        return f"{done} of {self.total} {self.unit}" + (f", about {left:.0f} s left" if 0 < done < self.total else "")


Handler = Callable[..., Iterator[Update]]


@dataclass(frozen=True)
class RunControls:
    """A tab's start and cancel buttons with its status line.

    Attributes:
        status: the line that shows how far the run is.
        ready_text: its text before the first run.
        start: starts a run.
        cancel: cancels it.
        counter: holds the visitor's `RunCounter`.
        run_id: holds the id of the run that was asked for last; a change starts it.
        timer: ticks while a run waits.
    """

    status: gr.HTML
    ready_text: str
    start: gr.Button
    cancel: gr.Button
    counter: gr.State
    run_id: gr.Number
    timer: gr.Timer

    @property
    def outputs(self) -> list[Any]:
        """What `show_status` gives values for."""
        return [self.status, self.start, self.cancel]

    def connect(
        self,
        worker: DeviceWorker,
        model: gr.Dropdown,
        handler: Handler,
        inputs: list[Any],
        outputs: list[Any],
        *,
        triggers: Sequence[Callable[..., Any]] = (),
        redraws: Sequence[Callable[..., Any]] = (),
        previous: gr.State | None = None,
        restore: Callable[[Any], Sequence[Any]] | None = None,
    ) -> Any:
        """Run a handler at each click on the start button.

        Args:
            worker: what computes.
            model: holds the model's name; when another is chosen, a run that goes on is stopped.
            handler: called with a `Run` and the inputs' values; yields `Update`s.
            inputs: its components.
            outputs: what it changes, beside these controls.
            triggers: listeners that start a run, (function, inputs, outputs, ...); default: the start button's click.
            redraws: listeners that start a run with `Run.is_redraw`.
            previous: holds what `restore` needs.
            restore: gives values for `outputs` after a run that failed or was cancelled. Default: they stay.

        Returns:
            The event of the end of a run.
        """
        controls = self.outputs
        remembered = [] if previous is None else [previous]

        def restore_outputs(*value: Any) -> Sequence[Any]:
            return [gr.skip()] * len(outputs) if restore is None else restore(*value)

        def run(run_id: Any, counter: RunCounter, model_name: str, *values: Any) -> Iterator[list[Any]]:
            if not isinstance(run_id, int | float) or not math.isfinite(run_id):  # as `begin_run` gives
                raise SettingsError("A run's number must be an integer.")
            if run_id == counter.last:  # an earlier one does not end a later one's waiting
                counter.state = ""
            shown, arguments = values[: len(remembered)], values[len(remembered) :]
            this = Run(worker, int(run_id), counter, model_name)
            updates = drive(handler, this, arguments, lambda: restore_outputs(*shown), len(outputs))
            # a run that was cancelled before it began yields nothing, of which gradio would empty all outputs
            yield next(updates, [gr.skip()] * len([*controls, *outputs]))
            yield from updates

        def cancel(request: gr.Request, counter: RunCounter, *shown: Any) -> list[Any]:
            drop_waiting(counter, request)
            return [*cancel_runs(counter), *restore_outputs(*shown)]

        for listen in triggers or [self.start.click]:
            listen(on_event_loop(begin_run), self.counter, [*controls, self.run_id, self.timer], **AT_ONCE)
        for listen in redraws:
            listen(
                on_event_loop(begin_redraw),
                self.counter,
                [*controls, self.run_id, self.timer],
                trigger_mode="always_last",
                **AT_ONCE,
            )
        # not `then`: a run that the queue has no room for does not start, and its id does not change
        end = self.run_id.change(
            run,
            [self.run_id, self.counter, model, *remembered, *inputs],
            [*controls, *outputs],
            trigger_mode="multiple",
            **COMPUTING,
        )
        # what fails outside of the handler: gradio keeps the images that it shows on the disk
        failed = end.failure(show_failure, None, controls, **AT_ONCE)
        failed.then(restore_outputs, remembered, outputs, **AT_ONCE)
        self.timer.tick(on_event_loop(show_place), self.counter, [*controls, self.timer], **AT_ONCE)
        self.cancel.click(on_event_loop(cancel), [self.counter, *remembered], [*controls, *outputs], **AT_ONCE)
        model.input(self.reset, self.counter, controls, **AT_ONCE)
        return end

    def reset(self, counter: RunCounter) -> list[Any]:
        """Stop what was asked for so far, for good: its outputs are not restored.

        Args:
            counter: the visitor's.

        Returns:
            Values for status, start and cancel.
        """
        counter.last += 1
        counter.cancelled = counter.last
        return show_status(self.ready_text, busy=False, kind="hint")


def on_event_loop(handler: Callable[..., list[Any]]) -> Callable[..., Any]:
    """Let gradio call a short handler on its event loop, which changes the queue too, and not in a thread.

    Args:
        handler: that waits for nothing.

    Returns:
        A coroutine function.
    """

    @wraps(handler)
    async def call(*values: Any) -> list[Any]:
        return handler(*values)

    return call


def begin_run(counter: RunCounter, request: gr.Request) -> list[Any]:
    """Count a run, at once after the click and before the device is free; or refuse it, where the queue has no room.

    It takes the place of the visitor's earlier run in this tab.

    Args:
        counter: the visitor's.
        request: the visitor's.

    Returns:
        Values for status, start, cancel, the run id, and the timer.
    """
    drop_waiting(counter, request)
    queue = get_queue(request)
    refusal = "" if queue is None else queue.find_refusal(request.session_hash, get_address(request))
    if refusal:
        counter.state = "refused"
        is_busy = queue is not None and queue.is_running(request.session_hash)  # an earlier run, which goes on
        return [*show_status(refusal, busy=is_busy, kind="error"), gr.skip(), gr.Timer(active=True)]
    counter.cancelled = counter.last
    counter.last += 1
    counter.state, counter.lost = "waiting", 0
    return [*show_status(WAITING, busy=True), counter.last, gr.Timer(active=True)]


def begin_redraw(counter: RunCounter, request: gr.Request) -> list[Any]:
    """Count a run that draws again what is shown; as `begin_run`.

    Args:
        counter: the visitor's.
        request: the visitor's.

    Returns:
        As of `begin_run`.
    """
    values = begin_run(counter, request)
    if counter.state == "waiting":  # not refused
        counter.redraw = counter.last
    return values


def show_place(counter: RunCounter, request: gr.Request) -> list[Any]:
    """Show a waiting run's place in the queue; to a visitor whose run was refused, whether there is room again.

    Args:
        counter: the visitor's.
        request: the visitor's.

    Returns:
        Values for status, start, cancel, and the timer.
    """
    queue, session = get_queue(request), request.session_hash
    if counter.state == "refused" and queue is not None:
        refusal = queue.find_refusal(session, get_address(request))
        if refusal:
            return [*show_status(refusal, busy=False, kind="error"), gr.skip()]
        counter.state = ""
        return [*show_status("There is room in the queue again.", busy=False), gr.Timer(active=False)]
    if counter.state != "waiting" or queue is None:
        return [gr.skip(), gr.skip(), gr.skip(), gr.Timer(active=False)]
    event = queue.find_waiting(session)
    if event is not None:
        counter.lost = 0
        return [html.format_message(f"Waiting for the device: {queue.locate(event).format()}."), *[gr.skip()] * 3]
    # between the click and the queue, or refused there, as others came first
    counter.lost = 0 if queue.is_running(session) else counter.lost + 1
    if counter.lost < LOST_TICKS:
        return [gr.skip()] * 4
    counter.state = ""
    return [*show_status("The run was not taken in. Please try again.", busy=False), gr.Timer(active=False)]


def drop_waiting(counter: RunCounter, request: gr.Request) -> None:
    """Drop a visitor's waiting run from the queue.

    Args:
        counter: the visitor's.
        request: the visitor's.
    """
    queue = get_queue(request)
    if counter.state == "waiting" and queue is not None:
        queue.drop_waiting(request.session_hash)
    counter.state = ""


def cancel_runs(counter: RunCounter) -> list[Any]:
    """Cancel what was asked for so far.

    Args:
        counter: the visitor's.

    Returns:
        Values for status, start and cancel.
    """
    counter.cancelled = counter.last
    return show_status("Stopped.", busy=False)


def show_failure() -> list[Any]:
    """Show that a run ended without a result, and let the visitor start another.

    Returns:
        Values for status, start and cancel.
    """
    return show_status(SORRY, busy=False, kind="error")


def drive(
    handler: Handler, run: Run, arguments: Sequence[Any], restore: Callable[[], Sequence[Any]], num_outputs: int
) -> Iterator[list[Any]]:
    """Run a tab's handler; a failure becomes a sentence for the visitor, details are logged.

    Args:
        handler: of the tab.
        run: this run.
        arguments: of the handler, after `run`.
        restore: gives values for the tab's outputs after a failure or a cancelled run.
        num_outputs: how many the tab has.

    Yields:
        Values for status, start, cancel and the tab's outputs.
    """
    unchanged: list[Any] = [gr.skip()] * num_outputs
    if run.is_cancelled:  # while it waited
        return
    try:
        for text, outputs, busy in handler(run, *arguments):
            if not busy and len(run.worker.catalog.models) > 1:
                text = f"{run.model_set.title}: {text}"
            yield [*show_status(text, busy=busy), *(unchanged if outputs is None else outputs)]
    except SettingsError as error:
        yield [*show_status(str(error), busy=False, kind="error"), *unchanged]
    except Cancelled:
        if run.run_id == run.counter.last:  # a later run has the controls
            yield [*show_status("Stopped.", busy=False), *restore()]
    except DeviceMemoryError as error:
        yield [*show_status(str(error), busy=False, kind="error"), *restore()]
    except ModelsError as error:
        log.error("%s", error)
        yield [*show_status(f"The models cannot be loaded. {error}", busy=False, kind="error"), *restore()]
    except OSError as error:
        log.exception("a run failed")
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        yield [*show_status(DISK_FULL if is_full else SORRY, busy=False, kind="error"), *restore()]
    except Exception:
        log.exception("a run failed")
        yield [*show_status(SORRY, busy=False, kind="error"), *restore()]


def show_status(text: str, *, busy: bool, kind: str = "info") -> list[Any]:
    """Give values for status, start and cancel.

    Args:
        text: the status.
        busy: whether a run goes on: then it can be cancelled, else one can be started.
        kind: as of `html.format_message`.

    Returns:
        Three values.
    """
    return [html.format_message(text, kind), gr.update(interactive=not busy), gr.update(interactive=busy)]


def build_run_controls(name: str, label: str, ready_text: str) -> RunControls:
    """Build the buttons in the current row. The caller renders `status` where it belongs.

    Args:
        name: of the tab: the elements' ids are `NAME-start`, `NAME-cancel` and `NAME-status`.
        label: of the start button.
        ready_text: the status before the first run.

    Returns:
        The controls.
    """
    start = gr.Button(label, variant="primary", scale=1, min_width=110, elem_id=f"{name}-start")
    cancel = gr.Button("Cancel", variant="stop", interactive=False, scale=1, min_width=90, elem_id=f"{name}-cancel")
    status = gr.HTML(html.format_message(ready_text, "hint"), elem_id=f"{name}-status", padding=False, render=False)
    counter: gr.State = gr.State(RunCounter())
    return RunControls(
        status, ready_text, start, cancel, counter, gr.Number(0, visible="hidden"), gr.Timer(TICK_SECONDS, active=False)
    )
