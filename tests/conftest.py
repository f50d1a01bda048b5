"""What all tests share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test draws the same random numbers in every run and in any order."""
    torch.manual_seed(0)
