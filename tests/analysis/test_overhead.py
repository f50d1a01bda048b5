"""What the sampler spends outside its networks: own times from a trace, labels that leave no trace, the command."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline

from analysis.overhead import NETWORKS, OUTSIDE, PROMPT, RUN, Times, label_parts, main
from latentcrf import Finisher, LatentCRF, LatentCRFScheduler


def build(**settings: bool) -> LatentCRF:
    return LatentCRF(channels=8, coarse_channels=8, **settings).eval()


def test_a_parts_own_time_is_without_the_parts_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label within a label within a label, two after each other, and a label that never occurs."""
    clock = iter(range(100))  # a second from one look to the next
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    times = Times(("run", "step", "network", "never"))
    for label in ("run", "step", "network", "", "network", "", "", "network", "", ""):
        times.begin(label) if label else times.end()
    # looks: run 0, step 1, network 2 to 3 and 4 to 5, step's end 6, network 7 to 8, run's end 9
    assert times.own == {"run": 1000 * (9 - 5 - 1), "step": 1000 * (5 - 2), "network": 3000, "never": 0}


def test_labels_change_no_image_and_are_taken_off_again(tiny_pipeline: StableDiffusionPipeline) -> None:
    finisher = Finisher(build(corrects_clean=True, reads_trend=False))
    scheduler = LatentCRFScheduler(tiny_pipeline.scheduler, build(), bypass=(3, 5), finisher=finisher)

    def draw() -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        return tiny_pipeline("apple", num_inference_steps=6, generator=generator, output_type="np").images

    own = tiny_pipeline.scheduler
    tiny_pipeline.scheduler = scheduler
    try:
        before = draw()
        times = Times((*NETWORKS, *OUTSIDE))
        times.begin(RUN)
        with label_parts(tiny_pipeline, scheduler, times):
            labelled = draw()
            assert scheduler.num_denoiser_calls == 4
    finally:
        tiny_pipeline.scheduler = own
    times.end()
    assert np.array_equal(labelled, before) and all(value > 0 for value in times.own.values())
    for instance in (scheduler, own, tiny_pipeline, tiny_pipeline.vae, tiny_pipeline.image_processor):
        assert not {"step", "set_timesteps", "encode_prompt", "decode", "postprocess"} & set(vars(instance))
    for module in (tiny_pipeline.unet, tiny_pipeline.text_encoder, scheduler.crf, finisher.crf):
        assert not module._forward_hooks and not module._forward_pre_hooks


@pytest.mark.slow
@pytest.mark.parametrize("is_profiled", [False, True])
def test_the_command_writes_a_table_and_traces(
    tiny_pipeline: StableDiffusionPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_profiled: bool
) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "ldm")
    build().save_pretrained(tmp_path / "crf")
    build(corrects_clean=True, reads_trend=False).save_pretrained(tmp_path / "finisher")
    out, threads = tmp_path / "out", torch.get_num_threads()
    folders = [f"--{name}={tmp_path / folder}" for name, folder in (("model", "ldm"), ("crf", "crf"))]
    folders.append(f"--finisher={tmp_path / 'finisher'}")
    assert main([*folders, f"--out={out}", "--threads=1", "--rounds=1", *["--profiled"] * is_profiled]) == 0
    assert torch.get_num_threads() == threads
    table = pd.read_csv(out / "overhead.csv")
    times = table.pivot(index="part", columns="method", values="milliseconds")
    assert set(times.index) == {*NETWORKS, *OUTSIDE}
    assert (times.loc[["bypass CRF", "finisher"], "full run"] == 0).all()
    assert (times.loc[["U-Net", "autoencoder", *OUTSIDE]] > 0).all(axis=None) and (times["LatentCRF"] > 0).all()
    assert table.groupby("method")["share"].sum().tolist() == pytest.approx([1, 1], abs=1e-4)
    trace = json.loads(gzip.decompress((out / "LatentCRF.json.gz").read_bytes()))
    names = [each["name"] for each in trace["traceEvents"] if each.get("cat") == "user_annotation"]
    assert (names.count("U-Net"), names.count("scheduler's steps"), names.count(RUN)) == (34, 34, 1)
    (total,) = [each["dur"] for each in trace["traceEvents"] if each.get("name") == RUN and "dur" in each][:1]
    if is_profiled:  # the run of the trace is the one that was timed
        assert times["LatentCRF"].sum() == pytest.approx(total / 1000, rel=1e-2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| part | full run, ms | share | LatentCRF, ms | share |"
    assert lines[-2].startswith("| outside | ") and lines[-1].startswith("| outside, prompt known | ")
    known, column = times["full run"].drop([*PROMPT]), 2
    expected = known[[part for part in OUTSIDE if part not in PROMPT]].sum() / known.sum()
    assert lines[-1].split("|")[column + 1].strip() == f"{100 * expected:.2f} %"


def test_a_missing_model_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--model={tmp_path}", f"--out={tmp_path / 'out'}"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} is no pipeline folder")
    assert not (tmp_path / "out").exists()
