"""CRF convergence: the site energies against brute force, the table against the solver, figures, settings."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline

from analysis import convergence as command
from analysis.export import Results
from analysis.figures.convergence import choose_amplification, draw_curves, draw_figures
from analysis.metrics.pixels import to_pixels
from analysis.sampling import decode, encode, run_sampler
from analysis.studies import convergence
from latentcrf import LatentCRF
from latentcrf.potentials import Experts, Pairwise, Potentials, energy

SEEDS, BYPASS = [4, 5], (5, 9)


def random_potentials(side: int, batch: int = 2) -> Potentials:
    return Potentials(
        torch.randn(batch, 4, side, side),
        torch.rand(batch, 1, side, side) + 0.1,
        Pairwise(torch.rand(batch, 3, side, side), torch.randn(4, 4)),
        Experts(torch.randn(5, 4, 3, 3), torch.rand(batch, 5, side, side), torch.randn(batch, 5, side, side)),
    )


@pytest.fixture(scope="module")
def result(tiny_pipeline: StableDiffusionPipeline) -> convergence.Convergence:
    crf = LatentCRF(channels=8, coarse_channels=8, num_coarse_blocks=1, num_experts=2, pairwise_rank=2).eval()
    calls: list[int] = []
    result = convergence.compute(tiny_pipeline, crf, "red apple", SEEDS, bypass=BYPASS, steps=10, report=calls.append)
    # five denoiser calls before the CRF and none after it; then 28 images of iterates and 6 of ends, two a row
    assert calls == list(range(1, 5 + 14 + 3 + 1)) and calls[-1] == convergence.count_work(BYPASS, len(SEEDS))
    return result


def test_the_sites_energies_sum_to_the_energy() -> None:
    p = random_potentials(7)
    y = torch.randn(2, 4, 7, 7)
    maps = convergence.map_energy(y, p)
    for name, expected in energy(y, p).items():
        torch.testing.assert_close(maps[name].sum((1, 2)), expected, rtol=1e-4, atol=1e-3)


def test_a_pair_is_shared_by_its_sites_as_brute_force_does() -> None:
    p = random_potentials(3, batch=1)
    y = torch.randn(1, 4, 3, 3)
    assert p.pairwise is not None
    only = Potentials(y, p.weight, p.pairwise)  # u = y: no unary energy
    z = torch.einsum("mc,chw->mhw", p.pairwise.mixing, y[0]).flatten(1)
    phi = p.pairwise.features[0].flatten(1)
    expected = torch.zeros(9)
    for i in range(9):
        for j in range(9):
            if i != j:
                expected[i] += (phi[:, i] @ phi[:, j]) * (z[:, i] - z[:, j]).square().sum() / 4
    torch.testing.assert_close(convergence.map_energy(y, only)["pairwise"].flatten(), expected, rtol=1e-4, atol=1e-4)


def test_the_table_has_every_iteration_and_the_energy_never_rises(result: convergence.Convergence) -> None:
    table = result.table
    assert set(table["solver"]) == {"3mg", "damped"} and sorted(set(table["seed"])) == SEEDS
    assert set(table["start"]) == {"denoised", "latents", "target"}
    for _, run in table.groupby(["seed", "solver", "start"]):
        assert run["iteration"].tolist() == list(range(convergence.ITERATIONS + 1))
        assert (np.diff(run["total"]) <= 1e-4 * run["total"].abs().max()).all()
        assert np.allclose(run["unary"] + run["pairwise"] + run["higher_order"], run["total"], rtol=1e-4)
        assert run["residual"].isna().tolist() == [True] + [False] * convergence.ITERATIONS
    ours = table[table["solver"] == "3mg"]
    for index, (start, iteration) in enumerate((("denoised", 0), ("latents", 0), ("denoised", convergence.ITERATIONS))):
        rows = ours[(ours["start"] == start) & (ours["iteration"] == iteration)]
        np.testing.assert_allclose(result.maps["total"][index].sum((1, 2)), rows["total"], rtol=1e-3)


def test_the_descents_begin_where_the_sampler_stopped_and_end_at_one_minimum(
    result: convergence.Convergence, tiny_pipeline: StableDiffusionPipeline
) -> None:
    stopped: list[torch.Tensor] = []
    embeds = encode(tiny_pipeline, ["red apple"] * 2)
    run_sampler(tiny_pipeline, embeds, SEEDS, steps=10, on_step=lambda _, latents: stopped.append(latents.clone()))
    noisy = to_pixels(decode(tiny_pipeline, stopped[4]))  # after the fifth call, the last before the bypass
    np.testing.assert_array_equal(result.ends[1], noisy)
    np.testing.assert_array_equal(result.images[1, :, 0], np.stack([noisy[0]] * 2))
    assert result.spread < 1e-3
    np.testing.assert_allclose(
        result.images[:, :, -1].astype(int), result.images[:1, :1, -1].astype(int).repeat(2, 0).repeat(2, 1), atol=1
    )


def test_images_and_figures(result: convergence.Convergence) -> None:
    assert result.images.shape == (2, 2, len(convergence.SHOWN), 16, 16, 3) and result.images.dtype == np.uint8
    assert result.ends.shape == (3, 2, 16, 16, 3)
    for start, words in {"denoised": "From the clean estimate", "latents": "From the noisy latents"}.items():
        figures = draw_figures(result, start)
        assert list(figures) == ["images", "curves", "energy-maps"]
        curves, images, maps = figures["curves"], figures["images"], figures["energy-maps"]
        names = {trace.name for trace in curves.data if trace.showlegend is not False}
        assert names == {"energy", "unary", "pairwise", "higher-order", "energy, damped", "energy from u"}
        thin = [trace.name for trace in curves.data if "seed" in trace.name]
        assert len(thin) == 5 * len(SEEDS) and "residual, seed 5" in thin
        assert curves.layout.xaxis2.title.text == "CRF iteration" and curves.layout.yaxis2.type == "log"
        assert list(images.layout.xaxis.ticktext) == ["start", "1", "2", "3", "4", "5", "10"]
        rows = images.layout.yaxis.ticktext
        assert (
            (rows[0], rows[2]) == ("3MG<br>(LatentCRF)", "damped<br>(plain)")
            and rows[1] == rows[3]
            and rows[1].startswith("difference to<br>the last, x ")
        )
        assert all(words in title.layout.title.text for title in (curves, images))
        assert [trace.type for trace in maps.data] == ["image", "heatmap"] * 4
        shown = maps.data[1]
        assert np.allclose(np.asarray(shown.customdata).sum(-1), shown.z, rtol=1e-4)  # the terms make up the total
        under = maps.data[0]
        assert (under.x0 - under.dx / 2, under.dx) == (-0.5, 0.5)  # 16 pixels over 8 sites, from the first one's edge
    large = draw_figures(result, presentation=True)
    assert all(figure.layout.height <= 660 and figure.layout.font.size >= 18 for figure in large.values())


def test_one_amplification_holds_for_all_differences(result: convergence.Convergence) -> None:
    assert choose_amplification(np.full((2, 3, 9), 2.5)) == 100 and choose_amplification(np.full((2, 3, 9), 999.0)) == 1
    differences = result.measure_differences("latents")
    assert (differences[:, -1] == 0).all() and differences[:, 0].mean() > 0
    images = np.zeros((2, 2, 7, 4, 4, 3), np.uint8)
    images[0, 0, 0], images[0, 1, :3] = 9, 9
    made_up = replace(result, images=images)
    assert [made_up.find_still_iteration("denoised", solver) for solver in ("3mg", "damped")] == [1, 3]
    assert made_up.find_still_iteration("latents", "3mg") == 0
    title = draw_figures(made_up)["images"].layout.title.text
    assert title == "From the clean estimate: final to half a grey level at iteration 1 (3MG), 3 (damped)"


@pytest.mark.parametrize(("totals", "expected"), [([9.0, 1.0], 1), ([9.0, 5.0, 3.0, 1.05, 1.0], 3), ([1.0], None)])
def test_the_title_says_when_the_descent_is_done(
    result: convergence.Convergence, totals: list[float], expected: int | None
) -> None:
    totals = totals + [1.0] * (convergence.ITERATIONS + 1 - len(totals))
    fixed = {"seed": 0, "unary": 0.0, "pairwise": 0.0, "residual": 0.1}
    rows = [
        fixed | {"start": start, "solver": solver, "iteration": i, "higher_order": total, "total": total}
        for start in convergence.STARTS
        for solver in ("3mg", "damped")
        for i, total in enumerate(totals)
    ]
    made_up = replace(result, seeds=[0], table=pd.DataFrame(rows))
    assert made_up.find_settled_iteration("denoised") == expected
    title = draw_curves(made_up, "denoised").layout.title.text
    assert ("Energy and residual" if expected is None else "99%") in title and title.endswith("(mean of 1 seed)")
    assert expected is None or f"by iteration {expected} " in title


def test_settings_make_the_export_again(
    result: convergence.Convergence,
    tiny_pipeline: StableDiffusionPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"prompt": "red apple", "seeds": 2, "seed": 4, "steps": 10, "guidance": 3.0, "bypass": list(BYPASS)}
    exported = command.build_results(result, options | {"precision": "float32"})
    record = {"analysis": exported.analysis, "options": exported.options}
    (tmp_path / "settings.json").write_text(json.dumps(record))
    requests: list[dict[str, Any]] = []

    def compute(_: Any, crf: Any, prompt: str, seeds: list[int], **options: Any) -> convergence.Convergence:
        requests.append({"prompt": prompt, "seeds": seeds, **options})
        return result

    written: list[Results] = []

    def write(results: Results, folder: Path) -> list[str]:
        written.append(results)
        return []

    monkeypatch.setattr(command, "compute", compute)
    monkeypatch.setattr(command, "load_pipeline", lambda folder: tiny_pipeline)
    monkeypatch.setattr(command, "write_results", write)
    assert command.main(["--out", str(tmp_path), "--from", str(tmp_path / "settings.json")]) == 0
    assert requests == [
        {
            "prompt": "red apple",
            "seeds": SEEDS,
            "bypass": BYPASS,
            "steps": 10,
            "guidance": 3.0,
            "precision": torch.float32,
        }
    ]
    assert written[0].options == exported.options


def test_wrong_numbers_are_met_with_the_accepted_range(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--out", "x", "--seeds", "7"])
    assert "argument --seeds: 7 is out of range: 1 to 6" in capsys.readouterr().err
