"""The model card of a published LatentCRF: front matter for the Hub, an example, the recipe and the measured table."""

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCardData
from huggingface_hub.utils import validate_repo_id

if TYPE_CHECKING:
    from .model import LatentCRF

# What the Hub accepts (https://huggingface.co/docs/hub/repositories-licenses), but for "unknown".
LICENCES = frozenset((
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigcode-openrail-m", "bigscience-bloom-rail-1.0",
    "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0",
    "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "gemma",
    "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "lppl-1.3c", "mit",
    "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "openrail", "openrail++", "osl-3.0", "other", "pddl",
    "postgresql", "unlicense", "wtfpl", "zlib",
))  # fmt: skip
# Columns of a table of `analysis.benchmark` that a card shows, with their titles; of another table it shows all.
BENCHMARK_COLUMNS = {
    "method": "method",
    "network_evaluations": "network evaluations",
    "time_ratio": "time / full run",
    "kid": "KID",
    "r_at_5": "R@5",
    "pairwise_lpips": "pairwise LPIPS",
    "prompts": "prompts",
}
PROMPT = "red apple"
BYPASS_EXAMPLE = """\
from diffusers import DDIMScheduler, DiffusionPipeline
from latentcrf import LatentCRF, LatentCRFScheduler

pipe = DiffusionPipeline.from_pretrained("{base_model}", use_safetensors=True)
crf = LatentCRF.from_pretrained("{repo_id}", use_safetensors=True)
ddim = DDIMScheduler.from_config(pipe.scheduler.config)
pipe.scheduler = LatentCRFScheduler(ddim, crf, bypass=(33, 49))
{prompt_lines}image = pipe("{prompt}", num_inference_steps=50).images[0]  # 34 denoiser calls instead of 50
image.save("image.png")
"""
FINISHER_EXAMPLE = """\
from diffusers import DiffusionPipeline, UniPCMultistepScheduler
from latentcrf import Finisher, LatentCRF, LatentCRFScheduler

pipe = DiffusionPipeline.from_pretrained("{base_model}", use_safetensors=True)
finisher = Finisher(LatentCRF.from_pretrained("{repo_id}", use_safetensors=True))
unipc = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
pipe.scheduler = LatentCRFScheduler(unipc, bypass=None, finisher=finisher)
{prompt_lines}image = pipe("{prompt}", num_inference_steps=12).images[0]  # 12 denoiser calls, then the finisher
image.save("image.png")
"""
PROMPT_LINES = """\
embeds = pipe.encode_prompt(
    prompt="{prompt}", device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False
)
pipe.scheduler.prompt_embeds = embeds[0]
"""
# What a card says under a table of `analysis.benchmark`.
BENCHMARK_NOTE = """\


By `python -m analysis.benchmark`; in brackets the 95 % bootstrap interval. KID is the distance to real images (lower is
better), R@5 how often the prompted subject is recognised, pairwise LPIPS the diversity between seeds."""


def check_repo_id(name: str, value: Any) -> None:
    """Check a repository's name.

    Args:
        name: of the argument, for the message.
        value: USER/NAME, as on the Hub.

    Raises:
        ValueError: it is none.
    """
    rule = "Accepted is USER/NAME as on the Hub: letters, digits, '-', '_' and '.', at most 96 characters."
    if not isinstance(value, str) or value.count("/") != 1:
        raise ValueError(f"{name} is {value!r}. {rule}")
    try:
        validate_repo_id(value)
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}. {rule}") from error


def _read_results(results: Any) -> list[Mapping[str, Any]]:
    """Read rows from a DataFrame, a CSV's path or an iterable of rows.

    Raises:
        ValueError: there is no row, or one is no mapping.
        OSError: the file cannot be read.
    """
    if isinstance(results, (str, Path)):
        with open(results, newline="", encoding="utf-8") as file:
            rows: list[Any] = list(csv.DictReader(file))
    elif hasattr(results, "to_dict"):
        rows = results.to_dict("records")
    else:
        rows = list(results) if isinstance(results, Iterable) else []
    if not rows or not all(isinstance(row, Mapping) and row for row in rows):
        raise ValueError(
            "results has no rows. Accepted are a DataFrame, a list of dicts and the path of a CSV file, with at least "
            "one row and one column: a card without a measured table does not say what the model is worth."
        )
    return rows


def _format_cell(place: str, value: Any) -> str:
    """Write a cell.

    Raises:
        ValueError: it is empty, NaN or infinite.
    """
    text = "" if value is None else str(value).strip()
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not text or not math.isfinite(number):
        raise ValueError(f"results: {place} is {text or 'empty'}. Each cell of the card's table needs a value.")
    if not isinstance(value, bool) and number and not text.lstrip("+-").isdigit():
        return f"{number:.3g}" if abs(number) < 1000 else f"{number:,.0f}"
    return " ".join(text.split()).replace("|", "\\|")


