"""The page's own pieces of HTML: plain values in, HTML out, whatever a visitor typed escaped."""

import json
from collections.abc import Sequence
from html import escape

from app.benchmark import find_time_ratio
from app.models import ModelSet
from app.results import METHODS, Comparison
from app.settings import METHOD, Settings

UNKNOWN = "—"  # in place of a distance that is not measured
DRAWN = (*METHOD, "full_finisher")  # settings whose change draws a comparison again
CRF = "a small conditional random field (CRF)"


def format_message(text: str, kind: str = "info") -> str:
    """Format a line about what goes on.

    Args:
        text: the line; line breaks are kept.
        kind: "info", "error", or "hint": about controls, not shown without them in presentation.

    Returns:
        HTML.
    """
    role = "alert" if kind == "error" else "status"
    return f'<p class="message {kind}" role="{role}">{escape(text).replace(chr(10), "<br>")}</p>'


def format_note(reading: str, computation: str) -> str:
    """Format the two sentences under a figure.

    Args:
        reading: HTML: how to read it.
        computation: HTML: how it was computed.

    Returns:
        HTML.
    """
    return (
        f'<p class="note"><b>How to read it.</b> {reading}</p>'
        f'<p class="note"><b>How it was computed.</b> {computation}</p>'
    )


def format_model(model_set: ModelSet) -> str:
    """Format what differs from the embedded model: how a model is sampled, and what stands for CRFs that it lacks.

    Args:
        model_set: the model.

    Returns:
        HTML; empty for a model with its own scheduler and CRFs.
    """
    sentences = []
    if model_set.is_scheduler_replaced:
        sentences.append(
            f"Sampled by DDIM of the same configuration, as {model_set.own_scheduler} cannot be combined with a bypass."
        )
    if model_set.crf is None:
        sentences.append("No LatentCRF is trained for it yet (command: at the foot): the zero-parameter bypass acts.")
    if model_set.finisher is None:
        sentences.append("The finisher is a VAE round trip.")
    if not sentences:
        return ""
    height, width = model_set.image_size
    return f'<p class="reading"><b>{escape(model_set.title)}</b>, {width} × {height} pixels. {" ".join(sentences)}</p>'


def describe_method(model_set: ModelSet, settings: Settings) -> str:
    """Describe LatentCRF's setting in a line of plain text.

    Args:
        model_set: the model: what acts at the bypass and at the end.
        settings: whose `METHOD` is described.

    Returns:
        "bypass 33–49 of 50, 5 iterations, no finisher, guidance 3".
    """
    if settings.few_steps:
        parts = [f"{settings.few_steps} steps of UniPC"]
    else:
        kind = "zero-parameter bypass" if model_set.crf is None else "bypass"
        parts = [f"{kind} {settings.bypass_start}–{settings.bypass_end} of {settings.steps}"]
    if model_set.crf is not None or model_set.finisher is not None:
        parts.append(f"{settings.iterations} iteration{'s' * (settings.iterations != 1)}")
    finisher = model_set.finisher_name
    parts.append(finisher if settings.finisher else f"no {finisher}")
    parts.append(f"guidance {settings.guidance:g}" if settings.guidance > 1 else "no guidance")
    if settings.guidance > 1 and settings.guidance_cutoff:
        parts[-1] += f" but in the last {settings.guidance_cutoff:.0%} of its calls"
    return ", ".join(parts)


def format_method(model_set: ModelSet, settings: Settings) -> str:
    """Format LatentCRF's setting as the line that the analysis tabs show.

    Args:
        model_set: the model.
        settings: as of `describe_method`.

    Returns:
        HTML.
    """
    return f'<p class="reading"><b>LatentCRF</b>: {escape(describe_method(model_set, settings))}</p>'


def format_plan(
    model_set: ModelSet, settings: Settings, done: dict[str, int] | None = None, is_shown: bool = True
) -> str:
    """Format what the two methods do with these settings: a sentence, and their steps as rows of cells.

    A cell is a denoiser call, filled once it is made; one without guidance, half the work, is half as high. The CRF
    lies over the bypass, or after a run of few steps.

    Args:
        model_set: the model: what acts at the bypass and at the end.
        settings: of the comparison.
        done: denoiser calls so far by method; None: none.
        is_shown: whether no pictures of other settings are shown beside it; else the plan says so.

    Returns:
        HTML.
    """
    steps, start, end, few = settings.steps, settings.bypass_start, settings.bypass_end, settings.few_steps
    calls_done = {"full": 0, "latentcrf": 0} | (done or {})
    calls, guided, evaluations = settings.denoiser_calls, settings.guided_calls, settings.network_evaluations
    made, whole = calls_done["latentcrf"], guided["latentcrf"]
    unguided = calls["latentcrf"] - whole if settings.guidance > 1 else 0
    cut = f", the last {unguided} without guidance" if unguided else ""
    beginning = "Same noise for both." if is_shown else "<b>Not drawn yet</b>, the pictures are of other settings."
    with_what = "a VAE round trip" if model_set.finisher is None else "the finisher"
    finished = f", then {with_what}" if settings.full_finisher else ""
    if few:
        corrects = "a VAE round trip" if model_set.finisher is None else CRF
        sentence = f"{few} of a faster solver (UniPC){cut}, then {corrects} corrects the result"
        label = "VAE" if model_set.finisher is None else "CRF"
        cells = _format_cells(few, made, whole) + _format_crf(label, "0 0 28px", made >= few)
        cells += f'<span style="flex:{max(steps - few - 1, 0)} 1 0"></span>'  # the calls that are saved
    else:
        rest = "which ends the run" if end == steps else f"then {steps - end} more"
        second = "a VAE round trip" if model_set.finisher is None else "a second CRF"
        finish = f"; {second} corrects the result" if settings.finisher else ""
        acts = "its last clean estimate" if model_set.crf is None else CRF
        sentence = f"{start}, {acts} in place of {end - start}, {rest}{finish}"
        sentence += f"; the last {unguided} call{'s' * (unguided != 1)} without guidance" if unguided else ""
        label = "bypass" if model_set.crf is None else "CRF"
        cells = _format_cells(start, made, whole) + _format_crf(label, f"{end - start} 1 0", made >= start)
        cells += _format_cells(steps - end, made - start, whole - start)
    return (
        f'<p class="reading">{beginning} Full run: {steps} denoiser calls{finished}. LatentCRF: {sentence}.</p>'
        '<div class="timelines">'
        + _format_timeline("full", steps, evaluations["full"], _format_cells(steps, calls_done["full"], guided["full"]))
        + _format_timeline("latentcrf", calls["latentcrf"], evaluations["latentcrf"], cells)
        + "</div>"
    )


