"""Every exported scheduler class works, is refused with a sentence, or cannot be run without the add-on either."""

import diffusers
import pytest

from latentcrf import LatentCRFScheduler
from tests.conformance.schedulers import examine, list_classes

WORKING = {
    "DDIMParallelScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDPMScheduler", "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler", "LCMScheduler",
    "SASolverScheduler", "TCDScheduler", "UniPCMultistepScheduler",
}  # fmt: skip
REFUSED = {
    "CogVideoXDDIMScheduler": "it is for latents of videos",
    "DDIMInverseScheduler": "it goes from images to noise",
    "DPMSolverMultistepInverseScheduler": "it goes from images to noise",
    "EDMEulerScheduler": "scaled by the data's own deviation",
    "FlowMatchHeunDiscreteScheduler": "it makes 2 denoiser calls a step",
    "HeunDiscreteScheduler": "it makes 2 denoiser calls a step",
    "IPNDMScheduler": "it needs the history",
    "LMSDiscreteScheduler": "it needs the history",
    "PNDMScheduler": "it needs the history",
    "RePaintScheduler": "its step needs original_image",
    "UnCLIPScheduler": "its step needs prev_timestep",
}


def test_the_list_of_working_classes_is_known() -> None:
    assert set(list_classes()) >= WORKING | set(REFUSED)


@pytest.mark.parametrize("name", sorted(list_classes()))
def test_no_class_is_silently_wrong(name: str) -> None:
    verdict = examine(list_classes()[name])
    assert verdict.state != "wrong", verdict
    if name in WORKING:
        assert verdict.state == "works", verdict
    elif name in REFUSED:
        assert verdict.state == "refused" and REFUSED[name] in verdict.words, verdict
    else:
        assert verdict.state in ("refused", "not applicable") and verdict.words, verdict
    if verdict.state == "refused" and verdict.words.startswith(name):
        assert "Use for example DDIMScheduler" in verdict.words


def test_a_subclass_is_met_as_its_parent_whatever_its_name() -> None:
    class Own(diffusers.FlowMatchEulerDiscreteScheduler):
        pass

    class Renamed(diffusers.PNDMScheduler):
        pass

    class Backwards(diffusers.DDIMInverseScheduler):
        pass

    assert LatentCRFScheduler(Own(), None, (1, 3)).num_iterations == 5
    for kind, words in ((Renamed, "needs the history"), (Backwards, "from images to noise")):
        with pytest.raises(ValueError, match=f"{kind.__name__} cannot be wrapped: it.*{words}"):
            LatentCRFScheduler(kind(), None, (1, 3))
