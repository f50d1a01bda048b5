"""The embedded LDM's recipe: data set, autoencoder, U-Net and the pipeline folder that they make."""
