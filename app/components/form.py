"""The form of a comparison's settings: its controls, and what fills them (a PNG, a link, another number of steps)."""

import contextlib
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import gradio as gr

from app.components import html
from app.components.model_menu import ModelMenu
from app.device import DeviceWorker
from app.models import Catalog, ModelSet
from app.models_file import ModelsError
from app.png import read_png
from app.runs import AT_ONCE
from app.settings import DECLARATIONS, METHOD, NAMES, Number, Settings, SettingsError, Switch, get_number

FIRST_ROW = ("steps", "guidance", "images")  # beside the seed; the other settings follow in a second row
SLIDERS = ("bypass_start", "bypass_end", "iterations", "images")
# The bypass ends with the run at the latest.
LIMIT_BYPASS_JS = """(steps) => {
    const maximum = steps >= 2 && steps <= 200 ? steps : 200;
    return [{ __type__: 'update', maximum: maximum - 1 }, { __type__: 'update', maximum }];
}"""
PLANNED = (*METHOD, "full_finisher", "model")  # what the plan and the lines of the analysis tabs show
MAX_SHOWN = 60  # characters of what a foreign file says
KEPT = ("prompt", "seed")  # when another model is chosen
FILLED = (*NAMES, "random_seed", "status", "strip")  # what `Form.filled` lists
# What a person types is followed in the browser (form.js): an answer of the server would come too late.
MOVE_BYPASS_JS = "(...numbers) => window.latentcrf.moveBypass(...numbers)"
KEEP_TYPED_JS = f"(...values) => window.latentcrf.keepTyped({list(NAMES)}, values)"
WRITE_ADDRESS_JS = f"(...values) => window.latentcrf.writeSettings({list(NAMES)}, values)"
DRAW_LINK_JS = "(isWanted) => window.latentcrf.drawLink(isWanted)"
# Copies the address, which makes this comparison again, and shows it where the browser does not let us copy.
COPY_LINK_JS = "() => window.latentcrf.copyAddress()"
# gradio's own check meets an empty box with a traceback, and "1" on the way to "12" with an error that names no field.
# Of the class, as any update builds a visitor's slider anew; a subclass would make gradio write a .pyi file beside us.
gr.Slider.preprocess = lambda _, payload: payload  # type: ignore[method-assign, assignment]


@dataclass(frozen=True)
class Form:
    """The controls.

    Attributes:
        values: one a setting, in the order of `NAMES`.
        random_seed: whether each run draws a new seed.
        previews: whether a run shows previews.
        status: line for what a link brought.
        strip: the plan of the steps.
        accordion: what holds the controls, to open it.
        shown: holds what the page shows, as of `show_plan`.
        lines: the analysis tabs' lines that name LatentCRF's setting; `connect_form` lets them follow the form.
        changes: listeners of what changes the planned settings, (function, inputs, outputs, ...), for `connect_form`.
    """

    values: list[Any]
    random_seed: gr.Checkbox
    previews: gr.Checkbox
    status: gr.HTML
    strip: gr.HTML
    accordion: gr.Accordion
    shown: gr.State
    lines: list[gr.HTML] = field(default_factory=list)
    changes: list[Any] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        """Look up the control of the setting `name`."""
        return self.values[NAMES.index(name)]

    @property
    def method(self) -> list[Any]:
        """The controls of LatentCRF's setting, in the order of `METHOD`: `name_method` names their values."""
        return [self[name] for name in METHOD]

    @property
    def filled(self) -> list[Any]:
        """What `fill` gives values for."""
        return [*self.values, self.random_seed, self.status, self.strip]

    def follow_fill(self, event: Any) -> None:
        """Let the plan and the lines follow an event that fills in some of the controls.

        Args:
            event: that filled them in.
        """
        self.changes.append(event.then)

    def follow_link(self, event: Any, is_wanted: gr.Checkbox) -> None:
        """Keep what was typed before a link's settings came; without that the link's comparison is drawn.

        Args:
            event: that filled in the link's settings.
            is_wanted: whether there is a comparison to draw.
        """
        kept = event.then(None, self.values, self.values, js=KEEP_TYPED_JS, **AT_ONCE)
        kept.then(None, is_wanted, None, js=DRAW_LINK_JS, **AT_ONCE)
        self.follow_fill(kept)


