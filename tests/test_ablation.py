"""The ablation table: errors by run, pairs with the first model, sentences for what is wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline

from analysis import ablation
from analysis.gallery import embed
from analysis.generate import decode
from analysis.measures import RealFeatures, cluster_weights, kid_draws
from latentcrf import LatentCRF, Observation
from latentcrf.emoji.train_unet import build_scheduler
from latentcrf.training.losses import ideal_latents
from latentcrf.training.observations import observe_coarse, observe_run
from latentcrf.training.train import PAPER_BYPASS, errors, split
from latentcrf.training.trajectories import CoarseSteps, Trajectories, levels

CPU = torch.device("cpu")


@pytest.fixture
def runs() -> Trajectories:
    """Random ones: 5 runs, of which the coarse ones have 1, 2, 3, 1 and 2 recorded steps."""
    torch.manual_seed(0)
    of = torch.tensor([0, 1, 1, 2, 2, 2, 3, 4, 4])
    alphas = torch.linspace(0.3, 0.9, len(of))
    steps = CoarseSteps(torch.randn(9, 4, 8, 8), torch.randn(9, 4, 8, 8), alphas, alphas - 0.1, of)
    return Trajectories(torch.randn(5, 51, 4, 8, 8), levels(build_scheduler(), 50), torch.randn(5, 2, 3), steps)


def small_crf(**options: int) -> LatentCRF:
    torch.manual_seed(1)
    return LatentCRF(channels=8, coarse_channels=8, num_coarse_blocks=1, **options).eval()


def test_errors_are_means_over_each_runs_hand_overs(runs: Trajectories) -> None:
    assert runs.coarse is not None
    found = errors(lambda handed: handed.denoised, runs, CPU)
    to_the_end = (runs.coarse.denoised - runs.latents[runs.coarse.runs, -1]).square().mean((1, 2, 3))
    expected = torch.stack([to_the_end[runs.coarse.runs == run].mean() for run in range(5)])
    torch.testing.assert_close(found["few"], expected)
    assert found["mse"].shape == (5,) and (found["mse"] > 0).all()


def test_the_ideal_latents_have_no_error(runs: Trajectories) -> None:
    assert runs.coarse is not None
    call, first, last = (torch.full((5,), step) for step in (PAPER_BYPASS[0] - 1, *PAPER_BYPASS))
    targets = [observe_run(runs, torch.arange(5), call, first, last)[1], observe_coarse(runs, torch.arange(9))[1]]

    def ideal(handed: Observation) -> torch.Tensor:
        a_in, a_out = torch.as_tensor(handed.alpha_in), torch.as_tensor(handed.alpha_out)
        return ideal_latents(handed.latents, targets.pop(0), a_in, a_out)

    assert all(error.max() < 1e-6 for error in errors(ideal, runs, CPU).values())


def test_models_are_compared_with_the_first_run_by_run(runs: Trajectories) -> None:
    crfs = {"whole": small_crf(num_experts=2, pairwise_rank=2), "plain": small_crf(num_experts=0, pairwise_rank=0)}
    table = ablation.compute(crfs, runs, [1, 5])
    assert table["model"].tolist() == ["whole", "plain", "whole", ablation.LINE, ablation.NO_PARAMETERS]
    assert table["iterations"].tolist() == [5, 5, 1, 0, 0]
    assert table["parameters"][0] > table["parameters"][1] > table["parameters"][3] == 1 > table["parameters"][4] == 0
    assert (table.loc[0, ["mse_difference", "few_difference_low", "few_difference_high"]] == 0).all()
    for kind in ablation.KINDS:
        assert table[f"{kind}_difference"].tolist() == pytest.approx((table[kind] - table[kind][0]).tolist(), abs=1e-9)
        assert (table[f"{kind}_low"] <= table[kind]).all() and (table[kind] <= table[f"{kind}_high"]).all()
    # without fields the energy is least at the network's own u, whatever the number of iterations
    again = ablation.compute({"plain": crfs["plain"]}, runs, [1, 10])
    assert again["mse"][1:3].tolist() == pytest.approx([again["mse"][0]] * 2, rel=1e-5)
    lines = ablation.markdown(table).splitlines()
    assert len(lines) == 2 + len(table) and lines[2].startswith("| whole | 5 |")


def test_images_of_ended_runs_are_judged_beside_the_ldms_own(tiny_pipeline: StableDiffusionPipeline) -> None:
    torch.manual_seed(0)
    alphas = levels(build_scheduler(), 50)
    # eight runs by two solvers, of which 2 steps and 1 are recorded
    of = torch.arange(8).repeat_interleave(3)
    after = torch.tensor([0.5, 0.9, 0.7]).repeat(8)
    steps = CoarseSteps(torch.randn(24, 4, 8, 8), torch.randn(24, 4, 8, 8), after, after - 0.1, of)
    runs = Trajectories(torch.randn(8, 51, 4, 8, 8), alphas, torch.randn(8, 2, 3), steps)
    real = RealFeatures(torch.randn(20, 32))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 32))
    ended = ablation.EndedRuns(tiny_pipeline, runs, network, real)
    for number, handed in enumerate(ended.endings["kid_few"], 1):
        assert torch.equal(handed.denoised, steps.denoised[number::3])
    assert torch.as_tensor(ended.endings["kid"][0].alpha_out).eq(1).all()
    own = ended.draws(None)
    assert np.allclose(own["kid_few"], own["kid"]) and np.allclose(own["kid_finished"], own["kid"])  # the same images
    arrived = ended.draws(lambda handed: runs.latents[:, -1])
    assert all(np.allclose(own[kind], arrived[kind]) for kind in ablation.IMAGE_KINDS)
    halved = ended.draws(lambda handed: 0.5 * handed.denoised)  # by the finisher's strength of 0.7: to 0.65
    scaled = decode(tiny_pipeline, 0.65 * runs.latents[:, -1])
    expected_kid = 1000 * kid_draws(embed(network, scaled), np.arange(8), real, cluster_weights(8))
    assert halved["kid_finished"][0] == pytest.approx(expected_kid[0], rel=1e-3)
    features = embed(network, decode(tiny_pipeline, runs.latents[:, -1]))
    mine, theirs, between = (
        (a.double() @ b.double().T / 32 + 1) ** 3
        for a, b in ((features, features), (real.features, real.features), (features, real.features))
    )
    expected = (mine.sum() - mine.trace()) / 56 + (theirs.sum() - theirs.trace()) / 380 - 2 * between.mean()
    assert own["kid"][0] == pytest.approx(1000 * expected.item(), rel=1e-4)

    table = ablation.compute({"whole": small_crf(num_experts=2, pairwise_rank=2)}, runs, [5], ended)
    assert table["model"].tolist() == ["whole", ablation.LINE, ablation.NO_PARAMETERS, ablation.FULL]
    assert table["kid"][3] == pytest.approx(own["kid"][0]) and pd.isna(table["mse"][3])
    assert table["kid_difference"][3] == pytest.approx(own["kid"][0] - table["kid"][0])
    line = ablation.markdown(table).splitlines()[-1]
    assert line.startswith("| the LDM's own | 0 | 0 |  |  |  |  | ") and f"{own['kid'][0]:.1f}" in line


def test_the_straight_line_goes_on_where_the_estimates_were_going() -> None:
    """Of estimates that change evenly with the log-SNR it finds the one `SLOPE` further on."""
    alphas = torch.tensor([0.2, 0.7])
    at = torch.log(alphas / (1 - alphas))[:, None, None, None]
    start, way = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    before = at - torch.tensor([0.9, 2.0])[:, None, None, None]
    handed = Observation(
        start, start + at * way, alphas, 1.0, None, alphas, start + before * way, torch.sigmoid(before.flatten())
    )
    torch.testing.assert_close(
        ablation.straight_line(handed), start + (at + ablation.SLOPE) * way, rtol=1e-4, atol=1e-4
    )
    unknown = replace(handed, earlier=None, alpha_earlier=None)
    assert torch.equal(ablation.straight_line(unknown), handed.denoised)


def test_a_tenth_is_held_out(runs: Trajectories) -> None:
    many = Trajectories(
        *(part.repeat(5, *[1] * (part.ndim - 1)) for part in (runs.latents, runs.alphas, runs.prompt_embeds))
    )
    held_out, learned = split(many)
    assert (len(held_out), len(learned)) == (3, 22)
    assert torch.equal(held_out.latents, many.latents[::10])


def test_wrong_options_are_met_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--recordings", str(tmp_path), "--out", str(tmp_path / "out"), "--crf"]
    for words, sentence in ((["emoji"], "--crf 'emoji' is not NAME=FOLDER"),
                            (["a=b", "--iterations", "101"], "--iterations 101 is out of range: 0 to 100")):  # fmt: skip
        with pytest.raises(SystemExit):
            ablation.main([*common, *words])
        assert sentence in capsys.readouterr().err
    assert ablation.main([*common, "a=b"]) == 1
    assert f"error: {tmp_path} holds no trajectories." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
