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
Where a parameter is the same for all samples or sites, 1 in place of B, H, W broadcasts (alpha and b: only B).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Pairwise:
    """Parameters of the pairwise term (3).

    Attributes:
        features: phi (B, R, H, W), >= 0.
        mixing: W (M, C).
    """

    features: Tensor
    mixing: Tensor


@dataclass(frozen=True)
class Experts:
    """Parameters of the higher-order term (4).

    Attributes:
        filters: f (K, C, k, k).
        reliability: alpha (B, K, H, W), >= 0.
        response: b (B, K, H, W).
    """

    filters: Tensor
    reliability: Tensor
    response: Tensor


@dataclass(frozen=True)
class Potentials:
    """The energy's parameters for a batch of grids.

    Attributes:
        u: where each site is pulled to (B, C, H, W).
        weight: lambda (B, 1, H, W), > 0.
        pairwise: parameters of (3); None: the energy has no such term.
        experts: parameters of (4), alike.
    """

    u: Tensor
    weight: Tensor
    pairwise: Pairwise | None = None
    experts: Experts | None = None


# --- energy -----------------------------------------------------------------------------------------------------------


def energy(y: Tensor, p: Potentials) -> dict[str, Tensor]:
    """Compute the energy (1) and its terms.

    Args:
        y: latents (B, C, H, W).
        p: the energy's parameters.

    Returns:
        `unary`, `pairwise`, `higher_order` and `total`, each (B,).
    """
    unary = (p.weight * (y - p.u).square()).sum(dim=(1, 2, 3)) / 2
    pairwise = higher_order = torch.zeros_like(unary)
    if p.pairwise is not None:
        pairwise = pairwise_products(y[:, None], p.pairwise)[:, 0, 0] / 2
    if p.experts is not None:
        r = apply_filters(y, p.experts.filters) - p.experts.response
        higher_order = (p.experts.reliability * torch.log1p(r.square() / 2)).sum(dim=(1, 2, 3))
    total = unary + pairwise + higher_order
    return {"unary": unary, "pairwise": pairwise, "higher_order": higher_order, "total": total}


def gradient(y: Tensor, p: Potentials) -> tuple[Tensor, Tensor | None]:
    """Compute the gradient of (1).

    Args:
        y: latents (B, C, H, W).
        p: the energy's parameters.

    Returns:
        The gradient at y (B, C, H, W), and the experts' curvature there, alpha w(r) by (6), (B, K, H, W); None without
        experts.
    """
    slope = p.weight * (y - p.u)
    if p.pairwise is not None:
        features, mixing = p.pairwise.features, p.pairwise.mixing
        z = torch.einsum("mc,bchw->bmhw", mixing, y)
        slope = slope + torch.einsum("mc,bmhw->bchw", mixing, degree(features) * z - messages(z, features))
    if p.experts is None:
        return slope, None
    r = apply_filters(y, p.experts.filters) - p.experts.response
    curvature = p.experts.reliability / (1 + r.square() / 2)
    return slope + apply_filters_transposed(curvature * r, p.experts.filters), curvature


# --- pairwise term ----------------------------------------------------------------------------------------------------


def messages(z: Tensor, features: Tensor) -> Tensor:
    """Compute (5), sum_j s_ij z_j, the site itself included.

    Args:
        z: (B, M, H, W).
        features: phi (B, R, H, W).

    Returns:
        The messages to each site (B, M, H, W).
    """
    gathered = torch.einsum("brhw,bmhw->brm", features, z)
    return torch.einsum("brhw,brm->bmhw", features, gathered)


def degree(features: Tensor) -> Tensor:
    """Compute sum_j s_ij, the site itself included: it cancels against its own message.

    Args:
        features: phi (B, R, H, W).

    Returns:
        The weighted degree of each site (B, 1, H, W).
    """
    return torch.einsum("brhw,br->bhw", features, features.sum(dim=(2, 3)))[:, None]


def degree_of_others(features: Tensor) -> Tensor:
    """Compute sum_{j != i} s_ij.

    Args:
        features: phi (B, R, H, W).

    Returns:
        The weighted degree of each site without itself (B, 1, H, W).
    """
    return degree(features) - features.square().sum(dim=1, keepdim=True)


