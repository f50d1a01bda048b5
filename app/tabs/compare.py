"""The compare tab: the full run and LatentCRF from the same noise, side by side, with what each of them cost."""

import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from app.components import html
from app.components.form import Form, build_form, build_prompt, write_placeholder
from app.components.model_menu import ModelMenu
from app.device import DeviceWorker
from app.models import ModelSet
from app.png import write_png
from app.results import METHODS, Comparison, Generated, Progress
from app.runs import AT_ONCE, Run, Update, build_run_controls
from app.settings import NAMES
from app.text import describe_crf
from app.visitor_files import make_folder

DOWNLOAD = "Download PNG with its settings"
MODES = ("Paper's bypass", "Few steps + CRF")
MODES_WITHOUT_CRF = ("Bypass, no CRF", "Few steps + VAE")  # their labels then
READY = "Type a prompt and press Enter, or choose an example."


class View(NamedTuple):
    """What a handler changes on the page, in the order of its outputs; what it does not name stays as it is."""

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
    previous: Any = gr.skip()


# ---------------------------------------------------------------------------------------- handlers


def run_comparison(run: Run, *values: Any) -> Iterator[Update]:
    """Run both methods and show what changes, step by step.

    Args:
        run: this run.
        values: of the form, in the order of `NAMES`; then whether the seed is random, and whether there are previews.

    Yields:
        Updates with a `View`.

    Raises:
        SettingsError: the form's values are wrong.
    """
    model_set = run.model_set
    *form_values, is_random, previews = values
    chosen = dict(zip(NAMES, form_values, strict=True))
    if is_random:
        chosen["seed"] = secrets.randbelow(1_000_000)  # short enough to be read aloud
    settings = run.worker.catalog.parse(chosen)
    done = {"full": 0, "latentcrf": 0}
    yield Update(run.start_text, View(html.format_plan(model_set, settings, done), seed=settings.seed))
    for report in run.stream("compare", settings, bool(previews)):
        if isinstance(report, Progress):
            done[report.method] = report.done
            preview = {} if report.preview is None else {report.method: report.preview}
            plan = html.format_plan(model_set, settings, done)
            yield Update(f"{METHODS[report.method]} is running…", View(plan, **preview))
        elif isinstance(report, Generated):
            yield Update(f"{METHODS[report.method]} is done.", View(**{report.method: report.image}))
        else:
            files = save_comparison(report, model_set)
            text = summarize_comparison(report, model_set)
            yield Update(text, show_comparison(files)._replace(previous=files), busy=False)


def save_comparison(result: Comparison, model_set: ModelSet) -> dict[str, str]:
    """Write a comparison's images as PNG files with their settings inside.

    Args:
        result: of the comparison.
        model_set: what drew it.

    Returns:
        The files' paths, and the HTML of figures and plan, by name.
    """
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in result.settings.prompt.lower())[:40].strip("-")
    images = {"full": result.full.image, "latentcrf": result.latentcrf.image}
    images |= {"before": result.before, "after": result.after}
    folder, files = make_folder(), {}
    for key, image in images.items():
        path = folder / f"{name or 'image'}-{result.settings.seed}-{key}.png"
        path.write_bytes(write_png(image, result.settings, {"image": key, **result.origin}))
        files[key] = str(path)
    done = {one.method: one.denoiser_calls for one in (result.full, result.latentcrf)}
    return {**files, "cards": html.format_cards(result), "strip": html.format_plan(model_set, result.settings, done)}


def show_comparison(files: dict[str, str] | None) -> View:
    """Show what `save_comparison` wrote.

    Args:
        files: as it returned them; None where there was no comparison.

    Returns:
        A view; without images where there are no files, or no longer.
    """
    if not files or not Path(files["full"]).is_file():
        return View(full=None, latentcrf=None)
    return View(
        **files,
        slider=(files["full"], files["latentcrf"]),
        full_file=gr.update(value=files["full"], interactive=True),
        latentcrf_file=gr.update(value=files["latentcrf"], interactive=True),
    )