def format_results(results: Any) -> str:
    """Format the measured table in Markdown.

    A column NAME with NAME_low and NAME_high beside it is shown with this interval. Of a table of `analysis.benchmark`
    the columns of `BENCHMARK_COLUMNS` are shown.

    Args:
        results: a DataFrame, a list of dicts or the path of a CSV file.

    Returns:
        The table; under one of the benchmark, what its columns are.

    Raises:
        ValueError: no rows, rows of other columns than the first's, or an empty cell, NaN or infinity in a column that
            is shown.
        OSError: the file cannot be read.
    """
    rows = _read_results(results)
    names = [str(name) for name in rows[0]]
    # The benchmark has no R@5 where the images have no subjects.
    is_benchmark = set(BENCHMARK_COLUMNS) - {"r_at_5"} <= set(names)
    titles = {name: BENCHMARK_COLUMNS[name] for name in BENCHMARK_COLUMNS if name in names}
    titles = titles if is_benchmark else {name: name for name in names}
    intervals = {name: (f"{name}_low", f"{name}_high") for name in titles}
    intervals = {name: bounds for name, bounds in intervals.items() if set(bounds) <= set(names)}
    shown = [name for name in titles if not any(name in bounds for bounds in intervals.values())]
    lines = [[titles[name].replace("|", "\\|") for name in shown], ["---"] * len(shown)]
    for number, row in enumerate(rows, start=1):
        if [str(name) for name in row] != names:
            raise ValueError(f"results: row {number} has other columns than the first row.")
        cells = []
        for name in shown:
            texts = [
                _format_cell(f"row {number}, column {part!r}", row[part]) for part in (name, *intervals.get(name, ()))
            ]
            cells.append(f"{texts[0]} ({texts[1]} to {texts[2]})" if name in intervals else texts[0])
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + BENCHMARK_NOTE * is_benchmark


def format_recipe(recipe: str | Mapping[str, Any]) -> str:
    """Format how the model was trained.

    Args:
        recipe: Markdown text, or the options of the training by name.

    Returns:
        The text, or a table of the options.

    Raises:
        ValueError: it is empty.
    """
    text = recipe if isinstance(recipe, str) else ""
    if isinstance(recipe, Mapping) and recipe:
        rows = [f"| `{name}` | {'' if value is None else f'`{value}`'} |" for name, value in recipe.items()]
        text = "\n".join(["| option | value |", "| --- | --- |", *rows])
    if not text.strip():
        raise ValueError("recipe is empty. Accepted are a text (the training's command) and a dict of its options.")
    return text.strip()


def format_example(crf: "LatentCRF", repo_id: str, base_model: str) -> str:
    """Write the example: a bypass for a bypass CRF, the correction of final latents for a finisher.

    Args:
        crf: the model.
        repo_id: of the model.
        base_model: of the LDM.

    Returns:
        Python code.
    """
    prompt_lines = PROMPT_LINES.format(prompt=PROMPT) if crf.prompt_dim is not None else ""
    example = FINISHER_EXAMPLE if crf.corrects_clean else BYPASS_EXAMPLE
    return example.format(repo_id=repo_id, base_model=base_model, prompt=PROMPT, prompt_lines=prompt_lines)


def write_card(
    crf: "LatentCRF", repo_id: str, *, base_model: str, license: str, recipe: str | Mapping[str, Any], results: Any
) -> str:
    """Write the model card.

    Args:
        crf: the model.
        repo_id: USER/NAME of the model on the Hub.
        base_model: USER/NAME of the LDM that it was trained for.
        license: identifier as on the Hub, "creativeml-openrail-m" for instance.
        recipe: how it was trained: a text, or the options of the training by name.
        results: the measured table, as of `format_results`.

    Returns:
        The text of README.md.

    Raises:
        ValueError: a name that is none, an unknown licence, an empty recipe, or results as of `format_results`.
        OSError: the file of the results cannot be read.
    """
    check_repo_id("repo_id", repo_id)
    check_repo_id("base_model", base_model)
    if license not in LICENCES:
        raise ValueError(
            f"license is {license!r}. Accepted are the Hub's identifiers: {', '.join(sorted(LICENCES))}. The licences "
            "of the base model and of the data bind the weights too."
        )
    how, table = format_recipe(recipe), format_results(results)
    kind = "finisher" if crf.corrects_clean else "bypass"
    front: dict[str, Any] = {
        "license": license,
        "library_name": "diffusers",
        "base_model": base_model,
        "base_model_relation": "adapter",
        "pipeline_tag": "text-to-image",
        "tags": ["latentcrf", "conditional-random-field", kind],
    }
    terms = ["unary"] + ["pairwise"] * bool(crf.pairwise_rank) + ["higher-order"] * bool(crf.num_experts)
    role = (
        "It corrects the final latents of any run."
        if crf.corrects_clean
        else "It replaces a block of the steps of a run, the bypass."
    )
    return f"""\
---
{ModelCardData(**front).to_yaml(original_order=list(front))}
---
# {repo_id.split("/")[1]}: a {"finisher" if crf.corrects_clean else "bypass CRF"} for {base_model}

A [LatentCRF](https://arxiv.org/abs/2412.18596) ({crf.form} form, terms: {", ".join(terms)}; {crf.num_parameters():,}
parameters, {str(crf.dtype).removeprefix("torch.")}). {role} The Python package `latentcrf` loads it:

```python
{format_example(crf, repo_id, base_model)}```

## Training

{how}

## Measured

{table}

## Limits

It fits the latents of {base_model} only, and of models that share its autoencoder.
"""
