"""CRFs of presets: begun from a plain network, or refused where they do not fit."""

from pathlib import Path

import pytest
import torch

from latentcrf import LatentCRF, Observation
from latentcrf.training.checkpoints import build_crf, save_half
from latentcrf.training.loop import RunError
from latentcrf.training.presets import PRESETS
from tests.latentcrf.test_model import with_random_weights


def test_a_crf_from_a_plain_network_begins_near_its_result(tmp_path: Path) -> None:
    plain = with_random_weights(build_crf(PRESETS["emoji-plain-finisher"], 4))
    plain.save_pretrained(tmp_path)
    crf = build_crf(PRESETS["emoji-finisher"], 4, init_from=str(tmp_path)).eval()
    fresh = build_crf(PRESETS["emoji-finisher"], 4).eval()
    x = torch.randn(2, 4, 16, 16)
    observation = Observation(x, x, 1.0, 1.0)
    with torch.no_grad():
        target, result, before = (model(observation, 5) for model in (plain.eval(), crf, fresh))
    assert (result - target).std() < 0.2 * (before - target).std()
    for name, weight in plain.state_dict().items():
        if name.startswith("network."):
            assert weight.equal(crf.state_dict()[name])
    with pytest.raises(RunError, match="of another kind than the preset's: .*its reads_trend is False, not True"):
        build_crf(PRESETS["emoji"], 4, init_from=str(tmp_path))
    with pytest.raises(RunError, match="its form is 'conditional', not 'static'"):
        build_crf(PRESETS["emoji-static"], 4, init_from=str(tmp_path))


def test_a_half_copy_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    crf = build_crf(PRESETS["emoji-static"], 4)
    before = {name: weight.clone() for name, weight in crf.state_dict().items()}
    save_half(crf, tmp_path / "crf")
    saved = LatentCRF.from_pretrained(tmp_path / "crf", torch_dtype=torch.float32).state_dict()
    for name, weight in crf.state_dict().items():
        assert weight.equal(before[name]) and saved[name].equal(weight.half().float())
