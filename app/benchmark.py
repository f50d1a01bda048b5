"""Times of the shipped benchmark, for the settings that it measured."""

import logging
from functools import cache
from pathlib import Path
from typing import NamedTuple

from analysis.tables import read_csv
from app.models import ModelSet
from app.settings import Settings

TABLE = Path(__file__).parents[1] / "assets" / "results" / "benchmark" / "benchmark.csv"
STEPS, GUIDANCE, ITERATIONS = 50, 3.0, 5  # that it measured with
CUTOFFS = {0.0: "", 0.33: " cut-off 1/3", 0.5: " cut-off 1/2"}

log = logging.getLogger(__name__)


class TimeRatio(NamedTuple):
    """How many times faster than the full run a method is: the estimate and its 95 % interval."""

    estimate: float
    low: float
    high: float


@cache
def read_ratios(path: Path = TABLE) -> dict[str, TimeRatio]:
    """Read the benchmark's time ratios.

    Args:
        path: of its table; where it is missing, nothing was measured. One that is broken is logged.

    Returns:
        The full run's time over the method's, by the method's name.
    """
    if not path.is_file():
        return {}
    columns = ["time_ratio", "time_ratio_high", "time_ratio_low"]
    try:
        table = read_csv(path).dropna(subset=columns).set_index("method")[columns]
    except (ValueError, KeyError) as error:
        log.error("%s is damaged, so the page shows no measured times: %s", path.name, error)
        return {}
    return {str(method): TimeRatio(*(1 / ratios)) for method, ratios in table.iterrows()}


def find_time_ratio(model_set: ModelSet, settings: Settings) -> TimeRatio | None:
    """Find the benchmark's time ratio of a setting.

    Args:
        model_set: the model.
        settings: of the comparison.

    Returns:
        It; None where the benchmark did not measure that setting, or another model.
    """
    measured = (settings.steps, settings.guidance, settings.iterations) == (STEPS, GUIDANCE, ITERATIONS)
    cutoff = CUTOFFS.get(settings.guidance_cutoff)
    if not model_set.is_embedded or not measured or cutoff is None or settings.full_finisher:
        return None
    if settings.few_steps:
        name = f"UniPC-{settings.few_steps}{cutoff}"
    else:
        name = f"DDIM-{settings.steps} LatentCRF ({settings.bypass_start}, {settings.bypass_end}){cutoff}"
    return read_ratios().get(f"{name} + finisher" if settings.finisher else name)
