"""LatentCRF as a model: its forms, its start, what it accepts, precision, saving."""

from dataclasses import replace

import pytest
import torch

from latentcrf import LatentCRF, Observation, hand_over
from latentcrf.conditioning import LevelEmbedding

SMALL = {"channels": 16, "coarse_channels": 16, "num_coarse_blocks": 1}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def observe(batch: int = 2, channels: int = 4, height: int = 8, width: int = 8, seed: int = 0) -> Observation:
    g = torch.Generator().manual_seed(seed)
    latents, denoised = (torch.randn(batch, channels, height, width, generator=g) for _ in range(2))
    return Observation(latents, denoised, torch.rand(batch, generator=g), 1.0)


def with_random_weights(crf: LatentCRF, seed: int = 0, size: float = 0.1) -> LatentCRF:
    """The model with all parameters moved away from their start."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter += size * torch.randn(parameter.shape, generator=g)
    return crf.eval()


@pytest.mark.parametrize("form", ["conditional", "static"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (7, 9), (1, 1), (2, 5), (24, 40)])
def test_any_latent_size(form: str, height: int, width: int) -> None:
    crf = with_random_weights(LatentCRF(form=form, **SMALL))
    o = observe(2, 4, height, width)
    p = crf.potentials(o)
    iterates = list(crf.solve(p, 6))
    values = torch.stack([crf.energy(y, p)["total"] for y in iterates])
    assert len(iterates) == 7 and all(y.shape == o.latents.shape for y in iterates)
    assert torch.isfinite(values).all() and (values.diff(dim=0) <= 1e-5 * values[:-1].abs() + 1e-6).all()


@pytest.mark.parametrize("form", ["conditional", "static"])
def test_sixteen_channels(form: str) -> None:
    o = observe(channels=16)
    assert LatentCRF(latent_channels=16, form=form, **SMALL)(o).shape == o.latents.shape


@pytest.mark.parametrize("form", ["conditional", "static"])
def test_a_fresh_model_is_nearly_the_identity(form: str) -> None:
    o = observe(4, height=16, width=16)
    difference = LatentCRF(form=form)(o) - o.denoised
    assert 0 < difference.std() < 0.1
    assert torch.equal(LatentCRF(form=form, num_experts=0, pairwise_rank=0)(o), o.denoised)


def test_number_of_parameters() -> None:
    assert sum(p.numel() for p in LatentCRF(prompt_dim=384).parameters()) <= 2.1e6  # the embedded U-Net has 21.6 M


def test_residual_criterion_with_the_models_own_potentials() -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        crf = with_random_weights(LatentCRF(**SMALL), seed)
        p = crf.potentials(observe(1, height=16, width=16, seed=seed))
        iterates = list(crf.solve(p, 5))
        residual = [(b - a).norm() / b.norm() for a, b in zip(iterates, iterates[1:], strict=False)]
        assert residual[4] <= residual[0] / 10


def test_potentials_have_the_promised_signs_and_shapes() -> None:
    p = with_random_weights(LatentCRF(num_experts=5, pairwise_rank=3, **SMALL), size=1.0).potentials(
        observe(2, height=6, width=7)
    )
    assert p.weight.shape == (2, 1, 6, 7) and (p.weight > 0).all()
    assert p.pairwise.features.shape == (2, 3, 6, 7) and (p.pairwise.features >= 0).all()
    assert p.experts.reliability.shape == p.experts.response.shape == (2, 5, 6, 7)
    assert (p.experts.reliability >= 0).all() and p.experts.filters.shape == (5, 4, 3, 3)


def test_every_parameter_learns() -> None:
    for form in ("conditional", "static"):
        crf = with_random_weights(LatentCRF(form=form, prompt_dim=6 if form == "conditional" else None, **SMALL))
        o = replace(observe(), prompt_embeds=torch.randn(2, 3, 6))
        (crf(o, num_iterations=3) - torch.randn(2, 4, 8, 8)).square().mean().backward()
        for name, parameter in crf.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


def test_a_batch_equals_its_samples() -> None:
    crf, o = with_random_weights(LatentCRF(**SMALL)), observe(3)
    together = crf(o)
    for i in range(3):
        one = Observation(o.latents[i : i + 1], o.denoised[i : i + 1], o.alpha_in[i : i + 1], 1.0)
        torch.testing.assert_close(together[i : i + 1], crf(one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [(0.0, 0.5), (0.0, 1.0), (1e-9, 1.0), (0.999999, 1.0), (1.0, 1.0)])
def test_extreme_levels_are_ordinary_inputs(alpha: tuple[float, float]) -> None:
    o = replace(observe(), alpha_in=alpha[0], alpha_out=alpha[1])
    y = with_random_weights(LatentCRF(**SMALL))(o)
    assert torch.isfinite(y).all()
    assert torch.isfinite(hand_over(o.latents, y, *alpha)).all()


def test_the_correction_vanishes_with_the_noise() -> None:
    crf = with_random_weights(LatentCRF(num_experts=0, pairwise_rank=0, **SMALL))
    o = observe()
    corrections = [(crf(replace(o, alpha_in=a)) - o.denoised).std() for a in (0.0, 0.99, 0.9999)]
    assert corrections[0] > 3 * corrections[1] > 9 * corrections[2] > 0


def test_a_finisher_corrects_clean_latents_too() -> None:
    x = torch.randn(2, 4, 6, 5)
    clean = Observation(x, x, 1.0, 1.0)
    for corrects_clean in (True, False):  # without fields, which change clean latents anyway
        crf = with_random_weights(LatentCRF(num_experts=0, pairwise_rank=0, corrects_clean=corrects_clean, **SMALL))
        assert ((crf(clean) - x).std() > 0.01) == corrects_clean
        assert torch.allclose(crf(clean), x, atol=1e-6) != corrects_clean


def test_fine_blocks_are_all_used() -> None:
    crf = with_random_weights(LatentCRF(num_fine_blocks=2, **SMALL))
    o = observe()
    before = crf(o)
    for block in crf.network.fine:
        torch.nn.init.normal_(block.conv2.weight)
        after = crf(o)
        assert not torch.allclose(before, after)
        before = after


def test_levels_and_prompt_are_read() -> None:
    crf, o = with_random_weights(LatentCRF(prompt_dim=6, **SMALL)), observe()
    reference = crf(o)
    for changed in (
        replace(o, alpha_out=0.7),
        replace(o, prompt_embeds=torch.ones(2, 3, 6)),
        replace(o, latents=o.latents + 0.1),
    ):
        assert (crf(changed) - reference).abs().max() > 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    crf, o = with_random_weights(LatentCRF(**SMALL)), observe()
    expected = crf(o)
    half = Observation(o.latents.to(dtype), o.denoised.to(dtype), o.alpha_in, o.alpha_out)
    y = crf.to(dtype)(half)
    assert y.dtype == dtype
    error = (y.float() - expected).abs() / torch.finfo(dtype).eps
    assert error.max() < 32 and error.mean() < 4


def test_half_precision_leaves_the_levels_waves_exact() -> None:
    levels = LevelEmbedding(1, 8)
    alphas, seen = torch.rand(5, 1), []
    for dtype in (torch.float32, torch.bfloat16):
        hook = levels.inner.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        levels.to(dtype)(alphas)
        hook.remove()
    torch.testing.assert_close(seen[1].float(), seen[0], rtol=0, atol=0.005)  # of values in -1 to 1, 8 bits each


def test_autocast_does_not_reach_the_solver() -> None:
    crf, o = with_random_weights(LatentCRF(**SMALL)), observe()
    p = crf.potentials(o)
    *_, expected = crf.solve(p)
    with torch.autocast("cpu", torch.bfloat16):
        *_, y = crf.solve(p)
        assert crf.energy(y, p)["total"].dtype == torch.float32
        assert torch.isfinite(crf(o)).all()
    assert torch.equal(y, expected)


@pytest.mark.parametrize("form", ["conditional", "static"])
def test_save_and_load(tmp_path, form: str) -> None:
    crf, o = with_random_weights(LatentCRF(form=form, num_experts=3, **SMALL)), observe()
    crf.save_pretrained(tmp_path)
    again = LatentCRF.from_pretrained(tmp_path)
    assert torch.equal(again(o), crf(o))
    assert dict(again.config)["num_experts"] == 3


def test_save_and_load_fp16_variant(tmp_path) -> None:
    crf, o = with_random_weights(LatentCRF(**SMALL)), observe()
    expected = crf(o)
    crf.half().save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "diffusion_pytorch_model.fp16.safetensors").is_file()
    again = LatentCRF.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float32)
    assert again.dtype == torch.float32
    torch.testing.assert_close(again(o), expected, rtol=0.02, atol=0.02)


def test_start_and_zero_iterations() -> None:
    crf, o = with_random_weights(LatentCRF(**SMALL)), observe()
    p = crf.potentials(o)
    assert torch.equal(crf(o, num_iterations=0), p.u)
    start, *_, far = crf.solve(p, 60, start=o.latents)
    *_, near = crf.solve(p, 60)
    assert torch.equal(start, o.latents)
    torch.testing.assert_close(far, near, rtol=1e-2, atol=1e-2)


def test_static_form_can_pull_to_the_noisy_latents() -> None:
    o = observe()
    crf = LatentCRF(form="static", target="latents", num_experts=0, pairwise_rank=0)
    assert torch.equal(crf(o), o.latents)


def test_static_similarities_fall_with_distance() -> None:
    features = LatentCRF(form="static", pairwise_rank=16).potentials(observe(height=16, width=16)).pairwise.features[0]
    similarity = torch.einsum("r,rhw->hw", features[:, 8, 8], features)
    assert similarity[8, 9] > similarity[8, 12] > similarity[8, 15] > 0


def test_hand_over_with_the_true_latents_moves_along_the_noise() -> None:
    y, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    a_in, a_out = torch.tensor([0.0, 0.3]), torch.tensor([0.9, 0.5])
    x, expected = (a.sqrt().view(2, 1, 1, 1) * y + (1 - a).sqrt().view(2, 1, 1, 1) * noise for a in (a_in, a_out))
    torch.testing.assert_close(hand_over(x, y, a_in, a_out), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hand_over(x, y, a_in, a_in), x, rtol=1e-4, atol=1e-5)
    assert torch.equal(hand_over(x, y, a_in, 1.0), y)
    assert hand_over(x.half(), y, 0.5, 0.9).dtype == torch.float16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "plain"}, "form is 'plain'; accepted are 'conditional' and 'static'"),
        ({"form": "static", "target": "noise"}, "target is 'noise'; accepted are 'denoised' and 'latents'"),
        ({"target": "latents"}, "target is a choice of the static form"),
        ({"num_experts": -1}, "neither may be negative"),
        ({"filter_size": 4}, "filter_size is 4; accepted are 1, 3, 5"),
    ],
)
def test_wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentCRF(**settings)


def test_the_estimates_level_is_read_where_the_model_is_told_to() -> None:
    o = observe()
    early = replace(o, alpha_denoised=torch.as_tensor(o.alpha_in) / 2)
    informed, uninformed = (
        with_random_weights(LatentCRF(**SMALL, reads_estimate_level=reads)) for reads in (True, False)
    )
    with torch.no_grad():
        assert torch.equal(uninformed(o), uninformed(early))
        assert not torch.allclose(informed(o), informed(early), atol=1e-3)
        assert torch.equal(informed(o), informed(replace(o, alpha_denoised=o.alpha_in)))  # what None stands for


def test_the_trend_is_read_where_the_model_is_shown_it() -> None:
    o = replace(observe(), alpha_in=torch.tensor([0.3, 0.9]), alpha_denoised=torch.tensor([0.25, 0.8]))
    earlier = replace(o, earlier=o.denoised.flip(1), alpha_earlier=0.1)
    shown, unshown = (with_random_weights(LatentCRF(**SMALL, reads_trend=reads)) for reads in (True, False))
    with torch.no_grad():
        assert torch.equal(unshown(o), unshown(earlier))
        assert not torch.allclose(shown(o), shown(earlier), atol=1e-3)
        assert not torch.allclose(shown(earlier), shown(replace(earlier, alpha_earlier=0.02)), atol=1e-3)
        # what None stands for: the last estimate itself, so that some samples of a batch may have an earlier one
        assert torch.equal(shown(o), shown(replace(o, earlier=o.denoised, alpha_earlier=o.alpha_denoised)))
        at_pure_noise = replace(earlier, alpha_denoised=0.0, alpha_earlier=0.0)
        assert torch.isfinite(shown(at_pure_noise)).all()


def test_wrong_observations() -> None:
    x = torch.zeros(2, 4, 8, 8)
    for arguments, message in [
        ((x, x[:1], 0.5, 1.0), "one shape"),
        ((x[0], x[0], 0.5, 1.0), "one shape"),
        ((x, x, torch.ones(3), 1.0), r"alpha_in must be a number or have shape \(2,\)"),
        ((x, x, 0.5, torch.ones(2, 1)), "alpha_out must be a number"),
        ((x, x, 0.5, 1.0, None, torch.ones(5)), r"alpha_denoised must be a number or have shape \(2,\)"),
        ((x, x, 0.5, 1.0, None, None, x), "come together or not at all"),
        ((x, x, 0.5, 1.0, None, None, None, 0.3), "come together or not at all"),
        ((x, x, 0.5, 1.0, None, None, x[:, :3], 0.3), r"earlier must have the latents' shape \(2, 4, 8, 8\)"),
        ((x, x, 0.5, 1.0, None, None, x, torch.ones(3)), r"alpha_earlier must be a number or have shape \(2,\)"),
        ((x, x, 0.5, 1.0, torch.ones(2, 6)), r"prompt_embeds must have shape \(2, tokens, D\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            Observation(*arguments)
    with pytest.raises(ValueError, match="The latents have 4 channels; this CRF works on 16"):
        LatentCRF(latent_channels=16, **SMALL).potentials(Observation(x, x, 0.5, 1.0))
    with pytest.raises(ValueError, match="prompt_embeds is 5 wide; this CRF reads 6"):
        LatentCRF(prompt_dim=6, **SMALL).potentials(Observation(x, x, 0.5, 1.0, torch.ones(2, 3, 5)))
