"""One training loop for all models: a budget of wall-clock minutes, exact resuming, a CSV log, an EMA.

    run = Run(folder, {"model": model, "optimizer": optimizer, "ema": ema}, minutes=60, resume=True)
    for step in run.steps():
        ...                          # one optimizer step
        run.count(images=len(batch), loss=loss)

A run that is killed, even by SIGKILL, goes on from its last checkpoint: weights, EMA, optimizer, step, seconds
used and random state.
"""

import argparse
import csv
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

from latentcrf.files import replacing
from latentcrf.precision import add_precision_argument, choose_precision

REPORT_SECONDS = 600.0


class Stateful(Protocol):
    """Whatever has a state to be kept: modules, optimizers, EMAs."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class RunError(RuntimeError):
    """A run cannot start or go on; the message says why and what to do."""


class EMA:
    """Exponential moving average of a module's parameters, kept in float32.

    The decay grows with the steps, min(decay, (1 + step) / (10 + step)): an early average is not held back by the
    random start.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.step = module, decay, 0
        self.average = [parameter.detach().float().clone() for parameter in module.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        self.step += 1
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.module.parameters()], 1 - decay)

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Within the block, the module carries the average."""
        own = [parameter.detach().clone() for parameter in self.module.parameters()]
        for parameter, average in zip(self.module.parameters(), self.average, strict=True):
            parameter.copy_(average)
        try:
            yield
        finally:
            for parameter, value in zip(self.module.parameters(), own, strict=True):
                parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step = state_dict["step"]
        for average, stored in zip(self.average, state_dict["average"], strict=True):
            average.copy_(stored)


class Run:
    """A training run in a folder: checkpoint.pt, log.csv, and whatever the caller adds.

    Args:
        folder: where the run lives.
        parts: name -> module, optimizer or EMA; their states make the checkpoint.
        minutes: wall-clock budget of the whole run, what a resumed run has used included.
        resume: go on from the folder's checkpoint; without one the run starts fresh.
        checkpoint_seconds: how often the state is written.
        report: called every `report_seconds` and at the end, returns held-out measures for the log.

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
        self._means: dict[str, list[float]] = {}
        self._checkpoint = self.folder / "checkpoint.pt"
        if self._checkpoint.exists():
            if not resume:
                raise RunError(
                    f"{self.folder} holds a run already. Add --resume to go on with it, or choose another --out."
                )
            self._load()
        else:  # what a run that died before its first checkpoint has logged is not this run's
            (self.folder / "log.csv").unlink(missing_ok=True)

    @property
    def fraction(self) -> float:
        """Share of the budget used, 0 to 1."""
        return min(1.0, self.seconds / self.budget) if self.budget > 0 else 1.0

    def steps(self) -> Iterator[int]:
        """Yield step numbers until the budget is used; keeps checkpoints, reports and a progress bar."""
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
                latest = {name: f"{sum(values) / len(values):.4f}" for name, values in self._means.items()}
                bar.set_postfix_str(
                    ", ".join([rate, *(f"{name} {value}" for name, value in latest.items())]), refresh=False
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
        """Add a step's images and losses; their means since the last report go to the log."""
        self.images += images
        for name, value in values.items():
            self._means.setdefault(name, []).append(float(value))

    def save(self) -> None:
        """Write the checkpoint (to a temporary name, then renamed)."""
        state = {
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
            "device_random": torch.cuda.get_rng_state_all(),  # empty without CUDA
        }
        with replacing(self._checkpoint) as temporary:
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
        row |= {name: sum(values) / len(values) for name, values in self._means.items() if values}
        self._means.clear()
        if self.report is not None:
            # A report draws random numbers of its own; the training's are put back, so that it never changes a run.
            state, device_state = torch.get_rng_state(), torch.cuda.get_rng_state_all()
            row |= self.report()
            torch.set_rng_state(state)
            torch.cuda.set_rng_state_all(device_state)
        _append_csv(self.folder / "log.csv", row)
        tqdm.write("  ".join(f"{name} {value:.5g}" for name, value in row.items()))


def _append_csv(path: Path, row: dict[str, float]) -> None:
    """Append a row; a column that is new is added to the whole file."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    rows.append({name: f"{value:.6g}" for name, value in row.items()})
    columns = list(dict.fromkeys(name for each in rows for name in each))
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def warm_cosine(step: int, fraction: float, warm_up: int = 200, floor: float = 0.02) -> float:
    """Factor on the learning rate: linear warm-up over `warm_up` steps, cosine decay by wall clock to `floor`."""
    return min(1.0, (step + 1) / warm_up) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fraction)))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def optimise(loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer, clip: float = 1.0) -> Tensor:
    """Backward, clip the gradient's norm, step. Returns the norm before clipping; a step that is not finite is left out."""
    module.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(module.parameters(), clip)
    if torch.isfinite(norm):
        optimizer.step()
    return norm


def best_device() -> torch.device:
    """The GPU where there is one, its float32 products in TF32; else the CPU.

    cuDNN's search for the fastest kernels is left off: on an H100 it took longer than a short run gains by it.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda")


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all training command lines share."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="wall-clock training time of the whole run (default 60)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=240.0, metavar="S", help="how often to checkpoint (default 240)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and data order (default 0)")
    add_precision_argument(parser)


def step_arguments(
    parser: argparse.ArgumentParser, batch_size: int | None, learning_rate: float | None, samples: str
) -> None:
    """The options of a training step, with their defaults; None: the preset's. `samples`: what a batch is of."""
    parser.add_argument(
        "--batch-size",
        type=int,
        default=batch_size,
        metavar="N",
        help=f"{samples} a step, 1 to 4096 (default {batch_size or 'the preset’s, for a CPU'})",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=learning_rate,
        help=f"peak, before the cosine (default {learning_rate or 'the preset’s'})",
    )


def check_run_arguments(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Check the shared options; `options.precision` becomes the type that it stands for on `best_device`."""
    try:
        options.precision = choose_precision(options.precision, best_device())
    except ValueError as error:
        parser.error(str(error))
    if not (math.isfinite(options.minutes) and 0 < options.minutes <= 100_000):
        parser.error(f"--minutes {options.minutes} is out of range: above 0, at most 100000.")
    if not 1 <= options.checkpoint_seconds <= 3600:
        parser.error(f"--checkpoint-seconds {options.checkpoint_seconds} is out of range: 1 to 3600.")
    if not 0 <= options.seed < 2**63:
        parser.error(f"--seed {options.seed} is out of range: 0 to 2^63 - 1.")
    batch_size, learning_rate = (getattr(options, name, None) for name in ("batch_size", "learning_rate"))
    if batch_size is not None and not 1 <= batch_size <= 4096:
        parser.error(f"--batch-size {batch_size} is out of range: 1 to 4096.")
    if learning_rate is not None and not (math.isfinite(learning_rate) and 0 < learning_rate <= 0.1):
        parser.error(f"--learning-rate {learning_rate} is out of range: above 0, at most 0.1.")


def explained(train: Callable[[argparse.Namespace], Any], options: argparse.Namespace, *errors: type[Exception]) -> int:
    """Run `train(options)`; a `RunError`, an `OSError` or one of `errors` becomes a sentence. Returns the exit status."""
    try:
        train(options)
    except (RunError, OSError) + errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
