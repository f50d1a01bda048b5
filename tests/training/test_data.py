"""Training data: read from an image folder with metadata.jsonl, or refused with the file and the reason."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from latentcrf.training.data import (
    CAPTION_SHARES,
    Captions,
    DatasetError,
    encode_captions,
    encode_variants,
    read_image_folder,
    read_metadata,
    read_prompts,
    read_training_data,
)
from recipes.emoji.captions import list_prompts, list_variants


def write_folder(folder: Path, *rows: dict[str, Any], size: int = 16) -> Path:
    """Write an image folder; the image of row n is of level n, and rows get a file name."""
    lines = []
    for index, row in enumerate(rows):
        Image.new("RGB", (size, size), (index, 0, 255)).save(folder / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", **row}))
    (folder / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_a_plain_folder_needs_file_names_and_texts_only(tmp_path: Path) -> None:
    data = read_training_data(write_folder(tmp_path, {"text": "apple"}, {"text": "pizza"}, {"text": "apple"}))
    assert data.images.dtype == torch.uint8 and data.images.shape == (3, 3, 16, 16)
    assert data.images[:, :, 5, 5].tolist() == [[0, 0, 255], [1, 0, 255], [2, 0, 255]]
    assert data.prompts == ["apple", "pizza"]
    assert data.caption_variants == [[["apple"]] * 3, [["pizza"]] * 3, [["apple"]] * 3]


def test_only_train_rows_that_are_not_for_the_autoencoder_alone_are_learned_from(tmp_path: Path) -> None:
    variants = [["apple"], ["apple, 3d"], ["apple, red, fruit", "apple, fruit, food"]]
    folder = write_folder(
        tmp_path,
        {"text": "pizza", "split": "test"},
        {"text": "apple", "split": "train", "autoencoder_only": False, "caption_variants": variants},
        {"text": "sign", "autoencoder_only": True},
        {"text": "rose", "split": "validation"},
    )
    data = read_training_data(folder)
    assert data.images[:, 0, 0, 0].tolist() == [1]
    assert data.caption_variants == [variants]
    assert data.prompts == ["apple"]
    rows, images = read_image_folder(folder)
    assert len(rows) == len(images) == 4 and images.shape == (4, 16, 16, 3)
    (folder / "prompts.txt").write_text("two apples\nan apple\n")
    assert read_training_data(folder).prompts == read_prompts(folder) == ["two apples", "an apple"]


def test_the_emoji_data_set_has_the_columns_of_the_reader(small_data: Path) -> None:
    rows = read_metadata(small_data)
    data = read_training_data(small_data)
    learned = [row for row in rows if row["core"] and row["split"] == "train"]
    assert len(data.images) == len(learned) == 22
    assert data.prompts == list_prompts(learned)
    assert data.caption_variants == [list_variants(row) for row in learned]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: accepted is a JSON object with file_name and text"),
        ('["0.png", "apple"]', "line 2: accepted is a JSON object"),
        ('{"file_name": "0.png"}', r"line 2: accepted is a JSON object with file_name and text \(KeyError\('text'\)\)"),
        ('{"file_name": "0.png", "text": 3}', "line 2: .*file_name and text must be strings"),
        ('{"file_name": "none.png", "text": "pizza"}', r"none.png, named in metadata.jsonl, cannot be read: "),
        (
            '{"file_name": "large.png", "text": "pizza"}',
            r"large.png is 20 x 20 px, 0.png 16 x 16 px: all images must have one",
        ),
        (
            '{"file_name": "0.png", "text": "a", "caption_variants": ["a"]}',
            "0.png: caption_variants must be 3 lists of s",
        ),
        (
            '{"file_name": "0.png", "text": "a", "caption_variants": [["a"], ["b"], []]}',
            "3 lists of strings, none empty",
        ),
        (
            '{"file_name": "0.png", "text": "a", "caption_variants": [["a"], ["b"], [1]]}',
            "3 lists of strings, none empt",
        ),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, reason: str) -> None:
    folder = write_folder(tmp_path, {"text": "apple"})
    Image.new("RGB", (20, 20)).save(folder / "large.png")
    with open(folder / "metadata.jsonl", "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DatasetError, match=reason):
        read_training_data(folder)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"text": "apple"})
    (folder / "0.png").write_text("no image")
    with pytest.raises(DatasetError, match=r"0.png, named in metadata.jsonl, cannot be read: cannot identify"):
        read_image_folder(folder)


def test_a_folder_with_nothing_to_learn_from_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no metadata.jsonl. Accepted is an image folder"):
        read_training_data(tmp_path)
    with pytest.raises(DatasetError, match="metadata.jsonl is empty"):
        read_training_data(write_folder(tmp_path))
    folder = write_folder(tmp_path, {"text": "apple", "split": "test"})
    for read in (read_training_data, read_prompts):
        with pytest.raises(DatasetError, match='holds no row to learn from: none of split "train"'):
            read(folder)
    (folder / "prompts.txt").write_text("\n")
    with pytest.raises(DatasetError, match="prompts.txt holds no prompt: one prompt a line"):
        read_prompts(folder)


def test_captions_are_drawn_by_their_shares() -> None:
    captions = Captions(torch.arange(6.0).half().view(6, 1, 1), [[[1], [2], [3, 4]], [[5], [5], [5]]])
    drawn = captions.draw(torch.zeros(20_000, dtype=torch.long))
    assert drawn.dtype == torch.float32 and drawn.shape == (20_000, 1, 1)
    shares = torch.bincount(drawn.flatten().long(), minlength=6) / 20_000
    empty, label, style, tags = CAPTION_SHARES
    assert torch.allclose(shares, torch.tensor([empty, label, style, tags / 2, tags / 2, 0]), atol=0.02)
    assert set(captions.draw(torch.ones(100, dtype=torch.long)).flatten().tolist()) == {0.0, 5.0}


def test_each_distinct_caption_is_encoded_once(tiny_pipeline: StableDiffusionPipeline) -> None:
    captions = encode_variants(tiny_pipeline, [[["apple"], ["red apple"], ["pizza"]], [["pizza"], ["red"], ["apple"]]])
    assert captions.rows == [[[1], [2], [3]], [[3], [4], [1]]]
    texts = ["", "apple", "red apple", "pizza", "red"]
    assert torch.equal(captions.states, encode_captions(tiny_pipeline, texts))
    one_by_one = torch.cat([encode_captions(tiny_pipeline, [text]) for text in texts])
    torch.testing.assert_close(captions.states, one_by_one, atol=2e-3, rtol=0)
