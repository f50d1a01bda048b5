"""Pipelines of diffusers with a swappable scheduler, each with each kind of scheduler, on tiny random models.

python -m tests.conformance.pipelines Flux Sana  # the families whose names contain one of these
python -m tests.conformance.pipelines --log verdicts.jsonl --write docs/other-models.md  # all, about an hour
"""

import argparse
import copy
import itertools
import json
import logging
import re
import textwrap
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

import latentcrf
from latentcrf import Finisher, LatentCRFScheduler
from tests.conformance.families import FAMILIES, Family, explain_absence, list_pipelines
from tests.conformance.schedulers import Verdict, first_line, largest, list_classes, make_finisher

Verdicts = dict[str, dict[str, Verdict]]  # by family and scheduler class
STATES = ("works", "refused", "not applicable")
BEGIN, END = "<!-- begin of the table of tests.conformance.pipelines -->", "<!-- end of the table -->"
STEPS, BYPASS = 5, (2, 4)
BATCH = 1e-4  # largest difference of an item of a batch from its single run, for latents of deviation 1


TIMESTEP = ("timestep", "timesteps", "timestep_ratio")  # the denoisers' names for it


@dataclass
class Trace:
    """What a run of a pipeline did.

    Attributes:
        latents: what the pipeline returned.
        timesteps: that the denoiser was given, one a call.
        seen: the latents that the denoiser was given, one a call.
    """

    latents: Tensor | None = None
    timesteps: list[float] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)


