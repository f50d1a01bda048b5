"""LatentCRF: a continuous conditional random field on the latents of a latent diffusion model (arXiv 2412.18596).

    observation = Observation(latents, denoised, alpha_in, alpha_out)
    y = crf(observation, num_iterations=5)
    latents = hand_over(latents, y, alpha_in, alpha_out)

`latentcrf.observation` explains the symbols, `latentcrf.potentials` the energy.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from huggingface_hub import HfApi
from torch import Tensor, nn

from .card import write_card
from .conditioning import ConditioningNetwork, PositionFeatures
from .observation import Observation, as_level, trend
from .potentials import Experts, Pairwise, Potentials, energy
from .solver import iterate, without_autocast
from .utils.manifest import check_shipped

FORMS = ("conditional", "static")
TARGETS = ("denoised", "latents")


class LatentCRF(ModelMixin, ConfigMixin):
    """The CRF: it reads the energy's parameters off an observation, and minimizes the energy.

    A fresh model is nearly the identity on x0_hat: u = x0_hat, lambda = 1, the other terms small. Training thus starts
    from the zero-parameter bypass.

    Args:
        latent_channels: C, 4 for SD 1.5 and SDXL, 16 for SD 3 (default 4).
        form: "conditional" (default): a light network predicts the potentials from the observation. "static": the
            potentials are learned constants, similarities come from positions alone; the form closest to the paper.
        target: what the static form's unary term pulls to: "denoised" (x0_hat, default) or "latents" (x, as in the
            paper).
        num_experts: K of the higher-order term (default 12); 0 leaves the term out.
        filter_size: k of the experts' k x k filters, odd (default 3).
        pairwise_rank: R of the pairwise term (default 12); 0 leaves the term out.
        channels: the network's width at full resolution (default 64; conditional form, as all that follow).
        coarse_channels: its width at half resolution (default 144).
        num_coarse_blocks: its residual blocks at half resolution (default 4).
        prompt_dim: D of the prompt's token states; None (default): the CRF does not read the prompt.
        reads_estimate_level: whether the network reads `Observation.alpha_denoised` (default True).
        reads_trend: whether the network reads the change since `Observation.earlier` (default True).
        num_fine_blocks: residual blocks at full resolution beside the first and the last (default 0).
        corrects_clean: True for a finisher: it corrects clean latents as much as noisy ones. False (default): the
            correction shrinks with the noise, and is nothing on final latents.

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
        """Whether the energy has a pairwise or a higher-order term. Without them y = u: a plain network."""
        return bool(self.pairwise_rank or self.num_experts)

    def potentials(self, observation: Observation) -> Potentials:
        """Read the energy's parameters off an observation.

        Args:
            observation: what the LDM handed over.

        Returns:
            The potentials, float32.

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
        """Descend the energy. It never rises from one iterate to the next.

        Args:
            potentials: the energy's parameters.
            num_iterations: 0 or more (default 5).
            solver: "3mg" (default): each step is the exact minimum of a quadratic majorizer over the mean-field
                direction and the previous displacement. "damped": the plain parallel mean-field update.
            omega: step size of "damped", between 0 and 2 (default 1); the other solver has none.
            start: y_0 (B, C, H, W); None (default): u, the minimizer of the unary term.

        Yields:
            The iterates y_0, y_1, ..., y_num_iterations, each (B, C, H, W).

        Raises:
            ValueError: at the first `next`: an unknown solver, a negative count, omega outside (0, 2).
        """
        first = potentials.u if start is None else start.to(potentials.u.dtype)
        yield from iterate(first, potentials, num_iterations, solver, omega)

    def energy(self, y: Tensor, potentials: Potentials) -> dict[str, Tensor]:
        """Compute the energy of latents.

        Args:
            y: latents (B, C, H, W).
            potentials: the energy's parameters.

        Returns:
            `unary`, `pairwise`, `higher_order` and `total`, each (B,).
        """
        return without_autocast(energy)(y.to(potentials.u.dtype), potentials)

    def forward(self, observation: Observation, num_iterations: int = 5, solver: str = "3mg") -> Tensor:
        """Infer the clean latents.

        Args:
            observation: what the LDM handed over.
            num_iterations: of the solver, 0 or more (default 5).
            solver: "3mg" (default) or "damped", see `solve`.

        Returns:
            The last iterate y (B, C, H, W), in the type of `observation.latents`.
        """
        *_, y = self.solve(self.potentials(observation), num_iterations, solver)
        return y.to(observation.latents.dtype)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "LatentCRF":
        """Load a model, its weights from safetensors; a shipped one is compared with the manifest before.

        Args:
            pretrained_model_name_or_path: folder, or USER/NAME of the Hub.
            kwargs: as of `diffusers.ModelMixin.from_pretrained`; `use_safetensors` is True unless it is given.

        Returns:
            The model.

        Raises:
            OSError: there is no such model, its weights are no safetensors, or a shipped file is damaged.
        """
        if kwargs.get("subfolder") is None:
            check_shipped(pretrained_model_name_or_path)
        return super().from_pretrained(pretrained_model_name_or_path, **{"use_safetensors": True, **kwargs})

    def push_to_hub(
        self,
        repo_id: str,
        *,
        base_model: str,
        license: str,
        recipe: str | Mapping[str, Any],
        results: Any,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload LatentCRF",
        create_pr: bool = False,
    ) -> str:
        """Upload the model with its card; `LatentCRF.from_pretrained(repo_id)` loads it again.

        Everything is checked before anything is written or uploaded.

        Args:
            repo_id: USER/NAME; made where it does not exist.
            base_model: USER/NAME of the LDM that the model was trained for.
            license: identifier as on the Hub; the base model's where that binds the weights.
            recipe: how the model was trained: a text, or the options of the training by name.
            results: the measured table: a DataFrame, a list of dicts or the path of a CSV file.
            private: whether a new repository is private; None (default): the account's setting.
            token: of the Hub; None (default): that of `hf auth login`.
            commit_message: default "Upload LatentCRF".
            create_pr: whether to open a pull request instead (default False).

        Returns:
            The address of the commit.

        Raises:
            ValueError: a name that is none, an unknown licence, an empty recipe, or results with empty cells or NaN.
            OSError: the file of the results cannot be read, or the Hub refuses.
        """
        card = write_card(self, repo_id, base_model=base_model, license=license, recipe=recipe, results=results)
        hub = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            Path(folder, "README.md").write_text(card, encoding="utf-8")
            hub.create_repo(repo_id, private=private, exist_ok=True)
            commit = hub.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=commit_message, create_pr=create_pr
            )
        return commit.commit_url
