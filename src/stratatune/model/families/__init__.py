"""Families of models, and how each is run: encoders, decoders, encoder-decoders."""
