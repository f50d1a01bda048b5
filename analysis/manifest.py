"""Write or check the manifest, the SHA-256 of every shipped file.

python -m analysis.manifest check    # name the files of assets that are damaged, missing or foreign
python -m analysis.manifest write    # after files of assets were changed on purpose
"""

import sys
from pathlib import Path

from analysis.arguments import build_parser
from latentcrf.utils.arguments import run_command
from latentcrf.utils.manifest import ASSETS, MANIFEST, find_damage, write_manifest


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: default: the process's.

    Returns:
        The exit status: 0; 1 where files are damaged, missing or foreign.
    """
    parser = build_parser("analysis.manifest", __doc__)
    parser.add_argument("command", choices=["check", "write"])
    parser.add_argument("--assets", type=Path, default=ASSETS, metavar="FOLDER", help="default: the checkout's assets")
    options = parser.parse_args(arguments)
    try:
        if options.command == "write":
            print(f"{options.assets / MANIFEST} names {write_manifest(options.assets)} files")
            return 0
        damage = find_damage(options.assets, options.assets)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in damage:
        print(f"error: {line}", file=sys.stderr)
    print(
        f"{len(damage)} of the shipped files are not as they should be." if damage else "All shipped files are whole."
    )
    return 1 if damage else 0


if __name__ == "__main__":
    run_command(main)
