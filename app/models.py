"""The base models that the page offers: entries of app/models.json, and the one that the command line names.

python -m app.models pin    # asks the Hugging Face hub for the newest revisions and writes them into the file
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from safetensors import SafetensorError, safe_open

from app.models_file import (
    COMMIT,
    DEFAULTS,
    MODELS_FILE,
    ROOT,
    ModelsError,
    Source,
    read_entries,
)
from app.prompts import Prompt, Subject, read_prompt, read_subjects
from app.settings import DECLARATIONS, Settings, SettingsError

EMBEDDED = ROOT / "assets" / "models" / "emoji-ldm"
# Pipeline class -> settings that differ from `DEFAULTS` for a model without an entry.
PIPELINES: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"guidance": 7.5},
    "StableDiffusionXLPipeline": {"guidance": 5.0},
}
FEW_STEPS, FEW_STEPS_CUTOFF = 12, 0.33  # the benchmark's "UniPC-12 cut-off 1/3 + finisher"
PROMPTS = ("a red apple on a table", "a lighthouse at sunset", "a bowl of ramen", "a steam train in the snow")
# Schedulers that LatentCRF cannot wrap and DDIM of the same configuration replaces.
REPLACED = (
    "PNDMScheduler", "IPNDMScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler",
)  # fmt: skip
PAPER, FAST, CUSTOM = "paper", "fast", "custom"  # modes of the compare tab
SOURCES = ("model", "crf", "finisher")  # keys of an entry that name where files are
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")  # files of a tokenizer's words
CRF_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


@dataclass(frozen=True)
class ModelSet:
    """A base model with its CRFs.

    Attributes:
        name: of the set, in links, PNGs and the API: "emoji".
        title: on the page.
        model: the pipeline.
        crf: the bypass CRF; None: the model has none, its bypass is without parameters.
        finisher: the finisher's CRF; None: a VAE round trip instead.
        defaults: settings of form, API and analysis tabs.
        few_steps: denoiser calls of the mode `FAST`.
        few_steps_cutoff: that mode's guidance cut-off.
        prompts: examples on the compare tab.
        variance_prompts: prompts of the variance tab's runs.
        own_scheduler: class of the pipeline's own scheduler.
        prompt_tokens: how much of a prompt the text encoder reads, in tokens.
        image_size: height and width of an image, in pixels.
        latent_shape: channels, height and width of the latents.
    """

    name: str
    title: str
    model: Source
    crf: Source | None
    finisher: Source | None
    defaults: Settings
    few_steps: int
    few_steps_cutoff: float
    prompts: tuple[str, ...]
    variance_prompts: tuple[str, ...]
    own_scheduler: str
    prompt_tokens: int
    image_size: tuple[int, int]
    latent_shape: tuple[int, int, int]

    @property
    def sources(self) -> dict[str, Source]:
        """The sources by what they are: "ldm", "crf" and "finisher"."""
        found = {"ldm": self.model, "crf": self.crf, "finisher": self.finisher}
        return {name: source for name, source in found.items() if source is not None}

    @property
    def modes(self) -> dict[str, dict[str, Any]]:
        """The settings that make the modes `PAPER` and `FAST`, by name."""
        defaults = self.defaults
        common: dict[str, Any] = {"steps": defaults.steps, "iterations": defaults.iterations}
        bypass = {"bypass_start": defaults.bypass_start, "bypass_end": defaults.bypass_end}
        return {
            PAPER: {**common, **bypass, "finisher": False, "few_steps": 0, "guidance_cutoff": 0.0},
            FAST: {
                **common,
                "finisher": True,
                "few_steps": self.few_steps,
                "guidance_cutoff": self.few_steps_cutoff,
            },
        }

    def find_mode(self, values: Mapping[str, Any]) -> str:
        """Find the mode that settings belong to.

        Args:
            values: settings by name, those of `app.settings.METHOD` at least.

        Returns:
            `PAPER`, `FAST`, or `CUSTOM` where they depart from both.
        """
        for name, own in self.modes.items():
            if all(values[setting] == value for setting, value in own.items()):
                return name
        return CUSTOM

    @property
    def is_scheduler_replaced(self) -> bool:
        """Whether DDIM takes the place of the pipeline's own scheduler."""
        return self.own_scheduler in REPLACED

    @property
    def sampler(self) -> str:
        """The scheduler of the full run, in words."""
        return "DDIM" if self.is_scheduler_replaced else self.own_scheduler.removesuffix("Scheduler")

    @property
    def is_embedded(self) -> bool:
        """Whether it is the model that the results in this copy were measured with."""
        return self.crf is not None and not self.model.on_hub and self.model.folder.resolve() == EMBEDDED

    @property
    def export_options(self) -> dict[str, str]:
        """Options of the analyses' command lines that name this model; none for the embedded one."""
        if self.is_embedded:
            return {}
        return {"model": self.model.place, "crf": "none" if self.crf is None else self.crf.place}

    @property
    def training_command(self) -> str:
        """The command that trains a bypass CRF for this model."""
        return f"accelerate launch -m latentcrf.training.train --base {self.model} --data FOLDER --out runs/{self.name}"

    @property
    def finisher_name(self) -> str:
        """What corrects final latents, in words."""
        return "VAE round trip" if self.finisher is None else "finisher"

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """What the model learned to draw; none where it ships without a table."""
        return () if self.model.on_hub else read_subjects(self.model.folder)

    def read_prompt(self, typed: str) -> Prompt:
        """Read a prompt as the model does: emoji by their names.

        Args:
            typed: a checked prompt.

        Returns:
            It, with notes on what the model cannot read or do.

        Raises:
            SettingsError: the model can read no word of it.
        """
        prompt = read_prompt(typed, self.subjects)
        if not prompt.is_readable:
            raise SettingsError(f"Prompt: {' '.join(prompt.notes)}")
        return prompt

    def list_files(self) -> Iterator[Path]:
        """List the files of this machine that loading needs; those on the hub are checked as they are fetched.

        Yields:
            Their paths.

        Raises:
            ModelsError: model_index.json is missing or damaged.
        """
        if not self.model.on_hub:
            yield self.model.folder / "model_index.json"
            for name, part in read_config(self.model, "model_index.json").items():
                if not isinstance(part, list) or len(part) != 2 or part[1] is None:
                    continue
                folder, kind = self.model.folder / name, str(part[1])
                if kind.endswith("Scheduler"):
                    yield folder / "scheduler_config.json"
                elif "Tokenizer" in kind:
                    yield folder / "tokenizer_config.json"
                    words = [folder / name for name in VOCABULARIES if (folder / name).is_file()]
                    yield from words or [folder / VOCABULARIES[0]]  # without them it reads every word as unknown
                elif kind.endswith(("Extractor", "Processor")):
                    yield folder / "preprocessor_config.json"
                else:
                    stem = "diffusion_pytorch_model" if part[0] == "diffusers" else "model"
                    index = folder / f"{stem}.safetensors.index.json"  # of weights in several files
                    yield from (folder / "config.json", index if index.is_file() else folder / f"{stem}.safetensors")
        for source in (self.crf, self.finisher):
            if source is not None and not source.on_hub:
                yield from (source.folder / file for file in CRF_FILES)

    def check(self) -> None:
        """Check that all files of this machine are there and whole, without loading them.

        Raises:
            ModelsError: one is missing or cut off.
        """
        advice = f"Is {self.model} the folder of the model, and was it fetched completely?"
        for path in self.list_files():
            if not path.is_file():
                pickled = [each.name for each in path.parent.glob("*.bin")] if path.suffix == ".safetensors" else []
                if pickled:
                    raise ModelsError(
                        f"{path} is missing. {pickled[0]} is there, but pickled weights are never loaded: save the "
                        "pipeline with safe_serialization=True."
                    )
                raise ModelsError(f"{path} is missing. {advice}")
            if path.suffix == ".json":
                try:
                    json.loads(path.read_text(encoding="utf-8"))
                except ValueError as error:
                    raise ModelsError(f"{path} is damaged: it is no JSON ({error}). {advice}") from None
            if path.suffix == ".safetensors":
                try:
                    safe_open(path, framework="numpy")  # reads the header, which says how long the file must be
                except (SafetensorError, OSError) as error:
                    raise ModelsError(f"{path} is damaged ({error}). {advice}") from None


