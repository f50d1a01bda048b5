"""The compare tab: the full LDM and LatentCRF from the same noise, side by side, with what each of them cost."""

import logging
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from app import api, html
from app.form import DEFAULTS, Form, build_prompt, build_settings, load_link
from app.page import AT_ONCE, COMPUTING, Turns
from app.png import write_png
from app.results import METHODS, Comparison, Generated, Progress
from app.services import ModelsError, Services
from app.settings import NAMES, Settings, SettingsError

EXAMPLES = ("red apple", "blue heart", "dog face", "pizza", "rocket", "smiling face with sunglasses", "sunflower")
DOWNLOAD = "Download PNG with its settings"
# and the setting few_steps: the fewest of the benchmark that are, finished, surely nearer to real images than the full run
WAYS = {"Paper's bypass": 0, "Few steps + CRF": 8}
READY = "Type a prompt and press Enter, or choose an example."
log = logging.getLogger(__name__)


class View(NamedTuple):
    """What a handler changes on the page, in the order of its outputs; what it does not name stays as it is."""

    status: Any = gr.skip()
    strip: Any = gr.skip()
    full: Any = gr.skip()
    latentcrf: Any = gr.skip()
    slider: Any = gr.skip()
    before: Any = gr.skip()
    after: Any = gr.skip()
    cards: Any = gr.skip()
    full_file: Any = gr.skip()
    latentcrf_file: Any = gr.skip()
    seed: Any = gr.skip()
    shown: Any = gr.skip()
    start: Any = gr.skip()
    cancel: Any = gr.skip()
    ticket: Any = gr.skip()


IDLE: dict[str, Any] = {"start": gr.update(interactive=True), "cancel": gr.update(interactive=False)}
BUSY: dict[str, Any] = {"start": gr.update(interactive=False), "cancel": gr.update(interactive=True)}


# ---------------------------------------------------------------------------------------- handlers


def run(
    services: Services,
    prompt: str,
    seed: float,
    steps: float,
    guidance: float,
    iterations: float,
    bypass_start: float,
    bypass_end: float,
    finisher: float,
    few_steps: float,
    random_seed: bool,
    previews: bool,
    shown: dict[str, str] | None,
    ticket: float,
    turns: Turns,
) -> Iterator[View]:
    """Run both methods and yield what changes on the page, step by step.

    `shown` are the files of the previous run (see `save`), put back if this one fails or is stopped.
    """
    if random_seed:
        seed = secrets.randbelow(1_000_000)  # short enough to be read aloud
    values = (prompt, seed, steps, guidance, iterations, bypass_start, bypass_end, finisher, few_steps)
    try:
        settings = Settings.parse(dict(zip(NAMES, values, strict=True)))
    except SettingsError as error:
        yield View(html.message(str(error), "error"), **IDLE)
        return
    done = {"full": 0, "latentcrf": 0}
    events = services.compare(settings, bool(previews))
    try:
        if ticket <= turns.stopped:  # while it waited
            return
        text = "Starting…" if services.loaded else "The models are loading: the first comparison waits for them…"
        yield View(html.message(text), html.plan(settings, done), seed=settings.seed, **BUSY)
        for event in events:
            if ticket <= turns.stopped:
                yield stopped(shown)
                return
            if isinstance(event, Progress):
                done[event.method] = event.done
                picture = {} if event.preview is None else {event.method: event.preview}
                yield View(html.message(f"{METHODS[event.method]} draws…"), html.plan(settings, done), **picture)
            elif isinstance(event, Generated):
                yield View(**{event.method: event.image})
            else:
                kept = save(event)
                yield View(html.message(summary(event)), **pictures(kept), shown=kept, **IDLE)
    except ModelsError as error:
        log.error("%s", error)
        yield View(html.message(f"The models cannot be loaded. {error}", "error"), **pictures(shown), **IDLE)
    except Exception:
        log.exception("comparison failed")
        yield View(html.message(api.SORRY, "error"), **pictures(shown), **IDLE)
    finally:
        events.close()  # stops the work on the device


def begin(turns: Turns) -> View:
    """At once after the click, before the device is free; the ticket goes to `run`."""
    turns.asked += 1
    text = "Waiting for the device: one comparison runs at a time…"
    return View(html.message(text), **BUSY, ticket=turns.asked)


def cancel(turns: Turns, shown: dict[str, str] | None) -> View:
    """Stop what was asked for so far, and show the previous images again, if there were any."""
    turns.stopped = turns.asked
    return stopped(shown)


def stopped(shown: dict[str, str] | None) -> View:
    """The page after a run was stopped."""
    text = "Stopped. The images are those of the run before." if shown else "Stopped."
    return View(html.message(text), **pictures(shown), **IDLE)


def save(result: Comparison) -> dict[str, str]:
    """Write a comparison's images as PNG files with their settings inside; the files, and the figures' HTML, by name."""
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in result.settings.prompt.lower())[:40].strip("-")
    images = {"full": result.full.image, "latentcrf": result.latentcrf.image}
    images |= {"before": result.before, "after": result.after}
    files = {
        part: save_bytes_to_cache(
            write_png(image, result.settings, {"image": part, **result.origin}),
            f"{name or 'image'}-{result.settings.seed}-{part}.png",
            get_upload_folder(),
        )
        for part, image in images.items()
    }
    done = {one.method: one.denoiser_calls for one in (result.full, result.latentcrf)}
    return {**files, "cards": html.cards(result), "strip": html.plan(result.settings, done)}


