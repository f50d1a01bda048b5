"""Make the page's stored examples: each tab's first result, and each example prompt on the compare tab in each mode.

python -m app.make_examples --out assets/examples    # a quarter of an hour on two CPU cores

The page's own handlers compute them with the embedded model and the values that its forms have at first.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from app.arguments import prepare_environment

prepare_environment([])

from app.device import DeviceWorker  # noqa: E402  its libraries read the environment
from app.examples import (  # noqa: E402
    ABOUT,
    COMMAND,
    COMPARE,
    CONVERGENCE,
    DIVERSITY,
    FOLDER,
    METHOD,
    plan_comparisons,
    write_example,
)
from app.models import read_catalog  # noqa: E402
from app.models_file import ModelsError  # noqa: E402
from app.results import Comparison, Generated, Progress  # noqa: E402
from app.runs import Handler, Run, RunCounter, Update  # noqa: E402
from app.settings import Settings  # noqa: E402
from app.tabs import convergence, diversity, method  # noqa: E402

MODEL = "emoji"
METHOD_QUALITY = 70  # of the method tab's pictures: half of them are noise, which no lossless format makes small
EXAMPLES = (COMPARE, CONVERGENCE, DIVERSITY, METHOD)


def compare(worker: DeviceWorker, settings: Settings) -> Comparison:
    """Make a comparison. Its seconds are the processor's, as other work on the machine does not change those.

    Args:
        worker: what computes.
        settings: of the comparison.

    Returns:
        The comparison; on a GPU its seconds are the wall clock's.
    """
    seconds, begin = {}, time.process_time()
    for report in worker.stream("compare", settings, False, None, model=MODEL):
        if isinstance(report, Progress):
            seconds[report.method] = time.process_time() - begin
        elif isinstance(report, Generated):
            begin = time.process_time()
    assert isinstance(report, Comparison)
    if report.origin["device"] != "cpu":
        return report
    own = {name: replace(getattr(report, name), seconds=value) for name, value in seconds.items()}
    return replace(report, **own)


def find_outcome(updates: Iterator[Update]) -> Any:
    """Run a tab's handler to its end.

    Args:
        updates: what the handler yields.

    Returns:
        The tab's outcome, the first of its last outputs.
    """
    *_, last = updates
    assert last.outputs is not None
    return last.outputs[0]


def make_examples(worker: DeviceWorker, folder: Path, names: Sequence[str] = EXAMPLES) -> None:
    """Make examples.

    Args:
        worker: what computes.
        folder: that is there; the files are written into it.
        names: of `EXAMPLES`; default: all.
    """
    model_set = worker.catalog.get(MODEL)
    origin = worker.load(MODEL).origin
    run = Run(worker, 1, RunCounter(last=1), MODEL)
    worker.warm_up()
    about = {"command": COMMAND, "date": date.today().isoformat(), "times": describe_times(worker), "origin": origin}
    comparisons = []
    for settings in plan_comparisons(model_set) if COMPARE in names else ():
        comparisons.append(compare(worker, settings))
        print(
            f"{settings.prompt}, {model_set.find_mode(settings.as_dict())}: {comparisons[-1].speed_up:.2f} times faster"
        )
    if comparisons:
        write_example(folder, COMPARE, comparisons)
    tabs: dict[str, tuple[Handler, list[Any]]] = {
        CONVERGENCE: (convergence.run_convergence, convergence.list_first_values(model_set)),
        DIVERSITY: (diversity.run_diversity, diversity.list_first_values(model_set)),
        METHOD: (method.run_walkthrough, method.list_first_values(model_set)),
    }
    for name in (each for each in tabs if each in names):
        handler, values = tabs[name]
        quality = METHOD_QUALITY if name == METHOD else None
        write_example(folder, name, find_outcome(handler(run, *values, False)), quality)
        print(f"{name} is done")
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def describe_times(worker: DeviceWorker) -> str:
    """Describe how the times are measured.

    Args:
        worker: with the models loaded.
    """
    device = worker.load(MODEL).origin["device"]
    if device != "cpu":
        return f"wall clock, {device}"
    threads = worker.call("get_num_threads")
    return f"processor time, {threads} thread{'s' * (threads > 1)}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: default: the process's.

    Returns:
        The exit status: 0, or 1 after an error message.
    """
    parser = argparse.ArgumentParser(
        prog="python -m app.make_examples",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the examples; what it holds is replaced")
    parser.add_argument("--only", nargs="+", choices=EXAMPLES, default=EXAMPLES, metavar="NAME",
        help=f"of {', '.join(EXAMPLES)}: the others stay (default: all)")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        worker = DeviceWorker(read_catalog())
        with worker.call("replace_folder", options.out) as folder:
            for path in options.out.glob("*.*"):
                if path.stem in set(EXAMPLES) - set(options.only):
                    shutil.copy(path, folder)
            make_examples(worker, folder, options.only)
        if options.out.resolve() == FOLDER.resolve():
            worker.call("write_manifest")
    except (ModelsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
