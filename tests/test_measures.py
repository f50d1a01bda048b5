"""Measures against values that can be computed by hand, or slowly."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis import measures
from analysis.gallery import load_gallery
from analysis.prompts import draw_prompts
from analysis.quality import captioned_sheet, interleaved_seconds, main
from latentcrf.perceptual import load_lpips


def test_pixels_and_images_are_each_others_inverse() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    images = measures.to_images(pixels)
    assert images.shape == (1, 3, 16, 16)
    assert (images.min().item(), images.max().item()) == (-1, 1)
    assert np.array_equal(measures.to_pixels(images), pixels)
    assert measures.to_pixels(torch.full((1, 3, 1, 1), 7.0)).max() == 255


def test_psnr_and_latent_mse_of_known_differences() -> None:
    a = torch.zeros(2, 3, 4, 4)
    b = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), -0.02)])
    torch.testing.assert_close(measures.psnr(a, b), torch.tensor([20.0, 40.0]))
    torch.testing.assert_close(measures.latent_mse(a, b), torch.tensor([0.04, 0.0004]))
    with pytest.raises(ValueError, match=r"same shape, got \(2, 3, 4, 4\) and \(1, 3, 4, 4\)"):
        measures.psnr(a, b[:1])


def test_lpips_in_batches_and_over_pairs() -> None:
    model = load_lpips()
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    alone = torch.tensor([model(images[i : i + 1], images[3 - i : 4 - i]).item() for i in range(4)])
    torch.testing.assert_close(measures.lpips(model, images, images.flip(0), batch_size=3), alone)
    pairs = [model(images[i : i + 1], images[j : j + 1]).item() for i in range(4) for j in range(i)]
    assert measures.pairwise_lpips(model, images, batch_size=4) == pytest.approx(np.mean(pairs), rel=1e-4)
    # equal images at other places of a batch: kernels may round their features differently, by 1e-7 or so, and LPIPS squares that
    assert measures.pairwise_lpips(model, images[:1].expand(3, -1, -1, -1)) == pytest.approx(0, abs=1e-10)
    matrix = measures.lpips_matrix(model, images, batch_size=3)
    assert torch.equal(matrix, matrix.T) and matrix.diagonal().eq(0).all()  # |a - b| is |b - a|, and 0 for a = b
    torch.testing.assert_close(matrix[1:, 0], torch.tensor(pairs)[[0, 1, 3]], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        measures.pairwise_lpips(model, images[:1])


def test_vendi_counts_different_items() -> None:
    different = torch.eye(5)
    assert measures.vendi(different) == pytest.approx(5)
    assert measures.vendi(different[:1].expand(5, -1) * 3) == pytest.approx(1)
    # two groups of 1 and 3: exp of the entropy of (1/4, 3/4)
    expected = math.exp(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    assert measures.vendi(different[[0, 1, 1, 1]]) == pytest.approx(expected)


def test_retrieval_against_sorting() -> None:
    generator = torch.Generator().manual_seed(1)
    gallery, queries = torch.randn(40, 6, generator=generator), torch.randn(600, 6, generator=generator)
    labels = [str(i % 7) for i in range(40)]
    wanted = [str(i % 8) for i in range(600)]  # "7" is not in the gallery
    found = measures.retrieval_ranks(queries, wanted, gallery, labels)
    unit = gallery / gallery.norm(dim=1, keepdim=True)
    for query, label, rank in zip(queries, wanted, found, strict=True):
        order = (unit @ query).argsort(descending=True).tolist()
        places = [place + 1 for place, index in enumerate(order) if labels[index] == label]
        assert rank == (places[0] if places else 41)


def test_a_real_image_does_not_find_itself() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [0.7, 0.7]])
    ranks = measures.retrieval_ranks(gallery, list("aabbc"), gallery, list("aabbc"), itself=True)
    assert ranks.tolist() == [1, 1, 1, 1, 6]  # the only "c" has no other
    with pytest.raises(ValueError, match="5 queries with 1 labels"):
        measures.retrieval_ranks(gallery, ["a"], gallery, list("aabbc"))


def test_bootstrap_intervals() -> None:
    assert measures.bootstrap([2.0, 2.0, 2.0]) == (2, 2, 2)
    rng = np.random.default_rng(0)
    # a 95 % interval of the mean of 50 standard normals holds 0 about 95 times in 100
    holds = [low <= 0 <= high for _, low, high in (measures.bootstrap(rng.normal(size=50)) for _ in range(100))]
    assert 87 <= sum(holds) <= 99
    estimate, low, high = measures.bootstrap([1.0, 2.0, 30.0], np.median)
    assert (estimate, low, high) == (2, 1, 30)
    assert measures.bootstrap([1.0, 5.0, 2.0]) == measures.bootstrap([1.0, 5.0, 2.0])
    with pytest.raises(ValueError, match="non-empty"):
        measures.bootstrap([])
    table = measures.summary({"share": ([True, False, True, True], np.mean)})
    assert table.loc[0, "value"] == 0.75
    assert table.loc[0, "n"] == 4


def some_rows(count: int = 20) -> list[dict[str, object]]:
    return [
        {"subject": f"s{i}", "code_point": str(i), "core": i >= 5, "split": "test" if i < 8 else "train",
         "pixels_sha256": str(i)}
        for i in range(count)
    ]  # fmt: skip


def test_prompts_are_seen_core_subjects() -> None:
    drawn = draw_prompts(some_rows(), 12, seed=0)
    assert sorted(drawn["code_point"], key=int) == [str(i) for i in range(8, 20)]
    assert draw_prompts(some_rows(), 5, 1).equals(draw_prompts(some_rows(), 5, 1))
    assert not draw_prompts(some_rows(), 5, 1).equals(draw_prompts(some_rows(), 5, 2))
    with pytest.raises(ValueError, match="--prompts 13 is out of range: 1 to 12"):
        draw_prompts(some_rows(), 13, seed=0)


class MeanColour(torch.nn.Module):
    """A feature extractor that can be checked by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()), requires_grad=False)
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return images.mean((2, 3)) * self.scale