def pictures(kept: dict[str, str] | None) -> dict[str, Any]:
    """The part of a view that shows what `save` wrote; no images without it or once the files are swept away."""
    if not kept or not Path(kept["full"]).is_file():
        return {"full": None, "latentcrf": None}
    return {
        **kept,
        "slider": (kept["full"], kept["latentcrf"]),
        "full_file": gr.update(value=kept["full"], interactive=True),
        "latentcrf_file": gr.update(value=kept["latentcrf"], interactive=True),
    }


def summary(result: Comparison) -> str:
    """What was drawn, in a line."""
    s = result.settings
    text = f"“{s.prompt}”, seed {s.seed}, {s.steps} steps"
    text += f" and {s.few_steps} of UniPC" if s.few_steps else ""
    text += f", guidance {s.guidance:g}, {s.iterations} CRF iterations"
    text += f", finisher {s.finisher:g}." if s.finisher else "."
    return text + (f" The model reads about a dozen words: it did not see “{result.unread}”." if result.unread else "")


def way_of(few_steps: float | None) -> str:
    """Which of `WAYS` a number of few steps is."""
    bypass, few = WAYS
    return few if few_steps else bypass


# ------------------------------------------------------------------------------------------ layout


def build(services: Services) -> Form:
    """Lay the tab out and connect it; call it within a `gr.Blocks`. Returns the form, for other tabs to fill."""
    with gr.Row(elem_id="ask"):
        prompt = build_prompt()
        start = gr.Button("Compare", variant="primary", scale=1, min_width=120, elem_id="compare")
        stop = gr.Button("Cancel", variant="stop", interactive=False, scale=1, min_width=90, elem_id="cancel")
    with gr.Row(elem_id="choices"):
        examples = gr.Dataset(
            components=[prompt],
            samples=[[example] for example in EXAMPLES],
            show_label=False,
            container=False,
            elem_id="examples",
        )
        ways = gr.Radio(list(WAYS), value=way_of(DEFAULTS.few_steps), show_label=False, container=False, elem_id="ways")
    status = gr.HTML(html.message(READY), elem_id="status", padding=False)
    strip = gr.HTML(html.plan(DEFAULTS), elem_id="strip", padding=False)

    picture: dict[str, Any] = {"format": "png", "interactive": False, "show_label": False, "buttons": ["fullscreen"]}
    with gr.Row(elem_id="stage"):
        with gr.Column(min_width=150):
            gr.HTML(html.caption("full", "every U-Net call"), padding=False)
            full = gr.Image(**picture, elem_id="full", alt_text="The full LDM's image")
            full_file = gr.DownloadButton(DOWNLOAD, size="sm", interactive=False, elem_id="full-file")
        with gr.Column(min_width=150):
            gr.HTML(html.caption("latentcrf", "fewer calls, and a CRF"), padding=False)
            latentcrf = gr.Image(**picture, elem_id="latentcrf", alt_text="LatentCRF's image")
            latentcrf_file = gr.DownloadButton(DOWNLOAD, size="sm", interactive=False, elem_id="latentcrf-file")
        with gr.Column(min_width=150, elem_id="slide"):
            gr.HTML(html.heading("Drag to compare", "full left, CRF right"), padding=False)
            slider = gr.ImageSlider(
                format="png",
                interactive=False,
                show_label=False,
                buttons=["fullscreen"],
                elem_id="slider",
                max_height=2000,
            )
        with gr.Column(min_width=150, elem_id="figures"):
            cards = gr.HTML(html.cards(None), padding=False)

    with gr.Row(elem_id="crf"):
        with gr.Column(min_width=150):
            gr.HTML(html.heading("Just before the CRF", "the LDM's estimate"), padding=False)
            before = gr.Image(**picture, elem_id="before", alt_text="The clean estimate just before the CRF")
        with gr.Column(min_width=150):
            gr.HTML(html.heading("Just after the CRF", "what it made of it"), padding=False)
            after = gr.Image(**picture, elem_id="after", alt_text="The image just after the CRF")
        with gr.Column(min_width=150, elem_id="about"):
            gr.HTML(html.about(), padding=False)

    shown: gr.State = gr.State(None)
    turns: gr.State = gr.State(Turns())
    ticket = gr.Number(0, visible="hidden")
    form = build_settings(services, prompt, status, strip)

    few_steps = form["few_steps"]
    ways.input(WAYS.get, ways, few_steps, **AT_ONCE)
    few_steps.change(way_of, few_steps, ways, **AT_ONCE)

    outputs = [
        status,
        strip,
        full,
        latentcrf,
        slider,
        before,
        after,
        cards,
        full_file,
        latentcrf_file,
        form["seed"],
        shown,
    ]
    outputs += [start, stop, ticket]
    inputs = [*form.values, form.random_seed, form.previews, shown, ticket, turns]
    handler = partial(run, services)
    asked = gr.on([start.click, prompt.submit], begin, turns, outputs, **AT_ONCE)
    chosen = examples.click(lambda sample: sample[0], examples, prompt, **AT_ONCE).then(
        begin, turns, outputs, **AT_ONCE
    )
    for event in (asked, chosen):
        event.then(handler, inputs, outputs, **COMPUTING)
    stop.click(cancel, [turns, shown], outputs, **AT_ONCE)
    gr.on(
        None,
        load_link,
        None,
        [*form.values, form.random_seed, form.shares, status, strip],
        api_visibility="private",
        show_progress="hidden",
    )
    return form
