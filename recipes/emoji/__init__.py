"""The recipe of the embedded LDM: data set, autoencoder, U-Net, and the pipeline folder that they make."""
