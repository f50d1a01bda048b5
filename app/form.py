"""The form of a run's settings: its controls, and what fills them (a PNG, a link, another number of steps)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from app import html
from app.png import read_png
from app.services import ModelsError, Services
from app.settings import LIMITS, NAMES, Settings, SettingsError

DEFAULTS = Settings("red apple")
# Copies the address that makes this comparison again, and shows it where the browser does not let us copy.
COPY_LINK_JS = """(...values) => {
    const url = new URL(window.location.href);
    const names = NAMES;
    url.search = new URLSearchParams(names.map((name, i) => [name, String(values[i] ?? "")])).toString();
    navigator.clipboard?.writeText(url.href).catch(() => {});
    return url.href;
}""".replace("NAMES", str(list(NAMES)))


@dataclass(frozen=True)
class Form:
    """The controls, `values` in the order of `NAMES`; `strip` shows the plan of the steps."""

    values: list[Any]
    random_seed: gr.Checkbox
    previews: gr.Checkbox
    shares: gr.State
    status: gr.HTML
    strip: gr.HTML

    def __getitem__(self, name: str) -> Any:
        """The control of the setting `name`."""
        return self.values[NAMES.index(name)]


# ---------------------------------------------------------------------------------------- handlers


def load_png(services: Services, path: str | None) -> list[Any]:
    """Values for the form from the settings inside a PNG, and what to say about it; see `filled`."""
    if path is None:
        return unchanged(gr.skip())
    try:
        settings, origin = read_png(path)
    except SettingsError as error:
        return unchanged(html.message(f"{error}\nThe settings here are unchanged.", "error"))
    text = "Settings loaded from the PNG. Press Compare to make the same image again."
    try:
        here = services.models.origin_of(settings)
    except ModelsError:
        here = {}
    other = [f"{key} {origin.get(key, 'unknown')} there, {value} here" for key, value in here.items()]
    other = [words for words, (key, value) in zip(other, here.items(), strict=True) if origin.get(key) != value]
    if other:
        text = f"Settings loaded from the PNG. The image may differ, as it was made elsewhere: {'; '.join(other)}."
    return filled(settings, text)


def load_link(request: gr.Request) -> list[Any]:
    """Values for the form from the page's address: `?prompt=red+apple&seed=7&steps=50`..."""
    asked = {key: value for key, value in request.query_params.items() if key in NAMES}
    if "prompt" not in asked:
        return unchanged(gr.skip())
    try:
        return filled(Settings.parse(asked), "Settings taken from the link. Press Compare to draw its images.")
    except SettingsError as error:
        return unchanged(html.message(f"This link's settings cannot be used.\n{error}", "error"))


def filled(settings: Settings, text: str) -> list[Any]:
    """For each control its value, then the random switch, the bypass' shares, the status and the plan."""
    shares = shares_of(settings.steps, settings.bypass_start, settings.bypass_end)
    return [*settings.as_dict().values(), False, shares, html.message(text), html.plan(settings)]


def unchanged(status: Any) -> list[Any]:
    """As `filled`, for values that stay as they are."""
    return [*[gr.skip()] * (len(NAMES) + 2), status, gr.skip()]


def shares_of(steps: float, start: float, end: float) -> Any:
    """The bypass as shares of the run, (start, end) of 1; unchanged while the numbers make no sense."""
    try:
        settings = Settings.parse({"prompt": "-", "steps": steps, "bypass_start": start, "bypass_end": end})
    except SettingsError:
        return gr.skip()
    return settings.bypass_start / settings.steps, settings.bypass_end / settings.steps


def move_bypass(steps: float, shares: tuple[float, float]) -> tuple[Any, Any]:
    """Bypass start and end of a run of so many steps, at the same shares as before."""
    try:
        n = int(LIMITS["steps"].check(steps))
    except SettingsError:  # "1" on the way to "100"
        return gr.skip(), gr.skip()
    start = min(max(1, round(shares[0] * n)), n - 1)
    # The LDM keeps at least one last step if it had one, unless the bypass would be empty.
    return start, n if shares[1] >= 1 else max(start + 1, min(round(shares[1] * n), n - 1))


