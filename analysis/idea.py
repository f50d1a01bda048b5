"""Draw the idea as one picture: a full run and a run with a bypass, step by step, and the images they give.

    python -m analysis.idea --out assets/idea.png
    python -m analysis.idea --social --out assets/social.png    # for other sites that show a link to the page

The shipped models draw both images, in float32: a minute or two on two CPU cores.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from analysis.metrics.pixels import to_pixels
from analysis.sampling import BYPASS, STEPS, decode, load_pipeline, sample
from latentcrf import LatentCRF, LatentCRFScheduler
from latentcrf.utils.arguments import run_command
from latentcrf.utils.files import replace_file
from latentcrf.utils.weights import MODELS

PROMPT, SEED = "red apple", 5
WIDTH, SCALE = 830, 2  # pixels of the layout, and of the file for each of them
MARGIN, CELL, GAP, HEIGHT = 16, 10, 2, 30  # a strip's cells: width, distance and height
PICTURE = 120
SOCIAL = (1200, 630)  # pixels of a picture that other sites show
CLAIM = "LatentCRF: fewer denoiser calls, nearly the same picture"
INK, MUTED, GROUND = "#1f2328", "#59636e", "#ffffff"
DENOISER, CRF, LEFT_OUT = "#0072b2", "#d55e00", "#d0d7de"  # Okabe and Ito's blue and vermilion


def draw_images(prompt: str = PROMPT, seed: int = SEED) -> tuple[Image.Image, Image.Image]:
    """The full run's image and that of the run with the bypass, by the shipped models in float32.

    Args:
        prompt: what to draw.
        seed: of the initial noise, the same for both.
    """
    pipeline = load_pipeline()
    crf = LatentCRF.from_pretrained(MODELS / "emoji-latentcrf").float().eval()
    images = []
    for scheduler in (None, LatentCRFScheduler(pipeline.scheduler, crf, bypass=BYPASS)):
        latents = sample(pipeline, [prompt], [seed], scheduler=scheduler)
        images.append(Image.fromarray(to_pixels(decode(pipeline, latents))[0]))
    return images[0], images[1]


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """PIL's own font, so that no machine needs another."""
    font = ImageFont.load_default(size * SCALE)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def draw_idea(full: Image.Image, bypassed: Image.Image, prompt: str = PROMPT) -> Image.Image:
    """The picture: two rows, each a strip of steps with its label and the image that it gives.

    Args:
        full, bypassed: the two images, RGB.
        prompt: the caption's.
    """
    first, last = BYPASS
    rows: tuple[tuple[str, str, list[str | None], Image.Image], ...] = (
        ("Full run", f"{STEPS} denoiser calls", [DENOISER for _ in range(STEPS)], full),
        (
            "LatentCRF",
            f"{first} denoiser calls, one CRF, {STEPS - last} denoiser call",
            [*[DENOISER] * first, CRF, *[None] * (last - first - 1), *[DENOISER] * (STEPS - last)],
            bypassed,
        ),
    )
    height = MARGIN + len(rows) * (PICTURE + MARGIN) + 24
    picture = Image.new("RGB", (WIDTH * SCALE, height * SCALE), GROUND)
    draw = ImageDraw.Draw(picture)
    title, text, small = load_font(20), load_font(15), load_font(13)

    def at(x: float, y: float) -> tuple[int, int]:
        return round(x * SCALE), round(y * SCALE)

    for index, (name, calls, cells, image) in enumerate(rows):
        top = MARGIN + index * (PICTURE + MARGIN)
        strip = top + 48
        draw.text(at(MARGIN, top + 8), name, INK, title)
        draw.text(at(MARGIN + 112, top + 12), calls, MUTED, text)
        for step, colour in enumerate(cells):
            left = MARGIN + step * (CELL + GAP)
            box = (*at(left, strip), *at(left + CELL, strip + HEIGHT))
            if colour is None:
                middle = strip + HEIGHT / 2
                draw.rectangle((*at(left - GAP, middle - 1), *at(left + CELL, middle + 1)), LEFT_OUT)
            else:
                draw.rectangle(box, colour)
        end = MARGIN + STEPS * (CELL + GAP) - GAP
        if index == 0:
            draw.text(at(MARGIN, strip + HEIGHT + 6), "noise", MUTED, small)
            draw.text(at(end, strip + HEIGHT + 6), "step 50", MUTED, small, anchor="ra")
        else:
            left = MARGIN + first * (CELL + GAP)
            draw.text(at(left, strip + HEIGHT + 6), "the CRF corrects the latents once,", CRF, small)
            draw.text(at(left, strip + HEIGHT + 22), "steps 34 to 49 are skipped", MUTED, small)
        arrow = strip + HEIGHT / 2
        tip = WIDTH - MARGIN - PICTURE - 12
        draw.line((*at(end + 10, arrow), *at(tip - 8, arrow)), INK, 2 * SCALE)
        draw.polygon([at(tip - 10, arrow - 6), at(tip, arrow), at(tip - 10, arrow + 6)], INK)
        shown = image.convert("RGB").resize(at(PICTURE, PICTURE), Image.Resampling.LANCZOS)
        picture.paste(shown, at(WIDTH - MARGIN - PICTURE, top))
    foot = height - 24
    draw.text(at(WIDTH - MARGIN, foot), f'"{prompt}", the same noise', MUTED, small, anchor="ra")
    draw.rectangle((*at(MARGIN, foot + 2), *at(MARGIN + CELL, foot + 14)), DENOISER)
    draw.text(at(MARGIN + CELL + 6, foot), "one call of the denoiser (U-Net), guided", MUTED, small)
    return picture


def arrange_social(picture: Image.Image) -> Image.Image:
    """Put the picture under its claim, in the shape that other sites show.

    Args:
        picture: of `draw_idea`.

    Returns:
        RGB, of size `SOCIAL`.
    """
    width, height = SOCIAL
    social = Image.new("RGB", SOCIAL, GROUND)
    shown = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    social.paste(shown, (0, height - shown.height - 2 * MARGIN))
    ImageDraw.Draw(social).text((width / 2, (height - shown.height) / 2), CLAIM, INK, load_font(21), anchor="mm")
    return social


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.idea", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help="the PNG to write")
    add("--prompt", default=PROMPT, help=f"default: {PROMPT}")
    add("--seed", type=int, default=SEED, help=f"of the noise (default {SEED})")
    add("--social", action="store_true", help="in the shape that other sites show, under the claim")
    options = parser.parse_args(arguments)
    try:
        picture = draw_idea(*draw_images(options.prompt, options.seed), options.prompt)
        if options.social:
            picture = arrange_social(picture)
        # 192 colours are enough for two drawings, and a third of the bytes
        picture = picture.quantize(192, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        with replace_file(options.out) as temporary:
            picture.save(temporary, "png", optimize=True)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {options.out}, {np.prod(picture.size):,} pixels, {options.out.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    run_command(main)
