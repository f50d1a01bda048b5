"""Writing files so that a reader never meets half of one, and reading JSON."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: two commands at once on one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

# Descriptors of folders by device and inode, as a folder may be moved; open as long as this process lives.
_claimed: dict[tuple[int, int], int] = {}


def claim_folder(folder: str | Path) -> None:
    """Claim a folder for this process until it ends, so that two commands do not write into it at once.

    Args:
        folder: is made where it is missing.

    Raises:
        OSError: another process has claimed it, or it cannot be made.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    key = (folder.stat().st_dev, folder.stat().st_ino)
    if fcntl is None or key in _claimed:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OSError(f"another command is writing to {folder}: wait for its end, or choose another --out.") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return
    _claimed[key] = descriptor


def release_folder(folder: str | Path) -> None:
    """Release a folder that this process has claimed; an empty one is removed.

    Args:
        folder: one that is not claimed stays as it is.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    descriptor = _claimed.pop((folder.stat().st_dev, folder.stat().st_ino), None)
    if descriptor is not None:
        with suppress(OSError):  # it holds something
            folder.rmdir()
        os.close(descriptor)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Args:
        path: the file.

    Returns:
        Its value.

    Raises:
        OSError: there is no such file.
        ValueError: it is broken; the message names file, line and column.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}.") from error


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Name the file in an error that does not: a full disk names none.

    Args:
        path: that is written.

    Yields:
        None.

    Raises:
        OSError: as within, with the file's name.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, f"{path} is not written: {error.strerror}") from error


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Replace a file as a whole: on success the temporary file is renamed onto `path`, on any error it is removed.

    The rename is atomic, so whoever opens `path` sees the old content or the new, never a part.
    The data are flushed to the disk before the rename: a power cut cannot leave an empty file.

    Args:
        path: the file; its folder is made where it is missing.

    Yields:
        A temporary path beside it, to write to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending is kept: many writers choose their format by it.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        with name_file(path):
            yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private; ours are as public as any other
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_folder(folder: str | Path) -> Iterator[Path]:
    """Replace a folder as a whole: on success the temporary folder takes its place, on any error it is removed.

    Args:
        folder: the folder; its parent is made where it is missing.

    Yields:
        A temporary folder beside it, to write to.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes folders private
        old = temporary.with_name(temporary.name + ".old")
        if folder.exists():
            os.replace(folder, old)  # a folder that is not empty cannot be replaced in one step
        os.replace(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