def plan(
    steps: float,
    start: float,
    end: float,
    finisher: float = DEFAULTS.finisher,
    few_steps: float = DEFAULTS.few_steps,
) -> str:
    """The sentence and the time lines for a choice of steps, before it runs."""
    try:
        chosen = {
            "steps": steps,
            "bypass_start": start,
            "bypass_end": end,
            "finisher": finisher,
            "few_steps": few_steps,
        }
        return html.plan(Settings.parse({"prompt": "-", **chosen}))
    except SettingsError as error:
        return html.message(str(error), "error")


# ------------------------------------------------------------------------------------------ layout


def number(name: str, info: str) -> gr.Number:
    """A number box at a setting's default. Its range is in its words only: the one check is `Settings.parse`."""
    limit = LIMITS[name]
    # gradio's own bounds would answer with a sentence that does not name the field
    return gr.Number(getattr(DEFAULTS, name), label=limit.name, info=info, step=limit.step, min_width=130, elem_id=name)


def build_prompt() -> gr.Textbox:
    """The prompt box; Enter submits it."""
    return gr.Textbox(
        label="Prompt",
        show_label=False,
        placeholder="What shall be drawn? For example: red apple",
        lines=1,
        max_lines=1,
        autofocus=True,
        scale=8,
        elem_id="prompt",
        container=False,
    )


def build_settings(services: Services, prompt: gr.Textbox, status: gr.HTML, strip: gr.HTML) -> Form:
    """The controls in their accordion, with the events among themselves."""
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        with gr.Row():
            seed = number("seed", "of the initial noise; shows the last one used")
            with gr.Column(min_width=180):
                random_seed = gr.Checkbox(True, label="Random seed each time", elem_id="random-seed")
                reuse = gr.Button("Reuse last seed", size="sm", elem_id="reuse-seed")
            guidance = number("guidance", "1 to 15: how closely the image follows the prompt")
            iterations = number("iterations", "1 to 20; the solver has converged after about 3")
        with gr.Row():
            steps = number("steps", "2 to 200: U-Net calls of the full LDM")
            start = number("bypass_start", "U-Net calls before the CRF takes over")
            end = number("bypass_end", "step at which the U-Net takes over again; equal to Steps: never")
            finisher = number(
                "finisher", "0 (off) to 1: how far a second CRF, trained for that, settles LatentCRF's last latents"
            )
            few_steps = number(
                "few_steps",
                "0: the bypass, as in the paper. Else LatentCRF makes so many steps of a faster solver, up to 50, and finishes them",
            )
        with gr.Row():
            previews = gr.Checkbox(
                True, label="Previews while it runs", info="they are not in the measured time", elem_id="previews"
            )
            upload = gr.UploadButton("Load settings from a PNG", file_types=[".png"], size="sm", elem_id="load-png")
            copy = gr.Button("Copy link to these settings", size="sm", elem_id="copy-link")
            link = gr.Textbox(label="Link", interactive=False, buttons=["copy"], visible="hidden", elem_id="link")
    values = [prompt, seed, steps, guidance, iterations, start, end, finisher, few_steps]
    shares = gr.State(shares_of(DEFAULTS.steps, DEFAULTS.bypass_start, DEFAULTS.bypass_end))
    form = Form(values, random_seed, previews, shares, status, strip)

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    outputs = [*values, random_seed, shares, status, strip]
    upload.upload(partial(load_png, services), upload, outputs, **private)
    steps.input(move_bypass, [steps, shares], [start, end], queue=False, **private)
    gr.on([start.input, end.input], shares_of, [steps, start, end], shares, queue=False, **private)
    gr.on(
        [steps.change, start.change, end.change, finisher.change, few_steps.change],
        plan,
        [steps, start, end, finisher, few_steps],
        strip,
        queue=False,
        trigger_mode="always_last",
        **private,
    )
    seed.input(lambda: False, None, random_seed, queue=False, **private)
    reuse.click(lambda: False, None, random_seed, queue=False, **private)
    copy.click(None, values, link, js=COPY_LINK_JS, **private)
    copy.click(lambda: gr.update(visible=True), None, link, queue=False, **private)
    return form
