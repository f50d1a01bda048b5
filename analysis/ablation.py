"""What each part of the CRF adds: models of several presets, and iteration counts, on the same recorded runs.

    python -m analysis.ablation --recordings runs/recordings --out results/ablation \\
        --crf emoji=runs/emoji/latentcrf emoji-plain=runs/emoji-plain/latentcrf

The models are those of `latentcrf.training.train --preset NAME --recordings runs/recordings`, with equal options else. Of
the recorded runs the held-out ones are handed over to each: mean squared error of the latents handed back against the
LDM's own, for the bypass (33, 49) of 50 and for runs of 4 to 12 steps that the CRF ends. Written to --out: ablation.csv
(a row a model and iteration count) and ablation.md, means with 95 % bootstrap intervals over the runs, the
differences to the first model paired.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from analysis.measures import bootstrap
from latentcrf import LatentCRF, Observation
from latentcrf.files import replacing
from latentcrf.perceptual import MODELS
from latentcrf.training.loop import RunError
from latentcrf.training.train import errors, split
from latentcrf.training.trajectories import Recording, Trajectories, load_trajectories

ITERATIONS = 5
KINDS = {"mse": "(33, 49) of 50", "few": "4 to 12 steps, to the end"}
NO_PARAMETERS = "without parameters"


def named_folder(text: str) -> tuple[str, Path]:
    """NAME=FOLDER of --crf."""
    name, sign, folder = text.partition("=")
    if not (name and sign and folder):
        raise argparse.ArgumentTypeError(f"--crf {text!r} is not NAME=FOLDER.")
    return name, Path(folder)


def compute(crfs: dict[str, LatentCRF], runs: Trajectories, counts: list[int]) -> pd.DataFrame:
    """A row a model with `ITERATIONS` iterations, and of the first model one for each other count.

    Columns: model, iterations, parameters, and for each of `KINDS` its mean error, the interval's ends (_low, _high), and
    the difference to the first row (_difference, and its ends), negative where better than it.
    """
    first = next(iter(crfs))
    cases = [(name, ITERATIONS) for name in crfs] + [(first, count) for count in counts if count != ITERATIONS]
    found = [(name, count, sum(p.numel() for p in crfs[name].parameters()), _errors(crfs[name], count, runs))
             for name, count in cases]  # fmt: skip
    found.append((NO_PARAMETERS, 0, 0, errors(lambda handed: handed.denoised, runs, torch.device("cpu"))))
    rows = []
    for name, count, parameters, measured in found:
        row: dict[str, object] = {"model": name, "iterations": count, "parameters": parameters}
        for kind in KINDS:
            values = measured[kind].double().numpy()
            difference = values - found[0][3][kind].double().numpy()
            for suffix, numbers in (("", values), ("_difference", difference)):
                ends = bootstrap(numbers)
                row |= {f"{kind}{suffix}{end}": value for end, value in zip(("", "_low", "_high"), ends, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


def _errors(crf: LatentCRF, iterations: int, runs: Trajectories) -> dict[str, Tensor]:
    def mend(observation: Observation) -> Tensor:
        return crf(observation, iterations)

    return errors(mend, runs, torch.device("cpu"))


def markdown(table: pd.DataFrame) -> str:
    """The table as the README shows it."""
    lines = [
        "| model | iterations | parameters |" + "".join(f" {title} | against the first |" for title in KINDS.values())
    ]
    lines.append("|" + "---|" * (3 + 2 * len(KINDS)))
    for index, row in table.iterrows():
        cells = [row["model"], str(row["iterations"]), f"{row['parameters']:,}"]
        for kind in KINDS:
            cells.append(f"{row[kind]:.4f}")
            ends = f"{row[f'{kind}_difference_low']:+.4f} to {row[f'{kind}_difference_high']:+.4f}"
            cells.append(f"{row[f'{kind}_difference']:+.4f} ({ends})" if index else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--recordings", type=Path, required=True, metavar="DIR", help="recorded runs of latentcrf.training.train")
    add("--crf", type=named_folder, nargs="+", required=True, metavar="NAME=FOLDER", help="models, the whole one first")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the tables")
    add(
        "--model",
        type=Path,
        default=MODELS / "emoji-ldm",
        metavar="FOLDER",
        help="the LDM's pipeline (default: shipped)",
    )
    add("--iterations", type=int, nargs="+", default=[1, 2, 3, 5, 10], metavar="N",
        help="iteration counts of the first model (default 1 2 3 5 10)")  # fmt: skip
    options = parser.parse_args(arguments)
    if wrong := [count for count in options.iterations if not 0 <= count <= 100]:
        parser.error(f"--iterations {wrong[0]} is out of range: 0 to 100.")
    try:
        scheduler = DDIMScheduler.from_pretrained(options.model, subfolder="scheduler", local_files_only=True)
        held_out, _ = split(load_trajectories(options.recordings, scheduler, Recording()))
        crfs = {
            name: LatentCRF.from_pretrained(folder, torch_dtype=torch.float32).eval() for name, folder in options.crf
        }
        table = compute(crfs, held_out, options.iterations)
    except (OSError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with replacing(options.out / "ablation.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    with replacing(options.out / "ablation.md") as temporary:
        temporary.write_text(markdown(table))
    print(markdown(table))
    print(f"written: {options.out}/ablation.csv, ablation.md; {len(held_out)} held-out runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
