"""Start the page: python app.py, then open http://127.0.0.1:7860."""

import argparse
import os
import sys
import threading
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported: no message leaves this machine
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the models are here; nothing is to be looked up

from app.services import MODELS, ModelsError, Services
from app.ui import build_app, launch_arguments


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=None, help="address to listen on (default 127.0.0.1; 0.0.0.0 for everyone)")
    parser.add_argument("--port", type=int, default=None, help="port, 1 to 65535 (default: the first free from 7860)")
    parser.add_argument(
        "--models",
        type=Path,
        default=MODELS,
        metavar="DIR",
        help="folder of emoji-ldm, emoji-latentcrf and emoji-latentcrf-finisher",
    )
    options = parser.parse_args()
    if options.port is not None and not 1 <= options.port <= 65535:
        parser.error(f"--port {options.port} is out of range: 1 to 65535.")
    services = Services(options.models)
    try:
        services.check()
    except ModelsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    page = build_app(services)
    try:
        page.launch(server_name=options.host, server_port=options.port, prevent_thread_lock=True, **launch_arguments())
    except OSError as error:  # the port is taken
        print(f"error: {error}", file=sys.stderr)
        return 1
    # Only now: gradio checks that its server answers in time, which it does not while the models' libraries load.
    threading.Thread(target=services.warm_up, name="warm-up", daemon=True).start()
    page.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