def pairwise_products(d: Tensor, pairwise: Pairwise) -> Tensor:
    """Compute d_a^T L d_b, with L the Hessian of (3): (3) is y^T L y / 2.

    sum_i<j s_ij (z_i - z_j)(z'_i - z'_j) = sum_i degree_i z_i z'_i - sum_r (sum_i phi_ri z_i) (sum_i phi_ri z'_i)

    Args:
        d: n directions (B, n, C, H, W).
        pairwise: parameters of (3).

    Returns:
        The products of all pairs of directions (B, n, n).
    """
    z = torch.einsum("mc,bnchw->bnmhw", pairwise.mixing, d)
    z = z - z.mean(dim=(3, 4), keepdim=True)  # only differences count; centred, the two sums hardly cancel
    own = torch.einsum("bnmhw,blmhw->bnl", z * degree(pairwise.features)[:, None], z)
    gathered = torch.einsum("brhw,bnmhw->bnrm", pairwise.features, z)
    return own - torch.einsum("bnrm,blrm->bnl", gathered, gathered)


# --- higher-order term ------------------------------------------------------------------------------------------------
# Outside the grid y counts as 0, the latents' mean. With zero padding the transposed convolution is the exact adjoint.


def apply_filters(y: Tensor, filters: Tensor) -> Tensor:
    """Compute F y, the experts' answers.

    Args:
        y: latents (B, C, H, W).
        filters: f (K, C, k, k), k odd.

    Returns:
        The answers (B, K, H, W).
    """
    return F.conv2d(y, filters, padding=filters.shape[-1] // 2)


def apply_filters_transposed(r: Tensor, filters: Tensor) -> Tensor:
    """Compute F^T r, the adjoint of `apply_filters`.

    Args:
        r: answers (B, K, H, W).
        filters: f (K, C, k, k), k odd.

    Returns:
        Latents (B, C, H, W).
    """
    return F.conv_transpose2d(r, filters, padding=filters.shape[-1] // 2)


# --- quadratic majorizer ----------------------------------------------------------------------------------------------
# `curvature` is alpha w(r) at the point where the majorizer touches E, the second result of `gradient`.


def jacobi_diagonal(p: Potentials, curvature: Tensor | None) -> Tensor:
    """Compute the diagonal of A: the curvature along each latent alone.

    Args:
        p: the energy's parameters.
        curvature: of the experts (B, K, H, W), or None.

    Returns:
        The diagonal (B, C, H, W).
    """
    diagonal = p.weight.expand_as(p.u)
    if p.pairwise is not None:
        size = p.pairwise.mixing.square().sum(dim=0)[:, None, None]
        diagonal = diagonal + degree_of_others(p.pairwise.features) * size
    if p.experts is not None and curvature is not None:
        diagonal = diagonal + apply_filters_transposed(curvature, p.experts.filters.square())
    return diagonal


def separable_bound(p: Potentials, curvature: Tensor | None) -> Tensor:
    """Compute a diagonal D with D >= A as quadratic forms, so that damped steps with 0 < omega < 2 descend.

    Pairs: (z_i - z_j)^2 <= 2 z_i^2 + 2 z_j^2, hence twice the weighted degree, and W^T W <= diag(|W|^T |W| 1).
    Experts: F^T diag(a) F <= diag(|F|^T (a |F| 1)).

    Args:
        p: the energy's parameters.
        curvature: of the experts (B, K, H, W), or None.

    Returns:
        D (B, C, H, W).
    """
    bound = p.weight.expand_as(p.u)
    if p.pairwise is not None:
        size = p.pairwise.mixing.abs()
        bound = bound + 2 * degree_of_others(p.pairwise.features) * (size.T @ size.sum(dim=1))[:, None, None]
    if p.experts is not None and curvature is not None:
        size = p.experts.filters.abs()
        bound = bound + apply_filters_transposed(curvature * size.sum(dim=(1, 2, 3))[:, None, None], size)
    return bound


def curvature_products(d: Tensor, p: Potentials, curvature: Tensor | None) -> Tensor:
    """Compute d_a^T A d_b without ever forming A.

    Args:
        d: n directions (B, n, C, H, W).
        p: the energy's parameters.
        curvature: of the experts (B, K, H, W), or None.

    Returns:
        The products of all pairs of directions (B, n, n).
    """
    products = torch.einsum("bnchw,blchw->bnl", d * p.weight[:, None], d)
    if p.pairwise is not None:
        products = products + pairwise_products(d, p.pairwise)
    if p.experts is not None and curvature is not None:
        r = apply_filters(d.flatten(0, 1), p.experts.filters).unflatten(0, d.shape[:2])
        products = products + torch.einsum("bnkhw,blkhw->bnl", r * curvature[:, None], r)
    return products
