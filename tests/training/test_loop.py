"""The shared training loop: budget, exact resuming, log, averaged weights."""

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from latentcrf.training.loop import (
    Means,
    Run,
    RunError,
    build_accelerator,
    find_checkpoints,
    optimise,
    run_and_report_errors,
    save_options,
    warm_cosine,
)


def some_options(folder: Path, **values: object) -> argparse.Namespace:
    defaults = {
        "out": folder,
        "minutes": 1.0,
        "max_steps": None,
        "resume": False,
        "checkpoint_seconds": 60.0,
        "report_to": None,
        "gradient_accumulation": 1,
        "seed": 0,
        "data": Path("x"),
    }
    defaults |= {"precision": torch.float32, "min_snr": float("inf"), "init_from": None, "keep_start": 0.0}
    return argparse.Namespace(**(defaults | values))


def begin(
    folder: Path, model: nn.Module, report: Callable[[], dict[str, float]] | None = None, **values: object
) -> Run:
    options = some_options(folder, **values)
    return Run(build_accelerator(options), options, model, {}, report)


def train(
    folder: Path, stop_after: int | None, resume: bool = False, total: int = 20, accumulated: int = 1
) -> tuple[nn.Module, Run]:
    """A regression on random data, `total` steps with a checkpoint each; `stop_after` leaves it in the middle."""
    torch.manual_seed(7)
    options = some_options(
        folder, minutes=None, max_steps=total, resume=resume, gradient_accumulation=accumulated,
        report_to="tensorboard", checkpoint_seconds=0,
    )  # fmt: skip
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    accelerator, optimizer = build_accelerator(options), torch.optim.AdamW(model.parameters(), lr=0.01)
    run = Run(accelerator, options, model, {"optimizer": optimizer}, decay=0.9)
    for step in run.steps():
        if step == stop_after:
            break
        x = torch.rand(16 // accumulated, 3)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimise(accelerator, loss, model, optimizer)
        run.count(len(x), loss=loss)
    return model, run


def weights_of(model: nn.Module, run: Run) -> list[torch.Tensor]:
    return [*model.parameters(), *run.ema.shadow_params]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_resumed_run_ends_exactly_where_an_unbroken_one_does(tmp_path: Path, accumulated: int) -> None:
    whole = train(tmp_path / "whole", None, accumulated=accumulated)
    train(tmp_path / "broken", 9, accumulated=accumulated)
    torch.manual_seed(12345)  # another process would have another random state
    resumed = train(tmp_path / "broken", None, resume=True, accumulated=accumulated)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(*whole), weights_of(*resumed), strict=True))
    for _, run in (whole, resumed):
        assert run.step == run.ema.optimization_step == 20 and run.images == 320


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path: Path) -> None:
    """Batches of 8 twice or of 16 once are the same random numbers."""
    (once, _), (twice, _) = (train(tmp_path / str(count), None, accumulated=count) for count in (1, 2))
    for a, b in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_tensorboard_gets_the_losses(tmp_path: Path) -> None:
    train(tmp_path, None)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [10, 20]
    assert events.Scalars("loss")[1].value < events.Scalars("loss")[0].value


def test_a_broken_checkpoint_leaves_the_former_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up while the second checkpoint is written."""
    _, run = train(tmp_path, 3)
    before = find_checkpoints(tmp_path)
    run.step = 4
    with monkeypatch.context() as patch:

        def fail(state: dict[str, object], path: Path) -> None:
            path.write_bytes(b"half a file")
            raise OSError("No space left on device")

        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="No space left"):
            run.save()
    assert find_checkpoints(tmp_path) == before and before[0].name == "checkpoint-00000003"
    _, resumed = train(tmp_path, 5, resume=True)
    assert resumed.step == 5 and [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-00000005"]


def test_a_run_of_other_processes_is_refused(tmp_path: Path) -> None:
    train(tmp_path, 3)
    path = find_checkpoints(tmp_path)[0] / "components.pt"
    torch.save(torch.load(path, weights_only=True) | {"processes": 2}, path)
    with pytest.raises(RunError, match="is of a run with 2 processes: go on with as many"):
        train(tmp_path, None, resume=True)


def test_gradients_reach_the_module_of_the_step_alone(tmp_path: Path) -> None:
    """A generator's loss passes through its discriminator, whose gradients must not change."""
    accelerator = build_accelerator(some_options(tmp_path))
    generator, discriminator = nn.Linear(2, 2), nn.Linear(2, 1)
    before = [weight.detach().clone() for weight in generator.parameters()]
    optimizer = torch.optim.SGD(generator.parameters(), lr=1.0)
    optimise(accelerator, discriminator(generator(torch.ones(1, 2))).sum(), generator, optimizer)
    assert all(weight.grad is None for weight in discriminator.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, generator.parameters(), strict=True))


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path, 3)
    with pytest.raises(RunError, match="--resume"):
        train(tmp_path, 3)