@dataclass(frozen=True)
class Catalog:
    """The models that a page offers.

    Attributes:
        models: by name; the first is shown first.
        refused: a sentence for each entry of the file that is not offered, by its name.
    """

    models: Mapping[str, ModelSet]
    refused: Mapping[str, str]

    @property
    def default(self) -> ModelSet:
        """The model that is shown first."""
        return next(iter(self.models.values()))

    def get(self, name: Any) -> ModelSet:
        """Look a model up.

        Args:
            name: from a visitor; None or "" is the default.

        Returns:
            The model.

        Raises:
            SettingsError: the page does not offer it.
        """
        if name is None or name == "":
            return self.default
        if isinstance(name, str) and name in self.models:
            return self.models[name]
        shown = name[:64] if isinstance(name, str) else type(name).__name__
        raise SettingsError(f"Model must be one that this page offers: {', '.join(self.models)}; it was {shown!r}.")

    def parse(self, values: Mapping[str, Any]) -> Settings:
        """Read settings from untrusted values; missing ones are the model's defaults.

        Args:
            values: by name; `model` names the model.

        Returns:
            The checked settings, emoji in the prompt by their names.

        Raises:
            SettingsError: as of `get`, `Settings.parse` and `ModelSet.read_prompt`.
        """
        model_set = self.get(values.get("model"))
        settings = Settings.parse(values, model_set.defaults)
        return replace(settings, prompt=model_set.read_prompt(settings.prompt).text)

    def read_prompt(self, values: Mapping[str, Any]) -> Prompt:
        """Read the prompt among untrusted values, with notes for the visitor.

        Args:
            values: as of `parse`.

        Returns:
            The prompt.

        Raises:
            SettingsError: as of `get` and `ModelSet.read_prompt`, or it is no prompt.
        """
        typed = str(DECLARATIONS["prompt"].check(values.get("prompt", "")))
        return self.get(values.get("model")).read_prompt(typed)


