"""Captions and prompts of the emoji data set, from each picture's label, tags and drawing style."""

from typing import Any

import torch


def list_variants(row: dict[str, Any]) -> list[list[str]]:
    """List a picture's captions.

    Args:
        row: with `text` (the label), `tags` and `style`.

    Returns:
        Three lists: the label; label and style; the label and two tags that are neighbours in the list of tags.
    """
    label, tags = row["text"], [tag for tag in row["tags"] if tag not in row["text"]]
    pairs = [f"{label}, {first}, {second}" for first, second in zip(tags, tags[1:], strict=False)]
    return [[label], [f"{label}, {row['style']}"], pairs or [label]]


def list_prompts(rows: list[dict[str, Any]]) -> list[str]:
    """List the prompts for recorded runs.

    Args:
        rows: with `text` and `style`.

    Returns:
        The labels, every second one with its style, in a fixed random order.
    """
    prompts = [row["text"] if index % 2 else f"{row['text']}, {row['style']}" for index, row in enumerate(rows)]
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(0)).tolist()
    return [prompts[index] for index in order]