def summarize_comparison(result: Comparison, model_set: ModelSet) -> str:
    """Summarize a comparison in a line.

    Args:
        result: of the comparison.
        model_set: what drew it.

    Returns:
        Prompt, settings, what was not read of the prompt, and what the safety checker blocked.
    """
    s = result.settings
    text = f"“{s.prompt}”, seed {s.seed}, {s.steps} steps"
    text += f" and {s.few_steps} of UniPC" if s.few_steps else ""
    text += f", guidance {s.guidance:g}"
    if s.guidance > 1 and s.guidance_cutoff:
        text += f" (LatentCRF: not in the last {s.guidance_cutoff:.0%} of its calls)"
    text += f", {s.iterations} CRF iterations" if model_set.crf is not None else ""
    finisher = "the finisher" if model_set.finisher is not None else "a VAE round trip"
    text += f", with {finisher}." if s.finisher else "."
    if result.unread:
        text += f" The model reads {model_set.prompt_tokens} tokens: it did not see “{result.unread}”."
    blocked = [METHODS[one.method] for one in (result.full, result.latentcrf) if one.is_blocked]
    if blocked:
        text += f" The model's safety checker blocked the image of: {' and '.join(blocked)}."
    return text


def fill_mode(model_set: ModelSet, mode: str) -> tuple[int, float]:
    """Give the settings that make a mode.

    Args:
        model_set: whose fast mode is meant.
        mode: one of `MODES`.

    Returns:
        Few steps and guidance cut-off; the paper's bypass has neither.
    """
    return (model_set.few_steps, model_set.few_steps_cutoff) if mode == MODES[1] else (0, 0.0)


def label_modes(model_set: ModelSet) -> list[tuple[str, str]]:
    """Label the modes for a model.

    Args:
        model_set: the model.

    Returns:
        Pairs of label and mode.
    """
    bypass, few = zip(MODES_WITHOUT_CRF, MODES, strict=True)
    return [
        bypass if model_set.crf is None else (MODES[0], MODES[0]),
        few if model_set.finisher is None else (MODES[1], MODES[1]),
    ]


def label_images(model_set: ModelSet) -> dict[str, str]:
    """Write the headings over LatentCRF's image, and over those before and after the CRF.

    Args:
        model_set: the model.

    Returns:
        HTML: latentcrf, before, after.
    """
    if model_set.crf is None:
        return {
            "latentcrf": html.format_caption("latentcrf", "fewer calls"),
            "before": html.format_heading("Before the finisher", "or the bypass"),
            "after": html.format_heading("After the finisher", "or the bypass"),
        }
    return {
        "latentcrf": html.format_caption("latentcrf", "fewer calls, and a CRF"),
        "before": html.format_heading("Just before the CRF", "the clean estimate"),
        "after": html.format_heading("Just after the CRF", "of lowest energy"),
    }


def label_image(name: str, model_set: ModelSet) -> str:
    """Write one of the headings of `label_images`.

    Args:
        name: of the image.
        model_set: the model.

    Returns:
        HTML.
    """
    return label_images(model_set)[name]


def choose_mode(few_steps: float | None) -> str:
    """Choose the mode that a number of few steps belongs to.

    Args:
        few_steps: the setting; 0 or None is the bypass.

    Returns:
        One of `MODES`.
    """
    return MODES[bool(few_steps)]


# ------------------------------------------------------------------------------------------ layout


