"""Files made for visitors: in a folder of the system's temporary directory, deleted once they are old."""

import atexit
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

MAX_AGE = 4 * 3600  # seconds


@cache
def _get_root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="latentcrf-page-"))
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
    """Make a new folder for a visitor's files, and delete those older than `MAX_AGE`.

    Returns:
        Its path.
    """
    root, now = _get_root(), time.time()
    for folder in root.iterdir():
        try:
            if now - folder.stat().st_mtime > MAX_AGE:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # another thread deletes as well
            continue
    return Path(tempfile.mkdtemp(dir=root))
