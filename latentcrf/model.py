"""LatentCRF: a continuous conditional random field on the latents of a latent diffusion model (arXiv 2412.18596).

    observation = Observation(latents, denoised, alpha_in, alpha_out)
    y = crf(observation, num_iterations=5)
    latents = hand_over(latents, y, alpha_in, alpha_out)

Symbols, code name -> paper: latents -> x, denoised -> x0_hat, alpha_in and alpha_out -> abar_in and abar_out (the
cumulative product of 1 - beta: 1 is clean, 0 is noise). Latents are as the U-Net sees them (scaled, about zero mean
and unit variance a channel) and variance preserving: x = sqrt(abar) y + sqrt(1 - abar) eps.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .conditioning import ConditioningNetwork, PositionFeatures
from .levels import TREND_GAP, log_snr
from .potentials import Experts, Pairwise, Potentials, energy
from .solver import iterate, without_autocast

FORMS = ("conditional", "static")
TARGETS = ("denoised", "latents")


@dataclass(frozen=True)
class Observation:
    """What the LDM hands over.

    latents, denoised: (B, C, H, W), the noisy latents at level `alpha_in` and the LDM's own clean estimate, guidance
    included. alpha_in, alpha_out: the levels of hand-over and return, in [0, 1], numbers or tensors (B,);
    alpha_out = 1 where the LDM does not take over again. prompt_embeds: (B, tokens, D) or None. alpha_denoised: the level
    of the U-Net's last call, whose estimate `denoised` is, alike; below alpha_in by the length of one step, which tells
    a few-step run from one of many. None: alpha_in. earlier, alpha_earlier: the clean estimate of an earlier call (B, C, H, W)
    and its level, alike, or None: how the estimate has changed since tells where it is going (`levels.earlier_calls`).

    Raises:
        ValueError: shapes that do not fit each other; one of earlier and alpha_earlier without the other.
    """

    latents: Tensor
    denoised: Tensor
    alpha_in: Tensor | float
    alpha_out: Tensor | float
    prompt_embeds: Tensor | None = None
    alpha_denoised: Tensor | float | None = None
    earlier: Tensor | None = None
    alpha_earlier: Tensor | float | None = None

    def __post_init__(self) -> None:
        if self.latents.ndim != 4 or self.latents.shape != self.denoised.shape:
            raise ValueError(
                "latents and denoised must have one shape (B, C, H, W); "
                f"they have {tuple(self.latents.shape)} and {tuple(self.denoised.shape)}."
            )
        batch = self.latents.shape[0]
        if (self.earlier is None) != (self.alpha_earlier is None):
            raise ValueError("earlier and alpha_earlier, an estimate and its level, come together or not at all.")
        if self.earlier is not None and self.earlier.shape != self.latents.shape:
            raise ValueError(
                f"earlier must have the latents' shape {tuple(self.latents.shape)}; it has {tuple(self.earlier.shape)}."
            )
        for name in ("alpha_in", "alpha_out", "alpha_denoised", "alpha_earlier"):
            level = getattr(self, name)
            shape = () if level is None else tuple(torch.as_tensor(level).shape)
            if shape not in ((), (1,), (batch,)):
                raise ValueError(
                    f"{name} must be a number or have shape ({batch},), one level a sample; it has {shape}."
                )
        if self.prompt_embeds is not None and (self.prompt_embeds.ndim != 3 or self.prompt_embeds.shape[0] != batch):
            raise ValueError(
                f"prompt_embeds must have shape ({batch}, tokens, D); it has {tuple(self.prompt_embeds.shape)}."
            )


def as_level(alpha: Tensor | float, like: Tensor) -> Tensor:
    """A noise level as float32 (B, 1, 1, 1), to multiply latents `like` (B, C, H, W) with."""
    level = torch.as_tensor(alpha, dtype=torch.float32, device=like.device)
    return level.reshape(-1, 1, 1, 1).expand(like.shape[0], 1, 1, 1)


def hand_over(latents: Tensor, y: Tensor, alpha_in: Tensor | float, alpha_out: Tensor | float) -> Tensor:
    """Noisy latents at level alpha_out from clean latents y, keeping the noise that `latents` hold at level alpha_in.

        eps_hat  = (x - sqrt(abar_in) y) / sqrt(1 - abar_in)
        x_out    = sqrt(abar_out) y + sqrt(1 - abar_out) eps_hat

    latents, y and the result: (B, C, H, W). Wants alpha_in <= alpha_out; the noise is then only ever scaled down, so
    alpha_in near 1 is safe, and alpha_out = 1 gives y itself. With y = x0_hat this is a deterministic DDIM step of
    any length: the bypass without parameters.
    """
    x, mean, a_in, a_out = latents.float(), y.float(), as_level(alpha_in, latents), as_level(alpha_out, latents)
    kept = ((1 - a_out) / (1 - a_in).clamp(min=1e-12)).sqrt()
    return (a_out.sqrt() * mean + kept * (x - a_in.sqrt() * mean)).to(latents.dtype)


def trend(o: Observation, alpha_denoised: Tensor | float) -> tuple[Tensor, Tensor]:
    """How the clean estimate changes over a unit of log-SNR (B, C, H, W), from `o.earlier` to `o.denoised` at level
    `alpha_denoised`, and the level of the former (B, 1, 1, 1). Zero, and the level of the latter, where there is no earlier one.

    Estimates nearer to each other than `TREND_GAP` count as that far apart.
    """
    x0 = o.denoised.float()
    a_denoised = as_level(alpha_denoised, x0)
    if o.earlier is None or o.alpha_earlier is None:
        return torch.zeros_like(x0), a_denoised
    a_earlier = as_level(o.alpha_earlier, x0)
    gap = log_snr(a_denoised) - log_snr(a_earlier)
    return (x0 - o.earlier.float()) / gap.clamp(min=TREND_GAP), a_earlier


class LatentCRF(ModelMixin, ConfigMixin):
    """The energy's parameters, read off an observation, and the solver that minimizes it.

    Args:
        latent_channels: C, 4 for SD 1.5 and SDXL, 16 for SD 3.
        form: "conditional": a light network predicts the energy from what the LDM hands over. "static": learned
            constants, similarities from positions alone; the form closest to the paper.
        target: what the static form's unary term pulls to, "denoised" (x0_hat) or "latents" (x, as in the paper).
        num_experts: K of the higher-order term; 0 leaves the term out.
        filter_size: k of the experts' k x k filters, odd.
        pairwise_rank: R of the pairwise term; 0 leaves the term out.
        channels, coarse_channels, num_coarse_blocks, num_fine_blocks: the network's width at full resolution, its width and depth
            at half resolution, and the blocks that it has at full resolution beside the first and the last (conditional form).
        prompt_dim: D of the prompt's token states, or None for a CRF that does not see the prompt.
        reads_estimate_level: whether the network is told `Observation.alpha_denoised` (conditional form).
        reads_trend: whether it is shown how the clean estimate has changed since `Observation.earlier` (conditional form).
        corrects_clean: whether it corrects clean latents as much as noisy ones: for a finisher of runs. Else the less noise there
            was, the less is there to correct, and nothing in the last latents of a run (conditional form).

    A fresh model is nearly the identity on x0_hat: u = x0_hat, lambda = 1, the other terms small. Training thus
    starts from the bypass without parameters.

    Raises:
        ValueError: a setting outside the values named above.
    """

    __call__: Callable[..., Tensor]  # of `forward`

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        form: str = "conditional",
        target: str = "denoised",
        num_experts: int = 12,
        filter_size: int = 3,
        pairwise_rank: int = 12,
        channels: int = 64,
        coarse_channels: int = 144,
        num_coarse_blocks: int = 4,
        prompt_dim: int | None = None,
        reads_estimate_level: bool = True,
        reads_trend: bool = True,
        num_fine_blocks: int = 0,
        corrects_clean: bool = False,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; accepted are {' and '.join(map(repr, FORMS))}.")
        if target not in TARGETS:
            raise ValueError(f"target is {target!r}; accepted are {' and '.join(map(repr, TARGETS))}.")
        if form == "conditional" and target != "denoised":
            raise ValueError("target is a choice of the static form; the conditional form corrects 'denoised'.")
        if min(num_experts, pairwise_rank) < 0:
            raise ValueError(f"num_experts is {num_experts}, pairwise_rank {pairwise_rank}; neither may be negative.")
        if filter_size < 1 or filter_size % 2 == 0:
            raise ValueError(f"filter_size is {filter_size}; accepted are 1, 3, 5, ...")

        self.latent_channels, self.form, self.target, self.prompt_dim = latent_channels, form, target, prompt_dim
        self.num_experts, self.pairwise_rank = num_experts, pairwise_rank
        self.reads_estimate_level, self.reads_trend = reads_estimate_level, reads_trend
        self.corrects_clean = corrects_clean
        if pairwise_rank:
            self.mixing = nn.Parameter(torch.eye(latent_channels))
        if num_experts:
            filters = torch.randn(num_experts, latent_channels, filter_size, filter_size)
            filters = filters - filters.mean(dim=(2, 3), keepdim=True) if filter_size > 1 else filters
            self.filters = nn.Parameter(F.normalize(filters.flatten(1), dim=1).view_as(filters))

        if form == "static":
            self.log_weight = nn.Parameter(torch.zeros(1))
            if num_experts:
                self.raw_reliability = nn.Parameter(torch.full((num_experts,), -4.0))
            if pairwise_rank:
                self.position = PositionFeatures(pairwise_rank)
        else:
            self.network = ConditioningNetwork(
                (3 if reads_trend else 2) * latent_channels,
                channels,
                coarse_channels,
                num_coarse_blocks,
                num_levels=2 + reads_estimate_level + reads_trend,
                prompt_dim=prompt_dim,
                num_fine_blocks=num_fine_blocks,
            )
            # one map for lambda, then those for phi, alpha, b, the correction of x0_hat and how far to follow its trend
            self.head_sizes = [1, pairwise_rank, num_experts, num_experts, latent_channels]
            if reads_trend:
                self.head_sizes.append(latent_channels)
            self.head = nn.Conv2d(channels, sum(self.head_sizes), 3, padding=1)
            self._start_as_identity()

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        weights = self.head.weight.split(self.head_sizes)
        biases = self.head.get_parameter("bias").split(self.head_sizes)
        starts = [0.0, -3.0, -4.0] + [0.0] * (len(weights) - 3)
        for w, b, start in zip(weights, biases, starts, strict=True):
            # The features alone start at random: equal ones would stay equal.
            w.mul_(0.5 if start == -3.0 else 0.0)
            b.fill_(start)

    @property
    def has_fields(self) -> bool:
        """Whether the energy has a pairwise or a higher-order term. Without, y is u: the conditional form is a plain network."""
        return bool(self.pairwise_rank or self.num_experts)

    def potentials(self, observation: Observation) -> Potentials:
        """The energy's parameters for `observation`, in float32.

        Raises:
            ValueError: latents with another number of channels than the model's, or a prompt of another width.
        """
        channels, height, width = observation.latents.shape[1:]
        if channels != self.latent_channels:
            raise ValueError(f"The latents have {channels} channels; this CRF works on {self.latent_channels}.")
        read = self._static if self.form == "static" else self._conditional
        u, weight, features, reliability, response = read(observation)

        pairwise = experts = None
        if self.pairwise_rank:
            # over sqrt(N): a site's similarities then sum to about the same on any grid
            pairwise = Pairwise(features / math.sqrt(height * width), self.mixing.float())
        if self.num_experts:
            experts = Experts(self.filters.float(), reliability, response)
        return Potentials(u, weight, pairwise, experts)

    def _static(self, o: Observation) -> tuple[Tensor, ...]:
        u = (o.denoised if self.target == "denoised" else o.latents).float()
        height, width = u.shape[2:]
        features = reliability = u.new_zeros(1, 0, height, width)
        if self.pairwise_rank:
            features = self.position(height, width).float()[None]
        if self.num_experts:
            # Only cliques that lie wholly inside the grid count, as in Roth & Black: no constant fits the padding.
            margin = self.filters.shape[-1] // 2
            inside = u.new_zeros(height, width)
            inside[margin : height - margin, margin : width - margin] = 1
            reliability = F.softplus(self.raw_reliability.float())[None, :, None, None] * inside
        return u, self.log_weight.float().exp().view(1, 1, 1, 1), features, reliability, torch.zeros_like(reliability)

    def _conditional(self, o: Observation) -> tuple[Tensor, ...]:
        x, x0 = o.latents.float(), o.denoised.float()
        a_in, a_out = as_level(o.alpha_in, x), as_level(o.alpha_out, x)
        prompt = None
        if self.prompt_dim is not None and o.prompt_embeds is not None:
            if o.prompt_embeds.shape[2] != self.prompt_dim:
                raise ValueError(f"prompt_embeds is {o.prompt_embeds.shape[2]} wide; this CRF reads {self.prompt_dim}.")
            prompt = o.prompt_embeds.to(self.dtype)

        # The network reads x as the noise that it implies, of unit variance at every level.
        sigma = (1 - a_in).sqrt()
        noise = (x - a_in.sqrt() * x0) / sigma.clamp(min=1e-2)
        inputs, levels, change = [x0, noise], [a_in, a_out], None
        a_denoised = a_in
        if self.reads_estimate_level:
            a_denoised = a_in if o.alpha_denoised is None else as_level(o.alpha_denoised, x)
            levels.append(a_denoised)
        if self.reads_trend:
            change, a_earlier = trend(o, a_denoised)
            inputs.append(4 * change)  # about of unit size, as the others
            levels.append(a_earlier)
        network_inputs = torch.cat(inputs, dim=1).to(self.dtype), torch.cat(levels, dim=1)[:, :, 0, 0], prompt
        maps = self.head(self.network(*network_inputs)).float().split(self.head_sizes, dim=1)
        weight, features, reliability, response, correction, *reach = maps
        u = x0 + (correction if self.corrects_clean else (1 - a_denoised).sqrt() * correction)
        if change is not None:
            u = u + reach[0] * change
        return (
            u,
            1e-3 + F.softplus(weight + math.log(math.e - 1)),  # 1 at the start
            F.softplus(features),
            F.softplus(reliability),
            response,
        )

    def solve(
        self,
        potentials: Potentials,
        num_iterations: int = 5,
        solver: str = "3mg",
        omega: float = 1.0,
        start: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Yield y_0, y_1, ..., y_num_iterations, each (B, C, H, W): the start first, num_iterations + 1 in all.

        y_0 is `start`, by default u, the minimizer of the unary term. The energy never rises from one to the next.

        Args:
            solver: "3mg", each step the exact minimum of a quadratic majorizer over the mean-field direction and the
                previous displacement; or "damped", the plain parallel mean-field update.
            omega: step size of "damped", between 0 and 2; the other solver has none.

        Raises:
            ValueError: at the first `next`: an unknown solver, a negative count, omega outside (0, 2).
        """
        first = potentials.u if start is None else start.to(potentials.u.dtype)
        yield from iterate(first, potentials, num_iterations, solver, omega)

    def energy(self, y: Tensor, potentials: Potentials) -> dict[str, Tensor]:
        """The energy of latents y (B, C, H, W), per sample (B,): `unary`, `pairwise`, `higher_order`, `total`."""
        return without_autocast(energy)(y.to(potentials.u.dtype), potentials)

    def forward(self, observation: Observation, num_iterations: int = 5, solver: str = "3mg") -> Tensor:
        """The last iterate y (B, C, H, W), in the type of the observation's latents. Arguments as for `solve`."""
        *_, y = self.solve(self.potentials(observation), num_iterations, solver)
        return y.to(observation.latents.dtype)
