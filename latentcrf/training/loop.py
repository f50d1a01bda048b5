"""One training loop for all models: a budget of wall-clock minutes, exact resuming, a CSV log, an EMA.

    run = Run(folder, {"model": model, "optimizer": optimizer, "ema": ema}, minutes=60, resume=True)
    for step in run.steps():
        ...                          # one optimizer step
        run.count(images=len(batch), loss=loss)

A run that is killed, even by SIGKILL, goes on from its last checkpoint: weights, EMA, optimizer, step, seconds used and
random state. `run_and_report_errors` keeps a command line's options in options.json and refuses to resume with others.
"""

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from latentcrf.precision import precision_name
from latentcrf.utils.files import replace_file

REPORT_SECONDS = 600.0
CHECKPOINT, OPTIONS = "checkpoint.pt", "options.json"  # of a run's folder
# Options that a resumed run may change: where it lies, how long it takes, and what mean of weights it writes.
CHANGEABLE = ("out", "minutes", "resume", "checkpoint_seconds", "keep_start")


class Stateful(Protocol):
    """An object whose state belongs in a checkpoint: a module, an optimizer, an EMA."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class RunError(RuntimeError):
    """A run cannot start or go on; the message says why and what to do."""


class EMA:
    """Exponential moving average of a module's parameters, in float32.

    The decay grows with the steps, min(decay, (1 + step) / (10 + step)), so that the random start weighs little in an
    early average.

    Args:
        module: whose parameters are averaged.
        decay: the largest decay, 0 to 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.step = module, decay, 0
        self.average = [parameter.detach().float().clone() for parameter in module.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        """Add the present parameters to the average."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        self.step += 1
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.module.parameters()], 1 - decay)

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Within the context, the module has the averaged parameters."""
        own = [parameter.detach().clone() for parameter in self.module.parameters()]
        for parameter, average in zip(self.module.parameters(), self.average, strict=True):
            parameter.copy_(average)
        try:
            yield
        finally:
            for parameter, value in zip(self.module.parameters(), own, strict=True):
                parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"step": self.step, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of `state_dict`."""
        self.step = state_dict["step"]
        for average, stored in zip(self.average, state_dict["average"], strict=True):
            average.copy_(stored)


class Run:
    """A training run in a folder: checkpoint.pt, log.csv, and what the caller adds.

    Args:
        folder: of the run; it is made where it is missing.
        parts: modules, optimizers and EMAs by name, whose states make the checkpoint.
        minutes: wall-clock budget of the whole run, including what a resumed run has used.
        resume: whether to go on from the folder's checkpoint; without a checkpoint the run starts fresh.
        report: called every `report_seconds` and at the end; returns held-out metrics for the log.
        checkpoint_seconds: between checkpoints.
        report_seconds: between reports.

    Raises:
        RunError: the folder holds a run and `resume` is false, or its checkpoint is of another model.
    """

    def __init__(
        self,
        folder: str | Path,
        parts: dict[str, Stateful],
        minutes: float,
        resume: bool = False,
        report: Callable[[], dict[str, float]] | None = None,
        checkpoint_seconds: float = 240.0,
        report_seconds: float = REPORT_SECONDS,
    ) -> None:
        self.checkpoint_seconds, self.report_seconds = checkpoint_seconds, report_seconds
        self.folder, self.parts, self.budget, self.report = Path(folder), parts, 60.0 * minutes, report
        self.folder.mkdir(parents=True, exist_ok=True)
        self.step, self.images, self.seconds = 0, 0, 0.0
        self._values: dict[str, list[float]] = {}  # since the last report
        self._checkpoint = self.folder / CHECKPOINT
        if is_begun(self.folder, resume):
            self._load()
        else:  # what a run that died before its first checkpoint has logged is not this run's
            (self.folder / "log.csv").unlink(missing_ok=True)

    @property
    def fraction(self) -> float:
        """Share of the budget that is used, 0 to 1."""
        return min(1.0, self.seconds / self.budget) if self.budget > 0 else 1.0

    def steps(self) -> Iterator[int]:
        """Yield step numbers until the budget is used; write checkpoints and reports, show a progress bar."""
        last_save = last_report = last = time.monotonic()
        bar = tqdm(
            total=round(self.budget), initial=round(self.seconds), unit="s", desc=self.folder.name, mininterval=5
        )
        while self.fraction < 1.0:
            yield self.step
            self.step += 1
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            bar.update(round(self.seconds) - bar.n)
            if self.step % 10 == 0:
                rate = f"{self.images / max(self.seconds, 1e-9):.1f} images/s"
                means = {name: f"{sum(values) / len(values):.4f}" for name, values in self._values.items()}
                bar.set_postfix_str(
                    ", ".join([rate, *(f"{name} {value}" for name, value in means.items())]), refresh=False
                )
            if now - last_report > self.report_seconds:
                self._report()
                last_report = time.monotonic()
            if now - last_save > self.checkpoint_seconds:
                self.save()
                last_save = time.monotonic()
            # Saving and reporting are not training time: without this the schedule would jump.
            last = time.monotonic()
        bar.close()
        self._report()
        self.save()

    def count(self, images: int, **values: Tensor | float) -> None:
        """Add a step's images and losses; their means since the last report go to the log.

        Args:
            images: that the step has learned from.
            values: losses by name.
        """
        self.images += images
        for name, value in values.items():
            self._values.setdefault(name, []).append(float(value))

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
            "device_random": torch.cuda.get_rng_state_all(),  # empty without CUDA
        }
        with replace_file(self._checkpoint) as temporary:
            torch.save(state, temporary)

    def _load(self) -> None:
        state = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state["parts"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise RunError(f"{self._checkpoint} does not fit this model: {error}") from error
        self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]
        torch.set_rng_state(state["random"])
        torch.cuda.set_rng_state_all(state.get("device_random", []))
        print(f"resumed {self.folder} at step {self.step:,}, {self.seconds / 60:.1f} minutes used", flush=True)

    def _report(self) -> None:
        row: dict[str, float] = {"step": self.step, "minutes": self.seconds / 60, "images": self.images}
        row |= {name: sum(values) / len(values) for name, values in self._values.items() if values}
        self._values.clear()
        if self.report is not None:
            # A report draws random numbers: the training's state is restored, so that no report changes a run.
            state, device_state = torch.get_rng_state(), torch.cuda.get_rng_state_all()
            row |= self.report()
            torch.set_rng_state(state)
            torch.cuda.set_rng_state_all(device_state)
        _append_csv(self.folder / "log.csv", row)
        tqdm.write("  ".join(f"{name} {value:.5g}" for name, value in row.items()))


def _append_csv(path: Path, row: dict[str, float]) -> None:
    """Append a row; a new column is added to the whole file."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    rows.append({name: f"{value:.6g}" for name, value in row.items()})
    columns = list(dict.fromkeys(name for each in rows for name in each))
    with replace_file(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def warm_cosine(step: int, fraction: float, warm_up: int = 200, floor: float = 0.02) -> float:
    """Compute the factor on the learning rate: linear warm-up, then a cosine by wall clock.

    Args:
        step: number of the step, from 0.
        fraction: share of the time that is used, 0 to 1.
        warm_up: steps of the warm-up.
        floor: of the cosine, 0 to 1.

    Returns:
        The factor, 0 to 1.
    """
    return min(1.0, (step + 1) / warm_up) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fraction)))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = value