def test_gallery_is_computed_once_for_pictures_and_weights(tmp_path: Path) -> None:
    rows, model = some_rows(), MeanColour()
    pixels = np.random.default_rng(0).integers(256, size=(20, 4, 4, 3), dtype=np.uint8)
    features, labels = load_gallery(model, rows, pixels, tmp_path)
    torch.testing.assert_close(features, measures.to_images(pixels).mean((2, 3)))
    assert labels == [str(i) for i in range(20)]
    calls = model.calls
    assert torch.equal(load_gallery(model, rows, pixels, tmp_path)[0], features)
    assert model.calls == calls
    model.scale.fill_(2)
    torch.testing.assert_close(load_gallery(model, rows, pixels, tmp_path)[0], features * 2)


def test_sheet_shows_every_image_and_fits_long_captions() -> None:
    pixels = np.zeros((9, 32, 32, 3), np.uint8)
    sheet = np.asarray(captioned_sheet(pixels, ["a caption far too long for its picture", *"bcdefghi"]))
    black = (sheet == 0).all(2)
    assert black.sum() >= 9 * 32 * 32
    assert black[:, :6].sum() == 0
    assert isinstance(captioned_sheet(pixels[:1], ["x"]), Image.Image)


def test_timed_runs_are_interleaved() -> None:
    order: list[str] = []
    first, second, third = interleaved_seconds(order.append, "abc", rounds=3)
    assert order == ["a", "b", "c"] * 4
    assert first.shape == second.shape == third.shape == (3,)
    assert (first > 0).all()


def test_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ldm", "--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "holds no data set" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["ldm", "--out", str(tmp_path), "--batch-size", "0"])
    assert "--batch-size 0 is out of range: 1 or more" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_edges_and_spectrum_of_a_wave() -> None:
    x = torch.arange(32) / 32
    waves = torch.stack([torch.cos(2 * math.pi * k * x).expand(3, 32, 32) for k in (2, 5)])
    spectrum = measures.radial_spectrum(waves)
    assert spectrum.shape == (2, 16) and spectrum.argmax(1).tolist() == [1, 4]  # rings 2 and 5
    soft = torch.nn.functional.avg_pool2d(waves, 5, 1)
    assert (measures.edge_strength(soft) < measures.edge_strength(waves)).all()
    ramp = torch.linspace(-1, 1, 33)[:32].expand(1, 3, 32, 32)  # 1/16 a pixel
    assert measures.edge_strength(ramp).item() == pytest.approx(1 / 16, rel=1e-5)
    noise = torch.randn(4, 3, 32, 32)
    assert measures.spectrum_error(noise, noise) == 0
    assert measures.spectrum_error(2 * noise, noise) == pytest.approx(20 * math.log10(2), abs=1e-4)


