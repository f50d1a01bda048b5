"""LatentCRF: a continuous conditional random field that bypasses U-Net iterations of a latent diffusion model."""