def test_a_run_that_died_before_its_first_checkpoint_leaves_no_log_behind(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,minutes,loss\n3,0.1,0.001\n")
    begin(tmp_path, nn.Linear(1, 1), resume=True)
    assert not (tmp_path / "log.csv").exists()


def test_a_checkpoint_of_another_model_is_refused_with_a_sentence(tmp_path: Path) -> None:
    train(tmp_path, 3)
    with pytest.raises(RunError, match="does not fit this model"):
        begin(tmp_path, nn.Linear(2, 2), resume=True)


@pytest.mark.usefixtures("one_second_steps")
def test_the_budget_ends_the_run_and_the_log_is_complete(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    run = begin(tmp_path, model, lambda: {"held_out": float(torch.rand(()))}, minutes=5 / 60)
    steps = 0
    for _ in run.steps():
        torch.randn(1000, 100).square().sum()
        run.count(4, loss=steps)
        steps += 1
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert run.fraction == 1.0 and run.seconds == steps == 5
    assert rows[-1]["step"] == str(steps) and rows[-1]["images"] == str(4 * steps)
    assert float(rows[-1]["loss"]) == pytest.approx((steps - 1) / 2, rel=1e-4)
    assert 0 <= float(rows[-1]["held_out"]) < 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_report_does_not_change_the_training(tmp_path: Path) -> None:
    run = begin(tmp_path, nn.Linear(1, 1), lambda: {"noise": float(torch.randn(()))})
    torch.manual_seed(3)
    expected = torch.randn(5)
    torch.manual_seed(3)
    run._report()
    assert torch.equal(torch.randn(5), expected)


def test_the_average_is_weighted_and_is_taken_off_again(tmp_path: Path) -> None:
    model, values, expected = nn.Linear(1, 1, bias=False), [1.0, 5.0, 2.0], 0.0
    options = some_options(tmp_path, minutes=None, max_steps=3)
    run = Run(build_accelerator(options), options, model, {}, decay=0.15)
    for step in run.steps():
        decay = min(0.15, (1 + step) / (10 + step)) if step else 0.0  # the first step's weights replace the random ones
        expected = decay * expected + (1 - decay) * values[step]
        with torch.no_grad():
            model.weight.fill_(values[step])
    with run.averaged():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == values[-1]


def test_means_are_of_all_values_since_they_were_taken(tmp_path: Path) -> None:
    means, accelerator = Means(), build_accelerator(some_options(tmp_path))
    means.add({"a": 1.0, "b": torch.tensor(3.0, requires_grad=True)})
    means.add({"a": 2.0})
    assert means.take(accelerator) == {"a": 1.5, "b": 3.0} and means.take(accelerator) == {}


def test_a_loss_that_is_not_finite_leaves_the_weights_alone(tmp_path: Path) -> None:
    model, accelerator = nn.Linear(2, 1), build_accelerator(some_options(tmp_path))
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimise(accelerator, (model(torch.ones(1, 2)) * float("nan")).sum(), model, optimizer)
    assert torch.equal(model.weight, before)
    optimise(accelerator, model(torch.ones(1, 2)).sum(), model, optimizer)
    assert not torch.equal(model.weight, before)


def test_learning_rate_warms_up_and_decays() -> None:
    assert warm_cosine(0, 0.0, warm_up=100) == pytest.approx(0.01)
    assert warm_cosine(500, 0.0, warm_up=100) == pytest.approx(1.0)
    assert warm_cosine(500, 1.0, warm_up=100, floor=0.02) == pytest.approx(0.02)


def test_the_options_of_a_run_are_written(tmp_path: Path) -> None:
    save_options(some_options(tmp_path / "run"))
    text = (tmp_path / "run" / "options.json").read_text()
    assert "Infinity" not in text  # JSON has no such number
    stored = json.loads(text)
    assert stored["precision"] == "float32" and stored["min_snr"] == "inf" and stored["data"] == "x"
    save_options(some_options(tmp_path / "run", seed=3))  # no checkpoint yet: it starts fresh
    assert json.loads((tmp_path / "run" / "options.json").read_text())["seed"] == 3


def test_a_run_resumes_with_the_same_options_only(tmp_path: Path) -> None:
    save_options(some_options(tmp_path))
    begin(tmp_path, nn.Linear(1, 1)).save()
    before = (tmp_path / "options.json").read_text()
    with pytest.raises(RunError, match="holds a run already. Add --resume"):
        save_options(some_options(tmp_path))
    changed = some_options(tmp_path, resume=True, min_snr=5.0, init_from="folder", precision=torch.bfloat16)
    with pytest.raises(RunError) as error:
        save_options(changed)
    for difference in (
        "--precision was float32, is bfloat16",
        "--min-snr was inf, is 5.0",
        "--init-from was None, is fo",
    ):
        assert difference in str(error.value)
    assert "--seed" not in str(error.value) and "Give the former values, or choose another --out" in str(error.value)
    assert (tmp_path / "options.json").read_text() == before
    save_options(some_options(tmp_path, resume=True, minutes=5.0, checkpoint_seconds=1.0, keep_start=0.5))
    assert json.loads((tmp_path / "options.json").read_text())["minutes"] == 5.0
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    save_options(some_options(moved, resume=True))
    (moved / "options.json").unlink()
    with pytest.raises(RunError, match="options.json cannot be read, so the options of the run are unknown"):
        save_options(some_options(moved, resume=True))


def test_expected_errors_become_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(options: argparse.Namespace) -> None:
        raise KeyError("a name")

    assert run_and_report_errors(fail, some_options(tmp_path), KeyError) == 1
    assert capsys.readouterr().err == "error: 'a name'\n"
    with pytest.raises(KeyError):
        run_and_report_errors(fail, some_options(tmp_path))
