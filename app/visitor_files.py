"""Files made for visitors, in folders of the system's temporary directory; swept once they are old."""

import atexit
import contextlib
import getpass
import os
import shutil
import tempfile
import time
from collections.abc import Collection
from functools import cache
from pathlib import Path

MAX_AGE = 4 * 3600  # seconds
MAX_BYTES = 2 * 1024**3  # of all visitors; beyond, the oldest files are deleted
OWN, GRADIO = "latentcrf-page-", "latentcrf-gradio-"  # names of folders begin so


def choose_gradio_folder() -> str:
    """Choose where gradio keeps uploads and images, its GRADIO_TEMP_DIR: where `sweep` finds them."""
    return str(Path(tempfile.gettempdir(), GRADIO + getpass.getuser()))


@cache
def _get_root() -> Path:
    root = Path(tempfile.mkdtemp(prefix=OWN))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def make_kept_folder() -> Path:
    """Make a folder for files of all visitors, which is deleted when the process ends.

    Returns:
        Its path.
    """
    folder = Path(tempfile.mkdtemp(prefix="latentcrf-kept-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def make_folder() -> Path:
    """Make a new folder for a visitor's files.

    Returns:
        Its path.
    """
    root = _get_root()
    root.mkdir(exist_ok=True)  # swept where it was empty for long
    return Path(tempfile.mkdtemp(dir=root))


def remove_upload_parts() -> None:
    """Delete what broken uploads left; call it while no upload is under way."""
    folder = Path(os.environ.get("GRADIO_TEMP_DIR", choose_gradio_folder()))
    for path in folder.glob("tmp*"):  # a whole upload lies in a folder of its own
        with contextlib.suppress(OSError):
            path.unlink()


def sweep(keep: Collection[str] = (), max_age: float = MAX_AGE, max_bytes: int = MAX_BYTES) -> int:
    """Delete old files of visitors and folders that are empty, of former processes too.

    What cannot be deleted is left for the next time.

    Args:
        keep: paths of files that stay.
        max_age: seconds since a file or a folder was last changed.
        max_bytes: that may stay; beyond, the oldest files are deleted too.

    Returns:
        How many files were deleted.
    """
    oldest, deleted, kept = time.time() - max_age, 0, set(map(str, keep))
    young: list[tuple[float, int, Path]] = []
    found = [path for name in (OWN, GRADIO) for path in Path(tempfile.gettempdir()).glob(f"{name}*")]
    for place in (path for path in found if path.is_dir() and not path.is_symlink()):
        for folder, _, files in os.walk(place, topdown=False):
            for path in (Path(folder, name) for name in files):
                try:
                    state = path.lstat()
                    if str(path) in kept:
                        continue
                    if state.st_mtime < oldest:
                        path.unlink()
                        deleted += 1
                    else:
                        young.append((state.st_mtime, state.st_size, path))
                except OSError:  # of another user, or gone already
                    continue
            try:
                if Path(folder).stat().st_mtime < oldest:
                    Path(folder).rmdir()
            except OSError:  # not empty
                continue
    excess = sum(size for _, size, _ in young) - max_bytes
    for _, size, path in sorted(young):
        if excess <= 0:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            deleted, excess = deleted + 1, excess - size
    return deleted
