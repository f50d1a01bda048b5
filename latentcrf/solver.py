"""Mean-field inference: iterates that descend the energy of `latentcrf.potentials`.

With Q(y) = prod_i N(mu_i, .) the free energy is stationary in mu where grad E(mu) = 0. Both solvers are
majorize-minimize: each step lowers the quadratic that touches E from above, so the energy never rises.

    solver   step
    3mg      `memory_gradient_step`: a quadratic minimized over two directions; the default
    damped   `damped_step`: plain parallel mean-field with a fixed step size
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from .potentials import Potentials, curvature_products, gradient, jacobi_diagonal, separable_bound

SOLVERS = ("3mg", "damped")
Args = ParamSpec("Args")
Result = TypeVar("Result")


def without_autocast(function: Callable[Args, Result]) -> Callable[Args, Result]:
    """Decorator: the function computes in the types of its arguments, whatever autocast says.

    Args:
        function: its first argument is a tensor.
    """

    @wraps(function)
    def wrapper(*args: Args.args, **kwargs: Args.kwargs) -> Result:
        with torch.autocast(args[0].device.type, enabled=False):  # type: ignore[attr-defined]
            return function(*args, **kwargs)

    return wrapper


@without_autocast
def damped_step(y: Tensor, p: Potentials, omega: float = 1.0) -> Tensor:
    """Make a step of plain parallel mean-field: y - omega D^-1 grad E(y), D the separable bound.

    Args:
        y: latents (B, C, H, W).
        p: the energy's parameters.
        omega: step size, between 0 and 2 (default 1).

    Returns:
        The next iterate (B, C, H, W).
    """
    slope, curvature = gradient(y, p)
    return y - omega * slope / separable_bound(p, curvature)


@without_autocast
def memory_gradient_step(y: Tensor, previous: Tensor, p: Potentials) -> Tensor:
    """Make a step of 3MG (Chouzenoux et al., IEEE TIP 2011).

    The majorizer is minimized exactly over the span of the mean-field direction -grad E / diag(A) and the previous
    displacement. No step size is left to choose.

    Args:
        y: latents (B, C, H, W).
        previous: the displacement that led to y (B, C, H, W); zero at the first step.
        p: the energy's parameters.

    Returns:
        The next iterate (B, C, H, W).
    """
    slope, curvature = gradient(y, p)
    d = torch.stack([-slope / jacobi_diagonal(p, curvature), previous], dim=1)
    gram = curvature_products(d, p, curvature)
    decrease = -torch.einsum("bnchw,bchw->bn", d, slope)
    c = solve_2x2(gram, decrease)
    return y + torch.einsum("bn,bnchw->bchw", c, d)


def solve_2x2(a: Tensor, b: Tensor) -> Tensor:
    """Solve a c = b by Cramer's rule.

    A relative and an absolute ridge keep the system regular where directions are parallel or zero (the first step has
    no previous displacement). The solution of a ridged system still lowers the majorizer. The absolute ridge is so
    large that neither the determinant nor its square, which the derivative needs, underflows.

    Args:
        a: symmetric and positive semidefinite (B, 2, 2).
        b: (B, 2).

    Returns:
        c (B, 2).
    """
    tiny = torch.finfo(a.dtype).tiny ** 0.25
    a11, a12, a22 = a[:, 0, 0] * (1 + 1e-5) + tiny, a[:, 0, 1], a[:, 1, 1] * (1 + 1e-5) + tiny
    c = torch.stack([a22 * b[:, 0] - a12 * b[:, 1], a11 * b[:, 1] - a12 * b[:, 0]], dim=1)
    return c / (a11 * a22 - a12.square())[:, None]


def iterate(y: Tensor, p: Potentials, num_iterations: int, solver: str = "3mg", omega: float = 1.0) -> Iterator[Tensor]:
    """Descend the energy from y.

    Args:
        y: the start (B, C, H, W).
        p: the energy's parameters.
        num_iterations: 0 or more.
        solver: "3mg" (default) or "damped".
        omega: step size of "damped", between 0 and 2 (default 1).

    Yields:
        The start, then each iterate (B, C, H, W): num_iterations + 1 in all.

    Raises:
        ValueError: at the first `next`: an unknown solver, a negative count, omega outside (0, 2).
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}; accepted are {' and '.join(map(repr, SOLVERS))}.")
    if num_iterations < 0:
        raise ValueError(f"num_iterations is {num_iterations}; accepted are 0, 1, 2, ...")
    if not 0 < omega < 2:
        raise ValueError(f"omega is {omega}; accepted are numbers between 0 and 2, both excluded.")
    yield y
    previous = torch.zeros_like(y)
    for _ in range(num_iterations):
        following = damped_step(y, p, omega) if solver == "damped" else memory_gradient_step(y, previous, p)
        previous, y = following - y, following
        yield y