# ---------------------------------------------------------------------------------------------- reading


def read_catalog(
    chosen: str | None = None, is_public: bool = False, may_fetch: bool = False, path: Path = MODELS_FILE
) -> Catalog:
    """Read what the page offers.

    Entries of the file whose model is neither on this machine nor may be fetched are not offered.

    Args:
        chosen: the model that is shown first: an entry's name, PATH, ID or ID@REVISION; None: the file's first.
        is_public: whether strangers use the page: it offers the file's entries only, each at a commit.
        may_fetch: whether the hub may be reached; False (default): only its cache on this machine is looked into.
        path: of the file.

    Returns:
        The catalog.

    Raises:
        ModelsError: the file or the chosen model cannot be used.
    """
    entries = {entry["name"]: entry for entry in read_entries(path)}
    refused: dict[str, str] = {}
    models: dict[str, ModelSet] = {}
    if chosen is not None and chosen not in entries:
        if is_public:
            raise ModelsError(
                f"--model {chosen}: a public page offers the entries of {path.name} only: {', '.join(entries)}."
            )
        source = Source.parse(chosen)
        entry = {"name": name_model(source), "title": source.place.rstrip("/").split("/")[-1], "model": chosen}
        models[entry["name"]] = build_model_set(entry, Path(), may_fetch)
        entries.pop(entry["name"], None)  # the name is the chosen model's then
    order = sorted(entries, key=lambda name: name != chosen)
    for name in order:
        try:
            if is_public:
                check_pins(entries[name], path)
            models[name] = build_model_set(entries[name], ROOT, may_fetch)
        except ModelsError as error:
            if name == (chosen or order[0]):
                raise
            refused[name] = str(error)
    return Catalog(models, refused)


def find_file(source: Source, name: str, may_fetch: bool = True) -> Path | None:
    """Find a file of a model; one of the hub is fetched, or looked for in its cache if the hub may not be reached.

    Args:
        source: of the model.
        name: path within the model.
        may_fetch: as of `read_catalog`, default True.

    Returns:
        The file; None where there is no such file.

    Raises:
        ModelsError: the hub does not answer, or has no such model.
    """
    if not source.on_hub:
        path = source.folder / name
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(source.place, name, revision=source.revision, local_files_only=not may_fetch))
    except EntryNotFoundError as error:
        if isinstance(error, FileNotFoundError) and name == "model_index.json":  # of `LocalEntryNotFoundError`
            raise ModelsError(
                f"{source} is not in the Hugging Face hub's cache on this machine; --model {source} fetches it, if the "
                "hub answers."
            ) from None
        return None
    except (OSError, HFValidationError) as error:
        raise ModelsError(f"{source} cannot be had from the Hugging Face hub: {error}") from None


def read_config(source: Source, name: str, may_fetch: bool = True) -> dict[str, Any]:
    """Read a JSON file of a model.

    Args:
        source: of the model.
        name: path within the model.
        may_fetch: as of `find_file`.

    Raises:
        ModelsError: it is missing, or no JSON object.
    """
    path = find_file(source, name, may_fetch)
    if path is None:
        raise ModelsError(f"{source.place}/{name} is missing. Is it the folder of a pipeline, and complete?")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ModelsError(f"{source.place}/{name} is damaged: it is no JSON object.")
    return config


def name_model(source: Source) -> str:
    """Name a model that has no entry by the last part of its place.

    Args:
        source: of the pipeline.
    """
    last = Path(source.place).resolve().name if not source.on_hub else source.place.split("/")[-1]
    return re.sub(r"[^a-z0-9._-]+", "-", last.lower()).strip("-._")[:64] or "model"


def check_pins(entry: dict[str, Any], path: Path) -> None:
    """Check that an entry always means the same files.

    Args:
        entry: as of `read_entries`.
        path: of the file.

    Raises:
        ModelsError: a repository is named without a commit.
    """
    for source in (Source.parse(entry[key], ROOT) for key in SOURCES if key in entry):
        if not source.is_pinned:
            raise ModelsError(
                f"{source} names no commit, so its owner could exchange the files: a public page does not offer it. "
                f"`python -m app.models pin` writes the commits into {path.name}."
            )


