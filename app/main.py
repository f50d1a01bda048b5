"""The page's start; `app.arguments` has its command line."""

import os
import sys
import threading

from huggingface_hub import is_offline_mode

from app.arguments import build_parser, check_host, may_reach_hub
from app.device import MOST_CALLS, MOST_CALLS_PUBLIC, DeviceWorker, is_on_zero_gpu
from app.layout import build_app, list_launch_arguments
from app.models import read_catalog
from app.models_file import ModelsError
from app.request_guard import LOOPBACK


def main(arguments: list[str] | None = None) -> int:
    """Check the models, start the page and load the first model behind it.

    Args:
        arguments: of the command line; None takes this process's own.

    Returns:
        The exit status: 1 where models are missing or the port is taken.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.port is not None and not 1 <= options.port <= 65535:
        parser.error(f"--port {options.port} is out of range: 1 to 65535.")
    try:
        check_host(options.host)
        may_fetch = may_reach_hub(options.model) and not is_offline_mode()
        catalog = read_catalog(options.model, options.is_public, may_fetch)
        catalog.default.check()
        for name, reason in catalog.refused.items():
            print(f"{name} is not offered: {reason}", file=sys.stderr)
        worker = DeviceWorker(catalog, MOST_CALLS_PUBLIC if options.is_public else MOST_CALLS, options.compiles)
        if is_on_zero_gpu():  # each run is a fork of this process: it must have the models, and hold no lock
            worker.warm_up()
        page = build_app(worker)
        host = options.host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
        # a proxy in front passes on the name under which it is asked for
        hosts = LOOPBACK if host in LOOPBACK and not options.trusted_proxy else ()
        page.launch(
            server_name=options.host,
            server_port=options.port,
            root_path=options.root_path,
            prevent_thread_lock=True,
            **list_launch_arguments(page, hosts),
        )
    except (ModelsError, OSError) as error:  # OSError: the port is taken
        print(f"error: {error}", file=sys.stderr)
        return 1
    # Only now: gradio checks that its server answers in time, which it does not while the models' libraries load.
    if not is_on_zero_gpu():
        threading.Thread(target=worker.warm_up, name="warm-up", daemon=True).start()
    page.block_thread()
    return 0
