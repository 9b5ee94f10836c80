"""What a model looks like: a row of names for each architecture, and its sizes. No torch."""
