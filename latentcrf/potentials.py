"""The energy of LatentCRF, term by term: values, gradients and quadratic majorizers.

    E(y|x) = E_unary + E_pairwise + E_higher                                                                  (1)

    E_unary    = 1/2 sum_i    lambda_i ||y_i - u_i||^2                                                        (2)
    E_pairwise = 1/2 sum_i<j  s_ij ||W (y_i - y_j)||^2,     s_ij = <phi_i, phi_j> >= 0                        (3)
    E_higher   = sum_k sum_i  alpha_ki rho((f_k * y)_i - b_ki),     rho(r) = log(1 + r^2 / 2)                 (4)

(2) and (4) are LatentCRF's unary and Field-of-Experts terms (arXiv 2412.18596; Roth & Black, IJCV 2009), with
predicted weights and expected responses added. (3) is a fully connected field; because its features are not
negative and the similarities are their inner products, every sum over pairs costs O(N r), never O(N^2):

    sum_j s_ij z_j = phi_i . sum_j phi_j z_j.                                                                 (5)

rho is not convex, but below the parabola that touches it at r0 (Chouzenoux et al., IEEE TIP 2011):

    rho(r) <= rho(r0) + w(r0) (r^2 - r0^2) / 2,     w(r) = rho'(r) / r = 1 / (1 + r^2 / 2)                    (6)

so E lies below a quadratic with curvature A = unary + pairwise + F^T diag(alpha w) F that touches it at y.

Notation: code name -> symbol -> shape
    u            u         (B, C, H, W)   where each site is pulled to
    weight       lambda    (B, 1, H, W)   how strongly, > 0
    features     phi       (B, R, H, W)   pairwise features, >= 0
    mixing       W         (M, C)         the channel directions in which pairs are compared
    filters      f         (K, C, k, k)   the experts, k odd
    reliability  alpha     (B, K, H, W)   how much an expert counts at a site, >= 0
    response     b         (B, K, H, W)   what the expert is expected to answer
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Potentials:
    """The energy's parameters for a batch of grids (notation and shapes: the module's docstring).

    A term whose parameters are None is absent: `features` and `mixing` for the pairwise term, `filters`, `reliability`
    and `response` for the higher-order term. A leading 1 in place of B, or a trailing (1, 1), broadcasts.
    """

    u: Tensor
    weight: Tensor
    features: Tensor | None = None
    mixing: Tensor | None = None
    filters: Tensor | None = None
    reliability: Tensor | None = None
    response: Tensor | None = None

    def to(self, dtype: torch.dtype) -> "Potentials":
        """The same potentials in another floating-point type."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: t.to(dtype) for name, t in tensors.items() if t is not None})


# --- energy -----------------------------------------------------------------------------------------------------------


def energy(y: Tensor, p: Potentials) -> dict[str, Tensor]:
    """Equation (1) and its terms, for latents y (B, C, H, W): unary, pairwise, higher_order, total, each (B,)."""
    unary = (p.weight * (y - p.u).square()).sum(dim=(1, 2, 3)) / 2
    pairwise = quadratic_pairwise(y[:, None], p)[:, 0, 0] / 2
    if p.filters is None:
        higher_order = torch.zeros_like(unary)
    else:
        r = respond(y, p.filters) - p.response
        higher_order = (p.reliability * torch.log1p(r.square() / 2)).sum(dim=(1, 2, 3))
    return {
        "unary": unary,
        "pairwise": pairwise,
        "higher_order": higher_order,
        "total": unary + pairwise + higher_order,
    }


def gradient(y: Tensor, p: Potentials) -> tuple[Tensor, Tensor | None]:
    """The gradient of (1) at y (B, C, H, W), and alpha w(r) (B, K, H, W): the experts' curvature there, by (6)."""
    slope = p.weight * (y - p.u)
    if p.features is not None:
        z = torch.einsum("mc,bchw->bmhw", p.mixing, y)
        slope = slope + torch.einsum("mc,bmhw->bchw", p.mixing, degree(p.features) * z - messages(z, p.features))
    if p.filters is None:
        return slope, None
    r = respond(y, p.filters) - p.response
    curvature = p.reliability / (1 + r.square() / 2)
    return slope + spread(curvature * r, p.filters), curvature


# --- pairwise term ----------------------------------------------------------------------------------------------------


