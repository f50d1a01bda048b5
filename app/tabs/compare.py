"""The compare tab: the full run and LatentCRF from the same noise, side by side, with what each of them cost."""

import secrets
import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from app import prompts
from app.components import html
from app.components.form import Form, build_form, build_prompt, load_link, write_placeholder
from app.components.model_menu import ModelMenu
from app.components.viewer import build_viewer
from app.device import DeviceWorker
from app.examples import describe_example, find_comparison, read_about
from app.models import CUSTOM, FAST, PAPER, Catalog, ModelSet
from app.png import write_png
from app.results import METHODS, Comparison, Generated, Progress
from app.runs import AT_ONCE, Run, RunCounter, Update, build_run_controls, show_status
from app.settings import METHOD, NAMES, Settings, SettingsError, name_method
from app.text import describe_crf
from app.visitor_files import make_folder, make_kept_folder

DOWNLOAD = "Download PNG with its settings"
GALLERY: dict[str, Any] = {
    "visible": False,
    "elem_classes": "image-row",
    "fit_columns": False,
    "format": "png",
    "buttons": [],
    "allow_preview": False,
    "object_fit": "contain",
    "height": "auto",
    "interactive": False,
}
READY = "Type a prompt and press Enter, or choose an example."
HISTORY = 12  # comparisons of a visit that can be shown again
STEP_SECONDS = 0.1  # at least this long from one update of the time line to the next
WAIT_MS = 120  # of a slider's rest before its comparison is drawn; a later one takes its place
# Draws again what is shown where the form's settings (html.DRAWN) differ from its own, or a run goes on.
REDRAW_JS = """(...values) => {
    clearTimeout(window.redrawing);
    window.redrawing = setTimeout(() => {
        const cards = document.querySelector('#figures .cards[data-drawn]');
        const start = document.querySelector('#compare-start');
        if (!cards || !start) return;
        const drawn = JSON.parse(cards.dataset.drawn);
        if (start.disabled || values.some((value, i) => Number(value) !== Number(drawn[i]))) {
            document.querySelector('#compare-redraw').click();
        }
    }, WAIT);
}""".replace("WAIT", str(WAIT_MS))


class View(NamedTuple):
    """What a handler changes on the page, in the order of its outputs; what it does not name stays as it is."""

    strip: Any = gr.skip()
    full: Any = gr.skip()
    latentcrf: Any = gr.skip()
    before: Any = gr.skip()
    after: Any = gr.skip()
    cards: Any = gr.skip()
    full_file: Any = gr.skip()
    latentcrf_file: Any = gr.skip()
    seed: Any = gr.skip()
    example: Any = gr.skip()
    example_note: Any = gr.skip()
    pairs: Any = gr.skip()
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
    if is_random and not run.is_redraw:
        chosen["seed"] = secrets.randbelow(1_000_000)  # short enough to be read aloud
    settings = run.worker.catalog.parse(chosen)
    notes = run.worker.catalog.read_prompt(chosen).notes
    done = {"full": 0, "latentcrf": 0}
    plan = html.format_plan(model_set, settings, done)
    no_example = gr.update(visible=False)
    if not run.is_redraw:  # which begins to compute at once
        yield Update(run.start_text, View(plan, seed=settings.seed, example=no_example))
    results: list[Comparison] = []
    last_time = 0.0
    for report in run.stream("compare", settings, bool(previews), run.visitor):
        seed_text = f", seed {len(results) + 1} of {settings.images}" if settings.images > 1 else ""
        if isinstance(report, Progress):
            done[report.method] = report.done
            if report.preview is None and report.done < report.total and time.monotonic() - last_time < STEP_SECONDS:
                continue
            last_time = time.monotonic()
            preview = {} if report.preview is None else {report.method: report.preview}
            plan = html.format_plan(model_set, settings, done)
            yield Update(f"{METHODS[report.method]} is running{seed_text}…", View(plan, **preview))
        elif isinstance(report, Generated):
            done[report.method] = report.denoiser_calls
            text = f"{METHODS[report.method]} is done{seed_text}."
            plan = html.format_plan(model_set, settings, done)
            yield Update(text, View(plan, example=no_example, **{report.method: report.image}))
        else:
            results.append(report)
            done = {"full": 0, "latentcrf": 0}
    shown = save_comparison(results, model_set, make_folder())
    yield Update(" ".join([shown["text"], *notes]), show_comparison(shown), busy=False)


