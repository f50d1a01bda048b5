"""The layers of analysis: figures load no torch, studies load no plotly."""

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "absent"),
    (
        (
            "figures.convergence figures.diversity figures.frontier figures.variance figures.walkthrough "
            "studies.frontier",
            "torch",
        ),
        ("studies.ablation studies.convergence studies.diversity studies.quality studies.walkthrough", "plotly"),
    ),
)
def test_a_layer_loads_only_what_it_needs(modules: str, absent: str) -> None:
    imports = "".join(f"import analysis.{name}; " for name in modules.split())
    code = f"import sys; {imports}print({absent!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
