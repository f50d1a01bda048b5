"""Retrieval against sorting."""

import pytest
import torch

from analysis.metrics.retrieval import retrieval_ranks


def test_retrieval_against_sorting() -> None:
    generator = torch.Generator().manual_seed(1)
    gallery, queries = torch.randn(40, 6, generator=generator), torch.randn(600, 6, generator=generator)
    labels = [str(i % 7) for i in range(40)]
    wanted = [str(i % 8) for i in range(600)]  # "7" is not in the gallery
    ranks = retrieval_ranks(queries, wanted, gallery, labels)
    unit = gallery / gallery.norm(dim=1, keepdim=True)
    for query, label, rank in zip(queries, wanted, ranks, strict=True):
        order = (unit @ query).argsort(descending=True).tolist()
        places = [place + 1 for place, index in enumerate(order) if labels[index] == label]
        assert rank == (places[0] if places else 41)


def test_a_real_image_does_not_find_itself() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [0.7, 0.7]])
    ranks = retrieval_ranks(gallery, list("aabbc"), gallery, list("aabbc"), excluded=range(5))
    assert ranks.tolist() == [1, 1, 1, 1, 6]  # the only "c" has no other
    with pytest.raises(ValueError, match="5 queries with 1 labels"):
        retrieval_ranks(gallery, ["a"], gallery, list("aabbc"))