# ---------------------------------------------------------------------------------------- handlers


def load_png(worker: DeviceWorker, path: str | None) -> list[Any]:
    """Fill the form from the settings inside a PNG.

    Args:
        worker: its models are compared with those of the PNG.
        path: of the PNG; None changes nothing.

    Returns:
        Values for `Form.filled`.
    """
    if path is None:
        return leave_unchanged()
    try:
        settings, origin = read_png(path, worker.catalog)
    except SettingsError as error:
        return leave_unchanged(html.format_message(f"{error}\nThe settings here are unchanged.", "error"))
    here: dict[str, str] = {}
    # another model's weights take long to load: they are compared once a run has loaded them
    if settings.model == worker.catalog.default.name or worker.is_loaded(settings.model):
        with contextlib.suppress(ModelsError):
            here = worker.load(settings.model).select_origin(settings)
    differences = [
        f"{key} {str(origin.get(key, 'unknown'))[:MAX_SHOWN]} there, {value} here"
        for key, value in here.items()
        if origin.get(key) != value
    ]
    text = "Settings loaded from the PNG. Press Compare to make the same image again."
    if differences:
        text = (
            f"Settings loaded from the PNG. The image may differ, as it was made elsewhere: {'; '.join(differences)}."
        )
    return fill(worker.catalog, settings, text)


def load_link(catalog: Catalog, request: gr.Request) -> list[Any]:
    """Fill the form from the page's address: `?model=emoji&prompt=red+apple&seed=7&steps=50`...

    Args:
        catalog: of the page; its model's defaults stand for what the address does not name.
        request: of the page.

    Returns:
        Values for `Form.filled`.
    """
    values = {key: value for key, value in request.query_params.items() if key in NAMES}
    if not values:
        return leave_unchanged()
    try:
        filled = fill(catalog, catalog.parse({"prompt": "-", **values}), "Settings taken from the link.")
    except SettingsError as error:
        return leave_unchanged(html.format_message(f"This link's settings cannot be used.\n{error}", "error"))
    kept = [name for name in KEPT if name not in values]
    return leave(filled, *kept, *(["random_seed"] if "seed" in kept else []))


def choose_model(catalog: Catalog, model_set: ModelSet) -> list[Any]:
    """Fill the form with the settings of another model; prompt and seed stay.

    Args:
        catalog: of the page.
        model_set: the model.

    Returns:
        Values for `Form.filled`.
    """
    return leave(fill(catalog, model_set.defaults, ""), *KEPT, "random_seed", "status")


def fill(catalog: Catalog, settings: Settings, text: str) -> list[Any]:
    """Fill the form.

    Args:
        catalog: of the page.
        settings: what to fill in; the random switch is off then.
        text: the status.

    Returns:
        Values for `Form.filled`.
    """
    return [
        *settings.as_dict().values(),
        False,
        html.format_message(text),
        html.format_plan(catalog.get(settings.model), settings),
    ]


def leave(values: list[Any], *names: str) -> list[Any]:
    """Leave some of the controls that are filled in as they are.

    Args:
        values: for `Form.filled`.
        names: of `FILLED`.

    Returns:
        The values, of these controls `gr.skip()`.
    """
    return [gr.skip() if name in names else value for name, value in zip(FILLED, values, strict=True)]


def leave_unchanged(status: Any = None) -> list[Any]:
    """Leave the form as it is.

    Args:
        status: value for the status alone; None (default): it stays too.

    Returns:
        Values for `Form.filled`.
    """
    return [*[gr.skip()] * (len(NAMES) + 1), gr.skip() if status is None else status, gr.skip()]


