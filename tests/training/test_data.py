"""Training data: the same images and captions from every format, with what cannot be used skipped and listed."""

import io
import json
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from latentcrf.training import latents
from latentcrf.training.chunks import MappedRows
from latentcrf.training.data import (
    DatasetError,
    DataSource,
    EntryError,
    read_image,
    read_image_folder,
    read_metadata,
    read_prompts,
)
from latentcrf.training.latents import CAPTION_SHARES, Captions, RealLatents, encode_data, encode_images
from latentcrf.training.ldm import LDM, Conditioning
from latentcrf.training.loop import RunError
from recipes.emoji.captions import list_prompts, list_variants
from tests.training import tiny

SIZES = ((16, 16), (40, 24), (18, 33), (200, 150))  # width, height; the LDM's images are 16 x 16


@pytest.fixture(scope="module")
def ldm() -> LDM:
    return LDM(tiny.build_sd())


def picture(index: int) -> Image.Image:
    """A gradient of a colour of its own, of one of several sizes."""
    width, height = SIZES[index % len(SIZES)]
    y, x = np.mgrid[:height, :width] / max(width, height)
    channels = np.stack([x, y, np.full_like(x, index / 10)], axis=-1)
    return Image.fromarray((255 * channels.clip(0, 1)).astype(np.uint8))


def png(index: int) -> bytes:
    file = io.BytesIO()
    picture(index).save(file, "png")
    return file.getvalue()


BROKEN = b"\x89PNG no image"
SMALL = io.BytesIO()
Image.new("RGB", (30, 7)).save(SMALL, "png")
# Image and caption of each entry, in order; the 2nd, 4th, 5th and 6th cannot be used.
ENTRIES: list[tuple[bytes, str | None]] = [
    (png(0), "apple"), (BROKEN, "pizza"), (png(1), "red apple"), (png(2), None), (png(2), "  "),
    (SMALL.getvalue(), "pizza"), (png(3), "apple"),
]  # fmt: skip
USABLE = (0, 2, 6)


