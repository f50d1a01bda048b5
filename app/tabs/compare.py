"""The compare tab: the full run and LatentCRF from the same noise, side by side, with what each of them cost."""

import secrets
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from app.components import html
from app.components.form import Form, build_form, build_prompt, compute_shares, write_placeholder
from app.components.model_menu import ModelMenu
from app.device import DeviceWorker
from app.examples import describe_example, find_comparison, read_about
from app.models import Catalog, ModelSet
from app.png import write_png
from app.results import METHODS, Comparison, Generated, Progress
from app.runs import AT_ONCE, Run, RunCounter, Update, build_run_controls, show_status
from app.settings import NAMES, Settings
from app.text import describe_crf
from app.visitor_files import make_folder, make_kept_folder

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
    example: Any = gr.skip()
    example_note: Any = gr.skip()
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
    notes = run.worker.catalog.read_prompt(chosen).notes
    done = {"full": 0, "latentcrf": 0}
    plan = html.format_plan(model_set, settings, done)
    yield Update(run.start_text, View(plan, seed=settings.seed, example=gr.update(visible=False)))
    for report in run.stream("compare", settings, bool(previews)):
        if isinstance(report, Progress):
            done[report.method] = report.done
            preview = {} if report.preview is None else {report.method: report.preview}
            plan = html.format_plan(model_set, settings, done)
            yield Update(f"{METHODS[report.method]} is running…", View(plan, **preview))
        elif isinstance(report, Generated):
            yield Update(f"{METHODS[report.method]} is done.", View(**{report.method: report.image}))
        else:
            files = save_comparison(report, model_set, make_folder())
            text = " ".join([summarize_comparison(report, model_set), *notes])
            yield Update(text, show_comparison(files), busy=False)


def save_comparison(result: Comparison, model_set: ModelSet, folder: Path, measured: str = "") -> dict[str, str]:
    """Write a comparison's images as PNG files with their settings inside.

    Args:
        result: of the comparison.
        model_set: what drew it.
        folder: for the files.
        measured: when and on what the times were measured; empty: now and here.

    Returns:
        The files' paths, and the HTML of figures, of the plan once it is done ("strip") and before, by name.
    """
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in result.settings.prompt.lower())[:40].strip("-")
    images = {"full": result.full.image, "latentcrf": result.latentcrf.image}
    images |= {"before": result.before, "after": result.after}
    files = {}
    for key, image in images.items():
        path = folder / f"{name or 'image'}-{result.settings.seed}-{key}.png"
        path.write_bytes(write_png(image, result.settings, {"image": key, **result.origin}))
        files[key] = str(path)
    done = {one.method: one.denoiser_calls for one in (result.full, result.latentcrf)}
    return {
        **files,
        "cards": html.format_cards(result, measured),
        "strip": html.format_plan(model_set, result.settings, done),
        "plan": html.format_plan(model_set, result.settings),
    }


def show_comparison(files: dict[str, str] | None) -> View:
    """Show what `save_comparison` or `prepare_example` wrote.

    Args:
        files: as they returned them; None where there was no comparison.

    Returns:
        A view; without images where there are no files, or no longer.
    """
    if not files or not Path(files["full"]).is_file():
        nothing = gr.update(value=None, interactive=False)
        return View(
            full=None, latentcrf=None, slider=None, before=None, after=None, cards=html.format_cards(None),
            full_file=nothing, latentcrf_file=nothing, example=gr.update(visible=False), previous=None,
        )  # fmt: skip
    return View(
        **{name: value for name, value in files.items() if name in View._fields},
        example=gr.update(visible="example_note" in files),
        previous=files,
        slider=(files["full"], files["latentcrf"]),
        full_file=gr.update(value=files["full"], interactive=True),
        latentcrf_file=gr.update(value=files["latentcrf"], interactive=True),
    )


@cache
def prepare_example(model_set: ModelSet, prompt: str, mode: str) -> dict[str, str] | None:
    """Write a stored comparison's images, once for all visitors.

    Args:
        model_set: the model that the page shows.
        prompt: of the example.
        mode: one of `MODES`.

    Returns:
        As `save_comparison`, with the sentence about it; None where there is no such example.
    """
    result = find_comparison(model_set, prompt, mode == MODES[1])
    if result is None:
        return None
    about, seed = read_about(), result.settings.seed
    measured = f"{about['times']}, measured on {about['date']}"
    files = save_comparison(result, model_set, make_kept_folder(), measured)
    return {**files, "example_note": describe_example(f"“{prompt}”, seed {seed}"), "prompt": prompt, "mode": mode}


