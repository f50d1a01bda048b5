"""Retrieval: at which rank a generated image's nearest real images show the prompted subject."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from analysis.metrics.distributions import check_features


def retrieval_ranks(
    queries: Tensor,
    labels: Sequence[str],
    gallery: Tensor,
    gallery_labels: Sequence[str],
    *,
    excluded: Sequence[int] | None = None,
) -> np.ndarray:
    """Find for each query the rank of the nearest gallery item that has its label, by cosine.

    R@k is the share of ranks <= k.

    Args:
        queries: features (Q, D).
        labels: one a query.
        gallery: features (N, D).
        gallery_labels: one a gallery item.
        excluded: of each query the index of the gallery item that it is not compared with, for queries that come from
            the gallery; None (default): all are compared.

    Returns:
        int (Q,), 1 is nearest; N + 1 for a label that the gallery does not have.

    Raises:
        ValueError: not one label an item, or as of `check_features`.
    """
    check_features(gallery)
    check_features(queries, gallery.shape[1])
    if len(queries) != len(labels) or len(gallery) != len(gallery_labels):
        raise ValueError(
            f"one label an item: got {len(queries)} queries with {len(labels)} labels, "
            f"{len(gallery)} gallery items with {len(gallery_labels)} labels."
        )
    q, g = F.normalize(queries.float(), dim=1), F.normalize(gallery.float(), dim=1)
    numbers = {label: index for index, label in enumerate(dict.fromkeys([*labels, *gallery_labels]))}
    wanted = torch.tensor([numbers[label] for label in labels])
    present = torch.tensor([numbers[label] for label in gallery_labels])
    ranks = []
    for rows in torch.arange(len(q)).split(512):
        similarity = q[rows] @ g.T  # (rows, gallery)
        if excluded is not None:
            similarity[torch.arange(len(rows)), torch.as_tensor(excluded)[rows]] = -torch.inf
        same = wanted[rows, None] == present
        best = similarity.masked_fill(~same, -torch.inf).amax(1, keepdim=True)
        rank = (similarity > best).sum(1) + 1
        ranks.append(torch.where(best.squeeze(1).isinf(), len(g) + 1, rank))
    return torch.cat(ranks).numpy()
