"""One training loop for all models, on Accelerate: a budget, exact resuming, averaged weights, a log.

    accelerator = build_accelerator(options)
    run = Run(accelerator, options, model, {"optimizer": optimizer})
    for step in run.steps():
        ...                          # the loss of a batch
        optimise(accelerator, loss, model, optimizer)
        run.count(images=len(batch), loss=loss)

Every process of a launch runs this loop. Gradients are averaged over them by `optimise` and not by
DistributedDataParallel: a step trains several networks, whose forward passes run before one another's backward pass and
leave out what a batch does not use. The networks are small, so that one reduction after the backward pass costs little.

A run that is killed, even by SIGKILL, goes on from its last checkpoint: weights, averages, optimizers, step, seconds
used and random state. `run_and_report_errors` keeps a command line's options in options.json and refuses to resume with
others.
"""

import argparse
import csv
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, is_tensorboard_available, synchronize_rng_states
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm import tqdm

from latentcrf.precision import precision_name
from latentcrf.training.processes import best_device, find_processes
from latentcrf.utils.files import claim_folder, replace_file

REPORT_SECONDS = 600.0
LOG_STEPS = 10  # between lines of the progress bar and of TensorBoard
CHECKPOINT, OPTIONS, LOG = "checkpoint-", "options.json", "log.csv"  # of a run's folder
COMPONENTS = "components.pt"  # of a checkpoint
# Options that a resumed run may change: where it lies, how long it takes, and what mean of weights it writes.
CHANGEABLE = ("out", "minutes", "max_steps", "resume", "checkpoint_seconds", "keep_start", "report_to")


