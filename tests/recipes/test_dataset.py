"""The data set's builder on small packages in the real ones' format, drawn here."""

import hashlib
import io
import json
import os
import resource
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentcrf.training.data import DatasetError, read_image_folder
from recipes.emoji import dataset, drawings
from recipes.emoji.dataset import build, main, split
from recipes.emoji.drawings import Package, make_slug, normalise_code_point

SUBJECTS = {  # code point, label, and the styles that draw it
    "1F34E": ("red apple", ("3d", "flat", "noto", "twemoji")),
    "2764-FE0F": ("red heart", ("3d", "flat", "noto", "twemoji")),
    "1F383": ("jack-o’-lantern", ("flat", "noto", "twemoji")),
    "1F355": ("pizza", ("3d", "noto")),
    "1F44D": ("thumbs up", ("3d", "flat", "noto")),
    "1F1EC": ("a flag", ("3d", "flat", "noto", "twemoji")),
}
FOOD, PEOPLE, FLAGS = 0, 1, 2


def svg(index: int, turn: int) -> str:
    box = f'x="{4 + index}" y="{3 + 2 * index}" width="{20 + turn}" height="18"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48"><rect {box} fill="#c0{turn}"/></svg>'


def webp(index: int) -> bytes:
    image = Image.new("RGBA", (64, 64))
    image.paste((200, 30 * index, 0, 255), (8, 8, 56 - index, 56))
    stream = io.BytesIO()
    image.save(stream, format="WEBP", lossless=True)
    return stream.getvalue()


def pack(folder: Path, name: str, members: dict[str, bytes | str]) -> Package:
    path = folder / f"{name}-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(f"package/{member}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return Package(name, "1.0.0", hashlib.sha256(path.read_bytes()).hexdigest(), "MIT")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five small packages, pinned in place of the real ones; the folder that holds their files."""
    folder = tmp_path / "registry"
    folder.mkdir()
    words, three_d, flat, twemoji, icons, chars = [], {}, {}, {}, {}, {}
    for index, (code_point, (label, styles)) in enumerate(SUBJECTS.items()):
        group = FLAGS if label == "a flag" else PEOPLE if label == "thumbs up" else FOOD
        entry = {"label": label, "hexcode": code_point, "group": group, "subgroup": 0, "order": index, "tags": ["tag"]}
        words.append(entry)
        if "3d" in styles:
            three_d[f"assets/{code_point.lower()}.webp"] = webp(index)
        if "flat" in styles:
            flat[f"icons/flat/{make_slug(label)}{'-default' if group == PEOPLE else ''}.svg"] = svg(index, 2)
        if "twemoji" in styles:
            twemoji[f"{normalise_code_point(code_point)}.svg"] = svg(index, 5)
        if "noto" in styles:
            icons[make_slug(label)] = {"body": svg(index, 9)}
            chars[code_point.lower()] = make_slug(label)
    groups = {"groups": {"0": "food-drink", "1": "people-body", "2": "flags"}, "subgroups": {"0": "plain"}}
    noto = {"icons.json": json.dumps({"icons": icons, "width": 48, "height": 48}), "chars.json": json.dumps(chars)}
    packages = {
        "3d": pack(folder, "three", three_d),
        "flat": pack(folder, "flat", flat),
        "noto": pack(folder, "noto", noto),
        "twemoji": pack(folder, "twemoji", twemoji),
    }
    word_list = {"en/data.json": json.dumps(words), "meta/groups.json": json.dumps(groups)}
    monkeypatch.setattr(dataset, "WORDS", pack(folder, "words", word_list))
    for module in (dataset, drawings):
        monkeypatch.setattr(module, "PACKAGES", packages)
    return folder


@pytest.fixture
def out(registry: Path, tmp_path: Path) -> Path:
    """A folder with the packages already fetched."""
    shutil.copytree(registry, tmp_path / "out" / "packages")
    return tmp_path / "out"


def npm(folder: Path, script: str) -> str:
    """A PATH whose `npm` is this shell script."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("code_point", "normal"),
    [("1F44D-FE0F", "1f44d"), ("0023-FE0F-20E3", "23-20e3"), ("1f468-200d-1f4bb", "1f468-200d-1f4bb"), ("00A9", "a9")],
)
def test_normal_code_points(code_point: str, normal: str) -> None:
    assert normalise_code_point(code_point) == normal


@pytest.mark.parametrize(
    ("label", "name"),
    [("jack-o’-lantern", "jack-o-lantern"), ("piñata", "pinata"), ("A button (blood type)", "a-button-blood-type")],
)
def test_slugs(label: str, name: str) -> None:
    assert make_slug(label) == name


def many_rows() -> list[dict[str, object]]:
    """1,000 subjects, each drawn in one to four styles, every tenth not core."""
    styles = drawings.STYLES
    return [
        {"code_point": f"{i:x}", "style": style, "core": i % 10 > 0}
        for i in range(1000)
        for style in styles[: 1 + i % 4]
    ]


def test_split_holds_out_300_pairs_of_subjects_seen_otherwise() -> None:
    rows = many_rows()
    split(rows)
    held_out = [row for row in rows if row["split"] == "test"]
    assert len(held_out) == 300
    assert {row["split"] for row in rows} == {"train", "test"}
    assert all(row["core"] for row in held_out)
    assert len({row["code_point"] for row in held_out}) == 300
    seen: dict[object, int] = {}
    for row in rows:
        seen[row["code_point"]] = seen.get(row["code_point"], 0) + (row["split"] == "train")
    assert all(seen[row["code_point"]] >= 2 for row in held_out)
    assert {row["style"] for row in held_out} == set(drawings.STYLES)


