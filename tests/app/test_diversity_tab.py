"""The diversity tab: a row of images with its metrics for each method."""

from types import SimpleNamespace
from typing import Any

import gradio as gr

from analysis.studies import FULL_RUN, diversity
from app.tabs import diversity as tab
from tests.analysis.test_diversity import SEEDS, made_up


def test_the_tab_shows_each_methods_row_with_its_measures() -> None:
    rows = [made_up(FULL_RUN, 0), made_up("LatentCRF", 1)]
    made = {"rows": rows, "seeds": SEEDS, "prompt": "red apple"}
    shown = tab.show(made, False)
    assert len(shown) == len(tab.show(None, False)) == 2 * tab.ROWS + len(tab.FIGURES)
    galleries, texts = shown[: 2 * tab.ROWS : 2], shown[1 : 2 * tab.ROWS : 2]
    assert [gallery["visible"] for gallery in galleries] == [True, True, False, False, False]
    assert [label for _, label in galleries[1]["value"]] == [f"seed {seed}" for seed in SEEDS]
    table = diversity.tabulate(rows).set_index("method")
    assert "of the full run's" not in texts[0] and f"Vendi score {table.loc[FULL_RUN, 'vendi']:.2f} (" in texts[0]
    assert f"{table.loc['LatentCRF', 'pairwise_lpips_ratio']:.2f} of the full run's" in texts[1] and texts[2] == ""
    event: Any = SimpleNamespace(index=2)
    prompt, seed, random, tabs = tab.send(made, event)
    assert (prompt, seed, random, tabs.selected) == ("red apple", SEEDS[2], False, "compare")
    assert tab.send(None, event) == [gr.skip()] * 4
