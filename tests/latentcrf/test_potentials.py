"""The energy against brute force, its gradient against autograd, its majorizers against dense matrices."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from latentcrf.potentials import (
    Experts,
    Pairwise,
    Potentials,
    apply_filters,
    apply_filters_transposed,
    curvature_products,
    energy,
    gradient,
    jacobi_diagonal,
    pairwise_products,
    separable_bound,
)

CONDITIONAL, STATIC = "conditional", "static"


def random_potentials(
    seed: int, batch: int = 1, channels: int = 2, height: int = 3, width: int = 3, form: str = CONDITIONAL
) -> Potentials:
    """Very strong couplings in float64; in the static form lambda, phi, alpha and b are shared by the batch."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    n, sites = (batch if form == CONDITIONAL else 1), (height, width)
    return Potentials(
        u=2 * normal(batch, channels, *sites),
        weight=normal(n, 1, *(sites if form == CONDITIONAL else (1, 1))).exp(),
        pairwise=Pairwise(normal(n, 3, *sites).abs() / 2, normal(channels + 1, channels)),
        experts=Experts(normal(5, channels, 3, 3), 3 * normal(n, 5, *sites).abs(), normal(n, 5, *sites)),
    )


def brute_force(y: Tensor, p: Potentials) -> dict[str, float]:
    """Equations (2) to (4) for one sample, one site, pair and filter tap at a time."""
    _, channels, height, width = y.shape
    n = height * width
    flat, u, phi = y[0].flatten(1), p.u[0].flatten(1), p.pairwise.features[0].flatten(1)
    weight = p.weight[0, 0].expand(height, width).flatten()
    filters, alpha, b = p.experts.filters, p.experts.reliability[0], p.experts.response[0]

    unary = sum(weight[i] * (flat[:, i] - u[:, i]).square().sum() / 2 for i in range(n))

    pairwise = 0.0
    for j in range(n):
        for i in range(j):
            similarity = sum(phi[r, i] * phi[r, j] for r in range(len(phi)))
            pairwise += similarity * (p.pairwise.mixing @ (flat[:, i] - flat[:, j])).square().sum() / 2

    higher = 0.0
    for k in range(len(filters)):
        for i, j in product(range(height), range(width)):
            answer = sum(
                filters[k, c, a, e] * y[0, c, i + a - 1, j + e - 1]
                for c in range(channels)
                for a in range(3)
                for e in range(3)
                if 0 <= i + a - 1 < height and 0 <= j + e - 1 < width
            )
            higher += alpha[k, i, j] * math.log(1 + float(answer - b[k, i, j]) ** 2 / 2)
    return {"unary": float(unary), "pairwise": float(pairwise), "higher_order": float(higher)}


def hessian_of_majorizer(p: Potentials, y: Tensor) -> Tensor:
    """A as a dense matrix, from its products with all unit directions."""
    _, curvature = gradient(y, p)
    basis = torch.eye(y.numel(), dtype=y.dtype).view(1, y.numel(), *y.shape[1:])
    return curvature_products(basis, p, curvature)[0]


@pytest.mark.parametrize("form", [CONDITIONAL, STATIC])
@pytest.mark.parametrize("seed", range(3))
def test_energy_is_the_sum_over_sites_pairs_and_taps(seed: int, form: str) -> None:
    p = random_potentials(seed, form=form)
    y = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(seed + 100), dtype=torch.float64)
    expected = brute_force(y, p)
    terms = energy(y, p)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-10), name
    assert terms["total"].item() == pytest.approx(sum(expected.values()), rel=1e-10)


@pytest.mark.parametrize("form", [CONDITIONAL, STATIC])
def test_gradient_is_autograds(form: str) -> None:
    p = random_potentials(0, batch=3, channels=4, height=5, width=7, form=form)
    y = torch.randn(3, 4, 5, 7, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(energy(y, p)["total"].sum(), y)
    torch.testing.assert_close(gradient(y, p)[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("term", ["pairwise", "experts"])
def test_an_absent_term_is_zero_and_has_no_gradient(term: str) -> None:
    full = random_potentials(1)
    p = Potentials(full.u, full.weight, **{term: getattr(full, term)})
    y = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    terms = energy(y, p)
    assert terms["higher_order" if term == "pairwise" else "pairwise"].item() == 0
    (expected,) = torch.autograd.grad(terms["total"].sum(), y)
    torch.testing.assert_close(gradient(y, p)[0], expected)


def test_energy_of_a_batch_is_that_of_its_samples() -> None:
    p = random_potentials(2, batch=3, form=STATIC)
    y = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    alone = [energy(y[i : i + 1], Potentials(p.u[i : i + 1], p.weight, p.pairwise, p.experts)) for i in range(3)]
    for name, value in energy(y, p).items():
        assert value.shape == (3,)
        torch.testing.assert_close(value, torch.cat([terms[name] for terms in alone]))


def test_pairwise_term_ignores_a_common_shift() -> None:
    p = random_potentials(3)
    y = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    shift = torch.tensor([5.0, -3.0], dtype=torch.float64).view(1, 2, 1, 1)
    torch.testing.assert_close(energy(y + shift, p)["pairwise"], energy(y, p)["pairwise"])


@pytest.mark.parametrize("size", [1, 3, 5])
def test_spread_is_the_adjoint_of_respond(size: int) -> None:
    filters = torch.randn(6, 4, size, size, dtype=torch.float64)
    y, r = torch.randn(2, 4, 5, 8, dtype=torch.float64), torch.randn(2, 6, 5, 8, dtype=torch.float64)
    torch.testing.assert_close((apply_filters(y, filters) * r).sum(), (y * apply_filters_transposed(r, filters)).sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_quadratic_touches_the_energy_and_lies_above_it(seed: int) -> None:
    p = random_potentials(seed)
    g = torch.Generator().manual_seed(seed)
    y, d = (torch.randn(20, 2, 3, 3, generator=g, dtype=torch.float64) for _ in range(2))
    p = Potentials(p.u.expand_as(y), p.weight, p.pairwise, p.experts)
    slope, curvature = gradient(y, p)
    for length in (1e-5, 0.3, 1.0, 10.0):
        step = length * d
        quadratic = curvature_products(step[:, None], p, curvature)[:, 0, 0] / 2 + (slope * step).sum(dim=(1, 2, 3))
        rise = energy(y + step, p)["total"] - energy(y, p)["total"]
        assert (rise <= quadratic + 1e-9).all()
        if length == 1e-5:
            torch.testing.assert_close(rise, quadratic, rtol=1e-2, atol=1e-6)


def test_diagonals_of_the_majorizer() -> None:
    p = random_potentials(4)
    y = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    a = hessian_of_majorizer(p, y)
    _, curvature = gradient(y, p)
    torch.testing.assert_close(jacobi_diagonal(p, curvature).flatten(), a.diagonal())
    surplus = torch.linalg.eigvalsh(separable_bound(p, curvature).flatten().diag() - a)
    assert surplus.min() >= -1e-9


def test_pairwise_products_are_the_hessian_of_the_pairwise_term() -> None:
    p = random_potentials(5)
    p = Potentials(p.u, torch.zeros_like(p.weight), p.pairwise)
    y = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda v: energy(v.view_as(y), p)["total"].sum(), y.flatten())
    basis = torch.eye(y.numel(), dtype=y.dtype).view(1, y.numel(), *y.shape[1:])
    torch.testing.assert_close(pairwise_products(basis, p.pairwise)[0], hessian)