def show_first_example(model_set: ModelSet) -> View:
    """Show a model's first example.

    Args:
        model_set: the model.

    Returns:
        A view; without images for a model that has no examples.
    """
    mode = choose_mode(model_set.defaults.few_steps)
    return show_comparison(prepare_example(model_set, model_set.prompts[0], mode))._replace(strip=gr.skip())


def choose_example(model_set: ModelSet, result: Comparison, mode: str) -> list[Any]:
    """Fill the form with an example, and show its stored result.

    Args:
        model_set: the model.
        result: the example.
        mode: one of `MODES`.

    Returns:
        Values for the form and its shares, status, start, cancel, and a `View` but for the seed.
    """
    settings = result.settings
    status = show_status(summarize_comparison(result, model_set), busy=False)
    view = show_comparison(prepare_example(model_set, settings.prompt, mode))
    return [*list_fields(settings), compute_shares(settings), *status, *drop_seed(view)]


def list_prompt(prompt: str) -> list[Any]:
    """Fill the form with the prompt of a model that has no stored examples.

    Args:
        prompt: of the example.

    Returns:
        Values as of `choose_example`.
    """
    fields = [prompt if name == "prompt" else gr.skip() for name in NAMES]
    return [*fields, *[gr.skip()] * 4, *drop_seed(View())]


def list_fields(settings: Settings) -> list[Any]:
    """List values for the form; the model stays.

    Args:
        settings: to fill in.
    """
    return [gr.skip() if name == "model" else value for name, value in settings.as_dict().items()]


def drop_seed(view: View) -> list[Any]:
    """List a view's values but for the seed's, which is in the form.

    Args:
        view: the view.
    """
    return [value for name, value in view._asdict().items() if name != "seed"]


def show_other_mode(model_set: ModelSet, previous: dict[str, str] | None, mode: str) -> View:
    """Show a stored example in another mode; what was drawn live stays.

    Args:
        model_set: the model that the page shows.
        previous: what is shown, as of `prepare_example` or `save_comparison`.
        mode: one of `MODES`.

    Returns:
        A view.
    """
    if previous is None or "example_note" not in previous:
        return View()
    return show_comparison(prepare_example(model_set, previous["prompt"], mode))


def fill_from_example(catalog: Catalog, model: str, previous: dict[str, str] | None) -> list[Any]:
    """Fill the form with the example that is shown, to draw it live.

    Args:
        catalog: of the page.
        model: name of the model that the page shows.
        previous: what is shown.

    Returns:
        Values for the form and the random switch.
    """
    result = None
    if previous is not None and "example_note" in previous:
        result = find_comparison(catalog.get(model), previous["prompt"], previous["mode"] == MODES[1])
    return [gr.skip()] * (len(NAMES) + 1) if result is None else [*list_fields(result.settings), False]


def take_file(update: Any) -> dict[str, Any]:
    """Take what a download button is built with from its update.

    Args:
        update: as of `gr.update`.

    Returns:
        Keyword arguments.
    """
    return {name: update[name] for name in ("value", "interactive")}