def save_comparison(
    results: Sequence[Comparison], model_set: ModelSet, folder: Path, measured: str = ""
) -> dict[str, Any]:
    """Write a comparison's images as PNG files with their settings inside.

    Args:
        results: of the comparison, one a seed.
        model_set: what drew it.
        folder: for the files.
        measured: when and on what the times were measured; empty: now and here.

    Returns:
        What a visitor's state holds of it, all plain values: "pairs", the images' paths by name, one dict a seed;
        "settings"; "text", a summary; and the HTML of figures ("cards") and of the plan once it is done ("strip").
    """
    pairs = []
    for result in results:
        name = "".join(c if c.isascii() and c.isalnum() else "-" for c in result.settings.prompt.lower())
        name = f"{name[:40].strip('-') or 'image'}-{result.settings.seed}"
        images = {"full": result.full.image, "latentcrf": result.latentcrf.image}
        images |= {"before": result.before, "after": result.after}
        pairs.append({key: str(folder / f"{name}-{key}.png") for key in images})
        for key, image in images.items():
            Path(pairs[-1][key]).write_bytes(write_png(image, result.settings, {"image": key, **result.origin}))
    first = results[0]
    done = {one.method: one.denoiser_calls for one in (first.full, first.latentcrf)}
    return {
        "pairs": pairs,
        "settings": first.settings.as_dict(),
        "text": summarize_comparison(results, model_set),
        "cards": html.format_cards(results, model_set, measured),
        "strip": html.format_plan(model_set, first.settings, done),
    }


def has_files(shown: dict[str, Any] | None) -> bool:
    """Tell whether the images of a comparison are still there.

    Args:
        shown: as of `save_comparison`; None: there was no comparison.
    """
    return bool(shown) and all(Path(path).is_file() for pair in shown["pairs"] for path in pair.values())  # type: ignore[index]


def show_comparison(shown: dict[str, Any] | None, index: int = 0) -> View:
    """Show what `save_comparison` or `prepare_example` wrote.

    Args:
        shown: as they returned it; None where there was no comparison.
        index: of the seed that is shown large, default the first.

    Returns:
        A view; without images where there are no files, or no longer.
    """
    if shown is None or not has_files(shown):
        nothing = gr.update(value=None, interactive=False)
        return View(
            full=None, latentcrf=None, before=None, after=None, cards="", full_file=nothing,
            latentcrf_file=nothing, example=gr.update(visible=False), pairs=gr.update(value=None, visible=False),
            previous=None,
        )  # fmt: skip
    pair, seeds = shown["pairs"][index], Settings(**shown["settings"]).seeds
    rows = [(each[method], f"{METHODS[method]}, seed {seed}")
            for each, seed in zip(shown["pairs"], seeds, strict=True) for method in METHODS]  # fmt: skip
    is_one = len(seeds) == 1
    return View(
        **pair,
        strip=shown["strip"],
        cards=shown["cards"],
        example=gr.update(visible="example_note" in shown),
        example_note=shown.get("example_note", gr.skip()),
        pairs=gr.update(value=None if is_one else rows, visible=not is_one),
        previous=shown,
        full_file=gr.update(value=pair["full"], interactive=True),
        latentcrf_file=gr.update(value=pair["latentcrf"], interactive=True),
    )


