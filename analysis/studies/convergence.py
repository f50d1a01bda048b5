"""Convergence of the CRF's solver (paper, Fig. A.2): energy, residual and image after each iteration."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from analysis.metrics.pixels import to_pixels
from analysis.sampling import BYPASS, GUIDANCE, STEPS, decode, encode, run_sampler
from analysis.studies import TERMS
from analysis.studies.variance import compute_size
from latentcrf import LatentCRF, LatentCRFScheduler
from latentcrf.potentials import Potentials, apply_filters, degree, messages
from latentcrf.precision import precision_name
from latentcrf.solver import SOLVERS

ITERATIONS = 10
SHOWN = (0, 1, 2, 3, 4, 5, 10)  # iterations with an image; 0 is the start
SETTLED = 0.99  # share of the energy's descent
VISIBLE = 0.5  # grey levels: what a pixel must change by on average to be seen
# Where the solver starts -> what that is. The sampler stopped with the first two; LatentCRF itself starts at the third.
STARTS = {"denoised": "clean estimate", "latents": "noisy latents", "target": "network's target u"}
SHOWN_STARTS = ("denoised", "latents")


@dataclass(frozen=True)
class Convergence:
    """What `compute` returns, for n seeds.

    Attributes:
        prompt: the prompt.
        seeds: n seeds.
        table: columns seed, start (of `STARTS`), solver, iteration, unary, pairwise, higher_order, total, residual.
        shown: the iterations with an image.
        images: uint8 (2, 2, len(shown), H, W, 3), decoded iterates of the first seed: a row for each of `SHOWN_STARTS`,
            in it one for each of `SOLVERS`.
        ends: uint8 (3, n, H, W, 3): of each seed the two starts, and the last iterate.
        maps: total and each term's energy of each site, (3, n, h, w), of the latents of `ends`.
        spread: the largest root mean square difference between the last iterates of the starts.
        precision: name of the type in which the networks computed.
    """

    prompt: str
    seeds: list[int]
    table: pd.DataFrame
    shown: tuple[int, ...]
    images: np.ndarray
    ends: np.ndarray
    maps: dict[str, np.ndarray]
    spread: float
    precision: str

    def find_settled_iteration(self, start: str, solver: str = "3mg") -> int | None:
        """Find the first iteration by which a share `SETTLED` of the solver's whole energy descent is done.

        Args:
            start: of `STARTS`.
            solver: of `SOLVERS`, default "3mg".

        Returns:
            The iteration, in the mean over the seeds; None where the energy does not fall.
        """
        rows = self.table[(self.table["solver"] == solver) & (self.table["start"] == start)]
        total = rows.groupby("iteration")["total"].mean()
        fall = total.loc[0] - total.loc[ITERATIONS]
        if not fall > 0:
            return None
        return int((total.loc[0] - total >= SETTLED * fall).idxmax())

    def measure_differences(self, start: str) -> np.ndarray:
        """Measure how far each image of the first seed is from its solver's last one.

        Args:
            start: of `SHOWN_STARTS`.

        Returns:
            (2, len(shown), H, W, 3), in grey levels, 0 to 255.
        """
        images = self.images[SHOWN_STARTS.index(start)].astype(np.float32)
        return np.abs(images - images[:, -1:])

    def find_still_iteration(self, start: str, solver: str) -> int:
        """Find the first of the shown iterations after which the first seed's image changes by less than `VISIBLE`.

        Args:
            start: of `SHOWN_STARTS`.
            solver: of `SOLVERS`.
        """
        means = self.measure_differences(start)[SOLVERS.index(solver)].mean((1, 2, 3))
        changes = np.flatnonzero(means >= VISIBLE)
        return self.shown[int(changes[-1]) + 1] if len(changes) else self.shown[0]


def count_work(bypass: tuple[int, int], seeds: int) -> int:
    """Count what `compute` reports: denoiser calls for all seeds, and rows of `seeds` decoded images.

    Args:
        bypass: (first, last).
        seeds: how many.
    """
    images = len(SHOWN_STARTS) * len(SOLVERS) * len(SHOWN)
    return bypass[0] + 3 + -(-images // seeds)


def map_energy(y: Tensor, p: Potentials) -> dict[str, Tensor]:
    """Compute the energy of each site; summed over the sites each term is that of `crf.energy`.

    A pair's energy is shared evenly by its two sites, an expert's belongs to the centre of its clique:

        e_i = lambda_i ||y_i - u_i||^2 / 2 + sum_j s_ij ||z_i - z_j||^2 / 4 + sum_k alpha_ki rho(r_ki),    z = W y
        sum_j s_ij ||z_i - z_j||^2 = d_i ||z_i||^2 - 2 z_i . sum_j s_ij z_j + sum_j s_ij ||z_j||^2

    Args:
        y: latents (B, C, h, w).
        p: potentials of B items.

    Returns:
        (B, h, w) by the names of `TERMS`, and `total`.
    """
    unary = (p.weight * (y - p.u).square()).sum(1) / 2
    maps = {"unary": unary, "pairwise": torch.zeros_like(unary), "higher_order": torch.zeros_like(unary)}
    if p.pairwise is not None:
        phi = p.pairwise.features
        z = torch.einsum("mc,bchw->bmhw", p.pairwise.mixing, y)
        z = z - z.mean(dim=(2, 3), keepdim=True)  # only differences count; centred, the sums hardly cancel
        norm = z.square().sum(1, keepdim=True)
        pairs = degree(phi) * norm - 2 * (z * messages(z, phi)).sum(1, keepdim=True) + messages(norm, phi)
        maps["pairwise"] = pairs[:, 0] / 4
    if p.experts is not None:
        r = apply_filters(y, p.experts.filters) - p.experts.response
        maps["higher_order"] = (p.experts.reliability * torch.log1p(r.square() / 2)).sum(1)
    return maps | {"total": maps["unary"] + maps["pairwise"] + maps["higher_order"]}


@torch.inference_mode()
def compute(
    pipeline: StableDiffusionPipeline,
    crf: LatentCRF,
    prompt: str,
    seeds: list[int],
    *,
    bypass: tuple[int, int] = BYPASS,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    precision: torch.dtype = torch.float32,
    report: Callable[[int], None] = lambda done: None,
) -> Convergence:
    """Run the LDM once for all seeds up to the bypass, then both solvers from each start.

    The energy is that of the bypass: its potentials are predicted once, from what the LDM hands over. Only the
    latents from which it is minimized differ.

    Args:
        pipeline: the LDM.
        crf: the bypass CRF.
        prompt: the same for all seeds.
        seeds: n seeds.
        bypass: (first, last), in steps of the full run, default (33, 49).
        steps: of the full run, default 50.
        guidance: default 3.
        precision: in which the networks compute, default float32.
        report: is called with the number of denoiser calls so far, after each; then after each n decoded images with
            one more: `count_work` in all.

    Raises:
        ValueError: a bypass that does not fit the steps.
    """
    scheduler, done = LatentCRFScheduler(pipeline.scheduler, crf, bypass=bypass, num_iterations=0), 0

    def report_next() -> None:
        nonlocal done
        done += 1
        report(done)

    def on_step(_: int, __: Tensor) -> bool:
        report_next()
        return scheduler.last_bypass is not None  # the steps after the CRF are not needed

    def decode_rows(latents: Tensor) -> np.ndarray:
        rows = []
        for part in latents.float().split(len(seeds)):
            rows.append(to_pixels(decode(pipeline, part)))
            report_next()
        return np.concatenate(rows)

    embeds = encode(pipeline, [prompt] * len(seeds))
    run_sampler(
        pipeline, embeds, seeds,
        steps=steps, guidance=guidance, scheduler=scheduler, precision=precision, on_step=on_step,
    )  # fmt: skip
    assert scheduler.last_bypass is not None
    observation = scheduler.last_bypass.observation
    potentials = crf.potentials(observation)
    starts = {"denoised": observation.denoised, "latents": observation.latents, "target": None}
    paths = {
        (start, solver): list(crf.solve(potentials, ITERATIONS, solver, start=first))
        for start, first in starts.items()
        for solver in SOLVERS
    }
    rows = []
    for (start, solver), path in paths.items():
        for iteration, y in enumerate(path):
            row = {"seed": seeds, "start": start, "solver": solver, "iteration": iteration}
            row |= {name: term.cpu().numpy() for name, term in crf.energy(y, potentials).items()}
            if iteration:
                before = path[iteration - 1]
                row["residual"] = ((y - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)).cpu().numpy()
            rows.append(pd.DataFrame(row))
    last = [paths[start, "3mg"][-1] for start in STARTS]
    ends = torch.stack([*(paths[start, "3mg"][0] for start in SHOWN_STARTS), last[0]])
    shown = torch.stack([paths[start, solver][i][0] for start in SHOWN_STARTS for solver in SOLVERS for i in SHOWN])
    images, end_images = decode_rows(shown), decode_rows(ends.flatten(0, 1))
    maps = [map_energy(y.float(), potentials) for y in ends]
    return Convergence(
        prompt=prompt,
        seeds=seeds,
        table=pd.concat(rows, ignore_index=True),
        shown=SHOWN,
        images=images.reshape(len(SHOWN_STARTS), len(SOLVERS), len(SHOWN), *images.shape[1:]),
        ends=end_images.reshape(3, len(seeds), *images.shape[1:]),
        maps={name: torch.stack([sites[name] for sites in maps]).cpu().numpy() for name in ("total", *TERMS)},
        spread=max(float(compute_size(y - last[0]).max()) for y in last),
        precision=precision_name(precision),
    )