def build(worker: DeviceWorker, menu: ModelMenu) -> Form:
    """Lay the tab out and connect it; call it within a `gr.Tab`.

    Args:
        worker: what computes.
        menu: of the models.

    Returns:
        The form, for other tabs to fill.
    """
    catalog, model_set = worker.catalog, worker.catalog.default
    labels, headings = label_images(model_set), {}
    with gr.Row(elem_id="ask"):
        prompt = build_prompt(model_set.prompts[0])
        controls = build_run_controls("compare", "Compare", READY)
    with gr.Row(elem_id="choices"):
        examples = gr.Dataset(
            components=[prompt],
            samples=[[example] for example in model_set.prompts],
            show_label=False,
            container=False,
            elem_id="examples",
        )
        mode = gr.Radio(
            label_modes(model_set),
            value=choose_mode(model_set.defaults.few_steps),
            show_label=False,
            container=False,
            elem_id="modes",
        )
    controls.status.render()
    strip = gr.HTML(html.format_plan(model_set, model_set.defaults), elem_id="strip", padding=False)

    picture: dict[str, Any] = {"format": "png", "interactive": False, "show_label": False, "buttons": ["fullscreen"]}
    with gr.Row(elem_id="stage"):
        with gr.Column(min_width=150):
            gr.HTML(html.format_caption("full", "all denoiser calls"), padding=False)
            full = gr.Image(**picture, elem_id="full", alt_text="The full run's image")
            full_file = gr.DownloadButton(DOWNLOAD, size="sm", interactive=False, elem_id="full-file")
        with gr.Column(min_width=150):
            headings["latentcrf"] = gr.HTML(labels["latentcrf"], padding=False)
            latentcrf = gr.Image(**picture, elem_id="latentcrf", alt_text="LatentCRF's image")
            latentcrf_file = gr.DownloadButton(DOWNLOAD, size="sm", interactive=False, elem_id="latentcrf-file")
        with gr.Column(min_width=150, elem_id="slide"):
            gr.HTML(html.format_heading("Drag to compare", "full left, CRF right"), padding=False)
            slider = gr.ImageSlider(
                format="png",
                interactive=False,
                show_label=False,
                buttons=["fullscreen"],
                elem_id="slider",
                max_height=2000,
            )
        with gr.Column(min_width=150, elem_id="figures"):
            cards = gr.HTML(html.format_cards(None), padding=False)

    with gr.Row(elem_id="crf"):
        with gr.Column(min_width=150):
            headings["before"] = gr.HTML(labels["before"], padding=False)
            before = gr.Image(**picture, elem_id="before", alt_text="The image just before the CRF")
        with gr.Column(min_width=150):
            headings["after"] = gr.HTML(labels["after"], padding=False)
            after = gr.Image(**picture, elem_id="after", alt_text="The image just after the CRF")
        with gr.Column(min_width=150, elem_id="about"):
            about = gr.HTML(describe_crf(model_set), padding=False)

    previous: gr.State = gr.State(None)
    form = build_form(worker, menu, prompt, controls.status, strip)
    few_steps = form["few_steps"]
    cutoff = form["guidance_cutoff"]
    mode.input(
        lambda mode, model: fill_mode(catalog.get(model), mode), [mode, menu.dropdown], [few_steps, cutoff], **AT_ONCE
    )
    few_steps.change(choose_mode, few_steps, mode, **AT_ONCE)

    chosen = examples.click(lambda sample: sample[0], examples, prompt, **AT_ONCE)
    outputs = View(
        strip, full, latentcrf, slider, before, after, cards, full_file, latentcrf_file, form["seed"], previous
    )
    menu.clear(full, latentcrf, slider, before, after, previous)
    menu.follow(cards, lambda _: html.format_cards(None))
    for file in (full_file, latentcrf_file):
        menu.follow(file, lambda _: gr.update(value=None, interactive=False))
    for name, heading in headings.items():
        menu.follow(heading, partial(label_image, name))
    menu.follow(about, describe_crf)
    menu.follow(mode, lambda model_set: gr.update(choices=label_modes(model_set)))
    menu.follow(examples, lambda model_set: gr.Dataset(samples=[[example] for example in model_set.prompts]))
    menu.follow(prompt, lambda model_set: gr.update(placeholder=write_placeholder(model_set.prompts[0])))
    controls.connect(
        worker,
        menu.dropdown,
        run_comparison,
        [*form.values, form.random_seed, form.previews],
        list(outputs),
        triggers=[partial(gr.on, [controls.start.click, prompt.submit]), chosen.then],
        previous=previous,
        restore=show_comparison,
    )
    return form