def show_plan(catalog: Catalog, num_lines: int, shown: dict[str, Any] | None, *values: Any) -> list[str]:
    """Show the plan of the form's settings before they run; where the page shows their result, it is done.

    Args:
        catalog: of the page.
        num_lines: how many analysis tabs name LatentCRF's setting.
        shown: what the page shows, as of `app.tabs.compare.save_comparison`.
        values: of the settings `PLANNED`, in their order.

    Returns:
        HTML: the plan, then each tab's line; or what is wrong.
    """
    try:
        settings = catalog.parse({"prompt": "-", **dict(zip(PLANNED, values, strict=True))})
    except SettingsError as error:
        return [html.format_message(str(error), "error")] * (1 + num_lines)
    model_set = catalog.get(settings.model)
    is_drawn = shown is not None and all(shown["settings"][name] == getattr(settings, name) for name in PLANNED)
    plan = shown["strip"] if shown and is_drawn else html.format_plan(model_set, settings, is_shown=shown is None)
    return [plan, *[html.format_method(model_set, settings)] * num_lines]


def connect_form(catalog: Catalog, form: Form) -> None:
    """Let the plan and the analysis tabs' lines follow the form; call it once all of them are built.

    Args:
        catalog: of the page.
        form: the form.
    """
    planned = [form[name] for name in PLANNED]
    # `input` and not `change`: what is filled in at once would be shown one by one, with a half-filled form.
    typed = [control.input for control in planned if control not in (form["steps"], form["model"])]
    for listen in (partial(gr.on, typed), *form.changes):
        listen(
            partial(show_plan, catalog, len(form.lines)),
            [form.shown, *planned],
            [form.strip, *form.lines],
            trigger_mode="always_last",
            **AT_ONCE,
        )


def describe_finisher(model_set: ModelSet) -> str:
    """Describe what the switch of the finisher does.

    Args:
        model_set: the model.
    """
    if model_set.finisher is None:
        return "a VAE round trip: LatentCRF's final latents are decoded and encoded again"
    return DECLARATIONS["finisher"].info


# ------------------------------------------------------------------------------------------ layout


def build_slider(number: Number, value: float, elem_id: str) -> gr.Slider:
    """Build a slider with a number box. As of `build_number`, its one check is `Number.check`.

    Args:
        number: its declaration.
        value: its value at first.
        elem_id: id of its element.

    Returns:
        The slider.
    """
    return gr.Slider(
        number.low,
        number.high,
        value,
        step=number.step,
        label=number.label,
        info=number.help,
        buttons=[],
        min_width=200,
        elem_id=elem_id,
    )


def build_number(number: Number, value: float, elem_id: str, *, min_width: int = 130) -> gr.Number:
    """Build a number box. Its range is in its words only: the one check is `Number.check`.

    Args:
        number: its declaration.
        value: its value at first.
        elem_id: id of its element.
        min_width: in pixels.

    Returns:
        The box.
    """
    # gradio's own bounds would answer with a sentence that does not name the field
    return gr.Number(
        value, label=number.label, info=number.info, step=number.step, min_width=min_width, elem_id=elem_id
    )


def build_control(name: str, defaults: Settings, *, prefix: str = "", min_width: int = 130) -> Any:
    """Build the control of a setting.

    Args:
        name: of a number or a switch.
        defaults: give its value at first.
        prefix: of its element's id, which is the setting's name with dashes.
        min_width: in pixels.

    Returns:
        A number box, a slider or a check box.

    Raises:
        TypeError: the setting is a text.
    """
    declaration, value = DECLARATIONS[name], getattr(defaults, name)
    elem_id = prefix + name.replace("_", "-")
    if name in SLIDERS and not prefix:
        return build_slider(get_number(name), value, elem_id)
    if isinstance(declaration, Number):
        if prefix:  # beside other controls, where there is no room for the help
            declaration = replace(declaration, help="")
        return build_number(declaration, value, elem_id, min_width=min_width)
    if isinstance(declaration, Switch):
        return gr.Checkbox(value, label=declaration.label, info=declaration.info, min_width=min_width, elem_id=elem_id)
    raise TypeError(f"the setting {name} is a text; build_prompt builds its box.")


