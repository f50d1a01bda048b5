"""Long texts of the tabs."""

import re
from pathlib import Path

from app.components.html import format_note
from app.models import ModelSet

ABOUT_CRF = """<div class="about"><h3>What the CRF changes</h3><p>Where the bypass begins, the LDM has an estimate of
the finished image: the picture before. The CRF moves it to the minimum of a learned energy in a few iterations: the
picture after. The denoiser then takes over again, unless the bypass runs to the end. Last, a second CRF corrects the
final latents (the setting Finisher): LatentCRF's image above. A run of few steps has that CRF alone: the pictures are
before and after it.</p></div>"""
ABOUT_BYPASS = """<div class="about"><h3>What happens without a CRF</h3><p>Where the bypass begins, the LDM has an
estimate of the finished image. It goes on from there as if the skipped steps had confirmed it; the denoiser then takes
over again. Last, the finisher corrects the final latents by a VAE round trip: they are decoded and encoded again. The
pictures are before and after it; with the finisher off they are the estimate at the bypass. A trained LatentCRF takes
the place of both.</p></div>"""

VARIANCE_READING = (
    "Each line is the mean over the runs; the band reaches from the 5th to the 95th percentile. Grey: the steps that "
    "LatentCRF skips. Green: the longest block of steps in each of which the clean estimate changes by no more than "
    "the threshold. A step that hardly changes the clean estimate is redundant; the latents themselves change most in "
    "the last steps, as the rest of the noise goes."
)

CONVERGENCE_NOTES = {
    "images": format_note(
        "The first seed, an iteration a column: first where the sampler stopped, then what the solver makes of it. "
        "Below each image: its difference to the row's last one; white is none. 3MG is LatentCRF's solver, damped the "
        "plain mean-field update. The title's half a grey level is the mean over the first seed's pixels.",
        "The LDM runs up to the bypass. The CRF's network reads the potentials off what it hands over; from then on "
        "only the start of the minimization differs. LatentCRF itself starts at the target u that its network "
        "proposes, and has less far to go.",
    ),
    "curves": format_note(
        "The energy never rises. The residual is the length of an iteration's step over the latents' own length. "
        "Thick: mean over the seeds; thin: single seeds. Dotted: the damped update. Grey: LatentCRF's own start u.",
        "Energy of equations (1) to (4) of <code>latentcrf/potentials.py</code>, summed over the sites.",
    ),
    "energy-maps": format_note(
        "The map lies over the image. Yellow sites have the highest energy, blue ones the lowest; both rows share one "
        "scale. Point at a site to see its terms.",
        "Each site's share: its unary term, half of its pairs, and the experts centred on it.",
    ),
}

DIVERSITY_NOTES = {
    "measures": format_note(
        "Each mark is a method's diversity over the seeds. Where it stands as far right as the full run's, no "
        "diversity is lost; defects that differ from seed to seed raise it, too. Point at it for the ratio. LPIPS: how "
        "different two images look, 0 for the same. Vendi score: the effective number of different images, 1 if all "
        "are alike. DDIM-4 is a run of four steps, far too few.",
        "Mean LPIPS (AlexNet) of all pairs of images. Vendi score with the cosine kernel on EfficientNet-Lite0 "
        "features. 95 % jackknife intervals over the seeds.",
    ),
    "pairs": format_note(
        "Each cell is a pair of seeds: dark, they look alike; yellow, they differ. A method that loses diversity is "
        "darker. Point at a cell to see its two images below.",
        "LPIPS of the two images, the same colours for all methods.",
    ),
}

FRONTIER_READING = (
    "Each mark is a way to sample: the further left, the faster. The vertical axis says whether higher or lower is "
    "better. A difference is to the full run (dashed) on the same prompts and noise: where its bar, the 95 % interval, "
    "does not touch the dashed line, it is significant. No method here beats those on the dotted line in both time and "
    "quality. Guidance cut-off: no unconditional evaluation in the last part of a run. Step caching (DeepCache): most "
    "calls reuse the U-Net's deep features. Finished runs: a CRF corrects the final latents. Other baselines: bypasses "
    "without a CRF's fields, other things to do with final latents, lower guidance. Point at a mark for its settings, "
    "click it for its images."
)
FRONTIER_COMPUTATION = (
    "All methods drew from the same noise. Those that a conclusion rests on have more prompts than the others, whose "
    "prompts are among theirs; distances to the full run are on the prompts that all have. Intervals by bootstrap over "
    "the prompts. Times are CPU seconds of one thread, medians of runs interleaved with the full run's. "
    "<code>{command}</code> writes such a table; assets/results/README.md says what was run."
)

TRIED = (
    "In all of 20 prompts tried the contrast falls: to 10–37 % with unary × 0.01, to 16–50 % with pairwise × 100, to "
    "33–82 % with higher-order × 100."
)


def describe_crf(model_set: ModelSet) -> str:
    """Describe what a model's CRF changes, or what stands for it.

    Args:
        model_set: the model.

    Returns:
        HTML.
    """
    return ABOUT_BYPASS if model_set.crf is None else ABOUT_CRF


def read_method(model_set: ModelSet) -> dict[str, str]:
    """Read the method tab's text.

    Args:
        model_set: its sizes are filled in.

    Returns:
        Markdown by the section's name, in order. A section begins with its heading and ends with a question, whose
        answer is hidden.
    """
    text = Path(__file__).with_name("method.md").read_text(encoding="utf-8")
    channels, height, width = model_set.latent_shape
    for name, value in {
        "image": "{} × {} pixels".format(*model_set.image_size),
        "sites": f"{height} × {width} sites",
        "channels": f"{channels} numbers",
        "finisher": "A **VAE round trip**" if model_set.finisher is None else "A **second LatentCRF**",
        "tried": TRIED if model_set.is_embedded else "",
    }.items():
        text = text.replace(f"@{name}@", value)
    parts = re.split(r"^<!-- (\S+) -->\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
