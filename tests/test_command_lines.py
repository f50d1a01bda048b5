"""What all command lines share: refusals before anything is computed, files that are whole, and the end by ^C."""

import ast
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from analysis import convergence, diversity, frontier, method, overhead, quality, variance
from latentcrf.training import record, train, train_finisher
from latentcrf.utils.files import claim_folder, read_json, replace_file
from recipes.emoji import dataset, third_party_weights, train_unet, train_vae

ROOT = Path(__file__).parents[1]
ANALYSES: dict[str, Callable[[list[str]], int]] = {
    "convergence": convergence.main, "diversity": diversity.main, "method": method.main, "variance": variance.main,
}  # fmt: skip


def run(code: str, limit: int | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, whose files may have `limit` bytes."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | environment,
        preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip


@pytest.mark.parametrize("name", ANALYSES)
def test_wrong_options_are_refused_before_anything_is_loaded(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.sampling.PIPELINES", None)  # loading a pipeline would fail
    file = tmp_path / "file"
    file.touch()
    for words, message in (
        (["--out", str(file)], "file is a file; a folder is accepted"),
        (["--out", str(file / "inside")], "file is a file; a folder is accepted"),
        (["--out", str(tmp_path), "--bypass", "40", "30"], "--bypass 40 30 must be FIRST below LAST"),
        (["--out", str(tmp_path), "--bypass", "33", "51"], "LAST at most the 50 steps"),
    ):
        with pytest.raises(SystemExit) as raised:
            ANALYSES[name](words)
        assert raised.value.code == 2 and message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_settings_are_utf8_whatever_the_locale_with_or_without_a_mark(tmp_path: Path) -> None:
    record = json.dumps({"analysis": "method", "options": {"prompt": "Äpfel"}}, ensure_ascii=False)
    for mark in ("utf-8", "utf-8-sig"):
        (tmp_path / "settings.json").write_text(record, encoding=mark)
        code = f"""if True:
            from analysis.arguments import add_arguments, build_parser, parse_prompt
            from analysis.export import parse
            parser = build_parser("analysis.method", "")
            add_arguments(parser, "out")
            parser.add_argument("--prompt", type=parse_prompt)
            print(ascii(parse(parser, "method", ["--out", "x", "--from", {str(tmp_path / "settings.json")!r}]).prompt))
        """
        done = run(code, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
        assert done.stdout.strip() == repr("\xc4pfel").encode("ascii", "backslashreplace").decode(), done.stderr


def test_each_text_file_is_read_and_written_as_utf8() -> None:
    """Ruff's PLW1514 does not see through the paths that functions return."""
    for package in ("latentcrf", "analysis", "app", "recipes"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    is_text = node.func.attr in ("read_text", "write_text")
                    named = any(word.arg == "encoding" for word in node.keywords)
                    assert named or not is_text, f"{path}:{node.lineno}"


@pytest.mark.slow
def test_a_full_disk_names_the_file_and_leaves_no_half(tmp_path: Path) -> None:
    """A limit on the size of files fails as a full disk does: while writing, in an error without a name."""
    path = tmp_path / "runs.csv"
    path.write_text("old", encoding="utf-8")
    code = f"""if True:
        from latentcrf.utils.files import replace_file
        try:
            with replace_file({str(path)!r}) as temporary:
                temporary.write_bytes(b"x" * 100_000)
        except OSError as error:
            print(error)
    """
    done = run(code, limit=10_000)
    assert f"{path} is not written: File too large" in done.stdout, done.stderr
    assert path.read_text(encoding="utf-8") == "old" and [each.name for each in tmp_path.iterdir()] == ["runs.csv"]


def test_a_broken_json_file_is_named_with_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "model_index.json"
    for content, words in ((b'{"a": 1,\n "b" 2}', "line 2 column 6"), (b'"\xe4"', "can't decode byte 0xe4")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="model_index.json is no JSON file") as raised:
            read_json(path)
        assert words in str(raised.value)
        assert convergence.main(["--out", str(tmp_path / "out"), "--model", str(tmp_path)]) == 1


def test_an_error_that_names_its_file_stays(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, replace_file(tmp_path / "a") as temporary:
        (temporary.parent / "absent").read_bytes()
    assert raised.value.filename == str(tmp_path / "absent")


@pytest.mark.slow
def test_two_commands_at_once_on_one_folder_are_refused(tmp_path: Path) -> None:
    claim_folder(tmp_path / "out")
    claim_folder(tmp_path / "out")  # the same command may, again
    code = f"""if True:
        from latentcrf.utils.files import claim_folder
        claim_folder({str(tmp_path / "other")!r})
        try:
            claim_folder({str(tmp_path / "out")!r})
        except OSError as error:
            print(error)
    """
    assert "another command is writing to" in run(code).stdout
    claim_folder(tmp_path / "other")  # the end of a process frees its folders
    assert list((tmp_path / "out").iterdir()) == []


FOLDER = "assets/models/emoji-ldm"  # of what exists; it is not read
COMMANDS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    **{name: (main, []) for name, main in ANALYSES.items() if name != "variance"},
    "frontier": (frontier.main, []),
    "overhead": (overhead.main, []),
    **{f"quality {name}": (quality.main, [name]) for name in ("autoencoder", "ldm", "crf", "cost")},
    "record": (record.main, ["--base", FOLDER, "--data", FOLDER, "--runs", "16"]),
    "train": (train.main, ["--base", FOLDER, "--data", FOLDER]),
    "train_finisher": (train_finisher.main, ["--base", FOLDER, "--data", FOLDER, "--static", FOLDER]),
    "dataset": (dataset.main, []),
    "third_party_weights": (third_party_weights.main, []),
    "train_unet": (train_unet.main, ["--data", FOLDER, "--vae", FOLDER]),
    "train_vae": (train_vae.main, ["--data", FOLDER]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_another_command_writes_to_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is loaded; variance and the benchmark, of which several processes run, claim it later."""
    monkeypatch.setattr("analysis.sampling.PIPELINES", None)
    main, words = COMMANDS[name]
    with opened_alone(tmp_path):
        assert main([*words, "--out", f"{tmp_path}{os.sep}"]) == 1
    assert f"another command is writing to {tmp_path}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@contextmanager
def opened_alone(folder: Path) -> Iterator[None]:
    """Lock a folder as another process does."""
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


@pytest.mark.slow
def test_stopping_a_command_ends_it_with_a_line_and_130(tmp_path: Path) -> None:
    code = f"""if True:
        import time
        from latentcrf.utils.arguments import run_command
        from latentcrf.utils.files import replace_file
        def main():
            with replace_file({str(tmp_path / "x.csv")!r}) as temporary:
                temporary.write_text("half", encoding="utf-8")
                print("writing", flush=True)
                time.sleep(60)
        run_command(main)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - began < 10
    assert errors.strip().splitlines() == ["Stopped. Files that were written are whole."]
    assert not list(tmp_path.iterdir())


def test_every_command_ends_so() -> None:
    commands = [
        path
        for package in ("latentcrf", "analysis", "recipes")
        for path in (ROOT / package).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    ]
    assert len(commands) > 15
    for path in commands:
        assert "    run_command(main)\n" in path.read_text(encoding="utf-8"), path