def optimise(loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer, clip: float = 1.0) -> Tensor:
    """Take an optimizer step on a loss. Where the gradient is not finite, the weights stay.

    Args:
        loss: a scalar.
        module: whose gradients are set.
        optimizer: of the module's parameters.
        clip: largest norm of the gradient; a larger one is scaled down.

    Returns:
        The gradient's norm before clipping, a scalar.
    """
    module.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(module.parameters(), clip)
    if torch.isfinite(norm):
        optimizer.step()
    return norm


def best_device() -> torch.device:
    """Return the GPU where there is one, with float32 products in TF32; else the CPU.

    cuDNN's search for the fastest kernels stays off: on an H100 it took longer than a short run gained.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda")


def is_begun(folder: Path, resume: bool) -> bool:
    """Return whether a folder holds a run to go on with.

    Args:
        folder: of the run.
        resume: whether to go on with a run.

    Returns:
        Whether there is a checkpoint.

    Raises:
        RunError: there is one, and `resume` is false.
    """
    found = (folder / CHECKPOINT).exists()
    if found and not resume:
        raise RunError(f"{folder} holds a run already. Add --resume to go on with it, or choose another --out.")
    return found


def save_options(options: argparse.Namespace) -> None:
    """Write a command line's options to options.json in the run's folder.

    Args:
        options: of the command line, with `out` and `resume`.

    Raises:
        RunError: the folder holds a run and `resume` is false, or the run was begun with other options than `CHANGEABLE`.
    """
    path = options.out / OPTIONS
    values = {name: _to_json(value) for name, value in vars(options).items()}
    if is_begun(options.out, options.resume):
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read, so the options of the run are unknown: {error}.") from error
        differences = [
            f"--{name.replace('_', '-')} was {before.get(name)}, is {values.get(name)}"
            for name in before | values
            if name not in CHANGEABLE and before.get(name) != values.get(name)
        ]
        if differences:
            raise RunError(
                f"{options.out} was begun with other options: {'; '.join(differences)}. Give the former values, or choose "
                "another --out."
            )
    options.out.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def _to_json(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return precision_name(value)
    is_plain = (
        value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
    )
    return value if is_plain else str(value)


def run_and_report_errors(
    train: Callable[[argparse.Namespace], Any], options: argparse.Namespace, *errors: type[Exception]
) -> int:
    """Save the options and run a training; print expected errors as one line.

    Args:
        train: the training.
        options: of its command line.
        errors: expected ones beside `RunError` and `OSError`.

    Returns:
        The exit status: 0, or 1 after an expected error.
    """
    try:
        save_options(options)
        train(options)
    except (RunError, OSError) + errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