def test_split_depends_on_neither_order_nor_company() -> None:
    rows, mixed = many_rows(), many_rows()[::-1]
    split(rows)
    split(mixed)

    def chosen(rows: list[dict[str, object]]) -> set[tuple[object, object]]:
        return {(row["code_point"], row["style"]) for row in rows if row["split"] == "test"}

    assert chosen(rows) == chosen(mixed)
    fewer = [row for row in many_rows() if int(str(row["code_point"]), 16) != 7]
    split(fewer)
    assert len(chosen(rows) ^ chosen(fewer)) <= 2


def test_build_and_load(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(out), "--size", "32"]) == 0
    assert "16 images, 5 subjects" in capsys.readouterr().out
    rows, images = read_image_folder(out)
    assert images.shape == (16, 32, 32, 3)
    assert images.dtype == np.uint8
    assert [(row["text"], row["style"]) for row in rows[:4]] == [("red apple", style) for style in drawings.STYLES]
    assert not any(row["text"] == "a flag" for row in rows)
    assert {row["text"]: row["core"] for row in rows}["thumbs up"] is False
    assert {row["code_point"] for row in rows if row["text"] == "red heart"} == {"2764"}
    for row, image in zip(rows, images, strict=True):
        assert (image[0, 0] == 255).all(), "the ground is white"
        assert (image < 255).any(), row["file_name"]
        assert row["pixels_sha256"] == hashlib.sha256(image.tobytes()).hexdigest()
        assert row["package"] == str(drawings.PACKAGES[row["style"]])
    with Image.open(out / "sample-sheet.png") as sheet:
        assert sheet.width > 32


def test_two_builds_are_equal(out: Path, registry: Path, tmp_path: Path) -> None:
    first = build(out, 32)
    shutil.copytree(registry, tmp_path / "again" / "packages")
    assert build(tmp_path / "again", 32) == first
    assert (tmp_path / "again" / "metadata.jsonl").read_bytes() == (out / "metadata.jsonl").read_bytes()


def test_a_complete_data_set_is_left_alone_and_a_missing_image_is_drawn_again(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = build(out, 32)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert build(out, 32) == rows
    assert "is complete: 16 images" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in written} == written
    (out / rows[3]["file_name"]).unlink()
    assert build(out, 32) == rows
    assert "1 images are missing" in capsys.readouterr().out
    changed = {path.name for path in written if path.stat().st_mtime_ns != written[path]}
    assert Path(rows[3]["file_name"]).name in changed
    assert Path(rows[2]["file_name"]).name not in changed


def test_another_size_wants_another_folder(out: Path) -> None:
    build(out, 32)
    with pytest.raises(DatasetError, match="holds this data set at 32 px; choose another folder for 64 px"):
        build(out, 64)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 700 bytes: small pictures fit, the table does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk(out: Path, full_disk: None, capfd: pytest.CaptureFixture[str]) -> None:
    status = main(["--out", str(out), "--size", "32"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))  # room is made
    assert status == 1
    assert "could not be written" in capfd.readouterr().err
    assert not (out / "metadata.jsonl").exists()
    assert not [path for path in out.rglob(".*") if path.is_file()], "no half-written file is left"
    with pytest.raises(DatasetError, match="holds no metadata.jsonl"):
        read_image_folder(out)
    drawn = {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    assert drawn
    assert len(build(out, 32)) == 16
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn, "what was drawn is kept"


def test_without_npm(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(DatasetError, match=r"npm is not installed.*or put the file words-1\.0\.0\.tgz there yourself"):
        build(tmp_path / "out", 32)


def test_without_network(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", npm(tmp_path / "bin", "echo 'npm error connect ECONNREFUSED' >&2; exit 1"))
    assert main(["--out", str(tmp_path / "out"), "--size", "32"]) == 1
    error = capsys.readouterr().err
    assert "npm could not fetch words@1.0.0 (npm error connect ECONNREFUSED). Is there a network?" in error
    assert not (tmp_path / "out" / "metadata.jsonl").exists()


def test_packages_come_by_npm(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`npm pack --silent --pack-destination FOLDER NAME@VERSION`."""
    script = f'[ "$1 $2 $3" = "pack --silent --pack-destination" ] && cp "{registry}/${{5%@*}}-${{5##*@}}.tgz" "$4"'
    monkeypatch.setenv("PATH", npm(tmp_path / "bin", script))
    assert len(build(tmp_path / "out", 32)) == 16


def test_another_file_is_refused(out: Path) -> None:
    file = out / "packages" / "noto-1.0.0.tgz"
    file.write_bytes(file.read_bytes() + b"!")
    with pytest.raises(DatasetError, match=r"is not noto@1\.0\.0: its SHA-256 is [0-9a-f]{64}.*It was removed"):
        build(out, 32)
    assert not file.exists()
    assert not (out / "metadata.jsonl").exists()


@pytest.mark.parametrize("size", ["15", "513", "-1"])
def test_size_is_checked(size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), "--size", size])
    assert f"argument --size: {size} is out of range: 16 to 512." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