def select_pair(shown: dict[str, Any] | None, event: gr.SelectData) -> list[Any]:
    """Show the pair that was clicked large.

    Args:
        shown: what is shown.
        event: the click on one of the small images.

    Returns:
        A view, but for the seed and the small images.
    """
    if shown is None:
        return drop_seed(View())
    view = show_comparison(shown, read_index(event, len(METHODS) * len(shown["pairs"])) // len(METHODS))
    return drop_seed(view._replace(pairs=gr.skip()))


def read_index(event: gr.SelectData, count: int) -> int:
    """Read which of several images was clicked.

    Args:
        event: the click.
        count: of the images.

    Raises:
        SettingsError: there is no such image.
    """
    if not isinstance(event.index, int) or not 0 <= event.index < count:
        raise SettingsError("This image is no longer here: click another.")
    return event.index


@cache
def prepare_example(model_set: ModelSet, prompt: str, mode: str) -> dict[str, Any] | None:
    """Write a stored comparison's images, once for all visitors.

    Args:
        model_set: the model that the page shows.
        prompt: of the example.
        mode: as of `find_comparison`.

    Returns:
        As `save_comparison`, with the sentence about it; None where there is no such example.
    """
    result = find_comparison(model_set, prompt, mode)
    if result is None:
        return None
    about, seed = read_about(), result.settings.seed
    measured = f"{about['times']}, measured on {about['date']}"
    shown = save_comparison([result], model_set, make_kept_folder(), measured)
    return {**shown, "example_note": describe_example(f"“{prompt}”, seed {seed}"), "prompt": prompt, "mode": mode}


def show_first_example(model_set: ModelSet, shown: dict[str, Any] | None) -> View:
    """Show a model's first example, unless a comparison of this model is shown.

    Args:
        model_set: the model.
        shown: what is shown.

    Returns:
        A view; without images for a model that has no examples.
    """
    if shown is not None and shown["settings"]["model"] == model_set.name:  # a link brought it with its model
        return View()
    mode = model_set.find_mode(model_set.defaults.as_dict())
    return show_comparison(prepare_example(model_set, model_set.prompts[0], mode))._replace(strip=gr.skip())


def choose_example(model_set: ModelSet, prompt: str, mode: str) -> list[Any] | None:
    """Fill the form with an example, and show its stored result.

    Args:
        model_set: the model.
        prompt: of the example.
        mode: that is chosen; for `CUSTOM` the paper's result is shown.

    Returns:
        As of `restore_comparison`; None where there is no such example.
    """
    shown = prepare_example(model_set, prompt, mode if mode in model_set.modes else PAPER)
    return None if shown is None else restore_comparison(shown)


def show_linked(catalog: Catalog, filled: list[Any]) -> list[Any]:
    """Show the stored example of exactly the settings that a link brought.

    Args:
        catalog: of the page.
        filled: as of `load_link`.

    Returns:
        Whether the link's comparison is to be drawn, as it is not stored; then as of `restore_comparison`.
    """
    *fields, status, plan = filled
    is_wanted = fields[0] != gr.skip()
    if gr.skip() not in fields:
        settings = Settings(*fields[: len(NAMES)])
        model_set = catalog.get(settings.model)
        shown = None
        if settings.prompt in model_set.prompts:
            shown = prepare_example(model_set, settings.prompt, model_set.find_mode(settings.as_dict()))
        if shown is not None and Settings(**shown["settings"]) == settings:
            return [False, *fields, *restore_comparison(shown)[len(fields) :]]
    return [is_wanted, *fields, status, gr.skip(), gr.skip(), *drop_seed(View(strip=plan))]


def restore_comparison(shown: dict[str, Any]) -> list[Any]:
    """Show a comparison again, with its settings in the form.

    Args:
        shown: as of `save_comparison`.

    Returns:
        Values for the form, the random switch, status, start, cancel, and a `View` but for the seed.
    """
    fields = list_fields(shown)
    if not has_files(shown):  # swept: the settings are left to draw it again
        text = "The images of this comparison are no longer kept; press Compare to draw them again."
        return [*fields, False, *show_status(text, busy=False), *drop_seed(View())]
    status = show_status(shown["text"], busy=False)
    return [*fields, False, *status, *drop_seed(show_comparison(shown))]


def list_fields(shown: dict[str, Any]) -> list[Any]:
    """List a comparison's settings for the form; the model stays.

    Args:
        shown: as of `save_comparison`.
    """
    return [gr.skip() if name == "model" else value for name, value in shown["settings"].items()]


def drop_seed(view: View) -> list[Any]:
    """List a view's values but for the seed's, which is in the form.

    Args:
        view: the view.
    """
    return [value for name, value in view._asdict().items() if name != "seed"]


def add_to_history(past: list[dict[str, Any]], shown: dict[str, Any] | None) -> tuple[list[dict[str, Any]], Any]:
    """Add what is shown to the comparisons of this visit.

    Args:
        past: the comparisons so far, newest first.
        shown: as of `save_comparison`; stored examples are not added.

    Returns:
        The comparisons, `HISTORY` at most, and an update of their strip of small images.
    """
    if shown is None or "example_note" in shown or shown in past:
        return past, gr.skip()
    past = [shown, *past][:HISTORY]
    there = [each for each in past if has_files(each)]
    return there, gr.update(value=[label_past(each) for each in there], visible=True)


def label_past(shown: dict[str, Any]) -> tuple[str, str]:
    """Label a comparison of the history.

    Args:
        shown: as of `save_comparison`.

    Returns:
        Path of its LatentCRF's image, and a caption.
    """
    settings = Settings(**shown["settings"])
    what = f"UniPC {settings.few_steps}" if settings.few_steps else f"{settings.bypass_start}–{settings.bypass_end}"
    return shown["pairs"][0]["latentcrf"], f"{settings.prompt}, {what}{' + finisher' * settings.finisher}"


def fill_from_example(shown: dict[str, Any] | None) -> list[Any]:
    """Fill the form with the example that is shown, to draw it live.

    Args:
        shown: what is shown.

    Returns:
        Values for the form and the random switch.
    """
    if shown is None or "example_note" not in shown:
        return [gr.skip()] * (len(NAMES) + 1)
    return [*list_fields(shown), False]


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


def summarize_comparison(results: Sequence[Comparison], model_set: ModelSet) -> str:
    """Summarize a comparison in a line.

    Args:
        results: of the comparison, one a seed.
        model_set: what drew it.

    Returns:
        Prompt, settings, what was not read of the prompt, and what the safety checker blocked.
    """
    first = results[0]
    settings = first.settings
    seeds = f"seeds {settings.seeds[0]} to {settings.seeds[-1]}" if len(results) > 1 else f"seed {settings.seed}"
    text = f"“{settings.prompt}”, {seeds}, {settings.steps} steps. "
    text += f"LatentCRF: {html.describe_method(model_set, settings)}."
    if settings.full_finisher:
        text += " The full run is finished too."
    if first.unread:
        text += f" The model reads {model_set.prompt_tokens} tokens: it did not see “{first.unread}”."
    runs = [one for result in results for one in (result.full, result.latentcrf)]
    blocked = dict.fromkeys(METHODS[one.method] for one in runs if one.is_blocked)
    if blocked:
        text += f" The model's safety checker blocked an image of: {' and '.join(blocked)}."
    return text


def label_modes(model_set: ModelSet) -> list[tuple[str, str]]:
    """Label the modes for a model.

    Args:
        model_set: the model.

    Returns:
        Pairs of label and mode.
    """
    defaults = model_set.defaults
    bypass = f"bypass {defaults.bypass_start}–{defaults.bypass_end} of {defaults.steps}"
    return [
        (f"Paper: {bypass}" if model_set.crf is not None else f"Zero-parameter {bypass}", PAPER),
        (f"Fast: UniPC {model_set.few_steps} + {model_set.finisher_name}", FAST),
        ("Custom", CUSTOM),
    ]


def switch_mode(model_set: ModelSet, shown: dict[str, Any] | None, mode: str) -> list[Any]:
    """Fill the form with a mode's settings; a stored example is shown in that mode. The seed stays.

    Args:
        model_set: the model that the page shows.
        shown: what is shown.
        mode: that was chosen.

    Returns:
        Values for the controls of `METHOD`, the settings' accordion, and a `View` but for the seed.
    """
    own = model_set.modes.get(mode, {})
    view = View()
    if mode in model_set.modes and shown is not None and "example_note" in shown:
        view = show_comparison(prepare_example(model_set, shown["prompt"], mode))
    accordion = gr.Accordion(open=True) if mode == CUSTOM else gr.skip()
    return [*[own.get(name, gr.skip()) for name in METHOD], accordion, *drop_seed(view)]


def find_form_mode(catalog: Catalog, model: str, *values: Any) -> str:
    """Find the mode that the form's settings belong to.

    Args:
        catalog: of the page.
        model: name of the model.
        values: of `METHOD`, in its order.

    Returns:
        One of the modes of `label_modes`.
    """
    return catalog.get(model).find_mode(name_method(values))


def list_subjects(model_set: ModelSet) -> dict[str, Any]:
    """List what a model can draw, to search it.

    Args:
        model_set: the model.

    Returns:
        Keyword arguments of the list; it is not seen where the model ships without a table of subjects.
    """
    labels = prompts.list_subjects(model_set.subjects)
    return {
        "choices": labels,
        "label": f"What {model_set.title} can draw",
        "info": f"Pictures like emoji of one subject, in English. It learned {len(labels):,}: type to search.",
        "filterable": True,
        "visible": bool(labels),
    }


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
    first_mode = model_set.find_mode(model_set.defaults.as_dict())
    shown = prepare_example(model_set, model_set.prompts[0], first_mode)
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
            value=first_mode,
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
            build_viewer()
        with gr.Column(min_width=150, elem_id="figures"):
            cards = gr.HTML(first.cards, padding=False)

    pairs = gr.Gallery(**GALLERY, columns=8, show_label=False, elem_id="pairs")
    with gr.Row(elem_id="crf"):
        with gr.Column(min_width=150):
            headings["before"] = gr.HTML(labels["before"], padding=False)
            before = gr.Image(first.before, **picture, elem_id="before", alt_text="The image just before the CRF")
        with gr.Column(min_width=150):
            headings["after"] = gr.HTML(labels["after"], padding=False)
            after = gr.Image(first.after, **picture, elem_id="after", alt_text="The image just after the CRF")
        with gr.Column(min_width=150, elem_id="about"):
            about = gr.HTML(describe_crf(model_set), padding=False)
            subjects = gr.Dropdown(**list_subjects(model_set), value=None, elem_id="subjects")
    history = gr.Gallery(
        **GALLERY, columns=HISTORY, label="This visit: click an image to see it again", elem_id="history"
    )

    previous: gr.State = gr.State(shown)
    past: gr.State = gr.State([])
    form = build_form(worker, menu, prompt, controls.status, strip, previous)
    redraw = gr.Button("Draw again", visible="hidden", elem_id="compare-redraw")
    gr.on(
        [control.change for control in form.method],
        partial(find_form_mode, catalog),
        [menu.dropdown, *form.method],
        mode,
        trigger_mode="always_last",
        **AT_ONCE,
    )
    outputs = View(
        strip, full, latentcrf, before, after, cards, full_file, latentcrf_file, form["seed"], example,
        example_note, pairs, previous,
    )  # fmt: skip
    drawn = [form[name] for name in html.DRAWN]

    def switch(mode: str, model: str, previous: dict[str, Any] | None) -> list[Any]:
        return switch_mode(catalog.get(model), previous, mode)

    switched = mode.input(
        switch,
        [mode, menu.dropdown, previous],
        [*form.method, form.accordion, *drop_seed(outputs)],
        trigger_mode="always_last",
        **AT_ONCE,
    )
    form.follow_fill(switched)
    switched.then(None, drawn, None, js=REDRAW_JS, **AT_ONCE)
    # Released sliders, and numbers that were typed: what is shown is drawn again.
    listeners = [form[name].input for name in ("bypass_start", "bypass_end", "iterations", "finisher", "full_finisher")]
    listeners += [
        getattr(form[name], event) for name in ("few_steps", "guidance_cutoff") for event in ("blur", "submit")
    ]
    gr.on(listeners, None, drawn, None, js=REDRAW_JS, **AT_ONCE)
    menu.dropdown.change(
        lambda model, shown: show_first_example(catalog.get(model), shown),
        [menu.dropdown, previous],
        list(outputs),
        **AT_ONCE,
    )

    restored = [*form.values, form.random_seed, *controls.outputs, *drop_seed(outputs)]
    is_wanted = gr.Checkbox(False, visible="hidden")  # whether a link's comparison is to be drawn

    def open_link(request: gr.Request) -> list[Any]:  # gradio finds its `Request` by the annotation
        return show_linked(catalog, load_link(catalog, request))

    form.follow_link(gr.on(None, open_link, None, [is_wanted, *restored], **AT_ONCE), is_wanted)

    def choose(sample: list[str] | None, mode: str, model: str, counter: RunCounter) -> list[Any]:
        if sample is None:
            return [gr.skip()] * len(restored)
        values = choose_example(catalog.get(model), sample[0], mode)
        if values is None:
            fields = [sample[0] if name == "prompt" else gr.skip() for name in NAMES]
            return [*fields, *[gr.skip()] * (len(restored) - len(fields))]
        controls.reset(counter)  # a stored result takes the place of a run that goes on
        return values

    chosen = examples.click(
        choose, [examples, mode, menu.dropdown, controls.counter], restored, trigger_mode="always_last", **AT_ONCE
    )
    chosen.then(None, menu.dropdown, None, js=write_run_js(catalog), **AT_ONCE)

    def restore(past: list[dict[str, Any]], counter: RunCounter, event: gr.SelectData) -> list[Any]:
        controls.reset(counter)
        return restore_comparison(past[read_index(event, len(past))])

    # not "always_last": gradio repeats such an event without saying which image was clicked
    again = history.select(restore, [past, controls.counter], restored, trigger_mode="multiple", **AT_ONCE)
    pairs.select(select_pair, previous, drop_seed(outputs), trigger_mode="multiple", **AT_ONCE)
    previous.change(add_to_history, [past, previous], [past, history], **AT_ONCE)
    filled = live.click(fill_from_example, previous, [*form.values, form.random_seed], **AT_ONCE)
    for event in (chosen, again, filled):
        form.follow_fill(event)
    for name, heading in headings.items():
        menu.follow(heading, partial(label_image, name))
    menu.follow(about, describe_crf)
    menu.follow(subjects, lambda model_set: gr.update(**list_subjects(model_set)))
    subjects.input(lambda subject: subject, subjects, prompt, **AT_ONCE)
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
        redraws=[redraw.click],
        previous=previous,
        restore=show_comparison,
    )
    return form
