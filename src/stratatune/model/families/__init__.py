"""How a family of models is walked: encoders, decoders, encoder-decoders."""
