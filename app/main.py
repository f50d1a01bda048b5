"""The page's command line: python app.py, then open http://127.0.0.1:7860."""

import argparse
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

from app.visitor_files import choose_gradio_folder

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported: no message leaves this machine
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the models are here; nothing is to be looked up
os.environ.setdefault("GRADIO_TEMP_DIR", choose_gradio_folder())

from app.device import DeviceWorker
from app.layout import build_app, list_launch_arguments
from app.models import EMOJI, ModelsError


def main(arguments: list[str] | None = None) -> int:
    """Check the models, start the page and load the models behind it.

    Args:
        arguments: of the command line; None takes this process's own.

    Returns:
        The exit status: 1 where models are missing or the port is taken.
    """
    parser = argparse.ArgumentParser(prog="app.py", description=__doc__)
    parser.add_argument("--host", default=None, help="address to listen on (default 127.0.0.1; 0.0.0.0 for everyone)")
    parser.add_argument("--port", type=int, default=None, help="port, 1 to 65535 (default: the first free from 7860)")
    parser.add_argument(
        "--models",
        type=Path,
        default=EMOJI.folder,
        metavar="DIR",
        help=f"folder of {EMOJI.pipeline}, {EMOJI.crf} and {EMOJI.finisher} (default: the shipped ones)",
    )
    options = parser.parse_args(arguments)
    if options.port is not None and not 1 <= options.port <= 65535:
        parser.error(f"--port {options.port} is out of range: 1 to 65535.")
    worker = DeviceWorker(replace(EMOJI, folder=options.models))
    try:
        worker.model_set.check()
        page = build_app(worker)
        page.launch(
            server_name=options.host, server_port=options.port, prevent_thread_lock=True, **list_launch_arguments(page)
        )
    except (ModelsError, OSError) as error:  # OSError: the port is taken
        print(f"error: {error}", file=sys.stderr)
        return 1
    # Only now: gradio checks that its server answers in time, which it does not while the models' libraries load.
    threading.Thread(target=worker.warm_up, name="warm-up", daemon=True).start()
    page.block_thread()
    return 0