def make_pipeline(family: Family, scheduler: Any) -> Any:
    """Make a family's pipeline, with the same random weights each time."""
    torch.manual_seed(0)
    pipe = family.build(scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_scheduler(family: Family, name: str) -> Any:
    return getattr(diffusers, name).from_config(family.config)


def run(pipe: Any, family: Family, scheduler: Any, items: Sequence[int] = (0, 1), **more: Any) -> Trace:
    """Run a pipeline with a scheduler, each item with its own generator.

    Args:
        pipe: of the family.
        family: how to call it.
        scheduler: takes the place of the pipeline's.
        items: of the batch, by number.
        more: arguments of the call.

    Returns:
        What it did. If it raises, the exception holds what it did up to there as `trace`.
    """
    pipe.scheduler, trace = scheduler, Trace()
    torch.manual_seed(0)  # not every pipeline passes its generators to the scheduler

    calls = itertools.count()

    def note(module: Any, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if next(calls) % family.calls:
            return
        timestep = arguments[1] if len(arguments) > 1 else next(named[name] for name in TIMESTEP if name in named)
        seen = arguments[0] if arguments else named.get("sample", named.get("hidden_states"))
        trace.timesteps.append(float(torch.as_tensor(timestep).flatten()[0]))
        trace.seen.append(torch.stack(seen)[:, :, 0] if isinstance(seen, list) else seen.clone())  # Z-Image: a list

    def keep_latents(module: Any, arguments: tuple[Any, ...]) -> None:
        decoded.append(arguments[0])

    decoded: list[Tensor] = []
    handles = [getattr(pipe, family.denoiser).register_forward_hook(note, with_kwargs=True)]
    if family.decoder is not None:
        handles.append(attrgetter(family.decoder)(pipe).register_forward_pre_hook(keep_latents))
    generators = [torch.Generator().manual_seed(10 + item) for item in items]
    call = {"num_inference_steps": STEPS, "output_type": "latent", "generator": generators}
    try:
        trace.latents = torch.as_tensor(pipe(**call | family.arguments(items) | more)[0])
    except Exception as error:
        error.trace = trace  # type: ignore[attr-defined]
        raise
    finally:
        for handle in handles:
            handle.remove()
    if decoded:
        trace.latents = decoded[0]
    return trace


def is_ours(error: BaseException) -> bool:
    """Whether an exception is a refusal of ours: a ValueError with a sentence, raised in latentcrf."""
    where = traceback.extract_tb(error.__traceback__)[-1].filename
    is_inside = Path(latentcrf.__file__).parent in Path(where).parents
    return type(error) is ValueError and is_inside and str(error).endswith((".", "!"))


def examine(name: str, kind: str) -> Verdict:
    """Examine a pipeline with a kind of scheduler.

    Args:
        name: of the family.
        kind: name of the scheduler class.
    """
    family = FAMILIES[name]
    try:
        inner = make_scheduler(family, kind)
    except Exception as error:
        return Verdict("not applicable", f"cannot be made: {type(error).__name__}: {first_line(error)}")
    try:
        LatentCRFScheduler(inner, None, BYPASS)
    except ValueError as error:
        return Verdict("refused", str(error))
    pipe = make_pipeline(family, make_scheduler(family, kind))
    try:
        full = run(pipe, family, inner)
    except Exception as error:
        return Verdict("not applicable", f"unwrapped: {type(error).__name__}: {first_line(error)}")
    if not torch.isfinite(full.latents).all():
        return Verdict("not applicable", "unwrapped: the latents are not finite")
    try:
        problems, numbers = compare(pipe, family, kind, full)
    except Exception as error:
        if is_ours(error):
            calls = len(error.trace.timesteps)  # type: ignore[attr-defined]
            state = "refused" if calls <= 1 else "wrong"
            return Verdict(state, str(error), {"calls": calls})
        return Verdict("wrong", f"{type(error).__name__}: {first_line(error)}")
    return Verdict("wrong" if problems else "works", "; ".join(problems), numbers)


def compare(pipe: Any, family: Family, kind: str, full: Trace) -> tuple[list[str], dict[str, float]]:
    """Compare wrapped runs with the unwrapped one.

    Args:
        pipe: of the family.
        family: how to call it.
        kind: name of the scheduler class.
        full: the unwrapped run.

    Returns:
        What is wrong, and what was measured.
    """
    problems: list[str] = []

    def wrap(bypass: Any, finisher: Finisher | None = None) -> LatentCRFScheduler:
        return LatentCRFScheduler(make_scheduler(family, kind), None, bypass, finisher=finisher)

    plain = run(pipe, family, wrap(None))
    if not torch.equal(plain.latents, full.latents) or plain.timesteps != full.timesteps:
        problems.append("with nothing bypassed it is not the unwrapped run")

    scheduler = wrap(BYPASS)
    kept = run(pipe, family, scheduler)
    problems += check_calls(kept, full) or check_re_entry(kept, full, scheduler, family)
    record = scheduler.last_bypass
    if record is None or not torch.isfinite(record.latents).all() or not torch.isfinite(kept.latents).all():
        return [*problems, "no finite record of the bypass"], {}
    # relative to latents of deviation 1: random weights may let the latents grow
    scale = max(1.0, float(kept.latents.std()))
    single = run(pipe, family, wrap(BYPASS), [1]).latents
    first, second = kept.latents.chunk(2)
    numbers = {"calls": len(kept.timesteps), "of": len(full.timesteps), "batch": largest(single, second) / scale}
    if torch.equal(first, second):
        problems.append("the items of the batch do not differ")
    if numbers["batch"] > BATCH:  # it may without the add-on: not every pipeline passes its generators on
        plain_single = run(pipe, family, make_scheduler(family, kind), [1]).latents
        if largest(plain_single, full.latents.chunk(2)[1]) / max(1.0, float(full.latents.std())) <= BATCH:
            problems.append(f"a batch differs from its single items by {numbers['batch']:.2g}")

    inside = torch.ones(1, 1, 1, 1) if family.mask is None else family.mask
    scheduler.finisher = make_finisher(record.latents.shape[1])
    for bypass in (BYPASS, (BYPASS[0], STEPS)):
        scheduler.bypass = bypass
        with torch.no_grad():
            finished = run(pipe, family, scheduler)
        finish = scheduler.last_finish
        if finish is None or not torch.equal(finished.latents * inside, family.shown(finish.latents) * inside):
            problems.append(f"bypass {bypass}: the finisher's latents are not the pipeline's")
        elif torch.equal(finish.latents, finish.before):
            problems.append(f"bypass {bypass}: the finisher changed nothing")
        elif bypass == BYPASS and not torch.equal(family.shown(finish.before) * inside, kept.latents * inside):
            problems.append("a second run differs from the first")
        if bypass == BYPASS and finished.timesteps != kept.timesteps:
            problems.append("a second run has other timesteps")
    return problems, numbers


def check_calls(kept: Trace, full: Trace) -> list[str]:
    """Check that the denoiser was called at the unwrapped run's timesteps without the skipped ones.

    Args:
        kept: the run with a bypass.
        full: the unwrapped run, which begins at a later step in image-to-image.
    """
    begin = STEPS - len(full.timesteps)
    first, last = BYPASS[0] - begin, BYPASS[1] - begin
    expected = full.timesteps[:first] + full.timesteps[last:]
    if len(kept.timesteps) != len(expected):
        return [f"{len(kept.timesteps)} denoiser calls instead of {len(expected)}"]
    problems = []
    if kept.timesteps != expected:
        shown = [[round(value, 3) for value in values] for values in (kept.timesteps, expected)]
        problems.append(f"the denoiser was called at {shown[0]} instead of {shown[1]}")
    if any(not torch.equal(kept.seen[index], full.seen[index]) for index in range(first)):
        problems.append("before the bypass the denoiser does not see the unwrapped run's latents")
    return problems


def check_re_entry(kept: Trace, full: Trace, scheduler: LatentCRFScheduler, family: Family) -> list[str]:
    """Check that the denoiser's first call after the bypass sees the bypass's latents, scaled for its timestep.

    Args:
        kept: the run with a bypass.
        full: the unwrapped run.
        scheduler: of `kept`.
        family: of the pipeline.
    """
    record, inner = scheduler.last_bypass, scheduler.scheduler
    index = BYPASS[0] - (STEPS - len(full.timesteps))
    if record is None or len(kept.seen) <= index:
        return ["the denoiser is not called after the bypass"]
    count, channels = record.latents.shape[:2]
    seen = family.given(kept.seen[index])[:count, :channels]
    expected = [record.latents]  # some pipelines do not scale
    fresh = copy.deepcopy(inner)
    fresh._step_index = None
    if hasattr(fresh, "scale_model_input"):
        if hasattr(fresh, "set_begin_index"):
            fresh.set_begin_index(BYPASS[1])
        expected.append(fresh.scale_model_input(record.latents, inner.timesteps[BYPASS[1]]))
    inside = torch.ones(1, 1, 1, 1) if family.mask is None else family.mask
    problems = []
    if not any(torch.allclose(seen * inside, each * inside, rtol=1e-5, atol=1e-5) for each in expected):
        problems.append("after the bypass the denoiser does not see the bypass's latents")
    skipped = BYPASS[1] - BYPASS[0]
    outside = [
        torch.equal(kept.seen[i] * (1 - inside), full.seen[i + skipped] * (1 - inside))
        for i in range(index, len(kept.seen))
    ]
    if family.mask is not None and not all(outside):
        problems.append("outside the mask the latents after the bypass have another noise level")
    return problems


def matches(name: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(part in name for part in wanted)


def examine_all(wanted: Sequence[str], log: Path | None) -> Verdicts:
    """Examine all pairs.

    Args:
        wanted: parts of the families' names; empty: all.
        log: a file of verdicts, one a line in JSON. Pairs that it holds are not examined again; new ones are added.

    Returns:
        The verdicts by family and scheduler class.
    """
    verdicts: Verdicts = {name: {} for name in FAMILIES if matches(name, wanted)}
    lines = log.read_text().splitlines() if log is not None and log.is_file() else []
    for name, kind, state, words, numbers in map(json.loads, lines):
        if name in verdicts:
            verdicts[name][kind] = Verdict(state, words, numbers)
    for name, examined in verdicts.items():
        for kind in list_classes():
            if kind in examined:
                continue
            examined[kind] = verdict = examine(name, kind)
            print(f"{name}, {kind}: {verdict.state} {verdict.words} {verdict.numbers or ''}", flush=True)
            if log is not None:
                with log.open("a") as file:
                    file.write(json.dumps([name, kind, verdict.state, verdict.words, verdict.numbers]) + "\n")
    return verdicts


def count_states(verdicts: Verdicts) -> Counter[str]:
    return Counter(verdict.state for examined in verdicts.values() for verdict in examined.values())


WORDS = {"works": "work", "refused": "are refused", "not applicable": "do not apply", "wrong": "are wrong"}


def render_table(verdicts: Verdicts) -> str:
    """Write the verdicts in Markdown, a row for each family.

    Args:
        verdicts: of all pairs.
    """
    counts, total = count_states(verdicts), len(list_classes())
    wrapped = [kind for kind in list_classes() if any(is_tried(each[kind]) for each in verdicts.values())]
    rows: list[str] = []
    names: dict[tuple[str, ...], str] = {}
    sentences: dict[str, str] = {}
    for name, examined in verdicts.items():
        sets = {state: tuple(k for k in wrapped if examined[k].state == state) for state in STATES}
        for kind in sets["refused"]:
            sentences.setdefault(shorten(examined[kind].words), f"({len(sentences) + 1})")
        reasons = "".join(sorted({sentences[shorten(examined[kind].words)] for kind in sets["refused"]}))
        cells = [label(sets[state], wrapped, names) for state in STATES]
        rows.append(f"| {name.replace('Pipeline', '')} | {cells[0]} | {cells[1]} {reasons} | {cells[2]} |")
    lines = [
        f"{len(verdicts)} pipelines with {total} scheduler classes each, {sum(counts.values())} pairs: "
        + ", ".join(f"{counts[state]:,} {WORDS.get(state, state)}" for state in (*STATES, "wrong") if counts[state])
        + ".",
        f"{total - len(wrapped)} classes are refused when they are wrapped, or cannot be made without arguments of "
        f"their own ([Schedulers](#schedulers)). The table is about the other {len(wrapped)}. Not applicable: without "
        "the add-on the pair fails too.",
        "",
        *(f"- {name}: {', '.join(shown(kind) for kind in kinds)}" for kinds, name in names.items()),
        *(f"- {number}: {sentence}" for sentence, number in sentences.items()),
        "",
        "| pipeline | works | refused | not applicable |",
        "|---|---|---|---|",
    ]
    wrapped_lines = [part for line in lines for part in textwrap.wrap(line, 118, subsequent_indent="  ") or [""]]
    return "\n".join([*wrapped_lines, *rows, "", *render_absent()])


def render_absent() -> list[str]:
    """List the exported classes that are not examined, by reason."""
    reasons: dict[str, list[str]] = {}
    for name in list_pipelines():
        reason = explain_absence(name)
        if reason is not None:
            reasons.setdefault(reason, []).append(name.replace("Pipeline", ""))
    lines = ["Not examined:", ""]
    for reason, absent in reasons.items():
        line = f"- {reason} ({len(absent)}): {', '.join(absent)}"
        lines += textwrap.wrap(line, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return lines


def is_tried(verdict: Verdict) -> bool:
    """Whether a run was made: the scheduler was made and wrapped."""
    return bool(verdict.numbers) or verdict.words.startswith("unwrapped")


def shorten(sentence: str) -> str:
    """Leave out of a refusal what depends on the pair: numbers, and all after the first clause."""
    return re.sub(r"\([\d, ]+\)", "(...)", re.split(r"[;.] ", re.sub(r"\b\d+\b", "n", sentence))[0])


def shown(kind: str) -> str:
    return kind.removesuffix("Scheduler").removesuffix("Discrete")


def label(kinds: tuple[str, ...], wrapped: Sequence[str], names: dict[tuple[str, ...], str]) -> str:
    """Name a set of scheduler classes shortly.

    Args:
        kinds: the set.
        wrapped: all that can be wrapped.
        names: of the sets so far, to which a set of more than two is added.
    """
    if len(kinds) == len(wrapped):
        return f"all {len(wrapped)}"
    if len(kinds) <= 2:
        return ", ".join(map(shown, kinds))
    letter = chr(ord("A") + len(names) % 26) * (1 + len(names) // 26)
    return f"{names.setdefault(kinds, f'set {letter}')} ({len(kinds)})"


def write_section(page: Path, text: str) -> None:
    """Write the table into a page, between its two markers.

    Args:
        page: in Markdown.
        text: of the table.
    """
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description="Examine pipelines of diffusers with each kind of scheduler.")
    parser.add_argument("names", nargs="*", help="parts of pipeline names; default: all")
    parser.add_argument("--log", type=Path, help="file of verdicts; pairs that it holds are not examined again")
    parser.add_argument("--write", type=Path, help="page in Markdown to write the table into, between its markers")
    options = parser.parse_args()
    found = examine_all(options.names, options.log)
    print(dict(count_states(found)))
    if options.write is not None:
        write_section(options.write, render_table(found))