def build_model_set(entry: dict[str, Any], root: Path, may_fetch: bool) -> ModelSet:
    """Build a model set from an entry and from the configurations of its pipeline.

    Args:
        entry: as of `read_entries`; one without `prompts` and `defaults` gets those of its class.
        root: what paths are relative to.
        may_fetch: as of `read_catalog`.

    Returns:
        The model set.

    Raises:
        ModelsError: the pipeline is not there, of another class, or the entry's settings are out of range.
    """
    sources = {key: Source.parse(entry[key], root) for key in SOURCES if key in entry}
    model = sources["model"]
    kind = str(read_config(model, "model_index.json", may_fetch).get("_class_name"))
    if kind not in PIPELINES:
        raise ModelsError(f"{model} is a {kind}; this page takes {' and '.join(PIPELINES)}.")
    if model.on_hub and not may_fetch and not has_weights(model):
        raise ModelsError(f"{model} is in the cache of the Hugging Face hub only in part.")
    names = (
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/config.json",
        "tokenizer/tokenizer_config.json",
    )
    scheduler, unet, vae, tokenizer = (read_config(model, name, may_fetch) for name in names)
    prompts = tuple(entry.get("prompts", PROMPTS))
    values = {"prompt": prompts[0], **DEFAULTS, **PIPELINES[kind], **entry.get("defaults", {})}
    fast = {"few_steps": FEW_STEPS, "guidance_cutoff": FEW_STEPS_CUTOFF} | entry.get("fast", {})
    try:
        base = Settings(**values, model=entry["name"])
        defaults = Settings.parse(values, base)
        Settings.parse({**values, **fast, "finisher": True}, base)
        side = unet["sample_size"]
        height, width = (side, side) if isinstance(side, int) else map(int, side)
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        shape = (int(unet["in_channels"]), height, width)
        tokens = int(tokenizer.get("model_max_length", 77)) - 2
    except SettingsError as error:
        raise ModelsError(f"The defaults of {entry['name']} cannot be used. {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ModelsError(f"The configurations of {model} are not those of a pipeline: {error!r}.") from None
    return ModelSet(
        name=entry["name"],
        title=entry["title"],
        model=model,
        crf=sources.get("crf"),
        finisher=sources.get("finisher"),
        defaults=defaults,
        few_steps=int(fast["few_steps"]),
        few_steps_cutoff=float(fast["guidance_cutoff"]),
        prompts=prompts,
        variance_prompts=tuple(entry.get("variance_prompts", prompts)),
        own_scheduler=str(scheduler.get("_class_name")),
        prompt_tokens=tokens,
        image_size=(factor * height, factor * width),
        latent_shape=shape,
    )


def has_weights(source: Source) -> bool:
    """Tell whether the hub's cache on this machine holds the weights of a pipeline's U-Net.

    Args:
        source: on the hub.
    """
    names = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")
    return any(find_file(source, f"unet/{name}", may_fetch=False) for name in names)


# ---------------------------------------------------------------------------------------------- pinning


def pin(path: Path = MODELS_FILE, api: HfApi | None = None) -> dict[str, str]:
    """Write the newest commit of each repository into a models file.

    Args:
        path: of the file.
        api: of the hub; default: the public hub's.

    Returns:
        The commits by repository.

    Raises:
        ModelsError: the file cannot be used, or the hub does not answer; the file is as it was.
    """
    api = api or HfApi()
    commits: dict[str, str] = {}
    text = path.read_text(encoding="utf-8")
    for entry in read_entries(path):
        for key in (key for key in SOURCES if key in entry):
            source = Source.parse(entry[key], ROOT)
            if not source.on_hub:
                continue
            try:
                commit = api.model_info(source.place).sha
            except Exception as error:  # of the hub or of the network below it, which has its own kinds
                raise ModelsError(f"{source.place} cannot be looked up on the Hugging Face hub: {error}") from None
            if commit is None or not COMMIT.fullmatch(commit):
                raise ModelsError(f"the Hugging Face hub names no commit of {source.place}.")
            commits[source.place] = commit
            text = text.replace(json.dumps(entry[key]), json.dumps(f"{source.place}@{commit}"))
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)
    return commits


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: default: the process's.

    Returns:
        The exit status: 0, or 1 after an error message.
    """
    parser = argparse.ArgumentParser(
        prog="python -m app.models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["pin"], help="write the newest commits of the models into the file")
    parser.add_argument("--file", type=Path, default=MODELS_FILE, help="of the models (default app/models.json)")
    options = parser.parse_args(arguments)
    try:
        commits = pin(options.file)
    except (ModelsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for repository, commit in commits.items():
        print(f"{repository} is pinned at {commit}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