def write_run_js(catalog: Catalog) -> str:
    """Write JavaScript that starts a run where the model has no stored examples.

    Args:
        catalog: of the page.

    Returns:
        A function of the model's name.
    """
    stored = [name for name, model_set in catalog.models.items() if model_set.is_embedded and read_about()]
    return f"(model) => {{ if (!{stored}.includes(model)) document.querySelector('#compare-start').click(); }}"


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
    shown = prepare_example(model_set, model_set.prompts[0], choose_mode(model_set.defaults.few_steps))
    first = show_comparison(shown)
    with gr.Row(elem_id="ask"):
        prompt = build_prompt(model_set.prompts[0], "" if shown is None else shown["prompt"])
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
    with gr.Row(visible=first.example["visible"], elem_id="example") as example:
        example_note = gr.HTML(None if shown is None else shown["example_note"], padding=False)
        live = gr.Button("Draw it live", size="sm", scale=0, min_width=110, elem_id="compare-live")
    plan = html.format_plan(model_set, model_set.defaults) if shown is None else shown["strip"]
    strip = gr.HTML(plan, elem_id="strip", padding=False)

    picture: dict[str, Any] = {"format": "png", "interactive": False, "show_label": False, "buttons": ["fullscreen"]}
    with gr.Row(elem_id="stage"):
        with gr.Column(min_width=150):
            gr.HTML(html.format_caption("full", "all denoiser calls"), padding=False)
            full = gr.Image(first.full, **picture, elem_id="full", alt_text="The full run's image")
            full_file = gr.DownloadButton(DOWNLOAD, size="sm", elem_id="full-file", **take_file(first.full_file))
        with gr.Column(min_width=150):
            headings["latentcrf"] = gr.HTML(labels["latentcrf"], padding=False)
            latentcrf = gr.Image(first.latentcrf, **picture, elem_id="latentcrf", alt_text="LatentCRF's image")
            latentcrf_file = gr.DownloadButton(
                DOWNLOAD, size="sm", elem_id="latentcrf-file", **take_file(first.latentcrf_file)
            )
        with gr.Column(min_width=150, elem_id="slide"):
            gr.HTML(html.format_heading("Drag to compare", "full left, CRF right"), padding=False)
            slider = gr.ImageSlider(
                first.slider,
                format="png",
                interactive=False,
                show_label=False,
                buttons=["fullscreen"],
                elem_id="slider",
                max_height=2000,
            )
        with gr.Column(min_width=150, elem_id="figures"):
            cards = gr.HTML(first.cards, padding=False)

    with gr.Row(elem_id="crf"):
        with gr.Column(min_width=150):
            headings["before"] = gr.HTML(labels["before"], padding=False)
            before = gr.Image(first.before, **picture, elem_id="before", alt_text="The image just before the CRF")
        with gr.Column(min_width=150):
            headings["after"] = gr.HTML(labels["after"], padding=False)
            after = gr.Image(first.after, **picture, elem_id="after", alt_text="The image just after the CRF")
        with gr.Column(min_width=150, elem_id="about"):
            about = gr.HTML(describe_crf(model_set), padding=False)

    previous: gr.State = gr.State(shown)
    form = build_form(worker, menu, prompt, controls.status, strip, previous)
    few_steps = form["few_steps"]
    cutoff = form["guidance_cutoff"]
    few_steps.change(choose_mode, few_steps, mode, **AT_ONCE)

    outputs = View(
        strip, full, latentcrf, slider, before, after, cards, full_file, latentcrf_file, form["seed"], example,
        example_note, previous,
    )  # fmt: skip

    def switch_mode(mode: str, model: str, previous: dict[str, str] | None) -> list[Any]:
        model_set = catalog.get(model)
        return [*fill_mode(model_set, mode), *drop_seed(show_other_mode(model_set, previous, mode))]

    mode.input(switch_mode, [mode, menu.dropdown, previous], [few_steps, cutoff, *drop_seed(outputs)], **AT_ONCE)
    menu.dropdown.change(lambda model: show_first_example(catalog.get(model)), menu.dropdown, list(outputs), **AT_ONCE)

    def choose(sample: list[str], mode: str, model: str, counter: RunCounter) -> list[Any]:
        result = find_comparison(catalog.get(model), sample[0], mode == MODES[1])
        if result is None:
            return list_prompt(sample[0])
        controls.reset(counter)  # a stored result takes the place of a run that goes on
        return choose_example(catalog.get(model), result, mode)

    examples.click(
        choose,
        [examples, mode, menu.dropdown, controls.counter],
        [*form.values, form.shares, *controls.outputs, *drop_seed(outputs)],
        **AT_ONCE,
    ).then(None, menu.dropdown, None, js=write_run_js(catalog), queue=False, api_visibility="private")
    filled = live.click(
        partial(fill_from_example, catalog), [menu.dropdown, previous], [*form.values, form.random_seed], **AT_ONCE
    )
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
        triggers=[partial(gr.on, [controls.start.click, prompt.submit]), filled.then],
        previous=previous,
        restore=show_comparison,
    )
    return form
