"""Studies: each computes tables or a dataclass, without figures. Names that studies and figures share are here."""

FULL_RUN, ZERO_PARAMETER_BYPASS, LATENTCRF = "full run", "zero-parameter bypass", "LatentCRF"
EQUAL_CALLS, FEW_STEPS = "DDIM, equal calls", "DDIM-4"  # named as in the benchmark, where their steps are known
TERMS = {"unary": "unary", "pairwise": "pairwise", "higher_order": "higher-order"}  # of the energy -> title
FINISHED = "finished"  # of the walkthrough's pictures: after the finisher
