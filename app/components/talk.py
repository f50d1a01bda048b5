"""The method tab's sections in HTML: pictures, sliders and bars of a walkthrough. `talk.js` moves them in the browser.

A player is a group of sliders with what follows them. Sliders have positions 0, 1, 2, ...; their values together, read
as one number of mixed radix (or its entry in the player's `data-map`), are an index. At that index

    data-frames   a sprite shows this frame of its sheet
    data-texts    an element says this
    data-widths   a bar is so wide, in percent
    data-from     an element is `done` from this index on, and `now` at it

Sheets are WebP images in CSS variables, which all sprites of a sheet share.
"""

import base64
import io
import json
from bisect import bisect_left
from collections.abc import Sequence
from html import escape
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from analysis.studies import FINISHED, TERMS
from app.components.html import format_message
from app.sheets import arrange_sheet

if TYPE_CHECKING:  # the page starts without torch
    from analysis.studies.walkthrough import Walkthrough

QUALITY = 80  # of the sheets' WebP
PER_ROW = 10  # frames in a row of a sheet
MAX_SIDE = 256  # of a frame, in pixels
COLOURS = {"unary": "#0072b2", "pairwise": "#009e73", "higher_order": "#cc79a7", "total": "#64748b"}
NO_CRF = "No LatentCRF is trained for this model yet: there is no energy to show."
MEASURES = {"contrast": "contrast", "saturation": "saturation", "edges": "edge strength"}
OFF_BY = "Off by: root mean square difference of the latents to the full run's final ones."
SAME = 0.02  # changes of a measure below this share are "about the same"


def write_visuals(walkthrough: "Walkthrough") -> dict[str, str]:
    """Write what stands beside the text of each section.

    Args:
        walkthrough: as of `analysis.studies.walkthrough.compute`.

    Returns:
        HTML by the section's name in method.md, and "sheets", the pictures, which must be on the page with them.
    """
    found = walkthrough
    visuals = {
        "sheets": write_sheets(found),
        "steps": write_steps(found),
        "redundancy": write_redundancy(found),
        "hand-over": write_hand_over(found),
        "finisher": write_finisher(found),
        "balance": write_balance(found),
    }
    if found.potentials is None:
        return visuals | dict.fromkeys(("energy", "weights", "descent"), format_message(NO_CRF))
    return visuals | {
        "energy": write_energy(found),
        "weights": write_weights(found),
        "descent": write_descent(found),
    }


# ------------------------------------------------------------------------------------------- parts


def write_sheets(found: "Walkthrough") -> str:
    """Write the style sheet that holds the pictures."""
    sheets = {"frames": found.frames.reshape(-1, *found.frames.shape[2:]), "ends": found.ends}
    sheets["bypassed"] = found.bypassed_frames.reshape(-1, *found.frames.shape[2:])
    for name in ("candidate_images", "minima", "iterates"):
        images = getattr(found, name)
        if images is not None:
            sheets[name] = images
    difference, _ = amplify_difference(found)
    if difference is not None:
        sheets["difference"] = difference[None]
    rules = "".join(f"--talk-{name}:url({encode_sheet(images)});" for name, images in sheets.items())
    return f"<style>#method-talk{{{rules}}}</style>"


