"""The benchmark of LatentCRF and its baselines: `python -m analysis.benchmark`."""
