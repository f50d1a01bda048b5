"""Start a training as its command line does, and write the losses of each step, averaged over the processes.

A run that is to be killed takes at least the seconds of STEP_SECONDS for a step.

torchrun --nproc-per-node 2 -m tests.training.launch LOSSES MODULE ARGUMENT ...
"""

import importlib
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from latentcrf.training.loop import Run


def main() -> int:
    path, module, *arguments = sys.argv[1:]
    torch.optim.AdamW = partial(torch.optim.AdamW, eps=1e-3)  # type: ignore[assignment, misc]
    steps: list[dict[str, float]] = []
    own_count = Run.count

    def count(run: Run, images: int, **losses: Any) -> None:
        own_count(run, images, **losses)
        time.sleep(float(os.environ.get("STEP_SECONDS", 0)))
        names = sorted(losses)
        values = run.accelerator.gather(
            torch.stack([losses[name].detach().double().reshape(1) for name in names], dim=1)
        )
        steps.append(dict(zip(names, values.mean(0).tolist(), strict=True)))
        if run.accelerator.is_main_process:
            Path(path).write_text(json.dumps(steps))

    Run.count = count  # type: ignore[method-assign]
    return int(importlib.import_module(module).main(arguments))


if __name__ == "__main__":
    sys.exit(main())
