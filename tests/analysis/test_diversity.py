"""Diversity: the intervals against direct computation, the table, figures, settings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from analysis.diversity import main
from analysis.figures.diversity import draw_figures
from analysis.metrics.diversity import pairwise_without_each
from analysis.metrics.intervals import jackknife
from analysis.metrics.perceptual import load_features, load_lpips
from analysis.metrics.pixels import to_images
from analysis.studies import FULL_RUN, diversity
from analysis.studies.diversity import MethodImages
from latentcrf import LatentCRF

SEEDS = [3, 4, 5, 6]


def made_up(method: str, seed: int) -> MethodImages:
    random = np.random.default_rng(seed)
    points = random.normal(size=(len(SEEDS), 5))
    pairs = np.square(points[:, None] - points[None]).sum(-1)
    return MethodImages(
        method, 7, 14, np.zeros((len(SEEDS), 8, 8, 3), np.uint8), pairs, random.uniform(1, 4, len(SEEDS) + 1)
    )


def test_leaving_one_out_is_what_it_says() -> None:
    pairs = made_up(FULL_RUN, 0).pairs
    means = pairwise_without_each(pairs)
    upper = np.triu_indices(4, 1)
    assert means[0] == pytest.approx(pairs[upper].mean())
    for i in range(4):
        rest = np.delete(np.delete(pairs, i, 0), i, 1)
        assert means[1 + i] == pytest.approx(rest[np.triu_indices(3, 1)].mean())


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.array([1.0, 4.0, 2.0, 7.0, 5.0])
    without = [np.delete(values, i).mean() for i in range(5)]
    estimate, low, high = jackknife(np.array([values.mean(), *without]))
    assert estimate == values.mean()
    assert (high - low) / 2 == pytest.approx(1.96 * values.std(ddof=1) / np.sqrt(5))


def test_table_and_ratios() -> None:
    rows = [made_up(FULL_RUN, 0), made_up("LatentCRF", 1)]
    table = diversity.tabulate(rows).set_index("method")
    assert table.loc[FULL_RUN, ["pairwise_lpips_ratio", "vendi_ratio_low", "vendi_ratio_high"]].tolist() == [1, 1, 1]
    expected = rows[1].vendi[0] / rows[0].vendi[0]
    assert table.loc["LatentCRF", "vendi_ratio"] == pytest.approx(expected)
    assert (table["pairwise_lpips_low"] < table["pairwise_lpips"]).all()
    pairs = diversity.tabulate_pairs(rows, SEEDS)
    assert len(pairs) == 2 * 6 and (pairs["seed_a"] < pairs["seed_b"]).all()


def test_figures() -> None:
    results = [made_up(FULL_RUN, 0), made_up("LatentCRF", 1)]
    figures = draw_figures(results, diversity.tabulate(results), SEEDS)
    assert list(figures) == ["images", "measures", "pairs"]
    assert list(figures["images"].layout.yaxis.ticktext) == [FULL_RUN, "LatentCRF"]
    assert [trace.type for trace in figures["pairs"].data] == ["heatmap", "heatmap"]
    assert figures["pairs"].data[0].zmax == figures["pairs"].data[1].zmax
    title = figures["measures"].layout.title.text
    kept = diversity.tabulate(results)["pairwise_lpips_ratio"][1]
    assert title == f"Diversity against the full run: LatentCRF {kept:.0%} (4 seeds, 95 % intervals)"
    large = draw_figures(results, diversity.tabulate(results), SEEDS, presentation=True)
    assert all(note.font.size >= 18 for figure in large.values() for note in figure.layout.annotations)


def test_methods_share_their_noise_and_their_calls_are_counted(
    tiny_pipeline: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    crf = LatentCRF(channels=8, coarse_channels=8, num_coarse_blocks=1, num_experts=2, pairwise_rank=2).eval()
    events: list[object] = []
    methods = [FULL_RUN, "LatentCRF", "zero-parameter bypass", "DDIM-4"]
    latentcrf = diversity.build_latentcrf(tiny_pipeline.scheduler, crf)
    # AlexNet's and EfficientNet's strides are too long for images of 16 px
    monkeypatch.setattr(diversity, "to_images", lambda images: torch.nn.Upsample(64)(to_images(images)))
    lpips, features = load_lpips(), load_features()
    rows = diversity.compute(
        tiny_pipeline,
        latentcrf,
        lpips,
        features,
        "red apple",
        SEEDS,
        methods,
        batch_size=3,
        report=events.append,
    )
    assert [row.denoiser_calls for row in rows] == [50, 34, 34, 4]
    assert [row.network_evaluations for row in rows] == [100, 68, 68, 8]  # guided
    counts = [event for event in events if isinstance(event, int)]
    calls = diversity.count_denoiser_calls(methods, len(SEEDS))
    assert calls == 4 * (50 + 34 + 34 + 4)
    assert counts == sorted(counts) and counts[-1] == diversity.count_work(calls, len(methods), len(SEEDS))
    again = diversity.compute(tiny_pipeline, None, lpips, features, "red apple", SEEDS[:2], [FULL_RUN])
    assert np.abs(again[0].images.astype(int) - rows[0].images[:2]).max() <= 1
    assert (rows[0].images != rows[3].images).any()


def test_wrong_options_are_met_with_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--seeds", "3"])
    assert "argument --seeds: 3 is out of range: 4 to 64" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--methods", "magic"])
    assert "invalid choice: 'magic'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="'magic' is not compared; accepted are full run, LatentCRF"):
        diversity.build_sampler("magic", None, diversity.Sampler(None, 50, 34))


def test_each_few_step_run_is_named_as_in_the_benchmark(tiny_pipeline: StableDiffusionPipeline) -> None:
    nothing = torch.nn.Conv2d(3, 1, 1)
    few = diversity.build_latentcrf(tiny_pipeline.scheduler, None, few_steps=3, guidance_cutoff=0.33)
    assert (few.steps, few.denoiser_calls, few.scheduler.bypass) == (3, 3, None)
    measured = (np.zeros((1, 1)), np.ones(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diversity, "measure", lambda *_: measured)  # a row of one image has no pairs
        rows = diversity.compute(
            tiny_pipeline, few, nothing, nothing, "red apple", SEEDS[:1],
            ["LatentCRF", "DDIM, equal calls", "DDIM-4"], steps=6, bypass=(2, 4),
        )  # fmt: skip
    assert [(row.method, row.denoiser_calls) for row in rows] == [("LatentCRF", 3), ("DDIM-3", 3), ("DDIM-4", 4)]
    assert rows[0].network_evaluations == 5  # the last call without guidance
