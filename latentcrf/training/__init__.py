"""Training: the loop that every model of the project shares, and LatentCRF's own data, losses and command line."""
