"""The SHA-256 of every shipped file: models are known to be whole before they compute."""

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from latentcrf.utils.files import replace_file

ASSETS = Path(__file__).parents[2] / "assets"  # of a checkout; an installed library has none
MANIFEST = "manifest.json"
COVERED = ("models", "examples", "results")
COMMAND = "python -m analysis.manifest"
BLOCK = 1 << 22  # bytes hashed at a time


class DamagedFilesError(OSError):
    """Shipped files are not those of the manifest; the message names them and says what to do."""


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file.

    Args:
        path: of the file.

    Returns:
        64 hexadecimal digits.
    """
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def list_covered(folder: Path) -> Iterator[Path]:
    """List the files that a manifest names.

    Args:
        folder: `assets` or one inside.

    Yields:
        Paths, sorted; cards and hidden files, which no program loads, are not among them.
    """
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and path.suffix != ".md" and not any(part.startswith(".") for part in parts):
            yield path


def write_manifest(assets: Path = ASSETS) -> int:
    """Write the manifest of the files as they are.

    Args:
        assets: folder of the manifest, default the checkout's `assets`.

    Returns:
        How many files it names.
    """
    paths = [path for name in COVERED for path in list_covered(assets / name)]
    hashes = {path.relative_to(assets).as_posix(): hash_file(path) for path in paths}
    with replace_file(assets / MANIFEST) as temporary:
        temporary.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
    return len(hashes)


def read_manifest(assets: Path = ASSETS) -> dict[str, str]:
    """Read the manifest.

    Args:
        assets: as of `write_manifest`.

    Returns:
        SHA-256 by path relative to `assets`.

    Raises:
        DamagedFilesError: it is missing or cannot be read.
    """
    path = assets / MANIFEST
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedFilesError(f"{path} cannot be read: {error}. {_advise()}") from None
    if not isinstance(hashes, dict) or not all(isinstance(each, str) for each in hashes.values()):
        raise DamagedFilesError(f"{path} is damaged: it is no object of hashes. {_advise()}")
    return hashes


def find_damage(folder: Path, assets: Path = ASSETS) -> list[str]:
    """Compare a folder with the manifest.

    Args:
        folder: inside `assets`, or `assets` itself.
        assets: as of `write_manifest`.

    Returns:
        A few words for each file that is damaged, missing or foreign; none where all is well, or where the manifest
        names no file of the folder.

    Raises:
        DamagedFilesError: as of `read_manifest`.
    """
    place = folder.relative_to(assets).as_posix()
    start = "" if place == "." else f"{place}/"
    expected = {name: value for name, value in read_manifest(assets).items() if name.startswith(start)}
    if not expected:
        return []
    folders = [assets / name for name in COVERED] if not start else [folder]
    names = {path.relative_to(assets).as_posix() for each in folders for path in list_covered(each)}
    found = [f"{assets.name}/{name} is missing" for name in sorted(expected.keys() - names)]
    found += [
        f"{assets.name}/{name} is foreign: nothing of that name ships" for name in sorted(names - expected.keys())
    ]
    for name in sorted(expected.keys() & names):
        if hash_file(assets / name) != expected[name]:
            found.append(f"{assets.name}/{name} is damaged: its SHA-256 is not that of {MANIFEST}")
    return found


def check_shipped(folder: str | Path) -> None:
    """Check a folder of models against the manifest before it is loaded, once a process.

    Args:
        folder: any; one that is not inside the checkout's `assets`, or a name of the hub, is not ours to check.

    Raises:
        DamagedFilesError: it is a shipped folder, and a file is damaged, missing or foreign.
    """
    path, root = Path(folder).resolve(), ASSETS.resolve()
    if path != root and path.is_relative_to(root):
        _check_once(path, root)


@cache
def _check_once(folder: Path, assets: Path) -> None:
    if damage := find_damage(folder, assets):
        raise DamagedFilesError(f"{'; '.join(damage)}. {_advise()}")


def _advise() -> str:
    return f"Fetch the files again; if they were changed on purpose: {COMMAND} write"