def encode_sheet(images: np.ndarray) -> str:
    """Encode images as one WebP, `PER_ROW` a row.

    Args:
        images: uint8 (n, H, W, 3).

    Returns:
        "data:image/webp;base64,...".
    """
    columns, _ = measure_sheet(len(images))
    image = Image.fromarray(arrange_sheet(images, columns, ground=255))
    largest = max(images.shape[1:3])
    if largest > MAX_SIDE:
        image = image.resize([round(side * (MAX_SIDE / largest)) for side in image.size])
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def measure_sheet(count: int) -> tuple[int, int]:
    """Return columns and rows of a sheet of so many frames."""
    columns = min(count, PER_ROW)
    return columns, -(-count // columns)


def write_sprite(sheet: str, count: int, label: str, frames: Sequence[int], index: int = 0) -> str:
    """Write a picture of a sheet.

    Args:
        sheet: its name, as of `write_sheets`.
        count: frames in the sheet.
        label: what the picture is, below it.
        frames: of the player's indices; one frame alone: the picture stays.
        index: shown at first.

    Returns:
        HTML: a figure with its caption.
    """
    columns, rows = measure_sheet(count)
    frame = frames[index if len(frames) > 1 else 0]
    row, column = divmod(frame, columns)
    x, y = 100 * column / max(columns - 1, 1), 100 * row / max(rows - 1, 1)
    moving = f" data-frames='{json.dumps([int(each) for each in frames])}'" if len(frames) > 1 else ""
    return (
        f'<figure><div class="sprite" role="img" aria-label="{escape(label)}" data-grid="{columns} {rows}"{moving} '
        f'style="background-image:var(--talk-{sheet});background-size:{100 * columns}% {100 * rows}%;'
        f'background-position:{x:.4g}% {y:.4g}%"></div><figcaption>{escape(label)}</figcaption></figure>'
    )


def write_texts(texts: Sequence[str], index: int, tag: str = "p", style: str = "") -> str:
    """Write a text that follows the player."""
    listed = escape(json.dumps(list(texts), ensure_ascii=False))
    return f'<{tag} class="{style}" data-texts="{listed}">{escape(texts[index])}</{tag}>'


def write_slider(label: str, texts: Sequence[str], value: int, group: str = "") -> str:
    """Write a slider with its value in words.

    Args:
        label: above it.
        texts: of its positions.
        value: its first position.
        group: sliders of a group move together, in all sections.

    Returns:
        HTML.
    """
    together = f' data-group="{group}"' if group else ""
    listed = escape(json.dumps(list(texts), ensure_ascii=False))
    return (
        f'<label class="scrubber"><span>{label}</span><input type="range" min="0" max="{len(texts) - 1}" step="1" '
        f'value="{value}"{together} aria-valuetext="{escape(texts[value])}"><output data-own="{listed}">'
        f"{escape(texts[value])}</output></label>"
    )


def mark_cell(begin: int, index: int, style: str = "") -> str:
    """Write the attributes of a cell that is done from an index on.

    Args:
        begin: that index.
        index: the player's, at first.
        style: other classes.

    Returns:
        HTML attributes.
    """
    classes = [style] * bool(style) + ["done"] * (begin <= index) + ["now"] * (begin == index)
    return f'class="{" ".join(classes)}" data-from="{begin}"'


def write_player(body: str, name: str, index_map: Sequence[int] | None = None) -> str:
    """Write a player around its parts."""
    mapped = f" data-map='{json.dumps(list(index_map))}'" if index_map is not None else ""
    return f'<div class="player {name}"{mapped}>{body}</div>'


def write_row(cells: str, count: int) -> str:
    """Write so many cells side by side."""
    return f'<div class="row" style="--n:{count}">{cells}</div>'


def write_energy_bars(energies: pd.DataFrame, index: int, least: float) -> str:
    """Write the energies of the player's index as bars. The longest bar is twice `least`; longer ones are cut there.

    Args:
        energies: columns of `COLOURS`, a row an index.
        index: shown at first.
        least: the least total.

    Returns:
        HTML.
    """
    rows = []
    for name, colour in COLOURS.items():
        values = energies[name].to_numpy()
        widths = [round(min(100.0, 50 * float(value) / max(least, 1e-9)), 1) for value in values]
        texts = [format_energy(value) for value in values]
        moving = f" data-widths='{json.dumps(widths)}'" if len(widths) > 1 else ""
        rows.append(
            f'<div class="bar" style="--method: {colour}"><span>{TERMS.get(name, name)}</span>'
            f'<i><i{moving} style="width: {widths[index]}%"></i></i>{write_texts(texts, index, "output")}</div>'
        )
    return f'<div class="energies">{"".join(rows)}</div>'


def format_energy(value: float) -> str:
    """Format an energy to a tenth, or to a whole number from 1,000 on."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.1f}"


def describe_change(after: pd.Series, before: pd.Series, names: Sequence[str] = tuple(MEASURES)) -> str:
    """Describe by how much an image differs from another one in what was measured.

    Args:
        after: a row of `analysis.studies.walkthrough.measure_images`.
        before: the other one's.
        names: of `MEASURES`.

    Returns:
        "contrast -78 %, saturation about the same, ...".
    """
    words = []
    for name in names:
        change = float(after[name]) / max(float(before[name]), 1e-6) - 1
        amount = "about the same" if abs(change) < SAME else f"{change:+.0%}".replace("%", " %").replace("-", "−")
        words.append(f"{MEASURES[name]} {amount}")
    return ", ".join(words)


# ----------------------------------------------------------------------------------------- the run


def find_first_index(found: "Walkthrough") -> int:
    """Find the position of the step slider at first: about three tenths of the run, where something is to be seen."""
    return round(0.3 * (len(found.shown_steps) - 1))


def write_step_slider(found: "Walkthrough") -> str:
    """Write the slider over the steps, which moves in all sections at once."""
    last = found.options["steps"] - 1
    return write_slider("Step", [f"{step} of {last}" for step in found.shown_steps], find_first_index(found), "step")


def write_steps(found: "Walkthrough") -> str:
    """Write noisy latents and clean estimate of each step, and both time lines."""
    count, index = len(found.shown_steps), find_first_index(found)
    pictures = write_sprite("frames", 2 * count, "noisy latents, decoded", range(count), index)
    pictures += write_sprite("frames", 2 * count, "clean estimate, decoded", range(count, 2 * count), index)
    body = f'<div class="pictures">{pictures}</div>{write_step_slider(found)}{write_timelines(found, index)}'
    return write_player(body + write_texts(describe_levels(found), index, style="said"), "steps")


def describe_levels(found: "Walkthrough") -> list[str]:
    """Describe how much noise is left at each shown step."""
    levels = 1 / (1 + np.exp(-found.steps["log_snr"].fillna(-np.inf).to_numpy()))
    return [
        f"Step {step}: the latents are {format_percent(levels[step])} image and {format_percent(1 - levels[step])} "
        "noise, by variance."
        for step in found.shown_steps
    ]


def format_percent(share: float) -> str:
    """Format a share: two digits below 10 %."""
    return f"{100 * share:.1f} %" if 0 < share < 0.0995 else f"{share:.0%}".replace("%", " %")


def write_timelines(found: "Walkthrough", index: int) -> str:
    """Write the time lines of both methods, a cell a denoiser call, done as far as the step slider is at first."""
    steps, shown = found.options["steps"], found.shown_steps
    first, last = found.bypass
    whole = range(steps)
    kept = [step for step in whole if not first <= step < last]

    def write_cells(numbers: Sequence[int]) -> str:
        return "".join(f'<i {mark_cell(bisect_left(shown, step), index)} title="step {step}"></i>' for step in numbers)

    def count_calls(numbers: Sequence[int]) -> list[str]:
        return [f"{sum(number <= step for number in numbers)} of {len(numbers)} calls" for step in shown]

    name = "CRF" if found.potentials is not None else "bypass"
    crf = f'<span {mark_cell(bisect_left(shown, first), index, "crf")} style="flex:{last - first} 1 0">{name}</span>'
    lines = {
        "full": ("Full run", write_cells(whole), count_calls(whole)),
        "latentcrf": (
            "LatentCRF", write_cells(kept[:first]) + crf + write_cells(kept[first:]), count_calls(kept)
        ),
    }  # fmt: skip
    return '<div class="timelines">' + "".join(
        f'<div class="timeline {method}"><b>{title}</b><div class="cells">{cells}</div>'
        f"{write_texts(texts, index, 'span', 'count')}</div>"
        for method, (title, cells, texts) in lines.items()
    ) + "</div>"  # fmt: skip


def write_redundancy(found: "Walkthrough") -> str:
    """Write how much each step changes the clean estimate, above both time lines, and both methods' estimates."""
    shown, index = found.shown_steps, find_first_index(found)
    first, last = found.bypass
    changes = found.steps["estimate_change"].to_numpy()
    largest, total = np.nanmax(changes), np.nansum(changes)
    cells = []
    for step in range(found.options["steps"]):
        change = changes[step]
        words = "the last step" if np.isnan(change) else f"step {step}: the estimate changes by {change:.3f}"
        style = "column skipped" if first <= step < last else "column"
        height = 0 if np.isnan(change) else 100 * change / largest
        cells.append(
            f'<i {mark_cell(bisect_left(shown, step), index, style)} title="{words}">'
            f'<i style="height:{height:.1f}%"></i></i>'
        )
    done = np.nancumsum(changes) / total
    texts = [
        f"Step {step} is the last one." if np.isnan(changes[step]) else
        f"Step {step} changes the estimate by {changes[step]:.3f}. {format_percent(done[step])} of all change is made."
        for step in shown
    ]  # fmt: skip
    after = found.bypassed_steps
    count, bypassed = len(shown), len(after)
    # LatentCRF's estimate: the full run's before the bypass, then y, then its own.
    places = [max(0, bisect_left(after, step + 1) - 1) for step in shown]
    begin = bisect_left(shown, first)
    pictures = write_sprite("frames", 2 * count, "full run: clean estimate", range(count, 2 * count), index)
    early = write_sprite("frames", 2 * count, "LatentCRF: the same", range(count, 2 * count), index)
    late = write_sprite("bypassed", 2 * bypassed, "LatentCRF: the CRF's y, then its last steps",
                        [bypassed + place for place in places], index)  # fmt: skip
    pictures += f"<div {mark_cell(begin, index, 'swap')}>{early}{late}</div>"
    title = f"Steps {first} to {last - 1} make {format_percent(found.redundant_share)} of the change"
    body = (
        f"<h3>{title}</h3>"
        f'<div class="timeline changes"><b>Change</b><div class="cells columns">{"".join(cells)}</div>'
        f'<span class="count">to {largest:.2f}</span></div>'
        f"{write_timelines(found, index)}{write_step_slider(found)}"
        f'<div class="beside"><div class="pictures">{pictures}</div>{write_texts(texts, index, style="said")}</div>'
    )
    return write_player(body, "redundancy")


# -------------------------------------------------------------------------------------- the energy


def write_energy(found: "Walkthrough") -> str:
    """Write the energies of four candidates below their pictures."""
    table = found.candidates
    assert table is not None
    least = float(table["total"].min())
    columns = "".join(
        f"<div>{write_sprite('candidate_images', len(table), label, [number])}"
        f"{write_energy_bars(table.iloc[[number]], 0, least)}</div>"
        for number, label in enumerate(("noisy x", "estimate x̂₀", "target u", "the CRF's y"))
    )
    note = "A bar of full width is twice the least total. Longer ones are cut there; the number stays true."
    return write_player(f'{write_row(columns, len(table))}<p class="note">{note}</p>', "candidates")


def write_weights(found: "Walkthrough") -> str:
    """Write the image of lowest energy with a slider a term, its energies, and how it differs from the learned one."""
    table = found.weights
    assert table is not None
    factors = sorted(set(table["unary_factor"]))
    names = [f"× {factor:g}" for factor in factors]
    rows = {}
    for number, row in table.iterrows():
        rows[find_ratio(row["pairwise_factor"], row), find_ratio(row["higher_order_factor"], row)] = number
    exponents = [round(float(np.log10(factor))) for factor in factors]
    index_map = [int(rows[p - u, h - u]) for u, p, h in product(exponents, repeat=len(TERMS))]
    learned = rows[0, 0]
    reference = table.loc[learned]
    texts = [
        "The learned weights: the least total."
        if number == learned
        else f"Against the learned weights: {describe_change(row, reference)}. Energy "
        f"+{format_energy(row['total'] - reference['total'])}."
        for number, row in table.iterrows()
    ]
    middle = exponents.index(0)
    sliders = "".join(
        f'<div style="--method: {COLOURS[term]}">{write_slider(title.capitalize(), names, middle)}</div>'
        for term, title in TERMS.items()
    )
    picture = write_sprite("minima", len(table), "the image of lowest energy", range(len(table)), learned)
    bars = write_energy_bars(table, learned, float(reference["total"]))
    reset = '<button type="button" data-reset>All × 1</button>'
    body = (
        f'<div class="pictures">{picture}</div><div class="panel">{sliders}{reset}'
        f'<p class="note">Energy with the learned weights</p>{bars}{write_texts(texts, learned, style="said")}</div>'
    )
    return write_player(body, "weights", index_map)


def find_ratio(factor: float, row: pd.Series) -> int:
    """Find the power of ten by which a factor differs from the unary term's."""
    return round(float(np.log10(factor / row["unary_factor"])))


def write_descent(found: "Walkthrough") -> str:
    """Write the iterates from the noisy latents, and how far above the minimum each solver is."""
    descent, iterates = found.descent, found.iterates
    assert descent is not None and iterates is not None
    least = float(descent["total"].min())
    runs = {
        solver: descent[(descent["start"] == "x") & (descent["solver"] == solver)].sort_values("iteration")["total"]
        for solver in ("3mg", "damped")
    }
    start = float(runs["3mg"].iloc[0]) - least
    decades = 5  # the axis ends at 10⁻⁵ of the start
    columns = []
    for iteration in range(len(iterates)):
        bars = []
        for solver, style in (("3mg", "latentcrf"), ("damped", "plain")):
            energy = float(runs[solver].iloc[iteration])
            share = max((energy - least) / max(start, 1e-9), 10.0**-decades)
            height = 100 * (1 + np.log10(share) / decades)
            bars.append(f'<i class="{style}" style="height:{max(height, 1):.1f}%"></i>')
        words = (
            f"iteration {iteration}: 3MG {runs['3mg'].iloc[iteration]:.2f}, plain {runs['damped'].iloc[iteration]:.2f}"
        )
        columns.append(f'<i {mark_cell(iteration, 0, "column")} title="{words}">{"".join(bars)}</i>')
    texts = [
        f"Iteration {iteration}: energy {a:.2f} with 3MG, {b:.2f} with the plain update. The minimum is {least:.2f}."
        for iteration, (a, b) in enumerate(zip(runs["3mg"], runs["damped"], strict=True))
    ]
    own = descent[(descent["start"] == "u") & (descent["solver"] == "3mg")].sort_values("iteration")["total"].iloc[0]
    picture = write_sprite("iterates", len(iterates), "3MG's iterate, from the noisy latents", range(len(iterates)))
    slider = write_slider("Iteration", [f"{number} of {len(iterates) - 1}" for number in range(len(iterates))], 0)
    body = (
        f'<div class="pictures">{picture}</div><div class="panel">'
        f'<p class="note">Energy above the minimum, as a share of the start (log: 1 to 10⁻⁵). '
        f'<b class="latentcrf">■ 3MG</b> <b class="plain">■ plain update</b></p>'
        f'<div class="cells columns">{"".join(columns)}</div>{slider}{write_texts(texts, 0, style="said")}'
        f'<p class="note">From the CRF\'s own start u the energy falls by {own - least:.2f} in all.</p></div>'
    )
    return write_player(body, "descent")


# ---------------------------------------------------------------------------------------- the ends


def write_end(found: "Walkthrough", picture: str, label: str) -> str:
    """Write one of the walkthrough's end pictures."""
    number = found.hand_over["picture"].tolist().index(picture)
    return write_sprite("ends", len(found.ends), label, [number])


def get_end(found: "Walkthrough", picture: str) -> tuple[np.ndarray, pd.Series] | None:
    """Return an end picture, uint8 (H, W, 3), with its row of `hand_over`; None where there is none of that name."""
    names = found.hand_over["picture"].tolist()
    if picture not in names:
        return None
    number = names.index(picture)
    return found.ends[number], found.hand_over.iloc[number]


def name_ends(found: "Walkthrough") -> tuple[str, str, str]:
    """Name the end pictures before the bypass, after it and LatentCRF's last one without finisher."""
    names = found.hand_over["picture"].tolist()
    return (names[0], names[1], names[2]) if found.potentials is not None else (names[0], names[0], names[1])


def write_hand_over(found: "Walkthrough") -> str:
    """Write the pictures of the hand-over in their order, with noise levels and distances."""
    before, after, image = name_ends(found)
    level_in, level_out = found.levels
    first, last = found.bypass
    count, bypassed = len(found.shown_steps), len(found.bypassed_steps)
    place = bisect_left(found.shown_steps, first)
    pictures = [
        (write_sprite("frames", 2 * count, "xᵢₙ, noisy", [min(place, count - 1)]),
         f"{first} calls, {format_percent(1 - level_in)} noise."),
        (write_end(found, before, "estimate x̂₀"), describe_distance(found, before)),
        (write_end(found, after, "y, from the CRF"), describe_distance(found, after)),
        (write_sprite("bypassed", 2 * bypassed, "xₒᵤₜ: y and noise", [0]),
         f"{first} calls, {format_percent(1 - level_out)} noise."),
        (write_end(found, image, "LatentCRF's image"), describe_distance(found, image)),
    ]  # fmt: skip
    if found.potentials is None:
        del pictures[2]
    cards = "".join(f'<div>{picture}<p class="said">{text}</p></div>' for picture, text in pictures)
    return write_player(f'{write_row(cards, len(pictures))}<p class="note">{OFF_BY}</p>', "flow")


def describe_distance(found: "Walkthrough", picture: str) -> str:
    """Describe how far a picture's latents are from the full run's."""
    end = get_end(found, picture)
    assert end is not None
    distance = f", off by {end[1]['distance']:.3f}" if end[1]["distance"] > 0 else ""
    return f"{end[1]['denoiser_calls']} calls{distance}."


def amplify_difference(found: "Walkthrough") -> tuple[np.ndarray | None, int]:
    """Compute what the finisher changes, amplified.

    Args:
        found: the walkthrough.

    Returns:
        uint8 (H, W, 3), white where nothing changes, and how many times it is amplified; None and 1 without a finisher.
    """
    finished, image = get_end(found, FINISHED), get_end(found, name_ends(found)[2])
    if finished is None or image is None:
        return None, 1
    difference = np.abs(finished[0].astype(np.int16) - image[0].astype(np.int16))
    factor = max(1, int(255 / max(float(np.quantile(difference, 0.995)), 1)))
    return 255 - np.clip(difference * factor, 0, 255).astype(np.uint8), factor


def write_finisher(found: "Walkthrough") -> str:
    """Write LatentCRF's image before and after the finisher, and their difference."""
    image = name_ends(found)[2]
    before, after = get_end(found, image), get_end(found, FINISHED)
    if before is None or after is None:
        return format_message("This run has no finisher.")
    _, factor = amplify_difference(found)
    pictures = (
        write_end(found, image, "before the finisher")
        + write_end(found, FINISHED, "after the finisher")
        + write_sprite("difference", 1, f"their difference, × {factor}", [0])
    )
    words = (
        f"{describe_change(after[1], before[1]).capitalize()}. Off the full run by {before[1]['distance']:.3f} "
        f"before and {after[1]['distance']:.3f} after it."
    )
    return write_player(f'<div class="pictures">{pictures}</div><p class="said">{words}</p>', "finisher")


def write_balance(found: "Walkthrough") -> str:
    """Write the final images of both methods above the calls that they took."""
    names = [found.hand_over["picture"].tolist()[-1], name_ends(found)[2]]
    labels = ["full run", "LatentCRF"]
    if get_end(found, FINISHED) is not None:
        names.append(FINISHED)
        labels.append("LatentCRF, finished")
    cards = "".join(
        f'<div>{write_end(found, name, label)}<p class="said">{describe_distance(found, name)}</p></div>'
        for name, label in zip(names, labels, strict=True)
    )
    last = len(found.shown_steps) - 1
    body = f'{write_row(cards, len(names))}{write_timelines(found, last)}<p class="note">{OFF_BY}</p>'
    return write_player(body, "balance")


# -------------------------------------------------------------------------------------- navigation


def write_navigation(titles: Sequence[str]) -> str:
    """Write the buttons that lead through the sections.

    Args:
        titles: of the sections.

    Returns:
        HTML.
    """
    dots = "".join(
        f'<button type="button" data-section="{number}" aria-label="{number + 1}: {escape(title)}" '
        f'title="{escape(title)}"{" aria-current=step" * (number == 0)}>{number + 1}</button>'
        for number, title in enumerate(titles)
    )
    return (
        '<nav class="talk-nav" aria-label="Sections"><button type="button" data-move="-1" disabled>‹ Previous</button>'
        f'<div class="dots">{dots}</div><output class="counter" aria-live="polite">1 / {len(titles)}</output>'
        '<button type="button" data-move="1">Next ›</button></nav>'
    )


def list_titles(texts: Sequence[str]) -> list[str]:
    """List the headings of Markdown sections."""
    return [text.split("\n", 1)[0].removeprefix("## ").strip() for text in texts]
