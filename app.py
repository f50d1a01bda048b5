"""Start the page: python app.py, then open http://127.0.0.1:7860."""

import signal
import sys

from app.arguments import prepare_environment, stop

if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
prepare_environment()

from app.main import main  # noqa: E402  it imports gradio, which reads the environment

if __name__ == "__main__":
    sys.exit(main())