class Stateful(Protocol):
    """An object whose state belongs in a checkpoint: a module, an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class RunError(RuntimeError):
    """A run cannot start or go on; the message says why and what to do."""


def build_accelerator(options: argparse.Namespace) -> Accelerator:
    """Build the Accelerator of a training.

    It does not cast: `latentcrf.precision.autocast` does that for each network. For float16 it scales the losses.

    Args:
        options: of `add_run_arguments`.

    Raises:
        RunError: TensorBoard is asked for and is not installed.
    """
    best_device()
    if options.report_to == "tensorboard" and not is_tensorboard_available():
        raise RunError("--report-to tensorboard needs the package tensorboard: pip install tensorboard.")
    return Accelerator(
        mixed_precision="fp16" if options.precision == torch.float16 else "no",
        gradient_accumulation_steps=options.gradient_accumulation,
        log_with=options.report_to,
        project_dir=options.out,
    )


class Means:
    """Means of values by name, over steps and processes."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor | float]) -> None:
        """Add values, scalars. A tensor stays on its device, so that nothing waits for it."""
        for name, value in values.items():
            value = torch.as_tensor(value).detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the means and begin anew. Every process must call it."""
        means = {name: value / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        if not means:
            return {}
        stacked = torch.stack([value.to(accelerator.device) for value in means.values()])
        return dict(zip(means, accelerator.reduce(stacked, "mean").tolist(), strict=True))


class Run:
    """A training run in a folder: checkpoints, log.csv, and what the caller adds.

    Args:
        accelerator: of `build_accelerator`.
        options: of `add_run_arguments`: folder, budget, resuming. Without a checkpoint a resumed run starts fresh.
        model: whose weights are averaged.
        components: further modules and optimizers by name, whose states belong in a checkpoint.
        report: called in the main process every `report_seconds` and at the end; returns held-out metrics for the log.
        report_seconds: between reports.
        decay: the largest decay of the average, 0 to 1. It grows with the steps, min(decay, (1 + step) / (10 + step)),
            so that the random start weighs little in an early average.

    Raises:
        RunError: the folder holds a run and `resume` is false, or its checkpoint is of another model or of another
            number of processes.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        options: argparse.Namespace,
        model: nn.Module,
        components: dict[str, Stateful],
        report: Callable[[], dict[str, float]] | None = None,
        report_seconds: float = REPORT_SECONDS,
        decay: float = 0.998,
    ) -> None:
        self.accelerator, self.model, self.report, self.report_seconds = accelerator, model, report, report_seconds
        self.components: dict[str, Stateful] = {"model": model, **components}
        self.ema = EMAModel(model.parameters(), decay, foreach=True)
        self.folder, self.checkpoint_seconds = Path(options.out), options.checkpoint_seconds
        self.seconds_budget = None if options.minutes is None else 60.0 * options.minutes
        self.steps_budget = options.max_steps
        self.step, self.images, self.seconds = 0, 0, 0.0
        self._since_log, self._since_report = Means(), Means()
        accelerator.register_save_state_pre_hook(self._save_components)
        accelerator.register_load_state_pre_hook(self._load_components)
        if is_begun(self.folder, options.resume):
            self._load()
        elif (
            accelerator.is_main_process
        ):  # what a run that died before its first checkpoint has logged is not this run's
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LOG).unlink(missing_ok=True)
        synchronize_rng_states(["torch"])  # all draw the same batches, whatever each has done before
        if options.report_to is not None:
            accelerator.init_trackers(options.report_to)

    @property
    def fraction(self) -> float:
        """Share of the budget that is used, 0 to 1; the same in every process."""
        if self.steps_budget is not None:
            return min(1.0, self.step / self.steps_budget)
        assert self.seconds_budget is not None
        return min(1.0, self.seconds / self.seconds_budget)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the context, the model has the averaged weights."""
        weights = list(self.model.parameters())
        self.ema.store(weights)
        self.ema.copy_to(weights)
        try:
            yield
        finally:
            self.ema.restore(weights)

    def steps(self) -> Iterator[int]:
        """Yield step numbers until the budget is used; write checkpoints and reports, show a progress bar.

        With gradient accumulation a number is yielded once for each batch of the step.
        """
        by_steps = self.steps_budget is not None
        bar = tqdm(
            total=self.steps_budget if by_steps else round(self.seconds_budget or 0),
            initial=self.step if by_steps else round(self.seconds),
            unit="step" if by_steps else "s",
            desc=self.folder.name,
            mininterval=5,
            disable=not self.accelerator.is_main_process,
        )
        last_save = last_report = last = time.monotonic()
        while self.fraction < 1.0:
            with self.accelerator.accumulate():
                yield self.step
            if not self.accelerator.sync_gradients:
                continue
            self.ema.step(self.model.parameters())
            self.step += 1
            now = time.monotonic()
            self.seconds, reports, saves = self._agree(
                self.seconds + now - last,
                now - last_report > self.report_seconds,
                now - last_save > self.checkpoint_seconds,
            )
            last = now
            bar.update((self.step if by_steps else round(self.seconds)) - bar.n)
            if self.step % LOG_STEPS == 0:
                means = self._since_log.take(self.accelerator)
                self.accelerator.log(means, step=self.step)
                rate = f"{self.images / max(self.seconds, 1e-9):.1f} images/s"
                bar.set_postfix_str(
                    ", ".join([rate, *(f"{name} {value:.4f}" for name, value in means.items())]), refresh=False
                )
            if reports:
                self._report()
                last_report = time.monotonic()
            if saves:
                self.save()
                last_save = time.monotonic()
            # Saving and reporting are not training time: without this the schedule would jump.
            last = time.monotonic()
        bar.close()
        self._report()
        self.save()
        self.accelerator.end_training()

    def _agree(self, *values: float) -> tuple[float, ...]:
        """Return the main process's values in every process: their clocks differ, their schedules must not."""
        if self.accelerator.num_processes == 1:
            return values
        agreed = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        return tuple(broadcast(agreed).tolist())

    def count(self, images: int, **values: Tensor | float) -> None:
        """Add a batch's images and losses; their means since the last report go to the log.

        Args:
            images: that this process has learned from.
            values: losses by name.
        """
        self.images += images * self.accelerator.num_processes
        self._since_log.add(values)
        self._since_report.add(values)

    def save(self) -> None:
        """Write a checkpoint, whole or not at all, then remove older ones. Every process must call it."""
        path = self.folder / f"{CHECKPOINT}{self.step:08d}"
        if path.exists():
            return
        temporary, is_main = self.folder / ".checkpoint", self.accelerator.is_main_process
        if is_main:
            shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed here
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(temporary))
        self.accelerator.wait_for_everyone()
        if is_main:
            for file in temporary.iterdir():
                with open(file, "rb") as written:
                    os.fsync(written.fileno())
            os.replace(temporary, path)
            for old in find_checkpoints(self.folder):
                if old != path:
                    shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _save_components(self, models: list[nn.Module], weights: list[Any], folder: str) -> None:
        if self.accelerator.is_main_process:
            state = {
                "components": {name: component.state_dict() for name, component in self.components.items()},
                "ema": self.ema.state_dict(),
                "step": self.step,
                "images": self.images,
                "seconds": self.seconds,
                "processes": self.accelerator.num_processes,
            }
            torch.save(state, Path(folder, COMPONENTS))

    def _load_components(self, models: list[nn.Module], folder: str) -> None:
        state = torch.load(Path(folder, COMPONENTS), map_location="cpu", weights_only=True)
        if (processes := state["processes"]) != self.accelerator.num_processes:
            raise RunError(f"{folder} is of a run with {processes} processes: go on with as many.")
        try:
            for name, component in self.components.items():
                component.load_state_dict(state["components"][name])
            self.ema.load_state_dict(state["ema"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise RunError(f"{folder} does not fit this model: {error}") from error
        self.ema.to(self.accelerator.device)
        self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]

    def _load(self) -> None:
        self.accelerator.load_state(str(find_checkpoints(self.folder)[-1]))
        if self.accelerator.is_main_process:
            print(f"resumed {self.folder} at step {self.step:,}, {self.seconds / 60:.1f} minutes used", flush=True)

    def _report(self) -> None:
        row: dict[str, float] = {"step": self.step, "minutes": self.seconds / 60, "images": self.images}
        row |= self._since_report.take(self.accelerator)
        if self.accelerator.is_main_process:
            metrics: dict[str, float] = {}
            if self.report is not None:
                # A report draws random numbers: the training's state is restored, so that no report changes a run.
                state, device_state = torch.get_rng_state(), torch.cuda.get_rng_state_all()
                metrics = self.report()
                torch.set_rng_state(state)
                torch.cuda.set_rng_state_all(device_state)
            self.accelerator.log(metrics, step=self.step)
            row |= metrics
            _append_csv(self.folder / LOG, row)
            tqdm.write("  ".join(f"{name} {value:.5g}" for name, value in row.items()))
        self.accelerator.wait_for_everyone()


def _append_csv(path: Path, row: dict[str, float]) -> None:
    """Append a row; a new column is added to the whole file."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    rows.append({name: f"{value:.6g}" for name, value in row.items()})
    columns = list(dict.fromkeys(name for each in rows for name in each))
    with replace_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def warm_cosine(step: int, fraction: float, warm_up: int = 200, floor: float = 0.02) -> float:
    """Compute the factor on the learning rate: linear warm-up, then a cosine over the budget.

    Args:
        step: number of the step, from 0.
        fraction: share of the budget that is used, 0 to 1.
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


def optimise(
    accelerator: Accelerator, loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer, clip: float = 1.0
) -> None:
    """Take an optimizer step on a loss, over all processes and accumulated batches.

    Gradients reach the module's own parameters alone. Where they are not finite, the weights stay.

    Args:
        accelerator: of `build_accelerator`.
        loss: of this process's batch, a scalar.
        module: whose gradients are set.
        optimizer: of the module's parameters.
        clip: largest norm of the gradient; a larger one is scaled down.
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    accelerator.backward(loss, inputs=weights)
    if not accelerator.sync_gradients:  # a batch of the step is still to come
        return
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if accelerator.num_processes > 1:
        vector_to_parameters(accelerator.reduce(parameters_to_vector(gradients), "mean"), gradients)
    if accelerator.scaler is not None:
        accelerator.scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(weights, clip)
    if accelerator.scaler is not None:
        accelerator.scaler.step(optimizer)
        accelerator.scaler.update()
    elif torch.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def find_checkpoints(folder: Path) -> list[Path]:
    """Find a run's checkpoints.

    Args:
        folder: of the run.

    Returns:
        Their folders, the latest last. There is one, or two where a run was killed while it removed the older.
    """
    return sorted(folder.glob(f"{CHECKPOINT}[0-9]*"))


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
    has_checkpoint = bool(find_checkpoints(folder))
    if has_checkpoint and not resume:
        raise RunError(f"{folder} holds a run already. Add --resume to go on with it, or choose another --out.")
    return has_checkpoint


def save_options(options: argparse.Namespace) -> None:
    """Write a command line's options to options.json in the run's folder.

    Args:
        options: of the command line, with `out` and `resume`.

    Raises:
        RunError: another command writes into the folder, it holds a run and `resume` is false, or the run was begun
            with other options than `CHANGEABLE`.
    """
    path = options.out / OPTIONS
    if find_processes().is_main_process:
        try:
            claim_folder(options.out)
        except OSError as error:
            raise RunError(str(error)) from error
    values = {name: _to_json(value) for name, value in vars(options).items()}
    if is_begun(options.out, options.resume):
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read, so the options of the run are unknown: {error}.") from error
        differences = [
            f"--{name.replace('_', '-')} was {before.get(name)}, is {values.get(name)}"
            for name in before | values
            if name not in CHANGEABLE and before.get(name) != values.get(name)
        ]
        if differences:
            raise RunError(
                f"{options.out} was begun with other options: {'; '.join(differences)}. Give the former values, or "
                "choose another --out."
            )
    if find_processes().is_main_process:
        with replace_file(path) as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


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