def messages(z: Tensor, features: Tensor) -> Tensor:
    """Equation (5): sum_j s_ij z_j for z (B, M, H, W), the site itself included."""
    gathered = torch.einsum("brhw,bmhw->brm", features, z)
    return torch.einsum("brhw,brm->bmhw", features, gathered)


def degree(features: Tensor) -> Tensor:
    """sum_j s_ij (B, 1, H, W), the site itself included: it cancels against its own message."""
    return torch.einsum("brhw,br->bhw", features, features.sum(dim=(2, 3)))[:, None]


def quadratic_pairwise(d: Tensor, p: Potentials) -> Tensor:
    """d_a^T L d_b (B, n, n) for n directions d (B, n, C, H, W), with L the Hessian of (3): (3) is y^T L y / 2.

    sum_i<j s_ij (z_i - z_j)(z'_i - z'_j) = sum_i degree_i z_i z'_i - sum_r (sum_i phi_ri z_i) (sum_i phi_ri z'_i)
    """
    if p.features is None:
        return d.new_zeros(d.shape[0], d.shape[1], d.shape[1])
    z = torch.einsum("mc,bnchw->bnmhw", p.mixing, d)
    z = z - z.mean(dim=(3, 4), keepdim=True)  # only differences count; centred, the two sums below do not cancel
    own = torch.einsum("bnmhw,bhw,blmhw->bnl", z, degree(p.features)[:, 0], z)
    gathered = torch.einsum("brhw,bnmhw->bnrm", p.features, z)
    return own - torch.einsum("bnrm,blrm->bnl", gathered, gathered)


# --- higher-order term ------------------------------------------------------------------------------------------------
# Outside the grid y counts as 0, the latents' mean. With zero padding the transposed convolution is the exact adjoint.


def respond(y: Tensor, filters: Tensor) -> Tensor:
    """F y: the experts' answers (B, K, H, W) to latents (B, C, H, W)."""
    return F.conv2d(y, filters, padding=filters.shape[-1] // 2)


def spread(r: Tensor, filters: Tensor) -> Tensor:
    """F^T r: responses (B, K, H, W) back onto the latents (B, C, H, W)."""
    return F.conv_transpose2d(r, filters, padding=filters.shape[-1] // 2)


# --- quadratic majorizer ----------------------------------------------------------------------------------------------


def jacobi_diagonal(p: Potentials, curvature: Tensor | None) -> Tensor:
    """The diagonal of A (B, C, H, W): the curvature along each latent alone. `curvature` comes from `gradient`."""
    diagonal = p.weight.expand_as(p.u)
    if p.features is not None:
        others = degree(p.features) - p.features.square().sum(dim=1, keepdim=True)  # without s_ii
        diagonal = diagonal + others * p.mixing.square().sum(dim=0)[:, None, None]
    if curvature is not None:
        diagonal = diagonal + spread(curvature, p.filters.square())
    return diagonal


def separable_bound(p: Potentials, curvature: Tensor | None) -> Tensor:
    """A diagonal D (B, C, H, W) with D >= A as quadratic forms, so that steps with 0 < omega < 2 descend.

    Pairs: (z_i - z_j)^2 <= 2 z_i^2 + 2 z_j^2 and W^T W <= diag(|W|^T |W| 1). Experts: F^T diag(a) F <= diag(|F|^T (a |F| 1)).
    """
    bound = p.weight.expand_as(p.u)
    if p.features is not None:
        others = degree(p.features) - p.features.square().sum(dim=1, keepdim=True)
        size = p.mixing.abs()
        bound = bound + 2 * others * (size.T @ size.sum(dim=1))[:, None, None]
    if curvature is not None:
        size = p.filters.abs()
        bound = bound + spread(curvature * size.sum(dim=(1, 2, 3))[:, None, None], size)
    return bound


def subspace_curvature(d: Tensor, p: Potentials, curvature: Tensor | None) -> Tensor:
    """d_a^T A d_b (B, n, n) for n directions d (B, n, C, H, W), without ever forming A."""
    gram = torch.einsum("bnchw,bhw,blchw->bnl", d, p.weight[:, 0].expand(d.shape[0], *d.shape[3:]), d)
    gram = gram + quadratic_pairwise(d, p)
    if curvature is not None:
        r = respond(d.flatten(0, 1), p.filters).unflatten(0, d.shape[:2])
        gram = gram + torch.einsum("bnkhw,bkhw,blkhw->bnl", r, curvature, r)
    return gram
