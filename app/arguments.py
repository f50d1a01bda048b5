"""The page's command line, and the environment that follows from it. Without libraries: those read the environment."""

import argparse
import contextlib
import os
import socket
import sys

from app.models_file import ModelsError, names_hub_model
from app.visitor_files import choose_gradio_folder

INTERRUPTED = 130  # exit status after ^C


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="app.py", description="The page's command line: python app.py, then open http://127.0.0.1:7860."
    )
    parser.add_argument("--host", default=None, help="address to listen on (default 127.0.0.1; 0.0.0.0 for everyone)")
    parser.add_argument("--port", type=int, default=None, help="port, 1 to 65535 (default: the first free from 7860)")
    parser.add_argument(
        "--model",
        default=None,
        metavar="MODEL",
        help="model that is shown first: a name in app/models.json, the folder of a pipeline, or USER/NAME[@REVISION] "
        "of the Hugging Face hub, which is reached only then (default emoji)",
    )
    parser.add_argument(
        "--public",
        dest="is_public",
        action="store_true",
        default="SPACE_ID" in os.environ,
        help="strangers use the page: only the models of app/models.json, each at a commit (default on a Space)",
    )
    parser.add_argument(
        "--trusted-proxy",
        default="",
        metavar="ADDRESSES",
        help="addresses, with commas, of proxies in front of the page, whose X-Forwarded-For and X-Forwarded-Proto "
        "name a visitor's address and scheme (default: none is trusted)",
    )
    parser.add_argument(
        "--root-path",
        default=None,
        metavar="PATH",
        help='path under which a proxy serves the page, such as "/latentcrf" (default: none)',
    )
    parser.add_argument(
        "--compile",
        dest="compiles",
        action="store_true",
        help="let torch.compile make the U-Nets faster; needs a GPU with CUDA, and the first run takes minutes",
    )
    return parser


def may_reach_hub(model: str | None) -> bool:
    """Tell whether the hub may be reached: for a model of it that is named, or by the operator's own HF_HUB_OFFLINE.

    Args:
        model: of the command line.

    Raises:
        ModelsError: as of `names_hub_model`.
    """
    return "HF_HUB_OFFLINE" in os.environ or names_hub_model(model)


def check_host(host: str | None) -> None:
    """Check that this machine can listen on an address.

    Args:
        host: name or address; None: it is not named.

    Raises:
        OSError: it cannot; the message says what is accepted.
    """
    if host is None:
        return
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.bind(place)
    except (OSError, UnicodeError) as error:
        raise OSError(
            f"--host {host} is no address of this machine ({error}): 127.0.0.1 is for this machine, 0.0.0.0 for all."
        ) from None


def stop(*_: object) -> None:
    """End the process with a sentence: what ^C does to the page, at any time.

    Raises:
        SystemExit: always, with 130.
    """
    print("\nThe page has stopped.", file=sys.stderr)
    sys.exit(INTERRUPTED)


def prepare_environment(arguments: list[str] | None = None) -> None:
    """Set what libraries read when they are imported: no message leaves this machine, unless a model is fetched.

    Args:
        arguments: of the command line; None takes this process's own. What is wrong with them is said later.
    """
    for name in ("GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS"):  # gradio reads them as it is imported
        text = os.environ.get(name, "1")
        if not (text.isdecimal() and 1 <= int(text) <= 65535):
            sys.exit(f"error: {name}={text} is out of range: 1 to 65535.")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("GRADIO_TEMP_DIR", choose_gradio_folder())
    early = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    early.add_argument("--model")
    early.add_argument("--trusted-proxy", default="")
    is_hub_needed = False
    with contextlib.suppress(ModelsError, argparse.ArgumentError):
        options = early.parse_known_args(arguments)[0]
        os.environ["FORWARDED_ALLOW_IPS"] = options.trusted_proxy  # uvicorn's own default trusts this machine
        is_hub_needed = may_reach_hub(options.model)
    if not is_hub_needed:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
