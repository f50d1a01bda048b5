"""Check the page and upload it as a Space of the Hugging Face Hub.

    python -m app.publish --to USER/NAME --dry-run

The Space gets what the page needs and nothing else: its code, the models that it shows, the tables that it reads. Files
of an earlier upload that are no longer among these are deleted from it. Log in first: `hf auth login`.
"""

import argparse
import fnmatch
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, SpaceHardware
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import filter_repo_objects, validate_repo_id

ROOT = Path(__file__).parents[1]
# In these patterns * matches / too, as in `huggingface_hub.HfApi.upload_folder`.
NEEDED = (
    "README.md", "LICENSE", "NOTICE", "requirements.txt", "app.py", "app/*", "analysis/*", "latentcrf/*",
    "docs/glossary.md", "assets/idea.png", "assets/social.png", "assets/manifest.json", "assets/models/*",
    "assets/results/benchmark/*", "assets/results/variance/*",
)  # fmt: skip
# Hidden files, and models that only the benchmark compares with.
EXCLUDED = (".*", "*/.*", "assets/models/emoji-plain*", "assets/models/emoji-latentcrf-static/*")
FIELDS = (
    "title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "short_description",
    "license", "models", "tags", "suggested_hardware",
)  # fmt: skip
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
ZERO_PYTHONS = ("3.10", "3.12")  # of hardware with a GPU that visitors share
LARGE, LARGEST_SPACE = 10 * 10**6, 10**9  # bytes: from LARGE on the Hub keeps a file in its large-file storage
SECRET_NAME = re.compile(
    r"(^|[._-])(secrets?|tokens?|credentials?|passwords?|netrc|id_(rsa|ecdsa|ed25519))([._-]|$)|\.(pem|key|p12|pfx)$",
    flags=re.IGNORECASE,
)
SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bgh[opsu]_[A-Za-z0-9]{36}|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)


class PublishError(RuntimeError):
    """The page cannot be published; the message says why and what to do."""


def read_ignored(root: Path) -> list[str]:
    """Read .gitignore as patterns of `huggingface_hub`, in which * matches / too.

    Args:
        root: of the project.

    Returns:
        Patterns, with those of `EXCLUDED`.

    Raises:
        PublishError: .gitignore is missing, or has a line of a kind that is not understood.
    """
    file = root / ".gitignore"
    if not file.is_file():
        raise PublishError(f"{file} is missing: it says which files are not for others. Is {root} a whole checkout?")
    patterns = list(EXCLUDED)
    for line in file.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name = line.strip("/")
        if line.startswith("!") or "/" in name:
            raise PublishError(f"{file} has the line {line!r}; accepted are names, NAME/ and /NAME/ with wildcards.")
        for place in [name] if line.startswith("/") else [name, f"*/{name}"]:
            patterns += [f"{place}/*"] if line.endswith("/") else [place, f"{place}/*"]
    return patterns


def list_files(root: Path, ignored: list[str]) -> list[str]:
    """List what goes to the Space: the choice that `upload_folder` makes by the same patterns.

    Args:
        root: of the project.
        ignored: as of `read_ignored`.

    Returns:
        Paths relative to `root`, sorted.
    """
    found: list[str] = []
    for top in {pattern.split("/")[0] for pattern in NEEDED}:
        paths = [root / top] if (root / top).is_file() else (root / top).rglob("*")
        found += [path.relative_to(root).as_posix() for path in paths if path.is_file()]
    return sorted(filter_repo_objects(found, allow_patterns=list(NEEDED), ignore_patterns=ignored))


def check_files(root: Path, files: list[str]) -> Iterator[str]:
    """Check the files.

    Args:
        root: of the project.
        files: as of `list_files`.

    Yields:
        A sentence for each problem.
    """
    for pattern in NEEDED:
        if not fnmatch.filter(files, pattern):
            yield f"{pattern} is missing in {root}; the page needs it."
    total = 0
    for name in files:
        path = root / name
        total += path.stat().st_size
        if path.is_symlink():
            yield f"{name} is a symbolic link; put the file itself there."
        if SECRET_NAME.search(path.name):
            yield f"{name} looks like a secret by its name; a Space's files are public."
        content = path.read_bytes() if path.stat().st_size < LARGE else b"\0"
        if b"\0" not in content[:4096] and SECRET.search(content.decode(errors="ignore")):  # else: no text
            yield f"{name} holds what looks like an access token or a private key; a Space's files are public."
    if total > LARGEST_SPACE:
        yield f"The files have {total:,} bytes in all; a Space may have {LARGEST_SPACE:,}."


