"""Where the energy's parameters come from: the conditional form's light network, the static form's positions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .noise_levels import LOG_SNR_LIMIT, log_snr


def zero_initialize(layer: nn.Conv2d) -> nn.Conv2d:
    """Set weights and bias to zero, in place: a residual block that ends in the layer starts as the identity.

    Args:
        layer: the convolution.

    Returns:
        The same layer.
    """
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class LevelEmbedding(nn.Module):
    """Embeds noise levels (B, n), 0 to 1, as (B, dim), by sinusoidal features of the log-SNR.

    Args:
        num_levels: n.
        dim: of the embedding.
        num_frequencies: of the features (default 16).
    """

    def __init__(self, num_levels: int, dim: int, num_frequencies: int = 16) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.inner = nn.Linear(2 * num_levels * num_frequencies, dim)
        self.outer = nn.Linear(dim, dim)

    def forward(self, alpha: Tensor) -> Tensor:
        # Periods from twice the whole range down to a fifth of a unit of log-SNR. No buffer: bf16 would round it.
        span = math.log10(4 * LOG_SNR_LIMIT), math.log10(0.2)
        frequencies = 2 * math.pi / torch.logspace(*span, self.num_frequencies, device=alpha.device)
        angle = (log_snr(alpha.float())[:, :, None] * frequencies).flatten(1)
        waves = torch.cat([angle.sin(), angle.cos()], dim=1)
        return self.outer(F.silu(self.inner(waves.to(self.inner.weight.dtype))))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection, conditioned on the noise level.

    The level's embedding scales and shifts the normalised activations (FiLM, arXiv 1709.07871).

    Args:
        channels: in and out.
        embedding_dim: of the level's embedding.
        groups: of the group norms (default 8).
    """

    def __init__(self, channels: int, embedding_dim: int, groups: int = 8) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels, affine=False)
        self.conv2 = zero_initialize(nn.Conv2d(channels, channels, 3, padding=1))
        self.film = nn.Linear(embedding_dim, 2 * channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        r = self.conv1(F.silu(self.norm1(h)))
        r = self.norm2(r) * (1 + scale) + shift
        return h + self.conv2(F.silu(r))


class SelfAttention(nn.Module):
    """Attention between all sites of the coarse grid, with a residual connection.

    Args:
        channels: in and out.
        heads: of the attention (default 4).
        groups: of the group norm (default 8).
    """

    def __init__(self, channels: int, heads: int = 4, groups: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_initialize(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(h)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2)
        q, k, v = qkv.unbind(dim=1)  # each (B, heads, sites, channels / heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        return h + self.out(attended.transpose(-1, -2).reshape(h.shape))


class ConditioningNetwork(nn.Module):
    """A small residual U-Net: maps (B, in_channels, H, W) and noise levels (B, num_levels) to (B, channels, H, W).

    No position enters, so any grid size will do. Odd sizes are padded by repeating the border.

    Args:
        in_channels: of the maps that it reads.
        channels: its width at full resolution.
        coarse_channels: its width at half resolution.
        num_coarse_blocks: residual blocks at half resolution.
        embedding_dim: of the levels' embedding (default 96).
        num_levels: noise levels that it reads (default 3).
        prompt_dim: D of the prompt's token states (B, tokens, D); None (default): it does not read the prompt.
        num_fine_blocks: residual blocks at full resolution beside the first and the last (default 0).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        coarse_channels: int,
        num_coarse_blocks: int,
        embedding_dim: int = 96,
        num_levels: int = 3,
        prompt_dim: int | None = None,
        num_fine_blocks: int = 0,
    ) -> None:
        super().__init__()
        self.levels = LevelEmbedding(num_levels, embedding_dim)
        self.prompt = nn.Linear(prompt_dim, embedding_dim) if prompt_dim else None
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.fine_in = ResidualBlock(channels, embedding_dim)
        self.down = nn.Conv2d(channels, coarse_channels, 3, stride=2, padding=1)
        self.coarse = nn.ModuleList(ResidualBlock(coarse_channels, embedding_dim) for _ in range(num_coarse_blocks))
        self.attention = SelfAttention(coarse_channels)
        self.up = nn.Conv2d(coarse_channels, channels, 1)
        self.fine = nn.ModuleList(ResidualBlock(channels, embedding_dim) for _ in range(num_fine_blocks))
        self.fine_out = ResidualBlock(channels, embedding_dim)
        self.norm = nn.GroupNorm(8, channels)

    def forward(self, inputs: Tensor, levels: Tensor, prompt_embeds: Tensor | None = None) -> Tensor:
        embedding = self.levels(levels)
        if self.prompt is not None and prompt_embeds is not None:
            embedding = embedding + self.prompt(prompt_embeds.mean(dim=1))
        embedding = F.silu(embedding)

        height, width = inputs.shape[-2:]
        h = F.pad(inputs, (0, width % 2, 0, height % 2), mode="replicate")
        fine = self.fine_in(self.stem(h), embedding)
        h = self.down(fine)
        for index, block in enumerate(self.coarse):
            h = block(h, embedding)
            if index == len(self.coarse) // 2:
                h = self.attention(h)
        h = fine + F.interpolate(self.up(h), scale_factor=2.0, mode="nearest")
        for block in self.fine:
            h = block(h, embedding)
        h = F.silu(self.norm(self.fine_out(h, embedding)))
        return h[:, :, :height, :width]


class PositionFeatures(nn.Module):
    """Pairwise features of the positions alone, for any grid: phi_r(p) = a_r exp(-||p - c_r||^2 / (2 s_r^2)).

    p runs over [0, 1]^2. Amplitudes a_r > 0, centres c_r and widths s_r are learned. Called with a grid's height and
    width, it returns (rank, H, W).

    Args:
        rank: number of features.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        side = math.ceil(math.sqrt(rank))
        axis = (torch.arange(side) + 0.5) / side
        self.centres = nn.Parameter(torch.cartesian_prod(axis, axis)[:rank])
        self.log_width = nn.Parameter(torch.full((rank,), math.log(0.5 / side)))
        self.log_amplitude = nn.Parameter(torch.full((rank,), -1.5))

    def forward(self, height: int, width: int) -> Tensor:
        like = self.centres
        rows = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        columns = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        p = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
        distance = (p - self.centres[:, None, None]).square().sum(dim=-1)  # (rank, H, W)
        return (self.log_amplitude[:, None, None] - distance / (2 * (2 * self.log_width).exp()[:, None, None])).exp()