def _format_crf(label: str, flex: str, done: bool) -> str:
    return f'<span class="crf{" done" if done else ""}" style="flex:{flex}">{label}</span>'


def _format_timeline(method: str, calls: int, evaluations: int, cells: str) -> str:
    label = f"{METHODS[method]}: {calls} denoiser calls, {evaluations} network evaluations"
    return (
        f'<div class="timeline {method}" role="img" aria-label="{label}" title="{label}">'
        f'<b>{METHODS[method]}</b><div class="cells">{cells}</div>'
        f'<span class="count">{evaluations} NFE<span>, {calls} call{"s" * (calls != 1)}</span></span></div>'
    )


def _format_cells(count: int, done: int, guided: int) -> str:
    names = (" ".join((["done"] if i < done else []) + (["half"] if i >= guided else [])) for i in range(count))
    return "".join(f'<i class="{name}"></i>' if name else "<i></i>" for name in names)


def format_caption(method: str, text: str) -> str:
    """Format a heading over a method's image.

    Args:
        method: "full" or "latentcrf"; gives colour and name.
        text: a few words.

    Returns:
        HTML.
    """
    return f'<div class="caption {method}"><b>{METHODS[method]}</b> <span>{escape(text)}</span></div>'


def format_heading(title: str, text: str) -> str:
    """Format a heading over an image that belongs to no one method.

    Args:
        title: of the image.
        text: a few words.

    Returns:
        HTML.
    """
    return f'<div class="caption"><b>{escape(title)}</b> <span>{escape(text)}</span></div>'


def format_cards(results: Sequence[Comparison], model_set: ModelSet, measured: str = "") -> str:
    """Format the figures of a comparison; of several seeds, their means.

    The large number is the ratio of network evaluations: it is exact, while the seconds of one run depend on what else
    the machine does. For settings that the shipped benchmark measured, its time ratio stands beside it.

    Args:
        results: one a seed, at least one.
        model_set: what drew them.
        measured: when and on what the times were measured; empty: now and here.

    Returns:
        HTML; its attribute data-drawn holds the settings `DRAWN` of the comparison.
    """
    first, n = results[0], len(results)
    of_several = f", mean of {n} seeds" if n > 1 else ""
    evaluations: dict[str, float] = {one.method: one.network_evaluations for one in (first.full, first.latentcrf)}
    seconds = {method: sum(getattr(result, method).seconds for result in results) / n for method in METHODS}
    ratio = f"{first.full.network_evaluations / first.latentcrf.network_evaluations:.2f}×"
    distances = [result.lpips for result in results if result.lpips is not None]
    distance = f"{sum(distances) / len(distances):.3f}" if distances else UNKNOWN
    calls = f"denoiser calls: {first.full.denoiser_calls} and {first.latentcrf.denoiser_calls}"
    benchmark = find_time_ratio(model_set, first.settings)
    time_ratio = "not in the benchmark: see the seconds below"
    if benchmark is not None:
        time_ratio = "<b>{:.2f}×</b> in time ({:.2f} to {:.2f}), benchmark".format(*benchmark)
    values = first.settings.as_dict()
    drawn = json.dumps([values[name] for name in DRAWN])
    return (
        f"<div class=\"cards\" data-drawn='{drawn}'>"
        + _format_card("Fewer network evaluations", f'<output id="speed-up">{ratio}</output>', time_ratio)
        + _format_card("Network evaluations", _format_bars(evaluations, "{:.0f}"), calls)
        + _format_card(
            "Seconds of this run", _format_bars(seconds, "{:.2f} s"), (measured or "sampler only") + of_several
        )
        + _format_card(
            "Difference", f'<output id="lpips">{distance}</output>', f"LPIPS of the two; 0: the same image{of_several}"
        )
        + "</div>"
    )


def _format_card(title: str, body: str, text: str) -> str:
    return f'<section class="card"><h3>{title}</h3>{body}<p>{text}</p></section>'


def _format_bars(values: dict[str, float], form: str) -> str:
    longest = max(values.values())
    return "".join(
        f'<div class="bar {method}"><span>{METHODS[method]}</span>'
        f'<i><i style="width:{100 * value / longest:.1f}%"></i></i><output>{form.format(value)}</output></div>'
        for method, value in values.items()
    )
