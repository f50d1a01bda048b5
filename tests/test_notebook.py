"""The notebook: small, without outputs, and it runs from its own folder with the embedded model."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "latentcrf.ipynb"
PLOTLY = "application/vnd.plotly.v1+json"


def read_cells() -> list[Any]:
    return [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]


def test_the_notebook_is_small_and_has_no_outputs() -> None:
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
    assert NOTEBOOK.stat().st_size < 30_000
    assert all(not cell.outputs and cell.execution_count is None for cell in read_cells())
    install, ten_lines, *_ = read_cells()
    assert "pip install" in install.source
    assert len([line for line in ten_lines.source.splitlines() if line]) <= 10
    assert "LatentCRFScheduler(" in ten_lines.source


@pytest.mark.slow
def test_the_notebook_runs_from_its_own_folder() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    _, ten_lines, comparison, variance = (cell for cell in notebook.cells if cell.cell_type == "code")
    assert any("image/png" in output.get("data", {}) for output in ten_lines.outputs)
    images, curves = (
        next(output.data[PLOTLY] for output in cell.outputs if PLOTLY in output.get("data", {}))
        for cell in (comparison, variance)
    )
    assert [trace["type"] for trace in images["data"]] == ["image", "image"]
    titles = [note["text"].split(",")[0] for note in images["layout"]["annotations"]]
    assert titles == ["full run: 50 denoiser calls", "LatentCRF: 34 denoiser calls"]
    lines = {trace["name"]: trace for trace in curves["data"] if "name" in trace}
    assert [len(lines[name]["x"]) for name in ("full run", "LatentCRF")] == [50, 34]
