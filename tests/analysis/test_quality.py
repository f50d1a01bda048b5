"""The quality command line, and the sheet that it draws."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.figures.grid import draw_captioned_sheet
from analysis.quality import main


def test_sheet_shows_every_image_and_fits_long_captions() -> None:
    pixels = np.zeros((9, 32, 32, 3), np.uint8)
    sheet = np.asarray(draw_captioned_sheet(pixels, ["a caption far too long for its picture", *"bcdefghi"]))
    black = (sheet == 0).all(2)
    assert black.sum() >= 9 * 32 * 32
    assert black[:, :6].sum() == 0
    assert isinstance(draw_captioned_sheet(pixels[:1], ["x"]), Image.Image)


def test_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ldm", "--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "holds no metadata.jsonl" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["ldm", "--out", str(tmp_path), "--batch-size", "0"])
    assert "argument --batch-size: 0 is out of range: 1 to " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_cost_command_sets_each_network_beside_a_guided_call(tmp_path: Path) -> None:
    assert main(["cost", "--rounds", "3", "--out", str(tmp_path)]) == 0
    items, found = pd.read_csv(tmp_path / "cost.csv"), pd.read_csv(tmp_path / "cost-summary.csv").set_index("measure")
    assert len(items) == 3 and (items.drop(columns="precision") > 0).all(axis=None)
    ratios = items["emoji-latentcrf-finisher"] / items["guided denoiser call"]
    share = found.loc["share of a guided denoiser call, emoji-latentcrf-finisher"]
    assert (
        share["value"] == pytest.approx(ratios.median(), rel=1e-3) and share["low"] <= share["value"] <= share["high"]
    )
    for name in ("emoji-latentcrf", "emoji-latentcrf-finisher"):
        assert 0 < found.loc[f"parameters, {name} to U-Net", "value"] <= 0.1
