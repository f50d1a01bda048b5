"""The page's own pieces of HTML: plain values in, HTML out, whatever a visitor typed escaped."""

from html import escape

from app.results import METHODS, Comparison
from app.settings import Settings

WAITING = "—"  # in place of a figure that is not measured yet


def message(text: str, kind: str = "info") -> str:
    """A line about what goes on; `kind` is "info" or "error". Line breaks are kept."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="message {kind}" role="{role}">{escape(text).replace(chr(10), "<br>")}</p>'


def plan(settings: Settings, done: dict[str, int] | None = None) -> str:
    """What the two methods do with these settings: a sentence, and their steps as rows of cells.

    A cell is a U-Net call, filled once it is made; the CRF lies over its gap, or after a run of few steps. `done` gives the U-Net
    calls made so far by method; None shows the plan.
    """
    n, start, end, few = settings.steps, settings.bypass_start, settings.bypass_end, settings.few_steps
    made = {"full": 0, "latentcrf": 0} | (done or {})
    if few:
        does = f"{few} of a faster solver (UniPC), then a small conditional random field (CRF) settles the result"
        calls = few
        cells = _cells(few, made["latentcrf"]) + _crf("0 0 28px", made["latentcrf"] >= few)
        cells += f'<span style="flex:{max(n - few - 1, 0)} 1 0"></span>'  # the calls that are saved
    else:
        rest = "which ends the run" if end == n else f"then {n - end} more"
        finished = "; a second CRF settles the result" if settings.finisher else ""
        does = f"{start}, a small conditional random field (CRF) in place of {end - start}, {rest}{finished}"
        calls = n - end + start
        cells = _cells(start, made["latentcrf"]) + _crf(f"{end - start} 1 0", made["latentcrf"] >= start)
        cells += _cells(n - end, made["latentcrf"] - start)
    return (
        f'<p class="reading">Same noise for both. Full LDM: {n} U-Net calls. LatentCRF: {does}.</p><div class="timelines">'
        + _timeline("full", n, _cells(n, made["full"]))
        + _timeline("latentcrf", calls, cells)
        + "</div>"
    )


def _crf(flex: str, done: bool) -> str:
    return f'<span class="crf{" done" if done else ""}" style="flex:{flex}">CRF</span>'


def _timeline(method: str, calls: int, cells: str) -> str:
    return (
        f'<div class="timeline {method}" role="img" aria-label="{METHODS[method]}: {calls} U-Net calls">'
        f'<b>{METHODS[method]}</b><div class="cells">{cells}</div><span class="count">{calls} call{"s" * (calls != 1)}</span></div>'
    )


def _cells(count: int, done: int) -> str:
    done = max(0, min(done, count))
    return '<i class="done"></i>' * done + "<i></i>" * (count - done)


def caption(method: str, text: str) -> str:
    """A heading over an image: the method's colour and name, and a few words."""
    return f'<div class="caption {method}"><b>{METHODS[method]}</b> <span>{escape(text)}</span></div>'


def cards(result: Comparison | None) -> str:
    """The four figures of a comparison; dashes before there is one."""
    if result is None:
        calls: dict[str, float | None] = {"full": None, "latentcrf": None}
        seconds = dict(calls)
        speed_up = distance = WAITING
    else:
        both = (result.full, result.latentcrf)
        calls = {one.method: one.denoiser_calls for one in both}
        seconds = {one.method: one.seconds for one in both}
        speed_up, distance = f"{result.speed_up:.2f}×", f"{result.lpips:.3f}"
    return (
        '<div class="cards">'
        + _card("U-Net calls", _bars(calls, "{:.0f}"), "")
        + _card("Sampler time", _bars(seconds, "{:.2f} s"), "U-Net and CRFs; no previews")
        + _card("Speed-up", f'<output id="speed-up">{speed_up}</output>', "full LDM's time over LatentCRF's")
        + _card(
            "Difference",
            f'<output id="lpips">{distance}</output>',
            "LPIPS of the two; 0: the same image",
        )
        + "</div>"
    )


def _card(title: str, body: str, note: str) -> str:
    return f'<section class="card"><h3>{title}</h3>{body}{f"<p>{note}</p>" if note else ""}</section>'


def _bars(values: dict[str, float | None], form: str) -> str:
    longest = max((value for value in values.values() if value is not None), default=1)
    rows = []
    for method, value in values.items():
        shown, width = (WAITING, 0.0) if value is None else (form.format(value), 100 * value / longest)
        rows.append(
            f'<div class="bar {method}"><span>{METHODS[method]}</span>'
            f'<i><i style="width:{width:.1f}%"></i></i><output>{shown}</output></div>'
        )
    return "".join(rows)


def heading(title: str, text: str) -> str:
    """A heading over an image that belongs to no one method."""
    return f'<div class="caption"><b>{escape(title)}</b> <span>{escape(text)}</span></div>'


def about() -> str:
    """What the images before and after the CRF are."""
    return (
        '<div class="about"><h3>What the CRF changes</h3><p>Where the bypass begins, the LDM has an estimate of the '
        "finished image: that is the picture before. The CRF moves it to the minimum of a learned energy in a few "
        "iterations: the picture after. The U-Net then takes over again, unless the bypass runs to the end. Last of all a second "
        "CRF, trained for that, settles the result: LatentCRF's image above (the setting Finisher; 0 leaves it out). In a run of few "
        "steps there is that CRF alone: before and after it.</p></div>"
    )