def write_jsonl(folder: Path) -> Path:
    rows = [{"file_name": f"{i}.png"} | ({} if text is None else {"text": text}) for i, (_, text) in enumerate(ENTRIES)]
    return write_images(folder, "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def write_csv(folder: Path) -> Path:
    lines = [f"{i}.png,{text or ''}\n" for i, (_, text) in enumerate(ENTRIES)]
    return write_images(folder, "metadata.csv", "file_name,text\n" + "".join(lines))


def write_images(folder: Path, name: str, metadata: str) -> Path:
    for index, (image, _) in enumerate(ENTRIES):
        (folder / f"{index}.png").write_bytes(image)
    (folder / name).write_text(metadata)
    return folder


def write_parquet(folder: Path) -> Path:
    """Two files, with images as `datasets` stores them."""
    table = pd.DataFrame({
        "image": [{"bytes": image, "path": None} for image, _ in ENTRIES], "text": [text for _, text in ENTRIES],
    })  # fmt: skip
    (folder / "more").mkdir()
    table[:3].to_parquet(folder / "a.parquet")
    table[3:].to_parquet(folder / "more" / "b.parquet")
    return folder


def write_single_parquet(folder: Path) -> Path:
    """One file, with plain bytes."""
    table = pd.DataFrame({"image": [image for image, _ in ENTRIES], "text": [text for _, text in ENTRIES]})
    table.to_parquet(folder / "all.parquet")
    return folder / "all.parquet"


def write_tars(folder: Path) -> Path:
    for name, part in (("a.tar", slice(0, 3)), ("b.tar", slice(3, None))):
        with tarfile.open(folder / name, "w") as tar:
            for index, (image, text) in list(enumerate(ENTRIES))[part]:
                for ending, content in (("png", image), ("txt", None if text is None else text.encode())):
                    if content is not None:
                        info = tarfile.TarInfo(f"{index}.{ending}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
    return folder


WRITERS = (write_jsonl, write_csv, write_parquet, write_single_parquet, write_tars)


def encode_expected(ldm: LDM, indices: tuple[int, ...]) -> torch.Tensor:
    images = [read_image({"bytes": ENTRIES[index][0], "path": None}, ldm.image_size) for index in indices]
    return encode_images(ldm.vae, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))[0]


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_latents_and_lists_what_it_skips(
    write: Callable[[Path], Path], ldm: LDM, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    looked_up: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: looked_up.append(arguments))
    (tmp_path / "data").mkdir()
    source = DataSource(write(tmp_path / "data"))
    real = encode_data(ldm, source, tmp_path / "latents")
    means, stds = real.means[:], real.stds[:]
    torch.testing.assert_close(means, encode_expected(ldm, USABLE), atol=2e-3, rtol=1e-3)  # stored as float16
    assert stds.min() > 0 and real.captions.texts == ["", "apple", "red apple"]
    assert real.captions.rows == [[[1]] * 3, [[2]] * 3, [[1]] * 3]
    printed = capsys.readouterr().out
    assert "3 images, 4 entries skipped" in printed
    assert printed.count("no caption") == 2 and "the image cannot be read" in printed and "than 8 x 8 px" in printed
    assert read_prompts(source) == ["apple", "pizza", "red apple"]
    assert looked_up == []


def test_the_processes_read_every_batch_once(tmp_path: Path) -> None:
    opened = DataSource(write_jsonl(tmp_path)).open()
    every = list(opened.read_batches(2))
    assert [len(batch) for batch in every] == [2, 2, 2, 1]
    for index in range(3):
        assert list(opened.read_batches(2, index, 3)) == every[index::3]


def test_an_encoding_that_was_killed_goes_on_and_a_whole_one_is_not_read_again(
    ldm: LDM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latents, "ROWS", 2)
    (tmp_path / "data").mkdir()
    source, folder = DataSource(write_jsonl(tmp_path / "data")), tmp_path / "latents"
    means = encode_data(ldm, source, folder).means[:]
    files = sorted(path.name for path in folder.iterdir())
    assert files == [*(f"00000{index}.safetensors" for index in range(4)), "index.json"]
    first = (folder / "000000.safetensors").stat().st_mtime_ns
    (folder / "000001.safetensors").unlink()
    (folder / "index.json").unlink()
    again = encode_data(ldm, source, folder).means[:]
    assert again.equal(means) and (folder / "000000.safetensors").stat().st_mtime_ns == first
    with monkeypatch.context() as patch:
        patch.setattr(DataSource, "open", None)
        whole = encode_data(ldm, source, folder).means[torch.tensor([2, 0])]
    assert whole.equal(means[[2, 0]])
    capsys.readouterr()
    with pytest.raises(RunError, match="index.json was made with another autoencoder. Remove .*latents, or choose"):
        other = LDM(tiny.build_sd())
        torch.nn.init.zeros_(other.vae.quant_conv.bias)
        encode_data(other, source, folder)
    with open(tmp_path / "data" / "metadata.jsonl", "a") as file:
        file.write('{"file_name": "0.png", "text": "one more"}\n')
    with pytest.raises(RunError, match="was made with other data"):
        encode_data(ldm, source, folder)


def test_columns_of_other_names_are_named(ldm: LDM, tmp_path: Path) -> None:
    table = pd.DataFrame({"jpg": [png(0), png(1)], "blip": ["apple", "pizza"], "text": ["x", "y"]})
    table.to_parquet(tmp_path / "all.parquet")
    real = encode_data(ldm, DataSource(tmp_path, "jpg", "blip"), tmp_path / "latents")
    assert real.captions.texts == ["", "apple", "pizza"]
    with pytest.raises(
        DatasetError, match="has no column 'image'. It has 'jpg', 'blip', 'text': name one with --image-"
    ):
        encode_data(ldm, DataSource(tmp_path), tmp_path / "other")
    with pytest.raises(DatasetError, match="has no column 'alt'.*--caption-column"):
        read_prompts(DataSource(tmp_path, "jpg", "alt"))


def test_a_data_set_with_no_usable_entry_is_refused(ldm: LDM, tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "none.png", "text": "apple"}\n')
    with pytest.raises(
        DatasetError, match="no usable entry to learn from. 0 images, 1 entries skipped .*none.png: the i"
    ):
        encode_data(ldm, DataSource(tmp_path), tmp_path / "latents")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("metadata.jsonl", b'{"file_name": "0.png", "text": "a"}\n{\n', "cannot be read: JSON parse error"),
        ("metadata.jsonl", b'{"file_name": "../x.png", "text": "a"}\n', "cannot be read: Invalid metadata file_name"),
        ("metadata.jsonl", b"", "cannot be read: "),
        ("a.parquet", b"no table", "cannot be read: "),
        ("a.tar", b"no tar", "cannot be read: "),
        ("a.zip", b"", "holds no training data. Accepted are a folder with metadata.jsonl or metadata.csv"),
    ],
)
def test_damaged_files_are_refused_with_a_sentence(
    name: str, content: bytes, reason: str, ldm: LDM, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=reason) as error:
        encode_data(ldm, DataSource(tmp_path), tmp_path / "latents")
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_images_are_cut_around_their_centre(size: tuple[int, int]) -> None:
    height, width = size
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))  # the middle third
    file = io.BytesIO()
    wide.save(file, "png")
    image = read_image({"bytes": file.getvalue(), "path": None}, size)
    assert image.shape == (height, width, 3)
    share = min(1.0, (100 / height) * height / (100 * width / height))  # of the result's width that is blue
    blue = image[:, :, 2].mean() / 255
    assert abs(blue - share) < 0.1 and tuple(image[height // 2, width // 2]) == (0, 0, 255)


def test_transparent_and_turned_images_look_as_they_are_shown() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(file, "png")
    assert (read_image({"bytes": file.getvalue(), "path": None}, (16, 16)) == 255).all()
    turned, file = Image.new("L", (16, 32), 0), io.BytesIO()
    turned.paste(255, (0, 0, 16, 16))  # white above, black below
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    turned.save(file, "png", exif=exif)
    image = read_image({"bytes": file.getvalue(), "path": None}, (16, 32))
    assert image[:, :14].max() == 0 and image[:, 18:].min() == 255


def test_a_missing_image_is_an_entry_error(tmp_path: Path) -> None:
    for stored, reason in ((None, "no image"), ({"bytes": None, "path": str(tmp_path / "x")}, "cannot be read")):
        with pytest.raises(EntryError, match=reason):
            read_image(stored, (16, 16))


def write_rows(folder: Path, *rows: dict[str, Any], size: int = 16) -> Path:
    """Write an image folder; the image of row n is of level n, and rows get a file name."""
    lines = []
    for index, row in enumerate(rows):
        Image.new("RGB", (size, size), (index, 0, 255)).save(folder / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", **row}))
    (folder / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_only_train_rows_that_are_not_for_the_autoencoder_alone_are_learned_from(ldm: LDM, tmp_path: Path) -> None:
    variants = [["apple"], ["apple, 3d"], ["apple, red, fruit", "apple, fruit, food"]]
    folder = write_rows(
        tmp_path,
        {"text": "pizza", "split": "test"},
        {"text": "apple", "split": "train", "autoencoder_only": False, "caption_variants": variants},
        {"text": "sign", "autoencoder_only": True},
        {"text": "rose", "split": "validation"},
        {"text": "bad", "caption_variants": [["a"], ["b"], []]},
    )
    real = encode_data(ldm, DataSource(folder), tmp_path / "latents")
    assert len(real) == 1 and real.captions.rows == [[[1], [2], [3, 4]]]
    assert real.captions.texts == ["", "apple", "apple, 3d", "apple, red, fruit", "apple, fruit, food"]
    index = json.loads((tmp_path / "latents" / "index.json").read_text())
    assert len(index["skipped"]) == 1 and "caption_variants are not 3 lists" in index["skipped"][0]
    rows, images = read_image_folder(folder)
    assert len(rows) == len(images) == 5 and images.shape == (5, 16, 16, 3)
    assert read_prompts(DataSource(folder)) == ["apple", "bad"]
    (folder / "prompts.txt").write_text("two apples\nan apple\n")
    assert read_prompts(DataSource(folder)) == ["two apples", "an apple"]
    (folder / "prompts.txt").write_text("\n")
    with pytest.raises(DatasetError, match="prompts.txt holds no prompt: one prompt a line"):
        read_prompts(DataSource(folder))


def test_the_emoji_data_set_is_such_a_folder(small_data: Path, ldm: LDM, tmp_path: Path) -> None:
    rows = read_metadata(small_data)
    real = encode_data(ldm, DataSource(small_data), tmp_path / "latents")
    learned = [row for row in rows if row["core"] and row["split"] == "train"]
    assert len(real) == len(learned) == 22
    assert read_prompts(DataSource(small_data)) == list_prompts(learned)
    texts = real.captions.texts
    assert [[[texts[i] for i in each] for each in of_image] for of_image in real.captions.rows] == [
        list_variants(row) for row in learned
    ]
    (tmp_path / "none").mkdir()
    folder = write_rows(tmp_path / "none", {"text": "apple", "split": "test"})
    with pytest.raises(DatasetError, match='holds no entry to learn from: none of split "train" with a caption'):
        read_prompts(DataSource(folder))


def test_latents_are_drawn_from_every_file_with_their_posteriors(ldm: LDM) -> None:
    """Two files and an empty one: image n has mean n and standard deviation n / 100."""
    parts = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 4, 8, 8).half().split([2, 0, 3])
    means, stds = MappedRows(parts), MappedRows([part / 100 for part in parts])
    real = RealLatents(means, stds, Captions(ldm, [[["apple"]] * 3] * 5))
    drawn, chosen = real.draw(2000)
    assert drawn.dtype == torch.float32 and set(chosen.tolist()) == {0, 1, 2, 3, 4}
    standard = (drawn - chosen.view(-1, 1, 1, 1)) / (chosen.view(-1, 1, 1, 1) / 100)
    assert abs(standard[chosen > 0].std() - 1) < 0.02 and drawn[chosen == 0].abs().max() == 0


class Numbers:
    """Stands in for an LDM whose token states are the numbers that its prompts are."""

    device, unconditional = torch.device("cpu"), Conditioning(torch.zeros(1, 1, 1))

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        return Conditioning(torch.tensor([float(prompt or 0) for prompt in prompts]).view(-1, 1, 1))


@pytest.mark.parametrize("cached", [2**30, 0])
def test_captions_are_drawn_by_their_shares(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "CACHED_BYTES", cached)
    captions = Captions(Numbers(), [[["1"], ["2"], ["3", "4"]], [["5"], ["5"], ["5"]]])  # type: ignore[arg-type]
    assert (captions.encoded is None) == (cached == 0)
    drawn = captions.draw(torch.zeros(20_000, dtype=torch.long)).states
    assert drawn.dtype == torch.float32 and drawn.shape == (20_000, 1, 1)
    shares = torch.bincount(drawn.flatten().long(), minlength=6) / 20_000
    empty, label, style, tags = CAPTION_SHARES
    assert torch.allclose(shares, torch.tensor([empty, label, style, tags / 2, tags / 2, 0]), atol=0.02)
    assert set(captions.draw(torch.ones(100, dtype=torch.long)).states.flatten().tolist()) == {0.0, 5.0}


@pytest.mark.parametrize("build", [tiny.build_sd, tiny.build_sdxl])
def test_captions_that_are_encoded_at_each_draw_equal_kept_ones(
    build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ldm, variants = LDM(build()), [[["apple"], ["red apple"], ["pizza"]], [["pizza"], ["red"], ["apple"]]]
    kept = Captions(ldm, variants)
    assert kept.rows == [[[1], [2], [3]], [[3], [4], [1]]] and kept.texts == ["", "apple", "red apple", "pizza", "red"]
    monkeypatch.setattr(latents, "CACHED_BYTES", 0)
    fresh, images = Captions(ldm, variants), torch.tensor([0, 1, 0, 1])
    torch.manual_seed(3)
    a = kept.draw(images)
    torch.manual_seed(3)
    b = fresh.draw(images)
    torch.testing.assert_close(a.states, b.states, atol=2e-3, rtol=0)
    assert (a.pooled is None) == (b.pooled is None)
    if a.pooled is not None and b.pooled is not None:
        torch.testing.assert_close(a.pooled, b.pooled, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: accepted is a JSON object with file_name and text"),
        ('["0.png", "apple"]', "line 2: accepted is a JSON object"),
        ('{"file_name": "0.png"}', r"line 2: accepted is a JSON object with file_name and text \(KeyError\('text'\)\)"),
        ('{"file_name": "0.png", "text": "\udce4"}', "line 2: .*UnicodeDecodeError"),
        ('{"file_name": "0.png", "text": 3}', "line 2: .*file_name and text must be strings"),
        ('{"file_name": "none.png", "text": "pizza"}', r"none.png, named in metadata.jsonl, cannot be read: "),
        (
            '{"file_name": "large.png", "text": "pizza"}',
            r"large.png is 20 x 20 px, 0.png 16 x 16 px: all images must have one",
        ),
    ],
)
def test_a_bad_row_of_a_folder_that_is_read_whole_is_named(tmp_path: Path, line: str, reason: str) -> None:
    folder = write_rows(tmp_path, {"text": "apple"})
    Image.new("RGB", (20, 20)).save(folder / "large.png")
    with open(folder / "metadata.jsonl", "a", errors="surrogateescape") as file:
        file.write(f"{line}\n")
    with pytest.raises(DatasetError, match=reason):
        read_image_folder(folder)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    folder = write_rows(tmp_path, {"text": "apple"})
    (folder / "0.png").write_text("no image")
    with pytest.raises(DatasetError, match=r"0.png, named in metadata.jsonl, cannot be read: cannot identify"):
        read_image_folder(folder)


def test_a_folder_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no metadata.jsonl. Accepted is an image folder"):
        read_image_folder(tmp_path)
    with pytest.raises(DatasetError, match="metadata.jsonl is empty"):
        read_image_folder(write_rows(tmp_path))