def build_prompt(example: str, value: str = "") -> gr.Textbox:
    """Build the compare tab's prompt box; Enter submits it.

    Args:
        example: a prompt to name in the empty box.
        value: what it holds at first; default nothing.

    Returns:
        The box.
    """
    return gr.Textbox(
        value,
        label=DECLARATIONS["prompt"].label,
        show_label=False,
        placeholder=write_placeholder(example),
        lines=1,
        max_lines=1,
        autofocus=True,
        scale=8,
        elem_id="prompt",
        container=False,
    )


def write_placeholder(example: str) -> str:
    """Write the text of an empty prompt box.

    Args:
        example: a prompt to name.
    """
    return f"What shall be drawn? For example: {example}"


def build_form(
    worker: DeviceWorker, menu: ModelMenu, prompt: gr.Textbox, status: gr.HTML, strip: gr.HTML, shown: gr.State
) -> Form:
    """Build the controls in their accordion, with the events among themselves.

    Args:
        worker: whose first model gives the defaults.
        menu: the control of the setting `model`.
        prompt: the prompt box.
        status: line for what a link brought.
        strip: the plan of the steps.
        shown: holds what the page shows, as of `show_plan`.

    Returns:
        The form.
    """
    catalog, defaults = worker.catalog, worker.catalog.default.defaults
    controls: dict[str, Any] = {"prompt": prompt, "model": menu.dropdown}
    with gr.Accordion("Settings", open=False, elem_id="settings") as accordion:
        with gr.Row():
            controls["seed"] = build_control("seed", defaults)
            with gr.Column(min_width=180):
                random_seed = gr.Checkbox(True, label="Random seed each time", elem_id="random-seed")
                reuse = gr.Button("Reuse last seed", size="sm", elem_id="reuse-seed")
            for name in FIRST_ROW:
                controls[name] = build_control(name, defaults)
        with gr.Row():
            for name in NAMES:
                if name not in controls:
                    controls[name] = build_control(name, defaults)
        with gr.Row():
            previews = gr.Checkbox(
                True, label="Previews while it runs", info="they are not in the measured time", elem_id="previews"
            )
            upload = gr.UploadButton("Load settings from a PNG", file_types=[".png"], size="sm", elem_id="load-png")
            copy = gr.Button("Copy link to these settings", size="sm", elem_id="copy-link")
            link = gr.Textbox(label="Link", interactive=False, buttons=["copy"], visible="hidden", elem_id="link")
        loaded = gr.HTML(padding=False, elem_id="loaded-png")
    controls["finisher"].info = describe_finisher(catalog.default)
    form = Form([controls[name] for name in NAMES], random_seed, previews, status, strip, accordion, shown)

    steps, start, end = (form[name] for name in ("steps", "bypass_start", "bypass_end"))
    # the answer stands where the visitor clicked
    answered = [loaded if each is status else each for each in form.filled]
    uploaded = upload.upload(partial(load_png, worker), upload, answered, **AT_ONCE)
    # In the browser alone: the server's copy of a slider stays as it was built.
    gr.on(None, None, steps, [start, end], js=LIMIT_BYPASS_JS, **AT_ONCE)
    # In the browser, as a run that is started next must have the moved bypass.
    moved = steps.input(None, [steps, start, end], [start, end], js=MOVE_BYPASS_JS, **AT_ONCE)
    form["seed"].input(None, None, random_seed, js="() => false", **AT_ONCE)
    reuse.click(None, None, random_seed, js="() => false", **AT_ONCE)
    copy.click(None, None, link, js=COPY_LINK_JS, **AT_ONCE)
    copy.click(lambda: gr.update(visible=True), None, link, **AT_ONCE)
    gr.on([each.change for each in form.values], None, form.values, None, js=WRITE_ADDRESS_JS, **AT_ONCE)

    chosen = menu.dropdown.input(
        lambda name: choose_model(catalog, catalog.get(name)), menu.dropdown, form.filled, **AT_ONCE
    )
    for event in (moved, uploaded, chosen):
        form.follow_fill(event)
    menu.follow(form["finisher"], lambda model_set: gr.update(info=describe_finisher(model_set)))
    return form
