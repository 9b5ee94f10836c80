"""What a model looks like: a row of names for each architecture, and shapes worked out from a config. No torch."""
