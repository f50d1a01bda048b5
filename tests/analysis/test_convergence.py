"""CRF convergence: the site energies against brute force, the table against the solver, figures, settings."""

import json
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
def found(tiny_pipeline: StableDiffusionPipeline) -> convergence.Convergence:
    crf = LatentCRF(channels=8, coarse_channels=8, num_coarse_blocks=1, num_experts=2, pairwise_rank=2).eval()
    calls: list[int] = []
    result = convergence.compute(tiny_pipeline, crf, "red apple", SEEDS, bypass=BYPASS, steps=10, report=calls.append)
    assert calls == [1, 2, 3, 4, 5]  # the denoiser calls before the CRF, and none after it
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


def test_the_table_has_every_iteration_and_the_energy_never_rises(found: convergence.Convergence) -> None:
    table = found.table
    assert set(table["solver"]) == {"3mg", "damped"} and sorted(set(table["seed"])) == SEEDS
    for _, run in table.groupby(["seed", "solver"]):
        assert run["iteration"].tolist() == list(range(convergence.ITERATIONS + 1))
        assert (np.diff(run["total"]) <= 1e-4 * run["total"].abs().max()).all()
        assert np.allclose(run["unary"] + run["pairwise"] + run["higher_order"], run["total"], rtol=1e-4)
        assert run["residual"].isna().tolist() == [True] + [False] * convergence.ITERATIONS
    last = table[(table["solver"] == "3mg") & (table["iteration"] == convergence.ITERATIONS)]
    np.testing.assert_allclose(found.maps["total"][1].sum((1, 2)), last["total"], rtol=1e-3)


def test_images_and_figures(found: convergence.Convergence) -> None:
    assert found.images.shape == (1 + len(convergence.SHOWN), 2, 16, 16, 3) and found.images.dtype == np.uint8
    figures = draw_figures(found)
    assert list(figures) == ["curves", "images", "difference", "energy-maps"]
    names = {trace.name for trace in figures["curves"].data if trace.showlegend is not False}
    assert names == {"total", "unary", "pairwise", "higher-order", "residual", "total, damped update",
                     "residual, damped update"}  # fmt: skip
    thin = [trace.name for trace in figures["curves"].data if trace.showlegend is False]
    assert len(thin) == 5 * len(SEEDS) and "residual, seed 5" in thin
    assert figures["curves"].layout.xaxis2.title.text == "CRF iteration"
    assert figures["curves"].layout.yaxis2.type == "log"
    assert list(figures["images"].layout.xaxis.ticktext) == ["seed 4", "seed 5"]
    assert list(figures["images"].layout.yaxis.ticktext) == ["before", "0: target u", "1", "2", "3", "4", "5", "10"]
    assert "amplified as each row says" in figures["difference"].layout.title.text
    rows = figures["difference"].layout.yaxis.ticktext
    assert rows[0].startswith("before<br>x ") and len(rows) == len(found.differences) == len(found.images) - 1
    last = [int(row.split("x ")[1].replace(",", "")) for row in rows]
    assert last == sorted(last) and last[-1] > last[0]  # the differences shrink
    assert choose_amplification(np.full(9, 2.5)) == 100 and choose_amplification(np.full(9, 999.0)) == 1
    assert [trace.type for trace in figures["energy-maps"].data] == ["image", "heatmap"] * 4
    shown = figures["energy-maps"].data[1]
    assert np.allclose(np.asarray(shown.customdata).sum(-1), shown.z, rtol=1e-4)  # the terms make up the total
    under = figures["energy-maps"].data[0]
    assert (under.x0 - under.dx / 2, under.dx) == (-0.5, 0.5)  # 16 pixels over 8 sites, from the first one's edge


@pytest.mark.parametrize(("totals", "expected"), [([9.0, 1.0], 1), ([9.0, 5.0, 3.0, 1.05, 1.0], 3), ([1.0], None)])
def test_the_title_says_when_the_descent_is_done(totals: list[float], expected: int | None) -> None:
    totals += [1.0] * (convergence.ITERATIONS + 1 - len(totals))
    rows = [{"seed": 0, "solver": solver, "iteration": i, "unary": 0.0, "pairwise": 0.0, "higher_order": total,
             "total": total, "residual": 0.1} for solver in ("3mg", "damped") for i, total in enumerate(totals)]  # fmt: skip
    table = pd.DataFrame(rows)
    assert convergence.find_settled_iteration(table) == expected
    title = draw_curves(table, expected).layout.title.text
    assert title.startswith("Energy and residual" if expected is None else "99%") and title.endswith("(mean of 1 seed)")
    assert expected is None or f"by iteration {expected} " in title


def test_settings_make_the_export_again(
    found: convergence.Convergence,
    tiny_pipeline: StableDiffusionPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"prompt": "red apple", "seeds": 2, "seed": 4, "steps": 10, "guidance": 3.0, "bypass": list(BYPASS)}
    exported = command.build_results(found, options | {"precision": "float32"})
    record = {"analysis": exported.analysis, "options": exported.options}
    (tmp_path / "settings.json").write_text(json.dumps(record))
    requests: list[dict[str, Any]] = []

    def compute(_: Any, crf: Any, prompt: str, seeds: list[int], **options: Any) -> convergence.Convergence:
        requests.append({"prompt": prompt, "seeds": seeds, **options})
        return found

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
