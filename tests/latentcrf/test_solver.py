"""The solvers: they descend, they converge, and on a quadratic they find what a direct solve finds."""

import pytest
import torch

from latentcrf.potentials import Experts, Pairwise, Potentials, energy, gradient
from latentcrf.solver import SOLVERS, iterate, solve_2x2
from tests.latentcrf.test_potentials import CONDITIONAL, STATIC, hessian_of_majorizer, random_potentials

SIZES = [(1, 1), (2, 1), (3, 3), (5, 8), (16, 16)]


@pytest.mark.parametrize("form", [CONDITIONAL, STATIC])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("size", SIZES)
def test_energy_never_rises_in_50_iterations(size: tuple[int, int], solver: str, form: str) -> None:
    for seed in range(3):
        p = random_potentials(seed, 2, 4, *size, form=form)
        values = torch.stack([energy(y, p)["total"] for y in iterate(p.u, p, 50, solver)])
        assert len(values) == 51
        assert (values.diff(dim=0) <= 1e-9 * values[:-1].abs()).all()
        assert (values[1] < values[0]).all()


@pytest.mark.parametrize("omega", [0.1, 1.0, 1.9])
def test_damped_descends_for_every_step_size(omega: float) -> None:
    p = random_potentials(7, 2, 4, 6, 6)
    values = torch.stack([energy(y, p)["total"] for y in iterate(p.u, p, 50, "damped", omega)])
    assert (values.diff(dim=0) <= 1e-12 * values[:-1].abs()).all()  # rounding of a float64 sum, once it has converged


def test_energy_does_not_rise_in_float32_beyond_rounding() -> None:
    p = random_potentials(8, 2, 4, 16, 16)
    single = Potentials(*_to(p, torch.float32))
    values = torch.stack([energy(y.double(), p)["total"] for y in iterate(single.u, single, 50)])
    assert (values.diff(dim=0) <= 1e-6 * values[:-1]).all()


def test_residual_at_iteration_5_is_a_tenth_of_that_at_1() -> None:
    for seed in range(8):
        wild = random_potentials(seed, 1, 4, 16, 16)
        # couplings of the size that the model starts from and keeps to: of the order of lambda
        pairwise = Pairwise(wild.pairwise.features / 16, torch.eye(4, dtype=torch.float64))
        filters = wild.experts.filters / wild.experts.filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        p = Potentials(
            wild.u, wild.weight, pairwise, Experts(filters, wild.experts.reliability / 3, wild.experts.response)
        )
        iterates = list(iterate(p.u, p, 5))
        residual = [float((b - a).norm() / b.norm()) for a, b in zip(iterates, iterates[1:], strict=False)]
        assert residual[4] <= residual[0] / 10, (seed, residual)


def test_without_experts_the_minimum_is_that_of_the_linear_system() -> None:
    full = random_potentials(3, 1, 2, 4, 5)
    p = Potentials(full.u, full.weight, full.pairwise)
    a = hessian_of_majorizer(p, p.u)
    expected = torch.linalg.solve(a, (p.weight * p.u).flatten()).view_as(p.u)
    *_, y = iterate(p.u, p, 60)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)


def test_without_experts_memory_gradient_is_preconditioned_conjugate_gradients() -> None:
    full = random_potentials(4, 1, 2, 4, 5)
    p = Potentials(full.u, full.weight, full.pairwise)
    a = hessian_of_majorizer(p, p.u)
    x, rhs, inverse = p.u.flatten(), (p.weight * p.u).flatten(), 1 / a.diagonal()
    r = rhs - a @ x
    d = inverse * r
    for k, y in enumerate(iterate(p.u, p, 4)):
        torch.testing.assert_close(y.flatten(), x, rtol=1e-3, atol=1e-3, msg=lambda m, k=k: f"iterate {k}: {m}")
        step = (r @ (inverse * r)) / (d @ a @ d)
        x, following = x + step * d, r - step * (a @ d)
        d = inverse * following + (following @ (inverse * following)) / (r @ (inverse * r)) * d
        r = following


def test_the_limit_is_a_stationary_point() -> None:
    p = random_potentials(5, 2, 4, 8, 8)
    start, *_, y = iterate(p.u, p, 300)
    assert gradient(y, p)[0].norm() < 1e-3 * gradient(start, p)[0].norm()


def test_unary_alone_stays_at_u() -> None:
    p = random_potentials(6)
    for solver in SOLVERS:
        *_, y = iterate(p.u, Potentials(p.u, p.weight), 3, solver)
        torch.testing.assert_close(y, p.u)


def test_a_batch_equals_its_samples() -> None:
    p = random_potentials(9, 3, 4, 6, 5)
    *_, together = iterate(p.u, p, 8)
    for i in range(3):
        one = Potentials(*_to(p, torch.float64, slice(i, i + 1)))
        *_, alone = iterate(one.u, one, 8)
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("solver", SOLVERS)
def test_iterates_are_differentiable(solver: str) -> None:
    def last(u: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        p = random_potentials(10, 1, 2, 3, 3)
        *_, y = iterate(u, Potentials(u, weight.exp(), p.pairwise, p.experts), 3, solver)
        return y

    p = random_potentials(10, 1, 2, 3, 3)
    inputs = (p.u.requires_grad_(), p.weight.log().requires_grad_())
    assert torch.autograd.gradcheck(last, inputs, rtol=1e-3, atol=1e-4)


def test_gradients_stay_finite_where_nothing_is_left_to_do() -> None:
    u = torch.randn(1, 2, 3, 3, requires_grad=True)
    *_, y = iterate(u, Potentials(u, torch.ones(1, 1, 3, 3)), 5)
    y.sum().backward()
    assert torch.isfinite(u.grad).all()


def test_solve_2x2() -> None:
    m = torch.randn(5, 2, 2, dtype=torch.float64)
    a, b = m @ m.mT + torch.eye(2), torch.randn(5, 2, dtype=torch.float64)  # well conditioned: the ridge is then small
    torch.testing.assert_close(solve_2x2(a, b), torch.linalg.solve(a, b), rtol=1e-3, atol=1e-4)
    singular = torch.tensor([[[4.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(
        solve_2x2(singular, torch.tensor([[2.0, 0.0]])), torch.tensor([[0.5, 0.0]]), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_iterations": -1}, "num_iterations is -1; accepted are 0, 1, 2"),
        ({"num_iterations": 2, "solver": "newton"}, "solver is 'newton'; accepted are '3mg' and 'damped'"),
        ({"num_iterations": 2, "omega": 2.0}, "omega is 2.0; accepted are numbers between 0 and 2"),
        ({"num_iterations": 2, "omega": float("nan")}, "omega is nan"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    p = random_potentials(0)
    with pytest.raises(ValueError, match=message):
        list(iterate(p.u, p, **arguments))


def _to(p: Potentials, dtype: torch.dtype, samples: slice = slice(None)) -> tuple:
    def cut(t: torch.Tensor) -> torch.Tensor:
        return t.to(dtype)[samples]

    pairwise = Pairwise(cut(p.pairwise.features), p.pairwise.mixing.to(dtype))
    experts = Experts(p.experts.filters.to(dtype), cut(p.experts.reliability), cut(p.experts.response))
    return cut(p.u), cut(p.weight), pairwise, experts
