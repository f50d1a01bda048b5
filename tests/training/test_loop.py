"""The shared training loop: budget, exact resuming, log, averaged weights."""

import argparse
import csv
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from latentcrf.training.loop import EMA, Run, RunError, optimise, run_and_report_errors, save_options, warm_cosine


def train(folder: Path, stop_after: int | None, resume: bool = False, total: int = 20) -> tuple[nn.Module, EMA]:
    """A regression on random data, `total` steps; `stop_after` leaves it in the middle, right after a checkpoint."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    ema, optimizer = EMA(model, 0.9), torch.optim.AdamW(model.parameters(), lr=0.01)
    run = Run(folder, {"model": model, "ema": ema, "optimizer": optimizer}, minutes=60, resume=resume)
    for step in run.steps():
        if step == total:
            break
        if step == stop_after:
            run.save()
            break
        x = torch.randn(16, 3)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimise(loss, model, optimizer)
        ema.update()
        run.count(len(x), loss=loss.detach())
    return model, ema


def test_a_resumed_run_ends_exactly_where_an_unbroken_one_does(tmp_path: Path) -> None:
    whole, whole_ema = train(tmp_path / "whole", None)
    train(tmp_path / "broken", 9)
    torch.manual_seed(12345)  # another process would have another random state
    resumed, resumed_ema = train(tmp_path / "broken", None, resume=True)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(whole_ema.average, resumed_ema.average, strict=True))
    assert whole_ema.step == resumed_ema.step == 20


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path, 3)
    with pytest.raises(RunError, match="--resume"):
        train(tmp_path, 3)


def test_a_run_that_died_before_its_first_checkpoint_leaves_no_log_behind(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,minutes,loss\n3,0.1,0.001\n")
    Run(tmp_path, {"model": nn.Linear(1, 1)}, minutes=1, resume=True)
    assert not (tmp_path / "log.csv").exists()


def test_a_checkpoint_of_another_model_is_refused_with_a_sentence(tmp_path: Path) -> None:
    train(tmp_path, 3)
    with pytest.raises(RunError, match="does not fit this model"):
        Run(tmp_path, {"model": nn.Linear(2, 2)}, minutes=1, resume=True)


@pytest.mark.usefixtures("one_second_steps")
def test_the_budget_ends_the_run_and_the_log_is_complete(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    run = Run(tmp_path, {"model": model}, minutes=5 / 60, report=lambda: {"held_out": float(torch.rand(()))})
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
    run = Run(tmp_path, {}, minutes=1, report=lambda: {"noise": float(torch.randn(()))})
    torch.manual_seed(3)
    expected = torch.randn(5)
    torch.manual_seed(3)
    run._report()
    assert torch.equal(torch.randn(5), expected)


def test_ema_is_the_weighted_mean_and_is_taken_off_again() -> None:
    model = nn.Linear(1, 1, bias=False)
    values, ema = [0.0, 1.0, 5.0], None
    with torch.no_grad():
        model.weight.fill_(values[0])
        ema = EMA(model, decay=0.5)
        expected = values[0]
        for step, value in enumerate(values[1:]):
            model.weight.fill_(value)
            ema.update()
            decay = min(0.5, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * value
    with ema.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == values[-1]


def test_a_loss_that_is_not_finite_leaves_the_weights_alone() -> None:
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimise((model(torch.ones(1, 2)) * float("nan")).sum(), model, optimizer)
    assert torch.equal(model.weight, before)
    optimise(model(torch.ones(1, 2)).sum(), model, optimizer)
    assert not torch.equal(model.weight, before)


def test_learning_rate_warms_up_and_decays() -> None:
    assert warm_cosine(0, 0.0, warm_up=100) == pytest.approx(0.01)
    assert warm_cosine(500, 0.0, warm_up=100) == pytest.approx(1.0)
    assert warm_cosine(500, 1.0, warm_up=100, floor=0.02) == pytest.approx(0.02)


def some_options(folder: Path, **values: object) -> argparse.Namespace:
    defaults = {
        "out": folder,
        "minutes": 1.0,
        "resume": False,
        "checkpoint_seconds": 60.0,
        "seed": 0,
        "data": Path("x"),
    }
    defaults |= {"precision": torch.float32, "min_snr": float("inf"), "init_from": None, "keep_start": 0.0}
    return argparse.Namespace(**(defaults | values))


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
    Run(tmp_path, {"model": nn.Linear(1, 1)}, minutes=1).save()
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
