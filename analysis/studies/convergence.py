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
from latentcrf import LatentCRF, LatentCRFScheduler
from latentcrf.potentials import Potentials, apply_filters, degree, messages
from latentcrf.precision import precision_name
from latentcrf.solver import SOLVERS

ITERATIONS = 10
SHOWN = (0, 1, 2, 3, 4, 5, 10)  # iterations with an image
SETTLED = 0.99  # share of the energy's descent


@dataclass(frozen=True)
class Convergence:
    """What `compute` returns, for n seeds.

    Attributes:
        prompt: the prompt.
        seeds: n seeds.
        table: columns seed, solver, iteration, unary, pairwise, higher_order, total, residual.
        shown: the iterations with an image.
        images: uint8 (1 + len(shown), n, H, W, 3), decoded: the LDM's clean estimate before the CRF, then the iterates;
            iterate 0 is the unary term's target u.
        differences: float32 (len(shown), n, H, W, 3), in grey levels (0 to 255): of all images but the last to the
            last, before they are rounded.
        maps: total and each term's energy of each site before the CRF and after the last iteration, (2, n, h, w).
        settled_iteration: the first iteration by which a share `SETTLED` of the energy's descent is done, in the mean
            over the seeds; None where the energy does not fall.
        precision: name of the type in which the networks computed.
    """

    prompt: str
    seeds: list[int]
    table: pd.DataFrame
    shown: tuple[int, ...]
    images: np.ndarray
    differences: np.ndarray
    maps: dict[str, np.ndarray]
    settled_iteration: int | None
    precision: str


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
    report: Callable[[int], None] = lambda calls: None,
) -> Convergence:
    """Run the LDM once for all seeds up to the bypass, then both solvers from what it hands over.

    Args:
        pipeline: the LDM.
        crf: the bypass CRF.
        prompt: the same for all seeds.
        seeds: n seeds.
        bypass: (first, last), in steps of the full run, default (33, 49).
        steps: of the full run, default 50.
        guidance: default 3.
        precision: in which the networks compute, default float32.
        report: is called with the number of denoiser calls so far, after each.

    Raises:
        ValueError: a bypass that does not fit the steps.
    """
    scheduler = LatentCRFScheduler(pipeline.scheduler, crf, bypass=bypass, num_iterations=0)

    def on_step(step: int, _: Tensor) -> bool:
        report(step + 1)
        return scheduler.last_bypass is not None  # the steps after the CRF are not needed

    embeds = encode(pipeline, [prompt] * len(seeds))
    run_sampler(
        pipeline, embeds, seeds,
        steps=steps, guidance=guidance, scheduler=scheduler, precision=precision, on_step=on_step,
    )  # fmt: skip
    assert scheduler.last_bypass is not None
    observation = scheduler.last_bypass.observation
    potentials = crf.potentials(observation)
    rows, iterates = [], {}
    for solver in SOLVERS:
        before = None
        for iteration, y in enumerate(crf.solve(potentials, ITERATIONS, solver)):
            row = {"seed": seeds, "solver": solver, "iteration": iteration}
            row |= {name: term.cpu().numpy() for name, term in crf.energy(y, potentials).items()}
            if before is not None:
                change = (y - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
                row["residual"] = change.cpu().numpy()
            rows.append(pd.DataFrame(row))
            before = y
            if solver == "3mg":
                iterates[iteration] = y
    table = pd.concat(rows, ignore_index=True)
    shown = [observation.denoised, *(iterates[i] for i in SHOWN)]
    decoded = torch.stack([decode(pipeline, latents.float()) for latents in shown])
    ends = [map_energy(y, potentials) for y in (observation.denoised.float(), iterates[ITERATIONS])]
    return Convergence(
        prompt=prompt,
        seeds=seeds,
        table=table,
        shown=SHOWN,
        images=np.stack([to_pixels(each) for each in decoded]),
        differences=127.5 * (decoded[:-1] - decoded[-1]).abs().permute(0, 1, 3, 4, 2).numpy(),
        maps={name: torch.stack([sites[name] for sites in ends]).cpu().numpy() for name in ("total", *TERMS)},
        settled_iteration=find_settled_iteration(table),
        precision=precision_name(precision),
    )


def find_settled_iteration(table: pd.DataFrame) -> int | None:
    """Find the first iteration by which a share `SETTLED` of the solver's whole energy descent is done.

    Args:
        table: as of `Convergence`.

    Returns:
        The iteration, in the mean over the seeds; None where the energy does not fall.
    """
    total = table[table["solver"] == "3mg"].groupby("iteration")["total"].mean()
    fall = total.loc[0] - total.loc[ITERATIONS]
    if not fall > 0:
        return None
    return int((total.loc[0] - total >= SETTLED * fall).idxmax())
