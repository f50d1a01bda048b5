"""Names of models on the Hugging Face hub."""

from pathlib import Path


def split_revision(name: str | Path) -> tuple[str, str | None]:
    """Split what a command line names a model by.

    Args:
        name: a folder, or USER/NAME or USER/NAME@REVISION of the hub.

    Returns:
        The folder or USER/NAME, and the revision; None: the newest.
    """
    if Path(name).exists():
        return str(name), None
    repository, _, revision = str(name).partition("@")
    return repository, revision or None
