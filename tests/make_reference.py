"""Draw the reference image of tests/test_shipped_models.py anew; to be run when the shipped weights change.

python -m tests.make_reference
"""

import torch
from PIL import Image

from analysis.sampling import load_pipeline
from latentcrf import LatentCRF
from latentcrf.utils.files import replace_file
from latentcrf.utils.weights import MODELS
from tests.test_shipped_models import PROMPT, REFERENCE, SEED, draw

if __name__ == "__main__":
    crf = LatentCRF.from_pretrained(MODELS / "emoji-latentcrf", torch_dtype=torch.float32).eval()
    (drawn,) = draw(load_pipeline(), crf, [PROMPT], [SEED])
    with replace_file(REFERENCE) as temporary:
        Image.fromarray(drawn).save(temporary)
    print(f"written: {REFERENCE}")
