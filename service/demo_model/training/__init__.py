"""Training of the model that ships: data, autoencoder, text encoder, UNet, export and evaluation."""