def check_front_matter(root: Path, files: list[str]) -> Iterator[str]:
    """Check the front matter of README.md, by which the Hub builds the Space.

    Args:
        root: of the project.
        files: as of `list_files`.

    Yields:
        A sentence for each problem.
    """
    try:
        front = metadata_load(root / "README.md") or {}
    except Exception as error:  # of the YAML library, which huggingface_hub chooses
        yield f"README.md has no front matter that can be read: {' '.join(str(error).split())}"
        return
    missing = [name for name in FIELDS if front.get(name) in (None, "", [])]
    if missing:
        yield f"README.md: its front matter lacks {', '.join(missing)}."
    pins = re.findall(r"^gradio==(.+)$", (root / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    hardware = str(front.get("suggested_hardware"))
    python = str(front.get("python_version"))
    checks = {
        "sdk": (front.get("sdk") == "gradio", "gradio"),
        "sdk_version": (str(front.get("sdk_version")) in pins, f"{' '.join(pins)}, the release in constraints.txt"),
        "app_file": (front.get("app_file") in files, "a file that is uploaded: app.py"),
        "short_description": (len(str(front.get("short_description"))) <= 60, "a text of at most 60 characters"),
        "colorFrom": (front.get("colorFrom") in COLOURS, ", ".join(sorted(COLOURS))),
        "colorTo": (front.get("colorTo") in COLOURS, ", ".join(sorted(COLOURS))),
        "models": (_are_names(front.get("models")), "a list of USER/NAME"),
        "tags": (isinstance(front.get("tags"), list), "a list"),
        "suggested_hardware": (hardware in {each.value for each in SpaceHardware}, "a name of the Hub: cpu-basic, ..."),
        "python_version": (
            python in ZERO_PYTHONS if hardware.startswith("zero") else bool(re.fullmatch(r"3\.1[0-2]", python)),
            f"{' and '.join(ZERO_PYTHONS)} on {hardware}" if hardware.startswith("zero") else '"3.10" to "3.12"',
        ),
    }
    for name, (is_right, accepted) in checks.items():
        if name not in missing and not is_right:
            yield f"README.md: {name} is {front[name]!r}; accepted is {accepted}."


def _are_names(values: Any) -> bool:
    """Whether `values` is a list of names of repositories."""
    try:
        for value in values:
            validate_repo_id(value)
    except (TypeError, ValueError):
        return False
    return isinstance(values, list)


def check_requirements(root: Path) -> Iterator[str]:
    """Let pip resolve requirements.txt together with the SDK's gradio, as a Space does. Nothing is installed.

    Args:
        root: of the project.

    Yields:
        A sentence, where pip finds no answer.
    """
    version = (metadata_load(root / "README.md") or {}).get("sdk_version")
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "-r", str(root / "requirements.txt"), f"gradio=={version}"], capture_output=True, text=True
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        yield f"requirements.txt and gradio {version}, the Space's SDK, cannot be installed together: {errors[0]}"


def format_files(root: Path, files: list[str]) -> str:
    """List files with their sizes, one a line, and their sum.

    Args:
        root: of the project.
        files: as of `list_files`.
    """
    sizes = {name: (root / name).stat().st_size for name in files}
    lines = [f"{size:>12,}  {name}{'  (large-file storage)' * (size >= LARGE)}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{sum(sizes.values()):>12,}  bytes in {len(files)} files"])


def upload(root: Path, repo_id: str, ignored: list[str], is_private: bool) -> None:
    """Upload the files to the Space.

    Args:
        root: of the project.
        repo_id: USER/NAME.
        ignored: as of `read_ignored`.
        is_private: whether a new Space is private; otherwise the account's setting decides.

    Raises:
        PublishError: the Hub refuses.
    """
    hub = HfApi()
    try:
        hub.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=is_private or None, exist_ok=True)
        hub.upload_folder(
            repo_id=repo_id,
            repo_type="space",
            folder_path=root,
            allow_patterns=list(NEEDED),
            ignore_patterns=ignored,
            delete_patterns="*",
            commit_message="Upload the page",
        )
    except Exception as error:  # of the HTTP library, which is another one in each version of huggingface_hub
        raise PublishError(
            f"the Hub could not be reached or refused: {error}. Is the name right, and did you log in (hf auth login)?"
        ) from error


def publish(options: argparse.Namespace) -> None:
    """Publish the page, or show what would go.

    Args:
        options: of the command line.

    Raises:
        PublishError: a check fails, or the Hub refuses.
    """
    if options.to.count("/") != 1 or not _are_names([options.to]):
        raise PublishError(f"--to is {options.to!r}; accepted is USER/NAME: letters, digits, '-', '_' and '.'.")
    ignored = read_ignored(ROOT)
    files = list_files(ROOT, ignored)
    problems = [*check_files(ROOT, files), *check_front_matter(ROOT, files)]
    problems = problems or list(check_requirements(ROOT))
    if problems:
        raise PublishError("\n".join(problems))
    if options.dry_run:
        print(f"{format_files(ROOT, files)}\nAll checks passed. These would go to the Space {options.to}.")
        return
    upload(ROOT, options.to, ignored, options.private)
    print(f"published: https://huggingface.co/spaces/{options.to}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: of the command line; None takes this process's own.

    Returns:
        The exit status: 0, or 1 after an error message.
    """
    parser = argparse.ArgumentParser(
        prog="python -m app.publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", required=True, metavar="USER/NAME", help="the Space, made where it does not exist")
    parser.add_argument("--private", action="store_true", help="make a new Space private")
    parser.add_argument("--dry-run", action="store_true", help="check, and list what would go; upload nothing")
    try:
        publish(parser.parse_args(arguments))
    except PublishError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