def _features() -> tuple[torch.Tensor, np.ndarray, measures.RealFeatures]:
    generator = torch.Generator().manual_seed(2)
    made = torch.randn(12, 5, generator=generator) + 0.5
    real = torch.randn(30, 5, generator=generator) * 1.5
    return made, np.repeat(np.arange(4), 3), measures.RealFeatures(real)


def test_kid_against_all_pairs_one_by_one() -> None:
    made, clusters, real = _features()
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1]])

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return (float(a.double() @ b.double()) / 5 + 1) ** 3

    r = real.features
    real_pairs = np.mean([k(r[i], r[j]) for i in range(30) for j in range(30) if i != j])
    for row, found in zip(weights, measures.kid_draws(made, clusters, real, weights), strict=True):
        chosen = [(copy, i) for i in range(12) for copy in range(row[clusters[i]])]
        # two copies of a prompt are not compared with each other, so that no image meets itself
        met = [(i, j) for a, i in chosen for b, j in chosen if clusters[i] != clusters[j] or (a == b and i != j)]
        pairs = np.mean([k(made[i], made[j]) for i, j in met])
        cross = np.mean([k(made[i], b) for _, i in chosen for b in r])
        assert found == pytest.approx(pairs - 2 * cross + real_pairs, rel=1e-9)


def test_frechet_against_a_matrix_root() -> None:
    from scipy.linalg import sqrtm

    made, clusters, real = _features()
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1]])
    b = real.features.numpy()
    for row, found in zip(weights, measures.frechet_draws(made, clusters, real, weights), strict=True):
        a = made.double().numpy()[[i for i in range(12) for _ in range(row[clusters[i]])]]
        s, s_r = np.cov(a.T), np.cov(b.T)
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + s_r - 2 * np.real(sqrtm(s @ s_r)))
        assert found == pytest.approx(expected, rel=1e-6)
    same = measures.RealFeatures(made)
    assert measures.frechet_draws(made, clusters, same, weights[:1])[0] == pytest.approx(0, abs=1e-6)


def test_an_interval_lies_around_an_estimate_that_resamples_exceed() -> None:
    draws = np.concatenate([[5.0], np.random.default_rng(0).normal(9.0, 1.0, 20_000)])  # a bias of 4
    estimate, low, high = measures.interval(draws, distance=True)
    assert estimate == 5 and low == pytest.approx(5 - 1.96, abs=0.05) and high == pytest.approx(5 + 1.96, abs=0.05)


def test_an_interval_of_a_mean_ends_where_its_resamples_do() -> None:
    draws = np.concatenate([[-0.07], np.random.default_rng(0).choice([-0.14, -0.06, 0.0], 1000, p=[0.1, 0.8, 0.1])])
    assert measures.interval(draws) == (-0.07, -0.14, 0.0)


def test_draws_over_prompts() -> None:
    weights = measures.cluster_weights(40, resamples=3000, seed=1)
    assert weights.shape == (3001, 40) and (weights.sum(1) == 40).all() and (weights[0] == 1).all()
    assert np.array_equal(weights, measures.cluster_weights(40, resamples=3000, seed=1))
    values = np.random.default_rng(0).normal(3.0, 2.0, 40)
    estimate, low, high = measures.interval(measures.mean_draws(values, weights))
    assert estimate == pytest.approx(values.mean())
    error = values.std() / math.sqrt(40)
    assert (low, high) == (
        pytest.approx(estimate - 1.96 * error, abs=0.1),
        pytest.approx(estimate + 1.96 * error, abs=0.1),
    )


def test_the_cost_command_sets_each_network_beside_a_guided_call(tmp_path: Path) -> None:
    assert main(["cost", "--rounds", "3", "--threads", "1", "--out", str(tmp_path)]) == 0
    items, found = pd.read_csv(tmp_path / "cost.csv"), pd.read_csv(tmp_path / "cost-summary.csv").set_index("measure")
    assert len(items) == 3 and (items.drop(columns="precision") > 0).all(axis=None)
    assert set(items["precision"]) == set(found["precision"]) == {"float32"}
    ratios = items["emoji-latentcrf-finisher"] / items["guided U-Net call"]
    share = found.loc["share of a guided U-Net call, emoji-latentcrf-finisher"]
    assert (
        share["value"] == pytest.approx(ratios.median(), rel=1e-3) and share["low"] <= share["value"] <= share["high"]
    )
    for name in ("emoji-latentcrf", "emoji-latentcrf-finisher"):
        assert 0 < found.loc[f"parameters, {name} to U-Net", "value"] <= 0.1
