"""Diversity: the intervals against direct computation, the table, figures, settings."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from analysis import diversity
from analysis.diversity import FULL, Row
from app.tabs import diversity as tab
from latentcrf import LatentCRF
from latentcrf.perceptual import load_features, load_lpips

SEEDS = [3, 4, 5, 6]


def made_up(method: str, seed: int) -> Row:
    random = np.random.default_rng(seed)
    points = random.normal(size=(len(SEEDS), 5))
    pairs = np.square(points[:, None] - points[None]).sum(-1)
    return Row(method, 7, np.zeros((len(SEEDS), 8, 8, 3), np.uint8), pairs, random.uniform(1, 4, len(SEEDS) + 1))


def test_leaving_one_out_is_what_it_says() -> None:
    pairs = made_up(FULL, 0).pairs
    found = diversity.pairwise_without(pairs)
    upper = np.triu_indices(4, 1)
    assert found[0] == pytest.approx(pairs[upper].mean())
    for i in range(4):
        rest = np.delete(np.delete(pairs, i, 0), i, 1)
        assert found[1 + i] == pytest.approx(rest[np.triu_indices(3, 1)].mean())


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.array([1.0, 4.0, 2.0, 7.0, 5.0])
    without = [np.delete(values, i).mean() for i in range(5)]
    estimate, low, high = diversity.jackknife(np.array([values.mean(), *without]))
    assert estimate == values.mean()
    assert (high - low) / 2 == pytest.approx(1.96 * values.std(ddof=1) / np.sqrt(5))


def test_table_and_ratios() -> None:
    rows = [made_up(FULL, 0), made_up("LatentCRF", 1)]
    table = diversity.tabulate(rows).set_index("method")
    assert table.loc[FULL, ["pairwise_lpips_ratio", "vendi_ratio_low", "vendi_ratio_high"]].tolist() == [1, 1, 1]
    expected = rows[1].vendi_without[0] / rows[0].vendi_without[0]
    assert table.loc["LatentCRF", "vendi_ratio"] == pytest.approx(expected)
    assert (table["pairwise_lpips_low"] < table["pairwise_lpips"]).all()
    pairs = diversity.pair_table(rows, SEEDS)
    assert len(pairs) == 2 * 6 and (pairs["seed_a"] < pairs["seed_b"]).all()


def test_figures() -> None:
    drawn = diversity.figures([made_up(FULL, 0), made_up("LatentCRF", 1)], SEEDS)
    assert list(drawn) == ["images", "measures", "pairs"]
    assert list(drawn["images"].layout.yaxis.ticktext) == [FULL, "LatentCRF"]
    assert [trace.type for trace in drawn["pairs"].data] == ["heatmap", "heatmap"]
    assert drawn["pairs"].data[0].zmax == drawn["pairs"].data[1].zmax
    assert "4 seeds" in drawn["measures"].layout.title.text


def test_the_tab_shows_each_methods_row_with_its_measures() -> None:
    rows = [made_up(FULL, 0), made_up("LatentCRF", 1)]
    made = {"rows": rows, "seeds": SEEDS, "prompt": "red apple"}
    shown = tab.show(made, False)
    assert len(shown) == len(tab.show(None, False)) == 2 * tab.ROWS + len(tab.FIGURES)
    galleries, texts = shown[: 2 * tab.ROWS : 2], shown[1 : 2 * tab.ROWS : 2]
    assert [gallery["visible"] for gallery in galleries] == [True, True, False, False, False]
    assert [label for _, label in galleries[1]["value"]] == [f"seed {seed}" for seed in SEEDS]
    table = diversity.tabulate(rows).set_index("method")
    assert "of the full LDM's" not in texts[0] and f"Vendi score {table.loc[FULL, 'vendi']:.2f} (" in texts[0]
    assert f"{table.loc['LatentCRF', 'pairwise_lpips_ratio']:.2f} of the full LDM's" in texts[1] and texts[2] == ""
    event: Any = SimpleNamespace(index=2)
    prompt, seed, random, tabs = tab.send(made, event)
    assert (prompt, seed, random, tabs.selected) == ("red apple", SEEDS[2], False, "compare")
    assert tab.send(None, event) == [gr.skip()] * 4


def test_methods_share_their_noise_and_what_they_cost_is_told(tiny_pipeline: StableDiffusionPipeline) -> None:
    crf = LatentCRF(channels=8, coarse_channels=8, num_coarse_blocks=1, num_experts=2, pairwise_rank=2).eval()
    events: list[object] = []
    methods = [FULL, "LatentCRF", "bypass without parameters", "few steps"]
    large = torch.nn.Upsample(64)  # AlexNet's and EfficientNet's strides are too long for images of 16 px
    lpips, features = load_lpips(), torch.nn.Sequential(large, load_features())
    lpips.net = torch.nn.Sequential(large, lpips.net)
    rows = diversity.compute(
        tiny_pipeline,
        crf,
        (lpips, features),
        "red apple",
        SEEDS,
        methods,
        batch_size=3,
        report=events.append,
    )
    assert [row.unet_calls for row in rows] == [50, 34, 34, 4]
    counts = [event for event in events if isinstance(event, int)]
    assert counts == sorted(counts) and counts[-1] == diversity.cost(methods, len(SEEDS)) == 4 * (50 + 34 + 34 + 4)
    again = diversity.compute(tiny_pipeline, crf, (lpips, features), "red apple", SEEDS[:2], [FULL])
    assert np.abs(again[0].images.astype(int) - rows[0].images[:2]).max() <= 1
    assert (rows[0].images != rows[3].images).any()


def test_wrong_options_are_met_with_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        diversity.main(["--out", str(tmp_path), "--seeds", "3"])
    assert "--seeds 3 is out of range: 4 to 64" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        diversity.main(["--out", str(tmp_path), "--methods", "magic"])
    assert "invalid choice: 'magic'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="'magic' is not compared; accepted are full LDM, LatentCRF"):
        diversity.scheduler_of("magic", None, LatentCRF())
